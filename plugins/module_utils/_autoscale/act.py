# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries out what was decided, as far as it needs no hands: servers in the cloud, nodes and the number of engines in the swarm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Iterable, Mapping, Protocol

from .._plan import Step
from .._recover.act import acting_options
from .._recover.model import (
    CREATE,
    IDLE,
    KEEP,
    REPLACE,
    RESTORE,
    RETIRE,
    SCALED_LABEL,
    SERVER_LABEL,
    START,
    TIDY,
    WAIT,
    Action,
    Observed,
    Recovery,
    WorkerNode,
)
from .._recover.state import Notes
from .._recover.swarm import ENGINE
from .._selectel.apply import Run
from .._selectel.ladder import Outcome
from .._selectel.model import FleetSpec, Placement
from .._selectel.remove import plan_removal
from .._selectel.spec import fleet_spec
from .._selectel.states import ALIVE, SETTLING, kind_of
from .._swarm.client import Api, EngineError
from .._swarm.members_apply import MembersApplier

_BRINGS_BACK = (RESTORE, CREATE, REPLACE, START, TIDY)
_NOT_FOUND = 404
# What was found out about placements: what failed there, or None where it works again.
Learned = Mapping[str, "dict[str, Any] | None"]


class Engine(Api, Protocol):
    """What is needed of a manager's engine."""

    def update_service(self, service_id: str, version: int, spec: dict[str, Any]) -> None: ...


def to_bring_back(recovery: Recovery) -> list[Action]:
    """Return what is done in the cloud: lost workers, and what a run that was killed has half made or left over."""
    waiting = [one for one in recovery.of(WAIT) if one.server and kind_of(one.server) == SETTLING]
    # One that runs answers its last requests first, once its successor has proven itself: that is for recover.yml.
    lost = [one for one in recovery.of(RETIRE) if one.server and kind_of(one.server) not in ALIVE]
    return [*recovery.of(*_BRINGS_BACK), *waiting, *lost]


def brought_back(
    run: Run, slot: str, recovery: Recovery, *, observed: Observed, desired: FleetSpec, options: Mapping[str, Any]
) -> tuple[Outcome, Learned]:
    """Bring one lost worker back; return how that ended, and what was learned of placements.

    :param run: of all that are brought back at once; they share their looks.
    :param options: those of the fleet as declared.
    :raises StackError: its work was refused.
    """
    acting = acting_options(recovery, observed=observed, desired=desired)
    declared = {str(one["name"]): one for one in options["servers"]}
    servers = [{**declared.get(one["name"], {}), **one} for one in acting["servers"]]
    planned = {"name_pattern": None, "count": None, "placements": [], "allow_regular": False, "servers": servers, "only": [slot]}
    # Whether a successor serves is for recover.yml to find out.
    spec = fleet_spec({**options, **planned, "keep_predecessors": True, "state": "present", "memory": {}})
    before = {key: dict(value) for key, value in recovery.notes.memory.items()}
    mine = replace(run, memory=before)
    # What was seen under the lock a moment ago is the present: another look would cost seconds.
    plan = mine.plan(observed.fleet, spec)
    plan.plan.raise_if_refused()
    found = mine.apply(plan, current=observed.fleet, desired=spec)
    failed = {key: value for key, value in mine.memory.items() if before.get(key) != value}
    return next(one for one in found if one.slot == slot), {**dict.fromkeys(set(before) - set(mine.memory)), **failed}


def is_free(api: Api, node: WorkerNode | None, *, drain: float, now: float) -> bool:
    """Begin to take a worker's tasks away, and tell whether they have gone; a turn that looks again is not held up by one that drains.

    :param drain: seconds its last requests may take; what is still answered then is cut, and the balancer's clients are told.
    """
    if node is None or not node.ready:
        return True
    if SCALED_LABEL not in node.labels or node.availability == "active":
        set_availability(api, node, "drain", now=now)
        return False
    states = [(one.get("Status") or {}).get("State") for one in api.tasks([node.id])]
    since = node.labels[SCALED_LABEL]
    return "running" not in states or (since.isdigit() and now - int(since) >= drain)


def let_go(run: Run, slot: str, *, desired: FleetSpec) -> Outcome:
    """Remove the server of a worker that is not needed, with all that was made for it."""
    current = run.look(desired.fleet)
    plan, works = plan_removal(current=current, fleet=desired.fleet, slots=(slot,), confirm=desired.fleet)
    plan.raise_if_refused()
    failed = [one for one in run.remove(works) if not one.ok]
    return failed[0] if failed else Outcome(slot, "removed", "demand does not need it")


def set_availability(api: Api, node: WorkerNode, availability: str, *, now: float = 0.0) -> None:
    """Drain a node, or have it take tasks again; a label says whose wish the drain is, and since when."""
    drained = availability == "drain"
    label = {SCALED_LABEL: f"{now:.0f}"} if drained else {}
    change = {"set": label, "remove": [] if drained else [SCALED_LABEL], "availability": availability}
    MembersApplier(api).do(Step("update", node.id, f"Set {node.hostname} to {availability}", change))


def nameless(recovery: Recovery) -> dict[str, str]:
    """Return the servers by the nodes that do not say whose they are yet: those that joined by themselves."""
    kept = [action for action in recovery.of(KEEP) if action.server and action.node and not action.node.labels.get(SERVER_LABEL)]
    return {action.node.id: action.server.id for action in kept if action.node and action.server}


def name_node(api: Api, node: str, server: str) -> None:
    """Note on a node which server it is, so that it is known for gone when the server is."""
    change = {"set": {SERVER_LABEL: server}, "remove": [], "availability": ""}
    MembersApplier(api).do(Step("update", node, f"Label {node} as the server {server}", change))


def engines_for(recovery: Recovery, observed: Observed) -> int | None:
    """Return how many engines there should be; None when their number is right, or cannot be told.

    One for each GPU that serves; fewer than before only when no worker is away, or drained, that may come back.
    """
    active = [node for node in observed.nodes if node.availability == "active"]
    gpus = sum(node.gpus for node in active if node.ready)
    calm = all(action.do in (KEEP, IDLE) for action in recovery.actions) and len(active) == len(observed.nodes)
    if observed.replicas is None or not gpus or gpus == observed.replicas or (gpus < observed.replicas and not calm):
        return None
    return gpus


def set_engines(api: Engine, wanted: int) -> None:
    """Have as many engines; their tasks that run stay as they are."""
    found = api.service(ENGINE)
    spec = {**found["Spec"], "Mode": {"Replicated": {"Replicas": wanted}}}
    api.update_service(found["ID"], found["Version"]["Index"], spec)


def forget(api: Api, node: WorkerNode) -> None:
    """Remove a node that is down and whose server is gone for good."""
    try:
        api.remove_node(node.id)
    except EngineError as error:
        if error.status != _NOT_FOUND:
            raise


def left_alone(recovery: Recovery, places: Iterable[Placement], now: float) -> str:
    """Return why one more worker had better not be made at the best of these placements: too many were interrupted there."""
    first = next(iter(places), None)
    if first is None:
        return ""
    kind = "preemptible" if first.preemptible else "regular"
    for key, until in recovery.notes.breaker.opened.items():
        region, zone, flavor, opened = key.split("/")
        here = region == (first.region or "default") and first.zone in ("", zone) and opened == kind
        if until > now and here and first.flavor in ("", flavor):
            return f"Too many were interrupted at {key}: it is left alone for {until - now:.0f} s more"
    return ""


def with_learned(notes: Notes, learned: Learned) -> Notes:
    """Return the notes with what was learned of placements on the way."""
    memory = {**notes.memory, **learned}
    return replace(notes, memory={key: value for key, value in memory.items() if value is not None})
