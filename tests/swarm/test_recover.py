# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""recover.yml on real engines."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest
from fleets import Docker, Fleet, fleet_of, nodes, summary
from labkit.lab import Lab
from places import WORKERS

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def fleet(converged: Lab, models: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet_of(converged, tmp_path_factory.mktemp("fleet"), models) as found:
        yield found


def test_with_nothing_amiss_nothing_is_changed(fleet: Fleet, docker: Docker) -> None:
    before = nodes(docker)
    outcome = fleet.recover()
    said = summary(outcome)
    assert (outcome.status, outcome.changed) == (0, ())
    assert (said["healthy"], said["repaired"], said["refused"]) == (list(WORKERS), [], {})
    assert nodes(docker) == before


def test_an_interrupted_worker_is_restored_as_the_same_node_and_no_request_fails(
    fleet: Fleet, docker: Docker, load: Callable[..., subprocess.Popen[str]]
) -> None:
    before = nodes(docker)
    clients = load(clients=4, seconds=90, first_token=0.2)
    time.sleep(3)
    fleet.interrupt("gpu6")
    outcome = fleet.recover()
    said = summary(outcome)
    answered = json.loads(clients.communicate(timeout=240)[0])
    print(f"under load: {answered}")
    assert outcome.status == 0
    assert (said["healthy"], said["repaired"]) == (["gpu5"], ["gpu6"])
    assert nodes(docker) == before
    assert answered["failures"] == []
    # It rejoined by itself: nobody laid hands on it.
    assert "gpu6" not in outcome.recap


def test_all_workers_at_once_come_back(fleet: Fleet, docker: Docker) -> None:
    before = nodes(docker)
    fleet.interrupt(*WORKERS)
    outcome = fleet.recover()
    assert outcome.status == 0
    assert summary(outcome)["repaired"] == list(WORKERS)
    assert nodes(docker) == before


def test_a_worker_that_cannot_be_restored_is_made_anew_and_leaves_nothing(fleet: Fleet, docker: Docker, converged: Lab) -> None:
    before, servers = nodes(docker), fleet.servers()
    fleet.interrupt("gpu6", room=False)
    outcome = fleet.recover()
    assert outcome.status == 0
    assert summary(outcome)["repaired"] == ["gpu6"]
    assert fleet.servers()["gpu6"] != servers["gpu6"]
    assert fleet.cloud.orphans() == []
    after = nodes(docker)
    assert after["gpu5"] == before["gpu5"]
    assert after["gpu6"] != before["gpu6"]
    label = docker(f"node inspect {after['gpu6']} --format '{{{{index .Spec.Labels \"llm-stack.server\"}}}}'")
    assert label == fleet.servers()["gpu6"]
    again = fleet.recover()
    assert (again.status, again.changed) == (0, ())


def test_a_drill_interrupts_a_worker_under_load_and_reports(fleet: Fleet, docker: Docker, tmp_path: Path) -> None:
    before = nodes(docker)
    outcome = fleet.recover(
        playbook="drill",
        llm_stack_drill_worker="gpu5",
        llm_stack_drill_confirm="gpu5",
        llm_stack_drill_timeout="240",
        llm_stack_drill_reports=str(tmp_path),
    )
    assert outcome.status == 0
    (data,) = tmp_path.glob("gpu5-*.json")
    found = json.loads(data.read_text())
    print(f"drill: {found['seconds']} {found['requests']}")
    assert all(seconds is not None for seconds in found["seconds"].values())
    assert found["requests"]["failed"] == 0
    assert found["requests"]["sent"] > 100
    assert data.with_suffix(".html").exists()
    assert nodes(docker) == before


def test_the_lock_is_one_object_of_the_swarm_and_free_again(fleet: Fleet, docker: Docker) -> None:
    assert fleet.cloud.alive()
    labels = json.loads(docker("config inspect llm-stack-state --format '{{json .Spec.Labels}}'"))
    assert "llm-stack.lock" not in labels
    assert json.loads(labels["llm-stack.ledger"])["rate"] == 60.0
