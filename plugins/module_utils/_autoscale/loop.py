# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The loop: looks, decides with the planner of recover.yml, and acts under the lock that all who run over a fleet share.

Nothing is kept here that must outlive it: what was spent, what failed and how many workers are wanted is in the shared state, and a turn
that was killed is taken up from what the cloud and the swarm show. Only for how long the load has lasted is counted anew.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Callable, Mapping

from .._errors import StackError
from .._recover.act import needed_again
from .._recover.decide import decide, look_at, policy_of
from .._recover.model import CREATE, MEND, REFUSE, RESTORE, SHED, Action, Observed, Policy, Recovery
from .._recover.plan import plan_recovery, wanted_of
from .._recover.state import LockLost, Notes, Scale, State
from .._recover.store import Store
from .._recover.swarm import look, worker_node
from .._selectel.apply import Run, start
from .._selectel.client import Calls, Connection, Watch
from .._selectel.ladder import Outcome
from . import act
from .crew import Crew
from .keeper import Keeper, careful
from .model import Settings
from .scale import Demand, Scaling, Standing, Trend, decide_scale

Say = Callable[..., None]
# Seconds between two looks while others are brought back and something may be lost: what is under way asks the cloud often enough.
_AMID = 3.0


class Stale(StackError):
    """What was seen is not the present any more: nothing is done on the strength of it."""


@dataclass
class World:
    """All that the autoscaler reaches.

    :param connections: logs in; called once, and again after a failure.
    :param demand: how busy the engines are; None when nobody tells.
    :param call_for_hands: starts recover.yml, where that can be done; returns what became of it.
    :param say: writes one line of the log: a word, and what belongs to it by name.
    :param clock: seconds since 1970.
    """

    api: act.Engine
    store: Store
    connections: Callable[[], Mapping[str, Connection]]
    demand: Callable[[], Demand | None]
    call_for_hands: Callable[[list[str]], str]
    say: Say
    clock: Callable[[], float]
    sleep: Callable[[float], None]


@dataclass
class Told:
    """What the metrics tell.

    :param actions: how often what was done ended how, by (action, result).
    :param seen: when the cloud and the swarm were seen last, by name.
    :param detect: seconds from the first sign of the last loss to the first call for its sake.
    :param turned: when the last turn ended.
    """

    actions: Counter[tuple[str, str]] = field(default_factory=Counter)
    seen: dict[str, float] = field(default_factory=dict)
    detect: float | None = None
    turned: float = 0.0
    healthy: bool = False
    held_by: str = ""
    error: str = ""
    wanted: int = 0
    workers: Counter[str] = field(default_factory=Counter)
    scaling: Scaling | None = None
    demand: Demand | None = None


@dataclass(frozen=True)
class _Decided:
    """What was decided under the lock.

    :param run: what is done is done through it.
    :param begun: what of it is under way, by slot.
    :param at: when that was seen by which it was decided.
    """

    run: Run
    recovery: Recovery
    begun: Mapping[str, Action]
    at: float


class Autoscaler:
    """Turns, one after the other."""

    def __init__(self, settings: Settings, world: World) -> None:
        self._told, self._world = settings, world
        self._desired = settings.desired
        self._connections: Mapping[str, Connection] | None = None
        self._wake = threading.Event()
        self._signs: dict[str, float] = {}
        # How many there were: whether one came meanwhile.
        self._heard = 0
        self._suspect_until = 0.0
        self._trend = Trend()
        # By slot: how often it could not be brought back in a row, and until when it is not tried again.
        self._failed: Counter[str] = Counter()
        self._later: dict[str, float] = {}
        self._called = 0.0
        # Of a turn whose lock could not be given up: until it is, this loop is locked out like everybody else.
        self._unreleased: Keeper | None = None
        # What was said last and goes on, by what it is about.
        self._goes_on: dict[str, str] = {}
        self.account = Told(turned=world.clock())

    # -- when ---------------------------------------------------------------------------------------------------------------
    def lost(self, sign: str) -> None:
        """Something may be lost: look at once, and often until it is known what."""
        now = self._world.clock()
        self._signs.setdefault(sign, now)
        self._suspect_until = now + self._told.pace.suspect_for
        self._heard += 1
        self._wake.set()

    def run(self, over: threading.Event) -> None:
        """Turn until told to end."""
        while not over.is_set():
            self._wake.clear()
            self.turn()
            self._wait()

    def _wait(self, *, least: float = 0.0) -> bool:
        """Wait until it is time to look again, or something wakes; return whether it is time.

        :param least: seconds between two looks that nothing asked for.
        """
        suspicious = self._world.clock() < self._suspect_until
        return not self._wake.wait(max(self._told.pace.suspect if suspicious else self._told.pace.every, least))

    def turn(self) -> None:
        """Look, decide, and act where something is amiss; whatever goes wrong is said, and the next turn begins anew."""
        account = self.account
        try:
            self._turn()
            account.healthy, account.error = True, ""
        except StackError as error:
            account.healthy, account.error = False, str(error)
            # A login may have ended, a region may have moved.
            self._connections = None
            self._say_once("blind", reason=str(error))
        finally:
            account.turned = self._world.clock()

    def _turn(self) -> None:
        if self._unreleased and self._unreleased.release():
            self._unreleased = None
        state = self._world.store.read()
        now = self._world.clock()
        self.account.held_by = state.lock.owner if state.lock and not state.lock.is_over(now) else ""
        run = self._begin(None)
        observed, policy = self._observe(run), self._policy(state.notes)
        recovery = plan_recovery(observed, desired=self._desired, policy=policy, notes=state.notes, now=now)
        scaling = self._scaling(run, observed, recovery, policy=policy, notes=state.notes)
        self._count(observed, policy, recovery)
        self._ask_for_hands(recovery)
        # What is there is what is wanted until demand decides; it is noted at once, so that one that vanishes is missed.
        scales = state.notes.scale is None or scaling.wanted != policy.wanted
        if not (scales or self._todo(observed, recovery) or self._unbooked(state.notes, recovery)):
            if self._world.clock() >= self._suspect_until:
                self._signs.clear()
            self._say_once("rest", scaling=scaling.reason)
            return
        if self.account.held_by:
            self._say_once("still", reason=f"{self.account.held_by} holds the lock of the fleet")
            return
        self._act(scaling if scales else None)

    @staticmethod
    def _todo(observed: Observed, recovery: Recovery) -> bool:
        nodes = recovery.stale or act.nameless(recovery) or needed_again(recovery, observed.nodes)
        servers = act.to_bring_back(recovery) or recovery.of(SHED)
        return bool(servers or nodes or act.engines_for(recovery, observed) is not None)

    def _unbooked(self, notes: Notes, recovery: Recovery) -> bool:
        """Whether what runs is not what was noted: hours that nobody notes are charged to the day by what ran last."""
        if self._told.options["budget"] is None or recovery.notes.ledger is None:
            return False
        noted = notes.ledger.rate if notes.ledger else 0.0
        return abs(noted - recovery.notes.ledger.rate) > 1e-6

    # -- looking ------------------------------------------------------------------------------------------------------------
    def _see(self) -> Observed:
        """Look at the swarm."""
        at = self._world.clock()
        found = look(self._world.api)
        self.account.seen["swarm"] = at
        return Observed(nodes=tuple(worker_node(one) for one in found["nodes"]), replicas=found["replicas"])

    def _begin(self, keeper: Keeper | None) -> Run:
        """Begin to speak to the cloud; without the lock nothing can be changed."""
        if self._connections is None:
            self._connections = self._world.connections()
        options = self._told.options
        clock, sleep = self._world.clock, self._world.sleep
        connections = dict(self._connections)
        if keeper:
            connections = {name: careful(one, keeper.hold) for name, one in connections.items()}

        def waited(seconds: float) -> None:
            sleep(seconds)
            if keeper:
                keeper.while_waiting()

        watch = Watch(options["deadline"] if keeper else self._told.pace.fresh, now=clock, sleep=waited)
        return start(connections, watch=watch, calls=Calls(), api_timeout=options["api_timeout"], memory={})

    def _policy(self, notes: Notes, *, busy: frozenset[str] = frozenset()) -> Policy:
        """Return what may be done now.

        :param busy: slots that are worked on.
        """
        found = policy_of(self._told.options, self._desired, scale=notes.scale)
        return replace(found, improve=False, later=dict(self._later), busy=busy)

    def _observe(self, run: Run) -> Observed:
        """Look at the swarm and the cloud.

        :raises Stale: that took so long that the first is not the present any more.
        """
        seen, at = self._see(), self._world.clock()
        observed = look_at(run, seen, desired=self._desired)
        self.account.seen["cloud"] = at
        self._require_fresh()
        return observed

    def _require_fresh(self) -> None:
        stale = self._stale()
        if stale:
            raise Stale(f"{stale}: nothing is done until it is seen anew.")

    def _stale(self) -> str:
        """Return why what was seen is not the present any more; empty when it is."""
        now, fresh = self._world.clock(), self._told.pace.fresh
        for name, when in self.account.seen.items():
            if not 0 <= now - when <= fresh:
                return f"What was seen of the {name} is {now - when:.0f} s old, and {fresh:.0f} s is the limit"
        return ""

    def _scaling(self, run: Run, observed: Observed, recovery: Recovery, *, policy: Policy, notes: Notes) -> Scaling:
        """Decide how many workers there should be; one more only when the planner would make it."""
        now, demand = self._world.clock(), self._world.demand()
        amiss = (one for one in recovery.actions if (one.acts and one.do != SHED) or one.do == REFUSE)
        unsettled = next((f"{one.slot}: {one.reason}" for one in amiss), "")
        changed = notes.scale.at if notes.scale else 0.0
        # What was noted may be outside of bounds that were changed since.
        wanted = notes.scale.wanted if notes.scale else wanted_of(self._desired, observed.fleet, policy) or 0
        standing = Standing(wanted, changed, unsettled)
        found = decide_scale(demand, standing, self._trend, policy=self._told.scale, now=now)
        if found.wanted > wanted:
            standing = replace(standing, refusal=self._refusal(run, observed, replace(policy, wanted=found.wanted), notes))
            found = decide_scale(demand, standing, self._trend, policy=self._told.scale, now=now)
        self._trend, self.account.scaling, self.account.demand = found.trend, found, demand
        if found.known:
            self._goes_on.pop("load", None)
        else:
            self._say_once("no scaling", about="load", reason=found.reason)
        return found

    def _refusal(self, run: Run, observed: Observed, policy: Policy, notes: Notes) -> str:
        """Return why the planner would not make one more worker; empty when it would."""
        _observed, recovery = decide(run, observed, desired=self._desired, policy=policy, notes=notes)
        made = recovery.of(CREATE, RESTORE)
        if not made:
            return next((one.reason for one in recovery.of(REFUSE)), "The planner makes none")
        return act.left_alone(recovery, made[0].placements, self._world.clock())

    # -- acting -------------------------------------------------------------------------------------------------------------
    def _act(self, scaling: Scaling | None) -> None:
        """Take the lock, look anew, and do what is still to be done."""
        keeper = Keeper(self._world.store, owner=self._told.owner, clock=self._world.clock)
        # It may be ours even when the answer that says so was lost.
        try:
            state = keeper.take()
            if not keeper.holds(state):
                self._say_once("still", reason=f"{state.lock.owner if state.lock else 'another'} holds the lock of the fleet")
                return
            self._under_lock(keeper, state, scaling)
        except LockLost as error:
            self._say("lock lost", reason=str(error))
        finally:
            self._unreleased = None if keeper.release() else keeper

    def _under_lock(self, keeper: Keeper, state: State, scaling: Scaling | None) -> None:
        notes = state.notes
        if scaling and (notes.scale.wanted if notes.scale else None) != scaling.wanted:
            notes = replace(notes, scale=Scale(scaling.wanted, self._world.clock()))
            self._say("scale", wanted=scaling.wanted, reason=scaling.reason)
            self.account.actions["scale", "done"] += 1
        with Crew(self._wake.set, most=len(self._desired.slots)) as crew:
            decided = self._see_to(keeper, crew, self._begin_work(keeper, crew, notes))
        for action in decided.recovery.of(SHED):
            # Another may be lost by now that this one has to stand in for: the next turn looks.
            if self._world.clock() - decided.at > self._told.pace.fresh:
                break
            keeper.hold()
            self._let_go(decided.run, action)
        self._settle(keeper, decided.recovery)
        self._signs.clear()

    def _begin_work(self, keeper: Keeper, crew: Crew, notes: Notes) -> _Decided:
        """Look, decide, and begin to bring back what is lost and nobody works on yet.

        :raises StackError: what was seen is not whole, or not the present; nothing was begun.
        """
        looking, at = self._begin(None), self._world.clock()
        observed, policy = self._observe(looking), self._policy(notes, busy=crew.busy)
        observed, recovery = decide(looking, observed, desired=self._desired, policy=policy, notes=notes)
        self._require_fresh()
        run = self._begin(keeper)
        # What it will cost is written down before it is begun, so that a turn that is killed has not spent what nobody knows of.
        keeper.write(recovery.notes)
        todo = {action.slot: action for action in act.to_bring_back(recovery) if action.slot not in crew.busy}
        now = self._world.clock()
        # The ears may add one meanwhile.
        signs = dict(self._signs)
        if todo and signs:
            self.account.detect = now - min(signs.values())
        for action in todo.values():
            self._say(action.do, worker=action.slot, reason=action.reason, cost=action.cost, signs=self._ages(now))
            job = partial(
                act.brought_back, run, action.slot, recovery, observed=observed, desired=self._desired, options=self._told.options
            )
            crew.begin(action.slot, run, job)
        # What comes from now on tells of another loss.
        for sign in signs if todo else ():
            self._signs.pop(sign, None)
        return _Decided(run, recovery, todo, at)

    def _see_to(self, keeper: Keeper, crew: Crew, decided: _Decided) -> _Decided:
        """Wait until all are back, and see to what is lost meanwhile: one that is slow must not hide another.

        Return what was decided last.
        """
        notes, heard = decided.recovery.notes, self._heard
        begun = dict(decided.begun)
        while crew.busy:
            due = self._wait(least=_AMID)
            self._wake.clear()
            over = crew.done()
            for outcome, learned in over:
                self._note(begun[outcome.slot], outcome)
                notes = act.with_learned(notes, learned)
            if over:
                keeper.write(notes)
            if crew.busy and (due or self._heard != heard):
                heard = self._heard
                more = self._look_amid(keeper, crew, notes)
                if more:
                    decided, notes = more, more.recovery.notes
                    begun.update(more.begun)
        return decided

    def _look_amid(self, keeper: Keeper, crew: Crew, notes: Notes) -> _Decided | None:
        """Look again while others are brought back; what cannot be seen now is looked at again soon, and stops nobody."""
        keeper.while_waiting()
        self.account.turned = self._world.clock()
        try:
            return self._begin_work(keeper, crew, notes)
        except LockLost:
            raise
        except StackError as error:
            self._say_once("blind", about="amid", reason=str(error))
            return None

    def _note(self, action: Action, outcome: Outcome) -> None:
        """Tell how it ended; what failed is tried again later, and later still when it fails again."""
        slot, pace = outcome.slot, self._told.pace
        self.account.actions[action.do, "done" if outcome.ok else "failed"] += 1
        self._say("done" if outcome.ok else "failed", worker=slot, action=outcome.action, reason=outcome.reason)
        if outcome.ok:
            self._failed.pop(slot, None)
            self._later.pop(slot, None)
            return
        self._later[slot] = self._world.clock() + min(pace.again * 2.0 ** self._failed[slot], pace.again_most)
        self._failed[slot] += 1

    def _let_go(self, run: Run, action: Action) -> None:
        now = self._world.clock()
        if not act.is_free(self._world.api, action.node, drain=self._told.pace.drain, now=now):
            self._say_once(f"drain {action.slot}", worker=action.slot, reason=action.reason)
            return
        self._say(action.do, worker=action.slot, reason=action.reason, cost=action.cost)
        self._note(action, act.let_go(run, action.slot, desired=self._desired))

    def _settle(self, keeper: Keeper, recovery: Recovery) -> None:
        """Have the swarm follow: nodes that are needed again, nodes that are gone for good, one engine for each GPU."""
        seen = self._see()
        for node in needed_again(recovery, seen.nodes):
            keeper.hold()
            act.set_availability(self._world.api, node, "active")
            self._say("needed again", node=node.hostname)
        for node_id, server in act.nameless(recovery).items():
            keeper.hold()
            act.name_node(self._world.api, node_id, server)
            self._say("name", node=node_id, server=server)
        for node in recovery.stale:
            keeper.hold()
            act.forget(self._world.api, node)
            self._say("forget", node=node.hostname, id=node.id)
        wanted = act.engines_for(recovery, self._see())
        if wanted is not None:
            keeper.hold()
            act.set_engines(self._world.api, wanted)
            self._say("engines", wanted=wanted, before=seen.replicas)

    def _ask_for_hands(self, recovery: Recovery) -> None:
        """What needs hands is left to recover.yml, which somebody may start."""
        names = [action.slot for action in recovery.of(MEND)]
        now = self._world.clock()
        if not names or now - self._called < self._told.pace.webhook or self.account.held_by:
            return
        self._called = now
        said = self._world.call_for_hands(names)
        self.account.actions["hands", "failed" if said else "done"] += 1
        self._say("hands", workers=names, error=said)

    # -- telling ------------------------------------------------------------------------------------------------------------
    def _count(self, observed: Observed, policy: Policy, recovery: Recovery) -> None:
        self.account.wanted = wanted_of(self._desired, observed.fleet, policy) or 0
        self.account.workers = Counter(action.do for action in recovery.actions)
        self.account.workers["serving"] = sum(1 for node in observed.nodes if node.ready and node.engines)

    def _ages(self, now: float) -> dict[str, float]:
        return {sign: round(now - at, 3) for sign, at in dict(self._signs).items()}

    def _say(self, word: str, **what: Any) -> None:
        self._goes_on.clear()
        self._world.say(word, **what)

    def _say_once(self, word: str, *, about: str = "turn", **what: Any) -> None:
        """Say something that goes on only when it begins."""
        if self._goes_on.get(about) != word:
            self._world.say(word, **what)
            self._goes_on[about] = word
