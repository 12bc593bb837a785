# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet through its life: made, found again, interrupted, moved to another zone, taken down; never doubled, nothing left."""

from __future__ import annotations

from typing import Any

import pytest
from cloudkit.control import Control, Project
from cloudkit.fleet import GPU_FLAVOR, LOCAL_FLAVOR, LOCAL_GPU_FLAVOR, TAG, Fleet, by_name
from cloudkit.proxy import Proxy

PRICES = {"currency": "RUB", "servers": [{"flavor": LOCAL_FLAVOR, "preemptible": 10, "regular": 34}]}
BOTH_ZONES = [{"zone": "zone-a", "flavor": LOCAL_FLAVOR}, {"zone": "zone-b", "flavor": LOCAL_FLAVOR}]


def _ids(fleet: Fleet) -> dict[str, str]:
    return {name: server.id for name, server in fleet.servers().items()}


def test_volumes_ports_and_addresses_outlive_an_interruption(fleet: Fleet, control: Control, project: Project) -> None:
    wanted: dict[str, Any] = {"boot": "volume", "volume_size": 2, "floating_network": "external"}
    wanted |= {"placements": [{"zone": "zone-a", "flavor": GPU_FLAVOR}], "metadata": {"team": "search"}, "tags": ["ours"]}
    made = fleet.run(**wanted)
    assert not made.failed, made.text
    before = control.holdings(project)
    assert (len(before.servers), len(before.volumes), len(before.addresses)) == (2, 2, 2)
    assert before.orphans == []
    assert all({TAG, "ours"} <= set(server.tags) and server.metadata["team"] == "search" for server in before.servers.values())
    assert {address["kind"] for address in by_name(made)["gpu1"]["addresses"]} == {"fixed", "floating"}

    control.interrupt(_ids(fleet)["gpu1"])
    back = fleet.run(**wanted)
    assert not back.failed, back.text
    assert {name: server["action"] for name, server in by_name(back).items()} == {"gpu1": "restored", "gpu2": "kept"}
    after = control.holdings(project)
    assert set(after.servers) == set(before.servers)
    assert set(after.ports) == set(before.ports)
    assert set(after.volumes) == set(before.volumes)
    assert {key: address.port_id for key, address in after.addresses.items()} == {
        key: address.port_id for key, address in before.addresses.items()
    }

    gone = fleet.run(state="absent", confirm="ci")
    assert not gone.failed, gone.text
    left = control.holdings(project)
    assert (left.servers, left.ports, left.volumes, left.addresses) == ({}, {}, {}, {})


def test_absent_wants_the_name_and_takes_nothing_of_others(fleet: Fleet, control: Control, project: Project) -> None:
    assert not fleet.run(servers=[{"name": "ours"}]).failed
    assert not fleet.run(fleet="theirs", servers=[{"name": "theirs"}]).failed
    refused = fleet.run(state="absent", confirm="other")
    assert refused.failed
    assert set(fleet.servers()) == {"ours", "theirs"}
    gone = fleet.run(state="absent", confirm="ci")
    assert not gone.failed, gone.text
    assert set(fleet.servers()) == {"theirs"}
    assert control.holdings(project).orphans == []


def test_two_runs_at_once_make_no_server_twice(fleet: Fleet, control: Control, project: Project) -> None:
    both = [fleet.start(name_pattern="gpu{n}", count=3) for _run in range(2)]
    ran = [one.result(600) for one in both]
    assert [one.message for one in ran if one.failed] == []
    assert set(fleet.servers()) == {"gpu1", "gpu2", "gpu3"}
    assert control.holdings(project).orphans == []


def test_two_runs_at_once_restore_the_same_servers(fleet: Fleet, control: Control) -> None:
    assert not fleet.run().failed
    ids = _ids(fleet)
    control.each(ids.values(), control.interrupt)
    # A restore lasts longer than a request, as that of a real machine does. Nova looks at a server's state when an unshelve comes in, and
    # only at its task when it takes it on: one that is held up in between while another begins and ends puts the server into ERROR.
    with control.slow("gpu1", 5), control.slow("gpu2", 5):
        both = [fleet.start() for _run in range(2)]
        ran = [one.result(600) for one in both]
    assert [one.message for one in ran if one.failed] == []
    assert _ids(fleet) == ids
    assert {server.status for server in fleet.servers().values()} == {"ACTIVE"}


def test_a_full_zone_is_left_for_the_next_and_avoided_afterwards(fleet: Fleet, control: Control, project: Project) -> None:
    with control.no_capacity("zone-a"):
        first = fleet.run(servers=[{"name": "gpu1"}], placements=BOTH_ZONES)
    assert not first.failed, first.text
    assert by_name(first)["gpu1"]["placement"]["zone"] == "zone-b"
    assert [key for key in first.result["memory"] if "zone-a" in key]
    second = fleet.run(servers=[{"name": "gpu1"}, {"name": "gpu2"}], placements=BOTH_ZONES, memory=first.result["memory"])
    assert not second.failed, second.text
    assert by_name(second)["gpu2"]["placement"]["zone"] == "zone-b"
    assert control.holdings(project).orphans == []


def test_what_cannot_be_restored_is_made_anew_elsewhere_and_the_old_one_is_told(fleet: Fleet, control: Control) -> None:
    options: dict[str, Any] = {"servers": [{"name": "gpu1"}], "placements": BOTH_ZONES}
    assert not fleet.run(**options).failed
    old = _ids(fleet)["gpu1"]
    control.interrupt(old)
    with control.no_capacity("zone-a"):
        ran = fleet.run(**options)
    assert not ran.failed, ran.text
    said = by_name(ran)["gpu1"]
    assert (said["action"], said["placement"]["zone"]) == ("replaced", "zone-b")
    assert "no capacity" in said["reason"]
    assert old in [one["id"] for one in said["leftovers"]]
    assert said["id"] != old
    assert control.await_status(said["id"], "ACTIVE")
    assert control.await_status(old, "SHELVED_OFFLOADED")


def test_a_server_that_silently_came_up_regular_is_an_alarm_with_its_price(fleet: Fleet, proxy: Proxy) -> None:
    def regular(body: Any) -> Any:
        body["server"].pop("tags", None)
        return body

    proxy.inject("compute", "POST", r"/servers$", times=None, request=regular)
    ran = fleet.run(servers=[{"name": "gpu1"}], prices=PRICES)
    said = by_name(ran)["gpu1"]
    assert ran.failed
    assert not said["ok"]
    assert "34" in said["reason"], said


def test_a_server_that_never_boots_is_removed_and_told(fleet: Fleet, control: Control) -> None:
    with control.unbootable("gpu1"):
        ran = fleet.run()
    assert ran.failed
    said = by_name(ran)
    assert (said["gpu1"]["ok"], said["gpu2"]["ok"]) == (False, True)
    assert set(fleet.servers()) == {"gpu2"}
    assert control.holdings(fleet.project).orphans == []


def test_a_server_deleted_while_it_is_awaited_is_made_again(fleet: Fleet, control: Control, proxy: Proxy) -> None:
    def vanish(body: Any) -> Any:
        control.delete(body["server"]["id"])
        return body

    with control.slow("gpu1", 3):
        gone = proxy.inject("compute", "GET", r"/servers/[0-9a-f-]{36}$", response=vanish)
        ran = fleet.run(servers=[{"name": "gpu1"}])
    assert gone.hits == 1
    again = ran if not ran.failed else fleet.run(servers=[{"name": "gpu1"}])
    assert not again.failed, again.text
    assert fleet.servers()["gpu1"].status == "ACTIVE"
    assert control.holdings(fleet.project).orphans == []


@pytest.mark.parametrize("arranged", ["absent", "interrupted"])
def test_check_mode_says_the_same_and_writes_nothing(fleet: Fleet, control: Control, proxy: Proxy, arranged: str) -> None:
    options: dict[str, Any] = {"servers": [{"name": "gpu1"}], "prices": PRICES}
    if arranged == "interrupted":
        assert not fleet.run(**options).failed
        control.interrupt(_ids(fleet)["gpu1"])
    with proxy.count() as calls:
        checked = fleet.run(**options, _ansible_check_mode=True)
    assert not checked.failed, checked.text
    assert checked.changed
    assert not [call for call in calls if call.writes]
    done = fleet.run(**options)
    assert done.result["plan"] == checked.result["plan"]


def test_a_flavor_is_found_by_its_gpu(fleet: Fleet, control: Control) -> None:
    match = {"gpu": "RTX4090", "disk_gb": 40}
    ran = fleet.run(servers=[{"name": "gpu1"}], placements=[{"zone": "zone-a", "flavor_match": match}])
    assert not ran.failed, ran.text
    assert fleet.servers()["gpu1"].flavor.name == LOCAL_GPU_FLAVOR
