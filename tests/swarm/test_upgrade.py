# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An upgrade of real engines under load: versions foretold, a failing step stops it and harms nobody, a second run goes on from there."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Callable

import pytest
from labkit.lab import Lab
from labkit.play import Outcome
from places import MACHINES, MANAGER, WORKERS

pytestmark = pytest.mark.long

NEWER = (Path(__file__).resolve().parent / "newer.sh").read_text()
ENGINE = "docker.io"
Docker = Callable[[str], str]
Load = Callable[..., "subprocess.Popen[str]"]


def offer(lab: Lab, machine: str, *options: str) -> str:
    """Offer a machine a newer engine; the version it has now."""
    lab.ssh(machine, f"sh -s -- {ENGINE} +lab1 {' '.join(options)}", stdin=NEWER, seconds=300)
    return version(lab, machine)


def version(lab: Lab, machine: str) -> str:
    return lab.ssh(machine, f"dpkg-query -W -f '${{Version}}' {ENGINE}").strip()


@pytest.fixture(scope="module")
def old(converged: Lab) -> str:
    """Every machine with a newer engine on offer, the second worker's broken; the version they all have."""
    found = {offer(converged, machine, *(["broken"] if machine == WORKERS[1] else [])) for machine in MACHINES}
    assert len(found) == 1
    return found.pop()


def test_check_mode_lists_versions_and_changes_nothing(converged: Lab, run: Callable[..., Outcome], old: str) -> None:
    foreseen = run("upgrade", check=True)
    assert (foreseen.status, foreseen.changed) == (0, ())
    assert foreseen.words.count(f"{ENGINE}: {old} -> {old}+lab1") == len(MACHINES)
    assert {version(converged, machine) for machine in MACHINES} == {old}


def test_a_failing_step_stops_it_says_where_and_harms_no_service(
    converged: Lab, run: Callable[..., Outcome], old: str, docker: Docker, load: Load
) -> None:
    clients = load(clients=4, seconds=1800, first_token=0.2)
    time.sleep(2)
    try:
        stopped = run("upgrade")
    finally:
        clients.terminate()
        said = json.loads(clients.communicate(timeout=120)[0])
    print(f"upgraded under load: {said}")
    print(converged.ssh(MANAGER, "journalctl -u docker -o short-precise --no-pager -n 400 | cut -c1-220", check=False))
    assert stopped.status != 0
    assert f"The upgrade stopped at {WORKERS[1]}" in stopped.words
    assert "it goes on from here" in stopped.words
    assert [version(converged, machine) for machine in (MANAGER, WORKERS[0])] == [f"{old}+lab1"] * 2
    # There is one manager, and with it one edge.
    assert said["gap"] <= 30
    availability = docker(f"node inspect {WORKERS[1]} --format {{{{.Spec.Availability}}}}")
    assert availability == "drain"
    assert json.loads(docker(f"node inspect {WORKERS[0]}"))[0]["Spec"]["Availability"] == "active"


def test_it_goes_on_from_there_once_the_cause_is_mended(converged: Lab, run: Callable[..., Outcome], old: str, docker: Docker) -> None:
    converged.ssh(WORKERS[1], "touch /run/mended && dpkg --configure -a", seconds=300)
    ended = run("upgrade")
    assert ended.status == 0
    assert not [task for host, task in ended.changed if host == MANAGER and "Upgrade its packages" in task]
    assert {version(converged, machine) for machine in MACHINES} == {f"{old}+lab1"}
    for worker in WORKERS:
        spec = json.loads(docker(f"node inspect {worker}"))[0]["Spec"]
        assert (spec["Availability"], "llm-stack.drained-from" in spec["Labels"]) == ("active", False)
    again = run("upgrade")
    assert (again.status, again.changed) == (0, ())


def test_nothing_is_begun_while_another_run_holds_the_fleet(run: Callable[..., Outcome], converged: Lab, tmp_path: Path) -> None:
    lock = {"state": "held", "owner": "somebody else"}
    tasks = [{"selfhosted.llm_stack.fleet_state": lock}]
    taking = tmp_path / "lock.yml"
    taking.write_text(json.dumps([{"hosts": "swarm_managers", "gather_facts": False, "tasks": tasks}]))
    assert run(str(taking)).status == 0
    refused = run("upgrade")
    assert refused.status != 0
    assert "somebody else holds the lock of the fleet, so nothing was changed" in refused.words
    assert refused.changed == ()
