# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Turns decisions into options of the module of the fleet. Pure."""

from __future__ import annotations

from typing import Any, Iterable, Mapping

from .._selectel.model import FleetSpec, Placement
from .._selectel.states import ALIVE, kind_of
from .model import BY_SUCCESSOR, IN_CLOUD, RETIRE, SCALED_LABEL, SHED, Action, Observed, Recovery, WorkerNode


def placement_option(place: Placement) -> dict[str, Any]:
    """Return a placement as an option."""
    found: dict[str, Any] = {"region": place.region, "zone": place.zone, "preemptible": place.preemptible, "volume_type": place.volume_type}
    if place.match is None:
        found["flavor"] = place.flavor
    else:
        match = {"gpu": place.match.gpu, "vcpus": place.match.vcpus or None, "ram_mb": place.match.ram or None, "disk_gb": place.match.disk}
        match["gpus"] = place.match.gpus if place.match.gpu else None
        found["flavor_match"] = {name: value for name, value in match.items() if value not in ("", None)}
    return {name: value for name, value in found.items() if value != ""}


def with_spare(options: Mapping[str, Any], spare: int) -> dict[str, Any]:
    """Return the options of a fleet with as many servers beyond those declared."""
    if not spare:
        return dict(options)
    if options.get("name_pattern"):
        return {**options, "count": int(options.get("count") or 0) + spare}
    listed = list(options.get("servers") or [])
    return {**options, "servers": [*listed, *({"name": f"spare{number}"} for number in range(1, spare + 1))]}


def acting_options(recovery: Recovery, *, observed: Observed, desired: FleetSpec) -> dict[str, Any]:
    """Return the options with which the module of the fleet carries the decisions out, beside those that are declared.

    They say all of where and how; networks and user data of single servers are not repeated here, for these may be secret.
    """
    by_slot = {action.slot: action for action in recovery.actions}
    followed = _followed(observed)
    servers = []
    for slot in desired.slots:
        action = by_slot[slot.name]
        places = [placement_option(place) for place in action.placements or slot.placements]
        # A predecessor goes when that is decided, and not because its slot is worked on.
        successor = action.do in BY_SUCCESSOR or (slot.name in followed and action.do != RETIRE)
        servers.append({"name": slot.name, "placements": places, "restore": action.restore, "successor": successor})
    return {"servers": servers, "allow_regular": False, "only": worked_on(recovery.actions), "memory": recovery.notes.memory}


def needed_again(recovery: Recovery, nodes: Iterable[WorkerNode]) -> list[WorkerNode]:
    """Return the nodes that a run drained because their servers were to go, and that stay: without this they would serve nobody."""
    going = {action.node.id for action in recovery.of(SHED, RETIRE) if action.node}
    return [node for node in nodes if SCALED_LABEL in node.labels and node.id not in going and node.availability != "active"]


def worked_on(actions: Iterable[Action]) -> list[str]:
    """Return the slots about which the module of the fleet does something."""
    return [action.slot for action in actions if action.do in IN_CLOUD]


def _followed(observed: Observed) -> set[str]:
    """Return the slots in which a server that is alive has a successor beside it."""
    # Beside a single one the module would make another.
    known = {server.id: server for server in observed.fleet.servers if kind_of(server) in ALIVE}
    return {server.slot for server in known.values() if any(one in known for one in server.replaces)}
