# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role swarm_manager over three hosts of which some are new, left out of the run or cut off: none may make a second swarm."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rolekit import run_play, stand_in

pytestmark = pytest.mark.one_core
ROOT = Path(__file__).resolve().parents[3]
HOSTS = ("manager1", "manager2", "manager3")
# STAND-INS for the engine of each host: a file of its own says whether it is a manager, another keeps what it was told to do.
NODE = """
import json, os
from pathlib import Path
from ansible.module_utils.basic import AnsibleModule

m = AnsibleModule(argument_spec={"engine": {"type": "dict"}, "members": {"type": "list"}}, supports_check_mode=True)
place, host, engine = Path(os.environ["PLACE"]), os.environ["HOST"], m.params["engine"] or {}
made = place / ("manager-" + host)
before = made.exists()
init = engine.get("init") or {}
plan = ["rotate"] if before and init.get("rotate_worker_token") else []
if not before:
    plan = ["init"] if engine.get("init") else ["join " + engine["manager"]] if engine.get("manager") else []
if plan and not m.check_mode:
    made.touch()
    with (place / "log").open("a") as log:
        log.write(host + ": " + plan[0] + "\\n")
swarm = {"manager": made.exists(), "state": "active" if made.exists() else "inactive", "cluster_id": "old" if made.exists() else ""}
m.exit_json(changed=bool(plan), plan=plan, node_id="n-" + host, hostname=host, **swarm)
"""
INFO = """
import os
from ansible.module_utils.basic import AnsibleModule

m = AnsibleModule(argument_spec={"nodes": {"type": "bool"}, "verbose_output": {"type": "bool"}}, supports_check_mode=True)
host = os.environ["HOST"]
node = {"ID": "n-" + host, "ManagerStatus": {"Addr": host + ".address:2377"}}
m.exit_json(swarm_facts={"JoinTokens": {"Worker": "w", "Manager": "m"}}, nodes=[node])
"""


class Managers:
    """Three hosts, and the managers among them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        stand_in(place, swarm_gpu_node=NODE, docker_swarm_info=INFO)

    def declare(self, *made: str, cut_off: tuple[str, ...] = ()) -> None:
        hosts: dict[str, Any] = {name: {"ansible_connection": "local", "ansible_python_interpreter": self._python(name)} for name in HOSTS}
        for name in cut_off:
            hosts[name] = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9}
        (self.place / "hosts.yml").write_text(yaml.safe_dump({"swarm_managers": {"hosts": hosts}}))
        for name in made:
            (self.place / f"manager-{name}").touch()

    def _python(self, name: str) -> str:
        path = self.place / f"python-{name}"
        path.write_text(f'#!/bin/sh\nHOST={name} PLACE={self.place} exec {sys.executable} "$@"\n')
        path.chmod(0o755)
        return str(path)

    def run(self, tasks: list[dict[str, Any]], *arguments: str, hosts: str = "swarm_managers") -> str:
        """Run tasks in one play; what was said."""
        play = {"hosts": hosts, "gather_facts": False, "any_errors_fatal": True, "tasks": tasks}
        return run_play(self.place, play, *arguments, HOME=str(self.place))

    @property
    def log(self) -> list[str]:
        path = self.place / "log"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def managers(tmp_path: Path) -> Managers:
    return Managers(tmp_path)


def role(entry: str = "main") -> list[dict[str, Any]]:
    return [{"ansible.builtin.include_role": {"name": "selfhosted.llm_stack.swarm_manager", "tasks_from": entry}}]


def first_play_of_workers() -> list[dict[str, Any]]:
    tasks = yaml.safe_load((ROOT / "playbooks" / "tasks" / "how_to_join.yml").read_text())
    return [task for task in tasks if task["ansible.builtin.include_role"]["name"] == "selfhosted.llm_stack.swarm_manager"]


@pytest.mark.parametrize("arguments", [(), ("--limit", "manager1"), ("--limit", "manager1", "--tags", "swarm_manager_configure,always")])
def test_a_first_manager_made_anew_joins_the_others(managers: Managers, arguments: tuple[str, ...]) -> None:
    managers.declare("manager2", "manager3")
    tasks = [{**task, "tags": "always"} for task in role()]
    assert "rc=0" in managers.run(tasks, *arguments)
    entry = "manager2.address" if arguments else "manager2"
    assert managers.log == [f"manager1: join {entry}:2377"]
    assert "rc=0" in managers.run(tasks, *arguments)
    assert len(managers.log) == 1


@pytest.mark.parametrize(
    ("arguments", "log"),
    [
        ((), ["manager1: init", "manager2: join manager1:2377", "manager3: join manager1:2377"]),
        (("--limit", "manager1"), ["manager1: init"]),
        (("--check",), []),
    ],
)
def test_where_all_can_be_asked_and_none_is_a_manager_the_first_makes_the_swarm(
    managers: Managers, arguments: tuple[str, ...], log: list[str]
) -> None:
    managers.declare()
    assert "rc=0" in managers.run(role(), *arguments)
    assert sorted(managers.log) == log


def test_one_that_cannot_be_asked_keeps_a_new_one_from_making_a_swarm(managers: Managers) -> None:
    managers.declare(cut_off=("manager2", "manager3"))
    for check in ([], ["--check"]):
        said = managers.run(role(), "--limit", "manager1", *check)
        assert "rc=0" not in said
        assert "manager1 is no manager of a swarm, and manager2, manager3 could not be asked: if one of them is, a swarm made here" in said
        assert "No swarm was made. Bring them back" in said
    assert managers.log == []


def test_one_that_answers_is_enough_to_join(managers: Managers) -> None:
    managers.declare("manager3", cut_off=("manager2",))
    assert "rc=0" in managers.run(role(), "--limit", "manager1")
    assert managers.log == ["manager1: join manager3.address:2377"]


def test_a_manager_asks_nobody(managers: Managers) -> None:
    managers.declare("manager1", cut_off=("manager2", "manager3"))
    assert "rc=0" in managers.run(role(), "--limit", "manager1")
    assert managers.log == []


@pytest.mark.parametrize(
    ("made", "cut_off", "log", "text"),
    [
        (("manager1",), (), [], "rc=0"),
        (("manager2", "manager3"), (), ["manager1: join manager2.address:2377"], "rc=0"),
        ((), (), [], "manager1 is no manager of a swarm, nor is another host of the group swarm_managers. No swarm was made. Run"),
        ((), ("manager2",), [], "and manager2 could not be asked"),
    ],
)
def test_who_learns_how_to_join_never_makes_a_swarm(
    managers: Managers, made: tuple[str, ...], cut_off: tuple[str, ...], log: list[str], text: str
) -> None:
    managers.declare(*made, cut_off=cut_off)
    assert text in managers.run(first_play_of_workers(), hosts="swarm_managers[0]")
    assert managers.log == log


def test_a_token_is_rotated_in_the_swarm_there_is(managers: Managers) -> None:
    managers.declare()
    assert "No swarm was made." in managers.run(role("rotate_worker_token"), hosts="swarm_managers[0]")
    assert managers.log == []
    managers.declare("manager2", "manager3")
    assert "rc=0" in managers.run(role("rotate_worker_token"), hosts="swarm_managers[0]")
    assert managers.log == ["manager2: rotate", "manager1: join manager2.address:2377"]
