# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""recover.yml as it is run, with stand-ins for the cloud, the swarm and the edge; only the roles are left out."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
import yaml
from engine import serving
from standin_cloud import StandinCloud
from standin_swarm import Edge, Swarm, answering, node_of

pytestmark = pytest.mark.one_core

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


class Control:
    """A control node with all it reaches."""

    def __init__(self, place: Path, swarm: Swarm, edge: Edge) -> None:
        self.place, self.swarm, self.edge = place, swarm, edge
        (place / "inventory").mkdir()
        shutil.copytree(ROOT / "playbooks", place / "playbooks")
        for name, tasks in ROLES.items():
            (place / "playbooks" / name).write_text(yaml.safe_dump(tasks))
        self.declare()
        plugin = {"plugin": "selfhosted.llm_stack.selectel_preemptible", "fleet": "llm", "auth": FLEET["auth"], "regions": ["r1"]}
        (place / "inventory" / "fleet.selectel_preemptible.yml").write_text(yaml.safe_dump(plugin))

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

    def change(self, change: Callable[[StandinCloud], Any]) -> None:
        cloud = self.cloud
        change(cloud)
        (self.place / "cloud").write_bytes(pickle.dumps(cloud))

    def command(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        environment = {
            **os.environ,
            "HOME": str(self.place),
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
        playbook = str(self.place / "playbooks" / "recover.yml")
        strings = "llm_stack_recover_wait=20 llm_stack_recover_grace=10"
        return [str(program), "-v", "-i", str(self.place / "inventory"), "-e", here, "-e", strings, playbook, *arguments], environment

    def recover(self, *arguments: str) -> Ended:
        command, environment = self.command(*arguments)
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


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    names = [tmp_path / "tls.crt", tmp_path / "tls.key"]
    request = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=edge",
        "-days",
        "2",
    ]
    subprocess.run([*request, "-out", str(names[0]), "-keyout", str(names[1])], check=True, capture_output=True)
    (tmp_path / "cloud").write_bytes(pickle.dumps(StandinCloud()))
    with serving(Swarm(tmp_path)) as swarm:
        for edge in answering(Edge(swarm, *names)):
            yield Control(tmp_path, swarm, edge)


@pytest.fixture
def whole(control: Control) -> Control:
    """After a first run, which makes the fleet."""
    ended = control.recover()
    assert ended.returncode == 0
    assert summary(ended)["repaired"] == ["gpu1", "gpu2"]
    return control


def ids(control: Control) -> dict[str, str]:
    return {one["name"]: one["id"] for one in control.cloud.alive()}


def test_check_mode_shows_the_plan_and_changes_nothing(control: Control) -> None:
    ended = control.recover("--check")
    assert ended.returncode == 0
    assert "gpu1    create  +30 RUB  there is no server" in ended.stdout
    assert control.cloud.writes() == []
    assert control.swarm.configs == {}
    assert [call for call in control.swarm.calls if not call.startswith("GET")] == []


def test_a_whole_fleet_is_asked_one_question_and_left_alone(whole: Control) -> None:
    servers, asked = ids(whole), whole.edge.questions
    whole.change(lambda cloud: cloud.log.clear())
    ended = whole.recover()
    assert ended.returncode == 0
    said = summary(ended)
    assert (said["healthy"], said["repaired"], said["refused"], said["person"]) == (["gpu1", "gpu2"], [], {}, False)
    assert (whole.cloud.writes(), ids(whole)) == ([], servers)
    assert whole.edge.questions == asked + 1
    assert set(said["seconds"]) >= {"look", "cloud", "workers", "proof"}


def test_all_workers_interrupted_at_once_come_back_as_the_same_nodes(whole: Control) -> None:
    servers = ids(whole)
    whole.change(lambda cloud: [cloud.interrupt(server) for server in servers.values()])
    ended = whole.recover()
    assert ended.returncode == 0
    assert summary(ended)["repaired"] == ["gpu1", "gpu2"]
    assert ids(whole) == servers
    # They rejoined by themselves: nobody laid hands on them.
    assert not re.search(r"^gpu\d +:", ended.stdout, re.MULTILINE)
    assert {node["ID"] for node in whole.swarm.nodes()} == {node_of(server) for server in servers.values()}
    breaker = json.loads(whole.swarm.labels["llm-stack.breaker"])
    assert [place for place, _life, _at in breaker["seen"]] == ["r1/z1/GL10/preemptible", "r1/z2/GL10/preemptible"]


def test_one_that_cannot_be_restored_is_made_anew_and_nothing_stale_is_left(whole: Control) -> None:
    first = ids(whole)["gpu1"]

    def lose(cloud: StandinCloud) -> None:
        cloud.interrupt(first)
        cloud.room["z1"] = 0

    whole.change(lose)
    ended = whole.recover()
    assert ended.returncode == 0
    second = ids(whole)["gpu1"]
    assert second != first
    assert first not in whole.cloud.servers
    assert whole.cloud.orphans() == []
    again = whole.recover()
    assert again.returncode == 0
    assert node_of(first) not in {node["ID"] for node in whole.swarm.nodes()}
    assert summary(again)["healthy"] == ["gpu1", "gpu2"]


def test_without_any_room_it_says_so_and_the_next_run_brings_it_back(whole: Control) -> None:
    first = ids(whole)["gpu1"]

    def lose(cloud: StandinCloud) -> None:
        cloud.interrupt(first)
        cloud.room.update(z1=0, z2=0)

    whole.change(lose)
    ended = whole.recover()
    # The other engine answers: nobody has to get up.
    assert ended.returncode == 0
    assert "there is no capacity" in summary(ended)["refused"]["gpu1"]
    whole.change(lambda cloud: cloud.room.clear())
    assert whole.recover().returncode == 0
    assert whole.cloud.servers[first]["status"] == "ACTIVE"


def test_a_server_near_its_end_is_rotated_after_its_successor_answered(whole: Control) -> None:
    first = ids(whole)["gpu1"]

    def age(cloud: StandinCloud) -> None:
        long_ago = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 23 * 3600))
        cloud.servers[first].update({"created": long_ago, "OS-SRV-USG:launched_at": long_ago.rstrip("Z")})

    whole.change(age)
    ended = whole.recover()
    assert ended.returncode == 0
    said = summary(ended)
    assert said["rotated"] == ["gpu1"]
    assert first not in whole.cloud.servers
    assert whole.cloud.orphans() == []
    assert len(whole.cloud.addresses) == 2
    assert {node["ID"] for node in whole.swarm.nodes()} == {node_of(server) for server in ids(whole).values()}
    deleted = next(place for place, (method, _service, path) in enumerate(whole.cloud.log) if method == "DELETE" and path.endswith(first))
    made = [place for place, call in enumerate(whole.cloud.log) if call == ("POST", "compute", "/servers")]
    assert deleted > max(made)
    assert float(whole.swarm.labels["llm-stack.rotated"]) > time.time() - 300


def test_a_successor_whose_engine_is_silent_costs_nobody_the_predecessor(whole: Control) -> None:
    servers = ids(whole)

    def age(cloud: StandinCloud) -> None:
        long_ago = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 23 * 3600))
        cloud.servers[servers["gpu1"]].update({"created": long_ago, "OS-SRV-USG:launched_at": long_ago.rstrip("Z")})
        # The next server's number is known, and so its node.
        whole.swarm.without_engine = {node_of(f"srv-{number:04d}") for number in range(99)} - {node_of(one) for one in servers.values()}

    whole.change(age)
    ended = whole.recover()
    assert ended.returncode != 0
    assert "answered nothing within 20" in " ".join(ended.stdout.split())
    assert set(servers.values()) <= set(whole.cloud.servers)
    whole.swarm.without_engine = set()
    ended = whole.recover()
    assert ended.returncode == 0
    assert summary(ended)["rotated"] == ["gpu1"]
    assert servers["gpu1"] not in whole.cloud.servers


def test_two_at_once_one_acts_and_the_other_says_who(whole: Control) -> None:
    whole.change(lambda cloud: [cloud.interrupt(server) for server in cloud.servers])
    command, environment = whole.command("-e", "llm_stack_recover_owner=first")
    first = subprocess.Popen(command, cwd=whole.place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    end = time.monotonic() + 60
    while "llm-stack.lock" not in whole.swarm.labels and time.monotonic() < end:
        time.sleep(0.1)
    second = whole.recover("-e", "llm_stack_recover_owner=second")
    said, _nothing = first.communicate(timeout=120)
    assert (first.returncode, second.returncode) == (0, 0), said
    assert summary(second)["held_by"] == "first"
    assert "first holds the lock of the fleet, so this run does nothing." in second.stdout
    unshelved = [path for method, path in whole.cloud.writes() if path.endswith("/action")]
    assert len(unshelved) == 2
    assert "llm-stack.lock" not in whole.swarm.labels


def test_a_budget_as_a_string_is_kept(control: Control) -> None:
    ended = control.recover("-e", "gpu_workers_budget=31")
    assert ended.returncode != 0
    said = summary(ended)
    assert set(said["refused"]) == {"gpu1", "gpu2"}
    assert "31.00 is the budget" in said["refused"]["gpu1"] or len(control.cloud.servers) == 1
    assert "The edge answers nothing" in " ".join(said["reasons"])


def test_an_error_of_the_cloud_ends_in_a_summary_and_gives_the_lock_up(whole: Control) -> None:
    whole.declare(gpu_fleet={**FLEET, "placements": [{"region": "r1", "flavor": ""}]})
    ended = whole.recover()
    assert ended.returncode != 0
    said = summary(ended)
    assert "has no flavor" in " ".join(said["reasons"])
    assert "llm-stack.lock" not in whole.swarm.labels
