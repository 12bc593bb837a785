# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans carried out over the library that stands in: every one fails at each call, and is killed after each call."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import pytest
from fake_rtslib import Killed, Library
from samples import DEVICE, INITIATOR, OTHER, PASSWORD, SECRETS, SERIAL, WWN, Host, acl, canonical, lun, option

SECOND = "iqn.2026-01.lab.llm:second"
CONTENT = b"what an initiator wrote"


def file_lun(folder: Path, size: str = "1MiB", **changes: Any) -> dict[str, Any]:
    return {"lun": 1, "name": "file1", "plugin": "fileio", "device": str(folder / "file1.img"), "size": size, **changes}


def both(**changes: Any) -> list[dict[str, Any]]:
    """Two initiators, one of which proves the target too."""
    first = acl(mutual_userid="storage1", mutual_password=f"{SECRETS}mutual-secret", mapped_luns=[{"lun": 0}, {"lun": 1, "index": 4}])
    second = acl(initiator=OTHER, userid="gpu2", mapped_luns=[{"lun": 1, "write_protect": True}], attributes={"nopin_timeout": 10})
    return [{**first, **changes}, second]


def full(folder: Path, **changes: Any) -> dict[str, Any]:
    """A target with something of everything."""
    return option(
        portals=["10.77.0.11", "[fd00::11]:3261"],
        iser_portals=["10.77.0.11"],
        luns=[lun(attributes={"emulate_tpu": 1}), file_lun(folder)],
        acls=both(),
        attributes={"login_timeout": 20},
        parameters={"ImmediateData": False},
        **changes,
    )


def second_group(folder: Path) -> dict[str, Any]:
    return option(tag=2, portals=["10.77.0.12"], luns=[file_lun(folder, lun=7)], acls=[acl(mapped_luns=[])])


FINDER = {"userid": "finder", "password": f"{SECRETS}finder-secret"}
Options = Callable[[Path], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A change from what one declaration makes to another."""

    wanted: Options
    start: Options | None = None


def target(**changes: Any) -> Options:
    return lambda folder: {"targets": [{**full(folder), **changes}]}


def with_luns(make: Callable[[Path], list[dict[str, Any]]], **changes: Any) -> Options:
    return lambda folder: {"targets": [{**full(folder), "luns": make(folder), **changes}]}


SOLO = acl(mapped_luns=[{"lun": 0}])
CASES: dict[str, Case] = {
    "everything on an empty host": Case(
        lambda folder: {"targets": [full(folder), second_group(folder)], "discovery_auth": FINDER},
    ),
    "credentials and settings": Case(
        target(
            acls=both(password=f"{SECRETS}another-secret", mutual_userid=None, mutual_password=None),
            attributes={"login_timeout": 25},
            parameters={"MaxOutstandingR2T": 4},
        ),
        target(),
    ),
    "one more disk": Case(
        with_luns(lambda folder: [lun(), file_lun(folder), {"lun": 2, "name": "disk2", "device": "/dev/vdx"}]),
        target(),
    ),
    "one disk less": Case(
        with_luns(lambda folder: [lun(attributes={"emulate_tpu": 1})], acls=[SOLO], allow_remove=["file1", OTHER]),
        target(),
    ),
    "initiators, portals and mappings less": Case(
        target(
            acls=[SOLO],
            portals=["10.77.0.11"],
            allow_remove=[OTHER, "[fd00::11]:3261", f"{INITIATOR}/4"],
        ),
        target(),
    ),
    "a file that grows": Case(
        with_luns(lambda folder: [lun(attributes={"emulate_tpu": 1}), file_lun(folder, "2MiB")]),
        target(),
    ),
    "another device": Case(
        with_luns(lambda folder: [lun(device="/dev/vdy", attributes={"emulate_tpu": 1}), file_lun(folder)], allow_remove=["disk0"]),
        target(),
    ),
    "another serial": Case(
        with_luns(
            lambda folder: [lun(serial="0123456789abcdef", attributes={"emulate_tpu": 1}), file_lun(folder)],
            allow_remove=["disk0"],
        ),
        target(),
    ),
    "an attribute that the kernel fixes while a disk is offered": Case(
        with_luns(lambda folder: [lun(attributes={"block_size": 4096}), file_lun(folder)]),
        target(),
    ),
    "another disk under an index": Case(
        target(
            acls=[acl(mapped_luns=[{"lun": 1, "index": 0}, {"lun": 0, "index": 4}]), both()[1]],
            allow_remove=[f"{INITIATOR}/0", f"{INITIATOR}/4"],
        ),
        target(),
    ),
    "a target less": Case(
        lambda folder: {"targets": [{"wwn": WWN, "state": "absent", "confirm": WWN}]},
        lambda folder: {"targets": [full(folder), second_group(folder)]},
    ),
    "its disks in another target": Case(
        lambda folder: {
            "targets": [
                {"wwn": WWN, "state": "absent", "confirm": WWN},
                {**full(folder), "wwn": SECOND},
            ],
        },
        target(),
    ),
    "discovery for everybody": Case(
        lambda folder: {"targets": [full(folder)], "discovery_auth": {"enforce": False}},
        lambda folder: {"targets": [full(folder)], "discovery_auth": FINDER},
    ),
    "iSER moved and writing allowed": Case(
        target(iser_portals=["[fd00::11]:3261"], acls=[both()[0], {**both()[1], "mapped_luns": [{"lun": 1}]}]),
        target(),
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def started(host: Host, case: Case) -> dict[str, Any]:
    """The state that a case begins from, saved, with data on the file."""
    library = Library()
    image = host.folder / "file1.img"
    image.unlink(missing_ok=True)
    host.saved.unlink(missing_ok=True)
    image.write_bytes(CONTENT)
    if case.start:
        assert not host.run(library, case.start(host.folder))["failed"]
    library.FabricModule("iscsi").dump()
    return library.state


def finished(host: Host, case: Case) -> Library:
    """What an undisturbed run makes of it."""
    library = Library(started(host, case))
    result = host.run(library, case.wanted(host.folder))
    assert (result["failed"], result["changed"]) == (False, True), result
    return library


def test_a_plan_is_carried_out_saved_and_then_done(host: Host, case: Case) -> None:
    library = finished(host, case)
    assert host.saved.stat().st_mode & 0o777 == 0o600
    file = json.loads(host.saved.read_text(encoding="utf-8"))
    assert canonical(file["targets"]) == canonical(library.state["targets"])
    assert canonical(file["storage_objects"]) == canonical(library.state["storage_objects"])
    done = len(library.calls)
    again = host.run(library, case.wanted(host.folder))
    assert (again["failed"], again["changed"], again["plan"], again["saved_drift"]) == (False, False, [], [])
    assert len(library.calls) == done
    assert (host.folder / "file1.img").read_bytes().startswith(CONTENT)


def test_check_mode_tells_the_same_and_touches_nothing(host: Host, case: Case) -> None:
    start = started(host, case)
    library = Library(start)
    file = host.saved.read_bytes() if host.saved.exists() else None
    foreseen = host.run(library, case.wanted(host.folder), check_mode=True)
    assert library.calls == []
    assert (host.saved.read_bytes() if host.saved.exists() else None) == file
    done = host.run(library, case.wanted(host.folder))
    assert (foreseen["plan"], foreseen["diff"], foreseen["serials"]) == (done["plan"], done["diff"], done["serials"])


def test_a_failure_at_any_call_is_taken_back(host: Host, case: Case) -> None:
    calls = len(finished(host, case).calls)
    assert calls > 1
    for position in range(1, calls + 1):
        start = started(host, case)
        before = copy.deepcopy(start)
        file = host.saved.read_bytes() if host.saved.exists() else None
        library = Library(start, fail_at=position)
        result = host.run(library, case.wanted(host.folder))
        assert (result["failed"], result["changed"]) == (True, False), (position, result)
        assert "Everything this run had changed was taken back" in result["msg"]
        assert "cannot " in result["msg"]
        assert SECRETS not in json.dumps(result)
        assert canonical(library.state) == canonical(before), (position, library.calls)
        assert (host.saved.read_bytes() if host.saved.exists() else None) == file


def test_after_a_kill_at_any_call_the_next_run_does_the_rest(host: Host, case: Case) -> None:
    library = finished(host, case)
    after, calls = canonical(library.state), len(library.calls)
    for position in range(1, calls + 1):
        library = Library(started(host, case), kill_after=position)
        with pytest.raises(Killed):
            host.run(library, case.wanted(host.folder))
        next_library = Library(library.state)
        result = host.run(next_library, case.wanted(host.folder))
        assert not result["failed"], (position, library.calls[-1], result)
        assert canonical(next_library.state) == after, (position, library.calls[-1])
        assert host.run(next_library, case.wanted(host.folder))["plan"] == []
        assert (host.folder / "file1.img").read_bytes().startswith(CONTENT)


def test_secrets_show_nowhere(host: Host, case: Case) -> None:
    library = Library(started(host, case))
    result = host.run(library, case.wanted(host.folder))
    assert SECRETS not in json.dumps(result)


def test_a_save_that_fails_takes_the_run_back(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(_path: str, _config: dict[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.apply.write_saved", full_disk)
    library = Library()
    result = host.run(library, {"targets": [option()]})
    assert (result["failed"], result["changed"]) == (True, False)
    assert "No space left on device. Everything this run had changed was taken back: all is as it was before." in result["msg"]
    assert library.state["targets"] == library.state["storage_objects"] == []


def test_what_cannot_be_taken_back_is_told(host: Host) -> None:
    library = Library()
    library.change = failing_for_good(library)  # type: ignore[method-assign]
    result = host.run(library, {"targets": [option()]})
    assert (result["failed"], result["changed"]) == (True, True)
    assert "cannot create Lun; taking back what was done failed too: cannot delete " in result["msg"]
    assert f"Done before it: Create target {WWN}" in result["msg"]


def failing_for_good(library: Library) -> Callable[[str, Callable[[], None]], None]:
    """The kernel takes no change any more from the LUN on."""

    def change(call: str, act: Callable[[], None]) -> None:
        library.calls.append(call)
        if "create Lun" in library.calls:
            raise library.RTSLibError(f"cannot {call}")
        act()

    return change


def test_a_serial_outlives_a_boot_that_could_not_restore_its_disk(host: Host) -> None:
    library = Library()
    pinned = {"targets": [option(luns=[lun(serial="0123456789abcdef")])]}
    assert not host.run(library, pinned)["failed"]
    boot = Library()
    result = host.run(boot, {"targets": [option()]})
    assert not result["failed"], result
    assert result["serials"] == {"disk0": "0123456789abcdef"}
    assert boot.state["storage_objects"][0]["wwn"] == "0123456789abcdef"


def test_serials_are_told_before_and_after(host: Host) -> None:
    library = Library()
    assert host.run(library, {"targets": [option()]}, check_mode=True)["serials"] == {"disk0": SERIAL}
    assert host.run(library, {"targets": [option()]})["serials"] == {"disk0": SERIAL}


def test_a_file_in_use_by_its_own_backstore_grows_without_losing_its_serial(host: Host) -> None:
    case = CASES["a file that grows"]
    library = Library(started(host, case))
    serial = next(item["wwn"] for item in library.state["storage_objects"] if item["name"] == "file1")
    host.run(library, case.wanted(host.folder))
    grown = next(item for item in library.state["storage_objects"] if item["name"] == "file1")
    assert (grown["wwn"], grown["size"]) == (serial, 2 * 1024**2)
    assert (host.folder / "file1.img").stat().st_size == 2 * 1024**2


def test_undeclared_attributes_of_a_disk_that_is_built_anew_stay(host: Host) -> None:
    case = CASES["a file that grows"]
    library = Library(started(host, case))
    store = next(item for item in library.state["storage_objects"] if item["name"] == "file1")
    store["attributes"]["queue_depth"] = 64
    host.run(library, case.wanted(host.folder))
    grown = next(item for item in library.state["storage_objects"] if item["name"] == "file1")
    assert grown["attributes"]["queue_depth"] == 64


def test_the_password_reaches_the_kernel(host: Host) -> None:
    library = Library()
    host.run(library, {"targets": [option()]})
    assert library.state["targets"][0]["tpgs"][0]["node_acls"][0]["chap_password"] == PASSWORD
    assert library.state["storage_objects"][0]["dev"] == DEVICE


def test_a_backstore_that_was_killed_before_it_had_a_serial_gets_its_own(host: Host) -> None:
    library = Library()
    pinned = {"targets": [option(luns=[lun(serial="0123456789abcdef")])]}
    host.run(library, pinned)
    killed = Library()
    killed.state["storage_objects"] = [{**library.state["storage_objects"][0], "wwn": ""}]
    result = host.run(killed, {"targets": [option()]})
    assert not result["failed"], result
    assert [store["wwn"] for store in killed.state["storage_objects"]] == ["0123456789abcdef"]
