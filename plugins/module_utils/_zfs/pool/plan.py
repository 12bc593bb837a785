# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan a pool: what is missing is created or imported, what differs is one step or one refusal."""

from __future__ import annotations

from typing import Sequence

from ..._plan import Plan
from .advise import Host, advise_layout, advise_pool
from .devices import Candidates, judge, sectors, uneven
from .draft import Command, Draft
from .layout import plan_layout
from .life import plan_activities, plan_destroy, plan_duty, plan_import_step, plan_upgrade, why_not_import
from .match import Identity
from .model import VITAL, FoundPool, Guards, Importable, Pool
from .properties import cannot_create, plan_properties
from .scene import Scene, weaker


def plan_existing(scene: Scene, host: Host, *, allowed: frozenset[str] | None = None) -> Plan:
    """Plan for an imported pool.

    :param allowed: the features its C(compatibility) leaves; None for all.
    """
    draft = Draft(scene.want.name)
    plan_properties(draft, scene)
    plan_upgrade(draft, scene.want, scene.have, allowed)
    plan_layout(draft, scene)
    plan_duty(draft, scene)
    plan_activities(draft, scene.want, scene.have)
    if scene.have.state == "SUSPENDED" and draft.steps:
        name = scene.want.name
        draft.refuse(
            f"Refusing to change pool {name}: it is SUSPENDED, and every command that writes would wait for its lost devices. Connect them,"
            f" run `zpool clear {name}`, then run again."
        )
    for warning in advise_pool(scene.have, host):
        draft.warn(warning)
    return draft.finish()


def plan_import(scene: Scene, found: Importable, places: Sequence[str]) -> Plan:
    """Plan for a pool that lies exported on the declared devices.

    :param places: where to look for devices that are files, as arguments of ``zpool import``.
    """
    draft = Draft(scene.want.name)
    reason = why_not_import(scene.want, found, scene.guards)
    if reason:
        draft.refuse(reason)
        return draft.finish()
    plan_import_step(draft, scene.want, found, places)
    plan_upgrade(draft, scene.want, scene.have, None)
    plan_layout(draft, scene)
    plan_duty(draft, scene)
    plan_activities(draft, scene.want, scene.have)
    return draft.finish()


def plan_absent(have: FoundPool | None, name: str, guards: Guards) -> Plan:
    """Plan for a pool that shall not exist."""
    draft = Draft(name)
    if have is None:
        return draft.finish()
    plan_destroy(draft, have, guards)
    return draft.finish(before={name: {"guid": have.guid, "state": have.state}}, after={name: None})


def plan_new(
    want: Pool,
    importable: Sequence[Importable],
    candidates: Candidates,
    guards: Guards,
    host: Host,
    *,
    identity: Identity,
) -> Plan:
    """Plan for a pool that is nowhere: create it, unless something speaks against it.

    :param importable: pools on attached devices; none of them is the declared pool, but one may have its name or its devices.
    """
    draft = Draft(want.name)
    others = _other_pools(want, importable, identity)
    if others:  # The whole answer: advice to wipe these disks would be fatal.
        for reason in others:
            draft.refuse(reason)
        return draft.finish()
    if not want.vdevs:
        draft.refuse(f"Pool {want.name} does not exist and no vdevs are declared: declare its vdevs to have it created or imported.")
    for reason in (*cannot_create(want.name, want.properties), *_unlike(want, guards), *_mixed(want, candidates, guards)):
        draft.refuse(reason)
    judge(draft, want.devices, candidates, guards)
    sizes = [warning for warning in (uneven(want.name, vdev, candidates) for vdev in want.vdevs) if warning]
    for warning in (*sizes, *advise_layout(want, candidates, host)):
        draft.warn(warning)
    _create(draft, want, force=guards.allow_redundancy_mismatch or bool(sizes) or _zfs_objects(want))
    return draft.finish(before={want.name: None}, after={want.name: _shown(want)})


def _other_pools(want: Pool, importable: Sequence[Importable], identity: Identity) -> list[str]:
    same_name = [each for each in importable if each.name == want.name]
    reasons = [
        f"Refusing to create pool {want.name}: a pool of that name (GUID {each.guid}) lies exported on other devices than those declared"
        f" ({', '.join(leaf.path for group in each.pool.groups for leaf in group.leaves)}). Declare these to have it imported, or choose"
        " another name."
        for each in same_name
    ]
    for each in importable:
        shared = [
            device for device in want.devices if any(identity.is_leaf(device, leaf) for group in each.pool.groups for leaf in group.leaves)
        ]
        if shared and each not in same_name:
            reasons.append(
                f"Refusing to create pool {want.name}: {', '.join(shared)} hold the exported pool {each.name} (GUID {each.guid}), which"
                f" would be lost. Declare name: {each.name} to have it imported, or name other devices under vdevs. If nothing on it is"
                f" needed, import it by hand and destroy it."
            )
    return reasons


def _unlike(want: Pool, guards: Guards) -> list[str]:
    """Groups that lose the pool more easily than its data groups do."""
    data = [vdev for vdev in want.vdevs if vdev.use == "data"]
    if guards.allow_redundancy_mismatch or not data:
        return []
    if len({vdev.shape for vdev in data}) > 1:
        told = " and ".join(sorted(vdev.label for vdev in data))
        return [
            f"Refusing to create pool {want.name} from unlike data vdevs ({told}): make them alike, or set allow_redundancy_mismatch: true"
            " if you accept that."
        ]
    reasons = [(vdev, weaker(vdev, data[0].redundancy)) for vdev in want.vdevs]
    return [f"Refusing to create pool {want.name} with the {vdev.label}: {reason}" for vdev, reason in reasons if reason]


def _mixed(want: Pool, candidates: Candidates, guards: Guards) -> list[str]:
    """Disks of unlike sectors, where nothing says which sector size the vdevs shall share."""
    vital = [device for vdev in want.vdevs if vdev.use in VITAL for device in vdev.devices]
    found = sectors(vital, candidates)
    if len(found) < 2 or want.properties.get("ashift", "0") != "0" or guards.allow_mixed_ashift:
        return []
    told = " and ".join(str(each) for each in found)
    return [
        f"Refusing to create pool {want.name} from devices with sectors of {told} bytes: its vdevs would get unlike ashift, and none could"
        f" be removed later. Set ashift: {max(found[-1].bit_length() - 1, 12)} under properties, or allow_mixed_ashift: true."
    ]


def _zfs_objects(want: Pool) -> bool:
    """Whether ZFS asks for -f although the layout is sound: it wants all groups of the same type and width."""
    return len({vdev.shape for vdev in want.vdevs if vdev.use in VITAL}) > 1


def _create(draft: Draft, want: Pool, *, force: bool) -> None:
    argv = ["zpool", "create", *(["-f"] if force else [])]
    for name, value in want.properties.items():
        argv += ["-o", f"{name}={value}"]
    for name, value in want.filesystem_properties.items():
        argv += ["-O", f"{name}={value}"]
    argv.append(want.name)
    for vdev in sorted(want.vdevs, key=lambda vdev: vdev.use != "data"):
        argv += vdev.argv
    told = ", ".join(vdev.label for vdev in want.vdevs)
    draft.step("create", want.name, f"Create pool {want.name} with {told}", Command(tuple(argv), want.devices))


def _shown(want: Pool) -> dict[str, object]:
    vdevs = [{"class": vdev.use, "type": vdev.kind, "devices": list(vdev.devices)} for vdev in want.vdevs]
    return {"vdevs": vdevs, "properties": dict(want.properties), "filesystem_properties": dict(want.filesystem_properties)}
