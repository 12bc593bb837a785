# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two that ask: Prometheus at /metrics, and people at /status/ with the page's password."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from exposition import CONTENT_TYPE, NotAnswered

from . import page
from .metrics import text_of
from .watcher import Watcher

_HERE = Path(__file__).resolve().parent
_HTML, _TEXT = "text/html; charset=utf-8", "text/plain; charset=utf-8"
_FILES = {"/status/page.css": "text/css; charset=utf-8", "/status/page.js": "text/javascript; charset=utf-8"}
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Answer(NamedTuple):
    """What is said."""

    status: int
    text: str
    kind: str = _TEXT


def admitted(header: str, password_hash: str) -> bool:
    """Whether the page's password was given; compared by its hash, in constant time. Without a password nobody is."""
    kind, _space, given = header.partition(" ")
    try:
        password = base64.b64decode(given, validate=True).decode().partition(":")[2] if kind == "Basic" else ""
    except (binascii.Error, UnicodeDecodeError):
        password = ""
    hashed = hashlib.sha256(password.encode()).hexdigest()
    return hmac.compare_digest(hashed, password_hash or "-") and bool(password)


def metrics(watcher: Watcher, now: float) -> Answer:
    """Return the metrics, or 503 when what is known is not the present: an alert then says that nobody knows."""
    view = watcher.view
    if view.seen is None or view.account is None or not view.fresh:
        return Answer(503, f"{view.error or 'The last look is too old.'}\n")
    try:
        return Answer(200, text_of(view.seen, view.account, now=now), CONTENT_TYPE)
    except NotAnswered as error:
        return Answer(503, f"{error}\n")


def answer(watcher: Watcher, path: str, authorization: str, now: float) -> Answer:
    """Return what is said to a request."""
    if path == "/healthy":
        return Answer(200, "ok\n") if watcher.alive else Answer(503, "It has stopped to look.\n")
    if path == "/metrics":
        return metrics(watcher, now)
    if path.startswith("/status/") and not admitted(authorization, watcher.settings.password_hash):
        return Answer(401, "The password is missing or wrong.\n")
    return shown(watcher, path, now)


def shown(watcher: Watcher, path: str, now: float) -> Answer:
    """Return a part of the page."""
    told = watcher.settings
    if path == "/status/":
        return Answer(200, page.document(watcher.view, now=now, fresh=told.fresh, currency=told.currency), _HTML)
    if path == "/status/view":
        return Answer(200, page.fragment(watcher.view, now=now, currency=told.currency), _HTML)
    if path in _FILES:
        return Answer(200, (_HERE / path.rpartition("/")[2]).read_text(encoding="utf-8"), _FILES[path])
    return Answer(404, "There is nothing here.\n")


def make_server(watcher: Watcher, port: int, *, address: str = "") -> ThreadingHTTPServer:
    """Return the server.

    :param port: 0 takes any that is free.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = 30
        server_version = "swarm_monitor"
        sys_version = ""

        def do_GET(self) -> None:
            said = answer(watcher, urlsplit(self.path).path, self.headers.get("Authorization", ""), time.time())
            body = said.text.encode()
            self.send_response(said.status)
            self.send_header("Content-Type", said.kind)
            self.send_header("Content-Length", str(len(body)))
            if said.status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="status", charset="UTF-8"')
            for name, value in HEADERS.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """A line for each look of a browser would tell nothing."""

    return ThreadingHTTPServer((address, port), Handler)
