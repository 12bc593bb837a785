# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the planner looks at, what it may do, and what it decides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping

from .._selectel.model import Fleet, Placement, Server
from .state import Notes

# On a node of a cloud's server: the server's ID, so that two nodes of one host name are told apart.
SERVER_LABEL = "llm-stack.server"
# On a node that is drained because its server is to go, since when; where that is needed again, so is the node.
SCALED_LABEL = "llm-stack.scaled-in"

# What can be decided about a worker, the most urgent first; also the order of the table.
RESTORE, CREATE, REPLACE, WAIT, START, MEND, RETIRE, TIDY, SHED, ROTATE, HEDGE, HAND_BACK, REFUSE, KEEP, IDLE = (
    "restore",
    "create",
    "replace",
    "wait",
    "start",
    "mend",
    "retire",
    "tidy",
    "shed",
    "rotate",
    "hedge",
    "hand back",
    "refuse",
    "keep",
    "idle",
)
# What makes the cloud start something, and so costs.
BILLED = (RESTORE, CREATE, REPLACE, START, ROTATE, HEDGE, HAND_BACK)
# What is done by way of a successor beside a running server.
BY_SUCCESSOR = (ROTATE, HEDGE, HAND_BACK)
# What the module of the fleet does.
IN_CLOUD = (RESTORE, CREATE, REPLACE, START, WAIT, *BY_SUCCESSOR, RETIRE, TIDY)


@dataclass(frozen=True)
class WorkerNode:
    """A node as a manager sees it.

    :param gpus: how many it advertises.
    :param engines: how many engines run on it.
    """

    id: str
    hostname: str
    address: str = ""
    ready: bool = True
    availability: str = "active"
    gpus: int = 0
    engines: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Observed:
    """What was seen of the cloud and the swarm at one moment.

    :param nodes: the workers of the swarm.
    :param replicas: how many engines there should be; None when there is no such service.
    :param hosts: addresses by name of workers that are no servers of the fleet.
    """

    fleet: Fleet = field(default_factory=Fleet)
    nodes: tuple[WorkerNode, ...] = ()
    replicas: int | None = None
    hosts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Policy:
    """What the planner may do. Times are in seconds.

    :param spare: how many of the last servers are there beyond what is needed.
    :param regular_max: how many regular servers may stand in at a time for preemptible ones.
    :param budget: what a day may cost; None for no limit.
    :param rotate_before: how long before the end of its life a server is rotated; None never rotates.
    :param rotate_gap: between the beginnings of two rotations.
    :param breaker_limit: as many interruptions at a placement within `breaker_window` and it is left alone for `breaker_rest`.
    :param hand_back_gap: between two tries to have a preemptible server in place of a regular one.
    :param patience: so late in an hour, of which a started one is billed in full, a server waits for the next while two zones serve.
    :param grace: how long a server that was just started has to become a node by itself.
    :param wanted: how many of the declared servers demand needs, spare ones aside; None where that was not decided.
    :param least: as many at least, where demand decides, and else those that are there; None where all that are declared are wanted.
    :param improve: whether what serves is made better too, by rotating, spreading and handing back.
    :param later: by slot, until when one that could not be brought back a moment ago is not tried again.
    :param busy: slots that are being worked on at this moment by whoever asks: nothing is decided about them, and what was booked for
        them is theirs.
    """

    spare: int = 0
    regular_max: int = 0
    budget: float | None = None
    rotate_before: float | None = 7200.0
    rotate_gap: float = 1800.0
    breaker_limit: int = 3
    breaker_window: float = 3600.0
    breaker_rest: float = 3600.0
    hand_back_gap: float = 1800.0
    patience: float = 0.0
    grace: float = 120.0
    wanted: int | None = None
    least: int | None = None
    improve: bool = True
    later: Mapping[str, float] = field(default_factory=dict)
    busy: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Action:
    """What is decided about one worker.

    :param cost: by how much it changes what the fleet costs an hour; None when the price is not known.
    :param server: the one that is there, or goes.
    :param node: the node that goes with it.
    :param placements: where a server may be made, best first.
    :param restore: ``first``, ``never`` or ``only``, as the module of the fleet has it.
    :param person: whether it needs a person.
    :param dear: whether it is money for which it is refused: the budget, or the bound on regular servers.
    """

    slot: str
    do: str
    reason: str
    cost: float | None = 0.0
    server: Server | None = None
    node: WorkerNode | None = None
    placements: tuple[Placement, ...] = ()
    restore: str = "first"
    person: bool = False
    dear: bool = False

    @property
    def acts(self) -> bool:
        """Whether anything is done."""
        return self.do not in (KEEP, REFUSE, IDLE)


@dataclass(frozen=True)
class Recovery:
    """What is decided about all workers.

    :param notes: what the next run must know, written before anything is done.
    :param stale: nodes that are down and belong to no server and no host any more.
    :param cost: of the fleet an hour, now and afterwards; None where a price is not known.
    """

    actions: tuple[Action, ...]
    notes: Notes
    stale: tuple[WorkerNode, ...] = ()
    cost: tuple[float | None, float | None] = (None, None)

    def of(self, *kinds: str) -> tuple[Action, ...]:
        """Return the actions of these kinds."""
        return tuple(one for one in self.actions if one.do in kinds)

    @property
    def person(self) -> bool:
        """Whether anything needs a person."""
        return any(one.person for one in self.actions)


def as_table(actions: tuple[Action, ...], currency: str) -> list[str]:
    """Return the plan for a person: one line a worker, in columns."""
    rows = [("worker", "action", "cost/h", "reason")]
    rows += [(one.slot, one.do, told_change(one.cost, currency), one.reason) for one in actions]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return ["  ".join([*(row[column].ljust(widths[column]) for column in range(3)), row[3]]) for row in rows]


def told_change(cost: float | None, currency: str) -> str:
    """Return a change of the hourly cost for a person."""
    if cost is None:
        return "unknown"
    return f"{cost:+g} {currency}".strip() if cost else "0"


def plain(action: Action) -> dict[str, Any]:
    """Return an action as plain data."""
    return {
        "name": action.slot,
        "action": action.do,
        "reason": action.reason,
        "cost": action.cost,
        "server": action.server.id if action.server else "",
        "node": action.node.id if action.node else "",
        "person": action.person,
        "dear": action.dear,
    }
