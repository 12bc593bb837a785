# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One list of a region's servers for all threads that wait for one of them."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import Any, Callable, Iterator

# Seconds for which a list is good enough for another thread.
_FRESH = 1.0


class Roll:
    """The servers of a region as they were listed last.

    A fleet of which each thread asks for its own server would take as many requests for each look as it has servers.

    :param read: lists the servers.
    :param now: seconds since 1970.
    """

    def __init__(self, read: Callable[[], list[dict[str, Any]]], *, now: Callable[[], float]) -> None:
        self._read = read
        self._now = now
        self._counting = threading.Lock()
        self._reading = threading.Lock()
        self._waiting = 0
        self._began = 0.0
        self._found: dict[str, dict[str, Any]] = {}

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Count the thread as one that waits for a server."""
        with self._counting:
            self._waiting += 1
        try:
            yield
        finally:
            with self._counting:
                self._waiting -= 1

    @property
    def shared(self) -> bool:
        """Whether more than one thread waits."""
        return self._waiting > 1

    def since(self, moment: float) -> tuple[dict[str, dict[str, Any]], float]:
        """Return the servers by id, as listed after a moment and less than a second ago, and when that list was asked for."""
        with self._reading:
            now = self._now()
            if self._began <= moment or now - self._began > _FRESH:
                self._found, self._began = {one["id"]: one for one in self._read()}, now
            return self._found, self._began
