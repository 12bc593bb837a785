# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The chain edge -> balancer -> engines on the loopback interface: real nginx and HAProxy, stand-ins for the engines."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from services import KEY, render

OLLAMA = Path(__file__).resolve().parents[2] / "standins" / "ollama" / "ollama.py"
AUTHORIZED = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
QUESTION = {"model": "tiny", "messages": [{"role": "user", "content": "Are you there?"}]}


def program(name: str, package: str) -> str:
    """Path of a program, or a failure that names the package: a rung that cannot run has not passed."""
    found = shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        pytest.fail(f"{name} is not installed, so the configuration cannot be tried: apt-get install {package}")
    return str(found)


def until_open(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until something listens."""
    for _attempt in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on port {port}: {log.read_text()}")


class Chain:
    """Two engines behind a balancer behind an edge. Ends exactly the processes it started.

    :param environment: settings of the engines.
    :param changes: variables of the role.
    """

    def __init__(self, place: Path, *, environment: dict[str, str] | None = None, engines: int = 2, **changes: Any) -> None:
        self.place = place
        self.started: list[subprocess.Popen[bytes]] = []
        self.engines: list[subprocess.Popen[bytes]] = []
        self.port, self.native, self.balancer, self.keys = free_port(), free_port(), free_port(), free_port()
        try:
            self.ports = [self._engine(number, environment or {}) for number in range(engines)]
            self._balancer([f"127.0.0.1:{port}" for port in self.ports], changes)
            self._edge(changes)
            self._until_healthy()
        except BaseException:
            self.end()
            raise

    def _start(self, name: str, argv: list[str], port: int, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        log = self.place / f"{name}.log"
        with log.open("wb") as sink:
            started = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env={**os.environ, **(environment or {})})
        self.started.append(started)
        until_open(port, started, log)
        return started

    def _engine(self, number: int, environment: dict[str, str]) -> int:
        port = free_port()
        store = self.place / f"store{number}"
        settings = {"OLLAMA_HOST": f"127.0.0.1:{port}", "OLLAMA_MODELS": str(store), **environment}
        manifest = store / "manifests/registry.ollama.ai/library/tiny/latest"
        manifest.parent.mkdir(parents=True)
        manifest.write_text('{"layers": []}')
        self.engines.append(self._start(f"engine{number}", [sys.executable, str(OLLAMA), "serve"], port, settings))
        return port

    def _balancer(self, servers: list[str], changes: dict[str, Any]) -> None:
        ports = {
            "__llm_services_balancer_port": self.balancer,
            "__llm_services_metrics_port": free_port(),
            "__llm_services_keys_port": self.keys,
        }
        (self.place / "edge_keys").write_text(render("edge-keys.map.j2", **changes))
        text = render("haproxy.cfg.j2", __llm_services_servers=servers, **ports, **changes).replace("bind :", "bind 127.0.0.1:")
        text = text.replace("/run/secrets", str(self.place))
        path = self.place / "haproxy.cfg"
        path.write_text(text)
        self._start("haproxy", [program("haproxy", "haproxy"), "-W", "-db", "-f", str(path)], self.balancer)

    def _edge(self, changes: dict[str, Any]) -> None:
        path = edge_files(
            self.place,
            self.port,
            self.native,
            f"127.0.0.1:{self.balancer}",
            {"__llm_services_keys_server": f"127.0.0.1:{self.keys}", **changes},
        )
        self._start("nginx", [program("nginx", "nginx-light"), "-e", "stderr", "-c", str(path), "-g", "daemon off;"], self.port)

    def _until_healthy(self) -> None:
        for _attempt in range(100):
            if self.ask("GET", "/health").status == 200:
                return
            time.sleep(0.1)
        raise AssertionError((self.place / "haproxy.log").read_text())

    def open(self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None, native: bool = False) -> Any:
        """Send a request and return the answer when its head has come; its ``begun`` is when it was sent."""
        context = ssl.create_default_context(cafile=str(self.place / "tls.crt"))
        port = self.native if native else self.port
        connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=30)
        begun = time.monotonic()
        connection.request(method, path, json.dumps(body) if body is not None else None, headers or {})
        answer: Any = connection.getresponse()
        answer.begun, answer.connection = begun, connection
        return answer

    def ask(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """Send a request and return the answer with its ``text``."""
        answer = self.open(method, path, body, **more)
        answer.text = answer.read().decode()
        answer.connection.close()
        return answer

    def end(self) -> None:
        """End what was started, in the opposite order."""
        for process in reversed(self.started):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.started:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def edge_files(place: Path, port: int, native: int, balancer: str, changes: dict[str, Any]) -> Path:
    """Write the edge's files with paths below ``place`` and return the configuration's path."""
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    out = ["-keyout", str(place / "edge_tls_key"), "-out", str(place / "tls.crt")]
    subprocess.run([*request, *names, *out], check=True, capture_output=True)
    (place / "cache").mkdir()
    values = {"llm_services_edge_port": port, "llm_services_ollama_port": native, "__llm_services_balancer": balancer, **changes}
    text = render("nginx.conf.j2", **values)
    moves = {
        "user nginx;": "",
        "/tmp/nginx.pid": str(place / "nginx.pid"),
        "/var/cache/nginx": str(place / "cache"),
        "/run/secrets": str(place),
        "/etc/nginx/tls.crt": str(place / "tls.crt"),
        "127.0.0.1:8081": f"127.0.0.1:{free_port()}",
        f"listen {port}": f"listen 127.0.0.1:{port}",
        f"listen {native}": f"listen 127.0.0.1:{native}",
        "/dev/stdout": str(place / "access.log"),
        "/dev/stderr": str(place / "error.log"),
        "worker_processes 4": "worker_processes 1",
        "worker_connections 4096": "worker_connections 512",
    }
    for before, after in moves.items():
        text = text.replace(before, after)
    path = place / "nginx.conf"
    path.write_text(text)
    return path
