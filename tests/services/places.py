# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The services on the loopback interface, and where their parts are."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from ports import free_port

ROOT = Path(__file__).resolve().parents[2]
CHAT = ROOT / "roles" / "llm_services" / "files" / "chat"
NUMBERED = ROOT / "tests" / "standins" / "numbered.py"
CHROMA = ROOT / ".venv-chroma" / "bin" / "chroma"
BIN = Path(sys.executable).parent
SCREENSHOTS = ROOT / "build" / "screenshots"


class Processes:
    """Programs started for a test, ended by their own ids, last one first."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, argv: list[str], port: int, **environment: str) -> subprocess.Popen[bytes]:
        """Start a program and wait until it listens."""
        log = self.place / f"{name}.log"
        with log.open("ab") as sink:
            env = {**os.environ, "PYTHONPATH": str(CHAT), "PYTHONDONTWRITEBYTECODE": "1", **environment}
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=env, cwd=self.place)
        self.started.append(process)
        for _attempt in range(1200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return process
            if process.poll() is not None:
                break
            time.sleep(0.1)
        pytest.fail(f"{name} does not listen on port {port}: {log.read_text()[-3000:]}")

    def end(self) -> None:
        """End them all."""
        for process in reversed(self.started):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
                try:
                    process.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


class Api:
    """The chat service under gunicorn, as in its image."""

    def __init__(self, processes: Processes, llm: str, **settings: Any) -> None:
        self.port, self.status = free_port(), free_port()
        environment = {"LLM_URL": llm, "LLM_MODEL": "numbered", "PORT": str(self.port), "STATUS_PORT": str(self.status)}
        environment.update({name: str(value) for name, value in settings.items()})
        argv = [str(BIN / "gunicorn"), "--config", "python:rag_chat_api.serve", "rag_chat_api.app:create_app()"]
        self.process = processes.start(f"api-{self.port}", argv, self.port, **environment)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=120, trust_env=False)
        # gunicorn listens before its worker has loaded the application.
        self.client.get("/openapi.json", timeout=300).raise_for_status()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"


def events(answer: httpx.Response) -> list[tuple[str, str]]:
    """Every event of a stream as name and data; a comment has the name ``:``."""
    found = []
    for block in answer.text.split("\n\n"):
        fields = dict(line.split(":", 1) if not line.startswith(":") else (":", line[1:]) for line in block.split("\n") if line)
        if fields:
            name = ":" if ":" in fields else fields.get("event", "").strip()
            found.append((name, fields.get(":", fields.get("data", "")).strip()))
    return found
