# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guard before the engine's socket: what passes, what of it, and everything else refused."""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Iterator

import pytest
import urllib3
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._autoscale.guard import Call, Denied, Guard, admitted
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._autoscale.listen import Events
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.model import SCALED_LABEL
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.client import EngineError, SdkApi, sdk
from autokit import Site
from standin_swarm import node_of

WORKER = {"Spec": {"Role": "worker", "Availability": "active", "Labels": {"gpu": "true"}}}
OBJECTS: dict[str, Any] = {
    "/nodes/w1": WORKER,
    "/nodes/m1": {"Spec": {"Role": "manager", "Availability": "active", "Labels": {}}},
    "/configs/llm-stack-state": {"ID": "c1", "Spec": {"Name": "llm-stack-state", "Data": "eA==", "Labels": {"a": "b"}}},
    "/services/llm_engine": {"ID": "s1", "Spec": {"Name": "llm_engine", "Mode": {"Replicated": {"Replicas": 2}}, "TaskTemplate": {"x": 1}}},
}
STATE = {"Name": "llm-stack-state", "Labels": {"llm-stack.lock": "{}"}}


def ask(method: str, path: str, body: Any = None, **query: str) -> Call:
    return admitted(method, path, query, body, lambda name: OBJECTS[name])


READS = ["_ping", "version", "info", "nodes", "nodes/w1", "tasks", "events", "services/llm_engine", "configs/llm-stack-state"]


@pytest.mark.parametrize("path", READS)
def test_what_is_read_passes(path: str) -> None:
    assert ask("GET", f"/{path}", filters="{}") == Call("GET", f"/{path}", {"filters": "{}"})


REFUSED: list[tuple[str, str, Any]] = [
    *(
        ("GET", path, None)
        for path in ("/containers/json", "/secrets", "/configs", "/configs/other", "/services", "/swarm", "/swarm/unlockkey")
    ),
    *(("GET", path, None) for path in ("/nodes/../secrets", "/nodes/W1", "//nodes", "/images/json", "/services/other", "")),
    ("POST", "/containers/create", {"Image": "x"}),
    ("POST", "/services/create", {"Name": "x"}),
    ("POST", "/swarm/update", {}),
    ("POST", "/nodes/m1/update", {"Availability": "drain", "Labels": {}}),
    ("POST", "/nodes/w1/update", {"Availability": "pause", "Labels": {}}),
    ("POST", "/nodes/w1/update", {"Availability": "drain", "Labels": {"a": 1}}),
    ("POST", "/nodes/w1/update", None),
    ("DELETE", "/nodes/m1", None),
    ("DELETE", "/services/llm_engine", None),
    ("DELETE", "/configs/c1", None),
    ("POST", "/configs/create", {"Name": "other", "Labels": {}}),
    ("POST", "/configs/c2/update", STATE),
    ("POST", "/services/s2/update", {"Mode": {"Replicated": {"Replicas": 1}}}),
    *(("POST", "/services/s1/update", {"Mode": {"Replicated": {"Replicas": many}}}) for many in (0, -1, 1001, True, "2", None)),
    ("POST", "/services/s1/update", {"Mode": {"Global": {}}}),
    ("POST", "/services/s1/update/x", {"Mode": {"Replicated": {"Replicas": 1}}}),
    ("PUT", "/nodes/w1", None),
]


@pytest.mark.parametrize(("method", "path", "body"), REFUSED)
def test_all_else_is_refused(method: str, path: str, body: Any) -> None:
    with pytest.raises(Denied):
        ask(method, path, body, version="7")


def test_of_a_change_only_the_one_thing_passes() -> None:
    evil = {
        "TaskTemplate": {"ContainerSpec": {"Mounts": ["/"]}},
        "Name": "x",
        "Mode": {"Replicated": {"Replicas": 5}},
        "mode": {"Global": {}},
    }
    sent = ask("POST", "/services/s1/update", evil, version="7", rollback="previous")
    assert sent == Call(
        "POST",
        "/services/s1/update",
        {"version": "7"},
        {"Name": "llm_engine", "Mode": {"Replicated": {"Replicas": 5}}, "TaskTemplate": {"x": 1}},
    )
    node = {
        "Role": "manager",
        "role": "manager",
        "Name": "x",
        "Availability": "drain",
        "Labels": {SCALED_LABEL: "1764000000", "gpu": "false", "own": "1"},
    }
    sent = ask("POST", "/nodes/w1/update", node, version="7")
    assert sent.body == {"Role": "worker", "Availability": "drain", "Labels": {"gpu": "true", SCALED_LABEL: "1764000000"}}
    assert ask("POST", "/nodes/w1/update", {"Availability": "active", "Labels": {"llm-stack.server": "s"}}, version="7").body["Labels"] == {
        "gpu": "true",
        "llm-stack.server": "s",
    }
    sent = ask("POST", "/configs/c1/update", {"Name": "other", "Data": "ZXZpbA==", "Labels": {"c": "d"}}, version="7")
    assert sent.body == {"Name": "llm-stack-state", "Data": "eA==", "Labels": {"c": "d"}}
    assert ask("DELETE", "/nodes/w1", None, force="true") == Call("DELETE", "/nodes/w1", {})
    made = ask("POST", "/configs/create", {**STATE, "Data": "ZXZpbA==", "Templating": {}})
    assert set(made.body) == {"Name", "Data", "Labels"}
    assert made.body["Data"] != "ZXZpbA=="


def test_an_update_names_the_version_that_was_read() -> None:
    with pytest.raises(Denied, match="version that was read"):
        ask("POST", "/configs/c1/update", STATE)


# -- through it ------------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def guarded(socket: str) -> Iterator[str]:
    """Run a guard; its address."""
    with Guard(socket, port=0, address="127.0.0.1") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_the_autoscaler_does_all_of_its_work_through_it(site: Site) -> None:
    """Restores, scales out and in, forgets a node: with the real SDK, and no other way to the engine."""
    before = site.servers()
    zone = site.cloud.servers[before["gpu1"]]["OS-EXT-AZ:availability_zone"]
    site.cloud.interrupt(before["gpu1"])
    site.cloud.room = {zone: 0}
    with guarded(str(site.swarm.path)) as url:
        autoscaler = site.autoscaler(url=url)
        site.load(0.95)
        site.pass_time(autoscaler, 300)
        assert sorted(site.servers()) == ["gpu1", "gpu2", "gpu3"]
        site.load(0.05)
        site.pass_time(autoscaler, 700)
        assert sorted(site.servers()) == ["gpu1", "gpu2"]
    assert {node["ID"] for node in site.swarm.nodes()} == {node_of(server) for server in site.cloud.servers}
    assert site.swarm.replicas == 2
    assert not [one for one in site.said if one["event"] == "blind"]


def test_events_come_through_it(site: Site) -> None:
    with guarded(str(site.swarm.path)) as url:
        assert list(SdkApi(*sdk(url)).events(["node", "service"])) == [{"Type": "node", "Action": "update"}]
    assert json.loads(site.swarm.wrote[-1]) == {"type": ["node", "service"]}


class Telling(socketserver.ThreadingUnixStreamServer):
    """An engine that tells of one event at once, as Docker does, in chunks, and of the next when it is let."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.go_on = threading.Event()
        super().__init__(str(path), _Told)


class _Told(BaseHTTPRequestHandler):
    server: Telling
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        if not self.path.endswith("/events") and "/events?" not in self.path:
            body = json.dumps({"ApiVersion": "1.45", "MinAPIVersion": "1.24"}).encode()
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in (1, 2):
            line = json.dumps({"Type": "node", "number": number}).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.flush()
            self.server.go_on.wait(20)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        return


@contextlib.contextmanager
def telling(place: Path) -> Iterator[Telling]:
    with Telling(place / "docker.sock") as engine:
        thread = threading.Thread(target=engine.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield engine
        finally:
            engine.go_on.set()
            engine.shutdown()
            thread.join()


def test_an_event_comes_through_it_when_it_happens(tmp_path: Path) -> None:
    """Not when the stream ends, two minutes later, as one text that is no JSON."""
    with telling(tmp_path) as engine, guarded(str(tmp_path / "docker.sock")) as url:
        heard = SdkApi(*sdk(url)).events(["node"])
        assert next(heard)["number"] == 1
        assert not engine.go_on.is_set()
        engine.go_on.set()
        assert [one["number"] for one in heard] == [2]


class Broken:
    """A client whose stream breaks as the library beneath the SDK tells of it."""

    def events(self, **_options: Any) -> Iterator[dict[str, Any]]:
        yield {"Type": "node"}
        raise urllib3.exceptions.ProtocolError("Connection broken: ConnectionResetError(104, 'Connection reset by peer')")


def test_a_stream_of_events_that_breaks_is_told_and_can_be_begun_anew(site: Site) -> None:
    """An error that nobody knows would end whoever listens, and nobody would be told."""
    heard: list[str] = []
    _client, errors = sdk(site.swarm.url)
    events = Events(lambda: SdkApi(Broken(), errors).events(["node"]), call=heard.append)
    events.once()
    assert (heard, "Connection reset by peer" in events.error) == (["docker"], True)


def test_a_refusal_is_told_as_the_engine_tells_one(site: Site) -> None:
    with guarded(str(site.swarm.path)) as url:
        api = SdkApi(*sdk(url))
        with pytest.raises(EngineError, match="is not among what the autoscaler may ask of the engine") as refused:
            api.swarm()
        assert refused.value.status == 403
        host, _colon, port = url.rpartition("//")[2].partition(":")
        connection = HTTPConnection(host, int(port), timeout=10)
        connection.request("POST", "/v1.45/configs/create", b"no JSON", {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["message"]) == (403, "the body is no JSON")
        connection.close()


def test_without_an_engine_it_says_so(tmp_path: Any) -> None:
    with guarded(str(tmp_path / "nothing.sock")) as url, pytest.raises(EngineError, match="the engine does not answer"):
        sdk(url)
