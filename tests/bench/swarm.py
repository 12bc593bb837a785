# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run over a swarm that has nothing to do: our module against docker_swarm and docker_node for the same end."""

from __future__ import annotations

import subprocess
from pathlib import Path

from labkit.artifacts import prepare, python
from labkit.config import REPO
from labkit.lab import Lab
from labkit.network import inside
from labkit.play import read
from labkit.say import LabError, say
from measure import Figure, NotTaken, against, timed

HERE = Path(__file__).resolve().parent
# A manager and eight workers, as many as the fleet of cloud_fleet_restore, all of them containers: what a machine emulates would hide
# what is measured.
INVENTORY = """
all:
  vars:
    ansible_user: root
    ansible_python_interpreter: /usr/bin/python3
    ansible_pipelining: true
    ansible_ssh_common_args: "-F {config}"
  children:
    swarm_managers: {{hosts: {{manager1: {{ansible_host: 10.77.0.21}}}}}}
    gpu_workers: {{hosts: {{{workers}}}}}
"""
WORKERS = range(2, 10)
NAMES = ("manager1", *(f"gpu{number}" for number in WORKERS))


def swarm_noop() -> Figure:
    """Time both in turn on machines that are as they should be; the first runs, which change things, are not counted."""
    lab = Lab()
    before = {found.spec.name for found in lab.machines()}
    try:
        lab.up(NAMES)
        prepare(lab.paths)
        return _measured(lab)
    except LabError as error:
        raise NotTaken(str(error)) from error
    finally:
        for name in set(NAMES) - before:
            lab.forget(name)
        if not before:
            lab.down()


def _measured(lab: Lab) -> Figure:
    inventory = lab.paths.state / "bench-swarm.yml"
    workers = ", ".join(f"gpu{number}: {{ansible_host: 10.77.0.{30 + number}}}" for number in WORKERS)
    inventory.write_text(INVENTORY.format(config=lab.paths.ssh_config(), workers=workers))
    for playbook in (HERE / "swarm_noop.yml", HERE / "peers" / "swarm_noop.yml"):
        say(f"{playbook.relative_to(REPO)} brought the swarm up to date with {_changes(lab, inventory, playbook)} changes")
    return against(
        "swarm_noop",
        "s",
        lambda: timed(lambda: _unchanged(lab, inventory, HERE / "swarm_noop.yml")),
        lambda: timed(lambda: _unchanged(lab, inventory, HERE / "peers" / "swarm_noop.yml")),
    )


def _changes(lab: Lab, inventory: Path, playbook: Path) -> int:
    argv = [*inside(lab.paths), str(python().with_name("ansible-playbook")), "-i", str(inventory), str(playbook)]
    environment = {**lab.environment(), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORKS": "10", "COLUMNS": "200"}
    ended = subprocess.run(argv, cwd=REPO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if ended.returncode:
        raise NotTaken(f"{playbook.relative_to(REPO)} failed: {' '.join(ended.stdout.split()[-60:])}")
    return read(0, ended.stdout).changes


def _unchanged(lab: Lab, inventory: Path, playbook: Path) -> None:
    changes = _changes(lab, inventory, playbook)
    if changes:
        raise NotTaken(f"{playbook.relative_to(REPO)} had nothing to do and changed {changes} things")
