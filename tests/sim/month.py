# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A month of a fleet in seconds: the planner of recovery as it is, against a world in which servers are interrupted by a model.

Beside it, what people do without it: whatever stopped is started again where it was, for as long as it takes. Both look every two
minutes, as a schedule would. What is simulated is the world; every decision is the planner's own.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Iterable, Iterator

from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.act import acting_options
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.model import (
    BY_SUCCESSOR,
    SERVER_LABEL,
    SHED,
    Action,
    Observed,
    Policy,
    WorkerNode,
)
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.plan import plan_recovery
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.state import Notes
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel import model as cloud
from models import Model, has_room, next_outage

HOUR = 3600.0
DAYS = 30
LOOK = 120.0
# From the request to the first token: a disk that is there, a new disk with a golden image, and finding out that there is no room.
# Selectel is ACTIVE after 20 to 25 s; the rest is boot, join and model, generously.
RESTORE, MAKE, NO_ROOM = 120.0, 300.0, 20.0
ENGINES = 4
ZONES = 3
# About 70 % cheaper (docs.selectel.ru).
CHEAP, FULL = 0.3, 1.0
START = 20000 * 86400.0
_FLAVOR = "GL10"
_SPECS = {"pci_passthrough:alias": "T4:1"}
# A started hour is billed in full: what is lost in its last forty minutes waits for the next, while others are in two zones.
POLICY = Policy(regular_max=1, breaker_limit=3, patience=2400.0, grace=900.0)


@dataclass
class Life:
    """One run of a server.

    :param ready: from when it serves.
    :param end: when it is interrupted, or was ended.
    """

    zone: int
    regular: bool
    begin: float
    ready: float
    end: float


@dataclass
class Machine:
    """A server, with its lives."""

    id: str
    slot: str
    zone: int
    regular: bool
    created: float
    lives: list[Life] = field(default_factory=list)
    replaces: str = ""

    def runs(self, now: float) -> bool:
        return bool(self.lives) and self.lives[-1].end > now


@dataclass(frozen=True)
class Outcome:
    """What a month was like.

    :param availability: the part of the time with at least one engine.
    :param engines: engines that served, on the average.
    :param cost: over that of as many regular servers, all the time; each server billed for every hour it began.
    :param cost_at_once: the same, where an hour is billed by the most that ran at once in it.
    :param interruptions: lives that were cut off.
    """

    availability: float
    engines: float
    cost: float
    cost_at_once: float
    interruptions: int
    days: tuple[float, ...] = ()


class World:
    """Zones, machines and a clock."""

    def __init__(self, model: Model, seed: int, days: float) -> None:
        self.rng = random.Random(f"{model.name} {seed}")
        self.model = model
        self.now = START
        self.end = START + days * 24 * HOUR
        hours = days * 24 + 48
        self.outages = [[(START + a * HOUR, START + b * HOUR) for a, b in model.outages(zone, hours, self.rng)] for zone in range(ZONES)]
        self.machines: dict[str, Machine] = {}
        self.gone: list[Machine] = []

    def room(self, zone: int) -> bool:
        return has_room(self.outages[zone], self.now)

    def start(self, machine: Machine, takes: float) -> None:
        """Let a server run; it serves after a while, and ends when the model says so."""
        end = math.inf
        if not machine.regular:
            end = min(self.now + self.model.life(self.rng) * HOUR, next_outage(self.outages[machine.zone], self.now))
        machine.lives.append(Life(machine.zone, machine.regular, self.now, self.now + takes, end))

    def make(self, slot: str, zone: int, *, regular: bool, replaces: str = "") -> None:
        number = len(self.machines) + len(self.gone)
        machine = Machine(f"srv{number:05d}", slot, zone, regular, self.now, replaces=replaces)
        self.machines[machine.id] = machine
        self.start(machine, MAKE)

    def delete(self, name: str) -> None:
        machine = self.machines.pop(name)
        if machine.runs(self.now):
            machine.lives[-1].end = self.now
        self.gone.append(machine)

    def lives(self) -> Iterator[Life]:
        for machine in (*self.machines.values(), *self.gone):
            yield from machine.lives

    def outcome(self) -> Outcome:
        """Sum the month up."""
        spans = [(life.ready, min(life.end, self.end)) for life in self.lives() if min(life.end, self.end) > life.ready]
        whole = self.end - START
        hourly = [0.0] * math.ceil(whole / HOUR)
        for life in self.lives():
            for hour in range(int((life.begin - START) // HOUR), int((min(life.end, self.end) - START - 1e-6) // HOUR) + 1):
                hourly[hour] += FULL if life.regular else CHEAP
        at_once = sum(most_at_once(self.lives(), self.end, regular=kind) * price for kind, price in ((True, FULL), (False, CHEAP)))
        cut = sum(1 for life in self.lives() if not life.regular and life.end < self.end)
        full = ENGINES * FULL * whole / HOUR
        served = sum(end - begin for begin, end in spans)
        days = tuple(round(sum(hourly[begin : begin + 24]) / (ENGINES * FULL * 24), 4) for begin in range(0, len(hourly), 24))
        return Outcome(covered(spans) / whole, served / whole, sum(hourly) / full, at_once / full, cut, days)


def most_at_once(lives: Iterable[Life], end: float, *, regular: bool) -> int:
    """Return the sum over all hours of the most servers of a kind that ran at once."""
    changes = sorted(change for life in lives if life.regular == regular for change in ((life.begin, 1), (min(life.end, end), -1)))
    total, running, most, hour = 0, 0, 0, 0
    for at, step in [*changes, (end, 0)]:
        now = int((at - START) // HOUR)
        if now > hour:
            total += most + running * (now - hour - 1)
            most, hour = running, now
        running += step
        most = max(most, running)
    return total


def covered(spans: list[tuple[float, float]]) -> float:
    """Return for how long at least one of these is under way."""
    total, reached = 0.0, 0.0
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


# -- with the planner ------------------------------------------------------------------------------------------------------
def wanted() -> cloud.FleetSpec:
    """Return the fleet: as many servers as engines, anywhere, and regular ones as the last resort."""
    cheap = [cloud.Placement("r1", f"z{zone}", _FLAVOR) for zone in range(ZONES)]
    full = [cloud.Placement("r1", f"z{zone}", _FLAVOR, preemptible=False) for zone in range(ZONES)]
    slots = tuple(cloud.SlotSpec(f"gpu{number}", (*cheap, *full)) for number in range(ENGINES))
    return cloud.FleetSpec(
        "sim",
        slots,
        image="golden",
        volume_size=10,
        allow_data_loss=tuple(slot.name for slot in slots),
        prices=cloud.Prices("", (cloud.Price(_FLAVOR, "", CHEAP, FULL),)),
    )


OFFER = cloud.Catalogue((cloud.Flavor("f", _FLAVOR, specs=_SPECS),), (cloud.Image("i", "golden"),), ())


def seen(world: World) -> Observed:
    """Return what cloud and swarm show."""
    servers, nodes = [], []
    for machine in world.machines.values():
        life = machine.lives[-1]
        runs = machine.runs(world.now)
        servers.append(
            cloud.Server(
                machine.id,
                machine.slot,
                "r1",
                "ACTIVE" if runs else "SHELVED_OFFLOADED",
                tags=() if machine.regular else ("preemptible",),
                metadata={
                    cloud.SLOT_KEY: machine.slot,
                    cloud.MEANT_KEY: "false" if machine.regular else "true",
                    cloud.REPLACES_KEY: machine.replaces,
                },
                created_at=machine.created,
                launched_at=life.begin,
                zone=f"z{machine.zone}",
                flavor=_FLAVOR,
                specs=_SPECS,
                volumes=("disk",),
            )
        )
        if runs and world.now >= life.ready:
            nodes.append(WorkerNode(f"n-{machine.id}", machine.slot, gpus=1, engines=1, labels={SERVER_LABEL: machine.id}))
    return Observed(cloud.Fleet(servers=tuple(servers), catalogues={"r1": OFFER}), tuple(nodes), replicas=ENGINES)


class Recovered:
    """The planner, and a world that does what it decides, as the playbook and the module of the fleet would."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self._desired = wanted()
        self._policy = policy
        self._notes = Notes()

    def look(self, world: World) -> None:
        observed = seen(world)
        found = plan_recovery(observed, desired=self._desired, policy=self._policy, notes=self._notes, now=world.now)
        self._notes = found.notes
        act = acting_options(found, observed=observed, desired=self._desired)
        for action in found.actions:
            if action.slot in act["only"]:
                self._carry_out(world, action)
        # Beside the module of the fleet, as the playbook does it.
        for action in found.of(SHED):
            for name in [one.id for one in world.machines.values() if one.slot == action.slot]:
                world.delete(name)

    def _carry_out(self, world: World, action: Action) -> None:
        if action.do == "retire" and action.server:
            world.delete(action.server.id)
        elif action.do == "tidy":
            self._tidy(world, action.slot)
        elif action.do in BY_SUCCESSOR and action.server:
            self._make(world, action, replaces=action.server.id)
        elif action.do == "restore" and action.server and self._restored(world, action.server.id):
            return
        elif action.do in ("restore", "replace", "create") and action.restore != "only" and self._make(world, action):
            for name in [one.id for one in world.machines.values() if one.slot == action.slot and not one.runs(world.now)]:
                world.delete(name)

    @staticmethod
    def _tidy(world: World, slot: str) -> None:
        for name in [one.id for one in world.machines.values() if one.slot == slot and not one.runs(world.now)]:
            world.delete(name)

    @staticmethod
    def _restored(world: World, name: str) -> bool:
        machine = world.machines[name]
        if not (machine.regular or world.room(machine.zone)):
            return False
        world.start(machine, RESTORE)
        return True

    def _make(self, world: World, action: Action, replaces: str = "") -> bool:
        for place in action.placements:
            zone = int(place.zone[1:])
            if not place.preemptible or world.room(zone):
                world.make(action.slot, zone, regular=not place.preemptible, replaces=replaces)
                return True
            self._notes.memory[place.key] = {"until": world.now + self._desired.demote_for, "reason": "no room"}
            world.now += NO_ROOM
        return False


class Naive:
    """Whatever stopped is started again where it was."""

    def look(self, world: World) -> None:
        for number in range(ENGINES):
            slot = f"gpu{number}"
            mine = [one for one in world.machines.values() if one.slot == slot]
            if not mine and world.room(0):
                world.make(slot, 0, regular=False)
            for machine in mine:
                if not machine.runs(world.now) and world.room(machine.zone):
                    world.start(machine, RESTORE)


def month(policy: Recovered | Naive, model: Model, *, seed: int = 1, days: float = DAYS) -> Outcome:
    """Simulate; the first look is made before the time counts, with all servers up."""
    world = World(model, seed, days)
    policy.look(world)
    for life in world.lives():
        life.ready = START
    next_look = START
    while world.now < world.end:
        next_look += LOOK
        world.now = max(world.now, next_look)
        next_look = world.now
        policy.look(world)
    return world.outcome()
