# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers that vanish and come back, as the same node or replaced, again and again: nothing stale, nothing failing, no restart too many."""

from __future__ import annotations

import json
from typing import Any, Callable

import pytest
from labkit.lab import Lab
from labkit.play import Outcome
from places import MANAGER, WORKERS

Docker = Callable[[str], str]
Run = Callable[..., Outcome]
WORKER = WORKERS[-1]
ALL = len((MANAGER, *WORKERS))


def cycles(long: int) -> Any:
    """One cycle in a short run, the others in a long one."""
    return [0, *(pytest.param(number, marks=pytest.mark.long) for number in range(1, long))]


def starts(lab: Lab, machine: str) -> str:
    """Which start of the engine this is, and how often it was started since the machine booted."""
    shown = lab.ssh(machine, "systemctl show docker --property=InvocationID --property=NRestarts")
    state = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    begun = lab.ssh(machine, "journalctl -b -u docker -o cat | grep -c '^Started docker.service' || true").strip()
    return f"{state['InvocationID']} {state['NRestarts']} {begun}"


def nodes(docker: Docker) -> list[str]:
    return sorted(docker("node ls --format '{{.Hostname}} {{.Status}}'").splitlines())


def unwell(docker: Docker) -> list[str]:
    """Tasks that should run and do not."""
    shown = docker("service ps llm_edge llm_balancer llm_engine --filter desired-state=running --format '{{.Name}} {{.CurrentState}}'")
    return [line for line in shown.splitlines() if " Running " not in line]


def whole(docker: Docker, until: Any) -> None:
    """Wait until every engine runs and every node is there, and see that nothing stale is left."""
    until(lambda: docker("service ls --filter name=llm_engine --format '{{.Replicas}}'"), f"{len(WORKERS)}/{len(WORKERS)}", seconds=180)
    assert nodes(docker) == sorted(f"{name} Ready" for name in (MANAGER, *WORKERS))
    until(lambda: unwell(docker), [], seconds=60)


@pytest.mark.parametrize("_cycle", cycles(20))
def test_a_worker_that_comes_back_is_the_same_node(_cycle: int, converged: Lab, docker: Docker, until: Any) -> None:
    whole(docker, until)
    identity = docker(f"node inspect {WORKER} --format '{{{{.ID}}}} {{{{json .Spec.Labels}}}}'")
    manager, neighbour = starts(converged, MANAGER), starts(converged, WORKERS[0])
    converged.cut(WORKER)
    until(lambda: docker(f"node inspect {WORKER} --format '{{{{.Status.State}}}}'"), "down", seconds=60)
    converged.up([WORKER])
    until(lambda: docker(f"node inspect {WORKER} --format '{{{{.Status.State}}}}'"), "ready", seconds=120)
    whole(docker, until)
    assert docker(f"node inspect {WORKER} --format '{{{{.ID}}}} {{{{json .Spec.Labels}}}}'") == identity
    # The engine of the worker was started once, by its boot, and no other was touched.
    assert starts(converged, WORKER).split()[1:] == ["0", "1"]
    assert (starts(converged, MANAGER), starts(converged, WORKERS[0])) == (manager, neighbour)


@pytest.mark.parametrize("_cycle", cycles(20))
def test_a_replaced_worker_leaves_nothing_behind(_cycle: int, converged: Lab, docker: Docker, run: Run, until: Any) -> None:
    whole(docker, until)
    former = docker(f"node inspect {WORKER} --format '{{{{.ID}}}}'")
    manager, neighbour = starts(converged, MANAGER), starts(converged, WORKERS[0])
    converged.cut(WORKER)
    converged.get(WORKER).discard()
    until(lambda: docker(f"node inspect {former} --format '{{{{.Status.State}}}}'"), "down", seconds=60)
    converged.up([WORKER])
    assert run("workers").status == 0
    whole(docker, until)
    now = json.loads(docker(f"node inspect {WORKER}"))[0]
    assert now["ID"] != former
    assert now["Spec"]["Labels"]["gpu.count"] == "1"
    assert starts(converged, WORKER).split()[1:] == ["0", "1"]
    assert (starts(converged, MANAGER), starts(converged, WORKERS[0])) == (manager, neighbour)
    again = run("workers")
    assert (again.status, again.changed) == (0, ())


def test_other_settings_restart_engines_in_turn_after_a_drain(converged: Lab, docker: Docker, run: Run, until: Any) -> None:
    whole(docker, until)
    before = {worker: starts(converged, worker) for worker in WORKERS}
    settings = {"log-driver": "json-file", "log-opts": {"max-size": "10m", "max-file": "3"}, "labels": ["restarted=by-test"]}
    outcome = run("workers", docker_engine_daemon=settings)
    assert outcome.status == 0
    drained = [host for host, task in outcome.changed if task.endswith("Drain the node, and wait until its tasks have ended")]
    assert drained == list(WORKERS)
    whole(docker, until)
    assert all(starts(converged, worker) != before[worker] for worker in WORKERS)
    shown = docker("node ls --format '{{.Availability}}'").split()
    assert shown == ["Active"] * ALL
    assert "drained-from" not in docker(f"node inspect {' '.join(WORKERS)}")
    again = run("workers", docker_engine_daemon=settings)
    assert (again.status, again.changed) == (0, ())
