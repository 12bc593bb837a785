# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The scenarios of extensions/molecule whose machines are containers. That of storage_host needs a virtual machine."""

from __future__ import annotations

import json
import subprocess
from typing import Iterator

import pytest
from labkit import debs, network
from labkit.artifacts import prepare, python
from labkit.config import REPO
from labkit.lab import Lab
from test_monitoring import variables

# Those of the mesh have no other use here.
MACHINE, MESH = "manager1", ("gpu7", "gpu8", "gpu9")
pytestmark = pytest.mark.long


def molecule(lab: Lab, scenario: str) -> int:
    """Run a scenario and return how it ended."""
    environment = {**lab.environment(), "PATH": f"{python().parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    argv = [*network.inside(lab.paths), str(python().with_name("molecule")), "test", "-s", scenario]
    return subprocess.run(argv, cwd=REPO, env=environment, check=False, timeout=1800).returncode


@pytest.fixture
def new() -> Iterator[Lab]:
    """A lab whose manager was never used, and is gone afterwards."""
    lab = Lab()
    kinds = {machine.spec.name: machine.spec.kind for machine in lab.machines()}
    if MACHINE in kinds:
        pytest.fail(f"{MACHINE} is in use here: end the lab with `make lab-down`, or run this in another checkout.")
    lab.up([MACHINE])
    prepare(lab.paths)
    yield lab
    lab.get(MACHINE).stop()
    lab.get(MACHINE).discard()
    lab._remember_kinds(kinds)
    if not any(machine.running for machine in lab.machines()):
        lab.down()


@pytest.mark.parametrize("scenario", ["docker_engine", "swarm_manager", "registry"])
def test_the_scenario_passes_on_a_new_machine(new: Lab, scenario: str) -> None:
    assert molecule(new, scenario) == 0


def test_the_scenario_storage_backup_passes_on_a_new_machine(new: Lab) -> None:
    debs.offer(new, MACHINE, "borgmatic", "borgbackup")
    assert molecule(new, "storage_backup") == 0


def test_the_scenario_monitoring_passes_on_new_machines(lab: Lab, models: str) -> None:
    prepare(lab.paths, chat=True, monitoring=True)
    extra = {**variables(), "gpu_worker_models_ca": models, "storage_backup_archives": []}
    (lab.paths.state / "molecule-monitoring.json").write_text(json.dumps(extra))
    assert molecule(lab, "monitoring") == 0


@pytest.fixture
def served(lab: Lab, models: str) -> Lab:
    """Three machines, and models to be had."""
    (lab.paths.state / "molecule-models.json").write_text(json.dumps({"gpu_worker_models_ca": models}))
    return lab


@pytest.mark.parametrize("scenario", ["gpu_worker", "llm_services"])
def test_the_scenario_passes_on_several_machines(served: Lab, scenario: str) -> None:
    assert molecule(served, scenario) == 0


def test_the_scenario_mesh_passes_on_machines_of_its_own(served: Lab) -> None:
    for name in MESH:
        served.forget(name)
    served.up(MESH)
    try:
        assert molecule(served, "mesh") == 0
    finally:
        for name in MESH:
            served.forget(name)
