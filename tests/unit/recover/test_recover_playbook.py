# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""recover.yml as it is run, with stand-ins for the cloud, the swarm and the edge; only the roles are left out."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import threading
import time
from typing import Any, Iterator

import pytest
import yaml
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.store import CONTENT, NAME
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.model import MEANT_KEY
from controlkit import FLEET, ROOT, Control, age, ids, summary
from fleetkit import run_fleet
from standin_cloud import StandinCloud
from standin_swarm import node_of

pytestmark = pytest.mark.one_core


def flat(tasks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for task in tasks:
        yield from flat(task["block"]) if "block" in task else (task,)


@pytest.mark.parametrize("name", ["recover_act", "recover_retire"])
def test_the_lock_is_asked_for_right_before_every_change_of_the_cloud_and_outlives_it(name: str) -> None:
    held, changes = False, 0
    for task in flat(yaml.safe_load((ROOT / "playbooks" / "tasks" / f"{name}.yml").read_text())):
        asked, waits = task.get("selfhosted.llm_stack.fleet_state"), task.get("selfhosted.llm_stack.swarm_gpu_node", {})
        change = task.get("selfhosted.llm_stack.selectel_preemptible")
        if change:
            changes += 1
            assert held, task["name"]
            assert change["deadline"] == "{{ __recover_cloud_deadline }}", task["name"]
        if asked:
            held = asked["state"] == "held" and "__recover_lock_seconds" in asked["seconds"]
        elif change or "timeout" in waits or "ansible.builtin.include_tasks" in task:
            held = False
    assert changes


def test_no_playbook_or_role_takes_utc_for_the_control_node_s_own_time() -> None:
    """``now(utc=true)`` names no zone, and ``timestamp()`` takes what names none for local time."""
    files = [path for place in ("playbooks", "roles") for path in (ROOT / place).rglob("*.yml")]
    assert len(files) > 100
    amiss = re.compile(r"now\(utc=true\)\s*\.\s*timestamp|now\(utc=true, fmt='%s'\)")
    assert [str(path.relative_to(ROOT)) for path in files if amiss.search(path.read_text(encoding="utf-8"))] == []


def remember(control: Control, labels: dict[str, str]) -> None:
    """Let an earlier run have left these labels."""
    state = {"Name": NAME, "Labels": labels, "Data": base64.b64encode(CONTENT).decode()}
    control.swarm.configs["c1"] = {"ID": "c1", "Version": {"Index": 10}, "Spec": state}


def test_check_mode_shows_the_plan_and_changes_nothing(control: Control) -> None:
    # An empty value is none.
    control.declare(**{f"gpu_workers_{name}": None for name in ("budget", "rotate_gap", "breaker_limit", "breaker_window", "breaker_rest")})
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


def test_a_worker_that_the_manager_takes_for_ready_has_not_come_back_by_that(whole: Control) -> None:
    servers = ids(whole)
    whole.swarm.unnoticed = {servers["gpu1"]}
    whole.change(lambda cloud: cloud.interrupt(servers["gpu1"]))
    ended = whole.recover("-e", "llm_stack_recover_grace=1")
    assert ended.returncode == 0
    # It was not heard of since, so hands were laid on it.
    assert re.search(r"^gpu1 +:", ended.stdout, re.MULTILINE)


def test_a_restored_worker_whose_engine_is_silent_is_not_called_repaired(whole: Control) -> None:
    servers = ids(whole)
    whole.swarm.without_engine = {node_of(servers["gpu1"])}
    whole.change(lambda cloud: cloud.interrupt(servers["gpu1"]))
    ended = whole.recover()
    assert ended.returncode != 0
    said = summary(ended)
    assert (said["repaired"], said["refused"], said["person"]) == ([], {"gpu1": "its engine answers nothing"}, True)


def with_a_task(control: Control, place: int, task: dict[str, Any]) -> None:
    """Let something happen while a worker is brought in: at the beginning (0) or at the end (99)."""
    path = control.place / "playbooks" / "tasks" / "worker.yml"
    tasks = yaml.safe_load(path.read_text())
    tasks.insert(place, task)
    path.write_text(yaml.safe_dump(tasks))


@pytest.mark.long
def test_a_worker_whose_connection_is_lost_keeps_nobody_from_the_summary(control: Control) -> None:
    """The others are brought in, it is counted as not repaired, and nobody has to get up for it."""
    lost = {"lost": "{{ inventory_hostname == 'gpu1' }}"}
    with_a_task(control, 0, {"name": "Ask it", "ansible.builtin.command": {"argv": ["true"]}, "changed_when": False, "vars": lost})
    reached = {"ansible_connection": "{{ 'ssh' if lost | default(false) | bool else 'local' }}", "ansible_host": "127.0.0.1"}
    ended = control.recover("-vvv", "-e", json.dumps({**reached, "ansible_port": 9}))
    # One that is gone without a word is noticed within a minute.
    assert re.search(r"SSH: EXEC .* -o ServerAliveInterval=15 -o ServerAliveCountMax=4 ", ended.stdout)
    assert re.search(r"^gpu1 .*unreachable=1", ended.stdout, re.MULTILINE)
    said = summary(ended)
    assert (said["repaired"], list(said["refused"]), said["person"]) == (["gpu2"], ["gpu1"], False)
    assert "connection was lost" in said["refused"]["gpu1"]
    assert ended.returncode == 0
    assert "llm-stack.lock" not in control.swarm.labels
    control.write_roles()
    ended = control.recover()
    assert ended.returncode == 0
    assert (summary(ended)["healthy"], summary(ended)["repaired"]) == (["gpu2"], ["gpu1"])


@pytest.mark.long
def test_a_worker_that_is_interrupted_again_right_after_it_joined_is_left_to_the_next_run(control: Control) -> None:
    login = {name: FLEET[name] for name in ("auth", "fleet")}
    again = {**login, "name": "gpu1", "confirm": "gpu1"}
    task = {"name": "Lose it again", "selfhosted.llm_stack.fleet_interruption": again, "when": "inventory_hostname == 'gpu1'"}
    with_a_task(control, 99, {**task, "delegate_to": "localhost"})
    ended = control.recover()
    said = summary(ended)
    assert (said["repaired"], said["person"]) == (["gpu2"], False)
    assert "lost again" in said["refused"]["gpu1"]
    assert ended.returncode == 0
    assert "llm-stack.lock" not in control.swarm.labels


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


@pytest.mark.long
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


@pytest.mark.long
def test_when_one_zone_bears_all_another_bears_some_of_it(control: Control) -> None:
    control.change(lambda cloud: cloud.room.update(z2=0))
    assert control.recover().returncode == 0
    servers = ids(control)
    assert {one["OS-EXT-AZ:availability_zone"] for one in control.cloud.servers.values()} == {"z1"}
    control.change(lambda cloud: cloud.room.clear())
    control.swarm.labels.pop("llm-stack.memory")
    ended = control.recover("-e", "gpu_workers_regular_max=1")
    assert ended.returncode == 0
    assert "gpu2    hedge" in ended.stdout
    assert summary(ended)["rotated"] == ["gpu2"]
    assert {one["OS-EXT-AZ:availability_zone"] for one in control.cloud.servers.values()} == {"z1", "z2"}
    assert (ids(control)["gpu1"], sorted(ids(control))) == (servers["gpu1"], ["gpu1", "gpu2"])
    assert control.cloud.orphans() == []


@pytest.mark.parametrize("going", ["shed", pytest.param("retire", marks=pytest.mark.long)])
def test_a_worker_whose_end_was_cut_short_serves_again_where_it_is_needed(whole: Control, going: str) -> None:
    """It was drained, and its server could not be removed: a run that wants it back finds it by the label of the drain."""
    first = ids(whole)["gpu2"]
    whole.change(lambda cloud: cloud.servers[first].update(locked=True))
    if going == "shed":
        whole.declare(gpu_fleet={**FLEET, "count": 1}, gpu_workers_spare="1", gpu_workers_budget="1")
    else:
        age(whole, "gpu2")
    assert whole.recover().returncode != 0
    spec = whole.swarm.specs[first]
    assert spec["Availability"] == "drain"
    # The autoscaler reckons by its own clock how long the last requests have had.
    assert abs(time.time() - int(spec["Labels"]["llm-stack.scaled-in"])) < 300

    def undo(cloud: StandinCloud) -> None:
        cloud.servers[first].update(locked=False)
        for name in [one["id"] for one in cloud.alive() if one["name"] == "gpu2" and one["id"] != first]:
            cloud.interrupt(name)

    whole.change(undo)
    whole.declare()
    assert whole.recover("-e", "gpu_workers_rotate_before=0").returncode == 0
    spec = whole.swarm.specs[first]
    assert (spec["Availability"], "llm-stack.scaled-in" in spec["Labels"]) == ("active", False)


def test_a_budget_of_0_starts_nothing(control: Control) -> None:
    control.declare(gpu_workers_budget="0")
    assert control.recover().returncode != 0
    assert control.cloud.servers == {}


@pytest.mark.parametrize("kind", [int, str])
def test_0_is_a_value_as_a_number_and_as_a_string(control: Control, kind: type) -> None:
    """Schedulers give strings, inventories numbers: neither 0 is the default."""
    names = ("rotate_before", "rotate_gap", "breaker_limit", "breaker_window", "breaker_rest", "budget", "min")
    control.declare(llm_stack_autoscaler="true", **{f"gpu_workers_{name}": kind(0) for name in names})
    ended = control.recover("--check", "-vvv")
    for name in (*names[:-1], "workers_min"):
        assert re.search(rf'"{name}": 0(\.0)?[,\n]', ended.stdout), name


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


@pytest.mark.parametrize("holder", ["another run", ""], ids=["taken", "removed by hand"])
def test_a_lock_that_is_lost_on_the_way_ends_the_run_well_and_nothing_unproven_is_called_repaired(control: Control, holder: str) -> None:
    """The other run acts, or the next one does."""
    label = json.dumps({"owner": holder, "token": "t", "since": 0.0, "until": time.time() + 600})

    def lose_it() -> None:
        """Right after a worker has joined."""
        end = time.monotonic() + 300
        while not list((control.place / "joined").iterdir()) and time.monotonic() < end:
            time.sleep(0.05)
        with control.swarm.lock:
            control.swarm.labels.update({"llm-stack.lock": label}) if holder else control.swarm.configs.clear()

    thief = threading.Thread(target=lose_it)
    thief.start()
    ended = control.recover()
    thief.join()
    assert ended.returncode == 0
    said = summary(ended)
    assert (said["held_by"], said["repaired"], said["person"]) == (holder or "nobody any more", [], False)
    assert control.edge.questions == 0
    assert control.swarm.labels.get("llm-stack.lock", "") == (label if holder else "")


def test_a_budget_as_a_string_is_kept(control: Control) -> None:
    ended = control.recover("-e", "gpu_workers_budget=31")
    assert ended.returncode != 0
    said = summary(ended)
    assert set(said["refused"]) == {"gpu1", "gpu2"}
    assert "31.00 is the budget" in said["refused"]["gpu1"] or len(control.cloud.servers) == 1
    assert "The edge answers nothing" in " ".join(said["reasons"])


@pytest.mark.long
def test_what_the_budget_does_not_bear_goes_though_the_disks_of_others_may_be_lost_too(whole: Control) -> None:
    whole.declare(gpu_fleet={**FLEET, "count": 1}, gpu_workers_spare="1", gpu_workers_budget="1")
    # As it is when others took long to come up: what was decided before is not done any more.
    late = whole.recover("-e", json.dumps({"llm_stack_recover_marks": [["look", time.time() - 301]]}))
    assert summary(late)["ended"] == []
    assert len(whole.cloud.servers) == 2
    ended = whole.recover()
    # What is declared serves on, and somebody has to know.
    assert ended.returncode != 0
    assert "with those alone that are declared: they serve on" in " ".join(summary(ended)["reasons"])
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


@pytest.mark.parametrize("over", ["false", ""])
def test_site_starts_nothing_that_the_budget_does_not_bear(control: Control, over: str) -> None:
    control.declare(gpu_workers_budget="721", llm_stack_provision_over_budget=over)
    refused = control.play("provision", *(["--check"] if over else []))
    assert refused.returncode != 0
    said = " ".join(refused.stdout[refused.stdout.index("Say why") :].split())
    # Which of the two it is depends on what is left of the day.
    text = r"Refusing to start gpu2: there is no server\. It would bring (the|every) day to [\d.]+, and 721\.00 is the budget"
    assert re.search(text, said)
    assert "set llm_stack_provision_over_budget=true" in said
    assert control.cloud.writes() == []
    assert not control.swarm.configs or set(control.swarm.labels) == set()


@pytest.mark.long
def test_what_site_starts_beyond_the_budget_when_told_to_counts_against_the_day(control: Control) -> None:
    control.declare(gpu_workers_budget="721", gpu_fleet={**FLEET, "allow_regular": "true"})
    made = control.play("provision", "-e", "llm_stack_provision_over_budget=true")
    assert made.returncode == 0
    assert sorted(ids(control)) == ["gpu1", "gpu2"]
    # The dearest it may have come to; the next look takes back what it was not.
    ledger = json.loads(control.swarm.labels["llm-stack.ledger"])
    assert (ledger["bill"], set(ledger["begun"])) == (200.0, {"gpu1", "gpu2"})
    assert "llm-stack.lock" not in control.swarm.labels
    control.recover()
    assert json.loads(control.swarm.labels["llm-stack.ledger"])["bill"] == 60.0


@pytest.mark.long
def test_within_the_budget_site_makes_what_is_declared_and_no_regular_server_that_is_too_dear(control: Control) -> None:
    day, second = divmod(time.time(), 86400)
    hour = int(second // 3600)
    # What is left of the day bears two preemptible ones, and no regular one beside a preemptible one.
    spent = {"day": int(day), "hour": hour, "closed": 2000.0 - 60 * (24 - hour) - 10, "bill": 0.0, "rate": 0.0, "begun": {}}
    remember(control, {"llm-stack.ledger": json.dumps(spent), "llm-stack.rotated": "7.0"})
    control.declare(gpu_workers_budget="2000", gpu_fleet={**FLEET, "allow_regular": True})
    control.change(lambda cloud: setattr(cloud, "strips_tags", True))
    failed = control.play("provision")
    assert failed.returncode != 0
    assert "came up regular" in failed.stdout
    made = [body["server"]["metadata"][MEANT_KEY] for body in control.cloud.bodies if body and "server" in body]
    assert set(made) == {"true"}
    control.change(lambda cloud: setattr(cloud, "strips_tags", False))
    assert control.play("provision").returncode == 0
    assert sorted(ids(control)) == ["gpu1", "gpu2"]
    labels = control.swarm.labels
    assert (json.loads(labels["llm-stack.ledger"])["closed"], labels["llm-stack.rotated"]) == (spent["closed"], "7.0")
    # Nothing is to be started any more: nothing is refused, whatever the day costs.
    control.declare(gpu_workers_budget="0")
    assert control.play("provision").returncode == 0


def test_where_the_budget_bears_the_restore_alone_site_makes_nothing_anew(whole: Control) -> None:
    day, second = divmod(time.time(), 86400)
    hour = int(second // 3600)
    # Beside the other one and the disks of both, a restore brings an hour to 260, and a new server with its own disk to 360.
    spent = {"day": int(day), "hour": hour, "closed": 7000.0 - 260 * (24 - hour) - 5, "bill": 0.0, "rate": 0.0, "begun": {}}
    whole.swarm.labels["llm-stack.ledger"] = json.dumps(spent)
    whole.declare(gpu_workers_budget="7000", gpu_fleet={**FLEET, "prices": {**FLEET["prices"], "volume_gb": 10.0}})
    first = ids(whole)["gpu1"]

    def lose(cloud: StandinCloud) -> None:
        cloud.interrupt(first)
        cloud.room[cloud.servers[first]["OS-EXT-AZ:availability_zone"]] = 0
        cloud.log.clear()

    whole.change(lose)
    failed = whole.play("provision")
    assert failed.returncode != 0
    assert "is to be restored and not made anew" in failed.stdout
    assert [path for method, path in whole.cloud.writes() if path == "/servers"] == []
    assert "llm-stack.lock" not in whole.swarm.labels


def test_site_that_cannot_write_down_what_it_will_cost_starts_nothing_and_gives_the_lock_up(whole: Control) -> None:
    path = whole.place / "playbooks" / "provision.yml"
    plays = yaml.safe_load(path.read_text())
    (count,) = [play for play in plays if play["name"] == "Have others count what it costs"]
    count["tasks"][0]["block"].insert(0, {"name": "Fail", "ansible.builtin.fail": {"msg": "the quorum is away"}})
    path.write_text(yaml.safe_dump(plays))
    whole.declare(gpu_workers_budget="100000")
    whole.change(lambda cloud: [cloud.interrupt(server) for server in cloud.servers])
    before = len(whole.cloud.writes())
    failed = whole.play("provision")
    assert failed.returncode != 0
    assert "the quorum is away" in failed.stdout[failed.stdout.index("Say why") :]
    assert len(whole.cloud.writes()) == before
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


@pytest.mark.long
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
    remember(control, {})
    return control


def test_an_upgrade_gives_a_node_that_does_not_come_free_its_tasks_back(fleet: Control) -> None:
    """The upgrade stops there; what it did not touch must not be left without work until somebody has seen to it."""
    server = next(iter(fleet.cloud.servers))
    for one in fleet.cloud.servers:
        (fleet.place / "joined" / one).touch()
    found = {task["NodeID"]: task for task in fleet.swarm.tasks()}
    fleet.swarm.tasks = lambda: list(found.values())  # type: ignore[method-assign]
    tasks = [{"name": "Empty", "ansible.builtin.include_tasks": "tasks/upgrade_empty.yml"}]
    play = [{"name": "Empty", "hosts": "swarm_managers", "gather_facts": False, "tasks": tasks}]
    (fleet.place / "playbooks" / "empty.yml").write_text(yaml.safe_dump(play))
    ended = fleet.play("empty", "-e", f"__upgrade_emptied={node_of(server)}", "-e", "gpu_worker_drain_timeout=1")
    assert ended.returncode != 0
    assert "still runs" in ended.stdout[ended.stdout.index("Require a node that is free of tasks") :]
    assert (fleet.swarm.specs[server]["Availability"], "llm-stack.drained-from" in fleet.swarm.specs[server]["Labels"]) == ("active", False)
    found.clear()
    assert fleet.play("empty", "-e", f"__upgrade_emptied={node_of(server)}").returncode == 0
    assert fleet.swarm.specs[server]["Availability"] == "drain"


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
    # What a form gives for an answer that was left empty is no leave to do without the lock.
    assert fleet.play("teardown", "-e", "llm_stack_teardown_confirm=llm llm_stack_teardown_lock=''").returncode != 0
    assert fleet.cloud.writes() == []
    assert json.loads(fleet.swarm.labels["llm-stack.lock"]) == lock
    del fleet.swarm.labels["llm-stack.lock"]
    assert fleet.play("teardown", "-e", "llm_stack_teardown_confirm=llm").returncode == 0
    cloud = fleet.cloud
    assert (cloud.servers, cloud.ports, cloud.volumes, cloud.addresses) == ({}, {}, {}, {})
    assert "llm-stack.lock" not in fleet.swarm.labels


def test_a_fleet_whose_name_is_a_number_is_not_torn_down_beside_another_run(control: Control) -> None:
    control.change(lambda cloud: run_fleet(cloud, fleet="7"))
    lock = {"owner": "a rotation", "token": "t", "since": time.time(), "until": time.time() + 600}
    remember(control, {"llm-stack.lock": json.dumps(lock)})
    control.declare(gpu_fleet={**FLEET, "fleet": 7})
    refused = control.play("teardown", "-e", "llm_stack_teardown_confirm=7")
    assert refused.returncode != 0
    assert "a rotation holds the lock of the fleet until" in " ".join(refused.stdout.split())
    assert len(control.cloud.servers) == 1


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
