# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the autoscaler listens to: HAProxy's mark-downs and queue, Docker's events, and the use of GPUs as Prometheus has it."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Mapping
from urllib.parse import quote

from .._errors import StackError
from .scale import Demand

_SAMPLE = re.compile(r"^(haproxy_(?:backend|server)_\w+)\{([^}]*)\} ([0-9.eE+-]+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_LONGEST = 16 << 20


class NotTold(StackError):
    """Somebody who is asked does not answer, or nothing that can be understood."""


@dataclass(frozen=True)
class Balance:
    """What the balancers say, one for each manager.

    :param up: engines that answer, as the balancer that sees the most has it.
    :param sessions: requests under way, in all.
    :param waiting: requests that wait, in all.
    :param downs: how often a balancer has marked an engine down since it began, in all.
    """

    at: float
    up: int
    sessions: int
    waiting: int
    downs: int


def fetch(address: str, path: str, *, seconds: float) -> str:
    """Return what ``HOST:PORT`` answers.

    :raises NotTold: it was not reached, or said no.
    """
    host, _colon, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=seconds)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(_LONGEST)
    except (OSError, http.client.HTTPException) as error:
        raise NotTold(f"{address} does not answer: {error or type(error).__name__}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise NotTold(f"{address}{path} answered {answer.status}")
    return body.decode("utf-8", "replace")


def addresses(name: str, port: int) -> list[str]:
    """Return the addresses behind a name, as ``HOST:PORT``.

    :raises NotTold: there is no such name.
    """
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NotTold(f"{name} is not known: {error}") from error
    return sorted({f"[{one[4][0]}]:{port}" if ":" in str(one[4][0]) else f"{one[4][0]}:{port}" for one in found})


def balance_of(pages: Iterable[str], at: float) -> Balance:
    """Read HAProxy's metrics.

    :raises NotTold: there are none of the engines.
    """
    told = [_samples(page) for page in pages]
    if not told or any(("haproxy_backend_active_servers", "engines") not in found for found in told):
        raise NotTold("the balancer says nothing of the engines")

    def total(name: str, *proxies: str) -> int:
        return int(sum(found.get((name, proxy), 0.0) for found in told for proxy in proxies))

    return Balance(
        at,
        up=int(max(found["haproxy_backend_active_servers", "engines"] for found in told)),
        # Both have the same engines: the second, where there is one, those that have the model in memory.
        sessions=total("haproxy_backend_current_sessions", "engines", "loaded"),
        waiting=total("haproxy_backend_current_queue", "engines", "loaded"),
        downs=total("haproxy_server_check_up_down_total", "engines"),
    )


def _samples(page: str) -> dict[tuple[str, str], float]:
    """Return the sums of HAProxy's samples by metric and proxy."""
    found: dict[tuple[str, str], float] = {}
    for name, labels, value in _SAMPLE.findall(page):
        key = (name, dict(_LABEL.findall(labels)).get("proxy", ""))
        found[key] = found.get(key, 0.0) + float(value)
    return found


def gpu_use(answer: str, at: float) -> tuple[float, float]:
    """Read an answer of Prometheus' to ``avg(...)``: the use from 0 to 1, and when it was measured.

    :raises NotTold: it has no such figure.
    """
    try:
        (result,) = json.loads(answer)["data"]["result"]
        use = float(result["value"][1])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise NotTold("Prometheus has no use of GPUs") from error
    if not 0 <= use <= 1:
        raise NotTold(f"Prometheus has a use of GPUs of {use}, which cannot be")
    return use, at


def gpu_query(expression: str) -> str:
    """Return the path that asks Prometheus for a figure."""
    return f"/api/v1/query?query={quote(expression)}"


def demand_of(balance: Balance | None, gpu: tuple[float, float] | None, *, slots: int, measured: bool) -> Demand | None:
    """Return how busy the engines are; None where that is not known.

    :param slots: requests that one engine answers at a time.
    :param measured: whether the use of GPUs is asked for; without it, slots are counted.
    """
    if balance is None or (measured and gpu is None):
        return None
    if gpu is not None:
        return Demand(min(balance.at, gpu[1]), balance.up, gpu[0], balance.waiting)
    held = max(balance.sessions - balance.waiting, 0)
    return Demand(balance.at, balance.up, min(held / max(balance.up * slots, 1), 1.0), balance.waiting)


class Ear(threading.Thread):
    """Asks again and again, keeps the last answer, and calls when it shows that something was lost.

    :param ask: returns what is kept.
    :param lost: whether the second answer shows a loss that the first did not.
    :param call: called with a word when one was lost.
    """

    def __init__(
        self, name: str, ask: Callable[[], Any], *, every: float, lost: Callable[[Any, Any], bool], call: Callable[[str], None]
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._ask, self._every, self._lost, self._call = ask, every, lost, call
        self._over = threading.Event()
        self.last: Any = None
        self.error = "it was not asked yet"

    def run(self) -> None:
        """Ask until told to end."""
        while not self._over.wait(self._every):
            self.once()

    def once(self) -> None:
        """Ask once; what was known before grows old when there is no answer."""
        try:
            found = self._ask()
        except StackError as error:
            self.error = str(error)
            return
        before, self.last, self.error = self.last, found, ""
        if before is not None and self._lost(before, found):
            self._call(self.name)

    def end(self) -> None:
        """Ask no more."""
        self._over.set()


def fewer_up(before: Balance, after: Balance) -> bool:
    """Whether a balancer has marked an engine down meanwhile."""
    return after.up < before.up or after.downs > before.downs


class Events(threading.Thread):
    """Docker's events: calls when one is about a node.

    :param stream: begins to listen; what it yields are the engine's messages.
    """

    def __init__(self, stream: Callable[[], Iterable[Mapping[str, Any]]], *, call: Callable[[str], None]) -> None:
        super().__init__(name="docker", daemon=True)
        self._stream, self._call = stream, call
        self._over = threading.Event()
        self.error = "it was not listened to yet"

    def run(self) -> None:
        """Listen until told to end; a stream that breaks is begun anew."""
        while not self._over.is_set():
            self.once()
            self._over.wait(2.0)

    def once(self) -> None:
        """Listen until the stream breaks."""
        # What does not come is no error: the engine may have nothing to tell.
        self.error = ""
        try:
            for message in self._stream():
                if self._over.is_set():
                    return
                if message.get("Type") == "node":
                    self._call(self.name)
        except StackError as error:
            self.error = str(error)

    def end(self) -> None:
        """Listen no more; a stream that is open ends with the process."""
        self._over.set()
