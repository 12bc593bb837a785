# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pure planner: a fleet as it is and should be; one piece of work for each server comes out, or a refusal."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Mapping

from .._plan import Plan, Refusal, Step
from .model import MEANT_KEY, Fleet, FleetSpec, FloatingIp, Port, Server, SlotSpec, Volume
from .placements import Rung, Unresolved, by_merit, find_named, resolve
from .prices import fleet_price, running_price, server_price, told, volume_price
from .states import ALIVE, BROKEN, INTERRUPTED, RUNNING, SETTLING, STOPPED, UNKNOWN, WRITABLE, has_run, kind_of

# What makes a new server.
MAKING = ("created", "replaced", "succeeded")


@dataclass(frozen=True)
class Changes:
    """What is merged into a server that stays.

    :param groups: security groups by port, those it lacks.
    :param used: volumes to mark as used.
    """

    add_tags: tuple[str, ...] = ()
    drop_tags: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    address: bool = False
    used: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """The changes, for a person."""
        parts = [f"add tag {tag}" for tag in self.add_tags] + [f"remove tag {tag}" for tag in self.drop_tags]
        parts += [f"set metadata {', '.join(sorted(self.metadata))}"] if self.metadata else []
        parts += ["add security groups"] if self.groups else []
        parts += ["attach a public address"] if self.address else []
        parts += ["mark its disk as used"] if self.used else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Work:
    """What is to be done about one slot.

    :param action: ``kept``, ``created``, ``restored``, ``adopted``, ``started``, ``updated``, ``switched``, ``replaced``, ``succeeded``, or
        ``blocked``.
    :param server: the one that is alive.
    :param restore: interrupted servers to bring back, the newest first.
    :param old: what a new server would stand in for; with a successor also those of the slot that are idle, for they may come back.
    :param doomed: half-made ones and duplicates, deleted first.
    :param spare: the alive ones beside `server` that are left alone.
    :param strays: disks and ports that a run which is over made and never used, and addresses of a server that has a successor.
    """

    slot: SlotSpec
    action: str
    reason: str
    server: Server | None = None
    restore: tuple[Server, ...] = ()
    old: tuple[Server, ...] = ()
    doomed: tuple[Server, ...] = ()
    spare: tuple[Server, ...] = ()
    strays: tuple[Port | Volume | FloatingIp, ...] = ()
    changes: Changes = Changes()

    @property
    def writes(self) -> bool:
        """Whether it changes anything."""
        return bool(self.action not in ("kept", "blocked") or self.doomed or self.strays)


@dataclass(frozen=True)
class _Slotted:
    alive: tuple[Server, ...]
    interrupted: tuple[Server, ...]
    broken: tuple[Server, ...]
    doomed: tuple[Server, ...]


def _sorted_out(servers: list[Server], desired: FleetSpec, spec: SlotSpec, *, used: set[str], now: float) -> _Slotted:
    """Part the servers of a slot; of several alive ones the first is the one that stays.

    :param used: IDs of servers whose disk may hold data.
    """
    slot = spec.name
    kinds = [(kind_of(server), server) for server in servers]
    superseded = {name for server in servers for name in server.replaces}
    alive = sorted((server for kind, server in kinds if kind in ALIVE), key=lambda one: (one.id in superseded, *one.age_key))
    broken = [server for kind, server in kinds if kind == BROKEN]
    loss = slot in desired.allow_data_loss
    retires = loss and not spec.successor and not desired.keep_predecessors
    doomed = [server for server in broken if not has_run(server)]
    for server in alive[1:]:
        # Who made the loser deletes it; only when that run must be over, this one does. What once filled the slot is no such loser.
        loser = now - server.created_at > desired.deadline and (loss or not (server.replaces or server.id in used))
        if retires if server.id in superseded else loser:
            doomed.append(server)
    interrupted = sorted((server for kind, server in kinds if kind == INTERRUPTED), key=lambda one: one.age_key, reverse=True)
    if alive and loss:
        # What a living one stands in for, and a successor that was lost before it took over.
        lost = [one for one in (*interrupted, *broken) if one.id in alive[0].replaces or alive[0].id in one.replaces]
        doomed += [server for server in lost if server not in doomed]
    return _Slotted(
        tuple(server for server in alive if server not in doomed),
        tuple(interrupted),
        tuple(server for server in broken if has_run(server)),
        tuple(doomed),
    )


def plan_slot(slot: SlotSpec, *, current: Fleet, desired: FleetSpec, now: float) -> Work:
    """Decide about one slot."""
    work = _plan_servers(slot, current=current, desired=desired, now=now)
    if desired.only and slot.name not in desired.only:
        server = work.server or next(iter(work.old), None)
        return Work(slot, "kept", "it is not among those to work on: left alone", server, spare=work.spare)
    return replace(work, strays=_strays(work, current=current, desired=desired, now=now))


def _strays(work: Work, *, current: Fleet, desired: FleetSpec, now: float) -> tuple[Port | Volume | FloatingIp, ...]:
    """Return what was made for the slot and never used, when the run that made it must be over."""
    name = work.slot.name
    found: list[Port | Volume | FloatingIp] = [
        volume
        for volume in current.volumes
        if volume.slot == name and not volume.server and not volume.used and now - volume.created_at > desired.deadline
    ]
    if work.server and kind_of(work.server) in ALIVE:
        # Without a server a free port waits for the next one: it keeps the address.
        found += [
            port for port in current.ports if port.slot == name and not port.server and now - port.created_at > desired.deadline
        ]  # fmt: skip
        found += _spare_addresses(work, current)
    return tuple(found)


def _spare_addresses(work: Work, current: Fleet) -> list[FloatingIp]:
    """Return the addresses that lead nowhere, or soon will, beside the one of the server that stays."""
    ports = {port.id: port.server for port in current.ports}
    mine = [one for one in current.addresses if one.slot == work.slot.name]
    if not work.server or not any(ports.get(one.port) == work.server.id for one in mine):
        return []
    going = {server.id for server in work.doomed}
    return [one for one in mine if not one.port or ports.get(one.port) in going]


def _plan_servers(slot: SlotSpec, *, current: Fleet, desired: FleetSpec, now: float) -> Work:
    mine = [server for server in current.servers if server.slot == slot.name]
    used = {volume.server for volume in current.volumes if volume.used}
    found = _sorted_out(mine, desired, slot, used=used, now=now)
    if found.alive:
        work = _about_alive(slot, found.alive[0], current=current, desired=desired)
        if slot.successor and len(found.alive) == 1 and work.action == "kept" and kind_of(found.alive[0]) == RUNNING:
            work = _succession(slot, found)
            return replace(work, doomed=found.doomed)
        return Work(slot, work.action, work.reason, work.server, doomed=found.doomed, spare=found.alive[1:], changes=work.changes)
    if found.interrupted:
        return _about_interrupted(slot, found, desired)
    if found.broken:
        server = found.broken[0]
        if server.locked:
            # Its successor could never take its place: nothing of a locked server can be removed.
            return Work(slot, "blocked", f"{server.id} is {server.status} and locked: unlock it", server, doomed=found.doomed)
        reason = f"the server {server.id} is in ERROR: {server.fault or 'no reason given'}"
        return _renewal(slot, "replaced", reason, found=found, desired=desired)
    reason = "there is no server" if not mine else f"the server {mine[0].id} is {mine[0].status} and never ran"
    return Work(slot, "created", reason, doomed=found.doomed)


def _renewal(slot: SlotSpec, action: str, reason: str, *, found: _Slotted, desired: FleetSpec) -> Work:
    """A new server in place of others; refused where it needs an address that only data loss would free."""
    old = found.interrupted + found.broken
    if slot.keeps_address and slot.name not in desired.allow_data_loss:
        reason += (
            f". Its successor needs the address that {old[0].id} holds, and deleting that loses its disk: name {slot.name} in "
            "allow_data_loss, or let it come back"
        )
        return Work(slot, "blocked", reason, server=old[0], old=old, doomed=found.doomed)
    return Work(slot, action, reason, old=old, doomed=found.doomed)


def _succession(slot: SlotSpec, found: _Slotted) -> Work:
    server = found.alive[0]
    if slot.keeps_address:
        return Work(slot, "blocked", f"A successor beside {server.id} needs the address that {server.id} holds: it cannot have one", server)
    return Work(slot, "succeeded", f"a successor beside {server.id} is asked for", old=(server, *found.interrupted, *found.broken))


def _about_interrupted(slot: SlotSpec, found: _Slotted, desired: FleetSpec) -> Work:
    server = found.interrupted[0]
    locked = next((one for one in found.interrupted if one.locked), None)
    if locked:
        return Work(slot, "blocked", f"{locked.id} is {locked.status} and locked: unlock it", server=locked, doomed=found.doomed)
    alarm = lost_tag(server, desired)
    if alarm and not _switched(slot.name, desired):
        return Work(slot, "blocked", alarm, server=server, old=found.interrupted, doomed=found.doomed)
    reason = f"it was interrupted ({server.status})"
    whole = tuple(one for one in found.interrupted if one.volumes or desired.profile.keeps_local_disk)
    if whole and slot.restore == "never" and slot.name in desired.allow_data_loss and not slot.keeps_address:
        return _renewal(slot, "replaced", f"{reason}, and is not to be restored where it was", found=found, desired=desired)
    if whole:
        action = "switched" if _switch_changes(server, slot.name, desired).told else "restored"
        return Work(slot, action, reason, restore=whole, old=found.interrupted + found.broken, doomed=found.doomed)
    if slot.name not in desired.allow_data_loss:
        text = f"{reason} and its local disk is lost with it: name {slot.name} in allow_data_loss to create it anew"
        return Work(slot, "blocked", text, server=server, old=found.interrupted, doomed=found.doomed)
    return _renewal(slot, "replaced", f"{reason} and its local disk is lost", found=found, desired=desired)


def _about_alive(slot: SlotSpec, server: Server, *, current: Fleet, desired: FleetSpec) -> Work:
    kind = kind_of(server)
    changes = changes_of(server, slot.name, current=current, desired=desired)
    switched = _switched(slot.name, desired)
    alarm = "" if switched else lost_tag(server, desired)
    if alarm:
        return Work(slot, "blocked", alarm, server)
    if kind == UNKNOWN:
        return Work(slot, "blocked", f"the cloud does not know how {server.id} is ({server.status}): look at it in the panel", server)
    if kind == SETTLING:
        return Work(slot, "adopted", f"{server.id} is {_state(server)}: wait until it has settled", server)
    if kind == STOPPED and desired.start_stopped:
        action, reason = "started", f"{server.id} is {server.status}, and start_stopped asks for it to run"
    elif changes.told:
        action, reason = "switched" if changes.drop_tags or _gains_tag(changes, desired) else "updated", changes.told
    else:
        left_alone = f"{server.id} is {server.status}" + ("" if kind == RUNNING else ", which may be on purpose: left alone")
        return Work(slot, "kept", left_alone, server)
    if server.locked or (action in ("updated", "switched") and server.status not in WRITABLE):
        why = "locked" if server.locked else server.status
        return Work(slot, "blocked" if action != "updated" else "kept", f"{server.id} is {why}, so this has to wait: {reason}", server)
    return Work(slot, action, reason, server, changes=changes)


def _state(server: Server) -> str:
    return f"{server.status} ({server.task_state})" if server.task_state else server.status


def _switched(name: str, desired: FleetSpec) -> bool:
    return name in desired.to_preemptible or name in desired.to_regular


def _gains_tag(changes: Changes, desired: FleetSpec) -> bool:
    return desired.profile.tag in changes.add_tags


def lost_tag(server: Server, desired: FleetSpec) -> str:
    """Return the alarm about a server that was made preemptible and is not any more, or an empty string."""
    tag = desired.profile.tag
    if server.metadata.get(MEANT_KEY) != "true" or tag in server.tags:
        return ""
    regular, cheap = (
        told(server_price(desired.prices, flavor=server.flavor, region=server.region, preemptible=kind), desired.prices)
        for kind in (False, True)
    )
    return (
        f"{server.id} is meant to be preemptible and has lost the tag {tag}: it costs {regular} instead of {cheap}. Name {server.slot} in "
        "switch_to_preemptible to set the tag again, or in switch_to_regular to keep it so"
    )


def _switch_changes(server: Server, name: str, desired: FleetSpec) -> Changes:
    tag, meant = desired.profile.tag, server.metadata.get(MEANT_KEY)
    has = tag in server.tags
    if name in desired.to_preemptible and (not has or meant != "true"):
        return Changes(add_tags=() if has else (tag,), metadata={MEANT_KEY: "true"})
    if name in desired.to_regular and (has or meant != "false"):
        return Changes(drop_tags=(tag,) if has else (), metadata={MEANT_KEY: "false"})
    return Changes()


def changes_of(server: Server, name: str, *, current: Fleet, desired: FleetSpec) -> Changes:
    """Return what has to be merged into a server: tags, metadata, security groups, a public address."""
    switch = _switch_changes(server, name, desired)
    metadata = {key: value for key, value in desired.metadata.items() if server.metadata.get(key) != value}
    ports = [port for port in current.ports if port.server == server.id and port.region == server.region]
    reached = {address.port for address in current.addresses}
    floating = any(address.kind == "floating" for address in server.addresses) or any(port.id in reached for port in ports)
    return Changes(
        add_tags=tuple(tag for tag in desired.tags if tag not in server.tags) + switch.add_tags,
        drop_tags=switch.drop_tags,
        metadata={**metadata, **switch.metadata},
        groups=_group_changes(ports, server.region, current=current, desired=desired),
        address=bool(desired.floating_network) and not floating,
        used=tuple(one.id for one in current.volumes if one.server == server.id and not one.used),
    )


def _group_changes(ports: list[Port], region: str, *, current: Fleet, desired: FleetSpec) -> dict[str, tuple[str, ...]]:
    try:
        wanted = [find_named(current.groups.get(region, ()), name, "security group") for name in desired.security_groups]
    except Unresolved:
        return {}
    found = {}
    for port in ports:
        missing = tuple(group for group in wanted if group not in port.groups)
        if port.slot and missing:
            found[port.id] = missing
    return found


def rungs_for(
    slot: SlotSpec, *, current: Fleet, desired: FleetSpec, memory: Mapping[str, Mapping[str, Any]], now: float
) -> tuple[list[Rung], list[str]]:
    """Return where a slot's server may be made, best first, and why the other placements cannot be used."""
    found, problems = [], []
    for placement in slot.placements:
        offer = current.catalogues.get(placement.region)
        if offer is None:
            continue
        try:
            groups = current.groups.get(placement.region, ())
            found.append(resolve(placement, slot=slot, desired=desired, offer=offer, groups=groups))
        except Unresolved as error:
            problems.append(f"{placement.key}: {error}")
    return by_merit(found, memory, now), problems


def regions_to_offer(current: Fleet, desired: FleetSpec, now: float) -> list[str]:
    """Return the regions whose offer the planner needs: those where a server will be made."""
    making = [slot for slot in desired.slots if plan_slot(slot, current=current, desired=desired, now=now).action in MAKING]
    return list(dict.fromkeys(placement.region for slot in making for placement in slot.placements))


@dataclass(frozen=True)
class FleetPlan:
    """The work of each slot, and the same as a plan for a person.

    :param cost_before: what the fleet costs an hour now.
    :param cost_after: what it will cost when all works at the first placement.
    """

    plan: Plan
    works: tuple[Work, ...]
    cost_before: float = 0.0
    cost_after: float = 0.0


def plan_fleet(*, current: Fleet, desired: FleetSpec, memory: Mapping[str, Mapping[str, Any]], now: float) -> FleetPlan:
    """Plan all slots of a fleet."""
    works = tuple(plan_slot(slot, current=current, desired=desired, now=now) for slot in desired.slots)
    refusals: list[Refusal] = []
    steps: list[Step] = []
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    cost = fleet_price(current, desired.prices, desired.profile)
    change = 0.0
    for work in works:
        rungs, problems = rungs_for(work.slot, current=current, desired=desired, memory=memory, now=now)
        refusals += _refusals(work, rungs, problems, desired)
        if work.writes:
            steps += _steps(work, rungs, desired)
            change += _cost_change(work, rungs, current=current, desired=desired)
            before[work.slot.name], after[work.slot.name] = _views(work, rungs)
    plan = Plan(tuple(steps), tuple(refusals), tuple(_warnings(works, current, desired)), before, after)
    return FleetPlan(plan, works, cost, cost + change)


def _refusals(work: Work, rungs: list[Rung], problems: list[str], desired: FleetSpec) -> list[Refusal]:
    name, tag = work.slot.name, desired.profile.tag
    if work.action in MAKING and not rungs:
        reason = f"Refusing to create {name}: no placement can be used. {'. '.join(problems)}. Correct placements, image or networks."
        return [Refusal(name, reason)]
    server = work.server or (work.restore[0] if work.restore else None)
    wants_regular = not any(placement.preemptible for placement in work.slot.placements)
    if server and tag in server.tags and wants_regular and name not in desired.to_regular:
        regular = server_price(desired.prices, flavor=server.flavor, region=server.region, preemptible=False)
        reason = (
            f"Refusing to make {name} regular: all its placements are regular, its server {server.id} is preemptible, and without the "
            f"tag {tag} it would cost {told(regular, desired.prices)}. Name it in switch_to_regular, or make a placement preemptible."
        )
        return [Refusal(name, reason)]
    return []


_VERBS = {
    "created": "Create",
    "replaced": "Create anew",
    "succeeded": "Create a successor of",
    "restored": "Restore",
    "adopted": "Wait for",
    "started": "Start",
    "updated": "Update",
    "switched": "Switch",
}


def _steps(work: Work, rungs: list[Rung], desired: FleetSpec) -> list[Step]:
    name = work.slot.name
    steps = [
        Step("delete", one.id, f"Delete the server {one.id} of {name}: it is {one.status}, and half-made, a duplicate or replaced")
        for one in work.doomed
    ]
    for stray in work.strays:
        if isinstance(stray, FloatingIp):
            steps.append(Step("delete", stray.id, f"Release the address {stray.address} of {name}: its server has a successor"))
            continue
        kind = "disk" if isinstance(stray, Volume) else "port"
        steps.append(Step("delete", stray.id, f"Delete the {kind} {stray.id} of {name}: an earlier run made it and no server uses it"))
    if work.action in _VERBS:
        place = ""
        if work.action in MAKING and rungs:
            first = rungs[0]
            place = f" at {first.placement.key}, flavor {first.flavor.name}, for {told(first.price, desired.prices)}"
        steps.append(Step(work.action, name, f"{_VERBS[work.action]} {name}{place}: {work.reason}", work))
    if work.old and name in desired.allow_data_loss and work.action == "replaced":
        steps += [
            Step("delete", one.id, f"Delete the server {one.id} of {name} with its disk: {name} is in allow_data_loss") for one in work.old
        ]
    return steps


def _cost_change(work: Work, rungs: list[Rung], *, current: Fleet, desired: FleetSpec) -> float:
    """Return by how much the work changes the hourly cost, as far as the table says."""
    prices, profile = desired.prices, desired.profile
    doomed = {server.id for server in work.doomed}
    change = -sum(running_price(server, prices, profile) or 0.0 for server in work.doomed)
    change -= volume_price((one for one in current.volumes if one.server in doomed or one in work.strays), prices)
    if work.action in MAKING and rungs:
        disk = desired.volume_size * prices.volume_gb if desired.boot == "volume" else 0.0
        return change + (rungs[0].price or 0.0) + disk + (prices.address if desired.floating_network else 0.0)
    server = work.server or (work.restore[0] if work.restore else None)
    if server and work.action in ("restored", "switched"):
        now = running_price(server, prices, profile) or 0.0
        name = work.slot.name
        cheap = name in desired.to_preemptible or (profile.tag in server.tags and name not in desired.to_regular)
        return change - now + (server_price(prices, flavor=server.flavor, region=server.region, preemptible=cheap) or 0.0)
    return change + (prices.address if work.changes.address else 0.0)


def _views(work: Work, rungs: list[Rung]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what differs, before and after."""
    server = work.server or (work.old[0] if work.old else None)
    before: dict[str, Any] = {"status": server.status if server else "absent"}
    after: dict[str, Any] = {"status": "ACTIVE" if work.action not in ("updated", "switched", "kept", "blocked") else before["status"]}
    if work.action == "switched" and work.restore:
        after["status"] = "ACTIVE"
    if work.action in MAKING and rungs:
        after.update(placement=rungs[0].placement.key, flavor=rungs[0].flavor.name, image=rungs[0].image.name)
    changes = work.changes
    if server and (changes.add_tags or changes.drop_tags):
        before["tags"] = sorted(server.tags)
        after["tags"] = sorted({*server.tags, *changes.add_tags} - set(changes.drop_tags))
    if server and changes.metadata:
        before["metadata"] = {key: server.metadata[key] for key in changes.metadata if key in server.metadata}
        after["metadata"] = dict(changes.metadata)
    if changes.address:
        before["public_address"], after["public_address"] = False, True
    if work.doomed:
        before["duplicates"], after["duplicates"] = [one.id for one in work.doomed], []
    if work.strays:
        before["unused"], after["unused"] = [one.id for one in work.strays], []
    return before, after


def _warnings(works: tuple[Work, ...], current: Fleet, desired: FleetSpec) -> list[str]:
    found = [f"{work.slot.name} has a second server {one.id} ({one.status}): {_why_two(work, one)}" for work in works for one in work.spare]
    names = {slot.name for slot in desired.slots}
    found += [
        f"The fleet {desired.fleet} has a server {one.slot or one.name} ({one.id}) that is not declared; remove it with state absent"
        for one in current.servers
        if one.slot not in names and kind_of(one) in (*ALIVE, INTERRUPTED, BROKEN)
    ]
    return found


def _why_two(work: Work, spare: Server) -> str:
    """Return how a slot may have come by a second server."""
    if work.server and spare.id in work.server.replaces:
        return f"{work.server.id} is its successor, and it goes once that one serves: recover.yml sees to it"
    return f"it belongs to another run, or was brought back by hand; one that may hold data goes if {work.slot.name} is in allow_data_loss"
