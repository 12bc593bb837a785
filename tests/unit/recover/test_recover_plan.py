# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every decision of recovery, from what is seen: restored, replaced, regular for a while, spared, rotated, refused, and why."""

from __future__ import annotations

import ssl
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import BadInput
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover import proof
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.act import acting_options, with_spare
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.breaker import Breaker
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.budget import open_ledger
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.decide import policy_of, recovery_options
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.model import SERVER_LABEL, as_table
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.plan import due, needs_offer
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.state import Notes, Scale
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.model import FloatingIp, Named, Volume
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.plan import plan_fleet
from fleetkit import wanted
from recoverkit import HOUR, NOW, OFFER, Z1, Z2, decide, done, fleet, node, only, seen, server

REGULAR = {"allow_regular": True}
OPEN_Z1 = Notes(breaker=Breaker((), {Z1: NOW + 60}))
OPEN_BOTH = Notes(breaker=Breaker((), {Z1: NOW + 60, Z2: NOW + 60}))


def places(action: Any) -> list[str]:
    return [one.key for one in action.placements]


# -- one worker: what is seen -> what is done, and a part of the reason ----------------------------------------------------
ONE = {
    "it serves": (seen(server()), "keep", "it serves"),
    "interrupted": (seen(server(status="SHELVED_OFFLOADED")), "restore", "it was interrupted"),
    "expired": (seen(server(status="EXPIRED")), "restore", "EXPIRED"),
    "gone": (seen(), "create", "there is no server"),
    "broken": (seen(server(status="ERROR")), "replace", "in ERROR"),
    "being built": (seen(server(status="BUILD")), "wait", "wait until it has settled"),
    "restored a moment ago": (seen(server(age=30), nodes=()), "wait", "it joins by itself"),
    "node still down": (seen(server(age=30), nodes=(node(ready=False),)), "wait", "down as a node yet"),
    "never joined": (seen(server(age=HOUR), nodes=()), "mend", "it runs and is no node of the swarm"),
    "node down": (seen(server(age=HOUR), nodes=(node(ready=False),)), "mend", "it runs and is down as a node"),
    "GPU lost": (seen(server(), nodes=(node(gpus=0),)), "mend", "it has 1 GPUs and advertises 0"),
    "stopped by a person": (seen(server(status="SHUTOFF"), nodes=()), "keep", "left alone"),
    "locked": (seen(server(status="SHELVED", locked=True)), "refuse", "unlock it"),
    "lost its tag": (seen(server(tags=())), "refuse", "has lost the tag"),
    "unknown": (seen(server(status="UNKNOWN")), "refuse", "look at it in the panel"),
}


@pytest.mark.parametrize("name", ONE)
def test_one_worker(name: str) -> None:
    observed, do, reason = ONE[name]
    action = only(decide(observed))
    assert action.do == do
    assert reason in action.reason
    assert action.person == (do == "refuse")


def test_all_broken_workers_are_decided_on_at_once() -> None:
    names = ("gpu1", "gpu2", "gpu3", "gpu4")
    observed = seen(server("gpu1", "SHELVED"), server("gpu2", "ERROR"), server("gpu4"))
    assert done(decide(observed, fleet(*names))) == {"gpu1": "restore", "gpu2": "replace", "gpu3": "create", "gpu4": "keep"}


@pytest.mark.parametrize(
    ("nodes", "do"),
    [
        ((node(labels={}, address="10.0.0.7"),), "keep"),
        ((node(labels={}),), "keep"),
        ((node(labels={SERVER_LABEL: "another"}),), "mend"),
        ((node(ready=False), replace(node(labels={}), id="new")), "mend"),
        ((node(labels={}, ready=False), replace(node(labels={}), id="new")), "keep"),
    ],
    ids=["by address", "by name", "the name of another server's node", "by label before by name", "the former self is down"],
)
def test_a_server_is_known_as_a_node(nodes: Any, do: str) -> None:
    assert only(decide(seen(server(), nodes=nodes))).do == do


def test_workers_that_are_no_servers_of_a_cloud_are_seen_to() -> None:
    observed = seen(
        nodes=(node("box1", labels={}, address="10.0.0.5"), node("box2", labels={}, ready=False)), hosts={"a": "10.0.0.5", "box2": ""}
    )
    assert done(decide(observed, wanted(servers=[], name_pattern="g{n}", count=0))) == {"a": "keep", "box2": "mend"}


def test_a_host_of_a_server_s_name_is_that_server() -> None:
    observed = seen(nodes=(node("gpu1", labels={}),), hosts={"gpu1": "10.0.0.5"})
    assert done(decide(observed)) == {"gpu1": "create"}


def test_nodes_of_servers_that_are_gone_are_stale() -> None:
    recovery = decide(seen(server(), nodes=(node(), node("old", ready=False), node("by hand", ready=False, labels={}))))
    assert [one.id for one in recovery.stale] == ["node-old"]


# -- where -----------------------------------------------------------------------------------------------------------------
def test_regular_ones_are_the_last_resort_and_bounded() -> None:
    desired = fleet("gpu1", "gpu2", **REGULAR)
    recovery = decide(seen(), desired, regular_max=1)
    assert [[place.rpartition("/")[2] for place in places(one)] for one in recovery.actions] == [
        ["preemptible", "preemptible", "regular", "regular"],
        ["preemptible", "preemptible"],
    ]
    stands_in = seen(server("gpu1", regular=True))
    assert len(places(decide(stands_in, desired, regular_max=1).actions[1])) == 2
    assert len(places(decide(stands_in, desired, regular_max=2).actions[1])) == 4


def test_the_bound_of_regular_ones_holds_where_no_preemptible_one_can_be_used_and_counts_those_in_the_making() -> None:
    places_ = [{"region": "r1", "flavor": "gone"}, {"region": "r1", "flavor": "GL10", "preemptible": False}]
    desired = fleet("gpu1", "gpu2", placements=places_)
    assert done(decide(seen(), desired, regular_max=1)) == {"gpu1": "create", "gpu2": "refuse"}
    assert done(decide(seen(), desired)) == {"gpu1": "refuse", "gpu2": "refuse"}
    building = decide(seen(server("gpu1", "BUILD", regular=True)), fleet("gpu1", "gpu2", **REGULAR), regular_max=1)
    assert [one.preemptible for one in building.actions[1].placements] == [True, True]
    declared = fleet("gpu1", "gpu2", placements=places_[1:])
    assert done(decide(seen(), declared)) == {"gpu1": "create", "gpu2": "create"}


def test_a_placement_that_failed_a_while_ago_comes_last() -> None:
    notes = Notes(memory={Z1: {"until": NOW + 60, "reason": "no room"}})
    assert places(only(decide(seen(), notes=notes))) == [Z2, Z1]


def test_the_breaker_leaves_a_placement_alone() -> None:
    gone = seen(server(status="SHELVED"))
    action = only(decide(gone, notes=OPEN_Z1))
    assert (action.do, action.restore, places(action)) == ("replace", "never", [Z2])
    assert "left alone for a while" in action.reason
    assert only(decide(gone, fleet(allow_data_loss=[]), notes=OPEN_Z1)).do == "restore"
    assert places(only(decide(seen(), notes=OPEN_Z1))) == [Z2]
    # The other placement had no room a moment ago: better where it was than nowhere.
    full = replace(OPEN_Z1, memory={Z2: {"until": NOW + 60, "reason": "no room"}})
    action = only(decide(gone, notes=full))
    assert (action.do, action.restore) == ("restore", "first")
    assert "tried there all the same" in action.reason


def test_with_the_breaker_open_everywhere_regular_ones_stand_in_and_without_any_it_is_tried_all_the_same() -> None:
    gone = seen(server(status="SHELVED"))
    action = only(decide(gone, fleet(**REGULAR), notes=OPEN_BOTH, regular_max=1))
    assert (action.do, [one.preemptible for one in action.placements]) == ("replace", [False, False])
    action = only(decide(gone, notes=OPEN_BOTH))
    assert (action.do, action.restore) == ("restore", "first")
    assert "tried there all the same" in action.reason


def test_interruptions_open_the_breaker_by_placement() -> None:
    down = [server(f"gpu{number}", "SHELVED", zone="z1" if number < 4 else "z2") for number in range(1, 6)]
    recovery = decide(seen(*down), fleet(*(one.name for one in down)))
    assert set(recovery.notes.breaker.opened) == {Z1}
    assert set(done(recovery).values()) == {"replace", "restore"}
    assert [one.slot for one in recovery.of("restore")] == ["gpu4", "gpu5"]
    again = decide(seen(*down), fleet(*(one.name for one in down)), notes=recovery.notes, now=NOW + 3601)
    assert again.notes.breaker.opened == {}


# -- what it costs ---------------------------------------------------------------------------------------------------------
def test_the_plan_tells_the_change_of_cost() -> None:
    recovery = decide(seen(server("gpu1"), server("gpu2", "SHELVED")), fleet("gpu1", "gpu2"))
    assert recovery.cost == (30.0, 60.0)
    table = as_table(recovery.actions, "RUB")
    assert table[0].split() == ["worker", "action", "cost/h", "reason"]
    assert table[2].split()[:4] == ["gpu2", "restore", "+30", "RUB"]


NO_PRICE = "Its price is not in gpu_fleet.prices, so the budget of the day could not be kept"


def test_a_declared_regular_server_beyond_the_bound_is_told_as_a_matter_of_money() -> None:
    """provision.yml leaves the placements of others as they are declared, so that it would be made and not be in the budget."""
    places = [{"region": "r1", "zone": "z1", "flavor": "gone"}, {"region": "r1", "zone": "z1", "flavor": "GL10", "preemptible": False}]
    action = only(decide(seen(), fleet(placements=places), budget=100000.0))
    assert (action.do, action.dear) == ("refuse", True)
    assert "0 regular servers stand in already" in action.reason


def test_without_prices_costs_are_unknown_and_a_budget_is_not_guessed_at() -> None:
    gone, desired = seen(server(status="SHELVED")), fleet(prices={"currency": "RUB"})
    assert decide(gone, desired).cost[1] is None
    action = only(decide(gone, desired, budget=1000.0))
    # Only a person can add it.
    assert (action.do, action.person) == ("refuse", True)
    assert "not in gpu_fleet.prices" in action.reason
    assert only(decide(seen(), desired, budget=1000.0)).reason == f"there is no server. {NO_PRICE}"


def test_what_runs_without_a_known_price_is_not_taken_for_free() -> None:
    observed = seen(server("gpu1", flavor="dear"), server("gpu2", "SHELVED"))
    assert done(decide(observed, fleet("gpu1", "gpu2"))) == {"gpu1": "keep", "gpu2": "restore"}
    recovery = decide(observed, fleet("gpu1", "gpu2"), budget=100000.0)
    assert (done(recovery), recovery.person) == ({"gpu1": "keep", "gpu2": "refuse"}, True)
    assert "A server runs whose price is not in gpu_fleet.prices" in recovery.actions[1].reason


def test_a_new_server_is_booked_with_its_disk_and_its_address() -> None:
    """They are seen as a part of what runs at the next look, and would have exceeded the day by then."""
    prices = {"currency": "RUB", "servers": [{"flavor": "GL10", "preemptible": 30.0, "regular": 100.0}], "volume_gb": 0.1, "address": 1.0}
    desired = fleet(prices=prices, floating_network="ext", volume_size=10)
    observed = seen()
    offer = replace(OFFER, networks=(*OFFER.networks, Named("n-ext", "ext")))
    observed = replace(observed, fleet=replace(observed.fleet, catalogues={"r1": offer}))
    assert only(decide(observed, desired, budget=32.0 * 24)).do == "create"
    assert only(decide(observed, desired, budget=32.0 * 24 - 1)).do == "refuse"
    recovery = decide(observed, desired, budget=1000.0)
    assert recovery.notes.ledger
    assert recovery.notes.ledger.rate == 32.0
    came = replace(observed, fleet=replace(observed.fleet, servers=(server(age=-60),)), nodes=(node(),))
    settled = decide(came, desired, notes=recovery.notes, budget=1000.0, now=NOW + 120).notes.ledger
    assert settled
    assert settled.bill == 32.0


# At 10:00, with 14 hours to go: one server for the rest of the day is 14 x 30.
@pytest.mark.parametrize(("spent", "do"), [(300.0, "create"), (301.0, "refuse")])
def test_what_would_exceed_the_day_is_not_begun(spent: float, do: str) -> None:
    notes = Notes(ledger=replace(open_ledger(None, now=NOW, rate=0.0), closed=spent))
    action = only(decide(seen(), notes=notes, budget=720.0))
    assert (action.do, action.person) == (do, False)
    if do == "refuse":
        assert "It would bring the day to 721.00, and 720.00 is the budget: it waits for tomorrow" in action.reason


@pytest.mark.parametrize("observed", [seen(), seen(server(status="SHELVED"))], ids=["made", "restored"])
@pytest.mark.parametrize(("budget", "do"), [(720.0, True), (719.0, False)])
def test_what_would_exceed_the_budget_of_tomorrow_is_not_begun_today(observed: Any, budget: float, do: bool) -> None:
    """In the last hour of a day it would cost 30; from midnight on nothing would end it."""
    action = only(decide(observed, budget=budget, now=NOW + 13.5 * HOUR))
    assert (action.acts, action.person) == (do, not do)
    if not do:
        assert "It would bring every day to 720.00, and 719.00 is the budget: raise it, or declare fewer" in action.reason


def test_what_no_day_can_bear_does_not_wait_for_tomorrow() -> None:
    """At any hour: before the offer is read nothing is told, and then it is the whole price."""
    observed, desired = seen(), fleet(volume_size=10, prices={"servers": [{"flavor": "GL10", "preemptible": 30.0}], "volume_gb": 0.1})
    assert only(decide(replace(observed, fleet=replace(observed.fleet, catalogues={})), desired, budget=1.0)).do == "create"
    action = only(decide(observed, desired, budget=1.0))
    assert (action.do, action.person, action.dear) == ("refuse", True, True)
    assert "It would bring every day to 744.00, and 1.00 is the budget: raise it, or declare fewer" in action.reason


def test_two_that_come_to_stay_share_what_a_day_bears_and_what_runs_counts() -> None:
    late = {"now": NOW + 13.5 * HOUR, "budget": 1500.0}
    names = ("gpu1", "gpu2", "gpu3")
    assert done(decide(seen(), fleet(*names), **late)) == {"gpu1": "create", "gpu2": "create", "gpu3": "refuse"}
    assert done(decide(seen(server("gpu3")), fleet(*names), **late)) == {"gpu1": "create", "gpu2": "refuse", "gpu3": "keep"}


def test_what_demand_had_made_may_be_begun_late_and_goes_at_midnight() -> None:
    desired, late = fleet("gpu1", "gpu2"), NOW + 13.5 * HOUR
    policy: dict[str, Any] = {"budget": 1000.0, "least": 1, "wanted": 2}
    first = decide(seen(server("gpu1")), desired, now=late, **policy)
    assert done(first) == {"gpu1": "keep", "gpu2": "create"}
    both = seen(server("gpu1"), server("gpu2"))
    assert done(decide(both, desired, notes=first.notes, now=NOW + 14 * HOUR, **policy)) == {"gpu1": "keep", "gpu2": "shed"}


def test_a_person_is_told_when_what_is_declared_costs_more_than_a_day_may() -> None:
    recovery = decide(seen(server("gpu1"), server("gpu2")), fleet("gpu1", "gpu2"), budget=800.0)
    assert done(recovery) == {"gpu1": "keep", "gpu2": "refuse"}
    assert recovery.person
    assert "the day will cost 840.00, and 800.00 is the budget, with those alone that are declared" in recovery.actions[1].reason
    # A stand-in that has yet to join goes by itself at the next look.
    joining = seen(server("gpu1"), server("gpu2", age=30, regular=True), nodes=(node("gpu1"),))
    recovery = decide(joining, fleet("gpu1", "gpu2", **REGULAR), budget=1000.0, regular_max=1)
    assert (done(recovery), recovery.person) == ({"gpu1": "keep", "gpu2": "wait"}, False)


def test_a_try_that_found_no_room_costs_nothing() -> None:
    """Every two minutes for an hour: without room for so long, the day's budget is there when the room is."""
    gone, notes = seen(server(status="SHELVED", age=7200)), Notes()
    for look in range(30):
        recovery = decide(gone, fleet(**REGULAR), notes=notes, regular_max=1, budget=3000.0, now=NOW + 120 * look)
        assert only(recovery).do == "restore", f"at look {look}: {only(recovery).reason}"
        notes = recovery.notes
    assert notes.ledger
    assert notes.ledger.bill == 100.0


def test_what_came_up_is_billed_by_what_it_is_and_what_was_cut_off_again_is_billed_still() -> None:
    desired, policy = fleet(**REGULAR), {"regular_max": 1, "budget": 3000.0}
    first = decide(seen(server(status="SHELVED", age=7200)), desired, notes=Notes(), **policy)
    came = decide(seen(server(age=-60)), desired, notes=first.notes, now=NOW + 120, **policy)
    assert came.notes.ledger
    assert (came.notes.ledger.bill, came.notes.ledger.rate) == (30.0, 30.0)
    cut = decide(seen(server(status="SHELVED", age=-60)), desired, notes=first.notes, now=NOW + 120, **policy)
    assert cut.notes.ledger
    assert cut.notes.ledger.bill == 130.0, "the life that was cut off, and the dearest way for the next"


def test_a_successor_that_came_to_nothing_is_not_taken_for_the_one_beside_it() -> None:
    old = server(age=23 * HOUR)
    first = decide(seen(old), budget=3000.0)
    assert only(first).do == "rotate"
    later = decide(seen(old), notes=replace(first.notes, rotated=NOW), budget=3000.0, now=NOW + 60)
    assert later.notes.ledger
    assert later.notes.ledger.bill == 30.0
    made = decide(seen(old, server(id="new", age=0, replaces="gpu1")), notes=first.notes, budget=3000.0, now=NOW + 60)
    assert made.notes.ledger
    assert made.notes.ledger.bill == 60.0


def test_what_is_still_there_pays_for_nothing_else() -> None:
    """A predecessor goes when its successor has proven itself, which may come to nothing: what it costs is not spent before."""
    observed = seen(server(age=HOUR), server(id="new", age=HOUR, replaces="gpu1"))
    assert done(decide(observed, fleet("gpu1", "gpu2"), budget=1500.0)) == {"gpu1": "retire", "gpu2": "create"}
    spent = Notes(ledger=replace(open_ledger(None, now=NOW, rate=60.0), closed=1000.0))
    recovery = decide(observed, fleet("gpu1", "gpu2"), notes=spent, budget=1000.0 + 60.0 * 14 + 30.0 * 14 - 1)
    assert done(recovery) == {"gpu1": "retire", "gpu2": "refuse"}


def test_what_is_spent_is_remembered_and_two_share_what_is_left() -> None:
    desired = fleet("gpu1", "gpu2")
    recovery = decide(seen(), desired, budget=800.0)
    assert done(recovery) == {"gpu1": "create", "gpu2": "refuse"}
    assert recovery.notes.ledger
    assert recovery.notes.ledger.rate == 30.0
    spent = Notes(ledger=replace(open_ledger(None, now=NOW, rate=0.0), closed=700.0))
    assert done(decide(seen(), desired, notes=spent, budget=800.0)) == {"gpu1": "refuse", "gpu2": "refuse"}


# At 10:00: the started hour of both and of a restore is 90, and two for 13 hours more are 780.
@pytest.mark.parametrize(("budget", "do"), [(870.0, "restore"), (869.0, "refuse")])
def test_what_is_being_brought_back_is_booked_for_until_it_is_over(budget: float, do: str) -> None:
    desired, policy = fleet("gpu1", "gpu2"), {"spare": 2, "budget": budget}
    first = decide(seen(server("gpu2")), desired, **policy)
    assert done(first)["gpu1"] == "create"
    # No server of it is seen yet, and the other is lost meanwhile.
    lost = seen(server("gpu2", status="SHELVED"))
    second = decide(lost, desired, notes=first.notes, busy=frozenset({"gpu1"}), now=NOW + 60, **policy)
    assert done(second) == {"gpu1": "wait", "gpu2": do}
    assert second.notes.ledger
    assert "gpu1" in second.notes.ledger.begun
    # Once it is over, what came of it counts.
    came = seen(server("gpu1", age=-90), server("gpu2", status="SHELVED"))
    third = decide(came, desired, notes=first.notes, now=NOW + 120, **policy)
    assert third.notes.ledger
    assert "gpu1" not in third.notes.ledger.begun


def test_what_is_being_brought_back_over_midnight_is_booked_for_on_both_days() -> None:
    first = decide(seen(), budget=3000.0, now=NOW + 13.99 * HOUR)
    later = decide(seen(), notes=first.notes, budget=3000.0, busy=frozenset({"gpu1"}), now=NOW + 14.01 * HOUR)
    assert later.notes.ledger
    assert (later.notes.ledger.bill, later.notes.ledger.rate, set(later.notes.ledger.begun)) == (30.0, 30.0, {"gpu1"})


def test_what_is_being_brought_back_over_an_hour_is_booked_for_until_it_is_over() -> None:
    first = decide(seen(), budget=3000.0, now=NOW + 0.99 * HOUR)
    notes = first.notes
    for later in (1.01, 1.02, 2.01):
        notes = decide(seen(), notes=notes, budget=3000.0, busy=frozenset({"gpu1"}), now=NOW + later * HOUR).notes
        assert notes.ledger
        assert (notes.ledger.bill, notes.ledger.rate, set(notes.ledger.begun)) == (30.0, 30.0, {"gpu1"})


def test_what_is_being_brought_back_may_come_up_regular_so_nobody_else_does() -> None:
    desired, policy = fleet("gpu1", "gpu2", **REGULAR), {"regular_max": 1}
    first = decide(seen(server("gpu2")), desired, **policy)
    lost = seen(server("gpu2", status="SHELVED"))
    second = decide(lost, desired, notes=first.notes, busy=frozenset({"gpu1"}), **policy)
    assert done(second) == {"gpu1": "wait", "gpu2": "restore"}
    assert {one.preemptible for one in second.actions[1].placements} == {True}


def test_within_a_budget_that_bears_the_restore_alone_nothing_dearer_is_tried() -> None:
    action = only(decide(seen(server(status="SHELVED")), fleet(**REGULAR), regular_max=1, budget=800.0))
    assert (action.do, action.restore) == ("restore", "first")
    assert [one.preemptible for one in action.placements] == [True, True]


def test_the_dearest_way_is_booked() -> None:
    recovery = decide(seen(server(status="SHELVED")), fleet(**REGULAR), regular_max=1, budget=5000.0)
    assert recovery.notes.ledger
    assert recovery.notes.ledger.rate == 100.0


def test_on_a_day_that_would_cost_too_much_stand_ins_go_first_then_spare_ones() -> None:
    desired = fleet("gpu1", "gpu2", "gpu3", **REGULAR)
    observed = seen(server("gpu1"), server("gpu2", regular=True), server("gpu3"))
    assert done(decide(observed, desired, regular_max=1, spare=1, budget=14 * 60.0)) == {"gpu1": "keep", "gpu2": "shed", "gpu3": "shed"}
    midnight = {"now": NOW + 14 * HOUR}
    recovery = decide(observed, desired, regular_max=1, spare=1, budget=24 * 60 + 100.0, **midnight)
    assert done(recovery) == {"gpu1": "keep", "gpu2": "shed", "gpu3": "keep"}
    kept = decide(observed, fleet("gpu1", "gpu2", "gpu3", allow_data_loss=[], **REGULAR), regular_max=1, budget=900.0)
    assert (kept.actions[1].do, kept.actions[1].person) == ("refuse", True)


# -- rotation --------------------------------------------------------------------------------------------------------------
def test_servers_that_end_together_begin_early_enough_to_follow_each_other() -> None:
    assert due([10.0, 10.0, 10.0], before=2, gap=1) == [6.0, 7.0, 8.0]
    assert due([5.0, 20.0], before=2, gap=1) == [3.0, 18.0]
    assert due([], before=2, gap=1) == []


OLD = 22.1 * HOUR


def test_a_server_near_its_end_is_rotated_and_one_at_a_time() -> None:
    desired = fleet("gpu1", "gpu2")
    observed = seen(server("gpu1", age=OLD), server("gpu2", age=OLD))
    recovery = decide(observed, desired)
    assert done(recovery) == {"gpu1": "rotate", "gpu2": "keep"}
    assert recovery.actions[0].reason == "its life ends in 1.9 h"
    assert recovery.notes.rotated == NOW
    assert done(decide(observed, desired, notes=recovery.notes, now=NOW + 1799))["gpu1"] == "keep"
    assert done(decide(observed, desired, notes=recovery.notes, now=NOW + 1800))["gpu1"] == "rotate"
    assert set(done(decide(observed, desired, rotate_before=None)).values()) == {"keep"}


@pytest.mark.parametrize(
    ("observed", "options"),
    [
        (seen(server("gpu1", age=OLD), server("gpu2", "SHELVED")), {}),
        (seen(server("gpu1", age=OLD), server("gpu2", age=30), nodes=(node(),)), {}),
        (seen(server("gpu1", age=OLD, regular=True), server("gpu2")), {}),
        (seen(server("gpu1", age=OLD), server("gpu2")), {"profile": "openstack"}),
    ],
    ids=["another is broken", "another joins", "it is regular", "lives without end"],
)
def test_no_rotation(observed: Any, options: Any) -> None:
    assert done(decide(observed, fleet("gpu1", "gpu2", **options), notes=Notes(tried={"gpu1": NOW})))["gpu1"] == "keep"


def test_a_rotation_that_cannot_be_is_refused_with_the_reason_and_the_next_is_tried() -> None:
    observed = seen(server("gpu1", age=OLD), server("gpu2", age=OLD))
    recovery = decide(observed, fleet("gpu1", "gpu2", allow_data_loss=["gpu2"]))
    assert done(recovery) == {"gpu1": "refuse", "gpu2": "rotate"}
    assert "name gpu1 in allow_data_loss" in recovery.actions[0].reason
    assert not recovery.person


BESIDE = (server(age=OLD), server(id="new", age=HOUR, replaces="gpu1"))


def test_the_predecessor_goes_once_the_successor_is_a_whole_node() -> None:
    action = only(decide(seen(*BESIDE)))
    assert (action.do, action.cost) == ("retire", -30.0)
    assert action.server
    assert action.node
    assert (action.server.id, action.node.id) == ("gpu1", "node-gpu1")


@pytest.mark.parametrize(
    ("nodes", "age", "do"),
    [
        ((node(),), 30, "wait"),
        ((node(),), HOUR, "mend"),
        ((node(), node("new", hostname="gpu1", ready=False)), HOUR, "mend"),
        ((node(), node("new", hostname="gpu1", gpus=0)), HOUR, "mend"),
        ((node(), node("new", hostname="gpu1", engines=0)), HOUR, "wait"),
    ],
)
def test_until_then_both_stay(nodes: Any, age: float, do: str) -> None:
    observed = seen(BESIDE[0], server(id="new", age=age, replaces="gpu1"), nodes=nodes)
    recovery = decide(observed)
    assert only(recovery).do == do
    options = acting_options(recovery, observed=observed, desired=fleet())
    assert options["servers"][0]["successor"] is True


def test_a_successor_that_was_lost_is_tidied_up_and_the_next_is_made_later() -> None:
    observed = seen(server(age=OLD), server(id="new", status="SHELVED", age=HOUR, replaces="gpu1"))
    action = only(decide(observed))
    assert (action.do, "new is left over" in action.reason) == ("tidy", True)


@pytest.mark.parametrize("loss", [[], ["gpu1"]])
@pytest.mark.parametrize("lost", ["gpu1", "new"])
def test_tidying_up_beside_one_that_was_lost_makes_no_server(lost: str, loss: list[str]) -> None:
    """It would be one that nobody asked for and no budget knows of, at every look anew."""
    former, new = server(age=OLD), server(id="new", age=HOUR, replaces="gpu1")
    observed = seen(*(replace(one, status="SHELVED") if one.id == lost else one for one in (former, new)))
    stray = Volume("v-1", "r1", "gpu1", "available", created_at=NOW - HOUR)
    observed = replace(observed, fleet=replace(observed.fleet, volumes=(stray,)))
    desired = fleet(allow_data_loss=loss)
    recovery = decide(observed, desired)
    assert only(recovery).do in ("tidy", "retire")
    spec = wanted(**acting_options(recovery, observed=observed, desired=desired), allow_data_loss=loss)
    (work,) = plan_fleet(current=observed.fleet, desired=spec, memory={}, now=NOW).works
    assert (work.action, [one.id for one in work.doomed]) == ("kept", [lost] if loss else [])


def test_disks_and_addresses_that_are_left_over_are_tidied_up() -> None:
    observed = seen(server())
    stray = Volume("v-1", "r1", "gpu1", "available", created_at=NOW - HOUR)
    observed = replace(observed, fleet=replace(observed.fleet, volumes=(stray,)))
    assert only(decide(observed)).do == "tidy"
    mine = FloatingIp("a-1", "r1", "192.0.2.9", "gpu1", "")
    assert only(decide(replace(observed, fleet=replace(observed.fleet, volumes=(), addresses=(mine,))))).do == "keep"


# -- regular ones are handed back ------------------------------------------------------------------------------------------
# Late in an hour, which is paid for in full anyway.
LATE = NOW + 2700


def test_a_regular_stand_in_is_handed_back_by_way_of_a_successor() -> None:
    desired = fleet(**REGULAR)
    observed = seen(server(regular=True, age=600))
    assert only(decide(observed, desired, regular_max=1, now=LATE - 1)).do == "keep"
    recovery = decide(observed, desired, regular_max=1, now=LATE)
    action = only(recovery)
    assert (action.do, [one.preemptible for one in action.placements]) == ("hand back", [True, True])
    tried = replace(recovery.notes, rotated=0.0)
    assert only(decide(observed, desired, regular_max=1, notes=tried, now=LATE + 60)).do == "keep"
    assert only(decide(observed, desired, regular_max=1, notes=tried, now=LATE + HOUR)).do == "hand back"
    opened = Notes(breaker=Breaker((), {Z1: LATE + 60, Z2: LATE + 60}))
    assert only(decide(observed, desired, regular_max=1, notes=opened, now=LATE)).do == "refuse"
    named = fleet(switch_to_regular=["gpu1"], **REGULAR)
    assert only(decide(observed, named, regular_max=1, now=LATE)).do == "keep"
    declared = fleet(placements=[{"region": "r1", "flavor": "GL10", "preemptible": False}])
    assert only(decide(observed, declared, now=LATE)).do == "keep"


def test_a_schedule_that_never_runs_late_in_an_hour_hands_a_regular_one_back_all_the_same() -> None:
    """It costs three times as much for every hour that it stays."""
    desired, notes = fleet(**REGULAR), Notes()
    looks = []
    for hour in range(4):
        now = NOW + hour * HOUR + 300
        recovery = decide(seen(server(regular=True, age=599)), desired, notes=notes, regular_max=1, now=now)
        looks.append(only(recovery).do)
        notes = recovery.notes
    # Started ten minutes before the hour; the try of the third look came to nothing.
    assert looks == ["keep", "keep", "hand back", "keep"]


# -- to the module of the fleet --------------------------------------------------------------------------------------------
def test_decisions_become_options_that_the_module_takes() -> None:
    desired = fleet("gpu1", "gpu2", "gpu3")
    observed = seen(server("gpu1"), server("gpu2", "SHELVED"), server("gpu3", "SHELVED", locked=True))
    options = acting_options(decide(observed, desired, notes=OPEN_Z1), observed=observed, desired=desired)
    assert options["only"] == ["gpu2"]
    by_name = {one["name"]: one for one in options["servers"]}
    assert by_name["gpu2"]["restore"] == "never"
    assert by_name["gpu2"]["placements"] == [{"region": "r1", "zone": "z2", "preemptible": True, "flavor": "GL10"}]
    spec = wanted(**options)
    assert [slot.name for slot in spec.slots] == ["gpu1", "gpu2", "gpu3"]
    assert spec.only == ("gpu2",)


def test_with_regular_ones_alone_left_a_restore_is_not_taken_for_a_change_to_regular() -> None:
    """The refusal of one server would end the run for all."""
    observed, desired = seen(server(status="SHELVED")), fleet(allow_data_loss=[], **REGULAR)
    recovery = decide(observed, desired, notes=OPEN_BOTH, regular_max=1)
    assert [one.preemptible for one in only(recovery).placements] == [False, False, True, True]
    spec = wanted(**acting_options(recovery, observed=observed, desired=desired), allow_data_loss=[])
    assert plan_fleet(current=observed.fleet, desired=spec, memory={}, now=NOW).plan.refusals == ()


def test_placements_by_what_a_flavor_has_survive() -> None:
    match = {"gpu": "T4", "vcpus": 2, "disk_gb": 0}
    desired = fleet(placements=[{"region": "r1", "flavor_match": match}])
    observed = seen()
    options = acting_options(decide(observed, desired), observed=observed, desired=desired)
    assert wanted(**options).slots[0].placements == desired.slots[0].placements


def test_spare_servers_come_on_top() -> None:
    assert with_spare({"name_pattern": "gpu{n}", "count": "2"}, 1)["count"] == 3
    assert [one["name"] for one in with_spare({"servers": [{"name": "a"}]}, 2)["servers"]] == ["a", "spare1", "spare2"]
    assert with_spare({"count": 2}, 0) == {"count": 2}


def test_what_regions_offer_is_asked_only_where_something_is_started() -> None:
    assert not needs_offer(decide(seen(server())))
    assert not needs_offer(decide(seen(server(), nodes=())))
    assert needs_offer(decide(seen(server(status="SHELVED"))))
    assert needs_offer(decide(seen(server(age=OLD))))


# -- no zone bears all -----------------------------------------------------------------------------------------------------
def test_new_servers_are_spread_over_the_zones() -> None:
    recovery = decide(seen(), fleet("gpu1", "gpu2", "gpu3", "gpu4"))
    assert [places(action)[0] for action in recovery.actions] == [Z1, Z2, Z1, Z2]
    dearer = {"currency": "RUB", "servers": [{"flavor": "GL10", "preemptible": 30.0}]}
    assert len(places(decide(seen(), fleet(prices=dearer)).actions[0])) == 2


def test_before_all_are_in_one_zone_a_regular_one_is_taken() -> None:
    desired = fleet("gpu1", "gpu2", **REGULAR)
    failed = Notes(memory={Z2: {"until": NOW + 60, "reason": "no room"}})
    observed = seen(server("gpu1"))
    kinds = [key.rpartition("/")[2] for key in places(decide(observed, desired, notes=failed, regular_max=1).actions[1])]
    assert kinds == ["regular", "regular", "preemptible", "preemptible"]
    assert places(decide(observed, desired, notes=failed).actions[1]) == [Z2, Z1]


def test_when_all_are_in_one_zone_one_is_had_elsewhere() -> None:
    desired = fleet("gpu1", "gpu2", **REGULAR)
    observed = seen(server("gpu1"), server("gpu2"))
    recovery = decide(observed, desired, regular_max=1)
    assert done(recovery) == {"gpu1": "keep", "gpu2": "hedge"}
    assert Z1 not in places(recovery.actions[1])
    assert done(decide(observed, desired, regular_max=1, notes=recovery.notes, now=NOW + 60)) == {"gpu1": "keep", "gpu2": "keep"}
    assert set(done(decide(seen(server("gpu1"), server("gpu2", zone="z2")), desired, regular_max=1)).values()) == {"keep"}
    assert set(done(decide(observed, desired)).values()) == {"keep"}


def test_a_regular_one_is_not_handed_back_to_the_zone_that_bears_all_others() -> None:
    desired = fleet("gpu1", "gpu2", **REGULAR)
    recovery = decide(seen(server("gpu1"), server("gpu2", regular=True)), desired, regular_max=1, now=LATE)
    assert (recovery.actions[1].do, places(recovery.actions[1])) == ("hand back", [Z2])


@pytest.mark.parametrize(
    ("host", "verified"), [("127.0.0.1", False), ("::1", False), ("localhost", False), ("edge.example", True), ("192.0.2.1", True)]
)
def test_the_key_leaves_the_host_only_for_an_edge_that_is_verified(host: str, verified: bool) -> None:
    context = proof._context(host)
    assert (context.check_hostname, context.verify_mode == ssl.CERT_REQUIRED) == (verified, verified)


LAST_MINUTES = NOW + 3000
LOST = server("gpu3", "SHELVED_OFFLOADED")


@pytest.mark.parametrize(
    ("others", "now", "patience", "do"),
    [
        ((server("gpu1"), server("gpu2", zone="z2")), LAST_MINUTES, 900.0, "refuse"),
        ((server("gpu1"), server("gpu2", regular=True)), LAST_MINUTES, 900.0, "refuse"),
        ((server("gpu1"), server("gpu2", zone="z2")), LAST_MINUTES, 0.0, "restore"),
        ((server("gpu1"), server("gpu2", zone="z2")), LAST_MINUTES, 599.0, "restore"),
        ((server("gpu1"), server("gpu2", zone="z2")), NOW, 900.0, "restore"),
        ((server("gpu1"), server("gpu2")), LAST_MINUTES, 900.0, "restore"),
        ((server("gpu1"), server("gpu2", "ERROR", zone="z2")), LAST_MINUTES, 900.0, "refuse"),
    ],
)
def test_late_in_a_billed_hour_a_server_waits_while_others_are_in_two_zones(others: Any, now: float, patience: float, do: str) -> None:
    found = decide(seen(*others, LOST), fleet("gpu1", "gpu2", "gpu3", **REGULAR), now=now, patience=patience)
    action = next(one for one in found.actions if one.slot == "gpu3")
    assert action.do == do
    assert not action.person
    assert ("waits for the next hour to be billed, in 10 min" in action.reason) == (do == "refuse")


# -- as many as demand needs -----------------------------------------------------------------------------------------------
THREE = ("gpu1", "gpu2", "gpu3")
# the servers there are, how many are wanted, what the fleet may lose -> what is done
WANTED = {
    "all serve, and one is too many": ((server("gpu1"), server("gpu2"), server("gpu3")), 2, THREE, ["keep", "keep", "shed"]),
    "none is there beyond": ((server("gpu1"), server("gpu2")), 2, THREE, ["keep", "keep", "idle"]),
    "one more": ((server("gpu1"), server("gpu2")), 3, THREE, ["keep", "keep", "create"]),
    "one that runs stays before one that does not": (
        (server("gpu1", "SHELVED"), server("gpu2")),
        1,
        THREE,
        ["shed", "keep", "idle"],
    ),
    "one that can be restored comes before one that is not there": (
        (server("gpu2", "SHELVED"), server("gpu3")),
        2,
        THREE,
        ["idle", "restore", "keep"],
    ),
    "what may not be lost stays": ((server("gpu1"), server("gpu2")), 1, ("gpu1",), ["keep", "refuse", "idle"]),
    "no limit": ((server("gpu1"),), None, THREE, ["keep", "create", "create"]),
}


@pytest.mark.parametrize("name", WANTED)
def test_as_many_are_there_as_demand_needs(name: str) -> None:
    servers, number, loss, decided = WANTED[name]
    found = decide(seen(*servers), fleet(*THREE, allow_data_loss=list(loss)), wanted=number, rotate_before=None)
    assert [done(found)[slot] for slot in THREE] == decided


@pytest.mark.parametrize(("there", "least", "decided"), [(3, 1, 3), (2, 1, 2), (1, 2, 2), (0, 1, 1)])
def test_until_demand_decides_those_that_are_there_are_wanted(there: int, least: int, decided: int) -> None:
    found = decide(seen(*(server(name) for name in THREE[:there])), fleet(*THREE), least=least, rotate_before=None)
    assert [one.do for one in found.actions].count("idle") == 3 - decided
    assert found.of("shed") == ()


def test_spare_servers_are_no_matter_of_demand() -> None:
    found = decide(seen(server("gpu1"), server("gpu2"), server("gpu3")), fleet(*THREE), wanted=1, spare=1, rotate_before=None)
    assert done(found) == {"gpu1": "keep", "gpu2": "shed", "gpu3": "keep"}


def test_one_that_goes_is_billed_no_further_and_its_node_goes_with_it() -> None:
    found = decide(seen(server("gpu1"), server("gpu2")), fleet("gpu1", "gpu2"), wanted=1, rotate_before=None)
    (action,) = found.of("shed")
    assert (action.cost, action.node and action.node.hostname) == (-30.0, "gpu2")
    assert found.notes.ledger is not None
    assert (found.notes.ledger.bill, found.notes.ledger.rate) == (60.0, 30.0), "its hour is paid for"


def test_what_is_left_of_one_that_went_goes_too() -> None:
    observed = seen(server("gpu1"))
    left = replace(observed.fleet, volumes=(Volume("v", "r1", "gpu2", "available", used=True),))
    found = decide(replace(observed, fleet=left), fleet("gpu1", "gpu2"), wanted=1, rotate_before=None)
    assert done(found) == {"gpu1": "keep", "gpu2": "shed"}


def test_one_that_could_not_be_brought_back_is_tried_again_later() -> None:
    observed = seen(server("gpu1", "SHELVED"))
    waits = only(decide(observed, later={"gpu1": NOW + 30}))
    assert (waits.do, "again in 30 s" in waits.reason) == ("refuse", True)
    assert only(decide(observed, later={"gpu1": NOW})).do == "restore"


def test_without_improving_nothing_that_serves_is_touched() -> None:
    old = seen(server("gpu1", age=23 * HOUR))
    assert only(decide(old)).do == "rotate"
    assert only(decide(old, improve=False)).do == "keep"


@pytest.mark.parametrize(
    ("least", "noted", "number"),
    [(None, 1, None), (1, None, None), (1, 2, 2), (1, 9, 3), (2, 1, 2), ("4", None, "workers_min is 4, and 3 servers")],
)
def test_what_was_noted_is_followed_within_bounds(least: Any, noted: int | None, number: int | str | None) -> None:
    desired = fleet(*THREE)
    params = {name: option.get("default") for name, option in recovery_options().items()}
    params.update(workers_min=least if least is None else int(least), allow_regular=False)
    scale = None if noted is None else Scale(noted, NOW)
    if isinstance(number, str):
        with pytest.raises(BadInput, match=number):
            policy_of(params, desired, scale=scale)
    else:
        assert policy_of(params, desired, scale=scale).wanted == number
