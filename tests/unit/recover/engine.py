# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A manager's engine as far as configs go: versions that every write raises, writes of an old version refused, on a socket of its own.

Answers are those of Docker 26: an update names the version it was made for and gets 500 "update out of sequence" when that is not the
newest; a second config of one name gets 409; only labels may change.
"""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Callable, Iterator, TypeVar
from urllib.parse import parse_qs, urlsplit


class Engine(socketserver.ThreadingUnixStreamServer):
    """The engine.

    :param die_at: the number of the call, from 0, whose answer never comes; the call itself may have been carried out.
    :param before: called before each write, to let others write in between.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(self, path: Path) -> None:
        self.path = path
        self.configs: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.die_at = -1
        self.dies_after_work = False
        self.before: Callable[[], None] = lambda: None
        self.lock = threading.RLock()
        super().__init__(str(path), Handler)

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    @property
    def labels(self) -> dict[str, str]:
        found = next(iter(self.configs.values()))
        labels: dict[str, str] = found["Spec"]["Labels"]
        return labels

    def read(self, path: str, query: dict[str, list[str]]) -> Any:
        """Answer a GET; None is 404."""
        return self.find(path.rpartition("/")[2])

    def write(self, path: str, body: Any) -> tuple[int, Any]:
        """Answer a POST that is not about configs."""
        raise AssertionError(f"{path} is not part of this stand-in: {body}")

    def remove(self, path: str) -> tuple[int, Any]:
        """Answer a DELETE."""
        raise AssertionError(f"{path} is not part of this stand-in")

    def find(self, name: str) -> dict[str, Any] | None:
        return next((one for one in self.configs.values() if name in (one["ID"], one["Spec"]["Name"])), None)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Engine
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self._path()
        if path == "/version":
            self._answer(200, {"ApiVersion": "1.45", "Version": "26.1.5", "MinAPIVersion": "1.24"})
            return
        if self._dies(f"GET {path}", lambda: None):
            return
        with self.server.lock:
            found = self.server.read(path, parse_qs(urlsplit(self.path).query))
            self._answer(200, found) if found is not None else self._answer(404, {"message": f"{path} not found"})

    def do_DELETE(self) -> None:
        self.server.calls.append(f"DELETE {self._path()}")
        with self.server.lock:
            answer = self.server.remove(self._path())
        self._answer(*answer)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        path = self._path()
        before, self.server.before = self.server.before, lambda: None
        before()

        def work() -> None:
            with self.server.lock:
                if path.startswith("/configs/"):
                    self._answered = self._create(body) if path.endswith("/create") else self._update(path, body)
                else:
                    self._answered = self.server.write(path, body)

        if not self._dies(f"POST {path}", work):
            work()
            self._answer(*self._answered)

    def _create(self, body: dict[str, Any]) -> tuple[int, Any]:
        if self.server.find(body["Name"]):
            return 409, {"message": f"rpc error: code = AlreadyExists desc = config {body['Name']} already exists"}
        assert body["Data"], "a config holds something"
        spec = {"Name": body["Name"], "Labels": body["Labels"] or {}, "Data": body["Data"]}
        name = f"config{len(self.server.calls)}"
        self.server.configs[name] = {"ID": name, "Version": {"Index": 10}, "Spec": spec}
        return 201, {"ID": name}

    def _update(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        found = self.server.configs.get(path.split("/")[2])
        version = int(parse_qs(urlsplit(self.path).query)["version"][0])
        if found is None:
            return 404, {"message": "rpc error: code = NotFound desc = config not found"}
        if found["Version"]["Index"] != version:
            return 500, {"message": "rpc error: code = Unknown desc = update out of sequence"}
        if any(body[key] != found["Spec"][key] for key in ("Name", "Data")):
            return 400, {"message": "rpc error: code = InvalidArgument desc = only updates to Labels are allowed"}
        found["Spec"]["Labels"] = body["Labels"]
        found["Version"]["Index"] += 1
        return 200, {}

    def _path(self) -> str:
        path = urlsplit(self.path).path
        return "/" + path.split("/", 2)[-1] if path.startswith("/v1.") else path

    def _dies(self, call: str, work: Callable[[], None]) -> bool:
        self.server.calls.append(call)
        dies = len(self.server.calls) - 1 == self.server.die_at
        if dies:
            if self.server.dies_after_work:
                work()
            self.close_connection = True
            self.connection.close()
        return dies

    def _answer(self, status: int, found: Any) -> None:
        text = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        return


_AnyEngine = TypeVar("_AnyEngine", bound=Engine)


@contextlib.contextmanager
def serving(engine: _AnyEngine) -> Iterator[_AnyEngine]:
    """Run an engine while the block runs."""
    with engine:
        thread = threading.Thread(target=engine.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield engine
        finally:
            engine.shutdown()
            thread.join()
