# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""iSCSI: options, reader, planner as tables, and the applier over a library that fails at every step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import BadInput, StackError, StepFailed
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi import read, saved
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.apply import Applier
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.model import Device, Guards, Portal, State
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.options import parse_portal, parse_targets
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.plan import derive_serial, plan

RECORDED = Path(__file__).parent / "recorded"
DUMP: dict[str, Any] = json.loads((RECORDED / "rtslib_2_1_76_saveconfig.json").read_text(encoding="utf-8"))
WWN = "iqn.2026-01.lab.llm:storage1"
INITIATOR = "iqn.2026-01.lab.llm:gpu1"
DEVICE = "/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_P4510-part2"
SERIAL = "5ac82454-e5c6-5743-8c3f-4d3b416266fb"
PASSWORD = "lab-only-chap-secret"
GUARDS = Guards(save_file="/etc/rtslib-fb-target/saveconfig.json")


def option(**changes: Any) -> dict[str, Any]:
    """The target of the recorded dump, as declared, with changes."""
    target: dict[str, Any] = {
        "wwn": WWN,
        "portals": ["10.77.0.11:3260"],
        "luns": [{"lun": 0, "name": "disk0", "device": DEVICE}],
        "acls": [{"initiator": INITIATOR, "userid": "gpu1", "password": PASSWORD}],
    }
    return {**target, **changes}


def acl(**changes: Any) -> dict[str, Any]:
    return {"initiator": INITIATOR, "userid": "gpu1", "password": PASSWORD, **changes}


def altered(path: str, value: Any) -> dict[str, Any]:
    """The recorded dump with one value replaced: ``targets.0.tpgs.0.enable``."""
    dump = json.loads(json.dumps(DUMP))
    *folders, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    here: Any = dump
    for key in folders:
        here = here[key]
    here[last] = value
    return dict(dump)


def state(dump: dict[str, Any] | None = None, *, file: Any = "same", device: Device | None = None) -> State:
    found = DUMP if dump is None else dump
    devices = [device or Device(DEVICE, exists=True, real="/dev/nvme1n1p2", busy=True)]
    known = read.read_state(found, saved=found if file == "same" else file, devices=devices)
    return replace(known, real={DEVICE: "/dev/nvme1n1p2"} if found["storage_objects"] else {})


EMPTY: dict[str, Any] = {"storage_objects": [], "targets": []}
FREE = Device(DEVICE, exists=True, real="/dev/nvme1n1p2")


def test_the_recorded_configuration_is_what_was_declared() -> None:
    made = plan(state(), parse_targets([option()]), GUARDS)
    assert made.steps == () and made.refusals == () and made.warnings == () and made.diff == {"before": {}, "after": {}}


def test_an_empty_kernel_gets_everything_and_opens_the_door_last() -> None:
    made = plan(state(EMPTY, file=None, device=FREE), parse_targets([option()]), GUARDS)
    actions = [step.action for step in made.steps]
    assert actions == [
        "create_target",
        "create_tpg",
        "create_backstore",
        "create_lun",
        "create_acl",
        "set_chap",
        "map_lun",
        "create_portal",
        "enable",
        "save",
    ]
    assert made.refusals == ()
    assert SERIAL in made.sentences[2]


def test_secrets_show_nowhere() -> None:
    made = plan(state(EMPTY, file=None, device=FREE), parse_targets([option()]), GUARDS)
    assert PASSWORD not in repr(made.sentences) + repr(made.diff) + repr(made.steps)


DRIFT: dict[str, tuple[str, Any, str]] = {
    "authentication": ("targets.0.tpgs.0.attributes.authentication", 0, f"Set authentication of target {WWN} to 1: it is 0"),
    "demo mode": ("targets.0.tpgs.0.attributes.generate_node_acls", 1, f"Set generate_node_acls of target {WWN} to 0: it is 1"),
    "password": (
        "targets.0.tpgs.0.node_acls.0.chap_password",
        "another-password",
        f"Set the CHAP credentials of {INITIATOR} at target {WWN}",
    ),
    "portal": ("targets.0.tpgs.0.portals", [], f"Listen on 10.77.0.11:3260 for target {WWN}"),
    "closed": ("targets.0.tpgs.0.enable", False, f"Open target {WWN} to its initiators"),
    "mapping": ("targets.0.tpgs.0.node_acls.0.mapped_luns", [], f"Show LUN 0 as LUN 0 to {INITIATOR} at target {WWN}"),
    "write protection": (
        "targets.0.tpgs.0.node_acls.0.mapped_luns.0.write_protect",
        True,
        f"Make mapped LUN 0 of {INITIATOR} at target {WWN} writable",
    ),
}


@pytest.mark.parametrize("name", DRIFT)
def test_drift_is_repaired_by_one_step_and_saved(name: str) -> None:
    path, value, sentence = DRIFT[name]
    made = plan(state(altered(path, value)), parse_targets([option()]), GUARDS)
    assert made.sentences[:-1] == [sentence]
    assert [step.action for step in made.steps][-1] == "save"
    assert made.before and made.after


def test_a_file_that_lacks_our_target_is_saved_again() -> None:
    made = plan(state(file={"storage_objects": [], "targets": [], "fabric_modules": []}), parse_targets([option()]), GUARDS)
    assert [step.action for step in made.steps] == ["save"]


def test_a_file_in_another_order_is_the_same() -> None:
    target = DUMP["targets"][0]
    two = {**DUMP, "targets": [target, {**target, "wwn": "iqn.2026-01.lab.llm:other"}]}
    assert saved.same({**two, "targets": two["targets"][::-1]}, two)


REFUSED: dict[str, tuple[State, dict[str, Any], str]] = {
    "another device": (
        state(device=replace(FREE, path="/dev/vdz", real="/dev/vdz")),
        option(luns=[{"lun": 0, "name": "disk0", "device": "/dev/vdz"}]),
        (
            f"Refusing to put /dev/vdz behind LUN 0 of target {WWN}: backstore disk0 serves {DEVICE}, and exchanging a disk under an "
            "initiator destroys its data. Declare that device, or give the LUN another index and name."
        ),
    ),
    "another serial": (
        state(),
        option(luns=[{"lun": 0, "name": "disk0", "device": DEVICE, "serial": "00000000-0000-0000-0000-000000000001"}]),
        (
            f"Refusing to change the serial of LUN 0 of target {WWN} from {SERIAL} to 00000000-0000-0000-0000-000000000001: initiators "
            "would see another disk. Declare the present serial, or leave serial out."
        ),
    ),
    "a LUN that is taken": (
        state(device=replace(FREE, path="/dev/vdz", real="/dev/vdz")),
        option(luns=[{"lun": 0, "name": "disk1", "device": "/dev/vdz"}]),
        (
            f"Refusing to put disk1 at LUN 0 of target {WWN}: disk0 is there, and initiators would find another disk under it. "
            "Choose a free LUN."
        ),
    ),
    "a mapping that is taken": (
        state(altered("targets.0.tpgs.0.node_acls.0.mapped_luns.0.tpg_lun", 7)),
        option(),
        (
            f"Refusing to show LUN 0 as LUN 0 to {INITIATOR} at target {WWN}: LUN 7 is there, and the initiator would find another disk "
            "under it. Choose a free index."
        ),
    ),
    "another kind of backstore": (
        state(altered("storage_objects.0.plugin", "fileio")),
        option(),
        f"Refusing to use backstore disk0 for LUN 0 of target {WWN}: it is a fileio backstore, not a block one. Give the LUN another name.",
    ),
    "a missing device": (
        state(EMPTY, device=Device(DEVICE, exists=False)),
        option(),
        f"{DEVICE}, declared for LUN 0 of target {WWN}, does not exist. Create the volume first, or correct the path.",
    ),
    "a device that is no block device": (
        state(EMPTY, device=Device(DEVICE, exists=True, is_block=False)),
        option(),
        f"{DEVICE}, declared for LUN 0 of target {WWN}, is no block device. Name a volume or a disk.",
    ),
    "a mounted device": (
        state(EMPTY, device=replace(FREE, busy=True)),
        option(),
        (
            f"{DEVICE}, declared for LUN 0 of target {WWN}, is in use on this host: mounted, or part of a pool or another device. "
            "Free it, or name another device."
        ),
    ),
    "a device of another backstore": (
        state(),
        option(luns=[{"lun": 1, "name": "disk1", "device": DEVICE}]),
        f"{DEVICE}, declared for LUN 1 of target {WWN}, is served by backstore disk0 already. Use that name for the LUN.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_what_why_and_what_next(name: str) -> None:
    found, declared, reason = REFUSED[name]
    made = plan(found, parse_targets([declared]), GUARDS)
    assert [refusal.reason for refusal in made.refusals] == [reason]


ZVOL = "/dev/zvol/llm/vm/disk0"
PENDING = [
    pytest.param(Guards(check_mode=True), ZVOL, 0, 1, id="a zvol in check mode warns"),
    pytest.param(Guards(check_mode=True, pending=(ZVOL,)), ZVOL, 0, 0, id="a pending zvol is expected"),
    pytest.param(Guards(check_mode=True, pending=()), ZVOL, 1, 0, id="a zvol nobody will create"),
    pytest.param(Guards(check_mode=True), "/dev/vdz", 1, 0, id="a disk does not appear by itself"),
    pytest.param(Guards(pending=(ZVOL,)), ZVOL, 1, 0, id="pending means nothing when it is done for real"),
]


@pytest.mark.parametrize(("guards", "device", "refusals", "warnings"), PENDING)
def test_missing_devices(guards: Guards, device: str, refusals: int, warnings: int) -> None:
    declared = parse_targets([option(luns=[{"lun": 0, "name": "disk0", "device": device}])])
    made = plan(state(EMPTY, device=Device(device, exists=False)), declared, guards)
    assert (len(made.refusals), len(made.warnings)) == (refusals, warnings)


def test_what_is_not_declared_is_reported_and_stays() -> None:
    tpg = DUMP["targets"][0]["tpgs"][0]
    more = altered("targets.0.tpgs.0.portals", [*tpg["portals"], {"ip_address": "0.0.0.0", "port": 3260, "iser": False, "offload": False}])
    made = plan(state(more), parse_targets([option(acls=[acl(mapped_luns=[])])]), GUARDS)
    assert made.steps == ()
    assert made.warnings == (f"Target {WWN} also has mapped LUN 0 of {INITIATOR}, portal 0.0.0.0:3260: not declared, left as it is.",)


def test_saving_keeps_what_others_saved() -> None:
    other = {"wwn": "iqn.2020-01.other:x", "fabric": "iscsi", "tpgs": []}
    gone = {"name": "gone", "plugin": "block", "dev": "/dev/vdx", "wwn": "1"}
    merged = saved.merge_saved({"storage_objects": [gone], "targets": [other], "fabric_modules": ["x"]}, DUMP, [WWN])
    assert [target["wwn"] for target in merged["targets"]] == ["iqn.2020-01.other:x", WWN]
    assert [item["name"] for item in merged["storage_objects"]] == ["gone", "disk0"]
    assert merged["fabric_modules"] == ["x"]


def test_saving_leaves_out_what_others_did_not_save() -> None:
    target = DUMP["targets"][0]
    kernel = {**DUMP, "targets": [target, {**target, "wwn": "iqn.2020-01.other:x"}]}
    assert [entry["wwn"] for entry in saved.merge_saved(None, kernel, [WWN])["targets"]] == [WWN]


def test_the_saved_file_is_for_root_only(tmp_path: Path) -> None:
    path = tmp_path / "saveconfig.json"
    saved.write_saved(str(path), DUMP)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read.read_saved(str(path)) == DUMP
    assert [entry.name for entry in tmp_path.iterdir()] == ["saveconfig.json"]


def test_a_broken_saved_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "saveconfig.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(StackError, match=r"saveconfig\.json cannot be read: .* Repair or remove it\."):
        read.read_saved(str(path))
    assert read.read_saved(str(tmp_path / "none.json")) is None


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no name": (option(wwn="storage1"), "The wwn 'storage1' is no iSCSI name. Write it as iqn.YYYY-MM.reversed.domain:name"),
    "an underscore": (option(wwn="iqn.2026-01.lab.llm:a_b"), "without underscores or spaces"),
    "a host name as portal": (option(portals=["storage1:3260"]), "The portal 'storage1:3260' of target"),
    "a port too high": (option(portals=["10.0.0.1:70000"]), "has a port outside 1 to 65535"),
    "a portal twice": (option(portals=["10.0.0.1", "10.0.0.1:3260"]), "The portal 10.0.0.1:3260 is declared 2 times"),
    "a LUN too high": (option(luns=[{"lun": 256, "name": "a", "device": "/dev/vda"}]), "LUN 256 of target"),
    "a LUN name": (option(luns=[{"lun": 0, "name": "a b", "device": "/dev/vda"}]), "The LUN name 'a b' of target"),
    "a file": (option(luns=[{"lun": 0, "name": "a", "device": "/srv/a.img"}]), "is no path below /dev. Name a block device."),
    "a serial": (option(luns=[{"lun": 0, "name": "a", "device": "/dev/vda", "serial": "disk"}]), "The serial 'disk' of LUN 0"),
    "a LUN twice": (
        option(luns=[{"lun": 0, "name": "a", "device": "/dev/vda"}, {"lun": 0, "name": "b", "device": "/dev/vdb"}]),
        "The lun 0 is declared 2 times",
    ),
    "a device twice": (
        option(luns=[{"lun": 0, "name": "a", "device": "/dev/vda"}, {"lun": 1, "name": "b", "device": "/dev/vda"}]),
        "The device /dev/vda is declared 2 times in targets",
    ),
    "no password": (option(acls=[acl(password=None)]), "has only one of userid and password. Give both or neither."),
    "no credentials": (
        option(acls=[acl(userid=None, password=None)]),
        "has no userid and password. Give both, or set allow_unauthenticated",
    ),
    "a short password": (option(acls=[acl(password="short")]), "is shorter than 12 characters. Choose a longer one."),
    "the word NULL": (option(acls=[acl(userid="NULL")]), "not the word NULL"),
    "mutual alone": (
        option(acls=[{"initiator": INITIATOR, "mutual_userid": "t", "mutual_password": "x" * 12}]),
        "Mutual CHAP needs both.",
    ),
    "one password for both": (
        option(acls=[acl(mutual_userid="t", mutual_password=PASSWORD)]),
        "has one password in both directions. Choose two.",
    ),
    "an unknown LUN": (option(acls=[acl(mapped_luns=[{"lun": 3}])]), "maps LUN 3, which target"),
    "two initiators without lists": (
        option(acls=[acl(), acl(initiator="iqn.2026-01.lab.llm:gpu2")]),
        "two hosts that write to one disk destroy what is on it",
    ),
    "everybody, everywhere": (
        option(acls=[{"initiator": INITIATOR}], portals=["0.0.0.0"], allow_unauthenticated=True),
        "every network of the host would reach it",
    ),
    "half of them": (
        option(
            acls=[acl(mapped_luns=[]), {"initiator": "iqn.2026-01.lab.llm:gpu2", "mapped_luns": []}],
            allow_unauthenticated=True,
        ),
        "mixes initiators with and without credentials",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options_are_named(name: str) -> None:
    declared, sentence = BAD[name]
    with pytest.raises(BadInput) as caught:
        parse_targets([declared])
    assert sentence in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_portals_are_read_in_every_form() -> None:
    forms = ["10.0.0.1", "10.0.0.1:3261", "[fd00::1]:3260", "fd00::1", "[FD00:0::1]"]
    assert [parse_portal(text, WWN) for text in forms] == [
        Portal("10.0.0.1"),
        Portal("10.0.0.1", 3261),
        Portal("[fd00::1]"),
        Portal("[fd00::1]"),
        Portal("[fd00::1]"),
    ]


def test_a_derived_serial_depends_on_the_names_only() -> None:
    assert derive_serial(WWN, "disk0") == SERIAL
    assert derive_serial(WWN, "disk1") != SERIAL


def test_without_authentication_the_attribute_says_so() -> None:
    (target,) = parse_targets([option(acls=[{"initiator": INITIATOR}], allow_unauthenticated=True)])
    assert target.attributes["authentication"] == 0
    assert target.attributes["generate_node_acls"] == 0


class Library:
    """Stands in for rtslib: notes every call, and fails at the chosen one."""

    class RTSLibError(Exception):
        """The library's error."""

    def __init__(self, *, fail_at: int = -1) -> None:
        self.calls: list[str] = []
        self.fail_at = fail_at

    def note(self, call: str) -> None:
        self.calls.append(call)
        if len(self.calls) == self.fail_at:
            raise self.RTSLibError(f"cannot {call}")

    def __getattr__(self, name: str) -> Any:
        library = self

        class Node:
            """Any object of the library; looking one up is no call."""

            def __init__(self, *_: Any, mode: str = "", **given: Any) -> None:
                if mode == "create" or {"dev", "storage_object", "tpg_lun"} & set(given):
                    library.note(f"create {name}")

            def __setattr__(self, key: str, value: Any) -> None:
                library.note(f"set {name}.{key}")

            def set_attribute(self, key: str, _value: Any) -> None:
                library.note(f"set {name}.{key}")

            def list_attributes(self, *, writable: bool) -> list[str]:
                return ["authentication", "generate_node_acls"] if writable else []

        return Node


class Root:
    """Stands in for RTSRoot after the steps were taken."""

    storage_objects: tuple[Any, ...] = ()
    targets: tuple[Any, ...] = ()

    def invalidate_caches(self) -> None:
        """Nothing is cached here."""


def take(library: Library, folder: Path) -> None:
    made = plan(state(EMPTY, file=None, device=FREE), parse_targets([option()]), GUARDS)
    made.carry_out(Applier(library, Root(), save_file=str(folder / "saveconfig.json")).do)


def test_every_step_is_taken_in_order(tmp_path: Path) -> None:
    library = Library()
    take(library, tmp_path)
    assert library.calls == [
        "create Target",
        "create TPG",
        "set TPG.authentication",
        "set TPG.generate_node_acls",
        "create BlockStorageObject",
        "create LUN",
        "create NodeACL",
        "set NodeACL.chap_userid",
        "set NodeACL.chap_password",
        "set NodeACL.chap_mutual_userid",
        "set NodeACL.chap_mutual_password",
        "create MappedLUN",
        "create NetworkPortal",
        "set TPG.enable",
    ]
    assert (tmp_path / "saveconfig.json").exists()


@pytest.mark.parametrize("position", range(1, 15))
def test_a_failure_at_any_call_is_told_and_never_opens_or_saves(position: int, tmp_path: Path) -> None:
    library = Library(fail_at=position)
    with pytest.raises(StepFailed) as caught:
        take(library, tmp_path)
    assert "cannot " in str(caught.value)
    assert PASSWORD not in str(caught.value)
    assert len(library.calls) == position
    assert not (tmp_path / "saveconfig.json").exists()
    assert caught.value.left[-1].startswith("Save the configuration")
