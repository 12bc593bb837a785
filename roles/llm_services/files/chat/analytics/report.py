# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records to figures."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from typing import Any, Iterable, Mapping


@dataclass
class Group:
    """Figures of one key, model or day."""

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    continued: int = 0
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)

    def take(self, row: Mapping[str, Any]) -> None:
        """Count one record. A client that left (499) is no error."""
        self.requests += 1
        self.errors += row["status"] >= 400 and row["status"] != 499
        self.prompt_tokens += row["prompt_tokens"]
        self.completion_tokens += row["completion_tokens"]
        self.continued += row["continued"]
        if row["status"] < 400:
            self.whole.append(row["seconds"])
            if row["first_token_s"] is not None:
                self.first.append(row["first_token_s"])


@dataclass
class Report:
    """Everything the page shows. Days without a request are there too."""

    days: list[date]
    total: Group
    by_day: dict[date, Group]
    by_key: dict[str, Group]
    by_model: dict[str, Group]
    by_day_and_key: dict[date, dict[str, int]]
    errors: dict[str, int]


def report(rows: Iterable[Mapping[str, Any]], today: date, days: int) -> Report:
    """Sum records up by day (UTC), key and model."""
    span = [today - timedelta(days=days - 1 - at) for at in range(days)]
    made = Report(span, Group(), {day: Group() for day in span}, {}, {}, {day: defaultdict(int) for day in span}, {})
    for row in rows:
        day = datetime.fromtimestamp(row["at"], timezone.utc).date()
        if day not in made.by_day:
            continue
        for group in (made.total, made.by_day[day]):
            group.take(row)
        made.by_key.setdefault(row["key"], Group()).take(row)
        made.by_model.setdefault(row["model"], Group()).take(row)
        made.by_day_and_key[day][row["key"]] += 1
        if row["status"] >= 400 and row["status"] != 499:
            reason = row["error"] or str(row["status"])
            made.errors[reason] = made.errors.get(reason, 0) + 1
    return made


def quantile(values: list[float], share: float) -> float | None:
    """The value that a share of all values does not exceed; none without values."""
    if not values:
        return None
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
