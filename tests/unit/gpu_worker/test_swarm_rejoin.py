# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""llm-swarm-rejoin as it is installed, against an engine's socket: what a machine does by itself when it boots."""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Iterator

import pytest
from programs import load

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = ROOT / "roles" / "gpu_worker" / "files" / "llm-swarm-rejoin"
CERTIFICATE = (ROOT / "tests" / "unit" / "swarm" / "recorded" / "worker-26.1.5.crt").read_text()
CLUSTER = "dwtoswfw9wg0d9zjikvxqcbyk"
TOKEN = "SWMTKN-1-only-in-this-test"
JOIN = {"manager": "10.77.0.21:2377", "cluster_id": CLUSTER, "token": TOKEN, "expires": "2999-01-01T00:00:00Z"}


rejoin = load(PROGRAM)


@dataclass
class Engine:
    """An engine's socket and what it was asked."""

    root: Path
    state: str = "inactive"
    error: str = ""
    manager: bool = False
    # What it answers to a join, and what it is then.
    refusal: str = ""
    becomes: str = "active"
    calls: list[tuple[str, Any]] = field(default_factory=list)

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        if path == "/info":
            swarm = {"LocalNodeState": self.state, "NodeID": "n1", "Error": self.error, "ControlAvailable": self.manager}
            return 200, {"DockerRootDir": str(self.root), "Swarm": swarm}
        self.calls.append((path, body))
        if path == "/swarm/leave":
            self.state = "inactive"
            return 200, {}
        if self.refusal and "Timeout" not in self.refusal:
            return 503, {"message": self.refusal}
        self.state = self.becomes
        return (503, {"message": self.refusal}) if self.refusal else (200, {})


class Handler(BaseHTTPRequestHandler):
    """The engine's API."""

    engine: Engine

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, found = self.engine.answer(self.path, json.loads(body) if body and body != b"null" else None)
        text = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        return


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    found = Engine(tmp_path)
    (tmp_path / "swarm" / "certificates").mkdir(parents=True)
    (tmp_path / "swarm" / "certificates" / "swarm-node.crt").write_text(CERTIFICATE)
    with socketserver.UnixStreamServer(str(tmp_path / "docker.sock"), type("Bound", (Handler,), {"engine": found})) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        server.shutdown()
        thread.join()


@pytest.fixture
def places(tmp_path: Path) -> Any:
    return rejoin.Places(tmp_path / "daemon.json", tmp_path / "join.json", str(tmp_path / "docker.sock"), wait=0.0, pause=0.0)


def give(places: Any, **changes: Any) -> None:
    """Put a file beside the engine that says how to join."""
    places.join.write_text(json.dumps({**JOIN, **changes}))
    places.join.chmod(0o600)


def test_a_restored_node_is_left_alone(engine: Engine, places: Any, capsys: pytest.CaptureFixture[str]) -> None:
    engine.state = "active"
    assert rejoin.main(["join"], places) == 0
    assert engine.calls == []
    assert capsys.readouterr().out == "This machine is the node n1 of its swarm.\n"


def test_a_machine_that_was_never_asked_to_join(engine: Engine, places: Any) -> None:
    assert rejoin.main(["join"], places) == 0
    assert engine.calls == []


def test_a_golden_image_joins_and_uses_its_token_once(engine: Engine, places: Any, capsys: pytest.CaptureFixture[str]) -> None:
    give(places, advertise_address="10.77.0.32")
    assert rejoin.main(["join"], places) == 0
    request = {"ListenAddr": "0.0.0.0:2377", "RemoteAddrs": ["10.77.0.21:2377"], "JoinToken": TOKEN, "AdvertiseAddr": "10.77.0.32"}
    assert engine.calls == [("/swarm/join", request)]
    assert not places.join.exists()
    assert rejoin.main(["join"], places) == 0
    assert len(engine.calls) == 1
    assert TOKEN not in "".join(capsys.readouterr())


def test_a_slow_join_is_waited_for(engine: Engine, places: Any) -> None:
    give(places)
    engine.refusal = "Timeout was reached before node joined."
    assert rejoin.main(["join"], places) == 0
    assert not places.join.exists()


@pytest.mark.parametrize("state", ["error", "pending", "locked"])
def test_a_broken_membership_is_left_first(engine: Engine, places: Any, state: str) -> None:
    give(places)
    engine.state = state
    assert rejoin.main(["join"], places) == 0
    assert [path for path, _body in engine.calls] == ["/swarm/leave", "/swarm/join"]


def test_another_swarm_is_left_first(engine: Engine, places: Any, capsys: pytest.CaptureFixture[str]) -> None:
    give(places, cluster_id="another")
    engine.state = "active"
    assert rejoin.main(["join"], places) == 1
    assert [path for path, _body in engine.calls] == ["/swarm/leave", "/swarm/join", "/swarm/leave"]
    assert f"10.77.0.21:2377 belongs to the swarm {CLUSTER}, not to another, so this machine has left it." in capsys.readouterr().err
    assert places.join.exists()


FAILURES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"expires": "2020-01-01T00:00:00Z"}, "could be used until 2020-01-01T00:00:00Z, so it was removed. Run the playbook workers"),
    ({}, {"expires": "tomorrow"}, "its time is not written as 2026-12-01T12:00:00Z"),
    ({}, {"expires": None}, "lacks expires"),
    ({}, {"token": 7}, "lacks token"),
    ({"manager": True, "state": "active"}, {"cluster_id": "another"}, f"is a manager of the swarm {CLUSTER}, not of another"),
    ({"refusal": "invalid join token"}, {}, "The engine refused POST /swarm/join: invalid join token."),
    ({"becomes": "pending", "error": "no route"}, {}, "This machine is pending after joining 10.77.0.21:2377: no route."),
]


@pytest.mark.parametrize(("state", "asked", "text"), FAILURES, ids=[text[:40] for _state, _asked, text in FAILURES])
def test_what_cannot_be_joined_is_said(
    engine: Engine, places: Any, capsys: pytest.CaptureFixture[str], state: dict[str, Any], asked: dict[str, Any], text: str
) -> None:
    give(places, **asked)
    for name, value in state.items():
        setattr(engine, name, value)
    assert rejoin.main(["join"], places) == 1
    said = capsys.readouterr().err
    assert text in said
    assert TOKEN not in said
    assert [path for path, _body in engine.calls if path == "/swarm/join"] == (
        ["/swarm/join"] if "joining" in text or "refused" in text else []
    )


def test_a_join_file_that_others_can_read(engine: Engine, places: Any, capsys: pytest.CaptureFixture[str]) -> None:
    give(places)
    places.join.chmod(0o644)
    assert rejoin.main(["join"], places) == 1
    assert "others than root may read it" in capsys.readouterr().err
    assert engine.calls == []


def test_a_broken_membership_without_a_way_to_join(engine: Engine, places: Any, capsys: pytest.CaptureFixture[str]) -> None:
    engine.state, engine.error = "error", "certificate expired"
    assert rejoin.main(["join"], places) == 1
    assert "membership is error (certificate expired)" in capsys.readouterr().err
    assert engine.calls == []


def test_an_engine_that_does_not_answer(places: Any, capsys: pytest.CaptureFixture[str]) -> None:
    give(places)
    assert rejoin.main(["join"], places) == 1
    assert "The engine does not answer on" in capsys.readouterr().err
    assert places.join.exists()


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an nvidia-smi that prints the file ``gpus``."""
    (tmp_path / "gpus").write_text("GPU-a\n")
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat {tmp_path}/gpus\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def held(places: Any) -> Any:
    return json.loads(places.daemon.read_text())


def test_a_restored_server_with_other_gpus_advertises_those(driver: Path, places: Any) -> None:
    places.daemon.write_text('{"debug": true, "node-generic-resources": ["FPGA=f", "GPU=GPU-old"]}')
    places.daemon.chmod(0o640)
    assert rejoin.main(["gpus"], places) == 0
    assert held(places) == {"debug": True, "node-generic-resources": ["FPGA=f", "GPU=GPU-a"]}
    assert places.daemon.stat().st_mode & 0o777 == 0o640
    before = places.daemon.stat().st_mtime_ns
    assert rejoin.main(["gpus"], places) == 0
    assert places.daemon.stat().st_mtime_ns == before


def test_a_golden_image_advertises_its_gpus_before_it_joins(driver: Path, places: Any) -> None:
    assert rejoin.main(["gpus"], places) == 0
    assert not places.daemon.exists()
    give(places)
    assert rejoin.main(["gpus"], places) == 0
    assert held(places) == {"node-generic-resources": ["GPU=GPU-a"]}


def test_a_driver_that_does_not_answer_changes_nothing(driver: Path, places: Any, capsys: pytest.CaptureFixture[str]) -> None:
    places.daemon.write_text('{"node-generic-resources": ["GPU=GPU-old"]}')
    (driver / "gpus").unlink()
    assert rejoin.main(["gpus"], places) == 1
    assert "so the GPUs advertised stay as they are" in capsys.readouterr().err
    assert held(places) == {"node-generic-resources": ["GPU=GPU-old"]}


def test_settings_that_are_no_json_are_left(driver: Path, places: Any) -> None:
    places.daemon.write_text("{")
    give(places)
    assert rejoin.main(["gpus"], places) == 1
    assert places.daemon.read_text() == "{"


def test_it_is_a_program() -> None:
    ended = subprocess.run([sys.executable, "-B", str(PROGRAM)], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (2, "usage: llm-swarm-rejoin gpus|join\n")
