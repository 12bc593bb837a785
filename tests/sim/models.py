# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How preemptible servers are interrupted: three models, each with its source. Times are in hours."""

from __future__ import annotations

import bisect
import random
from dataclasses import dataclass
from typing import Protocol

LIMIT = 24.0


class Model(Protocol):
    """When servers are interrupted, and when a zone has room."""

    name: str
    source: str

    def life(self, rng: random.Random) -> float:
        """Return how long a server that starts now runs at the most, if its zone keeps its room."""

    def outages(self, zone: int, hours: float, rng: random.Random) -> list[tuple[float, float]]:
        """Return when a zone has no room: its servers are interrupted at the beginning of each, all at once."""


@dataclass(frozen=True)
class Documented:
    """What the provider documents, and no more: 24 hours, and an early end now and then."""

    name: str = "documented"
    source: str = (
        "docs.selectel.ru, preemptible servers: at most 24 h, and any moment before. Early ends are not quantified there; assumed: "
        "memoryless, one in 72 h a server. There is always room."
    )

    def life(self, rng: random.Random) -> float:
        return min(LIMIT, rng.expovariate(1 / 72.0))

    def outages(self, _zone: int, _hours: float, _rng: random.Random) -> list[tuple[float, float]]:
        return []


# The lifetimes of all 1442 machines of the data set at 0, 5, ... 100 %.
LIVES = (
    0.01, 0.04, 0.08, 0.12, 0.25, 0.36, 0.59, 0.79, 1.08, 1.36, 1.86, 2.77, 4.38, 9.16, 13.65, 22.11, 24.06, 24.14, 24.24, 24.52, 24.83,
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """Lifetimes as they were measured: most servers end early or at the limit."""

    name: str = "measured"
    source: str = (
        "github.com/kadupitiya/goog-preemption-data, 1442 preemptible machines of Google, limit 24 h (Kadupitiya, Jadhao, Sharma, arXiv "
        "1911.05160): its quantiles, lives independent of each other. There is always room."
    )

    def life(self, rng: random.Random) -> float:
        place = rng.random() * (len(LIVES) - 1)
        below = int(place)
        return min(LIMIT, LIVES[below] + (LIVES[below + 1] - LIVES[below]) * (place - below))

    def outages(self, _zone: int, _hours: float, _rng: random.Random) -> list[tuple[float, float]]:
        return []


# Mean hours with and without room of the middle zone of each region by its room: us-west-2c, us-east-2b, us-east-1c.
_ZONES = ((6.45, 0.84), (4.27, 1.98), (1.48, 1.69))


@dataclass(frozen=True)
class Scarce:
    """Zones that have no room at all for hours, and take all their servers with them."""

    name: str = "scarce"
    source: str = (
        "github.com/skypilot-org/spot-traces, availability of V100 servers in three zones of AWS over 45 days from 2023-02-15 (Wu et al., "
        "Can't Be Late, NSDI 24): mean hours with and without room, drawn exponentially, zones independent. Limit 24 h."
    )

    def life(self, _rng: random.Random) -> float:
        return LIMIT

    def outages(self, zone: int, hours: float, rng: random.Random) -> list[tuple[float, float]]:
        room, none = _ZONES[zone % len(_ZONES)]
        found, now = [], rng.expovariate(1 / room)
        while now < hours:
            end = now + rng.expovariate(1 / none)
            found.append((now, end))
            now = end + rng.expovariate(1 / room)
        return found


MODELS: tuple[Model, ...] = (Documented(), Measured(), Scarce())


def has_room(outages: list[tuple[float, float]], now: float) -> bool:
    """Whether a zone has room."""
    place = bisect.bisect_right([begin for begin, _end in outages], now) - 1
    return place < 0 or now >= outages[place][1]


def next_outage(outages: list[tuple[float, float]], now: float) -> float:
    """Return when a zone has no room next; without end when never."""
    place = bisect.bisect_right([begin for begin, _end in outages], now)
    return outages[place][0] if place < len(outages) else float("inf")
