# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The loop over the stand-in cloud and a manager's engine: restores, replaces, scales; the lock of others; killed anywhere."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any, Callable

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._autoscale.act import Learned
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._autoscale.crew import Crew
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._autoscale.loop import Autoscaler
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import StackError
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.model import SCALED_LABEL
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.state import LOCK
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.apply import Run
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.client import Calls, Watch
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.ladder import Outcome
from autokit import Site, told
from engine import serving
from standin_cloud import Cut, Killed, Response, StandinCloud
from standin_swarm import node_of


def rest(site: Site, autoscaler: Autoscaler, seconds: float = 1500) -> None:
    """Turn until all is as it should be, and require that it is."""
    site.pass_time(autoscaler, seconds)
    require_whole(site)


def require_whole(site: Site, workers: int = 2) -> None:
    """As many servers as are wanted, each a node with an engine; nothing left over, nothing held."""
    assert len(site.cloud.servers) == workers == len(site.cloud.alive())
    assert site.cloud.orphans() == []
    assert {node["ID"] for node in site.swarm.nodes()} == {node_of(server) for server in site.cloud.servers}
    assert {node["Spec"]["Availability"] for node in site.swarm.nodes()} == {"active"}
    assert site.swarm.replicas == workers
    # What one that died was holding is over.
    assert site.state.lock is None or site.state.lock.is_over(site.cloud.now)


# -- what is lost comes back -----------------------------------------------------------------------------------------------
def test_with_nothing_amiss_nothing_is_written_anywhere(site: Site) -> None:
    calls = len(site.swarm.calls)
    site.pass_time(site.autoscaler(), 300)
    assert site.cloud.writes() == []
    assert [call for call in site.swarm.calls[calls:] if not call.startswith("GET")] == []
    assert site.words() == ["no scaling", "rest"], "each is said once"


def test_an_interrupted_worker_is_restored_as_the_same_node(site: Site) -> None:
    before = site.servers()
    site.cloud.interrupt(before["gpu1"])
    autoscaler = site.autoscaler()
    autoscaler.lost("balancer")
    autoscaler.turn()
    assert site.servers() == before
    assert site.acts() == [f"unshelve {before['gpu1']}"]
    assert autoscaler.account.detect is not None
    assert autoscaler.account.detect < 3
    assert autoscaler.account.actions["restore", "done"] == 1
    assert site.said[0]["event"] in ("restore", "no scaling")
    rest(site, autoscaler)


def test_all_workers_at_once_come_back(site: Site) -> None:
    before = site.servers()
    for server in before.values():
        site.cloud.interrupt(server)
    site.autoscaler().turn()
    assert site.servers() == before


def test_one_that_cannot_be_restored_is_made_elsewhere_and_its_node_is_forgotten(site: Site) -> None:
    before = site.servers()
    zone = site.cloud.servers[before["gpu1"]]["OS-EXT-AZ:availability_zone"]
    site.cloud.interrupt(before["gpu1"])
    site.cloud.room = {zone: 0}
    autoscaler = site.autoscaler()
    autoscaler.turn()
    assert site.servers()["gpu1"] != before["gpu1"]
    assert any(zone in place for place in site.state.notes.memory)
    rest(site, autoscaler, 60)
    assert node_of(before["gpu1"]) not in {node["ID"] for node in site.swarm.nodes()}


def test_a_loss_that_nova_does_not_confirm_changes_nothing(site: Site) -> None:
    """An engine that hangs on a server that runs is not the cloud's matter."""
    autoscaler = site.autoscaler()
    autoscaler.lost("balancer")
    site.pass_time(autoscaler, 60, every=1.0)
    assert site.cloud.writes() == []


def test_without_room_it_is_tried_again_later_and_later_and_comes_back(site: Site) -> None:
    site.cloud.interrupt(site.servers()["gpu1"])
    site.cloud.room = {"z1": 0, "z2": 0}
    autoscaler = site.autoscaler()
    site.pass_time(autoscaler, 3600)
    tries = [one for one in site.said if one["event"] == "failed"]
    assert 5 <= len(tries) <= 12
    assert len(site.cloud.servers) == 2, "what is made for a try is gone again"
    site.cloud.room = {}
    site.pass_time(autoscaler, 700)
    assert len(site.cloud.alive()) == 2
    require_whole(site)


def test_what_needs_hands_is_called_for_and_left_alone(site: Site) -> None:
    server = site.servers()["gpu2"]
    (site.swarm.place / "joined" / server).unlink()
    site.swarm.specs.pop(server, None)
    autoscaler = site.autoscaler()
    site.pass_time(autoscaler, 700, joins=False)
    assert site.called == [["gpu2"], ["gpu2"]], "not more often than every ten minutes"
    assert site.cloud.writes() == []
    assert autoscaler.account.actions["hands", "done"] == 2


def test_the_budget_keeps_a_lost_worker_away(site: Site) -> None:
    site.cloud.interrupt(site.servers()["gpu1"])
    autoscaler = site.autoscaler(told(recovery={"budget": 100}))
    site.pass_time(autoscaler, 60)
    assert site.cloud.writes() == []


def test_what_somebody_else_has_started_is_noted_once_for_the_budget(site: Site) -> None:
    """Else the hours until the next loss would be charged by what ran before."""
    autoscaler = site.autoscaler(told(recovery={"budget": 10000}))
    autoscaler.turn()
    ledger = json.loads(site.swarm.labels["llm-stack.ledger"])
    site.swarm.labels["llm-stack.ledger"] = json.dumps({**ledger, "rate": 30.0})
    autoscaler.turn()
    assert json.loads(site.swarm.labels["llm-stack.ledger"])["rate"] == 60.0
    calls = len(site.swarm.calls)
    site.pass_time(autoscaler, 300)
    assert [call for call in site.swarm.calls[calls:] if not call.startswith("GET")] == []
    assert site.cloud.writes() == []
    require_whole(site)


# -- one that is slow hides no other -----------------------------------------------------------------------------------------
class Slow:
    """A restore of gpu1 that takes 300 s of the cloud; amid it something happens, and who waits for it is held until it was answered."""

    def __init__(self, site: Site, amid: Callable[[], None], answered: Callable[[], bool]) -> None:
        self._site, self._amid, self._answered, self._once = site, amid, answered, threading.Lock()
        self.server = site.servers()["gpu1"]
        self.in_time: list[bool] = []
        site.cloud.interrupt(self.server)
        site.cloud.fault = self._restore_slowly
        self._sleep = site.cloud.sleep
        site.cloud.sleep = self._wait  # type: ignore[method-assign]

    def _restore_slowly(
        self, cloud: StandinCloud, _service: str, _method: str, path: str, answer: Callable[[], Response]
    ) -> Response | None:
        if path != f"/servers/{self.server}/action":
            return None
        found = answer()
        cloud.servers[self.server]["_until"] = (cloud.now + 300.0, cloud._restored)
        return found

    def _wait(self, seconds: float) -> None:
        if threading.current_thread() is not threading.main_thread() and self._once.acquire(blocking=False):
            self._amid()
            end = time.monotonic() + 30
            while not self._answered() and time.monotonic() < end:
                time.sleep(0.01)
            self.in_time.append(self._answered() and self._site.cloud.servers[self.server]["status"] != "ACTIVE")
        self._sleep(seconds)


def test_one_that_is_slow_to_come_back_does_not_hide_the_loss_of_another(site: Site) -> None:
    before = site.servers()

    def lose_the_other() -> None:
        site.cloud.interrupt(before["gpu2"])
        for _sign in range(5):
            autoscaler.lost("balancer")

    slow = Slow(site, lose_the_other, lambda: f"unshelve {before['gpu2']}" in site.acts())
    autoscaler = site.autoscaler()
    autoscaler.turn()
    assert slow.in_time == [True], "it was acted on while the first was still away"
    assert sorted(site.acts()) == sorted(f"unshelve {server}" for server in before.values()), "each once"
    assert autoscaler.account.detect is not None
    assert autoscaler.account.detect < 3
    assert autoscaler.account.actions["restore", "done"] == 2
    assert site.state.lock is None
    site.cloud.fault = None
    assert site.servers() == before
    rest(site, site.autoscaler(), 60)


def test_one_that_is_lost_again_while_another_is_slow_is_brought_back_again(site: Site) -> None:
    """It was done with, although the turn that brought it back was not over."""
    before = site.servers()

    def both() -> bool:
        return site.acts().count(f"unshelve {before['gpu2']}") == 2

    def lose_the_other() -> None:
        site.cloud.interrupt(before["gpu2"])
        autoscaler.lost("balancer")
        end = time.monotonic() + 30
        while "done" not in site.words() and time.monotonic() < end:
            time.sleep(0.01)
        site.cloud.interrupt(before["gpu2"])
        autoscaler.lost("balancer")

    slow = Slow(site, lose_the_other, both)
    autoscaler = site.autoscaler()
    autoscaler.turn()
    assert slow.in_time == [True]
    site.cloud.fault = None
    rest(site, site.autoscaler(), 60)


def test_a_look_that_fails_amid_a_restore_costs_nobody_the_restore(site: Site) -> None:
    before = site.servers()
    blind = threading.Event()

    def go_blind() -> None:
        blind.set()
        autoscaler.lost("docker")

    slow = Slow(site, go_blind, lambda: "blind" in site.words())
    restore = site.cloud.fault
    assert restore is not None

    def see_nothing(cloud: StandinCloud, service: str, method: str, path: str, answer: Callable[[], Response]) -> Response | None:
        # Disks are looked at by the loop alone.
        if blind.is_set() and not slow.in_time and path == "/volumes/detail":
            raise Cut("no route to host")
        return restore(cloud, service, method, path, answer)

    site.cloud.fault = see_nothing
    autoscaler = site.autoscaler()
    autoscaler.turn()
    assert slow.in_time == [True]
    assert autoscaler.account.healthy
    assert site.servers() == before
    assert site.acts() == [f"unshelve {before['gpu1']}"]
    assert site.state.lock is None


def test_a_lock_that_is_lost_amid_a_restore_ends_what_is_under_way(site: Site) -> None:
    """Whoever took it may work on the same servers: nothing more is begun, also not for what is lost meanwhile."""
    before = site.servers()

    def lose_all() -> None:
        labels = site.swarm.labels
        labels[LOCK] = json.dumps({"owner": "AWX job 7", "token": "theirs", "since": site.cloud.now, "until": site.cloud.now + 600})
        site.cloud.interrupt(before["gpu2"])
        autoscaler.lost("balancer")

    slow = Slow(site, lose_all, lambda: autoscaler.account.turned > began)
    autoscaler = site.autoscaler()
    began = autoscaler.account.turned
    autoscaler.turn()
    assert slow.in_time == [True]
    assert site.acts() == [f"unshelve {before['gpu1']}"]
    assert "lock lost" in site.words()
    assert site.state.lock is not None
    assert site.state.lock.owner == "AWX job 7"


def test_what_goes_wrong_with_one_worker_ends_the_work_on_that_one_alone() -> None:
    woken: list[bool] = []

    def fails() -> tuple[Outcome, Learned]:
        raise StackError("no")

    run = Run({}, Watch(10.0), Calls())
    with Crew(lambda: woken.append(True), most=2) as crew:
        crew.begin("gpu1", run, fails)
        crew.begin("gpu2", run, lambda: (Outcome("gpu2", "restored", ""), {"r1": None}))
        with pytest.raises(ValueError, match="worked on already"):
            crew.begin("gpu2", run, fails)
    assert {one.slot: (one.ok, one.reason) for one, _learned in crew.done()} == {"gpu1": (False, "no"), "gpu2": (True, "")}
    assert (crew.done(), crew.busy, len(woken)) == ([], frozenset(), 2)


def test_one_that_ends_the_process_stops_all_at_their_next_request() -> None:
    run = Run({}, Watch(3600.0), Calls())

    def waits() -> tuple[Outcome, Learned]:
        run.watch.pause(3000.0)
        raise AssertionError("it was not stopped")

    with pytest.raises(Killed), Crew(lambda: None, most=1) as crew:
        crew.begin("gpu1", run, waits)
        raise Killed


# -- demand ----------------------------------------------------------------------------------------------------------------
def test_demand_makes_one_more_worker_and_takes_it_away_again(site: Site) -> None:
    autoscaler = site.autoscaler()
    site.load(0.95)
    site.pass_time(autoscaler, 200)
    require_whole(site, 3)
    assert site.state.notes.scale is not None
    assert site.state.notes.scale.wanted == 3
    site.load(0.05)
    site.pass_time(autoscaler, 700)
    require_whole(site, 2)
    # It was free of tasks before its server went.
    assert [one["worker"] for one in site.said if one["event"] == "shed"] == ["gpu3"]
    site.pass_time(autoscaler, 3000)
    require_whole(site, 1)


def test_when_it_is_switched_on_what_is_there_stays_and_is_noted(site: Site) -> None:
    del site.swarm.labels["llm-stack.scale"]
    autoscaler = site.autoscaler()
    site.pass_time(autoscaler, 60)
    assert site.cloud.writes() == []
    assert site.state.notes.scale is not None
    assert (site.state.notes.scale.wanted, site.words().count("scale")) == (2, 1)
    require_whole(site)


def test_requests_that_wait_are_demand(site: Site) -> None:
    site.load(0.1, waiting=2)
    site.pass_time(site.autoscaler(), 120)
    require_whole(site, 3)


def test_never_more_than_the_most_or_fewer_than_the_least(site: Site) -> None:
    autoscaler = site.autoscaler()
    site.load(1.0, waiting=9)
    site.pass_time(autoscaler, 3000)
    require_whole(site, 3)
    site.load(0.0)
    site.pass_time(autoscaler, 6000)
    require_whole(site, 1)


@pytest.mark.parametrize("why", ["budget", "breaker", "stale", "unknown"])
def test_what_stands_in_the_way_of_one_more(site: Site, why: str) -> None:
    settings = told(recovery={"budget": 1500} if why == "budget" else {"breaker_limit": 1, "breaker_rest": 9000, "breaker_window": 9000})
    autoscaler = site.autoscaler(settings)
    if why == "breaker":
        for server in site.servers().values():
            site.cloud.interrupt(server)
        site.pass_time(autoscaler, 100)
    site.load(0.95)
    if why == "stale":
        old = site.demand()
        site.cloud.sleep(100)
        site.demand = lambda: old
    if why == "unknown":
        site.demand = lambda: None
    before = len(site.cloud.servers)
    site.cloud.log.clear()
    site.cloud.bodies.clear()
    site.pass_time(autoscaler, 900)
    assert len(site.cloud.servers) == before
    assert site.cloud.writes() == []
    assert site.state.notes.scale is not None
    assert site.state.notes.scale.wanted == 2
    reason = autoscaler.account.scaling
    assert reason is not None
    texts = {"budget": "1500.00 is the budget", "breaker": "left alone for", "stale": "is the limit", "unknown": "not known"}
    assert texts[why] in reason.reason


def test_a_worker_that_is_wanted_again_before_it_has_gone_takes_tasks_again(site: Site) -> None:
    """Killed between the drain and the removal, and the load is back: the drain is taken back."""
    node = site.swarm.specs[site.servers()["gpu2"]]
    node.update(Availability="drain", Labels={**node["Labels"], SCALED_LABEL: "1764000000"})
    autoscaler = site.autoscaler()
    site.pass_time(autoscaler, 60)
    require_whole(site)
    assert "needed again" in site.words()


def busy(site: Site) -> None:
    """Let an engine go on with its last answers although its node is drained."""
    tasks = site.swarm.tasks

    def held() -> list[dict[str, Any]]:
        found = {task["NodeID"]: task for task in tasks()}
        for node in site.swarm.nodes():
            if node["Status"]["State"] == "ready":
                found.setdefault(node["ID"], {"NodeID": node["ID"], "ServiceID": "engine", "Status": {"State": "running"}})
        return list(found.values())

    site.swarm.tasks = held  # type: ignore[method-assign]


def test_the_last_answers_of_one_that_goes_are_waited_for_and_no_turn_is_held_up(site: Site) -> None:
    busy(site)
    site.want(1)
    autoscaler = site.autoscaler(told(pace={"drain": 100}))
    at = site.cloud.now
    autoscaler.turn()
    assert site.cloud.now - at < 10
    assert site.swarm.specs[site.servers()["gpu2"]]["Availability"] == "drain"
    site.pass_time(autoscaler, 80)
    assert site.acts() == []
    site.pass_time(autoscaler, 100)
    require_whole(site, 1)


def test_nobody_goes_on_the_strength_of_what_was_seen_before_another_was_brought_back(site: Site) -> None:
    """Bringing the spare one back took a while, and meanwhile the only other one was lost."""
    busy(site)
    site.want(1)
    names = ["gpu1", "gpu2", "gpu3", "gpu4"]
    autoscaler = site.autoscaler(told(recovery={"spare": 1}, fleet={"allow_data_loss": names}, pace={"drain": 100}))
    autoscaler.turn()
    site.join()
    autoscaler.turn()
    before = site.servers()
    assert site.swarm.specs[before["gpu2"]]["Availability"] == "drain"
    site.cloud.sleep(200)
    site.cloud.interrupt(before["gpu4"])

    def lose_another(cloud: StandinCloud, _service: str, method: str, path: str, answer: Callable[[], Response]) -> Response | None:
        if (method, path) != ("POST", f"/servers/{before['gpu4']}/action"):
            return None
        cloud.interrupt(before["gpu1"])
        cloud.sleep(20)
        return answer()

    site.cloud.fault = lose_another
    autoscaler.turn()
    site.cloud.fault = None
    assert before["gpu2"] in site.cloud.servers
    site.pass_time(autoscaler, 300)
    assert site.servers()["gpu2"] == before["gpu2"]


def test_one_that_takes_tasks_again_is_drained_anew_and_not_cut_for_an_old_label(site: Site) -> None:
    """Somebody gave it its tasks back by hand, hours after it was drained."""
    busy(site)
    site.want(1)
    node = site.swarm.specs[site.servers()["gpu2"]]
    node.update(Labels={**node["Labels"], SCALED_LABEL: "1"})
    autoscaler = site.autoscaler(told(pace={"drain": 100}))
    site.pass_time(autoscaler, 80)
    assert site.acts() == []
    site.pass_time(autoscaler, 100)
    require_whole(site, 1)


def test_one_that_drains_is_kept_where_another_is_lost_meanwhile(site: Site) -> None:
    busy(site)
    site.want(1)
    autoscaler = site.autoscaler(told(pace={"drain": 100}))
    autoscaler.turn()
    site.cloud.interrupt(site.servers()["gpu1"])
    autoscaler.turn()
    assert site.swarm.specs[site.servers()["gpu2"]]["Availability"] == "active"
    site.pass_time(autoscaler, 300)
    assert list(site.servers()) == ["gpu2"]
    require_whole(site, 1)


def test_a_node_that_joined_by_itself_is_told_apart_from_then_on(site: Site) -> None:
    server = site.servers()["gpu2"]
    site.swarm.specs[server]["Labels"] = {"gpu": "true"}
    site.pass_time(site.autoscaler(), 60)
    assert site.swarm.specs[server]["Labels"] == {"gpu": "true", "llm-stack.server": server}
    assert site.words().count("name") == 1


def test_a_drain_of_somebody_else_stays(site: Site) -> None:
    site.swarm.specs[site.servers()["gpu2"]]["Availability"] = "drain"
    site.pass_time(site.autoscaler(), 60)
    assert site.swarm.specs[site.servers()["gpu2"]]["Availability"] == "drain"
    assert site.swarm.replicas == 2, "it will be back"


def test_what_may_not_be_lost_is_not_taken(site: Site) -> None:
    site.want(1)
    site.pass_time(site.autoscaler(told(fleet={"allow_data_loss": []})), 120)
    assert site.cloud.writes() == []


# -- the lock --------------------------------------------------------------------------------------------------------------
def test_whoever_holds_the_lock_keeps_it_still(site: Site) -> None:
    site.hold("AWX job 7")
    site.cloud.interrupt(site.servers()["gpu1"])
    site.load(0.95)
    autoscaler = site.autoscaler()
    site.pass_time(autoscaler, 300)
    assert site.cloud.writes() == []
    assert (autoscaler.account.held_by, site.words()[-1]) == ("AWX job 7", "still")
    site.cloud.sleep(400)
    site.load(0.5)
    rest(site, autoscaler)


Fault = Callable[[StandinCloud, str, str, str, Callable[[], Response]], "Response | None"]


def thief(site: Site, at: int, seen: dict[str, int]) -> Fault:
    """Takes the lock away with the cloud's answer to that call of those that change something."""

    def steal(cloud: StandinCloud, _service: str, method: str, _path: str, answer: Callable[[], Response]) -> Response | None:
        if method == "GET":
            return None
        seen["writes"] += 1
        seen["after"] += int(seen["writes"] > at + 1)
        found = answer()
        if seen["writes"] == at + 1:
            labels = site.swarm.labels
            labels[LOCK] = json.dumps({"owner": "AWX job 7", "token": "theirs", "since": cloud.now, "until": cloud.now + 30})
        return found

    return steal


@pytest.mark.long
def test_the_lock_is_asked_for_before_every_call_that_changes_the_cloud(site: Site) -> None:
    """Taken away before the first, the second, ... call: nothing further is asked of the cloud, and what was made is taken up."""
    site.want(3)
    for call in range(40):
        seen = {"writes": 0, "after": 0}
        site.cloud.fault = thief(site, call, seen)
        site.autoscaler().turn()
        site.cloud.fault = None
        assert seen["after"] == 0, f"{seen['after']} calls after the lock was lost before call {call + 1}"
        if seen["writes"] <= call:
            assert call >= 4, "a server is made with a port, a disk and an address"
            break
        site.cloud.sleep(1000)
        site.pass_time(site.autoscaler(), 900, every=90)
        require_whole(site, 3)
        site.want(2)
        site.pass_time(site.autoscaler(), 120, every=30)
        require_whole(site, 2)
        site.want(3)
    else:
        raise AssertionError("a turn has more than 40 calls")


def hang_up_at_write(site: Site, number: int) -> list[int]:
    """Let the engine hang up on that write from now on; what is returned holds a number below 0 once it has."""
    left = [number]

    def hang_up() -> None:
        left[0] -= 1
        site.swarm.die_at = len(site.swarm.calls) if left[0] < 0 else -1
        site.swarm.before = hang_up if left[0] >= 0 else lambda: None

    site.swarm.before = hang_up
    return left


@pytest.mark.parametrize("after_work", [False, True], ids=["unheard", "unanswered"])
def test_a_lock_about_which_the_engine_was_silent_once_keeps_nobody_waiting(site: Site, after_work: bool) -> None:
    """Whichever write is lost, that which takes the lock and that which gives it up among them: the next turn knows it for its own."""
    autoscaler = site.autoscaler()
    site.swarm.dies_after_work = after_work
    for number in range(20):
        site.cloud.interrupt(site.servers()["gpu1"])
        left = hang_up_at_write(site, number)
        autoscaler.turn()
        site.swarm.die_at, site.swarm.before = -1, lambda: None
        autoscaler.turn()
        assert site.state.lock is None, f"after write {number}"
        # What failed for the engine's sake is tried again a minute later.
        rest(site, autoscaler, 90)
        if left[0] >= 0:
            assert number > 3
            return
    raise AssertionError("a turn has more than 20 writes")


def test_two_of_them_act_once(site: Site) -> None:
    before = site.servers()
    for server in before.values():
        site.cloud.interrupt(server)
    two = [threading.Thread(target=site.autoscaler().turn) for _number in range(2)]
    for one in two:
        one.start()
    for one in two:
        one.join()
    rest(site, site.autoscaler(), 200)
    assert sorted(site.acts()) == sorted(f"unshelve {server}" for server in before.values())
    assert len([one for one in site.said if one["event"] == "restore"]) == 2


def test_two_of_them_scale_once(site: Site) -> None:
    site.load(0.95)
    first, second = site.autoscaler(), site.autoscaler()
    for _turn in range(12):
        first.turn()
        second.turn()
        site.join()
        site.cloud.sleep(15)
    assert site.acts().count("post servers") == 1
    require_whole(site, 3)


# -- what is not seen ------------------------------------------------------------------------------------------------------
def test_a_look_that_takes_too_long_is_not_acted_upon(site: Site) -> None:
    site.cloud.interrupt(site.servers()["gpu1"])

    def slow(cloud: StandinCloud, service: str, method: str, path: str, _answer: object) -> None:
        if (service, method, path) == ("block_storage", "GET", "/volumes/detail"):
            cloud.sleep(14.9)

    site.cloud.fault = slow
    autoscaler = site.autoscaler()
    autoscaler.turn()
    assert site.cloud.writes() == []
    assert not autoscaler.account.healthy
    assert "s is" in autoscaler.account.error or "deadline of 15 s is over" in autoscaler.account.error
    site.cloud.fault = None
    rest(site, autoscaler)


@pytest.mark.parametrize("who", ["cloud", "engine", "state"])
def test_what_cannot_be_seen_is_said_and_nothing_is_done(site: Site, who: str) -> None:
    site.cloud.interrupt(site.servers()["gpu1"])
    autoscaler = site.autoscaler()
    labels = dict(site.swarm.labels)

    def dead(_cloud: StandinCloud, _service: str, _method: str, _path: str, _answer: object) -> Response:
        raise Cut("no route to host")

    if who == "cloud":
        site.cloud.fault = dead
    elif who == "state":
        site.swarm.labels["llm-stack.scale"] = "no JSON"
    else:
        site.swarm.die_at = len(site.swarm.calls) + 1
    autoscaler.turn()
    assert site.cloud.writes() == []
    assert not autoscaler.account.healthy
    assert [one for one in site.said if one["event"] == "blind"]
    site.cloud.fault, site.swarm.die_at = None, -1
    site.swarm.labels.clear()
    site.swarm.labels.update(labels)
    rest(site, autoscaler)


# -- killed ----------------------------------------------------------------------------------------------------------------
def lose_one_and_scale(site: Site) -> None:
    """One is interrupted where there is no room any more, and demand needs a third."""
    first = site.servers()["gpu1"]
    zone = site.cloud.servers[first]["OS-EXT-AZ:availability_zone"]
    site.cloud.interrupt(first)
    site.cloud.room = {zone: 0}
    site.want(3)


def scale_in(site: Site) -> None:
    site.want(1)


def some_turns(site: Site, autoscaler: Autoscaler) -> None:
    """As many as it takes: one that drains is looked at again, and what is left of it goes last."""
    for _turn in range(3):
        autoscaler.turn()
        site.cloud.sleep(20)


AMISS: dict[str, tuple[Callable[[Site], None], int]] = {"out": (lose_one_and_scale, 3), "in": (scale_in, 1)}


def killer(at: int, answered: bool, count: dict[str, int]) -> Fault:
    """Ends the autoscaler at that call, before or after it was carried out."""

    def kill(_cloud: StandinCloud, _service: str, _method: str, _path: str, answer: Callable[[], Response]) -> Response | None:
        count["calls"] += 1
        if count["calls"] > at:
            if answered and count["calls"] == at + 1:
                answer()
            raise Killed
        return None

    return kill


@pytest.mark.long
@pytest.mark.parametrize("amiss", AMISS)
@pytest.mark.parametrize("answered", [False, True], ids=["before", "after"])
def test_killed_at_any_call_to_the_cloud_the_next_one_goes_on(tmp_path: Path, amiss: str, answered: bool) -> None:
    """It dies with a request that never left, or that was carried out and never answered."""
    lose, workers = AMISS[amiss]
    for at in range(200):
        place = tmp_path / str(at)
        place.mkdir()
        site, count = Site(place), {"calls": 0}
        with serving(site.swarm):
            site.begin()
            lose(site)
            site.cloud.fault = killer(at, answered, count)
            ended = True
            try:
                some_turns(site, site.autoscaler())
            except Killed:
                ended = False
            site.cloud.fault, site.cloud.room = None, {}
            # The dead hold the lock for no longer than this; the bounds of a making that was cut are those of the fleet's deadline.
            site.cloud.sleep(1000)
            site.pass_time(site.autoscaler(), 900, every=90)
            require_whole(site, workers)
        if ended:
            assert at > 12
            return
    raise AssertionError("a turn has more than 200 calls")


@pytest.mark.long
@pytest.mark.parametrize("amiss", AMISS)
def test_killed_at_any_call_to_the_engine_the_next_one_goes_on(tmp_path: Path, amiss: str) -> None:
    lose, workers = AMISS[amiss]
    for at in range(200):
        place = tmp_path / str(at)
        place.mkdir()
        site = Site(place)
        with serving(site.swarm):
            site.begin()
            lose(site)
            autoscaler = site.autoscaler()
            began = len(site.swarm.calls)
            site.swarm.die_at, site.swarm.dies_after_work = began + at, bool(at % 2)
            some_turns(site, autoscaler)
            ended = len(site.swarm.calls) <= began + at
            site.swarm.die_at, site.cloud.room = -1, {}
            site.cloud.sleep(1000)
            site.pass_time(site.autoscaler(), 900, every=90)
            require_whole(site, workers)
        if ended:
            assert at > 12
            return
    raise AssertionError("a turn has more than 200 calls")
