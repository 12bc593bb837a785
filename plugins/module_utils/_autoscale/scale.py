# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many workers demand needs. Pure: the load, what was decided before and what stands in the way in; a number with its reason out."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Demand:
    """How busy the engines were at one moment.

    :param at: when the oldest figure in it was seen, in seconds since 1970.
    :param serving: engines that answer.
    :param use: the part of what they can do that is under way, from 0 to 1: of their GPUs, or else of their slots.
    :param waiting: requests that wait for an engine.
    """

    at: float
    serving: int
    use: float
    waiting: int = 0


@dataclass(frozen=True)
class ScalePolicy:
    """Within what bounds, and how soon. Times are in seconds.

    :param least: as many workers at least.
    :param most: as many at the most.
    :param up: above this use, or when requests wait, there are too few.
    :param down: below it, and when none wait, there are too many.
    :param up_after: for how long it must have been so without a break.
    :param cooldown: between two changes.
    :param fresh: older figures say nothing of the present.
    """

    least: int
    most: int
    up: float = 0.85
    down: float = 0.30
    up_after: float = 60.0
    down_after: float = 600.0
    cooldown: float = 300.0
    fresh: float = 45.0


@dataclass(frozen=True)
class Trend:
    """Since when there are too few or too many without a break; None while there are not."""

    above: float | None = None
    below: float | None = None


@dataclass(frozen=True)
class Standing:
    """What was decided before, and what stands in the way.

    :param changed: when the number was changed last.
    :param unsettled: why a high load says nothing now, such as a worker that is being brought back; empty when all serve.
    :param refusal: why one more cannot be had: the budget, the breaker; empty when it can.
    """

    wanted: int
    changed: float = 0.0
    unsettled: str = ""
    refusal: str = ""


@dataclass(frozen=True)
class Scaling:
    """What is decided.

    :param wanted: as many workers.
    :param trend: to be handed in the next time.
    :param known: whether the present was known; else nothing is decided.
    """

    wanted: int
    reason: str
    trend: Trend = Trend()
    known: bool = True


def decide_scale(demand: Demand | None, standing: Standing, trend: Trend, *, policy: ScalePolicy, now: float) -> Scaling:
    """Decide how many workers there should be; one more or one fewer at a time."""
    bounded = min(max(standing.wanted, policy.least), policy.most)
    if bounded != standing.wanted:
        return Scaling(bounded, f"it was {standing.wanted}, and {policy.least} to {policy.most} are allowed")
    if demand is None or not 0 <= now - demand.at <= policy.fresh:
        age = "not known" if demand is None else f"known from {now - demand.at:.0f} s ago, and {policy.fresh:.0f} s is the limit"
        return Scaling(bounded, f"how busy the engines are is {age}", known=False)
    trend = _continued(demand, trend, policy)
    told = f"{demand.use:.0%} in use, {demand.waiting} waiting"
    if trend.above is not None and standing.unsettled:
        # The others bear what the missing one would: it says nothing of demand.
        return Scaling(bounded, standing.unsettled)
    if trend.above is not None:
        return _more(bounded, told, standing, trend, policy=policy, now=now)
    if trend.below is not None:
        return _fewer(bounded, told, demand, standing, trend, policy=policy, now=now)
    return Scaling(bounded, told, trend)


def _continued(demand: Demand, trend: Trend, policy: ScalePolicy) -> Trend:
    above = demand.use > policy.up or demand.waiting > 0
    below = demand.use < policy.down and not demand.waiting
    return Trend(
        above=(demand.at if trend.above is None else trend.above) if above else None,
        below=(demand.at if trend.below is None else trend.below) if below else None,
    )


def _more(wanted: int, told: str, standing: Standing, trend: Trend, *, policy: ScalePolicy, now: float) -> Scaling:
    since = now - (trend.above or 0.0)
    if wanted >= policy.most:
        return Scaling(wanted, f"{told}, and {policy.most} is the most", trend)
    if since < policy.up_after:
        return Scaling(wanted, f"{told} for {since:.0f} s; one more after {policy.up_after:.0f} s", trend)
    if now - standing.changed < policy.cooldown:
        return Scaling(wanted, f"{told}, and the last change was {now - standing.changed:.0f} s ago", trend)
    if standing.refusal:
        return Scaling(wanted, f"{told}. {standing.refusal}", trend)
    return Scaling(wanted + 1, f"{told} for {since:.0f} s")


def _fewer(wanted: int, told: str, demand: Demand, standing: Standing, trend: Trend, *, policy: ScalePolicy, now: float) -> Scaling:
    since = now - (trend.below or 0.0)
    if wanted <= policy.least:
        return Scaling(wanted, f"{told}, and {policy.least} is the least", replace(trend, below=None))
    if since < policy.down_after:
        return Scaling(wanted, f"{told} for {since:.0f} s; one fewer after {policy.down_after:.0f} s", trend)
    if now - standing.changed < policy.cooldown:
        return Scaling(wanted, f"{told}, and the last change was {now - standing.changed:.0f} s ago", trend)
    after = demand.use * demand.serving / max(demand.serving - 1, 1)
    if demand.serving < 2 or after >= policy.up:
        return Scaling(wanted, f"{told}, and the others could not take it over", trend)
    return Scaling(wanted - 1, f"{told} for {since:.0f} s")
