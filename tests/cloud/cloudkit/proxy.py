# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands between a client and the cloud: counts calls, and answers, cuts, delays or alters those a test chooses."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Iterator, Mapping

from .config import SERVICES, urls

# These describe one connection, not the message (RFC 9110, 7.6.1).
HOP = ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
# More than Nova takes for its slowest answer on a busy machine.
UPSTREAM_SECONDS = 120


@dataclass(frozen=True)
class Call:
    """One request that came by, and how it was answered; no status where the connection was cut."""

    service: str
    method: str
    path: str
    status: int | None

    @property
    def writes(self) -> bool:
        """Whether it asks for a change; a sign-in is none."""
        return self.method not in ("GET", "HEAD") and self.service != "identity"

    @property
    def discovers(self) -> bool:
        """Whether it only asks which versions of an API there are."""
        return bool(re.fullmatch(r"/(v[\d.]+/?)?", self.path))


@dataclass
class Fault:
    """What to do to some calls instead of passing them on.

    :param service: type in the catalogue, such as ``compute``.
    :param path: a regular expression the path must hold.
    :param times: how many calls; None means every one.
    :param status: answer with it; 0 cuts the connection, None leaves the answer alone.
    :param passed: pass the call on first: the cloud acts and the client does not learn of it.
    :param hangs: answer nothing until the client gives up or the test ends.
    :param request: alters the body that is passed on; gives None where it has nothing to alter.
    :param response: alters the body that comes back.
    """

    service: str
    method: str
    path: str
    times: int | None = 1
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = "injected by the test"
    passed: bool = False
    hangs: bool = False
    request: Callable[[Any], Any] | None = None
    response: Callable[[Any], Any] | None = None
    hits: int = 0

    def takes(self, service: str, method: str, path: str) -> bool:
        """Whether this call is one of those."""
        open_ = self.times is None or self.hits < self.times
        return open_ and service == self.service and method == self.method and bool(re.search(self.path, path))


@dataclass(frozen=True)
class Answer:
    """What goes back to the client."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Proxy:
    """A listener for each service, so that the links in the answers lead back here by themselves."""

    def __init__(self, ports: dict[str, int]) -> None:
        self._lock = threading.Lock()
        self._calls: list[Call] = []
        self._faults: list[Fault] = []
        self._released = threading.Event()
        self.tokens: set[str] = set()
        self._servers = {service.kind: _listener(self, service.kind, ports[service.name]) for service in SERVICES}
        for server in self._servers.values():
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        here = {service.name: self._servers[service.kind].server_address[1] for service in SERVICES}
        self.urls = urls(here)
        self.ports = here

    def close(self) -> None:
        """End every listener and let go what hangs."""
        self._released.set()
        for server in self._servers.values():
            server.shutdown()
            server.server_close()

    def clear(self) -> None:
        """Forget calls and faults, and let go what hangs."""
        with self._lock:
            self._calls.clear()
            self._faults.clear()
            self._released.set()
            self._released = threading.Event()

    def inject(self, service: str, method: str, path: str, **what: Any) -> Fault:
        """Do something to the calls that follow; the first fault that takes a call gets it."""
        fault = Fault(service, method, path, **what)
        with self._lock:
            self._faults.append(fault)
        return fault

    @contextlib.contextmanager
    def count(self) -> Iterator[list[Call]]:
        """Collect the calls made meanwhile."""
        with self._lock:
            before = len(self._calls)
        collected: list[Call] = []
        yield collected
        with self._lock:
            collected += self._calls[before:]

    # -- for the listeners --

    def record(self, service: str, method: str, path: str, status: int | None) -> None:
        """Remember a call."""
        with self._lock:
            self._calls.append(Call(service, method, path, status))

    def fault(self, service: str, method: str, path: str) -> Fault | None:
        """Return what is to happen to a call, if anything, and use it up by one."""
        with self._lock:
            found = next((fault for fault in self._faults if fault.takes(service, method, path)), None)
            if found:
                found.hits += 1
            return found

    def hang(self) -> None:
        """Wait until the test is over."""
        self._released.wait(UPSTREAM_SECONDS)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    # A fleet's calls come all at once.
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error here."""


def _listener(proxy: Proxy, kind: str, upstream: int) -> _Listener:
    class Handler(_Handler):
        pass

    Handler.proxy, Handler.kind, Handler.upstream = proxy, kind, upstream
    return _Listener(("127.0.0.1", 0), Handler)


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    kind: str
    upstream: int
    protocol_version = "HTTP/1.1"
    # Headers and body go out in two writes, which Nagle's algorithm and delayed acknowledgements would make 40 ms of.
    disable_nagle_algorithm = True

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        if token := self.headers.get("X-Auth-Token"):
            self.proxy.tokens.add(token)
        fault = self.proxy.fault(self.kind, self.command, self.path)
        answer = self._answer(body, fault)
        self.proxy.record(self.kind, self.command, self.path, answer.status if answer else None)
        if answer is None:
            self._cut()
        else:
            self._send(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815 - the names the base class calls

    def _answer(self, body: bytes, fault: Fault | None) -> Answer | None:
        """Return the answer; None cuts the connection."""
        if fault is None:
            return self._forward(body)
        if fault.hangs:
            self.proxy.hang()
            return None
        if fault.status is None:
            return _altered(self._forward(_edit(body, fault.request)), fault.response)
        if fault.passed:
            self._forward(body)
        return _injected(fault) if fault.status else None

    def _forward(self, body: bytes) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=UPSTREAM_SECONDS)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in (*HOP, "content-length", "accept-encoding")}
        if body:
            headers["Content-Length"] = str(len(body))
        try:
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            return Answer(answer.status, answer.getheaders(), answer.read())
        finally:
            connection.close()

    def _send(self, answer: Answer) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            if name.lower() not in (*HOP, "content-length"):
                self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name the base class gives it
        """Say nothing."""


def _edit(body: bytes, change: Callable[[Any], Any] | None) -> bytes:
    changed = change(json.loads(body)) if change and body else None
    return body if changed is None else json.dumps(changed).encode()


def _altered(answer: Answer, change: Callable[[Any], Any] | None) -> Answer:
    return Answer(answer.status, answer.headers, _edit(answer.body, change)) if answer.status < 300 else answer


def _injected(fault: Fault) -> Answer:
    """Answer as Nova does: one object whose name says the kind of error."""
    status = fault.status or 0
    body = json.dumps({"injected": {"code": status, "message": fault.message}}).encode()
    return Answer(status, [("Content-Type", "application/json"), *fault.headers.items()], body)
