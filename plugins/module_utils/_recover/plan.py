# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pure planner of recovery: what was seen of cloud and swarm, and what may be done, in; one decision for each worker out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Iterable

from .._selectel.model import Fleet, FleetSpec, Placement, Server, SlotSpec
from .._selectel.placements import Rung
from .._selectel.plan import Work, plan_slot, rungs_for
from .._selectel.prices import fleet_price, running_price, server_price
from .._selectel.read import gpus_of
from .._selectel.report import started_at
from .._selectel.states import ALIVE, GONE, INTERRUPTED, RUNNING, SETTLING, STOPPED, kind_of
from .breaker import Interruption, noticed
from .budget import DAY, HOUR, Begun, Ledger, booked, day_total, ended, open_ledger, outstanding, settled
from .match import node_of, stale_nodes
from .model import (
    BILLED,
    CREATE,
    HAND_BACK,
    HEDGE,
    IDLE,
    KEEP,
    MEND,
    REFUSE,
    REPLACE,
    RESTORE,
    RETIRE,
    ROTATE,
    SHED,
    START,
    TIDY,
    WAIT,
    Action,
    Observed,
    Policy,
    Recovery,
    WorkerNode,
)
from .state import Notes

# How long before the end of a billed hour a regular server is handed back: its successor has to boot and prove itself first.
_HAND_BACK = 900.0
# A schedule may never run so late in an hour: one that was not tried for so long is handed back at any time.
_OVERDUE = HOUR + _HAND_BACK
# In so many zones servers must run or be started before another may wait: the loss of one leaves somebody to answer.
_ENOUGH = 2
# By so much the clocks of the cloud and of who books may differ, in seconds.
_SKEW = 300.0
_VERBS = {"restored": RESTORE, "switched": RESTORE, "created": CREATE, "replaced": REPLACE, "started": START, "adopted": WAIT}


def place_key(server: Server, tag: str) -> str:
    """Return the name under which interruptions of a server's kind and place are counted."""
    return _key(server.region, server.zone, server.flavor, preemptible=tag in server.tags)


def _key(region: str, zone: str, flavor: str, *, preemptible: bool) -> str:
    return "/".join((region or "default", zone or "any", flavor, "preemptible" if preemptible else "regular"))


def interruptions(observed: Observed, desired: FleetSpec, now: float) -> list[Interruption]:
    """Return the interruptions that can be seen: each life of a server is one."""
    tag = desired.profile.tag
    return [
        Interruption(place_key(one, tag), f"{one.id}@{one.launched_at or 0:.0f}", now)
        for one in observed.fleet.servers
        if kind_of(one) == INTERRUPTED
    ]


def plan_recovery(observed: Observed, *, desired: FleetSpec, policy: Policy, notes: Notes, now: float) -> Recovery:
    """Decide about every worker.

    :param desired: the fleet, its spare servers included, which come last.
    """
    planner = _Planner(observed, desired, policy, notes, now)
    return planner.plan()


def wanted_of(desired: FleetSpec, current: Fleet, policy: Policy) -> int | None:
    """Return how many of the declared servers are wanted; None for all. Until demand has decided, those that are there are."""
    if policy.wanted is not None or policy.least is None:
        return policy.wanted
    there = {one.slot for one in current.servers if kind_of(one) != GONE}
    return max(policy.least, sum(1 for name in _declared(desired, policy) if name in there))


def _declared(desired: FleetSpec, policy: Policy) -> list[str]:
    return [slot.name for slot in desired.slots[: len(desired.slots) - policy.spare]]


def surplus(desired: FleetSpec, current: Fleet, policy: Policy) -> frozenset[str]:
    """Return the declared servers that demand does not need: first those that are not there, last those that run."""
    wanted = wanted_of(desired, current, policy)
    if wanted is None:
        return frozenset()
    there = {one.slot for one in current.servers if kind_of(one) != GONE}
    alive = {one.slot for one in current.servers if kind_of(one) in ALIVE}
    order = sorted(_declared(desired, policy), key=lambda name: (name not in alive, name not in there))
    return frozenset(order[wanted:])


def due(ends: Iterable[float], *, before: float, gap: float) -> list[float]:
    """Return when each server must be rotated at the latest, in the order of the ends of their lives.

    Of servers that end together the first must begin early enough for all to follow with the gap between them.
    """
    starts: list[float] = []
    for end in sorted(ends, reverse=True):
        latest = end - before
        starts.insert(0, min(latest, starts[0] - gap) if starts else latest)
    return starts


@dataclass(frozen=True)
class _Choice:
    """Where a server may be made, and what that costs at the most; empty with the reason when nowhere.

    :param offered: where it could be made, were there money enough.
    :param dear: whether the reason is money: the budget, or the bound on regular servers.
    :param unpriced: whether it is that a price is missing, which only a person can add.
    """

    rungs: tuple[Rung, ...] = ()
    offered: tuple[Rung, ...] = ()
    price: float | None = 0.0
    reason: str = ""
    dear: bool = False
    unpriced: bool = False


class _Planner:
    """One plan in the making: what was decided already narrows what is left."""

    def __init__(self, observed: Observed, desired: FleetSpec, policy: Policy, notes: Notes, now: float) -> None:
        self._seen = observed
        self._fleet = observed.fleet
        self._desired = desired
        self._policy = policy
        self._now = now
        self._tag = desired.profile.tag
        self._notes = notes
        found = interruptions(observed, desired, now)
        self._breaker = noticed(
            notes.breaker, found, now=now, limit=policy.breaker_limit, window=policy.breaker_window, rest=policy.breaker_rest
        )
        self._rate = fleet_price(self._fleet, desired.prices, desired.profile)
        known = settled(notes.ledger, self._cost_of, busy=policy.busy) if notes.ledger else None
        # What is being made and is not seen to run yet will: its price is nobody else's to spend.
        coming = outstanding(known, self._cost_of, busy=policy.busy)
        self._ledger: Ledger = open_ledger(known, now=now, rate=self._rate + sum(coming.values()))
        # What goes by this plan: until it has gone, its price is nobody else's to spend.
        self._going = 0.0
        # One that is being made may come up regular.
        self._regulars = sum(1 for one in self._fleet.servers if self._is_fallback(one)) + sum(1 for price in coming.values() if price)
        self._rotated = notes.rotated
        self._surplus = surplus(desired, self._fleet, policy)
        self._optional = self._dispensable()
        self._standing = self._standing_rate() + sum(price for slot, price in coming.items() if slot not in self._optional)
        self._tried = {slot: at for slot, at in notes.tried.items() if now - at < max(policy.hand_back_gap, _OVERDUE)}
        # Where this plan makes servers: as (slot, zone), the zone empty for a regular one.
        self._planned: list[tuple[str, str]] = []
        self._unpriced = any(running_price(one, desired.prices, desired.profile) is None for one in self._fleet.servers)

    def plan(self) -> Recovery:
        """Decide, what is broken before what could be better."""
        works = [plan_slot(slot, current=self._fleet, desired=self._desired, now=self._now) for slot in self._desired.slots]
        actions = {work.slot.name: self._about(work) for work in works}
        # A host that the inventory lists by hand under the name of a server is that server.
        others = {name: address for name, address in self._seen.hosts.items() if name not in actions}
        actions.update({name: self._about_host(name, address) for name, address in others.items()})
        self._shed(actions)
        if self._policy.improve:
            self._improve(actions, busy=any(one.acts for one in actions.values()))
        order = tuple(actions.values())
        changes = [one.cost for one in order if one.acts]
        known = not self._unpriced and all(cost is not None for cost in changes)
        after = self._rate + sum(cost or 0.0 for cost in changes) if known else None
        notes = replace(self._notes, breaker=self._breaker, ledger=self._ledger, rotated=self._rotated, tried=self._tried)
        servers = [server for server in self._fleet.servers if server.slot]
        stale = stale_nodes(self._seen.nodes, servers=servers)
        return Recovery(order, notes, stale, (None if self._unpriced else self._rate, after))

    # -- what was begun --------------------------------------------------------------------------------------------------------
    def _price_of(self, server: Server) -> float:
        return running_price(server, self._desired.prices, self._desired.profile) or 0.0

    def _cost_of(self, slot: str, begun: Begun) -> float:
        """Return what came of something that was begun costs an hour: nothing where no server has run since."""
        came = [
            one
            for one in self._fleet.servers
            if one.slot == slot and one.id != begun.beside and (kind_of(one) in ALIVE or (one.launched_at or 0.0) >= begun.at - _SKEW)
        ]
        prices = [
            server_price(self._desired.prices, flavor=one.flavor, region=one.region, preemptible=self._tag in one.tags) for one in came
        ]
        if not prices:
            return 0.0
        return begun.price if None in prices else self._with_disk(sum(filter(None, prices))) or 0.0

    def _dispensable(self) -> frozenset[str]:
        """Return the slots that are there for more than what is declared at the least: spare ones, and those that demand had made."""
        spare = [slot.name for slot in self._desired.slots[len(self._desired.slots) - self._policy.spare :]]
        if self._policy.least is None:
            return frozenset(spare)
        return frozenset(spare) | surplus(self._desired, self._fleet, replace(self._policy, wanted=self._policy.least))

    def _standing_rate(self) -> float:
        """Return what an hour costs in which nothing happens: disks, and servers that no budget ends, one for each slot."""
        stays: dict[str, float] = {}
        for one in self._fleet.servers:
            if not self._may_end(one):
                key = one.slot or one.id
                stays[key] = max(stays.get(key, 0.0), self._price_of(one))
        return self._rate - sum(self._price_of(one) for one in self._fleet.servers) + sum(stays.values())

    def _may_end(self, server: Server) -> bool:
        """Whether a server is ended on a day that would cost too much."""
        return server.slot in self._desired.allow_data_loss and (server.slot in self._optional or self._is_fallback(server))

    # -- one worker --------------------------------------------------------------------------------------------------------
    def _about(self, work: Work) -> Action:
        name = work.slot.name
        if name in self._policy.busy:
            return Action(name, WAIT, "it is being worked on", server=work.server)
        if name in self._surplus:
            return self._about_surplus(work)
        if work.action == "blocked":
            return Action(name, REFUSE, work.reason, server=work.server, person=True)
        if work.action in ("kept", "updated"):
            return self._about_alive(work)
        if work.action == "adopted":
            return Action(name, WAIT, work.reason, server=work.server)
        return self._about_broken(work)

    def _about_surplus(self, work: Work) -> Action:
        """Demand does not need this one: it goes with its disk, if that may be."""
        name, reason = work.slot.name, f"demand needs {wanted_of(self._desired, self._fleet, self._policy)} of those declared"
        held = [one for one in self._fleet.servers if one.slot == name and kind_of(one) != GONE]
        alive = [one for one in held if kind_of(one) in ALIVE]
        server = next(iter(alive + held), None)
        left = (
            {one.slot for one in self._fleet.ports}
            | {one.slot for one in self._fleet.volumes}
            | {one.slot for one in self._fleet.addresses}
        )
        if server is None and name not in left:
            return Action(name, IDLE, reason)
        node = node_of(server, self._seen.nodes, alone=len(alive) < 2) if server else None
        if name not in self._desired.allow_data_loss:
            reason += ", and what it holds would be deleted: name it in allow_data_loss, or raise gpu_workers_min"
            return Action(name, REFUSE, reason, server=server, node=node, person=bool(alive))
        if self._policy.later.get(name, 0.0) > self._now:
            return Action(name, REFUSE, f"{reason}. It could not be removed a moment ago", server=server, node=node)
        price = sum(self._price_of(one) for one in alive)
        self._end(price)
        return Action(name, SHED, reason, -price, server=server, node=node)

    def _about_broken(self, work: Work) -> Action:
        name, old = work.slot.name, next(iter(work.restore or work.old), work.server)
        verb, reason, restore = _VERBS[work.action], work.reason, bool(work.restore)
        later = self._policy.later.get(name, 0.0) - self._now
        if later > 0:
            return Action(name, REFUSE, f"{reason}. It could not be brought back a moment ago: again in {later:.0f} s", server=old)
        choice = self._choose(work.slot)
        patience = self._patience(name)
        if patience:
            return Action(name, REFUSE, f"{reason}. {patience}", server=old)
        price = self._restore_price(old) if restore and old else 0.0
        # Where there was no room a while ago, there is no way out either.
        elsewhere = [rung for rung in choice.rungs if not self._open(rung) and not self._failed(rung)]
        if restore and old and self._breaker.is_open(place_key(old, self._tag), self._now) and name in self._desired.allow_data_loss:
            if elsewhere:
                verb, restore, price = REPLACE, False, 0.0
                reason += f", and too many were interrupted at {place_key(old, self._tag)}: it is left alone for a while"
            else:
                reason += ", and no other placement can be used, so it is tried there all the same"
        lasting = price if restore else self._lasting_price(work.slot, choice, anew=old is None)
        refusal = self._over_every_day(name, lasting)
        if refusal:
            return Action(name, REFUSE, f"{reason}. {refusal}", server=old, person=True, dear=True)
        if not restore and not choice.rungs and self._fleet.catalogues:
            return Action(name, REFUSE, f"{reason}. {choice.reason}", server=old, person=choice.unpriced, dear=choice.dear)
        choice, refusal = self._paid(name, choice, price, restore=restore)
        if refusal:
            return Action(name, REFUSE, f"{reason}. {refusal}", server=old, person=self._unpriced or price is None, dear=True)
        self._standing += lasting or 0.0
        self._reserve(name, choice)
        cost = price if restore else choice.price
        how = ("first" if choice.rungs else "only") if restore else "never"
        places = _places_of_one_that_is_there(work.slot, choice) if verb in (RESTORE, START) else _places(choice)
        return Action(name, verb, reason, cost, server=old, placements=places, restore=how)

    def _paid(self, slot: str, choice: _Choice, price: float | None, *, restore: bool) -> tuple[_Choice, str]:
        """Book what one costs that is brought back; return what can be paid, and why nothing can.

        :param price: of the restore.
        """
        refusal = self._book(slot, [price, self._with_disk(choice.price)] if choice.rungs else [price])
        if refusal and restore and choice.rungs:
            # The restore alone may be within the budget.
            return _Choice(), self._book(slot, [price])
        return choice, refusal

    def _patience(self, slot: str) -> str:
        """Return why a server had better wait for the next hour, of which the bill counts started ones; an empty string when not."""
        left = HOUR - self._now % HOUR
        if left > self._policy.patience or len(set(self._zones(slot))) < _ENOUGH:
            return ""
        return f"Others are in two zones, so it waits for the next hour to be billed, in {left / 60:.0f} min"

    def _about_alive(self, work: Work) -> Action:
        server, name = work.server, work.slot.name
        if server is None or kind_of(server) == STOPPED:
            return Action(name, KEEP, work.reason, server=server)
        former = next((one for one in work.spare + work.doomed if one.id in server.replaces), None)
        node = node_of(server, self._seen.nodes, alone=former is None)
        ailing = self._ailing(name, server, node)
        if ailing:
            return ailing
        if former and node and not node.engines and self._seen.replicas is not None:
            return Action(name, WAIT, f"its successor {server.id} has no engine yet", server=server, node=node)
        if former:
            return self._retirement(name, server, former)
        if work.doomed or work.strays:
            left = ", ".join(one.id for one in (*work.doomed, *work.strays))
            return Action(name, TIDY, f"it serves, and {left} is left over from before", server=server, node=node)
        return Action(name, KEEP, "it serves" if node and node.engines else "it is a ready node", server=server, node=node)

    def _ailing(self, name: str, server: Server, node: WorkerNode | None) -> Action | None:
        """Return what is to be done about a running server that is no whole node; None when it is one."""
        since = self._now - (server.launched_at or server.created_at)
        if node is None or not node.ready:
            state = "is no node of the swarm" if node is None else "is down as a node"
            if since < self._policy.grace:
                return Action(name, WAIT, f"it was started {since:.0f} s ago and {state} yet: it joins by itself", server=server, node=node)
            return Action(name, MEND, f"it runs and {state}", server=server, node=node)
        wanted = sum(gpus_of(server.specs).values())
        if wanted and node.gpus != wanted:
            return Action(name, MEND, f"it has {wanted} GPUs and advertises {node.gpus}", server=server, node=node)
        return None

    def _about_host(self, name: str, address: str) -> Action:
        found = [node for node in self._seen.nodes if address in (node.address, node.hostname) or node.hostname == name]
        node = next(iter(sorted(found, key=lambda one: not one.ready)), None)
        if node is None or not node.ready:
            return Action(name, MEND, "it is no node of the swarm" if node is None else "it is down as a node", node=node)
        return Action(name, KEEP, "it serves" if node.engines else "it is a ready node", node=node)

    def _retirement(self, name: str, server: Server, former: Server) -> Action:
        """The successor is a whole node: its predecessor may go."""
        node = next((one for one in self._seen.nodes if _is_its(one, former)), None)
        if name not in self._desired.allow_data_loss:
            reason = (
                f"its successor {server.id} serves, and the disk of {former.id} would be deleted with it: name {name} in allow_data_loss"
            )
            return Action(name, REFUSE, reason, server=former, node=node, person=True)
        price = running_price(former, self._desired.prices, self._desired.profile)
        self._end(price or 0.0)
        return Action(name, RETIRE, f"its successor {server.id} serves", None if price is None else -price, server=former, node=node)

    # -- where, and for how much -------------------------------------------------------------------------------------------
    def _open(self, rung: Rung) -> bool:
        """Whether the breaker leaves a placement alone; one without a zone is, when that holds for a zone of the region."""
        place = rung.placement
        for key, until in self._breaker.opened.items():
            region, zone, flavor, kind = key.split("/")
            of_kind = flavor == rung.flavor.name and (kind == "preemptible") == place.preemptible
            here = region == (place.region or "default") and place.zone in ("", zone)
            if until > self._now and of_kind and here:
                return True
        return False

    def _choose(self, slot: SlotSpec, *, cheap_only: bool = False) -> _Choice:
        """Return where a server of a slot may be made: placements left alone last, regular ones within their bound."""
        rungs, problems = rungs_for(slot, current=self._fleet, desired=self._desired, memory=self._notes.memory, now=self._now)
        cheap = [rung for rung in rungs if rung.placement.preemptible]
        regular = [] if cheap_only else [rung for rung in rungs if not rung.placement.preemptible]
        note = ". ".join(problems) or "No placement can be used"
        stands_in = any(place.preemptible for place in slot.placements)
        bound = bool(stands_in and regular and self._regulars >= self._policy.regular_max)
        if bound:
            note, regular = f"{self._regulars} regular servers stand in already, as many as may", []
        whole = [rung for rung in cheap if not self._open(rung)]
        order = self._spread(slot.name, whole, regular) if cheap_only or whole or regular else self._spread(slot.name, cheap, [])
        within = [rung for rung in order if self._affordable(self._with_disk(rung.price))]
        if order and not within:
            known = [rung.price for rung in order if rung.price is not None]
            lowest = self._with_disk(min(known)) if known else None
            unpriced = self._unpriced or lowest is None
            return _Choice(offered=tuple(order), reason=self._over_budget(lowest), dear=True, unpriced=unpriced)
        prices = [rung.price for rung in within]
        dearest = None if None in prices else max(filter(None, prices), default=0.0)
        return _Choice(tuple(within), tuple(order), dearest, "" if within else note, dear=bound and not within)

    def _zones(self, slot: str) -> list[str]:
        """Return the zones of the other servers that serve or soon will; that of a regular one, which is not interrupted, is empty."""
        alive = [one for one in self._fleet.servers if one.slot != slot and kind_of(one) in (RUNNING, SETTLING)]
        found = [(f"{one.region}/{one.zone}" if self._tag in one.tags else "") for one in alive]
        return found + [zone for other, zone in self._planned if other != slot]

    def _spread(self, slot: str, cheap: list[Rung], regular: list[Rung]) -> list[Rung]:
        """Return the rungs in the order in which the loss of one zone costs the least.

        Of the same price, the zone with the fewest servers comes first. When all the others are in one zone, that zone comes after
        regular servers: it must not take all with it.
        """
        zones = self._zones(slot)
        cheap = sorted(cheap, key=lambda rung: (self._failed(rung), rung.price or 0.0, zones.count(_zone(rung))))
        if not zones or not zones[0] or len(set(zones)) > 1:
            return [*cheap, *regular]
        apart = [rung for rung in cheap if _zone(rung) != zones[0]]
        fresh = [rung for rung in apart if not self._failed(rung)]
        return [*fresh, *regular, *(rung for rung in apart if rung not in fresh), *(rung for rung in cheap if rung not in apart)]

    def _failed(self, rung: Rung) -> bool:
        """Whether there was no room at a placement a while ago."""
        return float(self._notes.memory.get(rung.placement.key, {}).get("until", 0)) > self._now

    def _restore_price(self, server: Server) -> float | None:
        cheap = self._tag in server.tags and server.slot not in self._desired.to_regular
        return server_price(self._desired.prices, flavor=server.flavor, region=server.region, preemptible=cheap)

    def _end(self, price: float) -> None:
        self._ledger = ended(self._ledger, price)
        self._going += price

    def _total(self, price: float = 0.0) -> float:
        """Return what the day will have cost with one more that is started now."""
        ledger = booked(self._ledger, price)
        return day_total(replace(ledger, rate=ledger.rate + self._going))

    def _affordable(self, price: float | None) -> bool:
        if self._policy.budget is None:
            return True
        # What runs and has no price is not in the total.
        return price is not None and not self._unpriced and self._total(price) <= self._policy.budget + 1e-9

    def _with_disk(self, price: float | None) -> float | None:
        """Return what a new server costs with its disk and its address."""
        disk = self._desired.volume_size * self._desired.prices.volume_gb if self._desired.boot == "volume" else 0.0
        return None if price is None else price + disk + (self._desired.prices.address if self._desired.floating_network else 0.0)

    def _lasting_price(self, slot: SlotSpec, choice: _Choice, *, anew: bool) -> float | None:
        """Return what a server costs that comes to stay; None where none can be had or the offer is not read yet.

        It is 0 where only stand-ins can be had, which go when the budget wants it.

        :param anew: whether there is no other yet, whose disk and address it takes the place of.
        """
        if not choice.offered:
            return None
        goes = slot.name in self._desired.allow_data_loss and any(place.preemptible for place in slot.placements)
        prices = [rung.price for rung in choice.offered if rung.placement.preemptible or not goes]
        lowest = min(filter(None, prices), default=0.0)
        return self._with_disk(lowest) if anew else lowest

    def _over_every_day(self, slot: str, price: float | None) -> str:
        """Return why a server that comes to stay cannot be had: from tomorrow on a day costs more than it may, and nothing would end it."""
        if self._policy.budget is None or slot in self._optional or price is None:
            return ""
        total = (self._standing + price) * DAY / HOUR
        if total <= self._policy.budget + 1e-9:
            return ""
        return f"It would bring every day to {total:.2f}, and {self._policy.budget:.2f} is the budget: raise it, or declare fewer"

    def _over_budget(self, price: float | None) -> str:
        if self._unpriced:
            return "A server runs whose price is not in gpu_fleet.prices, so the budget of the day could not be kept"
        if price is None:
            return "Its price is not in gpu_fleet.prices, so the budget of the day could not be kept"
        total = self._total(price)
        return f"It would bring the day to {total:.2f}, and {self._policy.budget:.2f} is the budget: it waits for tomorrow"

    def _book(self, slot: str, prices: list[float | None], *, beside: str = "") -> str:
        """Book the dearest of several ways; return why it cannot be, or an empty string.

        :param beside: the server that runs already.
        """
        known = [price for price in prices if price is not None]
        worst = max(known, default=0.0)
        if self._policy.budget is not None and len(known) < len(prices):
            return self._over_budget(None)
        if not self._affordable(worst):
            return self._over_budget(worst)
        begun = {**self._ledger.begun, slot: Begun(self._now, worst, beside)}
        self._ledger = replace(booked(self._ledger, worst), begun=begun)
        return ""

    def _reserve(self, slot: str, choice: _Choice) -> None:
        """Count a server that may come up regular, and where it is likely to be."""
        kinds = {rung.placement.preemptible for rung in choice.rungs}
        self._regulars += int(False in kinds)
        if choice.rungs:
            first = choice.rungs[0]
            self._planned.append((slot, _zone(first) if first.placement.preemptible else ""))

    def _is_fallback(self, server: Server) -> bool:
        """Whether a regular server stands in for a preemptible one."""
        slot = self._desired.slot(server.slot)
        wants_cheap = slot is not None and any(place.preemptible for place in slot.placements)
        named = server.slot in self._desired.to_regular
        return kind_of(server) in (RUNNING, SETTLING) and self._tag not in server.tags and wants_cheap and not named

    # -- what could be better ----------------------------------------------------------------------------------------------
    def _shed(self, actions: dict[str, Action]) -> None:
        """End what is not needed while the day would cost more than it may: regular stand-ins, then spare ones and those demand made."""
        budget = self._policy.budget
        if budget is None:
            return
        for name, action in sorted(actions.items(), key=lambda item: not (item[1].server and self._is_fallback(item[1].server))):
            server = action.server
            if day_total(self._ledger) <= budget + 1e-9 or action.do != KEEP or server is None:
                continue
            if not (self._is_fallback(server) or name in self._optional):
                continue
            price = self._price_of(server)
            reason = f"the day would cost {day_total(self._ledger):.2f}, and {budget:.2f} is the budget"
            if name not in self._desired.allow_data_loss:
                reason += f": name {name} in allow_data_loss so that it can go, or raise the budget"
                actions[name] = Action(name, REFUSE, reason, server=server, node=action.node, person=True)
                continue
            self._end(price)
            actions[name] = Action(name, SHED, reason, -price, server=server, node=action.node)
        self._tell_of_an_overdraft(actions, budget)

    def _tell_of_an_overdraft(self, actions: dict[str, Action], budget: float) -> None:
        """What is declared is not ended for its cost, so a person has to know of it."""
        serving = [action for action in actions.values() if action.do == KEEP and action.server]
        # Of what is under way some may go by itself: the next look tells.
        under_way = any(action.acts and action.do != SHED for action in actions.values())
        if day_total(self._ledger) <= budget + 1e-9 or not serving or under_way:
            return
        last = serving[-1]
        reason = (
            f"the day will cost {day_total(self._ledger):.2f}, and {budget:.2f} is the budget, with those alone that are declared: they "
            "serve on. Raise the budget, or declare fewer"
        )
        actions[last.slot] = replace(last, do=REFUSE, reason=reason, person=True)

    def _improve(self, actions: dict[str, Action], *, busy: bool) -> None:
        """All serve: leave no zone to bear all, rotate the one that is due, hand a regular one back; one at a time.

        :param busy: something is being repaired; only what would be billed for a further hour is handed back meanwhile.
        """
        rested = self._now - self._rotated >= self._policy.rotate_gap
        better = [] if busy else [*self._alone(actions), *(self._due(actions) if rested else [])]
        for name, do, reason in [*better, *(self._regular_ones(actions) if rested else [])]:
            server, slot = actions[name].server, self._desired.slot(name)
            if server is None or slot is None:
                continue
            new = self._successor(slot, server, do, reason)
            actions[name] = new if new.do != REFUSE else replace(new, node=actions[name].node)
            if new.acts:
                self._rotated = self._now
                return

    def _due(self, actions: dict[str, Action]) -> list[tuple[str, str, str]]:
        lifetime, before = self._desired.profile.lifetime, self._policy.rotate_before
        if lifetime is None or before is None:
            return []
        ends = {}
        for name, action in actions.items():
            server = action.server
            if action.do == KEEP and server and self._tag in server.tags and kind_of(server) == RUNNING:
                since = started_at(server, self._desired.profile, self._now)
                ends[name] = (since if since is not None else self._now) + lifetime
        order = sorted(ends, key=lambda name: (ends[name], name))
        starts = due(ends.values(), before=before, gap=self._policy.rotate_gap)
        return [
            (name, ROTATE, f"its life ends in {max(0.0, ends[name] - self._now) / 3600:.1f} h")
            for name, start in zip(order, starts)
            if start <= self._now
        ]

    def _alone(self, actions: dict[str, Action]) -> list[tuple[str, str, str]]:
        """Return one worker to be had elsewhere when a single zone bears all; not more often than a regular one is handed back."""
        zones = self._zones("")
        free = [name for name, action in actions.items() if action.do == KEEP and action.server and action.server.id]
        if len(zones) < 2 or not zones[0] or len(set(zones)) > 1 or self._regulars >= self._policy.regular_max or self._tried_lately(HEDGE):
            return []
        return [(name, HEDGE, f"all {len(zones)} servers are in {zones[0]}, which may take all with it") for name in free[-1:]]

    def _regular_ones(self, actions: dict[str, Action]) -> list[tuple[str, str, str]]:
        """Return the stand-ins to hand back: late in an hour, which is paid for in full anyway, or long after they began."""
        late = self._now % HOUR >= HOUR - _HAND_BACK
        found = [(name, action.server) for name, action in actions.items() if action.do == KEEP and action.server]
        return [
            (name, HAND_BACK, "it is regular and stands in for a preemptible one")
            for name, server in found
            if self._is_fallback(server) and not self._tried_lately(name) and (late or self._overdue(name, server))
        ]

    def _tried_lately(self, name: str) -> bool:
        return self._now - self._tried.get(name, 0.0) < self._policy.hand_back_gap

    def _overdue(self, name: str, server: Server) -> bool:
        """Whether a stand-in should have been handed back by now, or tried to."""
        return self._now - max(self._tried.get(name, 0.0), server.launched_at or server.created_at) >= _OVERDUE

    def _successor(self, slot: SlotSpec, server: Server, do: str, reason: str) -> Action:
        name = slot.name
        if name not in self._desired.allow_data_loss:
            text = f"{reason}; a successor would need its disk to be deleted: name {name} in allow_data_loss"
            return Action(name, REFUSE, text, server=server)
        if slot.keeps_address:
            return Action(name, REFUSE, f"{reason}; a successor would need the address that {server.id} holds", server=server)
        choice = self._choose(slot, cheap_only=do != HEDGE)
        if do in (HEDGE, HAND_BACK):
            sole = set(self._zones(name))
            elsewhere = tuple(rung for rung in choice.rungs if not rung.placement.preemptible or sole != {_zone(rung)})
            choice = replace(choice, rungs=elsewhere, reason=choice.reason or "Elsewhere than where all the others are, there is none")
            self._tried[HEDGE if do == HEDGE else name] = self._now
        if not choice.rungs and self._fleet.catalogues:
            text = f"{reason}. {choice.reason or 'No preemptible placement can be used'}"
            return Action(name, REFUSE, text, server=server, person=choice.unpriced)
        refusal = self._book(name, [self._with_disk(choice.price)], beside=server.id)
        if refusal:
            return Action(name, REFUSE, f"{reason}. {refusal}", server=server)
        self._reserve(name, choice)
        return Action(name, do, reason, choice.price, server=server, placements=_places(choice))


def _zone(rung: Rung) -> str:
    return f"{rung.placement.region}/{rung.placement.zone}"


def _places(choice: _Choice) -> tuple[Placement, ...]:
    return tuple(rung.placement for rung in choice.rungs)


def _places_of_one_that_is_there(slot: SlotSpec, choice: _Choice) -> tuple[Placement, ...]:
    """It stays what it is; with regular placements alone the module of the fleet would take it for one that is made regular, and refuse."""
    places = _places(choice)
    if not places or any(place.preemptible for place in places):
        return places
    return places + tuple(place for place in slot.placements if place.preemptible)


def _is_its(node: WorkerNode, server: Server) -> bool:
    return node_of(server, (node,), alone=False) is not None


def needs_offer(recovery: Recovery) -> bool:
    """Whether the plan must be made again with what the regions offer."""
    return bool(recovery.of(*BILLED))
