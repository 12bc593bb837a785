# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How plans for pools are carried out, and what is left when a command fails."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Sequence

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import CommandFailed, StackError, StepFailed
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.pool import apply, declare, model

sys.path.insert(0, str(Path(__file__).parent))
from layouts import AB, CD, LINKS, A, B, mirror
from simulated_run import keeper as keeper_of
from simulated_run import plan, run, stand_in
from simulated_zpool import SimulatedZfs
from test_pool_read import text
from zfs_answers import Answers

LSBLK = '{"blockdevices": []}'
STATUS = text("all_classes-2.3.9.txt")
GET = "\n".join(f"{name}\t{value}" for name, value in {"ashift": "12", "autotrim": "off", "guid": "77", "comment": "-"}.items())
NONE = (0, "no pools available\n", "")
NO_IMPORT = (1, "", "no pools available to import\n")
IMPORT = "env ZPOOL_VDEV_NAME_PATH=1 zpool import"
CREATE = {"zpool status": NONE, IMPORT: NO_IMPORT}


def keeper(answers: Any, tmp_path: Path, *, rehearsal: bool = False, missing: Sequence[str] = ()) -> Any:
    """A keeper of a mirror of two files."""
    for name in "ab":
        with (tmp_path / name).open("wb") as file:
            file.truncate(128 << 20)
    want = declare.declare_pool({"name": "llm", "vdevs": [{"type": "mirror", "devices": [str(tmp_path / name) for name in "ab"]}]})
    runner = Answers({"lsblk": (0, LSBLK, ""), "wipefs --json": (0, "", ""), **answers}, missing=missing)
    return runner, apply.PoolKeeper(runner, want, model.Guards(), apply.Manner(rehearsal=rehearsal))


def property_keeper(answers: Any, **properties: Any) -> Any:
    runner = Answers({"zpool status": (0, STATUS, ""), "zpool get": (0, GET, ""), **answers})
    want = declare.declare_pool({"name": "llm", "properties": properties})
    return runner, apply.PoolKeeper(runner, want, model.Guards(), apply.Manner())


def test_no_op_is_three_processes() -> None:
    runner, keep = property_keeper({"zpool list": (0, "llm\t1\t1\n\tmirror-1\t1000\t900\n", "")}, ashift=12)
    plan = keep.plan()
    assert not plan.changed
    assert keep.report()["pool"]["health"] == "ONLINE"
    assert runner.ran == [
        "zpool status -P",
        "zpool get -H -p -o property,value all llm",
        "zpool list -H -p -P -v -o name,size,allocated llm",
    ]
    assert "special mirror-1 (/var/tmp/h1/a, /var/tmp/h1/b) is 90 % full (900 bytes of 1000 bytes)" in plan.warnings[0]


def test_check_mode_works_before_zfs_is_installed(tmp_path: Path) -> None:
    _runner, keep = keeper({}, tmp_path, rehearsal=True, missing=["zpool"])
    plan = keep.plan()
    assert plan.changed
    assert "zpool is not installed" in plan.warnings[0]
    assert keep.report()["pool"] is None
    _runner, keep = keeper({}, tmp_path, missing=["zpool"])
    with pytest.raises(StackError, match="zpool is not installed on this host: install zfsutils-linux"):
        keep.plan()


def test_files_are_looked_for_in_exported_pools(tmp_path: Path) -> None:
    rows = f"\tllm  ONLINE\n\t  mirror-0  ONLINE\n\t    {tmp_path}/a  ONLINE\n\t    {tmp_path}/b  ONLINE\n"
    found = f"  pool: llm\n    id: 9\n state: ONLINE\nconfig:\n\n{rows}"
    runner, keep = keeper({"zpool status": NONE, IMPORT: NO_IMPORT, f"{IMPORT} -d {tmp_path}": (0, found, "")}, tmp_path)
    assert keep.plan().sentences == ["Import pool llm (GUID 9)"]
    assert f"{IMPORT} -d {tmp_path}/a -d {tmp_path}/b" in runner.ran[1]


def test_a_create_that_udev_disturbed_is_tried_again(tmp_path: Path) -> None:
    busy = (1, "", "cannot create 'llm': one or more devices is currently unavailable")
    runner, keep = keeper({**CREATE, "zpool create": [busy, (0, "", "")]}, tmp_path)
    keep.plan().carry_out(keep.do)
    assert sum(command.startswith("zpool create") for command in runner.ran) == 2


def test_a_failed_create_leaves_blank_devices(tmp_path: Path) -> None:
    label = (0, '{"signatures": [{"type": "zfs_member"}]}', "")
    answers = {**CREATE, "zpool create": (1, "", "no such property"), "wipefs --json": [(0, "", "")] * 4 + [label]}
    runner, keep = keeper(answers, tmp_path)
    with pytest.raises(StepFailed, match="Nothing was changed before it"):
        keep.plan().carry_out(keep.do)
    assert [command for command in runner.ran if "--all" in command] == [f"wipefs --all --force {tmp_path / name}" for name in "ab"]


def test_a_pool_that_exists_after_a_failed_create_is_not_erased(tmp_path: Path) -> None:
    rows = f"\tNAME  STATE  READ WRITE CKSUM\n\tllm  ONLINE  0  0  0\n\t  {tmp_path}/a  ONLINE  0  0  0\n"
    made = f"  pool: llm\n state: ONLINE\nconfig:\n\n{rows}"
    answers = {**CREATE, "zpool status": [NONE, (0, made, "")], "zpool create": (1, "", "cannot mount")}
    runner, keep = keeper(answers, tmp_path)
    with pytest.raises(StepFailed, match="the devices are in the pool, but not all that follows was done: cannot mount"):
        keep.plan().carry_out(keep.do)
    assert not any("--all" in command or "labelclear" in command for command in runner.ran)


def test_what_was_written_since_the_plan_stops_the_step_and_is_not_erased(tmp_path: Path) -> None:
    ext4 = (0, '{"signatures": [{"type": "ext4", "label": "data"}]}', "")
    runner, keep = keeper({**CREATE, "wipefs --json": [(0, "", ""), (0, "", ""), ext4]}, tmp_path)
    with pytest.raises(StepFailed, match=r"since the plan was made it changed: it carries ext4 named data\. Look at it"):
        keep.plan().carry_out(keep.do)
    assert not any("--all" in command or "zpool create" in command for command in runner.ran)


def test_a_failing_set_says_what_is_left() -> None:
    _runner, keep = property_keeper({"zpool set comment": (1, "", "no space")}, autotrim=True, comment="x")
    with pytest.raises(StepFailed) as caught:
        keep.plan().carry_out(keep.do)
    assert caught.value.done == ("Set autotrim=on (was off) on pool llm",)
    assert isinstance(caught.value.__cause__, CommandFailed)


@pytest.fixture
def zfs(monkeypatch: pytest.MonkeyPatch) -> SimulatedZfs:
    return stand_in(monkeypatch, SimulatedZfs(links=LINKS))


def test_an_imported_pool_gets_what_differs_and_no_more(zfs: SimulatedZfs) -> None:
    run(zfs, {"vdevs": [AB], "properties": {"autotrim": True}})
    zfs.pools["tank"].exported = True
    ran = run(zfs, {"vdevs": [AB], "properties": {"autotrim": True, "comment": "x"}})
    assert ran == [f"zpool import {zfs.pools['tank'].guid}", "zpool set comment=x tank"]


WRONG = [
    ({"autotrimm": True}, "did you mean autotrim?"),
    ({"feature@draid": "disabled"}, "ZFS never disables a feature"),
    ({"ashift": 9}, "its vdevs have ashift=12, which ZFS fixes when a vdev is created"),
]


@pytest.mark.parametrize(("properties", "text"), WRONG)
def test_a_property_that_turns_out_wrong_after_the_import(zfs: SimulatedZfs, properties: Any, text: str) -> None:
    run(zfs, {"vdevs": [AB]})
    zfs.pools["tank"].exported = True
    with pytest.raises(StepFailed) as caught:
        run(zfs, {"vdevs": [AB], "properties": {"comment": "x", **properties}})
    assert text in str(caught.value.__cause__)
    assert len(caught.value.done) == 1
    assert not any(change.startswith("zpool set") for change in zfs.changes)


def test_a_forced_import_of_another_hosts_pool(zfs: SimulatedZfs) -> None:
    run(zfs, {"vdevs": [AB]})
    zfs.pools["tank"].exported = zfs.pools["tank"].other_host = True
    guid = zfs.pools["tank"].guid
    assert run(zfs, {"vdevs": [AB], "force_import": guid}) == [f"zpool import -f {guid}"]


def test_a_pool_is_destroyed_once(zfs: SimulatedZfs) -> None:
    run(zfs, {"vdevs": [AB]})
    gone = {"state": "absent", "confirm": zfs.pools["tank"].guid}
    assert plan(zfs, gone).sentences == [f"Destroy pool tank (GUID {gone['confirm']}) and all that is on it, as confirm allows"]
    assert run(zfs, gone) == ["zpool destroy tank"]
    assert run(zfs, gone) == []


def test_the_result_tells_health_and_what_runs(zfs: SimulatedZfs) -> None:
    run(zfs, {"vdevs": [AB, CD]})
    keep = keeper_of(zfs, {"vdevs": [AB, CD], "run": ["initialize", "scrub"], "offline": [A]})
    keep.plan().carry_out(keep.do)
    pool = keep.report()["pool"]
    assert pool["health"] == "DEGRADED"
    assert pool["activity"] == {
        "scrub": {"state": "running", "percent": 50.0},
        "initialize": {"state": "finished", "devices_done": 4, "devices": 4},
        "trim": {"state": "never", "devices_done": 0, "devices": 4},
    }
    assert pool["vdevs"][0]["devices"][0] == {"path": f"{A}-part1", "state": "OFFLINE"}


def test_waiting_is_one_process_and_says_how_far_it_is_when_time_is_up(zfs: SimulatedZfs, monkeypatch: pytest.MonkeyPatch) -> None:
    run(zfs, {"vdevs": [AB]})
    keep = keeper_of(zfs, {"vdevs": [AB], "run": ["scrub"], "wait": True})
    keep.plan().carry_out(keep.do)
    asked: list[Any] = []
    answer = zfs.run

    def late(argv: Sequence[str], **more: Any) -> Any:
        if list(argv[:2]) == ["zpool", "wait"]:
            asked.append(zfs.timeout)
            raise CommandFailed(tuple(argv), 124, "it did not end within 10 s")
        return answer(argv, **more)

    monkeypatch.setattr(zfs, "run", late)
    with pytest.raises(StackError, match="Pool tank is not through after 10 s: the scrub is 50 % done. Nothing is wrong with that"):
        keep.report()
    assert (asked, zfs.timeout) == ([10], 300.0)


def test_a_device_that_leads_elsewhere_now_is_not_erased(zfs: SimulatedZfs) -> None:
    zfs.carried["/dev/sdb"] = "it carries ext4"
    keep = keeper_of(zfs, {"vdevs": [mirror(A, B)], "wipe": [B]})
    planned = keep.plan()
    zfs.links[B] = "/dev/sdq"
    with pytest.raises(StepFailed, match=f"Refusing to erase {B}: it leads to /dev/sdq now, and to /dev/sdb when this was planned"):
        planned.carry_out(keep.do)
    assert zfs.changes == []
