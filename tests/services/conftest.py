# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the services stand on, started once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Iterator

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "roles" / "llm_services" / "files" / "chat"), str(HERE.parent / "unit" / "llm_services")]

from loopback import program  # noqa: E402 - importable after the line above
from places import CHROMA, NUMBERED, Api, Processes  # noqa: E402
from ports import free_port  # noqa: E402
from services import render  # noqa: E402

# Where each balancer looks keys up.
KEYS: dict[str, str] = {}


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Everything started is ended."""
    made = Processes(tmp_path_factory.mktemp("services"))
    yield made
    made.end()


@pytest.fixture(scope="session")
def balancer(processes: Processes) -> str:
    """The role's own HAProxy configuration before three engines that number their tokens; its address."""
    ports = [free_port() for _number in range(3)]
    for port in ports:
        processes.start(f"engine-{port}", [sys.executable, str(NUMBERED), str(port)], port)
    return balanced(processes, ports)


def balanced(processes: Processes, ports: list[int]) -> str:
    """A balancer before engines; its address."""
    front, keys = free_port(), free_port()
    inner = {"__llm_services_balancer_port": front, "__llm_services_metrics_port": free_port(), "__llm_services_keys_port": keys}
    (processes.place / "edge_keys").write_text(render("edge-keys.map.j2"))
    KEYS[f"http://127.0.0.1:{front}"] = f"127.0.0.1:{keys}"
    text = render(
        "haproxy.cfg.j2",
        llm_services_engine="llamacpp",
        __llm_services_servers=[f"127.0.0.1:{port}" for port in ports],
        llm_services_parallel=64,
        **inner,
    )
    path = processes.place / f"haproxy-{front}.cfg"
    path.write_text(text.replace("bind :", "bind 127.0.0.1:").replace("/run/secrets", str(processes.place)))
    processes.start(f"haproxy-{front}", [program("haproxy", "haproxy"), "-W", "-db", "-f", str(path)], front)
    return f"http://127.0.0.1:{front}"


@pytest.fixture(scope="session")
def chroma(processes: Processes) -> str:
    """A real Chroma; its address."""
    port = free_port()
    place = processes.place / "chroma"
    processes.start("chroma", [str(CHROMA), "run", "--path", str(place), "--host", "127.0.0.1", "--port", str(port)], port)
    return f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def api(processes: Processes, balancer: str, chroma: str) -> Api:
    """The chat service before all of these."""
    settings = {
        "HEARTBEAT_S": "0.5",
        "SILENCE_S": "1",
        "PATIENCE_S": "20",
        "WIDGET_DOMAINS": "localhost,*.example.org",
        "WIDGET_DAILY": "3",
    }
    return Api(processes, balancer, CHROMA_URL=chroma, UPLOAD_BYTES=str(2 * 1024 * 1024), **settings)
