# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A successor beside a running server, so that the first goes only once the second has proven itself; and a restore that is not wanted."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.report import current_server
from fleetkit import Ended, begin, run_fleet
from standin_cloud import StandinCloud

SUCCESSOR = {"servers": [{"name": "gpu1", "successor": True}], "floating_network": "ext"}
RETIRE = {"servers": [{"name": "gpu1"}], "floating_network": "ext", "allow_data_loss": ["gpu1"]}


@pytest.fixture
def cloud() -> StandinCloud:
    return StandinCloud()


def made(cloud: StandinCloud, **options: Any) -> str:
    """Make the fleet and return its server's ID."""
    run_fleet(cloud, floating_network="ext", **options)
    (server,) = cloud.servers
    return server


def chosen(cloud: StandinCloud) -> str:
    """The server that the inventory lists."""
    run, _calls = begin([cloud])
    server = current_server(run.look("llm").servers)
    assert server
    return server.id


def addressed(cloud: StandinCloud) -> list[str]:
    """The servers that public addresses lead to."""
    return sorted(cloud.ports[one["port_id"]]["device_id"] for one in cloud.addresses.values() if one["port_id"])


def test_a_successor_is_made_beside_its_predecessor_and_has_an_address_of_its_own(cloud: StandinCloud) -> None:
    first = made(cloud)
    ended = run_fleet(cloud, **SUCCESSOR)
    assert ended.actions == {"gpu1": "succeeded"}
    assert any("Create a successor of gpu1" in text for text in ended.plan.plan.sentences)
    (second,) = set(cloud.servers) - {first}
    assert [cloud.servers[one]["status"] for one in (first, second)] == ["ACTIVE", "ACTIVE"]
    assert addressed(cloud) == sorted([first, second])
    assert chosen(cloud) == second
    again = run_fleet(cloud, **SUCCESSOR)
    assert again.actions == {"gpu1": "kept"}
    assert set(cloud.servers) == {first, second}


def test_its_predecessor_goes_with_all_that_was_its_own(cloud: StandinCloud) -> None:
    first = made(cloud)
    run_fleet(cloud, **SUCCESSOR)
    ended = run_fleet(cloud, **RETIRE)
    assert ended.ok
    assert first not in cloud.servers
    assert len(cloud.servers) == len(cloud.ports) == len(cloud.volumes) == len(cloud.addresses) == 1
    assert addressed(cloud) == list(cloud.servers)
    assert cloud.orphans() == []
    assert run_fleet(cloud, **RETIRE).plan.plan.steps == ()


def test_without_leave_to_lose_its_disk_a_predecessor_stays(cloud: StandinCloud) -> None:
    first = made(cloud)
    run_fleet(cloud, **SUCCESSOR)
    run_fleet(cloud, floating_network="ext")
    assert first in cloud.servers


def test_a_predecessor_is_kept_where_nobody_knows_whether_its_successor_serves(cloud: StandinCloud) -> None:
    first = made(cloud)
    run_fleet(cloud, **SUCCESSOR)
    both = set(cloud.servers)
    ended = run_fleet(cloud, **RETIRE, keep_predecessors=True)
    (second,) = both - {first}
    assert set(cloud.servers) == both
    assert ended.actions == {"gpu1": "kept"}
    assert f"gpu1 has a second server {first} (ACTIVE): {second} is its successor" in ended.plan.plan.warnings[0]
    assert addressed(cloud) == sorted(both)
    # What nobody is served by any more may go as ever.
    cloud.interrupt(first)
    run_fleet(cloud, **RETIRE, keep_predecessors=True)
    assert list(cloud.servers) == [second]
    assert cloud.orphans() == []


def test_a_successor_that_is_lost_is_made_anew_and_leaves_nothing(cloud: StandinCloud) -> None:
    first = made(cloud)
    run_fleet(cloud, **SUCCESSOR)
    (second,) = set(cloud.servers) - {first}
    cloud.interrupt(second)
    run_fleet(cloud, **SUCCESSOR, allow_data_loss=["gpu1"])
    (third,) = set(cloud.servers) - {first}
    assert third != second
    assert chosen(cloud) == third


def in_its_third_life(cloud: StandinCloud) -> tuple[str, str]:
    """Bring the slot to a successor of what stood in for the first server; return the first, which is interrupted, and the successor."""
    first = made(cloud)
    cloud.interrupt(first)
    cloud.room = {"z1": 0}
    run_fleet(cloud, floating_network="ext")
    (second,) = set(cloud.servers) - {first}
    run_fleet(cloud, **SUCCESSOR)
    (third,) = set(cloud.servers) - {first, second}
    cloud._deleted(cloud.servers[second])
    cloud.sleep(4000)
    return first, third


def test_what_comes_back_by_hand_takes_no_place_from_the_successor_of_its_successor(cloud: StandinCloud) -> None:
    first, third = in_its_third_life(cloud)
    cloud.set_status(first, "ACTIVE")
    ended = run_fleet(cloud, floating_network="ext")
    assert set(cloud.servers) == {first, third}
    assert chosen(cloud) == third
    assert f"gpu1 has a second server {first} (ACTIVE): {third} is its successor" in ended.plan.plan.warnings[0]
    run_fleet(cloud, **RETIRE)
    assert list(cloud.servers) == [third]


def test_a_note_names_what_its_predecessor_stood_in_for(cloud: StandinCloud) -> None:
    first, third = in_its_third_life(cloud)
    cloud._deleted(cloud.servers[first])
    run_fleet(cloud, **SUCCESSOR)
    (fourth,) = set(cloud.servers) - {third}
    note = cloud.servers[fourth]["metadata"]["llm_stack_replaces"].split(",")
    assert note[0] == third
    assert first in note


@pytest.mark.parametrize("sign", ["its note", "its disk"])
@pytest.mark.parametrize("allowed", [[], ["gpu1"]])
def test_a_second_server_that_may_hold_data_goes_only_where_that_may_be_lost(cloud: StandinCloud, sign: str, allowed: list[str]) -> None:
    first, third = in_its_third_life(cloud)
    if sign == "its note":
        # As an older release wrote it.
        cloud.servers[third]["metadata"]["llm_stack_replaces"] = "srv-gone"
        cloud.volumes[cloud.servers[third]["_volumes"][0]]["metadata"].pop("llm_stack_used")
    else:
        cloud.servers[third]["metadata"].pop("llm_stack_replaces")
    cloud.set_status(first, "ACTIVE")
    ended = run_fleet(cloud, floating_network="ext", allow_data_loss=allowed)
    assert (third in cloud.servers) == (not allowed)
    assert allowed or "one that may hold data goes if gpu1 is in allow_data_loss" in ended.plan.plan.warnings[0]


def test_without_room_the_predecessor_goes_on(cloud: StandinCloud) -> None:
    first = made(cloud)
    cloud.room.update(z1=0, z2=0)
    ended: Ended = run_fleet(cloud, **SUCCESSOR)
    assert (ended.actions, ended.ok) == ({"gpu1": "failed"}, False)
    assert list(cloud.servers) == [first]
    assert addressed(cloud) == [first]
    assert cloud.orphans() == []


def test_a_server_that_keeps_its_address_can_have_none(cloud: StandinCloud) -> None:
    networks = [{"network": "lan", "fixed_ip": "10.0.0.9"}]
    first = made(cloud, networks=networks)
    ended = run_fleet(cloud, **SUCCESSOR, networks=networks)
    assert ended.actions == {"gpu1": "blocked"}
    assert "needs the address that" in ended.reason
    assert list(cloud.servers) == [first]


@pytest.mark.parametrize(("allowed", "action"), [([], "restored"), (["gpu1"], "replaced")])
def test_a_restore_that_is_not_wanted_needs_leave_to_lose_the_disk(cloud: StandinCloud, allowed: list[str], action: str) -> None:
    first = made(cloud)
    cloud.interrupt(first)
    ended = run_fleet(cloud, servers=[{"name": "gpu1", "restore": "never"}], allow_data_loss=allowed, floating_network="ext")
    assert ended.actions == {"gpu1": action}
    assert (first in cloud.servers) == (not allowed)
    assert len(cloud.alive("gpu1")) == 1
    assert cloud.orphans() == []
    assert len(cloud.addresses) == 1


def test_only_those_named_are_worked_on(cloud: StandinCloud) -> None:
    both = {"servers": [{"name": "gpu1"}, {"name": "gpu2"}]}
    run_fleet(cloud, **both)
    for server in list(cloud.servers):
        cloud.interrupt(server)
    ended = run_fleet(cloud, **both, only=["gpu2"])
    assert ended.actions == {"gpu1": "kept", "gpu2": "restored"}
    assert [one["name"] for one in cloud.alive()] == ["gpu2"]


def test_a_restore_that_alone_is_wanted_makes_nothing_anew(cloud: StandinCloud) -> None:
    first = made(cloud)
    cloud.interrupt(first)
    cloud.room["z1"] = 0
    ended = run_fleet(cloud, servers=[{"name": "gpu1", "restore": "only"}], floating_network="ext")
    assert (ended.actions, ended.ok) == ({"gpu1": "failed"}, False)
    assert "is to be restored and not made anew" in ended.reason
    assert list(cloud.servers) == [first]
