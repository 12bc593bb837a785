# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks again and again, and says what was seen: only as long as it stands for the present, or with its age beside it."""

from __future__ import annotations

import sqlite3
import sys
import threading
import time
from dataclasses import dataclass
from typing import Callable

from exposition import NotAnswered

from .history import Account, History
from .look import Look, look
from .settings import Settings


@dataclass(frozen=True)
class View:
    """What is known.

    :param seen: the last look that succeeded.
    :param error: why the last one did not.
    :param fresh: whether the look stands for the present.
    """

    seen: Look | None
    account: Account | None
    error: str
    fresh: bool


class Watcher:
    """The looks of one service.

    :param clock: seconds since 1970.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self.settings, self._clock = settings, clock
        self._history = History(settings.database)
        self._lock = threading.Lock()
        self._seen: Look | None = None
        self._account: Account | None = None
        self._error, self._turned = "Nothing was looked at yet.", clock()

    def turn(self) -> None:
        """Look once; whatever goes wrong is kept as the reason, and the former look grows old."""
        seen, account, error = None, None, ""
        try:
            seen = look(self.settings, self._clock())
            self._history.take(seen)
            account = self._history.account()
        except (NotAnswered, sqlite3.Error, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as problem:
            error = str(problem) if isinstance(problem, NotAnswered) else f"What was seen cannot be kept or understood: {problem!r}"
            print(error, file=sys.stderr, flush=True)  # noqa: T201 - the log of the container
        with self._lock:
            self._error, self._turned = error, self._clock()
            if not error:
                self._seen, self._account = seen, account

    def watch(self) -> None:
        """Look for ever."""
        while True:
            self.turn()
            time.sleep(self.settings.every)

    @property
    def alive(self) -> bool:
        """Whether looks are still tried."""
        with self._lock:
            return self._clock() - self._turned < 6 * self.settings.every + 60

    @property
    def view(self) -> View:
        """What is known now."""
        with self._lock:
            fresh = self._seen is not None and 0 <= self._clock() - self._seen.at <= self.settings.fresh
            return View(self._seen, self._account, self._error, fresh)
