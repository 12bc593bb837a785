# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan the devices of one vdev: attach, replace, detach."""

from __future__ import annotations

from ..values import show_size
from .devices import judge
from .draft import Command, Draft
from .match import named_member
from .model import VITAL, Group, Member, Vdev
from .scene import Scene


def plan_members(draft: Draft, scene: Scene, vdev: Vdev, group: Group) -> None:
    """Every difference between a declared vdev and the one it was matched with."""
    reason = _cannot_become(scene.want.name, vdev, group)
    if reason:
        draft.refuse(reason)
        return
    absent = [device for device in vdev.devices if not any(scene.identity.holds(member, device) for member in group.members)]
    extra = [member for member in group.members if not any(scene.identity.holds(member, device) for device in vdev.devices)]
    # A device that may leave is detached rather than replaced when there is a choice.
    extra.sort(key=lambda member: named_member(member, scene.guards.allow_remove, scene.identity))
    count = min(len(absent), len(extra))
    for member, device in zip(extra[:count], absent[:count]):
        _replace(draft, scene, group, member, device)
    _attach_all(draft, scene, group, absent[count:])
    for member in extra[count:]:
        _detach(draft, scene, vdev, group, member)
    _promote(draft, scene, vdev, group)


def fill_vacancies(draft: Draft, scene: Scene) -> None:
    """Replace a lost disk by the blank one that is in its place now, as a path by slot shows it.

    One that carries anything is left alone: it may be the lost disk itself, that has come back.
    """
    for group, leaf, device in scene.vacancies:
        candidate = scene.candidates.get(device)
        if candidate is None or not candidate.device.exists:
            continue
        if candidate.contents and candidate.device.real not in scene.guards.wipe:
            draft.warn(
                f"Pool {scene.want.name}: {device} of {group.name} is lost to the pool, and in its place there is a device:"
                f" {'; '.join(candidate.contents)}. If it is a new one, add {device} to wipe; else see `zpool status {scene.want.name}`."
            )
            continue
        judge(draft, [device], scene.candidates, scene.guards)
        _replace(draft, scene, group, Member((leaf,), leaf.state), device)


def _cannot_become(pool: str, vdev: Vdev, group: Group) -> str:
    if vdev.use != group.use:
        remedy = f"Declare it with class {group.use}"
        if group.use not in VITAL:
            remedy += f", or take it out of the pool first: leave it out of vdevs and name it in allow_remove: [{group.name}]"
        return f"Refusing to make {group.label} of pool {pool} a {vdev.use} vdev: ZFS never changes the class of a vdev. {remedy}."
    mirrored = {vdev.kind, group.kind} <= {"mirror", "stripe"}
    if mirrored or _same_kind(vdev.kind, group.kind):
        return ""
    return (
        f"Refusing to turn {group.label} of pool {pool} into a {vdev.kind}: ZFS never changes the type of a vdev."
        f" Declare it with type {group.kind}."
    )


def _same_kind(want: str, have: str) -> bool:
    """A draid may be declared without the figures ZFS works out itself."""
    head, *figures = want.split(":")
    other, *all_figures = have.split(":")
    return head == other and set(figures) <= set(all_figures)


def _replace(draft: Draft, scene: Scene, group: Group, member: Member, device: str) -> None:
    pool, told = scene.want.name, "/".join(member.paths)
    if member.standing == "replacing":
        draft.refuse(
            f"Refusing to replace {told} in {group.name} of pool {pool} by {device}: another replacement of it is under way. Wait for it"
            f" with `zpool wait -t replace {pool}`, or declare one of these devices."
        )
        return
    options = _ashift_options(draft, scene, group, device)
    if options is None:
        return
    argv = ("zpool", "replace", *options, pool, member.leaves[0].name, device)
    place = "" if group.kind == "stripe" else f" in {group.name}"
    draft.step("replace", device, f"Replace {told} by {device}{place} of pool {pool}", Command(argv, (device,)))
    draft.differ(f"{group.name} {told}", told, device)


def _attach_all(draft: Draft, scene: Scene, group: Group, devices: list[str]) -> None:
    if not devices:
        return
    if group.kind in {"mirror", "stripe"}:
        sound = [leaf.name for leaf in group.leaves if leaf.state == "ONLINE"] or [group.leaves[0].name]
        for device in devices:
            _attach(draft, scene, group, device, beside=sound[0])
        return
    reason = _why_not_expand(scene, group, devices)
    if reason:
        draft.refuse(f"Refusing to attach {', '.join(devices)} to {group.label} of pool {scene.want.name}: {reason}")
    else:
        _attach(draft, scene, group, devices[0], beside=group.name)


def _why_not_expand(scene: Scene, group: Group, devices: list[str]) -> str:
    if group.kind.startswith("draid"):
        return "ZFS never adds a disk to a draid. Declare the disks it has."
    missing = scene.lacks("raidz_expansion", "a wider raidz")
    if missing:
        return missing
    if scene.have.expanding:
        return (
            f"{scene.have.expanding} is still being expanded. Wait for it with `zpool wait -t raidz_expand {scene.want.name}`, then run"
            " again."
        )
    if len(devices) > 1:
        return f"a raidz takes one disk at a time. Declare {devices[0]} first, and the next when the expansion has ended."
    return ""


def _attach(draft: Draft, scene: Scene, group: Group, device: str, *, beside: str) -> None:
    options = _ashift_options(draft, scene, group, device)
    if options is None:
        return
    pool = scene.want.name
    argv = ("zpool", "attach", *options, pool, beside, device)
    draft.step("attach", device, f"Attach {device} to {group.label} of pool {pool}", Command(argv, (device,)))
    draft.differ(f"{group.name} {device}", None, device)


def _ashift_options(draft: Draft, scene: Scene, group: Group, device: str) -> tuple[str, ...] | None:
    """What ``zpool`` must be told of sector sizes to take a device into a vdev; None after a refusal."""
    ashift, candidate = scene.ashift(group), scene.candidates.get(device)
    if ashift is None or candidate is None:
        return ()
    if candidate.device.size > 0 and candidate.room < scene.room(group):
        draft.refuse(
            f"Refusing to take {device} into {group.name} of pool {scene.want.name}: it has {show_size(candidate.device.size)}, of which"
            f" ZFS can use {show_size(candidate.room)}, and the vdev needs {show_size(scene.room(group))} of each device. Use a larger one."
        )
        return None
    sector, logical = candidate.device.sector, candidate.device.logical
    told = f"Refusing to take {device} into {group.name} of pool {scene.want.name}: its sectors have"
    if logical > 1 << ashift:
        draft.refuse(f"{told} {logical} bytes, and ZFS cannot write the {1 << ashift} bytes of ashift={ashift} to it. Use another disk.")
        return None
    if sector > 1 << ashift and not scene.guards.allow_mixed_ashift:
        draft.refuse(
            f"{told} {sector} bytes, and the vdev writes {1 << ashift} (ashift={ashift}), so that each write would first be read. Use a"
            f" disk with sectors of {1 << ashift} bytes, or set allow_mixed_ashift: true if you accept that."
        )
        return None
    default = scene.want.properties.get("ashift", scene.have.properties.get("ashift", "0"))
    return ("-o", f"ashift={ashift}") if sector > 1 << ashift or default not in {"0", "-", str(ashift)} else ()


def _detach(draft: Draft, scene: Scene, vdev: Vdev, group: Group, member: Member) -> None:
    pool, told = scene.want.name, "/".join(member.paths)
    reason = _why_not_detach(scene, vdev, group, member)
    if reason:
        draft.refuse(f"Refusing to detach {told} from {group.label} of pool {pool}: {reason}")
        return
    sentence = f"Detach {told} from {group.label} of pool {pool}, as allow_remove allows"
    draft.step("detach", told, sentence, Command(("zpool", "detach", pool, member.leaves[0].name)))
    draft.differ(f"{group.name} {told}", told, None)


def _why_not_detach(scene: Scene, vdev: Vdev, group: Group, member: Member) -> str:
    if not group.kind.startswith("mirror"):
        return f"ZFS never makes a {group.kind.split(':')[0]} narrower. List it under vdevs again, or declare the disk that replaces it."
    if not named_member(member, scene.guards.allow_remove, scene.identity):
        return (
            "it is in the pool but not declared, and what is missing from the variables is never removed. List it under vdevs, or name it"
            f" in allow_remove: [{member.leaves[0].path}]."
        )
    if member.standing:
        return f"a {member.standing} is under way there. Wait for it with `zpool wait`, then run again."
    # Beside what the other data vdevs will be, so that it makes no difference where an earlier run was cut off.
    least = min((other.redundancy for other, found in scene.pairing.matched if other.use == "data" and found != group), default=1)
    needed = 1 if group.use == "log" else max(1, least)
    if vdev.redundancy < min(needed, group.redundancy) and not scene.guards.allow_redundancy_mismatch:
        loss = "the last synchronous writes if the host fails with it" if group.use == "log" else "the whole pool"
        return (
            f"losing {vdev.redundancy + 1} of the devices that stay would lose {loss}. Declare a disk in its place, or set"
            " allow_redundancy_mismatch: true if you accept that."
        )
    return ""


def promoted(scene: Scene, group: Group) -> bool:
    """Whether a spare in use is declared as a member of the vdev it stands in: it then is no spare any more."""
    if group.use != "spare":
        return False
    return any(
        scene.identity.holds(group.members[0], device) for vdev in scene.want.vdevs if vdev.use != "spare" for device in vdev.devices
    )


def _promote(draft: Draft, scene: Scene, vdev: Vdev, group: Group) -> None:
    """Let a spare keep the place it stands in, when it is declared there and the failed device no longer is."""
    pool = scene.want.name
    for member in group.members:
        if member.standing != "spare" or len(member.leaves) != 2:
            continue
        failed, spare = member.leaves
        ours = [leaf for leaf in (failed, spare) if any(scene.identity.is_leaf(device, leaf) for device in vdev.devices)]
        if ours != [spare]:
            continue
        single = Member((failed,), failed.state)
        if not named_member(single, scene.guards.allow_remove, scene.identity):
            draft.refuse(
                f"Refusing to detach {failed.path} from {group.name} of pool {pool} and let the spare {spare.path} keep its place: name it"
                f" in allow_remove: [{failed.path}], or declare it under vdevs again."
            )
            continue
        sentence = f"Detach {failed.path} from {group.name} of pool {pool}, so that the spare {spare.path} keeps its place"
        draft.step("detach", failed.path, sentence, Command(("zpool", "detach", pool, failed.name)))
        draft.differ(f"{group.name} {failed.path}", failed.path, spare.path)
