# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading: recorded configurations of several versions of rtslib, saved files, devices, and what is written back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import StackError
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi import debris, parse, read, saved
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.model import Chap, Discovery, Group, MappedLun, Portal, StoreKey
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.options import parse_wanted
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.saved import Scope
from fake_rtslib import Library
from samples import DUMP, INITIATOR, SECRETS, WWN, Host, altered, canonical, option, recorded

TWO_GROUPS = ["rtslib_2_1_75_two_groups", "rtslib_2_2_4_two_groups"]
RECORDED_WWN = "iqn.2026-01.lab.wiscsi:one"
HOST = "iqn.2026-01.lab.wiscsi:host"


def declared() -> dict[str, Any]:
    """What the recorded configuration with two portal groups was made from."""
    file = {"name": "wi0", "plugin": "fileio", "device": "/var/tmp/iscsi/wi0.img", "size": "64MiB"}
    first = {
        "wwn": RECORDED_WWN,
        "portals": ["127.0.0.1:3261", "[::1]:3261"],
        "luns": [{"lun": 0, **file}, {"lun": 1, "name": "wi1", "device": "/dev/loop6", "attributes": {"emulate_tpu": 1}}],
        "attributes": {"login_timeout": 20},
        "parameters": {"MaxOutstandingR2T": 4, "ImmediateData": False},
        "acls": [
            {
                "initiator": HOST,
                "userid": "host",
                "password": "lab-only-chap-secret",
                "mutual_userid": "one",
                "mutual_password": "lab-only-chap-back",
                "mapped_luns": [{"lun": 0}, {"lun": 1, "index": 5, "write_protect": True}],
            },
            {
                "initiator": "iqn.2026-01.lab.wiscsi:other",
                "userid": "other",
                "password": "lab-only-chap-other",
                "mapped_luns": [{"lun": 1}],
                "attributes": {"nopin_timeout": 10},
            },
        ],
    }
    third = {"initiator": "iqn.2026-01.lab.wiscsi:third", "userid": "third", "password": "lab-only-chap-third", "mapped_luns": []}
    second = {"wwn": RECORDED_WWN, "tag": 2, "portals": ["127.0.0.1:3262"], "luns": [{"lun": 7, **file}], "acls": [third]}
    finder = {
        "userid": "finder",
        "password": "lab-only-discovery",
        "mutual_userid": "storage1",
        "mutual_password": "lab-only-discovery-back",
    }
    return {"targets": [first, second], "discovery_auth": finder}


@pytest.mark.parametrize("name", TWO_GROUPS)
def test_every_version_reads_as_what_it_was_made_from(name: str, host: Host) -> None:
    dump = recorded(name)
    host.save(dump)
    library = Library(dump)
    result = host.run(library, declared())
    assert (result["failed"], result["changed"], result["plan"], result["warnings_planned"]) == (False, False, [], []), result
    assert library.calls == []
    assert result["serials"] == {"wi0": "b5777c19-063b-5304-927a-b1079d40fe42", "wi1": "e79c286d-4f59-5676-a877-65a66a641ff2"}


@pytest.mark.parametrize("name", TWO_GROUPS)
def test_a_dump_reads_in_every_part(name: str) -> None:
    state = parse.read_state(recorded(name), saved=None, devices=[])
    first, second = state.targets[RECORDED_WWN]
    by_tag = {first.tag: first, second.tag: second}
    assert by_tag[1].luns == {0: StoreKey("fileio", "wi0"), 1: StoreKey("block", "wi1")}
    assert set(by_tag[1].portals) == {Portal("127.0.0.1", 3261), Portal("[::1]", 3261)}
    acl = by_tag[1].acl(HOST)
    assert acl is not None
    assert acl.chap == Chap("host", "lab-only-chap-secret", "one", "lab-only-chap-back")
    assert set(acl.mapped) == {MappedLun(0, 0), MappedLun(5, 1, write_protect=True)}
    assert state.uses[StoreKey("fileio", "wi0")] in (
        ((Group(RECORDED_WWN, 1), 0), (Group(RECORDED_WWN, 2), 7)),
        ((Group(RECORDED_WWN, 2), 7), (Group(RECORDED_WWN, 1), 0)),
    )
    assert state.discovery == Discovery(True, Chap("finder", "lab-only-discovery", "storage1", "lab-only-discovery-back"))
    store = state.store("wi0")
    assert store is not None
    assert (store.device, store.size) == ("/var/tmp/iscsi/wi0.img", 64 * 1024**2)


def test_a_file_of_an_old_version_lacks_keys_and_is_read_all_the_same() -> None:
    old = copy.deepcopy(DUMP)
    for store in old["storage_objects"]:
        del store["alua_tpgs"], store["attributes"]
    tpg = old["targets"][0]["tpgs"][0]
    for key in ("attributes", "parameters"):
        del tpg[key]
    for entry in [*tpg["luns"], *(lun for acl in tpg["node_acls"] for lun in acl["mapped_luns"])]:
        del entry["alias"]
    del tpg["portals"][0]["offload"], tpg["portals"][0]["iser"], tpg["node_acls"][0]["attributes"]
    state = parse.read_state(old, saved=None, devices=[])
    assert state.backstores[0].name == "disk0"
    assert state.targets[WWN][0].portals == (Portal("10.77.0.11"),)


def test_a_password_shows_in_no_repr() -> None:
    state = parse.read_state(recorded(TWO_GROUPS[0]), saved=None, devices=[])
    assert SECRETS not in repr(state.targets) + repr(state.discovery)
    assert SECRETS not in repr(parse_wanted(declared()["targets"], declared()["discovery_auth"]))


def test_sessions_are_found_by_entry_and_without(tmp_path: Path) -> None:
    library = Library(DUMP)
    library.sessions[(WWN, 1)] = [INITIATOR]
    (tmp_path / "dynamic_sessions").write_text("iqn.2026-01.lab.llm:guest\n\0", encoding="utf-8")
    library.TPG.path = str(tmp_path)
    assert read.read_sessions(library, library.RTSRoot(), [WWN]) == {Group(WWN, 1): (INITIATOR, "iqn.2026-01.lab.llm:guest")}
    assert read.read_sessions(library, library.RTSRoot(), ["iqn.2020-01.other:x"]) == {}
    assert read.read_sessions(library, None, [WWN]) == {}


def test_devices_and_files_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.img"
    path.write_bytes(b"12345")
    (tmp_path / "link").symlink_to(path)
    found = read.read_device(str(tmp_path / "link"))
    assert (found.exists, found.is_block, found.is_file, found.real, found.size) == (True, False, True, str(path), 5)
    missing = read.read_device(str(tmp_path / "none" / "b.img"))
    assert (missing.exists, missing.folder) == (False, False)
    assert not read.read_device(str(tmp_path)).is_file


EMPTY: dict[str, Any] = {"storage_objects": [], "targets": [], "fabric_modules": []}
OURS = Scope((WWN,))


def test_saving_keeps_what_others_saved() -> None:
    other = {"wwn": "iqn.2020-01.other:x", "fabric": "iscsi", "tpgs": []}
    gone = {"name": "gone", "plugin": "block", "dev": "/dev/vdx", "wwn": "1"}
    merged = saved.merge_saved({"storage_objects": [gone], "targets": [other], "fabric_modules": ["x"]}, DUMP, OURS)
    assert [target["wwn"] for target in merged["targets"]] == ["iqn.2020-01.other:x", WWN]
    assert [item["name"] for item in merged["storage_objects"]] == ["gone", "disk0"]
    assert merged["fabric_modules"] == ["x"]


def test_saving_leaves_out_what_others_did_not_save() -> None:
    target = DUMP["targets"][0]
    kernel = {**DUMP, "targets": [target, {**target, "wwn": "iqn.2020-01.other:x"}]}
    assert [entry["wwn"] for entry in saved.merge_saved(None, kernel, OURS)["targets"]] == [WWN]


def test_saving_forgets_the_disks_of_a_target_that_is_gone_but_not_those_of_others() -> None:
    assert saved.merge_saved(DUMP, EMPTY, OURS) == EMPTY
    shared = {**DUMP, "targets": [*DUMP["targets"], {**DUMP["targets"][0], "wwn": "iqn.2020-01.other:x"}]}
    merged = saved.merge_saved(shared, EMPTY, OURS)
    assert [item["name"] for item in merged["storage_objects"]] == ["disk0"]


def test_saving_takes_discovery_only_when_it_is_ours() -> None:
    kernel = {**DUMP, "fabric_modules": [{"name": "iscsi", "discovery_enable_auth": True, "discovery_userid": "a"}]}
    assert saved.merge_saved(None, kernel, OURS)["fabric_modules"] == []
    ours = Scope((WWN,), discovery=True)
    assert saved.merge_saved(None, kernel, ours)["fabric_modules"] == kernel["fabric_modules"]
    off = {**DUMP, "fabric_modules": [{"name": "iscsi", "discovery_enable_auth": False}]}
    assert saved.merge_saved(kernel, off, ours)["fabric_modules"] == []


ACL = "targets iscsi iqn.2026-01.lab.llm:storage1 tpgs 1 node_acls iqn.2026-01.lab.llm:gpu1"
DRIFT: dict[str, tuple[str, Any, str]] = {
    "a value": (
        "targets.0.tpgs.0.attributes.login_timeout",
        30,
        f"targets iscsi {WWN} tpgs 1 attributes login_timeout: 30 in the file, 15 in the kernel",
    ),
    "a password": (
        "targets.0.tpgs.0.node_acls.0.chap_password",
        "lab-only-old-secret",
        f"{ACL} chap_password: (secret) in the file, (secret) in the kernel",
    ),
    "a portal": ("targets.0.tpgs.0.portals", [], f"targets iscsi {WWN} tpgs 1 portals 10.77.0.11 3260 is in the kernel only"),
    "a backstore": (
        "storage_objects.0.wwn",
        "1",
        "storage_objects block disk0 wwn: '1' in the file, '5ac82454-e5c6-5743-8c3f-4d3b416266fb' in the kernel",
    ),
    "a mapping": (
        "targets.0.tpgs.0.node_acls.0.mapped_luns.0.write_protect",
        True,
        f"{ACL} mapped_luns 0 write_protect: True in the file, False in the kernel",
    ),
}


@pytest.mark.parametrize("name", DRIFT)
def test_a_file_that_differs_is_told_and_saved_again(name: str, host: Host) -> None:
    path, value, phrase = DRIFT[name]
    host.save(altered(path, value))
    library = Library(DUMP)
    result = host.run(library, {"targets": [option()]})
    assert result["saved_drift"] == [phrase]
    assert result["diff"] == {"before": {"saved": [phrase]}, "after": {"saved": "as it runs"}}
    assert result["plan"] == [f"Save the configuration to {host.saved}, so that it outlives a reboot"]
    assert result["changed"]
    assert canonical(read.read_saved(str(host.saved))) == canonical({**DUMP, "fabric_modules": []})
    assert host.run(library, {"targets": [option()]})["plan"] == []


def test_a_file_in_another_order_is_the_same() -> None:
    target = DUMP["targets"][0]
    two = {**DUMP, "targets": [target, {**target, "wwn": "iqn.2026-01.lab.llm:other"}]}
    assert saved.drift({**two, "targets": two["targets"][::-1]}, two) == ()


def test_the_saved_file_is_for_root_only(tmp_path: Path) -> None:
    path = tmp_path / "saveconfig.json"
    path.write_text("{}", encoding="utf-8")
    path.chmod(0o644)
    saved.write_saved(str(path), DUMP)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read.read_saved(str(path)) == DUMP
    assert [entry.name for entry in tmp_path.iterdir()] == ["saveconfig.json"]


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "saveconfig.json"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(TypeError):
        saved.write_saved(str(path), {"targets": {1, 2}})
    assert path.read_text(encoding="utf-8") == "{}"
    assert [entry.name for entry in tmp_path.iterdir()] == ["saveconfig.json"]


BROKEN = {
    "no JSON": ("{", r"saveconfig\.json cannot be read: .* Repair or remove it\."),
    "a list": ("[]", r"saveconfig\.json holds no JSON object\. Repair or remove it\."),
    "half a target": ('{"targets": [{"wwn": "a", "fabric": "iscsi"}]}', r"is none that rtslib wrote: .* Repair or remove it\."),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_saved_file_is_named(name: str, tmp_path: Path) -> None:
    text, sentence = BROKEN[name]
    path = tmp_path / "saveconfig.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StackError, match=sentence):
        read.read_saved(str(path))
    assert read.read_saved(str(tmp_path / "none.json")) is None


def half_made(folder: Path) -> list[Path]:
    """What a kill inside the library leaves, and beside it what is whole."""
    group = folder / "iscsi" / WWN / "tpgt_1"
    left = [group / "acls" / INITIATOR / "lun_3", group / "lun" / "lun_3", folder / "core" / "fileio_0" / "disk3"]
    whole = [group / "acls" / INITIATOR / "lun_0", group / "lun" / "lun_0", folder / "core" / "iblock_1" / "disk0"]
    for path in [*left, *whole]:
        path.mkdir(parents=True)
    for path in whole[:2]:
        (path / "alias").symlink_to(whole[2])
    (left[2] / "enable").write_text("0\n", encoding="ascii")
    (whole[2] / "enable").write_text("1\n", encoding="ascii")
    return left


def test_what_a_kill_left_half_made_is_found_in_the_order_it_has_to_go(tmp_path: Path) -> None:
    assert debris.half_made(str(tmp_path)) == []
    left = half_made(tmp_path)
    assert debris.half_made(str(tmp_path)) == left


@pytest.mark.parametrize("check_mode", [False, True])
def test_what_cannot_be_read_is_swept_but_not_in_check_mode(check_mode: bool, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "_SETTLED", 0)
    left = half_made(host.folder)
    (left[2] / "enable").unlink()  # only the kernel removes a folder with its files
    library = Library(DUMP)
    host.save(DUMP)
    readable = library.RTSRoot

    class Broken:
        """A root that cannot be read while the folder is there."""

        invalidate_caches = staticmethod(lambda: None)

        def __getattr__(self, name: str) -> Any:
            library.require(not left[0].exists(), "Broken LUN in configFS, no storage object")
            return getattr(readable(), name)

    library.RTSRoot = Broken  # type: ignore[method-assign,assignment]
    result = host.run(library, {"targets": [option()]}, check_mode=check_mode)
    assert left[0].exists() is left[1].exists() is check_mode
    assert result["failed"] is check_mode
    if check_mode:
        assert result["msg"] == (
            "The kernel's iSCSI configuration cannot be read: Broken LUN in configFS, no storage object. Run without check mode, which "
            f"removes {left[0]}, left half made."
        )
    else:
        assert result["plan"] == []
