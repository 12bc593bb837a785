# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the cloud says when this host cannot run it, how it keeps clear of other clouds, and what its proxy does to a call."""

from __future__ import annotations

import http.client
import json
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Iterator

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "cloud"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "lab"))

from cloudkit import cli, config, database, environment
from cloudkit.cloud import Cloud
from cloudkit.config import SERVICES, Paths
from cloudkit.proxy import Proxy
from labkit.say import LabError


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("LLM_CLOUD_CACHE", str(tmp_path / "cache"))
    made = Paths(tmp_path)
    made.state.mkdir(parents=True)
    return made


# -- what is missing --


def test_a_missing_database_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database.shutil, "which", lambda *_a, **_k: None)
    with pytest.raises(LabError, match=r"^mariadbd is missing: install the package mariadb-server-core \(apt-get install"):
        database.program()


def test_an_old_python_is_refused_before_anything_is_made(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "OLDEST", (9, 0))
    with pytest.raises(LabError, match=r"is too old for the cloud: run it with 9\.0 or newer"):
        environment.build(paths)
    assert not paths.cache.exists()


def test_a_cloud_that_was_never_up_says_so(paths: Paths) -> None:
    with pytest.raises(LabError, match=r"was never up: run tests/cloud/cloud up"):
        config.known_ports(paths)


def test_a_cloud_that_is_down_cannot_be_reset(paths: Paths) -> None:
    with pytest.raises(LabError, match=r"The cloud is down: run tests/cloud/cloud up first"):
        Cloud(paths).reset()


def test_two_commands_at_once_are_told_apart(paths: Paths) -> None:
    with paths.lock(), pytest.raises(LabError, match="Another command is starting or stopping"), paths.lock():
        pass


def test_an_error_of_the_command_is_one_sentence(capsys: pytest.CaptureFixture[str], paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloudkit.cloud.Paths", lambda: paths)
    assert cli.main(["reset"]) == 1
    assert capsys.readouterr().err == "cloud: The cloud is down: run tests/cloud/cloud up first.\n"


# -- two checkouts --


def test_two_checkouts_have_other_ports_and_sockets(tmp_path: Path) -> None:
    one, two = Paths(tmp_path / "one"), Paths(tmp_path / "two")
    assert one.socket != two.socket
    for place in (one, two):
        place.state.mkdir(parents=True)
    assert not set(config.choose_ports(one).values()) & set(config.choose_ports(two).values())


def test_a_port_in_use_moves_the_whole_block(paths: Paths) -> None:
    first = config.choose_ports(paths)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first["glance"]))
        taken.listen()
        second = config.choose_ports(paths)
    assert not set(first.values()) & set(second.values())
    assert config.known_ports(paths) == second


def test_the_socket_is_short_however_deep_the_checkout() -> None:
    assert len(str(Paths(Path("/", *["deep"] * 60)).socket)) < 107


def test_a_snapshot_comes_up_with_the_ports_of_this_cloud() -> None:
    script = database._catalogue({service.name: 23450 + number for number, service in enumerate(SERVICES)})
    assert script.count("\n") == len(SERVICES)
    assert "set e.url = 'http://127.0.0.1:23452/v2.1' where s.type = 'compute';" in script


# -- the proxy --


class _Upstream(BaseHTTPRequestHandler):
    seen: list[tuple[str, str, bytes]]

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append((self.command, self.path, body))
        answer = json.dumps({"server": {"id": "1", "host": self.headers["Host"]}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = _answer  # noqa: N815 - the names the base class calls

    def log_message(self, *_args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def upstream() -> Iterator[ThreadingHTTPServer]:
    handler = type("Handler", (_Upstream,), {"seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def proxy(upstream: ThreadingHTTPServer) -> Iterator[Proxy]:
    made = Proxy({service.name: upstream.server_address[1] for service in SERVICES})
    yield made
    made.close()


def _ask(proxy: Proxy, method: str = "GET", path: str = "/v2.1/servers/1", body: str | None = None) -> tuple[int, dict[str, str], Any]:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.ports["nova"], timeout=20)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), json.loads(answer.read())
    finally:
        connection.close()


def test_a_call_goes_through_as_if_the_service_listened_here(proxy: Proxy) -> None:
    with proxy.count() as calls:
        status, _headers, body = _ask(proxy)
    assert (status, body["server"]["host"]) == (200, f"127.0.0.1:{proxy.ports['nova']}")
    assert [(call.service, call.method, call.path, call.status, call.writes) for call in calls] == [
        ("compute", "GET", "/v2.1/servers/1", 200, False)
    ]


def test_a_fault_takes_as_many_calls_as_it_was_told(proxy: Proxy, upstream: ThreadingHTTPServer) -> None:
    proxy.inject("compute", "GET", "/servers/", status=429, headers={"Retry-After": "7"}, times=2)
    answers = [_ask(proxy) for _call in range(3)]
    assert [status for status, _headers, _body in answers] == [429, 429, 200]
    assert answers[0][1]["Retry-After"] == "7"
    assert len(upstream.RequestHandlerClass.seen) == 1


@pytest.mark.parametrize(("passed", "arrived"), [(True, 1), (False, 0)])
def test_a_cut_call_arrives_or_not(proxy: Proxy, upstream: ThreadingHTTPServer, passed: bool, arrived: int) -> None:
    proxy.inject("compute", "POST", "/servers", status=0, passed=passed)
    with pytest.raises(http.client.RemoteDisconnected):
        _ask(proxy, "POST", "/servers", "{}")
    assert len(upstream.RequestHandlerClass.seen) == arrived


def test_a_hanging_call_is_let_go_with_the_test(proxy: Proxy) -> None:
    fault = proxy.inject("compute", "GET", "/", hangs=True)
    ended: list[BaseException] = []

    def ask() -> None:
        try:
            _ask(proxy)
        except http.client.RemoteDisconnected as error:
            ended.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    while not fault.hits:
        pass
    assert asking.is_alive()
    proxy.clear()
    asking.join(20)
    assert len(ended) == 1


def test_bodies_are_altered_both_ways(proxy: Proxy, upstream: ThreadingHTTPServer) -> None:
    def tagless(body: Any) -> Any:
        del body["tags"]
        return body

    def vendor(body: Any) -> Any:
        body["server"]["status"] = "EXPIRED"
        return body

    proxy.inject("compute", "POST", "/servers", request=tagless, response=vendor)
    _status, _headers, body = _ask(proxy, "POST", "/servers", '{"name": "gpu1", "tags": ["preemptible"]}')
    assert body["server"]["status"] == "EXPIRED"
    assert json.loads(upstream.RequestHandlerClass.seen[0][2]) == {"name": "gpu1"}
