# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""recover.yml as it is run, with stand-ins for the cloud, the swarm and the edge; only the roles are left out."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import time

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.store import CONTENT, NAME
from controlkit import FLEET, Control, age, ids, summary
from fleetkit import run_fleet
from standin_cloud import StandinCloud
from standin_swarm import node_of

pytestmark = pytest.mark.one_core


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
    # Which of the two was made first is chance, and with it the order they are remembered in.
    assert sorted(place for place, _life, _at in breaker["seen"]) == ["r1/z1/GL10/preemptible", "r1/z2/GL10/preemptible"]


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
    age(whole, "gpu1")
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
    age(whole, "gpu1")
    # The next server's number is known, and so its node.
    whole.swarm.without_engine = {node_of(f"srv-{number:04d}") for number in range(99)} - {node_of(one) for one in servers.values()}
    ended = whole.recover()
    assert ended.returncode != 0
    assert "answered nothing within 20" in " ".join(ended.stdout.split())
    assert set(servers.values()) <= set(whole.cloud.servers)
    # site.yml does not know better, though the disk may be lost and nobody holds the lock.
    assert whole.play("provision").returncode == 0
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


def test_what_the_budget_does_not_bear_goes_though_the_disks_of_others_may_be_lost_too(whole: Control) -> None:
    whole.declare(gpu_fleet={**FLEET, "count": 1}, gpu_workers_spare="1", gpu_workers_budget="1")
    ended = whole.recover()
    assert ended.returncode == 0
    assert summary(ended)["ended"] == ["gpu2"]
    assert [one["name"] for one in whole.cloud.servers.values()] == ["gpu1"]
    assert whole.cloud.orphans() == []


def test_an_error_of_the_cloud_ends_in_a_summary_and_gives_the_lock_up(whole: Control) -> None:
    whole.declare(gpu_fleet={**FLEET, "placements": [{"region": "r1", "flavor": ""}]})
    ended = whole.recover()
    assert ended.returncode != 0
    said = summary(ended)
    assert "has no flavor" in " ".join(said["reasons"])
    assert "llm-stack.lock" not in whole.swarm.labels


def test_site_does_not_act_beside_another_run(whole: Control) -> None:
    lock = {"owner": "a rotation", "token": "t", "since": time.time(), "until": time.time() + 600}
    whole.swarm.labels["llm-stack.lock"] = json.dumps(lock)
    whole.change(lambda cloud: (cloud.interrupt(next(iter(cloud.servers))), cloud.log.clear()))
    refused = whole.play("provision")
    assert refused.returncode != 0
    assert "a rotation holds the lock of the fleet until" in " ".join(refused.stdout.split())
    assert whole.cloud.writes() == []
    assert json.loads(whole.swarm.labels["llm-stack.lock"]) == lock
    # In check mode the plan is shown all the same.
    assert whole.play("provision", "--check").returncode == 0
    del whole.swarm.labels["llm-stack.lock"]
    assert whole.play("provision").returncode == 0
    assert len(whole.cloud.alive()) == 2
    assert "llm-stack.lock" not in whole.swarm.labels


def test_site_that_fails_gives_the_lock_up_and_says_why(whole: Control) -> None:
    def lose(cloud: StandinCloud) -> None:
        cloud.interrupt(next(iter(cloud.servers)))
        cloud.room.update(z1=0, z2=0)

    whole.change(lose)
    failed = whole.play("provision")
    assert failed.returncode != 0
    assert "there is no capacity" in failed.stdout[failed.stdout.index("Say why") :]
    assert "llm-stack.lock" not in whole.swarm.labels


def test_where_the_autoscaler_runs_its_number_of_workers_is_kept(whole: Control) -> None:
    """Demand needs one: recover.yml takes the other away, and does not make it again."""
    whole.declare(llm_stack_autoscaler="true", gpu_workers_min="1")
    whole.swarm.labels["llm-stack.scale"] = json.dumps({"wanted": 1, "at": 0.0})
    ended = whole.recover()
    assert ended.returncode == 0
    assert summary(ended)["ended"] == ["gpu2"]
    assert list(ids(whole)) == ["gpu1"]
    assert whole.cloud.orphans() == []
    again = whole.recover()
    assert again.returncode == 0
    assert summary(again)["healthy"] == ["gpu1"]
    whole.declare(gpu_workers_min="1")
    ended = whole.recover("--check")
    assert "gpu2    create" in ended.stdout, "without the autoscaler all that are declared are wanted"


@pytest.fixture
def fleet(control: Control) -> Control:
    """With two servers in the cloud that no node has come of; a teardown asks for no more."""
    control.change(lambda cloud: run_fleet(cloud, servers=[], name_pattern="gpu{n}", count=2, floating_network="ext"))
    state = {"Name": NAME, "Labels": {}, "Data": base64.b64encode(CONTENT).decode()}
    control.swarm.configs["c1"] = {"ID": "c1", "Version": {"Index": 10}, "Spec": state}
    return control


def test_a_teardown_waits_for_no_unnamed_fleet_and_does_not_act_beside_another_run(fleet: Control) -> None:
    lock = {"owner": "a rotation", "token": "t", "since": time.time(), "until": time.time() + 600}
    fleet.swarm.labels["llm-stack.lock"] = json.dumps(lock)
    fleet.change(lambda cloud: cloud.log.clear())
    unnamed = fleet.play("teardown")
    assert unnamed.returncode != 0
    assert "without confirmation: set confirm to llm" in " ".join(unnamed.stdout.split())
    refused = fleet.play("teardown", "-e", "llm_stack_teardown_confirm=llm")
    assert refused.returncode != 0
    assert "a rotation holds the lock of the fleet until" in " ".join(refused.stdout.split())
    assert fleet.cloud.writes() == []
    assert json.loads(fleet.swarm.labels["llm-stack.lock"]) == lock
    del fleet.swarm.labels["llm-stack.lock"]
    assert fleet.play("teardown", "-e", "llm_stack_teardown_confirm=llm").returncode == 0
    cloud = fleet.cloud
    assert (cloud.servers, cloud.ports, cloud.volumes, cloud.addresses) == ({}, {}, {}, {})
    assert "llm-stack.lock" not in fleet.swarm.labels


def test_a_teardown_that_fails_gives_the_lock_up_and_says_why(fleet: Control) -> None:
    fleet.change(lambda cloud: next(iter(cloud.servers.values())).update(locked=True))
    failed = fleet.play("teardown", "-e", "llm_stack_teardown_confirm=llm")
    assert failed.returncode != 0
    assert "could be removed" in failed.stdout[failed.stdout.index("Say why") :]
    assert "llm-stack.lock" not in fleet.swarm.labels


def test_a_teardown_goes_without_the_lock_of_a_lost_manager_only_when_told_to(fleet: Control) -> None:
    lost = {
        "ansible_connection": "{{ 'ssh' if inventory_hostname == 'manager1' else 'local' }}",
        "ansible_host": "127.0.0.1",
        "ansible_port": 9,
        "llm_stack_teardown_confirm": "llm",
    }
    refused = fleet.play("teardown", "-e", json.dumps(lost))
    assert refused.returncode != 0
    assert "manager1 cannot be reached, so the lock of the fleet cannot be taken" in " ".join(refused.stdout.split())
    assert len(fleet.cloud.servers) == 2
    # A form gives strings.
    ended = fleet.play("teardown", "-e", json.dumps({**lost, "llm_stack_teardown_lock": "false"}))
    assert ended.returncode == 0
    assert fleet.cloud.servers == {}
