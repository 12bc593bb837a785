# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision of scaling as a table: bounds, hysteresis, sustained time, cooldown, what stands in the way, a load that is not known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._autoscale.scale import (
    Demand,
    ScalePolicy,
    Standing,
    Trend,
    decide_scale,
)

NOW = 1_000_000.0
POLICY = ScalePolicy(least=1, most=4, up_after=60, down_after=600, cooldown=300, fresh=45)
TWO = Standing(2, NOW - 10_000)
LONG = Trend(above=NOW - 61)
LAZY = Trend(below=NOW - 601)


def load(use: float, waiting: int = 0, *, serving: int = 2, age: float = 1.0) -> Demand:
    return Demand(NOW - age, serving, use, waiting)


# what is seen, what stands, what was so far -> how many, a part of the reason
TABLE = [
    ("busy for long", load(0.9), TWO, LONG, 3, "90% in use, 0 waiting for 61 s"),
    ("requests wait", load(0.1, 1), TWO, LONG, 3, "10% in use, 1 waiting"),
    ("busy for a moment", load(0.9), TWO, Trend(), 2, "one more after 60 s"),
    ("exactly at the limit", load(0.85), TWO, LONG, 2, "85% in use"),
    ("idle for long", load(0.29), TWO, LAZY, 1, "29% in use, 0 waiting for 601 s"),
    ("idle for a moment", load(0.1), TWO, Trend(), 2, "one fewer after 600 s"),
    ("idle, and one waits", load(0.1, 1), TWO, LAZY, 2, "one more after 60 s"),
    ("exactly at the lower limit", load(0.30), TWO, LAZY, 2, "30% in use"),
    ("between the limits", load(0.5), TWO, LONG, 2, "50% in use"),
    ("the most", load(1.0, 9), replace(TWO, wanted=4), LONG, 4, "4 is the most"),
    ("the least", load(0.0), replace(TWO, wanted=1), LAZY, 1, "1 is the least"),
    ("above what is allowed", load(0.5), replace(TWO, wanted=9), Trend(), 4, "1 to 4 are allowed"),
    ("below what is allowed", load(0.5), replace(TWO, wanted=0), Trend(), 1, "1 to 4 are allowed"),
    ("changed a while ago", load(0.9), replace(TWO, changed=NOW - 299), LONG, 2, "the last change was 299 s ago"),
    ("cooled down", load(0.9), replace(TWO, changed=NOW - 300), LONG, 3, "in use"),
    ("changed a while ago, idle", load(0.1), replace(TWO, changed=NOW - 299), LAZY, 2, "the last change was 299 s ago"),
    ("the budget", load(0.9), replace(TWO, refusal="It would bring the day to 900"), LONG, 2, "It would bring the day to 900"),
    ("the breaker", load(0.9), replace(TWO, refusal="Too many were interrupted at z1"), LONG, 2, "Too many were interrupted"),
    ("the budget, idle", load(0.1), replace(TWO, refusal="It would bring the day to 900"), LAZY, 1, "in use"),
    ("one is away", load(0.9), replace(TWO, unsettled="gpu2: it was interrupted"), LONG, 2, "gpu2: it was interrupted"),
    ("one is away, idle", load(0.1), replace(TWO, unsettled="gpu2: it was interrupted"), LAZY, 1, "in use"),
    ("nobody tells", None, TWO, LONG, 2, "not known"),
    ("an old view", load(0.9, age=45.1), TWO, LONG, 2, "known from 45 s ago, and 45 s is the limit"),
    ("a view from the future", load(0.9, age=-1), TWO, LONG, 2, "known from -1 s ago"),
    ("an old view, idle", load(0.0, age=60), TWO, LAZY, 2, "60 s ago"),
    ("the last one serves", load(0.1, serving=1), TWO, LAZY, 2, "could not take it over"),
    ("nobody serves", load(0.0, serving=0), TWO, LAZY, 2, "could not take it over"),
]


@pytest.mark.parametrize(("demand", "standing", "trend", "wanted", "reason"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_the_decision(demand: Demand | None, standing: Standing, trend: Trend, wanted: int, reason: str) -> None:
    found = decide_scale(demand, standing, trend, policy=POLICY, now=NOW)
    assert found.wanted == wanted
    assert reason in found.reason
    assert found.known == (demand is not None and 0 <= NOW - demand.at <= POLICY.fresh)


@pytest.mark.parametrize("demand", [None, load(0.9, age=50), load(0.5)])
def test_what_was_not_seen_without_a_break_is_not_sustained(demand: Demand | None) -> None:
    assert decide_scale(demand, TWO, Trend(NOW - 59, NOW - 599), policy=POLICY, now=NOW).trend == Trend()


def test_a_load_that_swings_between_the_limits_changes_nothing() -> None:
    trend, wanted, now = Trend(), 2, NOW
    for turn in range(400):
        now += 15
        found = decide_scale(Demand(now, 2, (0.84, 0.31)[turn % 2], 0), Standing(wanted), trend, policy=POLICY, now=now)
        trend, wanted = found.trend, found.wanted
    assert wanted == 2


@pytest.mark.parametrize("serving", [2, 3, 4])
def test_one_fewer_is_not_at_once_one_more(serving: int) -> None:
    """After scaling in, the same work must not be enough to scale out again."""
    work = 0.2999 * serving
    found = decide_scale(load(work / serving, serving=serving), replace(TWO, wanted=serving), LAZY, policy=POLICY, now=NOW)
    assert found.wanted == serving - 1
    assert work / (serving - 1) < POLICY.up


def test_demand_that_grows_and_falls_is_followed_one_at_a_time_within_bounds() -> None:
    trend, wanted, changed, now, seen = Trend(), 1, 0.0, NOW, [1]
    for use in [0.95] * 150 + [0.05] * 400:
        now += 15
        found = decide_scale(Demand(now, wanted, use), Standing(wanted, changed), trend, policy=POLICY, now=now)
        if found.wanted != wanted:
            assert now - changed >= POLICY.cooldown
            changed = now
            seen.append(found.wanted)
        trend, wanted = found.trend, found.wanted
    # The last one is never taken: nobody could take its work over.
    assert seen == [1, 2, 3, 4, 3, 2, 1]
