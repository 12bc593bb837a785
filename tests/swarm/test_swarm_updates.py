# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every service is rolled while clients ask: none of them notices with two edges, and with one the gap is short."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any, Callable, Iterator

import pytest
from labkit.lab import Lab
from labkit.play import Outcome
from places import MANAGER, WORKERS

Docker = Callable[[str], str]
Run = Callable[..., Outcome]
Load = Callable[..., "subprocess.Popen[str]"]
pytestmark = pytest.mark.long
SERVICES = ("llm_balancer", "llm_engine", "llm_edge")


def rolled(docker: Docker, load: Load, service: str, edges: tuple[str, ...]) -> dict[str, Any]:
    """What became of the requests while a service was replaced, as its own policy says."""
    clients = load(clients=8, seconds=240, first_token=0.2, edges=edges)
    time.sleep(2)
    try:
        docker(f"service update --quiet --force --detach=false {service}")
    finally:
        time.sleep(2)
        clients.terminate()
        said: dict[str, Any] = json.loads(clients.communicate(timeout=120)[0])
    print(f"{service} rolled with {len(edges)} edges: {said}")
    assert sum(said["engines"].values()) > 50
    return said


@pytest.mark.parametrize("service", SERVICES)
def test_with_one_edge_a_rolled_service_is_away_for_a_moment(service: str, converged: Lab, docker: Docker, load: Load) -> None:
    said = rolled(docker, load, service, (MANAGER,))
    assert said["gap"] <= 2.0
    if service == "llm_engine":
        assert said["failures"] == []


@pytest.fixture(scope="module")
def two_edges(converged: Lab, run: Run) -> Iterator[tuple[str, ...]]:
    """Edge and balancer on two machines."""
    assert run("services", llm_services_constraints=[f"node.hostname != {WORKERS[-1]}"]).status == 0
    yield (MANAGER, WORKERS[0])
    assert run("services").status == 0


@pytest.mark.parametrize("service", SERVICES)
def test_with_two_edges_no_request_fails(service: str, two_edges: tuple[str, ...], docker: Docker, load: Load) -> None:
    assert rolled(docker, load, service, two_edges)["failures"] == []
