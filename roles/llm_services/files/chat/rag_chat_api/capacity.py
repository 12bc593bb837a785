# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many questions are worked on at a time. One more is refused at once instead of waiting, unseen, for a thread."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Iterable

from werkzeug.wsgi import ClosingIterator

from .events import Failed

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

RETRY_AFTER = 5
# Threads that open answers never get: they refuse what is too much, and say that the service is well. Without them the health check
# would wait behind the answers, and the swarm end a service that is only busy, with every answer it has.
SPARE = 16


def limit_of(threads: int) -> int:
    """How many questions may be open with so many threads."""
    return max(1, threads - max(1, min(SPARE, threads // 4)))


class Bounded:
    """An application that has only so many questions and uploads open. What only looks is brief and always answered.

    :param limit: how many may be open.
    """

    def __init__(self, app: WSGIApplication, limit: int) -> None:
        self.app, self.limit = app, limit
        self.lock, self.open = threading.Lock(), 0

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, or refuse it."""
        if environ.get("REQUEST_METHOD") != "POST":
            return self.app(environ, start_response)
        if not self._enter():
            return _refuse(start_response)
        try:
            answer = self.app(environ, start_response)
        except BaseException:
            self._leave()
            raise
        return ClosingIterator(answer, self._leave)

    def _enter(self) -> bool:
        with self.lock:
            if self.open >= self.limit:
                return False
            self.open += 1
            return True

    def _leave(self) -> None:
        with self.lock:
            self.open -= 1


def _refuse(start_response: StartResponse) -> Iterable[bytes]:
    told = Failed(503, "Too many answers are under way. Try again in a few seconds.", code="overloaded", retry_after=RETRY_AFTER)
    raw = json.dumps(told.body).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(raw))), ("Retry-After", str(told.retry_after))]
    start_response("503 Service Unavailable", headers)
    return [raw]
