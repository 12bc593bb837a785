# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The breaker: placements whose servers are interrupted too often are left alone for a while. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Iterable, Mapping


@dataclass(frozen=True)
class Interruption:
    """One life of a server that was cut off.

    :param placement: the key of its placement.
    :param life: its ID and the start of that life: what was counted is not counted again.
    :param at: when it was noticed.
    """

    placement: str
    life: str
    at: float


@dataclass(frozen=True)
class Breaker:
    """What is remembered.

    :param seen: the interruptions of the window.
    :param opened: by placement, until when it is left alone.
    """

    seen: tuple[Interruption, ...] = ()
    opened: dict[str, float] = field(default_factory=dict)

    @property
    def data(self) -> dict[str, Any]:
        """The breaker as plain data, empty when nothing is remembered."""
        if not self.seen and not self.opened:
            return {}
        return {"seen": [[one.placement, one.life, one.at] for one in self.seen], "opened": self.opened}

    def is_open(self, placement: str, now: float) -> bool:
        """Whether a placement is to be left alone."""
        return self.opened.get(placement, 0.0) > now


def breaker_of(found: Mapping[str, Any]) -> Breaker:
    """Read a breaker from plain data."""
    seen = tuple(Interruption(str(place), str(life), float(at)) for place, life, at in found.get("seen", []))
    return Breaker(seen, {str(key): float(until) for key, until in found.get("opened", {}).items()})


def noticed(breaker: Breaker, found: Iterable[Interruption], *, now: float, limit: int, window: float, rest: float) -> Breaker:
    """Return the breaker after a look at the fleet.

    :param limit: as many interruptions at a placement within the window open it; 0 never does.
    :param window: seconds.
    :param rest: seconds a placement is left alone.
    """
    known = {one.life for one in breaker.seen}
    fresh = [one for one in found if one.life not in known]
    # A life is remembered for as long as the server may still lie there, or it would be counted anew: a day, or the window.
    keep = max(window, 86400.0)
    seen = tuple(one for one in (*breaker.seen, *fresh) if now - one.at <= keep)
    opened = {place: until for place, until in breaker.opened.items() if until > now}
    for place in sorted({one.placement for one in fresh}):
        recent = [one for one in seen if one.placement == place and now - one.at <= window]
        if limit and len(recent) >= limit:
            opened[place] = now + rest
    return Breaker(seen, opened)
