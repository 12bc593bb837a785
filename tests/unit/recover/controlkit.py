# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A control node that runs the playbooks as they are, with stand-ins for the cloud, the swarm and the edge; only the roles are left out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import yaml
from standin_cloud import StandinCloud, shared
from standin_swarm import Edge, Swarm

ROOT = Path(__file__).resolve().parent.parent.parent.parent
FLEET = {
    "auth": {"auth_url": "http://cloud", "password": "hunter2"},
    "fleet": "llm",
    "name_pattern": "gpu{n}",
    "count": 2,
    "placements": [{"region": "r1", "zone": "z1", "flavor": "GL10"}, {"region": "r1", "zone": "z2", "flavor": "GL10"}],
    "image": "golden-*",
    "volume_size": 10,
    "networks": [{"network": "lan"}],
    "floating_network": "ext",
    "allow_data_loss": ["gpu1", "gpu2"],
    "prices": {"currency": "RUB", "servers": [{"flavor": "GL10", "preemptible": 30.0, "regular": 100.0}]},
}
# What stands in for the roles: a worker joins, and the services have as many engines as there are GPUs.
ROLES = {
    "tasks/how_to_join.yml": [],
    "tasks/worker.yml": [
        {
            "name": "Join",
            "ansible.builtin.copy": {"dest": "{{ joined }}/{{ fleet_server.id }}", "content": "{{ inventory_hostname }}", "mode": "0644"},
            "become": False,
        },
        {
            "name": "Tell the manager what to expect",
            "ansible.builtin.set_fact": {
                "gpu_worker_node_id": "{{ ('node' ~ fleet_server.id | replace('-', '')).ljust(25, 'x') }}",
                "gpu_worker_hostname": "{{ inventory_hostname }}",
                "gpu_worker_gpu_count": 1,
                "gpu_worker_node_labels": {"gpu": "true"},
            },
        },
    ],
    "tasks/recover_replicas.yml": [
        {
            "name": "Look at the swarm as it is now",
            "selfhosted.llm_stack.swarm_workers_info": None,
            "register": "llm_stack_recover_now",
        }
    ],
}
Ended = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Kept:
    """What there is outside a control node, for another one to begin with."""

    cloud: bytes
    joined: dict[str, str]
    swarm: bytes


class Control:
    """A control node with all it reaches."""

    def __init__(self, place: Path, swarm: Swarm, edge: Edge) -> None:
        self.place, self.swarm, self.edge = place, swarm, edge
        (place / "inventory").mkdir()
        shutil.copytree(ROOT / "playbooks", place / "playbooks")
        self.write_roles()
        self.declare()
        plugin = {"plugin": "selfhosted.llm_stack.selectel_preemptible", "fleet": "llm", "auth": FLEET["auth"], "regions": ["r1"]}
        (place / "inventory" / "fleet.selectel_preemptible.yml").write_text(yaml.safe_dump(plugin))

    def write_roles(self) -> None:
        """Write what stands in for the roles."""
        for name, tasks in ROLES.items():
            (self.place / "playbooks" / name).write_text(yaml.safe_dump(tasks))

    def declare(self, **changes: Any) -> None:
        """Write the inventory."""
        services = {"llm_services_api_keys": [{"name": "t", "key": "hunter3"}], "llm_services_model": "tiny"}
        variables = {
            "gpu_fleet": FLEET,
            "joined": str(self.place / "joined"),
            "llm_services_edge_port": self.edge.port,
            **services,
            **changes,
        }
        hosts = {"swarm_managers": {"hosts": {"manager1": {}}}, "gpu_workers": {}}
        (self.place / "inventory" / "hosts.yml").write_text(yaml.safe_dump({"all": {"vars": variables, "children": hosts}}))

    @property
    def cloud(self) -> StandinCloud:
        return self.swarm.cloud

    def kept(self) -> Kept:
        """Return the cloud and the swarm as they are."""
        joined = {one.name: one.read_text() for one in (self.place / "joined").iterdir()}
        return Kept((self.place / "cloud").read_bytes(), joined, self.swarm.kept())

    def take_over(self, kept: Kept) -> None:
        """Begin with the cloud and the swarm of another control node."""
        (self.place / "cloud").write_bytes(kept.cloud)
        for name, text in kept.joined.items():
            (self.place / "joined" / name).write_text(text)
        self.swarm.take_over(kept.swarm)

    def change(self, change: Callable[[StandinCloud], Any]) -> None:
        with shared(self.place / "cloud") as cloud:
            change(cloud)

    def command(self, *arguments: str, playbook: str = "recover") -> tuple[list[str], dict[str, str]]:
        environment = {
            **os.environ,
            "HOME": str(self.place),
            # Ten hours ahead of UTC: a time that is taken for one of another zone is far amiss.
            "TZ": "<+10>-10",
            # One place for both who write and who read what runs in the background: the home is not the account's.
            "ANSIBLE_ASYNC_DIR": str(self.place / "async"),
            "PYTHONPATH": f"{ROOT / 'tests/unit/selectel/standin_sdk'}:{ROOT / 'tests/unit/recover/standin_docker'}",
            "STANDIN_CLOUD": str(self.place / "cloud"),
            "STANDIN_DOCKER": self.swarm.url,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build" / "collections"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_SHOW_CUSTOM_STATS": "true",
        }
        program = Path(sys.executable).parent / "ansible-playbook"
        here = f"ansible_connection=local ansible_python_interpreter={sys.executable} ansible_become=false"
        path = str(self.place / "playbooks" / f"{playbook}.yml")
        strings = "llm_stack_recover_wait=20 llm_stack_recover_grace=10 llm_stack_lock_wait=2"
        return [str(program), "-v", "-i", str(self.place / "inventory"), "-e", here, "-e", strings, path, *arguments], environment

    def recover(self, *arguments: str) -> Ended:
        return self.play("recover", *arguments)

    def play(self, playbook: str, *arguments: str) -> Ended:
        command, environment = self.command(*arguments, playbook=playbook)
        ended = subprocess.run(["timeout", "400", *command], cwd=self.place, env=environment, capture_output=True, text=True, check=False)
        print(ended.stdout[-6000:], ended.stderr[-2000:])
        assert "hunter2" not in ended.stdout + ended.stderr
        assert "hunter3" not in ended.stdout + ended.stderr
        return ended


def summary(ended: Ended) -> dict[str, Any]:
    """Return what the scheduler is told."""
    line = next(line for line in ended.stdout.splitlines() if line.strip().startswith(("RUN: {", "\tRUN: {")))
    found: dict[str, Any] = json.loads(line.strip().removeprefix("RUN: "))["llm_stack_recover"]
    return found


def ids(control: Control) -> dict[str, str]:
    return {one["name"]: one["id"] for one in control.cloud.alive()}


def age(control: Control, *names: str) -> None:
    """Let servers be as old as one is that is rotated."""
    long_ago = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 23 * 3600))

    def older(cloud: StandinCloud) -> None:
        for one in cloud.alive():
            if one["name"] in names:
                one.update({"created": long_ago, "OS-SRV-USG:launched_at": long_ago.rstrip("Z")})

    control.change(older)
