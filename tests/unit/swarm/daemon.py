# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An engine's API on a socket of its own, so that the SDK is real: it counts its calls and can die in the midst of them."""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Iterator


class Daemon(socketserver.ThreadingUnixStreamServer):
    """A manager's engine.

    :param answers: by path without the API's version; a list of nodes below ``/nodes`` is also served one by one.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, path: Path, answers: dict[str, Any]) -> None:
        self.path = path
        self.answers = answers
        self.calls: list[str] = []
        self.die_at = -1
        super().__init__(str(path), Handler)

    @property
    def url(self) -> str:
        """What the SDK connects to."""
        return f"unix://{self.path}"


class Handler(BaseHTTPRequestHandler):
    """One request: counted, answered, or left without an answer."""

    server: Daemon
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = "/" + self.path.partition("?")[0].split("/", 2)[-1] if self.path.startswith("/v1") else self.path
        if self._dies(f"GET {path}"):
            return
        nodes = {node["ID"]: node for node in self.server.answers["/nodes"]}
        self._answer(nodes[path.rpartition("/")[2]] if path.startswith("/nodes/") else self.server.answers[path])

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self._dies("POST " + self.path.partition("?")[0].split("/", 2)[-1]):
            return
        for node in self.server.answers["/nodes"]:
            if f"/nodes/{node['ID']}/update" in self.path:
                node["Spec"] = json.loads(body)
                node["Version"]["Index"] += 1
        self._answer({})

    def _dies(self, call: str) -> bool:
        self.server.calls.append(call)
        dies = len(self.server.calls) - 1 == self.server.die_at
        if dies:
            self.close_connection = True
            self.connection.close()
        return dies

    def _answer(self, found: Any) -> None:
        text = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        return


@contextlib.contextmanager
def serving(path: Path, answers: dict[str, Any]) -> Iterator[Daemon]:
    """Run an engine's API while the block runs."""
    with Daemon(path, answers) as daemon:
        thread = threading.Thread(target=daemon.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield daemon
        finally:
            daemon.shutdown()
            thread.join()
