# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan what happens to a pool as a whole, and what it does by itself: import, destroy, upgrade, online, offline, scrub."""

from __future__ import annotations

from typing import Sequence

from .draft import Command, Draft, SettleData
from .match import Identity
from .model import FoundPool, Group, Guards, Importable, Leaf, Member, Pool
from .scene import Scene


def find_importable(want: Pool, importable: Sequence[Importable], identity: Identity) -> list[Importable]:
    """The pools that lie on declared devices, whatever their names."""
    return [
        each
        for each in importable
        if any(identity.is_leaf(device, leaf) for group in each.pool.groups for leaf in group.leaves for device in want.devices)
    ]


def why_not_import(want: Pool, found: Importable, guards: Guards) -> str:
    """Why an exported pool cannot be imported; empty when it can."""
    told = f"pool {found.name} (GUID {found.guid})"
    if found.in_use:
        return f"Refusing to import {told}: another host has it imported now, as its multihost protection tells. Export it there first."
    if found.pool.state not in {"ONLINE", "DEGRADED"}:
        return (
            f"Refusing to import {told}: it is {found.pool.state}, too many of its devices are missing or damaged. `zpool import` lists"
            " them; connect them and run again."
        )
    if found.other_host and guards.force_import != found.guid:
        return (
            f"Refusing to import {told}: another host used it last and did not export it; importing a pool on two hosts destroys it. Export"
            f" it there, or, when that host will not use it again, set force_import: {found.guid}."
        )
    return ""


def plan_import_step(draft: Draft, want: Pool, found: Importable, places: Sequence[str]) -> None:
    """Import the pool, and bring its properties, which nobody can read before, to what is declared.

    :param places: further arguments: where to look for devices that are files.
    """
    force = ("-f",) if found.other_host else ()
    told = ", although another host used it last, as force_import allows" if found.other_host else ""
    argv = ("zpool", "import", *force, *places, found.guid)
    draft.step("import", want.name, f"Import pool {want.name} (GUID {found.guid}){told}", Command(argv))
    draft.differ("imported", False, True)
    if want.properties:
        told = ", ".join(f"{name}={value}" for name, value in want.properties.items())
        draft.step("set", want.name, f"Set {told} on pool {want.name}, where it differs after the import", SettleData())


def plan_destroy(draft: Draft, have: FoundPool, guards: Guards) -> None:
    """Destroy the pool, when the user named it by its GUID."""
    guid = have.properties.get("guid", have.guid)
    if guards.confirm != guid:
        given = f"confirm is {guards.confirm}" if guards.confirm else "confirm is not set"
        size = have.properties.get("allocated", "")
        held = f" with {size} bytes in use" if size else ""
        draft.refuse(
            f"Refusing to destroy pool {have.name}{held}: {given}, and all datasets and snapshots on it would be lost. If nothing on it is"
            f" needed, set confirm: {guid}, which is the GUID of this very pool."
        )
        return
    sentence = f"Destroy pool {have.name} (GUID {guid}) and all that is on it, as confirm allows"
    draft.step("destroy", have.name, sentence, Command(("zpool", "destroy", have.name)))


def plan_upgrade(draft: Draft, want: Pool, have: FoundPool, allowed: frozenset[str] | None) -> None:
    """Enable the features that ZFS on this host has and the pool does not use.

    :param allowed: the features that the pool's C(compatibility) leaves; None for all.
    """
    if not want.upgrade:
        return
    known = have.properties
    missing = [name[len("feature@") :] for name, value in known.items() if name.startswith("feature@") and value == "disabled"]
    missing = [name for name in missing if allowed is None or name in allowed]
    if known and not missing and known.get("version", "-") == "-":
        return
    told = f" ({', '.join(missing)})" if missing else ""
    draft.step("upgrade", want.name, f"Enable all features of pool {want.name}{told}", Command(("zpool", "upgrade", want.name)))
    draft.differ("features disabled", sorted(missing), [])


def plan_duty(draft: Draft, scene: Scene) -> None:
    """Take devices out of use, or use them again; both leave them in the pool."""
    for device in scene.want.online:
        place = scene.identity.find(scene.groups, device)
        if place is None:
            draft.refuse(_stranger(scene, device, "online"))
        elif place[2].state in {"OFFLINE", "REMOVED"}:
            _duty(draft, scene, "online", place[2])
        elif place[2].state in {"UNAVAIL", "FAULTED"}:
            draft.refuse(
                f"Refusing to bring {place[2].path} of pool {scene.want.name} online: it is {place[2].state}, which is no setting but a"
                f" failure. Reconnect it and run `zpool clear {scene.want.name}`, or declare another device in its place."
            )
    for device in scene.want.offline:
        place = scene.identity.find(scene.groups, device)
        if place is None:
            draft.refuse(_stranger(scene, device, "offline"))
        elif place[2].state not in {"OFFLINE", "UNAVAIL", "FAULTED", "REMOVED"}:
            _plan_offline(draft, scene, device, place)


def _stranger(scene: Scene, device: str, option: str) -> str:
    return f"Pool {scene.want.name} has no device {device}: correct it under {option}."


def _duty(draft: Draft, scene: Scene, action: str, leaf: Leaf) -> None:
    pool = scene.want.name
    words = {"online": f"Use {leaf.path} of pool {pool} again", "offline": f"Take {leaf.path} of pool {pool} out of use"}
    draft.step(action, leaf.path, words[action], Command(("zpool", action, pool, leaf.name)))
    draft.differ(f"state of {leaf.path}", leaf.state, action.upper())


def _plan_offline(draft: Draft, scene: Scene, device: str, place: tuple[Group, Member, Leaf]) -> None:
    group, _member, leaf = place
    down = [each for each in group.members if each.state != "ONLINE"]
    asked = [each for each in scene.want.offline if any(scene.identity.holds(member, each) for member in group.members)]
    gone = len(down) + len([each for each in asked if not any(scene.identity.holds(member, each) for member in down)])
    if group.use in {"cache", "spare"}:
        draft.refuse(
            f"Refusing to take {device} of pool {scene.want.name} offline: ZFS does so with no {group.use}. Remove it from offline."
        )
    elif gone > group.redundancy:
        draft.refuse(
            f"Refusing to take {device} of pool {scene.want.name} offline: {group.label} survives the loss of {group.redundancy}, and"
            f" {gone} would be missing. Bring others online first, or remove it from offline."
        )
    else:
        _duty(draft, scene, "offline", leaf)


def plan_activities(draft: Draft, want: Pool, have: FoundPool) -> None:
    """Start what was asked for, unless it is running."""
    for activity in want.activities:
        if activity == "scrub":
            _plan_scrub(draft, want, have)
        else:
            _plan_leaves(draft, want, have, activity)


def _plan_scrub(draft: Draft, want: Pool, have: FoundPool) -> None:
    if have.scan.state == "running" and have.scan.kind == "scrub":
        return
    if have.scan.state == "running":
        draft.refuse(
            f"Refusing to scrub pool {want.name}: it is resilvering ({have.scan.percent:g} % done), which a scrub cannot run beside. Wait"
            f" for it with `zpool wait -t resilver {want.name}`, then run again."
        )
        return
    word = "Resume the scrub" if have.scan.state == "paused" else "Start a scrub"
    draft.step("scrub", want.name, f"{word} of pool {want.name}", Command(("zpool", "scrub", want.name)))


def _plan_leaves(draft: Draft, want: Pool, have: FoundPool, activity: str) -> None:
    """Trim every device that can be trimmed; initialise those that never were."""
    leaves = [leaf for group in have.groups if group.use not in {"cache", "spare"} for leaf in group.leaves if leaf.state == "ONLINE"]
    if activity == "trim":
        able = [leaf for leaf in leaves if leaf.trimmed != "unsupported"]
        if not able:
            draft.refuse(f"Refusing to trim pool {want.name}: none of its devices can be trimmed. Remove trim from run.")
            return
        chosen = [] if any(leaf.trimmed == "running" for leaf in able) else able
    else:
        chosen = [leaf for leaf in leaves if leaf.initialized in {"no", ""}]
    if not chosen:
        return
    names = () if len(chosen) == len(leaves) else tuple(leaf.name for leaf in chosen)
    word = {"trim": "Trim", "initialize": "Initialize"}[activity]
    told = f"{', '.join(leaf.path for leaf in chosen)} of pool {want.name}" if names else f"every device of pool {want.name}"
    draft.step(activity, want.name, f"{word} {told}", Command(("zpool", activity, want.name, *names)))
