# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every state of a server, in every trouble: the right outcome, and no more calls than it takes."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import Refused
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.states import KINDS
from fleetkit import Z1, begin, remove_fleet, run_fleet, wanted
from standin_cloud import Response, StandinCloud, refusal

SETTLING = ("BUILD", "REBOOT", "HARD_REBOOT", "REBUILD", "MIGRATING", "RESIZE", "REVERT_RESIZE")
INTERRUPTED = ("SHELVED", "SHELVED_OFFLOADED", "EXPIRED")
LEFT_ALONE = ("ACTIVE", "PASSWORD", "VERIFY_RESIZE", "SHUTOFF", "PAUSED", "SUSPENDED", "RESCUE")
TROUBLES = ("none", "tag dropped", "no capacity", "quota", "locked", "deleted")

# What becomes of a server in a state: without trouble, its tag dropped, no room where it is, quota full, locked, deleted.
OUTCOMES = {
    **dict.fromkeys(LEFT_ALONE, ("kept", "blocked", "kept", "kept", "kept", "created")),
    **dict.fromkeys(SETTLING, ("adopted", "blocked", "adopted", "adopted", "adopted", "created")),
    **dict.fromkeys(INTERRUPTED, ("restored", "blocked", "replaced", "restored", "blocked", "created")),
    "ERROR": ("replaced", "replaced", "replaced", "failed", "blocked", "created"),
    "UNKNOWN": ("blocked", "blocked", "blocked", "blocked", "blocked", "created"),
    **dict.fromkeys(("DELETED", "SOFT_DELETED"), ("created", "created", "created", "failed", "created", "created")),
}


def server_in(cloud: StandinCloud, state: str) -> str:
    """Make the fleet, and put its server into a state."""
    run_fleet(cloud)
    (server,) = list(cloud.servers)
    cloud.set_status(server, state, "rebooting" if state in SETTLING else None)
    if state in SETTLING:
        cloud.servers[server]["_until"] = (cloud.now + 3, cloud._run)
    cloud.log.clear()
    return server


def trouble(cloud: StandinCloud, server: str, kind: str) -> None:
    one = cloud.servers[server]
    if kind == "tag dropped":
        one["tags"].clear()
    elif kind == "no capacity":
        cloud.room["z1"] = 0
    elif kind == "quota":
        cloud.quota = 1
    elif kind == "locked":
        one["locked"] = True
    elif kind == "deleted":
        cloud._deleted(one)


def test_the_table_knows_every_status_of_nova() -> None:
    assert set(OUTCOMES) == set(KINDS)
    assert len(OUTCOMES) >= 12


@pytest.mark.parametrize("kind", TROUBLES)
@pytest.mark.parametrize("state", OUTCOMES)
def test_outcome(state: str, kind: str) -> None:
    cloud = StandinCloud()
    server = server_in(cloud, state)
    trouble(cloud, server, kind)
    ended = run_fleet(cloud)
    expected = OUTCOMES[state][TROUBLES.index(kind)]
    assert ended.actions == {"gpu1": expected}, ended.reason
    assert ended.ok == (expected not in ("blocked", "failed"))
    assert ended.reason
    if expected in ("kept", "blocked"):
        assert cloud.writes() == []
        assert ended.calls.read == 4
    if expected == "restored":
        assert cloud.writes() == [("POST", f"/servers/{server}/action")]


@pytest.mark.parametrize("state", [state for state, outcomes in OUTCOMES.items() if outcomes[0] not in ("blocked",)])
def test_a_second_run_changes_nothing(state: str) -> None:
    cloud = StandinCloud()
    server_in(cloud, state)
    run_fleet(cloud)
    cloud.log.clear()
    again = run_fleet(cloud)
    assert again.plan.plan.steps == ()
    assert cloud.writes() == []
    assert again.calls.read == 4


@pytest.mark.parametrize("state", ["SHUTOFF", "PAUSED", "SUSPENDED"])
def test_a_stopped_server_is_started_only_when_asked(state: str) -> None:
    cloud = StandinCloud()
    server = server_in(cloud, state)
    assert run_fleet(cloud, start_stopped=True).actions == {"gpu1": "started"}
    assert cloud.servers[server]["status"] == "ACTIVE"


@pytest.mark.parametrize(("state", "task"), [("SHELVED_OFFLOADED", "unshelving"), ("SHUTOFF", "powering-on"), ("ACTIVE", "rebooting")])
def test_a_task_under_way_is_waited_for(state: str, task: str) -> None:
    cloud = StandinCloud()
    server = server_in(cloud, state)
    cloud.servers[server].update({"OS-EXT-STS:task_state": task, "_until": (cloud.now + 5, cloud._run)})
    ended = run_fleet(cloud)
    assert (ended.actions, ended.ok) == ({"gpu1": "adopted"}, True)
    assert cloud.writes() == []


@pytest.mark.parametrize("state", ["ACTIVE", "SHELVED_OFFLOADED", "SHUTOFF"])
def test_the_switch_to_regular_and_back_is_explicit(state: str) -> None:
    cloud = StandinCloud()
    server = server_in(cloud, state)
    plan = run_fleet(cloud, switch_to_regular=["gpu1"])
    assert plan.actions == {"gpu1": "switched"}
    assert cloud.servers[server]["tags"] == []
    assert plan.plan.cost_after - plan.plan.cost_before == (100.0 if state == "SHELVED_OFFLOADED" else 70.0)
    assert run_fleet(cloud, switch_to_regular=["gpu1"]).plan.plan.steps == ()
    assert run_fleet(cloud, switch_to_preemptible=["gpu1"]).actions == {"gpu1": "switched"}
    assert cloud.servers[server]["tags"] == ["preemptible"]


def test_a_lost_tag_is_an_alarm_with_its_price() -> None:
    cloud = StandinCloud()
    server = server_in(cloud, "ACTIVE")
    cloud.servers[server]["tags"].clear()
    ended = run_fleet(cloud)
    assert not ended.ok
    assert ended.reason == (
        f"{server} is meant to be preemptible and has lost the tag preemptible: it costs 100 RUB an hour instead of 30 RUB an hour. "
        "Name gpu1 in switch_to_preemptible to set the tag again, or in switch_to_regular to keep it so"
    )


@pytest.mark.parametrize("lost", ["before", "on the way"])
def test_a_server_that_comes_back_without_its_tag_is_an_alarm_with_its_price(lost: str) -> None:
    cloud = StandinCloud()
    first = server_in(cloud, "SHELVED_OFFLOADED")
    cloud.room = {"z1": 0}
    run_fleet(cloud)
    (second,) = set(cloud.servers) - {first}
    cloud.interrupt(second)
    cloud.room = {"z2": 0}

    def lose(_cloud: StandinCloud, _service: str, _method: str, path: str, _answer: Any) -> None:
        if lost == "before" or path == f"/servers/{first}/action":
            cloud.servers[first]["tags"].clear()

    cloud.fault = lose
    ended = run_fleet(cloud)
    # The newest has no room, and the older one comes back.
    assert (ended.actions, ended.ok) == ({"gpu1": "restored"}, False)
    assert f"{first} is meant to be preemptible and has lost the tag preemptible: it costs 100 RUB an hour instead of" in ended.reason
    cloud.fault = None
    assert run_fleet(cloud, switch_to_preemptible=["gpu1"]).ok


@pytest.mark.parametrize("how", ["refused", "in vain"])
def test_a_start_after_which_the_server_does_not_run_is_no_success(how: str) -> None:
    cloud = StandinCloud()
    server = server_in(cloud, "SHUTOFF")
    conflict = refusal(409, "Cannot 'start' instance while it is in task_state None")
    cloud.fault = lambda _cloud, _service, _method, path, _answer: (
        (conflict if how == "refused" else Response(202)) if path.endswith("/action") else None
    )
    ended = run_fleet(cloud, start_stopped=True)
    assert (ended.actions, ended.ok) == ({"gpu1": "started"}, False)
    assert f"{server} was to run and is SHUTOFF" in ended.reason
    assert ("Cannot 'start' instance" in ended.reason) == (how == "refused")


def test_a_change_that_would_drop_the_tag_is_refused() -> None:
    cloud = StandinCloud()
    server_in(cloud, "ACTIVE")
    with pytest.raises(Refused, match="Refusing to make gpu1 regular: all its placements are regular"):
        run_fleet(cloud, placements=[{**Z1, "preemptible": False}])
    assert cloud.writes() == []


def test_a_server_that_comes_up_regular_is_deleted_and_the_next_placement_tried() -> None:
    cloud = StandinCloud()
    cloud.strips_tags = True
    ended = run_fleet(cloud)
    assert not ended.ok
    assert "the new server came up regular, without the tag preemptible; it would cost 100 RUB an hour" in ended.reason
    assert set(ended.run.memory) == {"r1/z1/GL10/preemptible", "r1/z2/GL10/preemptible"}
    assert (cloud.servers, cloud.orphans()) == ({}, [])


def test_the_ladder_goes_from_restore_to_other_zone_to_regular_to_reasons() -> None:
    cloud = StandinCloud()
    first = server_in(cloud, "SHELVED_OFFLOADED")
    cloud.room = {"z1": 0, "z2": 0}
    ended = run_fleet(cloud)
    assert not ended.ok
    for part in (f"there is no capacity to restore {first}", "r1/z2/GL10/preemptible: No valid host was found"):
        assert part in ended.reason
    assert list(cloud.servers) == [first]
    assert cloud.orphans() == []
    # A regular server may find room where no preemptible one does.
    built = cloud._take_room
    cloud._take_room = lambda server: not server["tags"] or built(server)  # type: ignore[method-assign]
    ended = run_fleet(cloud, allow_regular=True, memory=ended.run.memory)
    assert ended.actions == {"gpu1": "replaced"}
    assert [one["tags"] for one in cloud.alive("gpu1")] == [[]]
    assert run_fleet(cloud, allow_regular=True).plan.plan.steps == ()


@pytest.mark.parametrize("tells", [True, False])
def test_a_silent_restore_failure_is_noticed_in_time(tells: bool) -> None:
    cloud = StandinCloud()
    server_in(cloud, "SHELVED_OFFLOADED")
    cloud.room = {"z1": 0}
    cloud.tells_actions = tells
    began = cloud.now
    assert run_fleet(cloud).actions == {"gpu1": "replaced"}
    assert cloud.now - began < 40


def test_a_failed_placement_is_tried_last_for_a_while() -> None:
    cloud = StandinCloud()
    cloud.room = {"z1": 0}
    ended = run_fleet(cloud)
    assert ended.actions == {"gpu1": "created"}
    (server,) = list(cloud.servers)
    cloud._deleted(cloud.servers[server])
    cloud.room = {}
    assert run_fleet(cloud, memory=ended.run.memory).plan.plan.sentences[0].startswith("Create gpu1 at r1/z2/GL10")
    cloud._deleted(next(iter(cloud.servers.values())))
    cloud.now += 3600
    assert run_fleet(cloud, memory=ended.run.memory).plan.plan.sentences[0].startswith("Create gpu1 at r1/z1/GL10")


def test_a_local_disk_is_given_up_only_by_name() -> None:
    options = {"boot": "local", "volume_size": None, "placements": [{"region": "r1", "zone": "z1", "flavor": "LOC"}]}
    cloud = StandinCloud()
    run_fleet(cloud, **options)
    (server,) = list(cloud.servers)
    cloud.interrupt(server)
    ended = run_fleet(cloud, **options)
    assert (ended.ok, ended.actions) == (False, {"gpu1": "blocked"})
    assert "name gpu1 in allow_data_loss to create it anew" in ended.reason
    assert list(cloud.servers) == [server]
    assert run_fleet(cloud, **options, allow_data_loss=["gpu1"]).actions == {"gpu1": "replaced"}
    assert server not in cloud.servers
    assert cloud.orphans() == []
    (server,) = list(cloud.servers)
    cloud.interrupt(server)
    # Elsewhere the disk is kept as an image while the server is shelved.
    assert run_fleet(cloud, **options, profile="openstack").actions == {"gpu1": "restored"}


def test_a_fixed_address_is_kept_by_the_successor() -> None:
    options = {"networks": [{"network": "lan", "fixed_ip": "10.0.0.77"}]}
    cloud = StandinCloud()
    run_fleet(cloud, **options)
    (server,) = list(cloud.servers)
    cloud.interrupt(server)
    cloud.room = {"z1": 0}
    ended = run_fleet(cloud, **options)
    assert not ended.ok
    assert f"A successor needs the address that {server} holds: name gpu1 in allow_data_loss" in ended.reason
    assert run_fleet(cloud, **options, allow_data_loss=["gpu1"]).actions == {"gpu1": "replaced"}
    assert [one["addresses"]["lan"][0]["addr"] for one in cloud.servers.values()] == ["10.0.0.77"]
    assert cloud.orphans() == []


def test_a_port_of_the_user_s_is_kept_by_the_restored_and_the_new_server_and_outlives_the_fleet() -> None:
    options = {"networks": [{"port": "theirs"}], "allow_data_loss": ["gpu1"]}
    cloud = StandinCloud()
    cloud.ports["theirs"] = {**cloud._new_port({"description": "theirs"}), "id": "theirs"}
    del cloud.ports["port-0001"]
    run_fleet(cloud, **options)
    (first,) = list(cloud.servers)
    cloud.interrupt(first)
    assert run_fleet(cloud, **options).actions == {"gpu1": "restored"}
    assert cloud.ports["theirs"]["device_id"] == first
    cloud.interrupt(first)
    cloud.room = {"z1": 0}
    assert run_fleet(cloud, **options).actions == {"gpu1": "replaced"}
    (second,) = list(cloud.servers)
    assert second != first
    assert cloud.ports["theirs"]["device_id"] == second
    assert [one.action for one in remove_fleet(cloud)] == ["removed"]
    assert list(cloud.ports) == ["theirs"]


def test_a_replaced_server_stays_as_left_over_until_its_loss_is_allowed() -> None:
    cloud = StandinCloud()
    old = server_in(cloud, "SHELVED_OFFLOADED")
    cloud.room = {"z1": 0}
    run_fleet(cloud)
    assert len(cloud.servers) == 2
    # When the new one is interrupted too, both are tried, the newest first.
    new = next(name for name in cloud.servers if name != old)
    cloud.interrupt(new)
    cloud.room = {"z2": 0}
    assert run_fleet(cloud).actions == {"gpu1": "restored"}
    assert cloud.servers[old]["status"] == "ACTIVE"
    cloud.interrupt(old)
    cloud.room = {}
    assert run_fleet(cloud).actions == {"gpu1": "restored"}
    assert cloud.servers[new]["status"] == "ACTIVE"
    assert run_fleet(cloud, allow_data_loss=["gpu1"]).ok
    assert list(cloud.servers) == [new]
    assert cloud.orphans() == []


def test_what_a_server_has_is_merged_with_and_not_replaced() -> None:
    cloud = StandinCloud()
    server = server_in(cloud, "ACTIVE")
    one = cloud.servers[server]
    one["tags"].append("theirs")
    one["metadata"]["theirs"] = "x"
    (port,) = list(cloud.ports.values())
    options = {"tags": ["ours"], "metadata": {"ours": 1}, "security_groups": ["ssh"], "floating_network": "ext"}
    ended = run_fleet(cloud, **options)
    assert ended.actions == {"gpu1": "updated"}
    assert one["tags"] == ["preemptible", "theirs", "ours"]
    assert (one["metadata"]["theirs"], one["metadata"]["ours"]) == ("x", "1")
    assert port["security_groups"] == ["g-def", "g-ssh"]
    assert [address["port_id"] for address in cloud.addresses.values()] == [port["id"]]
    assert ended.plan.plan.after["gpu1"]["tags"] == ["ours", "preemptible", "theirs"]
    assert run_fleet(cloud, **options).plan.plan.steps == ()


@pytest.mark.parametrize(("method", "times", "revisions"), [("POST", 1, True), ("POST", 1, False), ("PUT", 3, True)])
def test_a_security_group_that_others_add_meanwhile_stays(method: str, times: int, revisions: bool) -> None:
    cloud = StandinCloud()
    cloud.has_revisions = revisions
    server_in(cloud, "SHELVED_OFFLOADED")
    port = next(iter(cloud.ports))
    theirs: list[str] = []

    def add(_cloud: StandinCloud, _service: str, asked: str, _path: str, _answer: Any) -> None:
        # While the server is restored, or between the reading of its port and the writing.
        if asked == method and len(theirs) < times:
            theirs.append(f"g-theirs-{len(theirs)}")
            cloud.change_port(port, security_groups=[*cloud.ports[port]["security_groups"], theirs[-1]])

    cloud.fault = add
    assert run_fleet(cloud, security_groups=["ssh"]).ok
    assert sorted(cloud.ports[port]["security_groups"]) == sorted(["g-def", "g-ssh", *theirs])
    assert len(theirs) == times


def test_a_port_that_never_stays_as_it_was_read_is_that_server_s_failure() -> None:
    cloud = StandinCloud()
    server_in(cloud, "SHELVED_OFFLOADED")
    port = next(iter(cloud.ports))
    cloud.fault = lambda _cloud, _service, method, _path, _answer: cloud.change_port(port) if method == "PUT" else None  # type: ignore[func-returns-value]
    ended = run_fleet(cloud, security_groups=["ssh"])
    assert ended.actions == {"gpu1": "failed"}
    assert "network of r1 answered 412" in ended.reason
    assert cloud.ports[port]["security_groups"] == ["g-def"]


def test_a_public_address_moves_to_the_successor() -> None:
    cloud = StandinCloud()
    run_fleet(cloud, floating_network="ext")
    (server,) = list(cloud.servers)
    (address,) = list(cloud.addresses)
    cloud.interrupt(server)
    cloud.room = {"z1": 0}
    assert run_fleet(cloud, floating_network="ext").actions == {"gpu1": "replaced"}
    assert list(cloud.addresses) == [address]
    (new,) = cloud.alive("gpu1")
    assert cloud.ports[cloud.addresses[address]["port_id"]]["device_id"] == new["id"]


def test_servers_of_others_are_not_seen() -> None:
    cloud = StandinCloud()
    run_fleet(cloud, fleet="other")
    before = dict(next(iter(cloud.servers.values())))
    assert run_fleet(cloud).actions == {"gpu1": "created"}
    assert cloud.servers[before["id"]] == before


def test_a_server_no_longer_declared_is_reported_and_stays() -> None:
    cloud = StandinCloud()
    run_fleet(cloud, servers=[{"name": "gpu1"}, {"name": "gpu2"}])
    ended = run_fleet(cloud)
    (warning,) = ended.plan.plan.warnings
    assert "The fleet llm has a server gpu2 (" in warning
    assert len(cloud.servers) == 2


def test_eight_interrupted_servers_are_restored_in_little_more_than_the_time_of_one() -> None:
    cloud = StandinCloud()
    options = {"servers": [], "name_pattern": "gpu{n}", "count": 8, "deadline": 3000}
    run_fleet(cloud, **options)
    for server in cloud.servers:
        cloud.interrupt(server)
    ended = run_fleet(cloud, **options)
    assert set(ended.actions.values()) == {"restored"}
    assert ended.calls.write == 8


def test_the_plan_alone_writes_nothing_and_tells_the_cost() -> None:
    cloud = StandinCloud()
    run, calls = begin([cloud])
    desired = wanted(floating_network="ext")
    plan = run.plan(run.read(desired), desired)
    assert plan.plan.sentences == ["Create gpu1 at r1/z1/GL10/preemptible, flavor GL10, for 30 RUB an hour: there is no server"]
    assert (plan.cost_before, round(plan.cost_after, 3)) == (0, 30.4)
    assert plan.plan.after["gpu1"] == {"status": "ACTIVE", "placement": "r1/z1/GL10/preemptible", "flavor": "GL10", "image": "golden-2"}
    assert cloud.writes() == []
    assert (calls.read, calls.write) == (7, 0)


def test_two_regions_are_one_fleet() -> None:
    here, there = StandinCloud("r1"), StandinCloud("r2")
    here.room = {"z1": 0}
    placements = [Z1, {"region": "r2", "zone": "z9", "flavor_match": {"gpu": "T4", "vcpus": 2}}]
    ended = run_fleet(here, there, placements=placements)
    assert ended.actions == {"gpu1": "created"}
    assert (here.servers, here.orphans()) == ({}, [])
    (server,) = list(there.servers.values())
    assert server["flavor"]["original_name"] == "GL10"
    assert run_fleet(here, there, placements=placements).plan.plan.steps == ()
