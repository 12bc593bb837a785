# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a day may cost. Pure.

Clouds bill by the started hour: whatever ran in an hour is billed for all of it, and two servers that follow each other in one hour are
billed twice. An hour's bill is therefore what ran at its beginning, and everything started since.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

HOUR, DAY = 3600.0, 86400.0
_HOURS = 24


@dataclass(frozen=True)
class Ledger:
    """What was spent on a day, in UTC.

    :param day: days since 1970.
    :param hour: the hour of the day that is under way, from 0 on.
    :param closed: what the hours before it cost.
    :param bill: what the hour under way costs so far; it is never less at its end.
    :param rate: what runs now, for an hour.
    """

    day: int
    hour: int
    closed: float = 0.0
    bill: float = 0.0
    rate: float = 0.0

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
        return Ledger(day, hour, closed=ran * hour if ledger else 0.0, bill=max(ran, rate), rate=rate)
    if ledger.hour == hour:
        return replace(ledger, rate=rate, bill=max(ledger.bill, rate))
    closed = ledger.closed + ledger.bill + ledger.rate * (hour - ledger.hour - 1)
    return Ledger(day, hour, closed, max(ledger.rate, rate), rate)


def booked(ledger: Ledger, price: float) -> Ledger:
    """Return the ledger after something was started that costs this much an hour."""
    return replace(ledger, bill=ledger.bill + price, rate=ledger.rate + price)


def ended(ledger: Ledger, price: float) -> Ledger:
    """Return the ledger after something was ended: its hour is billed all the same."""
    return replace(ledger, rate=max(0.0, ledger.rate - price))


def day_total(ledger: Ledger) -> float:
    """Return what the day will have cost if all goes on as it is."""
    return ledger.spent + ledger.rate * ledger.hours_left
