# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pool planner as tables: every difference is one step or one refusal with its reason."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Sequence

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._disk.probe import BlockDevice
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import CommandFailed, Refused, StackError, StepFailed
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs import apply_pool, model, plan_pool, read

sys.path.insert(0, str(Path(__file__).parent))
from zfs_answers import Answers

RECORDED = Path(__file__).parent / "recorded"
LLM = [
    {"type": "mirror", "devices": ["/dev/disk/by-id/virtio-SPARE0", "/dev/disk/by-id/virtio-SPARE1"]},
    {"type": "mirror", "class": "special", "devices": ["/var/tmp/h1/a", "/var/tmp/h1/b"]},
    {"class": "log", "devices": ["/var/tmp/h1/c"]},
    {"class": "cache", "devices": ["/dev/loop0"]},
    {"class": "spare", "devices": ["/var/tmp/h1/d"]},
]
FOUND_PROPERTIES = {"ashift": "12", "autotrim": "off", "guid": "77", "comment": "-", "altroot": "-", "feature@zstd_compress": "active"}


def declare(vdevs: Any, name: str = "llm", **properties: Any) -> Any:
    return model.declare_pool(name, vdevs=vdevs, properties=properties, filesystem_properties={})


def found(recording: str = "all_classes-2.3.9", name: str = "llm") -> Any:
    pool = read.parse_status((RECORDED / f"{recording}.txt").read_text())[name]
    return replace(pool, properties=FOUND_PROPERTIES)


def declared(path: str) -> Any:
    return frozenset({path, path.replace("/dev/disk/by-id/virtio-SPARE", "/dev/vd")})


def member(path: str) -> Any:
    """Every whole disk of the recordings shows its first partition."""
    return frozenset({path, path.replace("-part1", "").replace("/dev/disk/by-id/virtio-SPARE", "/dev/vd")})


def plan_found(vdevs: Any, recording: str = "all_classes-2.3.9", name: str = "llm", **properties: Any) -> Any:
    return plan_pool.plan_existing(declare(vdevs, name, **properties), found(recording, name), declared=declared, member=member)


SAME_LAYOUT = [
    ("as created", LLM),
    ("in another order", list(reversed(LLM))),
    ("by kernel names", [{"type": "mirror", "devices": ["/dev/vd1", "/dev/vd0"]}, *LLM[1:]]),
    ("by partitions", [{"type": "mirror", "devices": [f"/dev/disk/by-id/virtio-SPARE{n}-part1" for n in (0, 1)]}, *LLM[1:]]),
    ("properties only", []),
]


@pytest.mark.parametrize(("how", "vdevs"), SAME_LAYOUT, ids=[how for how, _vdevs in SAME_LAYOUT])
def test_an_unchanged_pool_is_left_alone(how: str, vdevs: Any) -> None:
    plan = plan_found(vdevs, ashift=12, comment="", **{"feature@zstd_compress": "enabled"})
    assert (plan.sentences, plan.refusals, plan.diff) == ([], (), {"before": {}, "after": {}})


TANK = [{"type": "mirror", "devices": ["/var/tmp/h1/e", "/var/tmp/h1/f"]}, {"class": "spare", "devices": ["/var/tmp/h1/g"]}]


@pytest.mark.parametrize("recording", ["offline-2.3.9", "spare_in_use-2.3.9", "lost_disk-2.3.9", "replacing-2.3.9"])
@pytest.mark.parametrize("vdevs", [TANK, TANK[::-1]])
def test_poor_health_is_no_difference(recording: str, vdevs: Any) -> None:
    plan = plan_found(vdevs, recording, "tank")
    assert (plan.sentences, plan.refusals) == ([], ())


def test_a_draid_may_be_declared_without_its_figures() -> None:
    devices = [f"/var/tmp/h1/r{n}" for n in range(1, 6)]
    for kind in ("draid", "draid1:2d", "draid1:1s:2d"):
        assert plan_found([{"type": kind, "devices": devices}], "raidz_draid_removed-2.3.9", "h1dr").refusals == ()


def test_a_property_is_set_and_shown() -> None:
    plan = plan_found(LLM, autotrim=True, comment="models")
    assert plan.sentences == ["Set autotrim=on (was off) on pool llm", "Set comment=models (was -) on pool llm"]
    assert plan.diff == {
        "before": {"llm": {"autotrim": "off", "comment": "-"}},
        "after": {"llm": {"autotrim": "on", "comment": "models"}},
    }


DIFFERENT_LAYOUT = [
    (
        [*LLM, {"class": "cache", "devices": ["/dev/loop1"]}],
        (
            "Refusing to add the declared cache disk /dev/loop1 to pool llm: this module creates pools and does not extend them yet. Check"
            " it with `zpool add -n llm cache /dev/loop1`"
        ),
    ),
    (
        LLM[:3] + LLM[4:],
        (
            "Refusing to remove cache disk /dev/loop0 from pool llm: it is in the pool but not declared, and what is missing from the"
            " variables is never removed."
        ),
    ),
    (
        [{"type": "mirror", "devices": [*LLM[0]["devices"], "/dev/x"]}, *LLM[1:]],
        "Refusing to attach /dev/x to data mirror-0",
    ),
    (
        [{"type": "mirror", "devices": [LLM[0]["devices"][0], "/dev/x"]}, *LLM[1:]],
        (
            "Refusing to exchange /dev/disk/by-id/virtio-SPARE1-part1 for /dev/x in mirror-0 of pool llm: this module does not replace"
            " disks yet. Run `zpool replace llm /dev/disk/by-id/virtio-SPARE1-part1 /dev/x`"
        ),
    ),
    (
        [{"type": "stripe", "devices": LLM[0]["devices"][:1]}, *LLM[1:]],
        "Refusing to detach /dev/disk/by-id/virtio-SPARE1-part1 from data mirror-0",
    ),
    (
        [{"type": "raidz1", "devices": LLM[0]["devices"]}, *LLM[1:]],
        (
            "Refusing to turn data mirror-0 (/dev/disk/by-id/virtio-SPARE0-part1, /dev/disk/by-id/virtio-SPARE1-part1) of pool llm into a"
            " raidz1: ZFS never changes the type of a vdev. Declare it with type mirror."
        ),
    ),
    (
        [LLM[0], {**LLM[1], "class": "dedup"}, *LLM[2:]],
        "of pool llm a dedup vdev: ZFS never changes the class of a vdev. Declare it with class special.",
    ),
]


@pytest.mark.parametrize(("vdevs", "text"), DIFFERENT_LAYOUT)
def test_every_other_difference_is_one_refusal(vdevs: Any, text: str) -> None:
    plan = plan_found(vdevs, autotrim=True)
    assert [text in refusal.reason for refusal in plan.refusals] == [True]
    assert not plan.changed
    with pytest.raises(Refused):
        plan.raise_if_refused()


BAD_PROPERTIES = [
    ({"guid": 5}, "Refusing to set guid=5 on pool llm: ZFS only reports guid, which is 77 now. Remove it from properties."),
    ({"autotrimm": True}, "ZFS on this host knows no pool property 'autotrimm' (pool llm): did you mean autotrim?"),
    ({"altroot": "/mnt"}, "ZFS takes altroot only when it imports a pool. Run `zpool export llm`"),
    ({"feature@zstd_compress": "disabled"}, "ZFS never disables a feature. Remove it from properties."),
]


@pytest.mark.parametrize(("properties", "text"), BAD_PROPERTIES)
def test_properties_that_cannot_be_set(properties: Any, text: str) -> None:
    plan = plan_found(LLM, **properties)
    assert [text in refusal.reason for refusal in plan.refusals] == [True]
    assert not plan.changed


def candidates(want: Any, **changes: Any) -> Any:
    """A blank device for each declared path; changes by the last part of the path."""
    made = {}
    for path in want.devices:
        last = path.rsplit("/", 1)[-1]
        given = changes.get(last, {})
        device = BlockDevice(path=path, real=given.pop("real", path), kind=given.pop("kind", "disk"), size=given.pop("size", 1 << 32))
        extra = {name: given.pop(name) for name in ("contents", "pool", "near") if name in given}
        made[path] = plan_pool.Candidate(replace(device, **given), **extra)
    return made


NEW = [
    {"type": "mirror", "devices": ["/dev/a", "/dev/b"]},
    {"type": "mirror", "devices": ["/dev/c", "/dev/d"]},
    {"type": "mirror", "class": "special", "devices": ["/dev/n1", "/dev/n2"]},
    {"type": "mirror", "class": "log", "devices": ["/dev/l1", "/dev/l2"]},
    {"class": "cache", "devices": ["/dev/n3"]},
]


def plan_create(
    vdevs: Any = None,
    *,
    importable: Any = (),
    guards: Any = None,
    properties: Any = None,
    filesystem_properties: Any = None,
    **changes: Any,
) -> Any:
    want = model.declare_pool(
        "llm",
        vdevs=NEW if vdevs is None else vdevs,
        properties=properties or {},
        filesystem_properties=filesystem_properties or {},
    )
    return plan_pool.plan_new(want, importable, candidates(want, **changes), guards or plan_pool.Guards())


def test_creation_is_one_command() -> None:
    plan = plan_create(properties={"ashift": 12}, filesystem_properties={"atime": False})
    assert [step.action for step in plan.steps] == ["create"]
    assert " ".join(plan.steps[0].data.argv) == (
        "zpool create -o ashift=12 -O atime=off llm mirror /dev/a /dev/b mirror /dev/c /dev/d special mirror /dev/n1 /dev/n2"
        " log mirror /dev/l1 /dev/l2 cache /dev/n3"
    )
    assert plan.before == {"llm": None}
    assert plan.after["llm"]["properties"] == {"ashift": "12"}
    assert plan.warnings == ()


def test_a_named_device_is_erased_first() -> None:
    dirty = {"contents": ("it carries ext4",), "real": "/dev/sdb"}
    plan = plan_create(b=dirty, guards=plan_pool.Guards(wipe=frozenset({"/dev/sdb"})))
    assert plan.sentences[0] == "Erase /dev/b, which is named in wipe (it carries ext4)"
    assert [step.action for step in plan.steps] == ["wipe", "create"]


def test_a_pending_device_may_be_missing() -> None:
    plan = plan_create(n1={"kind": "missing"}, guards=plan_pool.Guards(pending=frozenset({"/dev/n1"})))
    assert [step.action for step in plan.steps] == ["create"]


UNFIT = [
    (
        {"b": {"kind": "missing", "near": ("b2",)}},
        "Pool llm: the device /dev/b does not exist. Attach it or correct its path under vdevs (beside it there is b2).",
    ),
    ({"b": {"kind": "missing"}}, "Pool llm: the device /dev/b does not exist. Attach it or correct its path under vdevs."),
    ({"b": {"kind": "other"}}, "Pool llm: /dev/b is neither a block device nor a file"),
    ({"b": {"read_only": True}}, "Pool llm: the device /dev/b is read-only"),
    (
        {"b": {"mountpoints": ("/srv",)}},
        (
            "Refusing to take /dev/b into pool llm: it is mounted on /srv. Stop what uses it, or name another device under vdevs; wipe does"
            " not override this."
        ),
    ),
    ({"b": {"holders": ("/dev/md0",)}}, "it is held by /dev/md0. Stop what uses it"),
    ({"b": {"busy": True}}, "it is in use (an imported pool, a mount, RAID, LVM or an iSCSI target holds it)"),
    ({"b": {"pool": "tank"}}, "it belongs to the imported pool tank. Stop what uses it"),
    (
        {"b": {"contents": ("it carries a ZFS pool named old",)}},
        (
            "Refusing to take /dev/b into pool llm: it carries a ZFS pool named old, which would be lost. Name another device under vdevs"
            " or, if nothing on it is needed, add /dev/b to wipe."
        ),
    ),
    ({"b": {"real": "/dev/a"}}, "Pool llm: /dev/a and /dev/b are the same device: list it once under vdevs."),
    ({"b": {"parent": "/dev/a"}}, "Pool llm: /dev/b is a partition of /dev/a: list the disk or its partitions, not both."),
]


@pytest.mark.parametrize(("changes", "text"), UNFIT)
def test_unfit_devices_are_refused(changes: dict[str, Any], text: str) -> None:
    plan = plan_create(**{name: dict(change) for name, change in changes.items()})
    assert [text in refusal.reason for refusal in plan.refusals] == [True]
    assert not plan.changed


@pytest.mark.parametrize("use", [{"mountpoints": ("/srv",)}, {"busy": True}, {"pool": "tank"}])
def test_wipe_does_not_override_use(use: dict[str, Any]) -> None:
    plan = plan_create(b={**use, "contents": ("it carries ext4",)}, guards=plan_pool.Guards(wipe=frozenset({"/dev/b"})))
    assert len(plan.refusals) == 1
    assert not plan.changed


def test_an_exported_pool_is_never_created_anew_and_is_the_only_reason_given() -> None:
    dirty = {"contents": ("it carries a ZFS pool named llm",)}
    guards = plan_pool.Guards(wipe=frozenset({"/dev/a"}))
    plan = plan_create(a=dirty, b=dict(dirty), importable=[model.Importable("llm", "42")], guards=guards)
    assert [refusal.reason for refusal in plan.refusals] == [
        (
            "Refusing to create pool llm: a pool of that name (id 42) lies exported on attached disks, and creating it anew could destroy"
            " it. Import it with `zpool import 42` and run again, or choose another name."
        )
    ]
    assert not plan.changed


WEAK = [
    (
        [*NEW[:2], {"class": "special", "devices": ["/dev/n1"]}],
        (
            "Refusing to create pool llm with the special disk /dev/n1: losing 1 of its devices loses the whole pool, while the data vdevs"
            " survive 1. Make it a mirror of 2 devices, or set allow_redundancy_mismatch: true if you accept that."
        ),
    ),
    (
        [{"type": "raidz2", "devices": ["/dev/a", "/dev/b", "/dev/c", "/dev/d"]}, NEW[2]],
        "losing 2 of its devices loses the whole pool, while the data vdevs survive 2. Make it a mirror of 3 devices",
    ),
    ([NEW[0], {"devices": ["/dev/c"]}], "Refusing to create pool llm from unlike data vdevs (data disk /dev/c and data mirror of"),
]


@pytest.mark.parametrize(("vdevs", "text"), WEAK)
def test_a_vdev_that_weakens_the_pool_needs_its_flag(vdevs: Any, text: str) -> None:
    plan = plan_create(vdevs)
    assert [text in refusal.reason for refusal in plan.refusals] == [True]
    allowed = plan_create(vdevs, guards=plan_pool.Guards(allow_redundancy_mismatch=True))
    assert allowed.steps[0].data.argv[:3] == ("zpool", "create", "-f")


def test_sound_layouts_that_zfs_itself_questions_are_forced() -> None:
    raidz = {"type": "raidz1", "devices": ["/dev/a", "/dev/b", "/dev/c"]}
    assert "-f" in plan_create([raidz, NEW[2]]).steps[0].data.argv
    uneven = plan_create(b={"size": 3 << 30})
    assert "-f" in uneven.steps[0].data.argv
    assert uneven.warnings == (
        "Pool llm: the devices of the data mirror of /dev/a, /dev/b differ in size; each counts as 3 GiB, the largest has 4 GiB.",
    )


def test_a_single_log_is_worth_a_warning() -> None:
    plan = plan_create([NEW[0], {"class": "log", "devices": ["/dev/l"]}])
    assert plan.changed
    assert "the log disk /dev/l has no mirror" in plan.warnings[0]


def test_what_cannot_be_created() -> None:
    assert "no vdevs are declared: declare its vdevs to create it" in plan_create([]).refusals[0].reason
    assert "did you mean autotrim?" in plan_create(properties={"autotrin": True}).refusals[0].reason
    assert "guid=5 cannot be set" in plan_create(properties={"guid": 5}).refusals[0].reason


LSBLK = '{"blockdevices": []}'
STATUS = (RECORDED / "all_classes-2.3.9.txt").read_text()
GET = "\n".join(f"{name}\t{value}" for name, value in FOUND_PROPERTIES.items())


def keeper(answers: Any, vdevs: Any, tmp_path: Path, *, rehearsal: bool = False, missing: Sequence[str] = ()) -> Any:
    for name in "ab":
        (tmp_path / name).touch()
    entries = [{**vdev, "devices": [str(tmp_path / device) for device in vdev["devices"]]} for vdev in vdevs]
    runner = Answers({"lsblk": (0, LSBLK, ""), "wipefs --json": (0, "", ""), **answers}, missing=missing)
    return runner, apply_pool.PoolKeeper(runner, declare(entries), plan_pool.Guards(), rehearsal=rehearsal)


ONE = [{"type": "mirror", "devices": ["a", "b"]}]
NONE = (0, "no pools available\n", "")
NO_IMPORT = (1, "", "no pools available to import\n")


def test_no_op_is_two_processes() -> None:
    runner = Answers({"zpool status": (0, STATUS, ""), "zpool get": (0, GET, "")})
    keep = apply_pool.PoolKeeper(runner, declare([], ashift=12), plan_pool.Guards(), rehearsal=False)
    assert not keep.plan().changed
    assert keep.report()["pool"]["health"] == "ONLINE"
    assert runner.ran == ["zpool status -P", "zpool get -H -p -o property,value all llm"]


def test_check_mode_works_before_zfs_is_installed(tmp_path: Path) -> None:
    _runner, keep = keeper({}, ONE, tmp_path, rehearsal=True, missing=["zpool"])
    plan = keep.plan()
    assert plan.changed
    assert "zpool is not installed" in plan.warnings[0]
    assert keep.report()["pool"] is None
    _runner, keep = keeper({}, ONE, tmp_path, missing=["zpool"])
    with pytest.raises(StackError, match="zpool is not installed on this host: install zfsutils-linux"):
        keep.plan()


def test_files_are_looked_for_in_exported_pools(tmp_path: Path) -> None:
    answers = {"zpool status": NONE, "zpool import": NO_IMPORT, f"zpool import -d {tmp_path}": (0, "  pool: llm\n    id: 9\n", "")}
    _runner, keep = keeper(answers, ONE, tmp_path)
    assert "Import it with `zpool import 9`" in keep.plan().refusals[0].reason


def test_a_create_that_udev_disturbed_is_tried_again(tmp_path: Path) -> None:
    busy = (1, "", "cannot create 'llm': one or more devices is currently unavailable")
    runner, keep = keeper({"zpool status": NONE, "zpool import": NO_IMPORT, "zpool create": [busy, (0, "", "")]}, ONE, tmp_path)
    keep.plan().carry_out(keep.do)
    assert sum(command.startswith("zpool create") for command in runner.ran) == 2


def test_a_failed_create_leaves_blank_devices(tmp_path: Path) -> None:
    label = (0, '{"signatures": [{"type": "zfs_member"}]}', "")
    answers = {"zpool status": NONE, "zpool import": NO_IMPORT, "zpool create": (1, "", "no such property")}
    answers["wipefs --json"] = [(0, "", ""), (0, "", ""), label]
    runner, keep = keeper(answers, ONE, tmp_path)
    with pytest.raises(StepFailed, match="Nothing was changed before it"):
        keep.plan().carry_out(keep.do)
    assert [command for command in runner.ran if "--all" in command] == [f"wipefs --all --force {tmp_path / name}" for name in "ab"]


def test_a_pool_that_exists_after_a_failed_create_is_not_erased(tmp_path: Path) -> None:
    answers = {"zpool status": [NONE, (0, STATUS, "")], "zpool import": NO_IMPORT, "zpool create": (1, "", "cannot mount")}
    runner, keep = keeper(answers, ONE, tmp_path)
    with pytest.raises(StepFailed, match="the pool was created, but not all that follows was done: cannot mount"):
        keep.plan().carry_out(keep.do)
    assert not any("--all" in command or "labelclear" in command for command in runner.ran)


def test_a_failing_set_says_what_is_left() -> None:
    answers = {"zpool status": (0, STATUS, ""), "zpool get": (0, GET, ""), "zpool set comment": (1, "", "no space")}
    keep = apply_pool.PoolKeeper(
        Answers(answers), declare([], autotrim=True, comment="x", altroot="-"), plan_pool.Guards(), rehearsal=False
    )
    with pytest.raises(StepFailed) as caught:
        keep.plan().carry_out(keep.do)
    assert caught.value.done == ("Set autotrim=on (was off) on pool llm",)
    assert isinstance(caught.value.__cause__, CommandFailed)
