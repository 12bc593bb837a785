# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a day may cost. Pure.

Clouds bill by the started hour: whatever ran in an hour is billed for all of it, and two servers that follow each other in one hour are
billed twice. An hour's bill is therefore what ran at its beginning, and everything started since.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Callable, Collection

HOUR, DAY = 3600.0, 86400.0
_HOURS = 24


@dataclass(frozen=True)
class Begun:
    """What was booked for a worker before it was begun, at its dearest; the next look shows what came of it.

    :param beside: the server that ran already; empty when none did.
    """

    at: float
    price: float
    beside: str = ""


@dataclass(frozen=True)
class Ledger:
    """What was spent on a day, in UTC.

    :param day: days since 1970.
    :param hour: the hour of the day that is under way, from 0 on.
    :param closed: what the hours before it cost.
    :param bill: what the hour under way costs so far; it is never less at its end.
    :param rate: what runs now, for an hour.
    :param begun: by slot, what was booked since the last look.
    """

    day: int
    hour: int
    closed: float = 0.0
    bill: float = 0.0
    rate: float = 0.0
    begun: dict[str, Begun] = field(default_factory=dict)

    @property
    def spent(self) -> float:
        """What the day has cost so far, the started hour included."""
        return self.closed + self.bill

    @property
    def hours_left(self) -> int:
        """Hours of the day after the one under way."""
        return _HOURS - 1 - self.hour


def open_ledger(ledger: Ledger | None, *, now: float, rate: float) -> Ledger:
    """Bring a ledger up to now.

    :param rate: what is seen to run, for an hour. What ended since is still billed for the hours it began.
    """
    day, hour = int(now // DAY), int(now % DAY // HOUR)
    if ledger is None or ledger.day != day:
        # Of the hours before the first look of a day nobody knows more than what ran last.
        ran = ledger.rate if ledger else rate
        begun = ledger.begun if ledger else {}
        return Ledger(day, hour, closed=ran * hour if ledger else 0.0, bill=max(ran, rate), rate=rate, begun=begun)
    if ledger.hour == hour:
        return replace(ledger, rate=rate, bill=max(ledger.bill, rate))
    closed = ledger.closed + ledger.bill + ledger.rate * (hour - ledger.hour - 1)
    return Ledger(day, hour, closed, max(ledger.rate, rate), rate, ledger.begun)


def booked(ledger: Ledger, price: float) -> Ledger:
    """Return the ledger after something was started that costs this much an hour."""
    return replace(ledger, bill=ledger.bill + price, rate=ledger.rate + price)


def settled(ledger: Ledger, cost: Callable[[str, Begun], float], *, busy: Collection[str] = ()) -> Ledger:
    """Take back what was booked and did not come about: a try that found no room costs nothing, and a day of them not the budget.

    :param cost: an hour of what came of it, by slot.
    :param busy: slots whose work is not over: what was booked for them stays so.
    """
    under_way = {slot: begun for slot, begun in ledger.begun.items() if slot in busy}
    back = sum(max(0.0, begun.price - cost(slot, begun)) for slot, begun in ledger.begun.items() if slot not in busy)
    return replace(ledger, bill=max(0.0, ledger.bill - back), rate=max(0.0, ledger.rate - back), begun=under_way)


def outstanding(ledger: Ledger | None, cost: Callable[[str, Begun], float], *, busy: Collection[str]) -> dict[str, float]:
    """Return what was booked for slots whose work is not over and does not run yet, an hour."""
    begun = {slot: one for slot, one in (ledger.begun if ledger else {}).items() if slot in busy}
    return {slot: max(0.0, one.price - cost(slot, one)) for slot, one in begun.items()}


def ended(ledger: Ledger, price: float) -> Ledger:
    """Return the ledger after something was ended: its hour is billed all the same."""
    return replace(ledger, rate=max(0.0, ledger.rate - price))


def day_total(ledger: Ledger) -> float:
    """Return what the day will have cost if all goes on as it is."""
    return ledger.spent + ledger.rate * ledger.hours_left
