# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shared state: one holder at a time whoever races, dies or is late; nothing of others lost; what a day costs; the breaker."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Iterator

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import BadInput, StackError
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.breaker import Breaker, Interruption, noticed
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.budget import (
    Begun,
    Ledger,
    booked,
    day_total,
    ended,
    open_ledger,
)
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.state import (
    Lock,
    LockLost,
    Notes,
    Scale,
    State,
    StateError,
    labels_of,
    released,
    require_held,
    state_of,
    taken,
)
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.store import SdkConfigs, Store
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.client import EngineError, sdk
from ansible_collections.selfhosted.llm_stack.plugins.modules import fleet_state
from ansible_collections.selfhosted.llm_stack.plugins.modules.fleet_state import act, argument_spec, run
from engine import Engine, serving

MONDAY = 20000 * 86400.0


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with serving(Engine(tmp_path / "docker.sock")) as found:
        yield found


def store(engine: Engine) -> Store:
    """A client of its own, as each process has one."""
    return Store(SdkConfigs(*sdk(engine.url)), sleep=lambda _seconds: None)


def ask(engine: Engine, *, now: float = MONDAY, check_mode: bool = False, **params: Any) -> dict[str, Any]:
    """Run the module."""
    options = {name: option.get("default") for name, option in argument_spec().items()}
    return run({**options, **params}, store=store(engine), check_mode=check_mode, now=now)


# -- the lock --------------------------------------------------------------------------------------------------------------
HELD = State(Lock("awx", "t1", 100.0, 200.0))
TAKING = [
    # state, token, now -> owner afterwards
    (State(), "t2", 150.0, "shell"),
    (HELD, "t2", 150.0, "awx"),
    (HELD, "t2", 199.9, "awx"),
    (HELD, "t2", 200.0, "shell"),
    (HELD, "t1", 150.0, "shell"),
    (HELD, "t1", 250.0, "shell"),
]


@pytest.mark.parametrize(("state", "token", "now", "owner"), TAKING)
def test_the_lock_is_taken_when_it_is_free_over_or_ours(state: State, token: str, now: float, owner: str) -> None:
    after = taken(state, owner="shell", token=token, now=now, seconds=60)
    assert after.lock
    assert after.lock.owner == owner
    assert after.lock.until == (now + 60 if owner == "shell" else 200.0)


def test_a_lock_that_was_lost_says_to_whom() -> None:
    assert require_held(HELD, token="t1").owner == "awx"
    with pytest.raises(LockLost, match="awx has taken it. Nothing further was done; run again"):
        require_held(HELD, token="t2")
    with pytest.raises(LockLost, match="nobody holds it"):
        require_held(State(), token="t1")


def test_only_the_holder_gives_it_up() -> None:
    assert released(HELD, token="t2") == HELD
    assert released(HELD, token="t1").lock is None


def test_what_is_written_is_read_and_labels_of_others_stay() -> None:
    notes = Notes(
        memory={"r1/z1/GL10/preemptible": {"until": 5, "reason": "no room"}},
        breaker=Breaker((Interruption("p", "s1@7", 9.0),), {"p": 12.0}),
        ledger=Ledger(20000, 3, 1.0, 0.5, 0.25, {"gpu1": Begun(7.0, 30.0, "s1")}),
        rotated=3.0,
        tried={"gpu1": 4.0},
        scale=Scale(2, 5.0),
    )
    state = State(Lock("awx", "t1", 1.0, 2.0), notes, {"theirs": "x"})
    assert state_of(labels_of(state)) == state
    assert set(labels_of(State(others={"theirs": "x"}))) == {"theirs"}


@pytest.mark.parametrize(
    "labels", [{"llm-stack.lock": "no JSON"}, {"llm-stack.lock": "{}"}, {"llm-stack.ledger": "[1]"}, {"llm-stack.breaker": "7"}]
)
def test_a_state_that_cannot_be_understood_is_not_guessed_at(labels: dict[str, str]) -> None:
    with pytest.raises(StateError, match="docker config inspect llm-stack-state"):
        state_of(labels)


# -- through the engine ----------------------------------------------------------------------------------------------------
def test_the_module_takes_keeps_and_gives_up(engine: Engine) -> None:
    assert ask(engine)["holder"] == ""
    assert engine.configs == {}
    first = ask(engine, state="held", owner="awx", seconds=60)
    assert (first["held"], first["holder"], first["until"]) == (True, "awx", MONDAY + 60)
    other = ask(engine, state="held", owner="shell", now=MONDAY + 30)
    assert (other["held"], other["token"], other["holder"]) == (False, "", "awx")
    kept = ask(engine, state="held", owner="awx", token=first["token"], now=MONDAY + 30, seconds=60, notes={"llm-stack.rotated": 7.0})
    assert (kept["until"], kept["notes"]) == (MONDAY + 90, {"llm-stack.rotated": 7.0})
    assert ask(engine, state="released", token=first["token"], now=MONDAY + 31)["holder"] == ""
    later = ask(engine, state="held", owner="shell", now=MONDAY + 32)
    assert (later["held"], later["notes"]) == (True, {"llm-stack.rotated": 7.0})


def test_a_holder_that_is_late_writes_nothing(engine: Engine) -> None:
    first = ask(engine, state="held", owner="awx", seconds=60)
    second = ask(engine, state="held", owner="shell", now=MONDAY + 61)
    assert second["held"]
    before = dict(engine.labels)
    with pytest.raises(LockLost, match="shell has taken it"):
        ask(engine, state="held", owner="awx", token=first["token"], now=MONDAY + 62, notes={"llm-stack.rotated": 9.0})
    assert ask(engine, state="released", token=first["token"], now=MONDAY + 62, notes={"llm-stack.rotated": 9.0})["holder"] == "shell"
    assert engine.labels == before


def test_a_lock_that_ran_out_and_that_nobody_took_is_taken_up_again(engine: Engine) -> None:
    first = ask(engine, state="held", owner="awx", seconds=60)
    late = ask(engine, state="held", owner="awx", token=first["token"], now=MONDAY + 600, seconds=60)
    assert (late["held"], late["until"]) == (True, MONDAY + 660)


def test_check_mode_tells_and_writes_nothing(engine: Engine) -> None:
    foreseen = ask(engine, state="held", owner="shell", check_mode=True)
    assert (foreseen["held"], engine.configs) == (True, {})
    ask(engine, state="held", owner="awx")
    calls = len(engine.calls)
    foreseen = ask(engine, state="held", owner="shell", check_mode=True)
    assert (foreseen["held"], foreseen["holder"]) == (False, "awx")
    assert all(call.startswith("GET") for call in engine.calls[calls:])


def stand_alone(monkeypatch: pytest.MonkeyPatch, text: str, *, connects: bool) -> None:
    """Let this host's engine answer with an error, or not at all."""

    class Refuses:
        def find(self, _name: str) -> None:
            raise EngineError(text, 503)

    def connect() -> Any:
        if not connects:
            raise EngineError(text)
        return Store(Refuses())  # type: ignore[arg-type]

    monkeypatch.setattr(fleet_state, "connect", connect)


NOT_YET = [("Docker does not answer", False), ("This node is not a swarm manager. Use docker swarm init", True)]


@pytest.mark.parametrize(("text", "connects"), NOT_YET)
def test_before_there_is_a_swarm_nobody_is_in_the_way(monkeypatch: pytest.MonkeyPatch, text: str, connects: bool) -> None:
    stand_alone(monkeypatch, text, connects=connects)
    params = {name: option.get("default") for name, option in argument_spec().items()}
    params.update(state="held", owner="site")
    with pytest.raises(EngineError):
        act(params, check_mode=False, now=MONDAY)
    found = act({**params, "require_swarm": False}, check_mode=False, now=MONDAY)
    assert (found["held"], found["token"], found["holder"]) == (True, "", "")


def test_a_manager_without_a_quorum_is_no_host_without_a_swarm(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_alone(monkeypatch, "rpc error: code = Unknown desc = The swarm does not have a leader", connects=True)
    params = {name: option.get("default") for name, option in argument_spec().items()}
    with pytest.raises(EngineError, match="does not have a leader"):
        act({**params, "state": "held", "owner": "site", "require_swarm": False}, check_mode=False, now=MONDAY)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"state": "held"}, "owner is empty"),
        ({"state": "held", "owner": "x", "seconds": 0.0}, "seconds is 0: give a number from 1 to 86400"),
        ({"state": "held", "owner": "x", "notes": {}}, "token is empty: only the holder"),
        ({"state": "released"}, "token is empty"),
    ],
)
def test_bad_options_are_refused_before_anything_is_asked(engine: Engine, params: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput, match=text):
        ask(engine, **params)
    assert engine.calls == []


def test_of_many_that_race_one_holds_the_lock(engine: Engine) -> None:
    results: list[dict[str, Any]] = []
    begin = threading.Barrier(8)

    def race(number: int) -> None:
        begin.wait()
        results.append(ask(engine, state="held", owner=f"run {number}"))

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(results) == 8
    (winner,) = [one for one in results if one["held"]]
    assert {one["holder"] for one in results} == {winner["holder"]}
    assert len(engine.configs) == 1


def test_a_write_between_read_and_write_is_not_lost(engine: Engine) -> None:
    """The version check is what holds: without it the second writer would take the lock over."""
    ask(engine, state="held", owner="nobody", seconds=1, now=MONDAY - 100)

    def write() -> None:
        ask(engine, state="held", owner="faster")

    engine.before = write
    slower = ask(engine, state="held", owner="slower")
    assert (slower["held"], slower["holder"]) == (False, "faster")
    assert sum(call.endswith("/update") for call in engine.calls) == 2


def test_an_object_removed_meanwhile_is_made_anew(engine: Engine) -> None:
    ask(engine, state="held", owner="nobody", seconds=1, now=MONDAY - 100)
    engine.before = engine.configs.clear
    assert ask(engine, state="held", owner="awx")["held"]


@pytest.mark.parametrize("after_work", [False, True])
@pytest.mark.parametrize("call", range(6))
def test_killed_at_any_call_the_next_run_goes_on(engine: Engine, call: int, after_work: bool) -> None:
    """The lock may be left behind; then it holds others up until it ends, and not for longer."""
    engine.die_at, engine.dies_after_work = call, after_work
    try:
        first = ask(engine, state="held", owner="killed", seconds=60)
        ask(engine, state="held", owner="killed", token=first["token"], notes={"llm-stack.rotated": 1.0})
    except EngineError:
        pass
    engine.die_at = -1
    soon = ask(engine, state="held", owner="next", now=MONDAY + 30)
    assert soon["held"] or soon["holder"] == "killed"
    assert ask(engine, state="held", owner="next", now=MONDAY + 1801)["holder"] == "next"
    assert set(engine.labels) <= {"llm-stack.lock", "llm-stack.rotated"}
    assert all(json.loads(text) for text in engine.labels.values())


@pytest.mark.parametrize("after_work", [False, True])
def test_a_lock_whose_taking_was_not_answered_keeps_nobody_waiting(engine: Engine, after_work: bool) -> None:
    """Nobody would know its token, so it could not be given up, and would be held for a quarter of an hour."""
    ask(engine, state="held", owner="nobody", seconds=1, now=MONDAY - 100)

    def hang_up() -> None:
        engine.die_at = len(engine.calls)

    engine.before, engine.dies_after_work = hang_up, after_work
    with pytest.raises(EngineError):
        ask(engine, state="held", owner="unheard")
    assert ask(engine, state="held", owner="next", now=MONDAY + 1)["held"]


def test_an_engine_that_refuses_every_write_ends_in_an_error(engine: Engine) -> None:
    ask(engine, state="held", owner="nobody", seconds=1, now=MONDAY - 100)

    def bump() -> None:
        next(iter(engine.configs.values()))["Version"]["Index"] += 1
        engine.before = bump

    engine.before = bump
    with pytest.raises(StackError, match="update out of sequence"):
        ask(engine, state="held", owner="awx")


# -- what a day costs ------------------------------------------------------------------------------------------------------
def at(hour: float) -> float:
    return MONDAY + hour * 3600


def test_the_first_look_bills_the_started_hour() -> None:
    ledger = open_ledger(None, now=at(10.5), rate=2.0)
    assert (ledger.spent, ledger.hours_left, day_total(ledger)) == (2.0, 13, 2.0 + 13 * 2)


def test_hours_that_nobody_looked_at_cost_what_ran_last() -> None:
    ledger = open_ledger(open_ledger(None, now=at(0.1), rate=1.0), now=at(5.5), rate=3.0)
    assert (ledger.closed, ledger.bill) == (5.0, 3.0)
    assert open_ledger(ledger, now=at(24.5), rate=1.0).spent == 3.0


def test_what_follows_in_one_hour_is_billed_twice() -> None:
    ledger = open_ledger(None, now=at(8), rate=1.0)
    ledger = open_ledger(ledger, now=at(8.3), rate=0.0)
    ledger = booked(ledger, 1.0)
    assert (ledger.bill, ledger.rate) == (2.0, 1.0)
    assert ended(ledger, 1.0) == replace(ledger, rate=0.0)


def test_a_restart_within_the_hour_does_not_forget_its_bill() -> None:
    ledger = booked(open_ledger(None, now=at(8), rate=1.0), 4.0)
    assert open_ledger(ledger, now=at(8.9), rate=1.0).bill == 5.0


# -- the breaker -----------------------------------------------------------------------------------------------------------
def look(breaker: Breaker, *lives: str, now: float) -> Breaker:
    found = [Interruption("p", life, now) for life in lives]
    return noticed(breaker, found, now=now, limit=3, window=3600, rest=1800)


def test_three_interruptions_in_an_hour_open_a_placement_for_half_an_hour() -> None:
    breaker = look(look(Breaker(), "a@1", now=0), "b@1", now=1000)
    assert not breaker.is_open("p", 1000)
    breaker = look(breaker, "c@1", now=2000)
    assert breaker.is_open("p", 3799)
    assert not breaker.is_open("p", 3800)


def test_one_life_counts_once_however_often_it_is_seen() -> None:
    breaker = Breaker()
    for now in range(0, 3000, 60):
        breaker = look(breaker, "a@1", now=now)
    assert len(breaker.seen) == 1
    assert not breaker.opened


def test_slow_interruptions_open_nothing() -> None:
    breaker = Breaker()
    for number in range(10):
        breaker = look(breaker, f"a@{number}", now=number * 2000)
    assert not breaker.opened


def test_the_limit_0_never_opens() -> None:
    found = [Interruption("p", f"a@{number}", 5.0) for number in range(9)]
    assert not noticed(Breaker(), found, now=5, limit=0, window=60, rest=60).opened
