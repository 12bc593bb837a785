# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""zfs_pool_layouts: each layout re-declared unchanged, with one change, and killed after every step of many plans."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from layouts import AB, CD, LINKS, LOGS, RAIDZ2, SPARE, A, B, C, D, E, F, H, Layout, disk, mirror
from layouts import LAYOUTS as TABLE
from simulated_run import run, stand_in
from simulated_zpool import KilledError, SimulatedZfs

EACH = pytest.mark.parametrize("layout", TABLE, ids=[layout.name for layout in TABLE])


@pytest.fixture
def zfs(monkeypatch: pytest.MonkeyPatch) -> SimulatedZfs:
    return stand_in(monkeypatch, SimulatedZfs(links=LINKS))


def declared(layout: Layout) -> dict[str, Any]:
    return {"vdevs": layout.vdevs, "properties": layout.properties}


def changed(layout: Layout) -> dict[str, Any]:
    return {**declared(layout), **layout.then}


def create(zfs: SimulatedZfs, layout: Layout) -> None:
    run(zfs, declared(layout))
    zfs.carried.update({zfs.real(path): "it carries ext4" for path in layout.then.get("wipe", ())})


@EACH
def test_an_unchanged_layout_runs_no_command_and_three_processes(zfs: SimulatedZfs, layout: Layout) -> None:
    create(zfs, layout)
    for vdevs in (layout.vdevs, layout.again or layout.vdevs):
        zfs.count = 0
        assert run(zfs, {**declared(layout), "vdevs": vdevs}) == []
        assert zfs.count <= 3


@EACH
def test_a_change_runs_exactly_its_commands_once(zfs: SimulatedZfs, layout: Layout) -> None:
    create(zfs, layout)
    assert tuple(run(zfs, changed(layout))) == layout.commands
    assert run(zfs, changed(layout)) == []


def test_the_table_is_large_enough() -> None:
    assert len(TABLE) >= 20
    assert len({layout.name for layout in TABLE}) == len(TABLE)


# From nothing, or after the layout was created, to options; killed after each step of the way.
LONG_WAY = {
    "create with wiped disks": (None, {"vdevs": [AB, CD, LOGS], "wipe": [A, C]}),
    "spare, cache and special come": (
        {"vdevs": [AB]},
        {"vdevs": [AB, SPARE, mirror(E, F, **{"class": "special"}), {"class": "cache", "devices": ["/dev/nvme9n1"]}]},
    ),
    "disks are exchanged in both mirrors": ({"vdevs": [AB, CD]}, {"vdevs": [mirror(A, E), mirror(C, F)], "wipe": [E, F]}),
    "log, cache and spare go": (
        {"vdevs": [AB, LOGS, SPARE, {"class": "cache", "devices": ["/dev/nvme9n1"]}]},
        {"vdevs": [AB], "allow_remove": ["mirror-1", H, "/dev/nvme9n1"]},
    ),
    "a vdev comes with a checkpoint, properties are set": (
        {"vdevs": [AB]},
        {"vdevs": [AB, CD], "checkpoint_before_add": True, "properties": {"autotrim": True, "comment": "models"}},
    ),
    "a pool is imported, changed and grown": ("exported", {"vdevs": [AB, CD], "properties": {"autoexpand": True, "comment": "x"}}),
    "raidz grows and gets a log": ({"vdevs": [RAIDZ2]}, {"vdevs": [{**RAIDZ2, "devices": [A, B, C, D, E]}, LOGS], "wipe": [E]}),
    "three become two in both mirrors": (
        {"vdevs": [mirror(A, B, E), mirror(C, D, F)]},
        {"vdevs": [AB, CD], "allow_remove": [E, F]},
    ),
    "upgrade, offline and initialize": (
        {"vdevs": [AB, CD], "properties": {"feature@draid": "disabled"}},
        {"vdevs": [AB, CD], "upgrade": True, "offline": [B, D], "run": ["initialize"]},
    ),
    "a mirror leaves after another came": (
        {"vdevs": [AB, CD]},
        {"vdevs": [AB, mirror(E, F)], "allow_remove": ["mirror-1"], "wipe": [E, F]},
    ),
}


def begin(zfs: SimulatedZfs, first: Any, options: dict[str, Any]) -> None:
    if first:
        run(zfs, {"vdevs": [AB]} if first == "exported" else first)
    if first == "exported":
        zfs.pools["tank"].exported = True
    zfs.carried.update({zfs.real(path): "it carries ext4" for path in options.get("wipe", ()) if zfs.real(path) not in zfs.carried})


def state(zfs: SimulatedZfs) -> Any:
    pool = zfs.pools["tank"]
    groups = sorted((group.use, group.kind, sorted((leaf.shown, leaf.state) for leaf in group.leaves)) for group in pool.groups)
    return groups, pool.properties, sorted(zfs.carried)


@pytest.mark.parametrize(("first", "options"), LONG_WAY.values(), ids=LONG_WAY)
def test_killed_after_any_step_the_next_run_does_the_rest(monkeypatch: pytest.MonkeyPatch, first: Any, options: dict[str, Any]) -> None:
    whole = stand_in(monkeypatch, SimulatedZfs(links=LINKS))
    begin(whole, first, options)
    steps = len(run(whole, options))
    assert steps >= 2
    for killed in range(1, steps + 1):
        zfs = stand_in(monkeypatch, SimulatedZfs(links=LINKS))
        begin(zfs, first, options)
        zfs.kill_after = len(zfs.changes) + killed
        with pytest.raises(KilledError):
            run(zfs, options)
        zfs.kill_after = None
        rest = run(zfs, options)
        assert len(rest) == steps - killed
        assert state(zfs) == state(whole)
        assert run(zfs, options) == []


def test_a_disk_that_is_written_to_after_the_plan_is_not_taken(zfs: SimulatedZfs) -> None:
    from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import StepFailed
    from simulated_run import keeper

    keep = keeper(zfs, {"vdevs": [AB]})
    plan = keep.plan()
    zfs.carried["/dev/sdb"] = "it carries ext4 named data"
    with pytest.raises(StepFailed, match=f"Refusing to take {disk('b')}: since the plan was made it changed: it carries ext4 named data"):
        plan.carry_out(keep.do)
    assert zfs.changes == []
    assert zfs.carried == {"/dev/sdb": "it carries ext4 named data"}
