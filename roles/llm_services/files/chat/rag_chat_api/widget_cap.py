# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the widget may cost: answers a day, counted in UTC days."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone
from urllib.parse import urlsplit


class DailyCap:
    """Counts what was given today. :param limit: answers a day."""

    def __init__(self, limit: int) -> None:
        self.limit, self.lock = limit, threading.Lock()
        self.day, self.given = "", 0

    def take(self, now: datetime | None = None) -> int:
        """Count one answer. Returns 0 when it may be given, else the seconds until one may."""
        moment = now or datetime.now(timezone.utc)
        with self.lock:
            if self.day != moment.date().isoformat():
                self.day, self.given = moment.date().isoformat(), 0
            if self.given < self.limit:
                self.given += 1
                return 0
        midnight = datetime.combine(moment.date() + timedelta(days=1), datetime.min.time(), timezone.utc)
        return max(1, int((midnight - moment).total_seconds()))

    def give_back(self) -> None:
        """The answer that was counted was not given."""
        with self.lock:
            self.given = max(0, self.given - 1)


def allowed(origin: str, domains: tuple[str, ...]) -> bool:
    """Whether a page of this origin may use the widget. ``*.example.org`` stands for all below it, not for itself."""
    try:
        parts = urlsplit(origin)
        host = (parts.hostname or "").lower()
    except ValueError:
        return False
    if parts.scheme not in ("https", "http") or not host or parts.path or parts.query:
        return False
    return any(host == domain or (domain.startswith("*.") and host.endswith(domain[1:])) for domain in domains)
