# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many questions are worked on at a time. One more is refused at once instead of waiting, unseen, for a thread."""

from __future__ import annotations

import contextlib
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
# What is answered from the document store.
STORED = ("/api/collections", "/api/documents")
UPLOAD = "/api/documents"
# Uploads open at a time, read or waiting for their turn: /tmp and the memory hold no more of the largest.
UPLOADS = 8


def spare(threads: int) -> int:
    """How many of so many threads open answers never get."""
    return max(1, min(SPARE, threads // 4))


def limit_of(threads: int) -> int:
    """How many questions may be open with so many threads."""
    return max(1, threads - spare(threads))


def needed(method: str, path: str) -> tuple[str, ...]:
    """What a request needs a place among."""
    if method == "POST":
        return ("answers", "uploads") if path == UPLOAD else ("answers",)
    return ("requests",) if path.startswith(STORED) else ()


class Bounded:
    """An application that has only so many questions and uploads open. What only looks is brief and always answered; what looks at the
    documents is not when their store hangs, so it gets no more than half of the threads that are spared.

    :param threads: how many the server has.
    """

    def __init__(self, app: WSGIApplication, threads: int) -> None:
        self.app = app
        most = {"answers": limit_of(threads), "uploads": UPLOADS, "requests": max(1, spare(threads) // 2)}
        self.places = {what: threading.BoundedSemaphore(number) for what, number in most.items()}

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, or refuse it."""
        held = contextlib.ExitStack()
        for what in needed(environ.get("REQUEST_METHOD", ""), environ.get("PATH_INFO", "")):
            if not self.places[what].acquire(blocking=False):
                held.close()
                return _refuse(what, start_response)
            held.callback(self.places[what].release)
        try:
            answer = self.app(environ, start_response)
        except BaseException:
            held.close()
            raise
        return ClosingIterator(answer, held.close)


def _refuse(what: str, start_response: StartResponse) -> Iterable[bytes]:
    told = Failed(503, f"Too many {what} are under way. Try again in a few seconds.", code="overloaded", retry_after=RETRY_AFTER)
    raw = json.dumps(told.body).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(raw))), ("Retry-After", str(told.retry_after))]
    start_response("503 Service Unavailable", headers)
    return [raw]
