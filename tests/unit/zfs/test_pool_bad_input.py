# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input to zfs_pool: each is refused with a sentence that names the thing and the remedy, and nothing was run or changed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import BadInput, Refused

sys.path.insert(0, str(Path(__file__).parent))
from layouts import AB, CD, LINKS, LOGS, PART, RAIDZ2, A, B, C, D, E, F, mirror
from simulated_run import run, stand_in
from simulated_zpool import SimulatedZfs

# A pool of two mirrors and a log is there; /dev/sde carries data, /dev/sdf does not exist, old lies exported on sdg.
G = "/dev/disk/by-id/ata-HGST_G"
HERE = [AB, CD, LOGS]
L1, L2 = LOGS["devices"]

# Options, what is named, and the remedy.
DECLARED = [
    ({"name": "1st"}, "'1st' is not one ZFS accepts", "start with a letter"),
    ({"name": "mirrored"}, "'mirrored' is not one ZFS accepts", "start with a letter"),
    ({"name": "log"}, "'log' is not one ZFS accepts", "start with a letter"),
    ({"name": "x" * 300}, "is not one ZFS accepts", "start with a letter"),
    ({"name": "a/b"}, "'a/b' is not one ZFS accepts", "letters, digits"),
    ({"name": "tank\n"}, "'tank\\n' is not one ZFS accepts", "letters, digits"),
    ({"vdevs": [LOGS]}, "Pool tank has no data vdev", "give at least one entry of vdevs the class data"),
    ({"vdevs": [{"class": "slog", "devices": [A]}]}, "the class 'slog'", "is not one of data, special"),
    ({"vdevs": [{"type": "raid5", "devices": [A, B, C]}]}, "the type 'raid5'", "is not one of stripe, mirror, raidz1"),
    ({"vdevs": [{"type": "mirror\n", "devices": [A, B]}]}, "the type 'mirror\\n'", "is not one of stripe, mirror, raidz1"),
    ({"vdevs": [{"type": "draid1:2d:3d", "devices": [A, B, C, D]}]}, "the type 'draid1:2d:3d'", "is not one of stripe, mirror, raidz1"),
    ({"vdevs": [{"devices": []}]}, "the data stripe names no devices", "names no devices"),
    ({"vdevs": [mirror(A)]}, f"1 given: {A}", "a mirror takes at least 2 devices"),
    ({"vdevs": [{"type": "raidz2", "devices": [A, B]}]}, f"{A}, {B}", "a raidz2 takes at least 3 devices"),
    ({"vdevs": [{"type": "raidz3", "devices": [A, B, C]}]}, "3 given", "a raidz3 takes at least 4 devices"),
    ({"vdevs": [mirror(A, A)]}, f"{A} is listed twice", "a device belongs to one vdev"),
    ({"vdevs": [mirror("sda", "sdb")]}, "'sda' is not an absolute path", "name devices like /dev/disk/by-id/"),
    ({"vdevs": [AB, mirror(C, D, **{"class": "cache"})]}, "a cache vdev has no redundancy", "leave out the type mirror"),
    ({"vdevs": [AB, {**RAIDZ2, "class": "log", "devices": [C, D, E]}]}, "ZFS takes no log as raidz2", "make it a mirror"),
    ({"vdevs": [{"type": "draid2:3d:7c", "devices": [A, B, C, D]}]}, "draid2:3d:7c names 7 children", "make the two agree"),
    ({"vdevs": [{"type": "draid1:3d:1s", "devices": [A, B, C, D]}]}, "draid1:3d:1s", "takes at least 5 devices (data, parity and spares)"),
    ({"properties": {"a b": 1}}, "'a b' is not the name", "of a ZFS property"),
    ({"properties": {"comment": ["x"]}}, "The property comment has the value ['x']", "give it one line of text"),
    ({"properties": {"ashift": 4096}}, "ashift=4096", "9 (512 bytes) to 16 (64 KiB), usually 12"),
    ({"properties": {"ashift": "auto"}}, "ashift=auto", "usually 12 (4 KiB)"),
    ({"properties": {"ashift": "1²"}}, "ashift=1²", "usually 12 (4 KiB)"),
    ({"properties": {"feature@draid": "on"}}, "feature@draid=on is no state of a feature", "give it enabled"),
    (
        {"properties": {"feature@draid": "disabled"}, "upgrade": True},
        "upgrade enables every feature, feature@draid shall be disabled",
        "leave one of the two out",
    ),
    ({"run": ["defrag"]}, "run has 'defrag'", "is not one of initialize, trim, scrub"),
    ({"online": ["sda"]}, "'sda' is neither an absolute path nor a GUID", "correct it under online or offline"),
    ({"online": [A], "offline": [A]}, f"{A} is listed under online and under offline", "remove it from one of them"),
    ({"confirm": "¹", "state": "absent"}, "confirm: '¹' is not the GUID of a pool", "zpool get -H -o value guid tank"),
    ({"confirm": "yes", "state": "absent"}, "confirm: 'yes' is not the GUID of a pool", "zpool get -H -o value guid tank"),
    ({"force_import": "tank"}, "force_import: 'tank' is not the GUID of a pool", "`zpool import` for one that is not imported"),
    ({"wait_timeout": 0}, "wait_timeout=0 is no time to wait", "give seconds, at least 1"),
]

FOUND = [
    ({"vdevs": [*HERE, mirror(E, G)]}, f"{E} into pool tank: it carries ext4", f"add {E} to wipe"),
    ({"vdevs": [mirror(A, B, E), CD, LOGS]}, f"{E} into pool tank: it carries ext4", f"add {E} to wipe"),
    ({"vdevs": [mirror(A, E), CD, LOGS]}, f"{E} into pool tank: it carries ext4", f"add {E} to wipe"),
    ({"vdevs": [mirror(A, B, F), CD, LOGS]}, f"the device {F} does not exist", "Attach it or correct its path under vdevs"),
    ({"vdevs": [mirror(A, "/dev/sdc"), CD, LOGS]}, f"/dev/sdc and {C} are the same device", "list it once under vdevs"),
    ({"vdevs": [mirror(A, "/dev/sda"), CD, LOGS], "allow_remove": [B]}, f"{A} and /dev/sda are the same device", "list it once"),
    ({"vdevs": [mirror(A, B, f"{A}{PART}"), CD, LOGS]}, f"{A} and {A}{PART} are the same device", "list it once under vdevs"),
    (
        {"vdevs": [mirror(A, D, B), mirror(C, "/dev/sdz"), LOGS]},
        f"{D} into pool tank: it belongs to the imported pool tank",
        "wipe does not",
    ),
    ({"vdevs": [AB, LOGS]}, "data mirror-1", "name it in allow_remove: [mirror-1]"),
    (
        {"vdevs": [mirror("/dev/x", "/dev/y"), LOGS], "allow_remove": ["mirror-0", "mirror-1"]},
        "mirror-0 is to go too",
        "List mirror-1 under vdevs until that is through",
    ),
    ({"vdevs": [AB, CD]}, "log mirror-2", "name it in allow_remove: [mirror-2]"),
    ({"vdevs": [{"devices": [A]}, CD, LOGS]}, f"{B}{PART}", f"name it in allow_remove: [{B}{PART}]"),
    ({"vdevs": [{"devices": [A]}, CD, LOGS], "allow_remove": [B]}, f"{B}{PART}", "allow_redundancy_mismatch: true"),
    (
        {"vdevs": [AB, CD, {"class": "log", "devices": LOGS["devices"][:1]}], "allow_remove": [LOGS["devices"][1]]},
        LOGS["devices"][1],
        "Declare",
    ),
    ({"vdevs": [{"type": "raidz1", "devices": [A, B]}, CD, LOGS]}, "mirror-0", "Declare it with type mirror"),
    ({"vdevs": [*HERE, {"class": "special", "devices": ["/dev/x"]}]}, "special disk /dev/x", "Make it a mirror of 2 devices"),
    ({"vdevs": [*HERE, {"devices": ["/dev/x"]}]}, "data disk /dev/x", "Make it like them"),
    ({"vdevs": [AB, mirror(C, D, **{"class": "special"}), LOGS]}, "mirror-1", "Declare it with class data"),
    ({"vdevs": HERE, "properties": {"ashift": 13}}, "ashift=13", "Declare ashift: 12"),
    ({"vdevs": HERE, "properties": {"sise": 1}}, "'sise'", "correct its name under properties"),
    ({"vdevs": HERE, "properties": {"free": 1}}, "free=1", "Remove it from properties"),
    ({"vdevs": HERE, "offline": [A, B]}, "mirror-0", "remove it from offline"),
    ({"vdevs": HERE, "offline": ["/dev/sdz"]}, "/dev/sdz", "correct it under offline"),
    ({"state": "absent"}, "Refusing to destroy pool tank", "set confirm: 1"),
    ({"state": "absent", "confirm": "99"}, "confirm is 99", "set confirm: 1"),
    ({"name": "new", "vdevs": [{"devices": [G]}]}, f"{G} hold the exported pool old", "Declare name: old"),
    ({"name": "new", "vdevs": [AB]}, f"{A} into pool new: it belongs to the imported pool tank", "name another device under vdevs"),
    ({"name": "new"}, "Pool new does not exist", "declare its vdevs"),
    ({"name": "old", "vdevs": [{"devices": ["/dev/x"]}]}, "a pool of that name", "Declare these to have it imported"),
    ({"name": "old", "vdevs": [{"devices": [G]}]}, "another host used it last", "set force_import: 1"),
    ({"name": "new", "vdevs": [mirror("/dev/x", "/dev/y"), mirror("/dev/x4k", "/dev/y4k")]}, "512 and 4096", "Set ashift: 12"),
    ({"name": "new", "vdevs": [mirror("/dev/x", "/dev/sdz"), {"devices": ["/dev/y"]}]}, "unlike data vdevs", "allow_redundancy_mismatch"),
    ({"name": "new", "vdevs": [{"devices": ["/dev/x"]}], "properties": {"autotrin": True}}, "'autotrin'", "did you mean autotrim?"),
]


@pytest.fixture
def zfs(monkeypatch: pytest.MonkeyPatch) -> SimulatedZfs:
    made = stand_in(monkeypatch, SimulatedZfs(links=LINKS))
    run(made, {"vdevs": HERE, "properties": {"ashift": 12}})
    run(made, {"name": "old", "vdevs": [{"devices": [G]}]})
    made.pools["old"].exported = made.pools["old"].other_host = True
    made.carried["/dev/sde"] = "it carries ext4 named data"
    made.missing.add(F)
    made.sectors.update({"/dev/x4k": 4096, "/dev/y4k": 4096})
    made.changes.clear()
    made.count = 0
    return made


@pytest.mark.parametrize(("options", "named", "remedy"), DECLARED)
def test_what_no_host_could_take_is_refused_before_any_command(zfs: SimulatedZfs, options: Any, named: str, remedy: str) -> None:
    with pytest.raises(BadInput) as caught:
        run(zfs, options)
    assert named in str(caught.value)
    assert remedy in str(caught.value)
    assert zfs.count == 0


@pytest.mark.parametrize(("options", "named", "remedy"), FOUND)
def test_what_this_host_cannot_take_is_refused_before_any_change(zfs: SimulatedZfs, options: Any, named: str, remedy: str) -> None:
    before = dict(zfs.carried)
    with pytest.raises(Refused) as caught:
        run(zfs, options)
    assert named in str(caught.value)
    assert remedy in str(caught.value)
    assert zfs.changes == []
    assert zfs.carried == before


def test_the_corpus_is_large_enough() -> None:
    assert len(DECLARED) + len(FOUND) >= 35
