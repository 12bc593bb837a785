# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections that another thread can hang up, also while they wait for the first byte of an answer.

Whoever leaves while the request waits in the balancer's queue gives up its place there, and an engine does not begin in vain.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any, Iterator

import httpcore
import httpx


class Line:
    """What one thread listens to, and how others end that."""

    def __init__(self) -> None:
        self.lock, self.dead = threading.Lock(), False
        self.held: socket.socket | None = None

    def hang_up(self, *, for_good: bool) -> None:
        """End the connection that is listened to now. :param for_good: there shall be no other."""
        with self.lock:
            self.dead = self.dead or for_good
            if self.held is not None:
                with contextlib.suppress(OSError):
                    self.held.shutdown(socket.SHUT_RDWR)

    def hold(self, held: socket.socket | None) -> None:
        """Listen to a connection, or to none: then it may become another request's, and nobody here ends it.

        :raises httpcore.ReadError: it was hung up for good.
        """
        with self.lock:
            self.held = held
            if self.dead and held is not None:
                raise httpcore.ReadError("nobody waits for the answer any more")


# How often it is looked whether the client of an answer in one piece is still there, in seconds.
LOOK_S = 1.0
_mine = threading.local()


@contextlib.contextmanager
def listening(line: Line) -> Iterator[None]:
    """What this thread reads meanwhile is the line's."""
    _mine.line = line
    try:
        yield
    finally:
        _mine.line = None
        line.hold(None)


def left(client: socket.socket | None) -> bool:
    """Whether the client of a request has closed its connection."""
    try:
        return client is not None and client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


@contextlib.contextmanager
def waited_for(line: Line, client: socket.socket | None) -> Iterator[None]:
    """Hang the line up should the client leave meanwhile."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_S):
            if left(client):
                line.hang_up(for_good=True)
                return

    threading.Thread(target=watch, name="client-watcher", daemon=True).start()
    try:
        yield
    finally:
        over.set()


class _Stream(httpcore.NetworkStream):
    """A connection that tells the line of the thread that reads from it."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self.inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        line: Line | None = getattr(_mine, "line", None)
        if line is not None:
            line.hold(self.inner.get_extra_info("socket"))
        return self.inner.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.inner.write(buffer, timeout)

    def close(self) -> None:
        self.inner.close()

    def get_extra_info(self, info: str) -> Any:
        return self.inner.get_extra_info(info)


class _Backend(httpcore.SyncBackend):
    """Makes such connections."""

    def connect_tcp(self, *where: Any, **how: Any) -> httpcore.NetworkStream:
        return _Stream(super().connect_tcp(*where, **how))


def transport(limits: httpx.Limits) -> httpx.HTTPTransport:
    """A transport of httpx, over connections that can be hung up."""
    made = httpx.HTTPTransport(trust_env=False)
    made._pool = httpcore.ConnectionPool(
        max_connections=limits.max_connections,
        max_keepalive_connections=limits.max_keepalive_connections,
        keepalive_expiry=limits.keepalive_expiry,
        network_backend=_Backend(),
    )
    return made
