# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan a pool: create it, set its properties, and refuse every other difference."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Callable, Mapping, Sequence

from .._disk.probe import BlockDevice, uses
from .._plan import Plan, Refusal, Step
from .model import FoundPool, Group, Importable, Pool, Vdev, redundancy
from .values import same, show_size

# A member of a mirror or raidz may be this much smaller before its size is worth a word: ZFS's own measure.
_FUZZ = 16 * 1024 * 1024
_FIXED = frozenset(
    {"allocated", "available", "capacity", "expandsize", "fragmentation", "free", "freeing", "guid", "health", "leaked", "load_guid"}
    | {"readonly", "size", "tname"}
)
_AT_IMPORT = frozenset({"altroot"})
_KNOWN = frozenset(
    {"altroot", "ashift", "autoexpand", "autoreplace", "autotrim", "bootfs", "cachefile", "comment", "compatibility", "delegation"}
    | {"failmode", "listsnapshots", "multihost", "version"}
)


@dataclass(frozen=True)
class Candidate:
    """A device a new pool would take.

    :param contents: phrases that say what is written on it.
    :param pool: the imported pool that uses it.
    :param near: names beside a missing device that look alike.
    """

    device: BlockDevice
    contents: tuple[str, ...] = ()
    pool: str = ""
    near: tuple[str, ...] = ()


@dataclass(frozen=True)
class Guards:
    """What the user confirmed, and what is known of the devices.

    :param wipe: real paths of the devices whose content may be lost.
    :param pending: declared paths that an earlier task of this run will create; only for a plan that is not carried out.
    """

    wipe: frozenset[str] = frozenset()
    pending: frozenset[str] = frozenset()
    allow_redundancy_mismatch: bool = False


@dataclass(frozen=True)
class CreateData:
    """What the applier needs to create a pool: the command is complete."""

    argv: tuple[str, ...]


@dataclass(frozen=True)
class SetData:
    """Properties to set on a pool."""

    pool: str
    changes: tuple[tuple[str, str], ...]


Aliases = Callable[[str], "frozenset[str]"]


def plan_existing(want: Pool, have: FoundPool, *, declared: Aliases, member: Aliases) -> Plan:
    """Plan for an imported pool: its properties; every other difference is refused.

    :param declared: the identities of a declared device.
    :param member: the identities of a device the pool shows.
    """
    refusals = [Refusal(want.name, reason) for reason in _compare_groups(want, have, declared, member)]
    changes: list[tuple[str, str]] = []
    for name, value in want.properties.items():
        found = have.properties.get(name)
        if found is None:
            refusals.append(Refusal(want.name, _unknown(want.name, name, have.properties)))
        elif same(name, value, found):
            continue
        elif _why_not(want.name, name, value, found):
            refusals.append(Refusal(want.name, _why_not(want.name, name, value, found)))
        else:
            changes.append((name, value))
    if refusals:
        return Plan(refusals=tuple(refusals))
    return Plan(
        steps=tuple(_set_step(want.name, (change,), have) for change in changes),
        before={want.name: {name: have.properties[name] for name, _value in changes}} if changes else {},
        after={want.name: dict(changes)} if changes else {},
    )


def _set_step(pool: str, changes: tuple[tuple[str, str], ...], have: FoundPool) -> Step:
    told = ", ".join(f"{name}={value} (was {have.properties[name]})" for name, value in changes)
    return Step("set", pool, f"Set {told} on pool {pool}", SetData(pool, changes))


def _unknown(pool: str, name: str, known: Mapping[str, str] | frozenset[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    remedy = f"did you mean {near[0]}?" if near else "correct its name under properties."
    return f"ZFS on this host knows no pool property {name!r} (pool {pool}): {remedy}"


def _why_not(pool: str, name: str, value: str, found: str) -> str:
    """Why a pool property cannot be set; empty when it can."""
    if name in _FIXED:
        return f"Refusing to set {name}={value} on pool {pool}: ZFS only reports {name}, which is {found} now. Remove it from properties."
    if name in _AT_IMPORT:
        return (
            f"Refusing to set {name}={value} on pool {pool}, which has {found}: ZFS takes {name} only when it imports a pool."
            f" Run `zpool export {pool}` and `zpool import -o {name}={value} {pool}`, or declare {name}: {found}."
        )
    if name.startswith("feature@") and value == "disabled":
        return f"Refusing to disable {name} on pool {pool}: it is {found}, and ZFS never disables a feature. Remove it from properties."
    return ""


def _compare_groups(want: Pool, have: FoundPool, declared: Aliases, member: Aliases) -> list[str]:
    """One sentence for each difference between the declared and the found groups; none when nothing is declared."""
    if not want.vdevs:
        return []
    reasons = []
    left = list(have.groups)
    for vdev in want.vdevs:
        names = [declared(device) for device in vdev.devices]
        places = [(group, [_names(each.paths, member) for each in group.members]) for group in left]
        scored = [(sum(any(one & other for other in found) for one in names), group) for group, found in places]
        hits, best = max(scored, key=lambda pair: (pair[0], pair[1].use == vdev.use), default=(0, None))
        if best is None or not hits:
            reasons.append(_missing(want.name, vdev))
            continue
        left.remove(best)
        reasons.append(_compare_one(want.name, vdev, best, declared=declared, member=member))
    reasons.extend(_undeclared(want.name, group) for group in left)
    return [reason for reason in reasons if reason]


def _names(paths: Sequence[str], aliases: Aliases) -> frozenset[str]:
    return frozenset(name for path in paths for name in aliases(path))


def _missing(pool: str, vdev: Vdev) -> str:
    where = "" if vdev.use == "data" else f"{vdev.use} "
    kind = "" if vdev.kind == "stripe" else f"{vdev.kind} "
    return (
        f"Refusing to add the declared {vdev.label} to pool {pool}: this module creates pools and does not extend them yet."
        f" Check it with `zpool add -n {pool} {where}{kind}{' '.join(vdev.devices)}`, add it without -n, and run again; or remove it"
        " from vdevs."
    )


def _undeclared(pool: str, group: Group) -> str:
    return (
        f"Refusing to remove {group.label} from pool {pool}: it is in the pool but not declared, and what is missing from the variables is"
        " never removed. List it under vdevs, or take it out by hand with `zpool remove`."
    )


def _compare_one(pool: str, vdev: Vdev, group: Group, *, declared: Aliases, member: Aliases) -> str:
    if vdev.use != group.use:
        return (
            f"Refusing to make {group.label} of pool {pool} a {vdev.use} vdev: ZFS never changes the class of a vdev."
            f" Declare it with class {group.use}."
        )
    single = len(vdev.devices) == 1 or len(group.members) == 1
    if not _same_kind(vdev.kind, group.kind) and not single:
        return (
            f"Refusing to turn {group.label} of pool {pool} into a {vdev.kind}: ZFS never changes the type of a vdev."
            f" Declare it with type {group.kind}."
        )
    names = {device: declared(device) for device in vdev.devices}
    found = {each.paths: _names(each.paths, member) for each in group.members}
    absent = [device for device, ours in names.items() if not any(ours & theirs for theirs in found.values())]
    extra = ["/".join(paths) for paths, theirs in found.items() if not any(ours & theirs for ours in names.values())]
    return _members_differ(pool, group, absent, extra)


def _same_kind(want: str, have: str) -> bool:
    """A draid may be declared without the figures ZFS works out itself."""
    head, *figures = want.split(":")
    other, *all_figures = have.split(":")
    return head == other and set(figures) <= set(all_figures)


def _members_differ(pool: str, group: Group, absent: list[str], extra: list[str]) -> str:
    if absent and extra:
        pairs = "; ".join(f"`zpool replace {pool} {old} {new}`" for old, new in zip(extra, absent))
        return (
            f"Refusing to exchange {', '.join(extra)} for {', '.join(absent)} in {group.name} of pool {pool}: this module does not replace"
            f" disks yet. Run {pairs} and, when it has resilvered, run again; or declare the disks the pool has."
        )
    if absent:
        return (
            f"Refusing to attach {', '.join(absent)} to {group.label} of pool {pool}: this module does not attach disks yet."
            f" Run `zpool attach {pool} {group.members[0].paths[-1]} {absent[0]}` and run again; or declare the disks the pool has."
        )
    if extra:
        return (
            f"Refusing to detach {', '.join(extra)} from {group.label} of pool {pool}: it is in the pool but not declared, and what is"
            " missing from the variables is never removed. List it under vdevs, or take it out by hand with `zpool detach`."
        )
    return ""


def plan_new(want: Pool, importable: Sequence[Importable], candidates: Mapping[str, Candidate], guards: Guards) -> Plan:
    """Plan for a pool that is not imported: create it, unless something speaks against it."""
    # An exported pool of that name is the whole answer: advice to wipe its disks would be fatal.
    reasons = _exported(want, importable) or _why_not_create(want, candidates, guards)
    steps = [_wipe_step(each) for path, each in candidates.items() if path not in guards.pending and each.contents]
    uneven = _uneven(want, candidates)
    steps.append(_create_step(want, force=guards.allow_redundancy_mismatch or bool(uneven) or _zfs_objects(want)))
    return Plan(
        steps=() if reasons else tuple(steps),
        refusals=tuple(Refusal(want.name, reason) for reason in reasons),
        warnings=(*uneven, *_advice(want)),
        before={} if reasons else {want.name: None},
        after={} if reasons else {want.name: _shown(want)},
    )


def _why_not_create(want: Pool, candidates: Mapping[str, Candidate], guards: Guards) -> list[str]:
    unfit = [_unfit(want.name, candidates[path], guards) for path in want.devices if path not in guards.pending]
    return [*_cannot_create(want), *_unlike(want, guards), *(reason for reason in unfit if reason), *_overlaps(want, candidates)]


def _shown(want: Pool) -> dict[str, object]:
    vdevs = [{"class": vdev.use, "type": vdev.kind, "devices": list(vdev.devices)} for vdev in want.vdevs]
    return {
        "vdevs": vdevs,
        "properties": dict(want.properties),
        "filesystem_properties": dict(want.filesystem_properties),
    }


def _exported(want: Pool, importable: Sequence[Importable]) -> list[str]:
    same_name = [each for each in importable if each.name == want.name]
    return [
        f"Refusing to create pool {want.name}: a pool of that name (id {each.guid}) lies exported on attached disks, and creating it anew"
        f" could destroy it. Import it with `zpool import {each.guid}` and run again, or choose another name."
        for each in same_name
    ]


def _cannot_create(want: Pool) -> list[str]:
    reasons = []
    if not want.vdevs:
        reasons.append(
            f"Pool {want.name} does not exist and no vdevs are declared: declare its vdevs to create it, or import it with `zpool import`."
        )
    for name, value in want.properties.items():
        if name in _FIXED:
            reasons.append(f"Pool {want.name}: {name}={value} cannot be set, ZFS only reports it. Remove it from properties.")
        elif name not in _KNOWN and difflib.get_close_matches(name, list(_KNOWN), n=1, cutoff=0.8):
            reasons.append(_unknown(want.name, name, _KNOWN))
    return reasons


def _unlike(want: Pool, guards: Guards) -> list[str]:
    """Groups that lose the pool more easily than its data groups do."""
    data = [vdev for vdev in want.vdevs if vdev.use == "data"]
    if guards.allow_redundancy_mismatch or not data:
        return []
    flag = "or set allow_redundancy_mismatch: true if you accept that."
    shapes = {(vdev.kind.split(":")[0], len(vdev.devices)) for vdev in data}
    if len(shapes) > 1:
        told = " and ".join(sorted(vdev.label for vdev in data))
        return [f"Refusing to create pool {want.name} from unlike data vdevs ({told}): make them alike, {flag}"]
    least = data[0].redundancy
    return [
        f"Refusing to create pool {want.name} with the {vdev.label}: losing {vdev.redundancy + 1} of its devices loses the whole pool,"
        f" while the data vdevs survive {least}. Make it a mirror of {least + 1} devices, {flag}"
        for vdev in want.vdevs
        if vdev.use in {"special", "dedup"} and redundancy(vdev.kind, len(vdev.devices)) < least
    ]


def _unfit(pool: str, candidate: Candidate, guards: Guards) -> str:
    """Why a device cannot be taken into a new pool."""
    device = candidate.device
    if not device.exists:
        hint = f" (beside it there is {' and '.join(candidate.near)})" if candidate.near else ""
        return f"Pool {pool}: the device {device.path} does not exist. Attach it or correct its path under vdevs{hint}."
    if device.kind == "other":
        return f"Pool {pool}: {device.path} is neither a block device nor a file: correct its path under vdevs."
    if device.read_only:
        return f"Pool {pool}: the device {device.path} is read-only: make it writable or name another under vdevs."
    used = [f"it belongs to the imported pool {candidate.pool}"] if candidate.pool else uses(device)
    if used:
        return (
            f"Refusing to take {device.path} into pool {pool}: {'; '.join(used)}. Stop what uses it, or name another device under vdevs;"
            " wipe does not override this."
        )
    if candidate.contents and device.real not in guards.wipe:
        return (
            f"Refusing to take {device.path} into pool {pool}: {'; '.join(candidate.contents)}, which would be lost."
            f" Name another device under vdevs or, if nothing on it is needed, add {device.path} to wipe."
        )
    return ""


def _overlaps(want: Pool, candidates: Mapping[str, Candidate]) -> list[str]:
    """Devices named twice under different paths, or a disk beside its own partition."""
    reasons = []
    seen: dict[str, str] = {}
    present = [candidates[path].device for path in want.devices if path in candidates and candidates[path].device.exists]
    for device in present:
        if device.real in seen:
            reasons.append(f"Pool {want.name}: {seen[device.real]} and {device.path} are the same device: list it once under vdevs.")
        seen[device.real] = device.path
    for device in present:
        if device.parent in seen:
            reasons.append(
                f"Pool {want.name}: {device.path} is a partition of {seen[device.parent]}: list the disk or its partitions, not both."
            )
    return reasons


def _uneven(want: Pool, candidates: Mapping[str, Candidate]) -> list[str]:
    warnings = []
    for vdev in want.vdevs:
        sizes = [candidates[path].device.size for path in vdev.devices if path in candidates and candidates[path].device.size]
        if sizes and max(sizes) - min(sizes) > _FUZZ:
            warnings.append(
                f"Pool {want.name}: the devices of the {vdev.label} differ in size; each counts as {show_size(min(sizes))},"
                f" the largest has {show_size(max(sizes))}."
            )
    return warnings


def _advice(want: Pool) -> list[str]:
    redundant = any(vdev.use == "data" and vdev.redundancy for vdev in want.vdevs)
    return [
        f"Pool {want.name}: the {vdev.label} has no mirror; if it fails together with the host, seconds of synchronous writes are lost."
        for vdev in want.vdevs
        if vdev.use == "log" and not vdev.redundancy and redundant
    ]


def _zfs_objects(want: Pool) -> bool:
    """Whether ZFS asks for -f although the layout is sound: it wants all groups of the same type and width."""
    shapes = {(vdev.kind, len(vdev.devices)) for vdev in want.vdevs if vdev.use in {"data", "special", "dedup"}}
    return len(shapes) > 1


def _wipe_step(candidate: Candidate) -> Step:
    told = "; ".join(candidate.contents)
    path = candidate.device.path
    return Step("wipe", path, f"Erase {path}, which is named in wipe ({told})", candidate.device)


def _create_step(want: Pool, *, force: bool) -> Step:
    argv = ["zpool", "create", *(["-f"] if force else [])]
    for name, value in want.properties.items():
        argv += ["-o", f"{name}={value}"]
    for name, value in want.filesystem_properties.items():
        argv += ["-O", f"{name}={value}"]
    argv.append(want.name)
    for vdev in sorted(want.vdevs, key=lambda vdev: vdev.use != "data"):
        argv += [] if vdev.use == "data" else [vdev.use]
        argv += [] if vdev.kind == "stripe" else [vdev.kind]
        argv += vdev.devices
    told = ", ".join(vdev.label for vdev in want.vdevs)
    return Step("create", want.name, f"Create pool {want.name} with {told}", CreateData(tuple(argv)))
