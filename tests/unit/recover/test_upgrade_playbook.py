# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""upgrade.yml as it is run, with stand-ins for packages, roles, the swarm and the edge: what an earlier run left is seen to first."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from controlkit import Control, Ended
from fleetkit import run_fleet
from standin_swarm import node_of
from test_recover_playbook import remember

pytestmark = pytest.mark.one_core
# STAND-INS: each host is a folder; a file in it is a package to upgrade, another the wish to be booted.
PROGRAMS = {
    "apt-get": '[ "$1" = update ] || ! [ -e "$FOLDER/old" ] || echo "Inst docker.io [1] (2 Debian)"',
    "dpkg-query": 'echo "installed docker.io"',
    "docker": 'case "$*" in *NodeID*) [ ! -e "$FOLDER/dead" ] || { echo "Cannot connect" >&2; exit 1; }; cat "$FOLDER/node" ;; '
    "*Availability*) echo active ;; esac",
}
FOLDER = "{{ place }}/machines/{{ inventory_hostname }}"


def task(name: str, module: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, f"ansible.builtin.{module}": arguments}


UPGRADED = [
    task("Upgrade", "file", path=f"{FOLDER}/old", state="absent"),
    task("Tell", "copy", dest=f"{FOLDER}/touched", content="", mode="0644"),
    {**task("Boot", "file", path=f"{FOLDER}/reboot-required", state="absent"), "when": "__upgrade_reboot"},
]
MANAGER = [task("Upgrade", "include_tasks", file="upgrade_packages.yml"), task("Prove", "include_tasks", file="upgrade_prove.yml")]
WORKER = {
    "gpu_worker_node_id": "{{ ('node' ~ fleet_server.id | replace('-', '')).ljust(25, 'x') }}",
    "gpu_worker_hostname": "{{ inventory_hostname }}.example.org",
    "gpu_worker_gpu_count": 1,
}


class Fleet:
    """Two workers of the swarm, whose nodes have other names than the inventory, and a manager."""

    def __init__(self, control: Control) -> None:
        self.control = control
        control.change(lambda cloud: run_fleet(cloud, servers=[], name_pattern="gpu{n}", count=2, floating_network="ext"))
        remember(control, {})
        self.ids = {one["name"]: one["id"] for one in control.cloud.alive()}
        for name, one in self.ids.items():
            (control.place / "joined" / one).write_text(name)
            control.swarm.names[one] = f"{name}.example.org"
        control.swarm.nodes()
        self._write_machines()
        self._write_playbooks(control.place / "playbooks")

    def machine(self, name: str) -> Path:
        return self.control.place / "machines" / name

    def _write_machines(self) -> None:
        programs = self.control.place / "programs"
        programs.mkdir()
        for name, text in PROGRAMS.items():
            (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        for name in ("manager1", *self.ids):
            self.machine(name).mkdir(parents=True)
            own = f"export FOLDER={self.machine(name)} PATH={programs}:$PATH"
            (programs / f"python-{name}").write_text(f'#!/bin/sh\n{own}\nexec {sys.executable} "$@"\n')
        for name, one in self.ids.items():
            (self.machine(name) / "node").write_text(node_of(one))
        for path in programs.iterdir():
            path.chmod(0o755)

    @staticmethod
    def _write_playbooks(folder: Path) -> None:
        for name in ("preflight", "services"):
            (folder / f"{name}.yml").write_text(yaml.safe_dump([{"name": name, "hosts": "swarm_managers", "gather_facts": False}]))
        look = folder / "tasks" / "upgrade_look.yml"
        look.write_text(look.read_text().replace("/run/reboot-required", f'"{FOLDER}/reboot-required"'))
        (holding, *_rest) = yaml.safe_load((folder / "tasks" / "upgrade_packages.yml").read_text())
        written = {"packages": [holding, *UPGRADED], "manager": [{**one, "vars": {"__upgrade_nodes": []}} for one in MANAGER]}
        for name, tasks in written.items():
            (folder / "tasks" / f"upgrade_{name}.yml").write_text(yaml.safe_dump(tasks))
        (folder / "tasks" / "worker.yml").write_text(yaml.safe_dump([{"name": "Join", "ansible.builtin.set_fact": WORKER}]))

    def want(self, what: str, *names: str) -> None:
        for name in names:
            (self.machine(name) / what).touch()

    def drain(self, name: str) -> None:
        """Leave a worker as a run does that stops between emptying it and giving its tasks back."""
        spec = self.control.swarm.specs[self.ids[name]]
        spec["Availability"] = "drain"
        spec["Labels"]["llm-stack.drained-from"] = "active"

    def silence(self, *names: str) -> None:
        self.control.swarm.without_engine = {node_of(self.ids[name]) for name in names}

    def upgrade(self, *arguments: str) -> Ended:
        given = {
            "ansible_python_interpreter": f"{self.control.place}/programs/python-{{{{ inventory_hostname }}}}",
            "place": str(self.control.place),
            "llm_stack_upgrade_wait": 3,
            "gpu_worker_drain_timeout": 3,
        }
        return self.control.play("upgrade", "-e", json.dumps(given), *arguments)

    def availability(self, name: str) -> str:
        return str(self.control.swarm.specs[self.ids[name]]["Availability"])

    def touched(self) -> list[str]:
        """Return on which workers it worked, and forget it."""
        found = [name for name in self.ids if (self.machine(name) / "touched").exists()]
        for name in found:
            (self.machine(name) / "touched").unlink()
        return found


@pytest.fixture
def fleet(control: Control) -> Fleet:
    return Fleet(control)


def words(ended: Ended) -> str:
    return " ".join(ended.stdout.split())


def summary(ended: Ended) -> dict[str, Any]:
    line = next(line for line in ended.stdout.splitlines() if line.strip().startswith("RUN: {"))
    found: dict[str, Any] = json.loads(line.strip().removeprefix("RUN: "))["llm_stack_upgrade"]
    return found


def test_a_second_run_touches_no_worker_while_the_one_the_first_stopped_at_is_silent(fleet: Fleet) -> None:
    fleet.want("old", "gpu1", "gpu2")
    fleet.silence("gpu1")
    assert "stopped at gpu1" in words(fleet.upgrade())
    assert fleet.touched() == ["gpu1"]
    second = fleet.upgrade()
    assert second.returncode != 0
    assert "the engine of gpu1.example.org stays silent" in words(second)
    assert (fleet.touched(), fleet.availability("gpu2")) == ([], "active")
    assert "llm-stack.lock" not in fleet.control.swarm.labels
    fleet.silence()
    assert fleet.upgrade().returncode == 0
    assert fleet.touched() == ["gpu2"]


def test_a_worker_with_nothing_to_do_is_neither_emptied_nor_asked_for_an_engine_it_need_not_have(fleet: Fleet) -> None:
    fleet.control.swarm.replicas = 1
    fleet.silence("gpu2")
    calls = len(fleet.control.swarm.calls)
    assert fleet.upgrade().returncode == 0
    assert fleet.touched() == []
    assert not [call for call in fleet.control.swarm.calls[calls:] if call.startswith("POST /nodes")]


def test_workers_that_an_earlier_run_left_drained_get_their_tasks_back_whatever_the_swarm_calls_them(fleet: Fleet) -> None:
    fleet.drain("gpu1")
    fleet.drain("gpu2")
    assert fleet.upgrade().returncode == 0
    assert [fleet.availability(name) for name in fleet.ids] == ["active", "active"]


def test_a_worker_that_was_told_of_as_to_be_booted_is_booted_by_the_run_that_may(fleet: Fleet) -> None:
    fleet.want("reboot-required", "gpu1")
    first = fleet.upgrade()
    assert (first.returncode, summary(first)["to_be_booted"], fleet.touched()) == (0, ["gpu1"], [])
    second = fleet.upgrade("-e", "llm_stack_upgrade_reboot=true")
    assert (second.returncode, summary(second)["to_be_booted"], fleet.touched()) == (0, [], ["gpu1"])
    assert fleet.availability("gpu1") == "active"


def test_a_worker_whose_engine_is_dead_stops_it(fleet: Fleet) -> None:
    fleet.want("old", "gpu2")
    fleet.want("dead", "gpu1")
    ended = fleet.upgrade()
    assert ended.returncode != 0
    assert "stopped at gpu1" in words(ended)
    assert "Cannot connect Its packages were left as they are." in words(ended)
    assert fleet.touched() == []


def test_a_limit_that_leaves_out_who_keeps_the_lock_is_refused_with_nothing_changed(fleet: Fleet) -> None:
    fleet.want("old", "gpu1", "gpu2")
    ended = fleet.upgrade("--limit", "gpu1")
    assert ended.returncode != 0
    assert "The lock of the fleet is kept on manager1, which --limit leaves out, so nothing was changed." in words(ended)
    assert "`--limit 'gpu1,manager1'`" in words(ended)
    assert (fleet.touched(), fleet.availability("gpu1")) == ([], "active")
    assert fleet.upgrade("--limit", "gpu1", "--check").returncode == 0
    assert fleet.upgrade("--limit", "gpu1,manager1").returncode == 0
    assert fleet.touched() == ["gpu1"]


def test_a_lock_that_was_lost_empties_no_worker(fleet: Fleet) -> None:
    fleet.want("old", "gpu1")
    lose = task("Lose it", "set_fact", llm_stack_upgrade_lock={"token": "another"})
    (fleet.control.place / "playbooks" / "tasks" / "how_to_join.yml").write_text(yaml.safe_dump([lose]))
    ended = fleet.upgrade()
    assert ended.returncode != 0
    assert "stopped at gpu1" in words(ended)
    assert (fleet.touched(), fleet.availability("gpu1")) == ([], "active")
