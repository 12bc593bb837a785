# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module and the inventory plugin as Ansible runs them: a task, secrets kept out of the most talkative output, the fleet as hosts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cloudkit.config import PASSWORD, REPO
from cloudkit.control import Control, Project
from cloudkit.fleet import Fleet


class Ansible:
    """Runs Ansible's programs in a directory of their own, with the fleet's clouds.yaml."""

    def __init__(self, place: Path, fleet: Fleet) -> None:
        self.place = place
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
        self._environment = {**inherited, **fleet.environment, "ANSIBLE_NOCOLOR": "1"}
        self._environment["ANSIBLE_COLLECTIONS_PATH"] = str(REPO / "build" / "collections")

    def run(self, program: str, *arguments: str) -> str:
        """Run a program and return all it printed."""
        argv = [sys.executable, "-m", "ansible", program, *arguments]
        ended = subprocess.run(
            argv, cwd=self.place, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert ended.returncode == 0, ended.stdout
        return ended.stdout


@pytest.fixture
def ansible(tmp_path: Path, fleet: Fleet) -> Ansible:
    return Ansible(tmp_path, fleet)


def test_a_task_says_what_it_did_and_no_secret_at_any_verbosity(ansible: Ansible, fleet: Fleet) -> None:
    task = {"selfhosted.llm_stack.selectel_preemptible": fleet.options(servers=[{"name": "gpu1"}])}
    plays: list[dict[str, Any]] = [{"hosts": "localhost", "gather_facts": False, "tasks": [task]}]
    (ansible.place / "fleet.yml").write_text(json.dumps(plays))
    here = ("-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}", "fleet.yml")
    said = ansible.run("playbook", "-vvv", "--diff", *here)
    assert "changed=1" in said
    assert fleet.servers()["gpu1"].status == "ACTIVE"
    assert PASSWORD not in said
    assert "changed=0" in ansible.run("playbook", *here)


def test_the_inventory_lists_running_and_interrupted_servers(ansible: Ansible, fleet: Fleet, control: Control, project: Project) -> None:
    assert not fleet.run().failed
    ids = {name: server.id for name, server in fleet.servers().items()}
    control.interrupt(ids["gpu2"])
    source = {"plugin": "selfhosted.llm_stack.selectel_preemptible", "cloud": "test", "fleet": "ci"}
    (ansible.place / "fleet.selectel_preemptible.yml").write_text(json.dumps(source))
    listed = json.loads(ansible.run("inventory", "-i", "fleet.selectel_preemptible.yml", "--list"))
    assert set(listed["_meta"]["hostvars"]) >= {"gpu1"}
    assert listed["gpu_workers_interrupted"]["hosts"] == ["gpu2"]
    assert project.name not in json.dumps(listed["_meta"])
