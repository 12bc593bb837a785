# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pools that are not imported: created, imported, or refused."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.pool import declare, life, model, plan, scene, status_text
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.pool.advise import Host

sys.path.insert(0, str(Path(__file__).parent))
from test_pool_plan import IDENTITY, blank, commands, refused
from test_pool_read import text

NEW = [
    {"type": "mirror", "devices": ["/dev/a", "/dev/b"]},
    {"type": "mirror", "devices": ["/dev/c", "/dev/d"]},
    {"type": "mirror", "class": "special", "devices": ["/dev/n1", "/dev/n2"]},
    {"type": "mirror", "class": "log", "devices": ["/dev/l1", "/dev/l2"]},
    {"class": "cache", "devices": ["/dev/n3"]},
]


def plan_create(vdevs: Any = None, *, importable: Any = (), guards: Any = None, options: Any = None, **changes: Any) -> Any:
    """The plan for a new pool; a blank disk for each device, changed by the last part of its path."""
    want = declare.declare_pool({"name": "llm", "vdevs": NEW if vdevs is None else vdevs, **(options or {})})
    candidates = {path: blank(path, **dict(changes.get(path.rsplit("/", 1)[-1], {}))) for path in want.devices}
    return plan.plan_new(want, importable, candidates, guards or model.Guards(), Host(), identity=IDENTITY)


def test_creation_is_one_command() -> None:
    planned = plan_create(options={"properties": {"ashift": 12}, "filesystem_properties": {"atime": False}})
    assert [step.action for step in planned.steps] == ["create"]
    assert commands(planned) == [
        "zpool create -o ashift=12 -O atime=off llm mirror /dev/a /dev/b mirror /dev/c /dev/d special mirror /dev/n1 /dev/n2"
        " log mirror /dev/l1 /dev/l2 cache /dev/n3"
    ]
    assert planned.before == {"llm": None}
    assert planned.after["llm"]["properties"] == {"ashift": "12"}
    assert planned.warnings == ()


def test_a_named_device_is_erased_first() -> None:
    dirty = {"contents": ("it carries ext4",), "real": "/dev/sdb"}
    planned = plan_create(b=dirty, guards=model.Guards(wipe=frozenset({"/dev/sdb"})))
    assert planned.sentences[0] == "Erase /dev/b, which is named in wipe (it carries ext4)"
    assert [step.action for step in planned.steps] == ["wipe", "create"]


def test_a_pending_device_may_be_missing() -> None:
    planned = plan_create(n1={"kind": "missing"}, guards=model.Guards(pending=frozenset({"/dev/n1"})))
    assert [step.action for step in planned.steps] == ["create"]


UNFIT = [
    (
        {"kind": "missing", "near": ("b2",)},
        "Pool llm: the device /dev/b does not exist. Attach it or correct its path under vdevs (beside it there is b2).",
    ),
    ({"kind": "missing"}, "Pool llm: the device /dev/b does not exist. Attach it or correct its path under vdevs."),
    ({"kind": "other"}, "Pool llm: /dev/b is neither a block device nor a file"),
    ({"read_only": True}, "Pool llm: the device /dev/b is read-only"),
    ({"size": 1 << 20}, "Pool llm: /dev/b has 1 MiB, and ZFS takes nothing below 64 MiB: name a larger one under vdevs."),
    ({"kind": "file", "size": 0}, "Pool llm: /dev/b has 0 bytes, and ZFS takes nothing below 64 MiB"),
    (
        {"mountpoints": ("/srv",)},
        "Refusing to take /dev/b into pool llm: it is mounted on /srv. Stop what uses it, or name another device under vdevs; wipe does not"
        " override this.",
    ),
    ({"holders": ("/dev/md0",)}, "it is held by /dev/md0. Stop what uses it"),
    ({"busy": True}, "it is in use (an imported pool, a mount, RAID, LVM or an iSCSI target holds it)"),
    ({"pool": "tank"}, "it belongs to the imported pool tank. Stop what uses it"),
    (
        {"contents": ("it carries a ZFS pool named old",)},
        "Refusing to take /dev/b into pool llm: it carries a ZFS pool named old, which would be lost. Name another device under vdevs or,"
        " if nothing on it is needed, add /dev/b to wipe.",
    ),
    ({"real": "/dev/a"}, "Pool llm: /dev/a and /dev/b are the same device: list it once under vdevs."),
    ({"parent": "/dev/a"}, "Pool llm: /dev/b is a partition of /dev/a: list the disk or its partitions, not both."),
]


@pytest.mark.parametrize(("change", "reason"), UNFIT)
def test_unfit_devices_are_refused(change: dict[str, Any], reason: str) -> None:
    assert reason in refused(plan_create(b=change))


@pytest.mark.parametrize("use", [{"mountpoints": ("/srv",)}, {"busy": True}, {"pool": "tank"}])
def test_wipe_does_not_override_use(use: dict[str, Any]) -> None:
    planned = plan_create(b={**use, "contents": ("it carries ext4",)}, guards=model.Guards(wipe=frozenset({"/dev/b"})))
    assert "wipe does not override this" in refused(planned)


WEAK = [
    (
        [*NEW[:2], {"class": "special", "devices": ["/dev/n1"]}],
        "Refusing to create pool llm with the special disk /dev/n1: losing 1 of its devices loses the whole pool, while the data vdevs"
        " survive 1. Make it a mirror of 2 devices, or set allow_redundancy_mismatch: true if you accept that.",
    ),
    (
        [{"type": "raidz2", "devices": ["/dev/a", "/dev/b", "/dev/c", "/dev/d"]}, NEW[2]],
        "losing 2 of its devices loses the whole pool, while the data vdevs survive 2. Make it a mirror of 3 devices",
    ),
    ([NEW[0], {"devices": ["/dev/c"]}], "Refusing to create pool llm from unlike data vdevs (data disk /dev/c and data mirror of"),
]


@pytest.mark.parametrize(("vdevs", "reason"), WEAK)
def test_a_vdev_that_weakens_the_pool_needs_its_flag(vdevs: Any, reason: str) -> None:
    assert reason in refused(plan_create(vdevs))
    allowed = plan_create(vdevs, guards=model.Guards(allow_redundancy_mismatch=True))
    assert allowed.steps[0].data.argv[:3] == ("zpool", "create", "-f")


def test_unlike_sectors_need_an_ashift_or_their_flag() -> None:
    reason = refused(plan_create(b={"sector": 4096}))
    assert "from devices with sectors of 512 and 4096 bytes" in reason
    assert "Set ashift: 12 under properties, or allow_mixed_ashift: true." in reason
    assert plan_create(b={"sector": 4096}, options={"properties": {"ashift": 12}}).changed
    assert plan_create(b={"sector": 4096}, guards=model.Guards(allow_mixed_ashift=True)).changed
    assert plan_create(n3={"sector": 4096}).changed, "a cache is of no consequence"


def test_sound_layouts_that_zfs_itself_questions_are_forced() -> None:
    raidz = {"type": "raidz1", "devices": ["/dev/a", "/dev/b", "/dev/c"]}
    assert "-f" in plan_create([raidz, NEW[2]]).steps[0].data.argv
    uneven = plan_create(b={"size": 3 << 30})
    assert "-f" in uneven.steps[0].data.argv
    assert uneven.warnings == (
        "Pool llm: the devices of the data mirror of /dev/a, /dev/b differ in size; each counts as 3 GiB, the largest has 4 GiB.",
    )


def test_what_cannot_be_created() -> None:
    assert "no vdevs are declared: declare its vdevs to have it created or imported" in refused(plan_create([]))
    assert "did you mean autotrim?" in refused(plan_create(options={"properties": {"autotrin": True}}))
    assert "guid=5 cannot be set" in refused(plan_create(options={"properties": {"guid": 5}}))


def importable(recording: str, **changes: Any) -> Any:
    (found,) = status_text.parse_importable(text(recording))
    return replace(found, **changes)


def test_an_exported_pool_is_never_created_over_and_is_the_only_reason_given() -> None:
    dirty = {"contents": ("it carries a ZFS pool named tank",)}
    vdevs = [{"type": "mirror", "devices": ["/var/tmp/h1/e", "/var/tmp/h1/f"]}]
    planned = plan_create(vdevs, e=dirty, f=dirty, importable=[importable("import-2.3.9.txt")])
    assert "/var/tmp/h1/e, /var/tmp/h1/f hold the exported pool tank (GUID 629312032337736098), which would be lost." in refused(planned)


def test_a_pool_of_the_same_name_on_other_devices_is_not_imported() -> None:
    found = importable("import-2.3.9.txt")
    same = replace(found, pool=replace(found.pool, name="llm"))
    assert "lies exported on other devices than those declared (/var/tmp/h1/e, /var/tmp/h1/f" in refused(plan_create(importable=[same]))


def plan_import(vdevs: Any, found: Any, **options: Any) -> Any:
    given = {"name": found.name, "vdevs": vdevs, **options}
    want, guards = declare.declare_pool(given), declare.declare_guards(given, rehearsal=False)
    assert life.find_importable(want, [found], IDENTITY) == [found]
    view = scene.Scene(want, found.pool, guards, IDENTITY)
    view = replace(view, candidates={path: blank(path) for path in view.arrivals})
    return plan.plan_import(view, found, ["-d", "/var/tmp"])


TANK = [{"type": "mirror", "devices": ["/var/tmp/h1/e", "/var/tmp/h1/f"]}, {"class": "spare", "devices": ["/var/tmp/h1/g"]}]


def test_an_exported_pool_is_imported_and_brought_to_what_is_declared() -> None:
    planned = plan_import([*TANK, {"class": "log", "devices": ["/dev/l"]}], importable("import-2.3.9.txt"), properties={"autotrim": True})
    assert planned.sentences == [
        "Import pool tank (GUID 629312032337736098)",
        "Set autotrim=on on pool tank, where it differs after the import",
        "Add the log disk /dev/l to pool tank",
    ]
    assert planned.steps[0].data.argv == ("zpool", "import", "-d", "/var/tmp", "629312032337736098")


def test_a_whole_disk_by_id_is_known_again() -> None:
    planned = plan_import([{"devices": ["/dev/disk/by-id/virtio-SPARE0"]}], importable("import_whole_disk-2.3.9.txt"))
    assert planned.sentences == ["Import pool wpoolw (GUID 247252773919064604)"]


OTHER = [{"type": "mirror", "devices": ["/var/tmp/pool/other/h", "/var/tmp/pool/other/i"]}]


def test_a_pool_of_another_host_needs_its_guid() -> None:
    found = importable("import_other_host-2.3.9.txt")
    reason = refused(plan_import(OTHER, found))
    assert "another host used it last and did not export it; importing a pool on two hosts destroys it." in reason
    assert "set force_import: 2949406868062827160." in reason
    assert refused(plan_import(OTHER, found, force_import="1")) == reason
    planned = plan_import(OTHER, found, force_import="2949406868062827160")
    assert commands(planned) == ["zpool import -f -d /var/tmp 2949406868062827160"]


def test_a_pool_that_another_host_uses_now_or_that_lost_too_much_is_not_imported() -> None:
    found = importable("import_other_host-2.3.9.txt")
    reason = refused(plan_import(OTHER, replace(found, in_use=True), force_import=found.guid))
    assert "another host has it imported now, as its multihost protection tells. Export it there first." in reason
    lost = replace(found, other_host=False, pool=replace(found.pool, state="UNAVAIL"))
    assert "it is UNAVAIL, too many of its devices are missing or damaged." in refused(plan_import(OTHER, lost))
