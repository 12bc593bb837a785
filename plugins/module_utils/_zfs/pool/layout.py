# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan the vdevs of a pool that exists: whole vdevs come and go here, devices of one in :mod:`members`."""

from __future__ import annotations

from .devices import judge, uneven
from .draft import Command, Draft
from .match import named
from .members import fill_vacancies, plan_members, promoted
from .model import VITAL, Group, Vdev
from .scene import Scene, weaker

# A checkpoint holds the pool's vdevs as they are: ZFS refuses these until it is discarded (zpool-checkpoint(8)).
_HELD = ("attach", "detach", "replace", "remove")


def plan_layout(draft: Draft, scene: Scene) -> None:
    """Every difference between the declared and the found vdevs: one step or one refusal."""
    pairing = scene.pairing
    _refuse_twice(draft, scene)
    judge(draft, scene.arrivals, scene.candidates, scene.guards)
    for vdev, group in pairing.matched:
        plan_members(draft, scene, vdev, group)
    fill_vacancies(draft, scene)
    for vdev in pairing.missing:
        _add(draft, scene, vdev)
    for group in pairing.undeclared:
        if not promoted(scene, group):
            _remove(draft, scene, group)
    _checkpoint(draft, scene)


def _refuse_twice(draft: Draft, scene: Scene) -> None:
    """Two links to one disk are one disk: a mirror of them would be none."""
    seen: list[tuple[str, frozenset[str]]] = []
    for device in scene.want.devices:
        names = scene.identity.declared(device)
        for other, theirs in seen:
            if names & theirs:
                _refuse_both(draft, scene, other, device)
        seen.append((device, names))
    for leaf in (leaf for group in scene.groups for leaf in group.leaves):
        # A disk that ZFS was given whole, and the partition that ZFS shows for it.
        claims = [device for device in scene.want.devices if scene.identity.is_leaf(device, leaf)]
        for other, device in zip(claims, claims[1:]):
            _refuse_both(draft, scene, other, device)


def _refuse_both(draft: Draft, scene: Scene, one: str, other: str) -> None:
    draft.refuse(f"Pool {scene.want.name}: {one} and {other} are the same device: list it once under vdevs.")


def _checkpoint(draft: Draft, scene: Scene) -> None:
    pool = scene.want.name
    if scene.have.checkpointed and draft.plans(*_HELD):
        draft.refuse(
            f"Refusing to change the vdevs of pool {pool}: it has a checkpoint, and ZFS attaches, replaces and removes nothing until that"
            f" is given up. Run `zpool checkpoint -d {pool}` if you no longer want to go back to it."
        )
    if not scene.want.checkpoint or not draft.plans("add"):
        return
    if scene.have.checkpointed:
        draft.warn(f"Pool {pool} has a checkpoint already: it is kept, and no new one is taken before the vdev is added.")
        return
    if draft.plans("remove"):
        draft.refuse(
            f"Refusing to add and remove vdevs of pool {pool} at once with checkpoint_before_add: nothing can be removed while there is a"
            " checkpoint. Do one after the other, in two runs."
        )
    draft.step("checkpoint", pool, f"Take a checkpoint of pool {pool} before a vdev is added", Command(("zpool", "checkpoint", pool)))


def _add(draft: Draft, scene: Scene, vdev: Vdev) -> None:
    pool = scene.want.name
    reason = _why_not_add(scene, vdev)
    if reason:
        draft.refuse(f"Refusing to add the {vdev.label} to pool {pool}: {reason}")
        return
    sizes = uneven(pool, vdev, scene.candidates)
    if sizes:
        draft.warn(sizes)
    shapes = {group.shape for group in scene.groups if group.use in VITAL} | ({vdev.shape} if vdev.use in VITAL else set())
    force = ("-f",) if scene.guards.allow_redundancy_mismatch or sizes or len(shapes) > 1 else ()
    argv = ("zpool", "add", *force, *_add_ashift(scene, vdev), pool, *vdev.argv)
    draft.step("add", vdev.devices[0], f"Add the {vdev.label} to pool {pool}", Command(argv, vdev.devices))
    draft.differ(f"{vdev.use} {vdev.devices[0]}", None, vdev.label)


def _why_not_add(scene: Scene, vdev: Vdev) -> str:
    if vdev.use in {"special", "dedup"} and scene.lacks("allocation_classes", f"a {vdev.use} vdev"):
        return scene.lacks("allocation_classes", f"a {vdev.use} vdev")
    if vdev.kind.startswith("draid") and scene.lacks("draid", "a draid vdev"):
        return scene.lacks("draid", "a draid vdev")
    reason = "" if scene.guards.allow_redundancy_mismatch else _mismatch(scene, vdev)
    return reason or ("" if scene.guards.allow_mixed_ashift or vdev.use not in VITAL else _mixed(scene))


def _mismatch(scene: Scene, vdev: Vdev) -> str:
    data = [group for group in scene.groups if group.use == "data"]
    weak = weaker(vdev, scene.least_redundancy())
    if vdev.use != "data" or not data:
        return weak
    if vdev.shape not in {group.shape for group in data}:
        told = ", ".join(sorted({group.label for group in data}))
        return (
            f"the pool has {told}, and data vdevs should be alike; what is added can hardly be taken out again. Make it like them, or set"
            " allow_redundancy_mismatch: true if you accept that."
        )
    return weak


def _mixed(scene: Scene) -> str:
    common, default = scene.common_ashift(), scene.want.properties.get("ashift", scene.have.properties.get("ashift", "0"))
    if common is None or default in {"0", "-", str(common)}:
        return ""
    return (
        f"it would get ashift={default}, and the vdevs of the pool have ashift={common}; a pool of mixed sector sizes can have no vdev"
        f" removed. Declare ashift: {common}, or set allow_mixed_ashift: true if you accept that."
    )


def _add_ashift(scene: Scene, vdev: Vdev) -> tuple[str, ...]:
    """What the pool's vdevs have, where the pool itself would leave it to the new disk."""
    common = scene.common_ashift()
    asked = scene.want.properties.get("ashift", scene.have.properties.get("ashift", "0"))
    return ("-o", f"ashift={common}") if common and vdev.use in VITAL and asked in {"0", "-"} else ()


def _remove(draft: Draft, scene: Scene, group: Group) -> None:
    pool = scene.want.name
    if not named(group, scene.guards.allow_remove, scene.identity):
        draft.refuse(
            f"Refusing to remove {group.label} from pool {pool}: it is in the pool but not declared, and what is missing from the variables"
            f" is never removed. List it under vdevs, or name it in allow_remove: [{group.name}]."
        )
        return
    reason = _why_not_remove(scene, group) or _why_not_yet(draft, scene, group)
    if reason:
        draft.refuse(f"Refusing to remove {group.label} from pool {pool}: {reason}")
        return
    name = group.leaves[0].name if group.kind == "stripe" else group.name
    sentence = f"Remove {group.label} from pool {pool}, as allow_remove allows"
    draft.step("remove", group.name, sentence, Command(("zpool", "remove", pool, name)))
    draft.differ(f"{group.use} {group.name}", group.label, None)


def _why_not_remove(scene: Scene, group: Group) -> str:
    if group.use == "spare" and group.state == "INUSE":
        return "it stands in for a failed device. Replace that device first, or declare the spare in its place."
    if group.use not in VITAL:
        return ""
    fixed = [each.label for each in scene.groups if each.use in VITAL and each.kind.startswith(("raidz", "draid"))]
    if fixed:
        return f"ZFS removes no {group.use} vdev from a pool that has a raidz or draid ({fixed[0]}). List it under vdevs again."
    if scene.have.removing:
        return f"the data of {scene.have.removing} is still being moved away. Wait for it with `zpool wait -t remove`, then run again."
    missing = scene.lacks("device_removal", f"the removal of a {group.use} vdev")
    if missing:
        return missing
    return _no_room(scene, group)


def _why_not_yet(draft: Draft, scene: Scene, group: Group) -> str:
    vital = {each.name for each in scene.groups if each.use in VITAL}
    first = next((step.target for step in draft.steps if step.action == "remove" and step.target in vital), "")
    if not first or group.use not in VITAL:
        return ""
    return f"ZFS moves the data of one vdev at a time, and {first} is to go too. List {group.name} under vdevs until that is through."


def _no_room(scene: Scene, group: Group) -> str:
    others = [each for each in scene.groups if each.use in {"data", group.use} and each != group]
    if not any(each.use == "data" for each in others):
        return "it is the last data vdev, and a pool cannot be without. Declare the vdev that shall take its place first."
    if any(each.size is None or each.allocated is None for each in [*others, group]):
        return ""
    free = sum((each.size or 0) - (each.allocated or 0) for each in others)
    if (group.allocated or 0) < free:
        return ""
    return f"its {group.allocated} bytes have no room on the other vdevs, which have {free} free. Delete data, or add a vdev first."
