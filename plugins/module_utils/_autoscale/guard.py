# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands before the engine's socket and speaks its API: lets through what the autoscaler reads, and four kinds of change.

Whoever may update a service may run anything on a manager. So no body of a request passes: for each change the object is read here, the
one thing that may be changed is taken from the request, and what is sent to the engine is made of the two.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import socket
import sys
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Mapping
from urllib.parse import parse_qs, urlencode, urlsplit

from .._recover.model import SCALED_LABEL, SERVER_LABEL
from .._recover.store import CONTENT, NAME
from .._recover.swarm import ENGINE

SOCKET = "/var/run/docker.sock"
PORT = 2375
_READS = re.compile(rf"/(_ping|version|info|nodes|nodes/[a-z0-9]+|tasks|events|services/{ENGINE}|configs/{NAME})")
_LARGEST = 1 << 20
_SECONDS = 60.0
# Whoever listens to events begins anew after two minutes without one; what it left behind ends a little later.
_STREAM = 150.0
# More engines than this nobody has: a number that is a mistake.
_MOST = 1000


class Denied(Exception):
    """What may not be done; the text says what and why."""


@dataclass(frozen=True)
class Call:
    """A request to the engine."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Any = None


Read = Callable[[str], Any]


def admitted(method: str, path: str, query: Mapping[str, str], body: Any, read: Read) -> Call:
    """Return what is sent to the engine for a request.

    :param path: without the version of the API.
    :param read: reads an object of the engine's.
    :raises Denied: it is none of what may be done.
    """
    if method in ("GET", "HEAD") and _READS.fullmatch(path):
        return Call(method, path, query)
    kind, _slash, rest = path.strip("/").partition("/")
    name, _slash, verb = rest.partition("/")
    if method == "DELETE" and kind == "nodes" and re.fullmatch(r"[a-z0-9]+", name) and not verb:
        _worker(read, name)
        # Without its option force the engine removes none that is up.
        return Call("DELETE", path, {})
    if method == "POST" and (kind, rest) == ("configs", "create"):
        return Call("POST", path, {}, _new_config(body))
    changes: dict[str, Callable[[Read, str, Any], Any]] = {"configs": _config, "nodes": _node, "services": _service}
    if method == "POST" and verb == "update" and kind in changes and re.fullmatch(r"[a-z0-9]+", name):
        return Call("POST", path, {"version": _version(query)}, changes[kind](read, name, body))
    raise Denied(f"{method} {path} is not among what the autoscaler may ask of the engine")


def _version(query: Mapping[str, str]) -> str:
    version = query.get("version", "")
    if not version.isdigit():
        raise Denied("an update has to name the version that was read")
    return version


def _labels(body: Any) -> dict[str, str]:
    labels = body.get("Labels") if isinstance(body, dict) else None
    if not isinstance(labels, dict) or not all(isinstance(part, str) for pair in labels.items() for part in pair):
        raise Denied("the labels are no texts by name")
    return labels


def _new_config(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict) or body.get("Name") != NAME:
        raise Denied(f"no config but {NAME} may be made")
    return {"Name": NAME, "Data": base64.b64encode(CONTENT).decode(), "Labels": _labels(body)}


def _config(read: Read, name: str, body: Any) -> dict[str, Any]:
    """The shared state: its labels."""
    spec = read(f"/configs/{NAME}")
    if spec["ID"] != name:
        raise Denied(f"no config but {NAME} may be changed")
    return {**spec["Spec"], "Labels": _labels(body)}


def _worker(read: Read, name: str) -> dict[str, Any]:
    found: dict[str, Any] = read(f"/nodes/{name}")
    if found["Spec"].get("Role") != "worker":
        raise Denied(f"{name} is a manager, which is left alone")
    return found


def _node(read: Read, name: str, body: Any) -> dict[str, Any]:
    """A worker: whether it takes tasks, the label that says who decided so, and once, which server it is."""
    spec = _worker(read, name)["Spec"]
    labels, availability = _labels(body), body.get("Availability")
    if availability not in ("active", "drain"):
        raise Denied("a node is active or drained")
    kept = {key: value for key, value in (spec.get("Labels") or {}).items() if key != SCALED_LABEL}
    ours = {SCALED_LABEL: labels[SCALED_LABEL]} if labels.get(SCALED_LABEL, "").isdigit() else {}
    if labels.get(SERVER_LABEL) and SERVER_LABEL not in kept:
        ours[SERVER_LABEL] = labels[SERVER_LABEL]
    return {**spec, "Labels": {**kept, **ours}, "Availability": availability}


def _service(read: Read, name: str, body: Any) -> dict[str, Any]:
    """The engines: how many there are."""
    found = read(f"/services/{ENGINE}")
    if found["ID"] != name:
        raise Denied(f"no service but {ENGINE} may be changed")
    try:
        replicas = body["Mode"]["Replicated"]["Replicas"]
    except (KeyError, TypeError) as error:
        raise Denied("the number of engines is missing") from error
    if not isinstance(replicas, int) or isinstance(replicas, bool) or not 0 < replicas <= _MOST:
        raise Denied(f"{replicas!r} is no number of engines")
    if "Replicated" not in (found["Spec"].get("Mode") or {}):
        raise Denied("the engines are not counted: their service runs on every node")
    return {**found["Spec"], "Mode": {"Replicated": {"Replicas": replicas}}}


class _Engine(http.client.HTTPConnection):
    """The engine's socket."""

    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("docker", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _sent(path: str, version: str, call: Call, *, seconds: float = _SECONDS) -> tuple[_Engine, http.client.HTTPResponse]:
    connection = _Engine(path, seconds)
    query = f"?{urlencode(call.query)}" if call.query else ""
    text = None if call.body is None else json.dumps(call.body)
    headers = {} if text is None else {"Content-Type": "application/json"}
    connection.request(call.method, f"{version}{call.path}{query}", text, headers)
    return connection, connection.getresponse()


def _more(answer: http.client.HTTPResponse) -> bytes:
    """Return what comes next; nothing when the engine has told all, has gone, or was silent for long."""
    try:
        return answer.read1(65536)
    except (OSError, http.client.HTTPException):
        return b""


class Guard(ThreadingHTTPServer):
    """The server.

    :param engine: path of the engine's socket.
    :param port: 0 takes any that is free.
    """

    def __init__(self, engine: str = SOCKET, *, port: int = PORT, address: str = "") -> None:
        self.engine = engine
        super().__init__((address, port), _Request)


class _Request(BaseHTTPRequestHandler):
    server: Guard
    protocol_version = "HTTP/1.1"
    server_version = "guard"
    sys_version = ""
    timeout = 300

    def do_GET(self) -> None:
        self._handle()

    def do_HEAD(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_DELETE(self) -> None:
        self._handle()

    def _handle(self) -> None:
        whole = urlsplit(self.path)
        parted = re.fullmatch(r"(/v[0-9]+\.[0-9]+)?(/.*)", whole.path)
        version, path = (parted.group(1) or "", parted.group(2)) if parted else ("", "")
        query = {key: values[-1] for key, values in parse_qs(whole.query).items()}
        connection = None
        try:
            call = admitted(self.command, path, query, self._body(), lambda name: self._read(version, name))
            seconds = _STREAM if path == "/events" else _SECONDS
            connection, answer = _sent(self.server.engine, version, call, seconds=seconds)
            self._pass(answer)
        except Denied as error:
            sys.stderr.write(f"Refused: {error}\n")
            self._say(403, str(error))
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            self._say(502, f"the engine does not answer: {error}")
        finally:
            if connection:
                connection.close()

    def _body(self) -> Any:
        size = int(self.headers.get("Content-Length") or 0)
        if size > _LARGEST:
            raise Denied(f"a body of {size} bytes is too large")
        text = self.rfile.read(size)
        try:
            return json.loads(text) if text else None
        except ValueError as error:
            raise Denied("the body is no JSON") from error

    def _read(self, version: str, path: str) -> Any:
        connection, answer = _sent(self.server.engine, version, Call("GET", path, {}))
        try:
            if answer.status != 200:
                raise Denied(f"{path} cannot be read: {answer.status}")
            return json.loads(answer.read())
        finally:
            connection.close()

    def _pass(self, answer: http.client.HTTPResponse) -> None:
        """Hand an answer on as it comes: the engine's events are one that does not end."""
        self.send_response(answer.status)
        for name in ("Content-Type", "Api-Version", "Docker-Experimental"):
            if answer.headers.get(name):
                self.send_header(name, answer.headers[name])
        # The SDK hears of what comes in chunks as it comes; anything else it reads to its end first.
        chunked = bool(answer.chunked)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        # Whichever of the two has gone: the answer ends here.
        with contextlib.suppress(OSError, http.client.HTTPException):
            while self.command != "HEAD":
                part = _more(answer)
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
                self.wfile.flush()
                if not part:
                    return

    def _say(self, status: int, text: str) -> None:
        self.close_connection = True
        body = json.dumps({"message": text}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """What is refused is told; a line for each look would tell nothing."""


def main() -> None:
    """Stand before the engine's socket until told to end."""
    Guard().serve_forever()


if __name__ == "__main__":
    main()
