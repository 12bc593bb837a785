# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pool planner on recorded pools: poor health is no difference, every difference is one step or one refusal."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._disk.probe import BlockDevice
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import Refused
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.pool import declare, devices, match, model, plan, read, scene
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.pool.advise import Host

sys.path.insert(0, str(Path(__file__).parent))
from test_pool_read import status

LLM = [
    {"type": "mirror", "devices": ["/dev/disk/by-id/virtio-SPARE0", "/dev/disk/by-id/virtio-SPARE1"]},
    {"type": "mirror", "class": "special", "devices": ["/var/tmp/h1/a", "/var/tmp/h1/b"]},
    {"class": "log", "devices": ["/var/tmp/h1/c"]},
    {"class": "cache", "devices": ["/dev/loop0"]},
    {"class": "spare", "devices": ["/var/tmp/h1/d"]},
]
TANK = [{"type": "mirror", "devices": ["/var/tmp/h1/e", "/var/tmp/h1/f"]}, {"class": "spare", "devices": ["/var/tmp/h1/g"]}]
FOUND = {"ashift": "12", "autotrim": "off", "guid": "77", "comment": "-", "altroot": "-", "checkpoint": "-", "version": "-"}
FEATURES = {"feature@zstd_compress": "active", "feature@device_removal": "enabled", "feature@raidz_expansion": "enabled"}
FEATURES["feature@allocation_classes"] = "enabled"


def declared(path: str) -> Any:
    return frozenset({path, path.replace("/dev/disk/by-id/virtio-SPARE", "/dev/vd")})


def member(path: str) -> Any:
    """Every whole disk of the recordings shows its first partition."""
    return frozenset({path, path.replace("-part1", "").replace("/dev/disk/by-id/virtio-SPARE", "/dev/vd")})


IDENTITY = match.Identity(declared, member)


def blank(path: str, **changes: Any) -> Any:
    extra = {name: changes.pop(name) for name in ("contents", "pool", "near") if name in changes}
    device = BlockDevice(path=path, real=path, kind="disk", size=1 << 32)
    return devices.Candidate(replace(device, **changes), **extra)


def plan_found(
    vdevs: Any,
    recording: str = "all_classes-2.3.9.txt",
    name: str = "llm",
    *,
    found: Any = None,
    ashifts: Any = None,
    sector: int = 512,
    logical: int = 512,
    room: int = 0,
    host: Any = None,
    there: Any = None,
    **options: Any,
) -> Any:
    """The plan for a recorded pool; devices that are not in it are blank disks."""
    given = {"name": name, "vdevs": vdevs, **options}
    want, guards = declare.declare_pool(given), declare.declare_guards(given, rehearsal=False)
    have = replace(status(recording)[name], properties={**FOUND, **FEATURES, **(found or {})})
    geometry = {name: read.Geometry(shift, room) for name, shift in (ashifts or {}).items()}
    view = scene.Scene(want, have, guards, IDENTITY, geometry=geometry)
    view = replace(view, candidates={path: blank(path, sector=sector, logical=logical) for path in view.arrivals} | (there or {}))
    return plan.plan_existing(view, host or Host())


def commands(planned: Any) -> list[str]:
    assert planned.refusals == ()
    return [" ".join(step.data.argv) for step in planned.steps]


def refused(planned: Any) -> str:
    """The one refusal."""
    assert len(planned.refusals) == 1, [refusal.reason for refusal in planned.refusals]
    assert not planned.changed
    with pytest.raises(Refused):
        planned.raise_if_refused()
    return planned.refusals[0].reason


SAME_LAYOUT = [
    ("as created", LLM),
    ("in another order", list(reversed(LLM))),
    ("by kernel names", [{"type": "mirror", "devices": ["/dev/vd1", "/dev/vd0"]}, *LLM[1:]]),
    ("by partitions", [{"type": "mirror", "devices": [f"/dev/disk/by-id/virtio-SPARE{n}-part1" for n in (0, 1)]}, *LLM[1:]]),
    ("properties only", []),
]


@pytest.mark.parametrize(("how", "vdevs"), SAME_LAYOUT, ids=[how for how, _vdevs in SAME_LAYOUT])
def test_an_unchanged_pool_is_left_alone(how: str, vdevs: Any) -> None:
    planned = plan_found(vdevs, properties={"ashift": 12, "comment": "", "feature@zstd_compress": "enabled"})
    assert (planned.sentences, planned.refusals, planned.diff) == ([], (), {"before": {}, "after": {}})


HEALTH = ["offline-2.3.9.txt", "spare_in_use-2.3.9.txt", "lost_disk-2.3.9.txt", "replacing-2.3.9.txt"]


@pytest.mark.parametrize("recording", HEALTH)
@pytest.mark.parametrize("vdevs", [TANK, TANK[::-1]])
def test_poor_health_is_no_difference(recording: str, vdevs: Any) -> None:
    assert commands(plan_found(vdevs, recording, "tank")) == []


def test_a_spare_in_use_and_a_replacement_below_it_are_no_difference() -> None:
    vdevs = [
        {"type": "mirror", "devices": ["/var/tmp/pool/g", "/var/tmp/pool/b"]},
        {"class": "spare", "devices": ["/var/tmp/pool/f"]},
    ]
    for form in ("txt", "json"):
        assert commands(plan_found(vdevs, f"replacing_below_spare-2.3.9.{form}", "wpoola")) == []


def test_a_draid_may_be_declared_without_its_figures_and_with_its_spare_in_use() -> None:
    five = [f"/var/tmp/h1/r{n}" for n in range(1, 6)]
    for kind in ("draid", "draid1:2d", "draid1:1s:2d"):
        assert commands(plan_found([{"type": kind, "devices": five}], "raidz_draid_removed-2.3.9.txt", "h1dr")) == []
    four = [f"/var/tmp/pool/{letter}" for letter in "cdej"]
    assert commands(plan_found([{"type": "draid1:2d:4c:1s", "devices": four}], "draid_spared-2.3.9.json", "wpoold")) == []


def test_a_vdev_that_is_being_removed_is_as_good_as_gone() -> None:
    vdevs = [{"devices": ["/var/tmp/pool/p", "/var/tmp/pool/r"]}]
    assert commands(plan_found(vdevs, "removing-2.3.9.json", "wpoolb", allow_remove=["/var/tmp/pool/q"])) == []


def test_a_property_is_set_and_shown() -> None:
    planned = plan_found(LLM, properties={"autotrim": True, "comment": "models", "org.x:note": "y"})
    assert planned.sentences == [
        "Set autotrim=on (was off) on pool llm",
        "Set comment=models (was -) on pool llm",
        "Set org.x:note=y (was -) on pool llm",
    ]
    assert planned.diff == {
        "before": {"llm": {"autotrim": "off", "comment": "-", "org.x:note": "-"}},
        "after": {"llm": {"autotrim": "on", "comment": "models", "org.x:note": "y"}},
    }


def swapped(place: int, **changes: Any) -> Any:
    return [{**vdev, **(changes if index == place else {})} for index, vdev in enumerate(LLM)]


NOT_DONE = [
    (
        LLM[:3] + LLM[4:],
        {},
        (
            "Refusing to remove cache disk /dev/loop0 from pool llm: it is in the pool but not declared, and what is missing from the"
            " variables is never removed. List it under vdevs, or name it in allow_remove: [/dev/loop0]."
        ),
    ),
    (
        swapped(0, type="stripe", devices=LLM[0]["devices"][:1]),
        {},
        "it is in the pool but not declared, and what is missing from the variables is never removed. List it under vdevs, or name it in"
        " allow_remove: [/dev/disk/by-id/virtio-SPARE1-part1].",
    ),
    (
        swapped(0, type="stripe", devices=LLM[0]["devices"][:1]),
        {"allow_remove": ["/dev/vd1"]},
        "losing 1 of the devices that stay would lose the whole pool. Declare a disk in its place, or set allow_redundancy_mismatch: true",
    ),
    (
        swapped(0, type="raidz1"),
        {},
        (
            "Refusing to turn data mirror-0 (/dev/disk/by-id/virtio-SPARE0-part1, /dev/disk/by-id/virtio-SPARE1-part1) of pool llm into a"
            " raidz1: ZFS never changes the type of a vdev. Declare it with type mirror."
        ),
    ),
    (swapped(1, **{"class": "dedup"}), {}, "a dedup vdev: ZFS never changes the class of a vdev. Declare it with class special."),
    (
        swapped(2, **{"class": "cache"}),
        {},
        "Declare it with class log, or take it out of the pool first: leave it out of vdevs and name it in allow_remove: [/var/tmp/h1/c].",
    ),
    (
        [*LLM, {"class": "special", "devices": ["/dev/x"]}],
        {},
        "Refusing to add the special disk /dev/x to pool llm: losing 1 of its devices loses the whole pool",
    ),
    (
        [*LLM, {"type": "raidz1", "devices": ["/dev/x", "/dev/y", "/dev/z"]}],
        {},
        "and data vdevs should be alike; what is added can hardly be taken out again. Make it like them, or set allow_redundancy_mismatch",
    ),
    (
        [*LLM, {"type": "mirror", "devices": ["/dev/x", "/dev/y"]}],
        {"found": {"ashift": "9"}, "ashifts": {"#0": 12, "#1": 12}},
        "it would get ashift=9, and the vdevs of the pool have ashift=12; a pool of mixed sector sizes can have no vdev removed.",
    ),
    (
        swapped(0, devices=[*LLM[0]["devices"], "/dev/x"]),
        {"ashifts": {"#0": 9}, "sector": 4096},
        "its sectors have 4096 bytes, and the vdev writes 512 (ashift=9), so that each write would first be read.",
    ),
    (
        swapped(0, devices=[*LLM[0]["devices"], "/dev/x"]),
        {"ashifts": {"#0": 9}, "sector": 4096, "logical": 4096, "allow_mixed_ashift": True},
        "its sectors have 4096 bytes, and ZFS cannot write the 512 bytes of ashift=9 to it. Use another disk.",
    ),
    (
        swapped(0, devices=["/dev/disk/by-id/virtio-SPARE0", "/dev/x"]),
        {"ashifts": {"#0": 12}, "room": 1 << 33},
        "Refusing to take /dev/x into mirror-0 of pool llm: it has 4 GiB, of which ZFS can use",
    ),
    (
        swapped(0, devices=[*LLM[0]["devices"], "/dev/x"]),
        {"found": {"checkpoint": "4096"}},
        "it has a checkpoint, and ZFS attaches, replaces and removes nothing until that is given up. Run `zpool checkpoint -d llm`",
    ),
    (
        [*LLM[:3], LLM[4], {"class": "cache", "devices": ["/dev/x"]}],
        {"allow_remove": ["/dev/loop0"], "checkpoint_before_add": True},
        "Refusing to add and remove vdevs of pool llm at once with checkpoint_before_add",
    ),
    (
        [*LLM, {"type": "mirror", "class": "dedup", "devices": ["/dev/x", "/dev/y"]}],
        {"found": {"feature@allocation_classes": "disabled"}},
        "feature@allocation_classes is disabled on pool llm, and a dedup vdev needs it: set feature@allocation_classes: enabled under",
    ),
    (LLM, {"properties": {"guid": 5}}, "Refusing to set guid=5 on pool llm: ZFS only reports guid, which is 77 now."),
    (LLM, {"properties": {"autotrimm": True}}, "ZFS on this host knows no pool property 'autotrimm' (pool llm): did you mean autotrim?"),
    (LLM, {"properties": {"altroot": "/mnt"}}, "ZFS takes altroot only when it imports a pool. Run `zpool export llm`"),
    (LLM, {"properties": {"feature@zstd_compress": "disabled"}}, "ZFS never disables a feature. Remove it from properties."),
    (
        LLM,
        {"properties": {"ashift": 13}},
        "its vdevs have ashift=12, which ZFS fixes when a vdev is created. Declare ashift: 12; another needs a new pool",
    ),
    (LLM, {"properties": {"ashift": 13}, "ashifts": {"#0": 9}}, "its vdevs have ashift=9, which ZFS fixes when a vdev is created."),
    (LLM, {"properties": {"version": 28}}, "set upgrade: true to move it to feature flags"),
    (LLM, {"offline": ["/dev/vd7"]}, "Pool llm has no device /dev/vd7: correct it under offline."),
    (LLM, {"online": ["/dev/vd7"]}, "Pool llm has no device /dev/vd7: correct it under online."),
    (LLM, {"offline": ["/dev/loop0"]}, "Refusing to take /dev/loop0 of pool llm offline: ZFS does so with no cache."),
    (
        LLM,
        {"offline": ["/dev/vd0", "/dev/vd1"]},
        "(/dev/disk/by-id/virtio-SPARE0-part1, /dev/disk/by-id/virtio-SPARE1-part1) survives the loss of 1, and 2 would be missing.",
    ),
]


@pytest.mark.parametrize(("vdevs", "options", "text"), NOT_DONE)
def test_what_is_not_done_is_refused_and_nothing_beside_it_is_done(vdevs: Any, options: Any, text: str) -> None:
    options = dict(options)
    options["properties"] = {"comment": "x", **options.get("properties", {})}
    planned = plan_found(vdevs, **options)
    assert all(text in refusal.reason for refusal in planned.refusals), planned.refusals
    assert planned.refusals
    assert not planned.changed


RAIDZ = [
    {"type": "raidz2", "devices": [f"/var/tmp/h1/r{n}" for n in range(1, 5)]},
    {"type": "mirror", "class": "dedup", "devices": ["/var/tmp/h1/r5", "/var/tmp/h1/r6"]},
    {"type": "mirror", "class": "special", "devices": ["/var/tmp/h1/r7", "/var/tmp/h1/r8"]},
    {"type": "mirror", "class": "log", "devices": ["/var/tmp/h1/r9", "/var/tmp/h1/ra"]},
    {"class": "cache", "devices": ["/dev/loop0"]},
]
WIDER = [{**RAIDZ[0], "devices": [*RAIDZ[0]["devices"], "/dev/x"]}, *RAIDZ[1:]]


def plan_raidz(vdevs: Any, **options: Any) -> Any:
    return plan_found(vdevs, "raidz_draid_removed-2.3.9.txt", "h1rz", **options)


NOT_WITH_RAIDZ = [
    (
        RAIDZ[:2] + RAIDZ[3:],
        {"allow_remove": ["mirror-2"]},
        "ZFS removes no special vdev from a pool that has a raidz or draid",
    ),
    (
        [{**RAIDZ[0], "devices": RAIDZ[0]["devices"][:3]}, *RAIDZ[1:]],
        {"allow_remove": ["/var/tmp/h1/r4"]},
        "Refusing to detach /var/tmp/h1/r4 from data raidz2-0",
    ),
    (
        [{**RAIDZ[0], "devices": [*RAIDZ[0]["devices"], "/dev/x", "/dev/y"]}, *RAIDZ[1:]],
        {},
        "a raidz takes one disk at a time. Declare /dev/x first, and the next when the expansion has ended.",
    ),
    (WIDER, {"found": {"feature@raidz_expansion": "disabled"}}, "and a wider raidz needs it: set feature@raidz_expansion: enabled"),
    (
        [*RAIDZ[:3], {"class": "log", "devices": ["/var/tmp/h1/r9"]}, RAIDZ[4]],
        {"allow_remove": ["/var/tmp/h1/ra"]},
        "losing 1 of the devices that stay would lose the last synchronous writes if the host fails with it.",
    ),
]


@pytest.mark.parametrize(("vdevs", "options", "text"), NOT_WITH_RAIDZ)
def test_what_a_raidz_cannot(vdevs: Any, options: Any, text: str) -> None:
    assert text in refused(plan_raidz(vdevs, **options))


def test_a_raidz_of_an_older_zfs_does_not_grow() -> None:
    have = status("form_of_2.1.txt")["tank"]
    given = {"name": "tank", "vdevs": [{"type": "raidz1", "devices": [f"/dev/disk/by-id/ata-{each}" for each in "ABCD"]}]}
    view = scene.Scene(
        declare.declare_pool(given), replace(have, properties=FOUND | {"feature@draid": "enabled"}), model.Guards(), IDENTITY
    )
    reasons = [refusal.reason for refusal in plan.plan_existing(view, Host()).refusals]
    assert any("ZFS on this host has no raidz_expansion, which a wider raidz needs: upgrade ZFS" in reason for reason in reasons)


def test_no_second_expansion_while_one_is_under_way() -> None:
    vdevs = [{"type": "raidz1", "devices": [f"/var/tmp/pool/{letter}" for letter in "cdefg"]}]
    text = refused(plan_found(vdevs, "expanding-2.3.9.json", "wpoolc"))
    assert "raidz1-0 is still being expanded. Wait for it with `zpool wait -t raidz_expand wpoolc`" in text


def test_a_suspended_pool_is_told_and_not_written_to() -> None:
    given = {"name": "llm", "vdevs": LLM}
    have = replace(status("all_classes-2.3.9.txt")["llm"], properties={**FOUND, **FEATURES}, state="SUSPENDED")
    for properties, sentences in (({}, []), ({"autotrim": True}, ["Refusing to change pool llm: it is SUSPENDED, and every command"])):
        want = declare.declare_pool({**given, "properties": properties})
        planned = plan.plan_existing(scene.Scene(want, have, model.Guards(), IDENTITY), Host())
        assert [refusal.reason[:61] for refusal in planned.refusals] == [text[:61] for text in sentences]
        assert not planned.changed


@pytest.mark.parametrize("declared", ["enabled", "active"])
def test_a_feature_that_the_same_run_enables_may_be_used(declared: str) -> None:
    planned = plan_raidz(WIDER, found={"feature@raidz_expansion": "disabled"}, properties={"feature@raidz_expansion": declared})
    assert commands(planned) == ["zpool set feature@raidz_expansion=enabled h1rz", "zpool attach h1rz raidz2-0 /dev/x"]


def test_a_disk_that_has_just_the_room_is_taken() -> None:
    usable = (1 << 32) - 9 * 1024 * 1024 - 4608 * 1024
    same = swapped(0, devices=["/dev/disk/by-id/virtio-SPARE0", "/dev/x"])
    assert len(commands(plan_found(same, ashifts={"#0": 12}, room=usable))) == 1
    assert "Use a larger one." in refused(plan_found(same, ashifts={"#0": 12}, room=usable + 1))


def test_what_the_flags_allow() -> None:
    single = plan_found(swapped(0, type="stripe", devices=LLM[0]["devices"][:1]), allow_remove=["/dev/vd1"], allow_redundancy_mismatch=True)
    assert commands(single) == ["zpool detach llm /dev/disk/by-id/virtio-SPARE1-part1"]
    special = plan_found([*LLM, {"class": "special", "devices": ["/dev/x"]}], allow_redundancy_mismatch=True)
    assert commands(special) == ["zpool add -f llm special /dev/x"]
    coarse = plan_found(
        swapped(0, devices=[*LLM[0]["devices"], "/dev/x"]), ashifts={"#0": 9}, sector=4096, allow_mixed_ashift=True, found={"ashift": "9"}
    )
    assert commands(coarse) == ["zpool attach -o ashift=9 llm /dev/disk/by-id/virtio-SPARE0-part1 /dev/x"]


def test_what_is_added_gets_the_sectors_that_the_pool_has() -> None:
    planned = plan_found([*LLM, {"type": "mirror", "devices": ["/dev/x", "/dev/y"]}], found={"ashift": "0"}, ashifts={"#0": 12, "#1": 12})
    assert commands(planned) == ["zpool add -o ashift=12 llm mirror /dev/x /dev/y"]


def test_a_lost_disk_is_replaced_by_its_guid() -> None:
    vdevs = [{"type": "mirror", "devices": ["/var/tmp/h1/e", "/dev/x"]}, TANK[1]]
    assert commands(plan_found(vdevs, "lost_disk-2.3.9.txt", "tank")) == ["zpool replace tank 8650879329510384377 /dev/x"]


def test_a_blank_disk_in_the_place_of_a_lost_one_replaces_it() -> None:
    lost = "/var/tmp/h1/f"
    planned = plan_found(TANK, "lost_disk-2.3.9.txt", "tank", there={lost: blank(lost)})
    assert commands(planned) == [f"zpool replace tank 8650879329510384377 {lost}"]
    back = plan_found(TANK, "lost_disk-2.3.9.txt", "tank", there={lost: blank(lost, contents=("it carries a ZFS pool named tank",))})
    assert commands(back) == []
    assert (
        "is lost to the pool, and in its place there is a device: it carries a ZFS pool named tank. If it is a new one, add"
        in back.warnings[0]
    )
    dirty = plan_found(TANK, "lost_disk-2.3.9.txt", "tank", wipe=[lost], there={lost: blank(lost, contents=("it carries ext4",))})
    assert [step.action for step in dirty.steps] == ["wipe", "replace"]
    assert commands(plan_found(TANK, "lost_disk-2.3.9.txt", "tank", there={lost: blank(lost, kind="missing")})) == []


def test_a_third_disk_waits_for_a_replacement_under_way() -> None:
    vdevs = [{"type": "mirror", "devices": ["/var/tmp/h1/e", "/dev/x"]}, TANK[1]]
    assert "another replacement of it is under way. Wait for it with `zpool wait -t replace tank`" in refused(
        plan_found(vdevs, "replacing-2.3.9.txt", "tank")
    )


def test_a_spare_keeps_the_place_it_stands_in_when_the_failed_device_may_go() -> None:
    vdevs = [{"type": "mirror", "devices": ["/var/tmp/h1/g", "/var/tmp/h1/f"]}]
    text = refused(plan_found(vdevs, "spare_in_use-2.3.9.txt", "tank"))
    assert "let the spare /var/tmp/h1/g keep its place: name it in allow_remove: [/var/tmp/h1/e]" in text
    planned = plan_found(vdevs, "spare_in_use-2.3.9.txt", "tank", allow_remove=["/var/tmp/h1/e"])
    assert commands(planned) == ["zpool detach tank /var/tmp/h1/e"]


def test_a_spare_in_use_is_not_removed() -> None:
    text = refused(plan_found(TANK[:1], "spare_in_use-2.3.9.txt", "tank", allow_remove=["/var/tmp/h1/g"]))
    assert "it stands in for a failed device. Replace that device first" in text


def test_the_last_data_vdev_stays_and_one_without_room_elsewhere_too() -> None:
    name, recording = "wpoolb", "removing-2.3.9.json"
    pool = replace(status(recording)[name], removing="")
    groups = tuple(replace(group, size=1000, allocated=900) for group in pool.groups)
    given = {"name": name, "vdevs": [{"devices": ["/var/tmp/pool/p", "/var/tmp/pool/q"]}], "allow_remove": ["/var/tmp/pool/r"]}
    want, guards = declare.declare_pool(given), declare.declare_guards(given, rehearsal=False)
    view = scene.Scene(want, replace(pool, groups=groups, properties=FOUND | FEATURES), guards, IDENTITY)
    assert "its 900 bytes have no room on the other vdevs, which have 200 free" in refused(plan.plan_existing(view, Host()))


@pytest.mark.parametrize(
    ("recording", "options", "expected"),
    [
        ("offline-2.3.9.txt", {"online": ["/var/tmp/h1/e"]}, ["zpool online tank /var/tmp/h1/e"]),
        ("offline-2.3.9.txt", {"offline": ["/var/tmp/h1/e"]}, []),
        ("replacing-2.3.9.txt", {"online": ["/var/tmp/h1/e"]}, []),
    ],
)
def test_devices_are_taken_out_of_use_and_back(recording: str, options: Any, expected: Any) -> None:
    assert commands(plan_found([], recording, "tank", **options)) == expected


def test_a_failed_device_is_not_brought_online() -> None:
    text = refused(plan_found([], "lost_disk-2.3.9.txt", "tank", online=["8650879329510384377"]))
    assert "it is UNAVAIL, which is no setting but a failure. Reconnect it and run `zpool clear tank`" in text


def test_a_pool_is_upgraded_only_when_asked_and_only_as_far_as_compatibility_allows() -> None:
    disabled = {"feature@draid": "disabled", "feature@blake3": "disabled"}
    assert commands(plan_found(LLM, found=disabled)) == []
    assert commands(plan_found(LLM, found=disabled, upgrade=True)) == ["zpool upgrade llm"]
    assert commands(plan_found(LLM, upgrade=True)) == []
    have = replace(status("all_classes-2.3.9.txt")["llm"], properties=FOUND | FEATURES | disabled)
    want = declare.declare_pool({"name": "llm", "upgrade": True})
    view = scene.Scene(want, have, model.Guards(), IDENTITY)
    assert commands(plan.plan_existing(view, Host(), allowed=frozenset({"zstd_compress"}))) == []


ACTIVITIES = [
    ("all_classes-2.3.9.txt", "llm", ["scrub"], ["zpool scrub llm"]),
    ("scrub-2.3.9.txt", "wpoola", ["scrub"], []),
    ("form_of_2.2.txt", "paused", ["scrub"], ["zpool scrub paused"]),
    ("initializing-2.3.9.txt", "wpoola", ["initialize"], ["zpool initialize wpoola /var/tmp/pool/b"]),
    ("trimmed-2.3.9.txt", "wpoola", ["trim"], ["zpool trim wpoola"]),
    ("initializing-2.3.9.txt", "wpoola", ["scrub", "trim"], ["zpool trim wpoola", "zpool scrub wpoola"]),
]


@pytest.mark.parametrize(("recording", "name", "run", "expected"), ACTIVITIES)
def test_activities(recording: str, name: str, run: Any, expected: Any) -> None:
    assert commands(plan_found([], recording, name, run=run)) == expected


def test_no_scrub_beside_a_resilver() -> None:
    text = refused(plan_found([], "form_of_2.2.txt", "tank", run=["scrub"]))
    assert "it is resilvering (12.01 % done), which a scrub cannot run beside. Wait for it with `zpool wait -t resilver tank`" in text


def test_destruction_names_what_it_needs() -> None:
    have = replace(status("all_classes-2.3.9.txt")["llm"], properties={**FOUND, "allocated": "4096"})
    text = refused(plan.plan_absent(have, "llm", model.Guards()))
    assert "Refusing to destroy pool llm with 4096 bytes in use: confirm is not set" in text
    assert "set confirm: 77, which is the GUID of this very pool." in text
    assert "confirm is 78" in refused(plan.plan_absent(have, "llm", model.Guards(confirm="78")))
    assert commands(plan.plan_absent(have, "llm", model.Guards(confirm="77"))) == ["zpool destroy llm"]
    assert commands(plan.plan_absent(None, "llm", model.Guards(confirm="77"))) == []
