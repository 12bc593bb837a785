# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A drill: what clients and the swarm see while a worker is lost and comes back, and the report made of it."""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Mapping, Sequence
from urllib.parse import urlsplit

from .proof import connection_to, engine_address

PHASES = ("detection", "plan", "cloud", "boot and join", "model", "first token")
_LOOK_EVERY = 0.5


@dataclass(frozen=True)
class Request:
    """One request of a client.

    :param at: when it was begun.
    :param first: seconds to the first token; None when there was none.
    :param engine: the address of the engine that answered.
    :param error: why there was no first token.
    :param cut: whether it ended before it was over, after the first token.
    """

    at: float
    first: float | None = None
    engine: str = ""
    error: str = ""
    cut: bool = False


@dataclass(frozen=True)
class Sight:
    """What a manager saw of the worker at one moment.

    :param ready: whether a node of its name is ready.
    :param engines: the addresses of the engines that run on it.
    """

    at: float
    ready: bool
    engines: tuple[str, ...] = ()


def ask(url: str, *, key: str, model: str, timeout: float, clock: Callable[[], float] = time.time) -> Request:
    """Put one question to the edge and read its answer as it comes."""
    begin = clock()
    body = {"model": model, "messages": [{"role": "user", "content": "Count to five."}], "max_tokens": 16, "stream": True}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection = connection_to(url, timeout)
    first, engine, text = None, "", b""
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            return Request(begin, error=f"{urlsplit(url).netloc} answered {response.status}")
        engine = engine_address(response.headers.get("X-LLM-Engine") or "")
        text = response.readline()
        first = clock() - begin if text.strip() else None
        text += response.read()
    except (OSError, http.client.HTTPException) as error:
        if first is None:
            return Request(begin, error=f"{type(error).__name__}: {error}")
        return Request(begin, first, engine, cut=True)
    finally:
        connection.close()
    if first is None:
        return Request(begin, error="an answer without a token")
    return Request(begin, first, engine, cut=text.startswith(b"data:") and b"[DONE]" not in text)


class Watching:
    """Clients that ask steadily, and a look at the swarm, until the worker answered again.

    :param look: returns what the swarm shows now.
    :param question: puts one question.
    :param wanted: whether anybody still waits for it.
    :param tail: seconds to go on after the worker answered.
    """

    def __init__(
        self,
        look: Callable[[], Sight],
        question: Callable[[], Request],
        *,
        wanted: Callable[[], bool] = lambda: True,
        tail: float = 5.0,
    ) -> None:
        self._look, self._question, self._wanted, self._tail = look, question, wanted, tail
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.requests: list[Request] = []
        self.sights: list[Sight] = []

    def run(self, *, clients: int, pause: float, timeout: float) -> bool:
        """Watch, for as long as that is wanted; return whether the worker was lost and answered again.

        :param pause: seconds between two requests of a client.
        :param timeout: seconds for all of it.
        """
        threads = [threading.Thread(target=self._client, args=(pause,), daemon=True) for _number in range(clients)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + timeout
        back = False
        while not back and time.monotonic() < end and self._wanted():
            self.sights.append(self._look())
            with self._lock:
                back = answered_again(self.sights, self.requests) is not None
            self._over.wait(_LOOK_EVERY)
        self._over.wait(self._tail if back else 0.0)
        self._over.set()
        for thread in threads:
            thread.join(30)
        return back

    def _client(self, pause: float) -> None:
        while not self._over.is_set():
            found = self._question()
            with self._lock:
                self.requests.append(found)
            self._over.wait(pause)


def lost_at(sights: Iterable[Sight], since: float = 0.0) -> float | None:
    """Return when a worker that was ready was seen to be lost: its node down, or none of its engines what they were.

    A manager takes a node for ready for three heartbeats after its last; one that boots within them is never seen down.
    """
    before: Sight | None = None
    for sight in sights:
        if before and sight.at >= since and not (sight.ready and _has_some_of(sight, before)):
            return sight.at
        before = sight if sight.ready and (sight.engines or not before) else before
    return None


def _has_some_of(sight: Sight, before: Sight) -> bool:
    return not before.engines or bool(set(before.engines) & set(sight.engines))


def _first(sights: Iterable[Sight], since: float | None, wanted: Callable[[Sight], bool]) -> Sight | None:
    return None if since is None else next((one for one in sights if one.at > since and wanted(one)), None)


def answered_again(sights: Sequence[Sight], requests: Iterable[Request]) -> float | None:
    """Return when an engine of the worker gave its first token after the worker was lost and came back."""
    ready = _first(sights, lost_at(sights), lambda one: one.ready)
    engine = _first(sights, ready.at - 1e-6, lambda one: bool(one.engines)) if ready else None
    if engine is None:
        return None
    after = [one.at + one.first for one in requests if one.first is not None and one.engine in engine.engines and one.at >= ready_at(ready)]
    return min(after, default=None)


def ready_at(sight: Sight | None) -> float:
    """Return when a node was seen ready; without end when never."""
    return sight.at if sight else float("inf")


def phases(
    sights: Sequence[Sight], requests: Sequence[Request], *, interrupted: float, marks: Mapping[str, float]
) -> dict[str, float | None]:
    """Return how long each phase took, in seconds; None for one that was not seen.

    :param interrupted: when the worker was lost.
    :param marks: when recovery began its own phases, by name (``look``, ``cloud``, ``join``).
    """
    lost = lost_at(sights, interrupted)
    ready = _first(sights, lost, lambda one: one.ready)
    engine = _first(sights, ready.at - 1e-6, lambda one: bool(one.engines)) if ready else None
    token = answered_again(sights, requests)
    look, cloud, join = (marks.get(name) for name in ("look", "cloud", "join"))
    spans = (
        (interrupted, lost),
        (look, cloud),
        (cloud, join),
        (join, ready.at if ready else None),
        (ready.at if ready else None, engine.at if engine else None),
        (engine.at if engine else None, token),
    )
    found = {name: _span(begin, end) for name, (begin, end) in zip(PHASES, spans)}
    return {**found, "total": _span(interrupted, token)}


def _span(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else round(max(0.0, end - begin), 1)


def report(
    sights: Sequence[Sight], requests: Sequence[Request], *, worker: str, interrupted: float, marks: Mapping[str, float], cost: Any
) -> dict[str, Any]:
    """Return the report as plain data; times are seconds after the interruption."""
    firsts = [one.first for one in requests if one.first is not None]
    return {
        "worker": worker,
        "interrupted_at": interrupted,
        "seconds": phases(sights, requests, interrupted=interrupted, marks=marks),
        "requests": {
            "sent": len(requests),
            "failed": sum(1 for one in requests if one.first is None),
            "cut": sum(1 for one in requests if one.cut),
            "slowest_first_token": round(max(firsts), 2) if firsts else None,
            "errors": sorted({one.error for one in requests if one.error}),
        },
        "cost": cost,
        "timeline": [[round(one.at - interrupted, 2), one.first, one.engine, one.cut] for one in requests],
    }
