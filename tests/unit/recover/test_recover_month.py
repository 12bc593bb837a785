# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated month: its world does what it says, the planner keeps its promises in it, and never exceeds a budget."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "sim"))

from models import MODELS, Model, has_room, next_outage
from month import CHEAP, ENGINES, FULL, HOUR, POLICY, START, Life, Naive, Recovered, World, covered, month, most_at_once

pytestmark = pytest.mark.one_core


def test_time_with_an_engine_is_counted_once() -> None:
    assert covered([(0, 10), (5, 12), (20, 21)]) == 13
    assert covered([]) == 0


def test_rooms_come_and_go() -> None:
    outages = [(10.0, 12.0), (20.0, 21.0)]
    assert [has_room(outages, now) for now in (9, 10, 11.9, 12, 20.5, 30)] == [True, False, False, True, False, True]
    assert [next_outage(outages, now) for now in (0, 10, 15, 30)] == [10, 20, 20, float("inf")]


def test_an_hour_is_billed_by_what_was_begun_or_by_the_most_at_once() -> None:
    lives = [Life(0, False, START + 600, 0, START + 1200), Life(0, False, START + 1800, 0, START + 5400)]
    assert most_at_once(lives, START + 10 * HOUR, regular=False) == 2
    assert most_at_once(lives, START + 10 * HOUR, regular=True) == 0
    world = World(MODELS[0], 1, 1)
    world.make("gpu0", 0, regular=False)
    (machine,) = world.machines.values()
    machine.lives = lives
    assert world.outcome().cost == pytest.approx(3 * CHEAP / (ENGINES * 24))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_server_lives_no_longer_than_its_limit(model: Model) -> None:
    rng = random.Random(1)
    lives = [model.life(rng) for _try in range(2000)]
    assert min(lives) > 0
    assert max(lives) <= 24.0


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_week_with_the_planner_is_better_than_without(model: Model) -> None:
    ours, naive = month(Recovered(), model, days=7), month(Naive(), model, days=7)
    assert ours.availability >= 0.999
    assert ours.availability >= naive.availability
    assert ours.cost <= 0.5


def test_a_month_is_the_same_for_the_same_seed() -> None:
    assert month(Recovered(), MODELS[2], days=2) == month(Recovered(), MODELS[2], days=2)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
@pytest.mark.parametrize("budget", [CHEAP * ENGINES * 24 * 0.9, CHEAP * ENGINES * 24 * 1.1, CHEAP * ENGINES * 24 * 1.5])
def test_no_day_costs_more_than_its_budget(model: Model, budget: float) -> None:
    found = month(Recovered(replace(POLICY, budget=budget)), model, days=10)
    assert max(found.days) * ENGINES * FULL * 24 <= budget + 1e-6


def test_at_the_end_nothing_is_left_over() -> None:
    policy, world = Recovered(), World(MODELS[2], 3, 5)
    while world.now < world.end:
        policy.look(world)
        world.now += 120
        slots = [one.slot for one in world.machines.values()]
        # A slot holds one server, and a successor beside it for a while.
        assert max(slots.count(slot) for slot in slots) <= 3
    world.outages = [[] for _zone in world.outages]
    for _look in range(60):
        world.now += 1200
        policy.look(world)
    assert sorted(one.slot for one in world.machines.values()) == ["gpu0", "gpu1", "gpu2", "gpu3"]
