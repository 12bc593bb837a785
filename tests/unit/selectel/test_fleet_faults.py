# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet's run that is killed, raced, or answered with everything a cloud can answer: nothing is doubled, nothing is orphaned."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from email.utils import formatdate
from typing import Any, Callable

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import Refused, StackError
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.apply import in_parallel
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.client import Watch, retry_after
from fleetkit import remove_fleet, run_fleet, run_here
from standin_cloud import START, Cut, EndpointNotFound, Killed, LoginRefused, Response, StandinCloud, refusal

OPTIONS: dict[str, Any] = {"floating_network": "ext", "allow_data_loss": ["gpu1"]}
CREATE = ("POST /ports", "POST /volumes", "POST /servers", "POST /volumes/ID/metadata", "POST /floatingips")
# What replaces an interrupted server that cannot be restored: the restore, the creation, then the old one goes.
REPLACE = ("POST /servers/ID/action", *CREATE[:3], "DELETE /servers/ID", "DELETE /ports/ID", CREATE[3], "PUT /floatingips/ID")
HOWS = ("before", "after")
Answer = Callable[[], Response]


def to_be_replaced() -> StandinCloud:
    """Return a cloud whose server was interrupted and has no room any more."""
    cloud = StandinCloud()
    run_fleet(cloud, **OPTIONS)
    cloud.interrupt(next(iter(cloud.servers)))
    cloud.room = {"z1": 0}
    cloud.log.clear()
    return cloud


def at_write(number: int, act: Callable[[Answer], Response | None]) -> Any:
    """Return a fault that acts at the n-th request that writes."""
    seen = [0]

    def fault(_cloud: StandinCloud, _service: str, method: str, _path: str, answer: Answer) -> Response | None:
        if method == "GET":
            return None
        seen[0] += 1
        return act(answer) if seen[0] == number + 1 else None

    return fault


def settle(cloud: StandinCloud) -> None:
    """Run again until there is nothing to do: at once, and when every other run must be over."""
    cloud.fault = None
    assert run_fleet(cloud, **OPTIONS).ok
    assert len(cloud.alive("gpu1")) == 1, "a slot was doubled, or lost"
    cloud.now += 1000
    run_fleet(cloud, **OPTIONS)
    assert run_fleet(cloud, **OPTIONS).plan.plan.steps == ()
    assert len(cloud.alive("gpu1")) == 1
    assert (cloud.orphans(), len(cloud.servers), len(cloud.addresses)) == ([], 1, 1)


def shape(cloud: StandinCloud) -> tuple[str, ...]:
    """Return the writes with IDs left out."""
    found = []
    for method, path in cloud.writes():
        parts = path.strip("/").split("/")
        found.append(f"{method} /" + "/".join("ID" if place == 1 else part for place, part in enumerate(parts)))
    return tuple(found)


def test_the_writes_are_those_that_are_broken_below() -> None:
    cloud = StandinCloud()
    run_fleet(cloud, **OPTIONS)
    assert shape(cloud) == CREATE
    cloud = to_be_replaced()
    run_fleet(cloud, **OPTIONS)
    assert shape(cloud) == REPLACE


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("number", range(len(CREATE)), ids=CREATE)
def test_killed_while_a_server_is_made(number: int, how: str) -> None:
    cloud = StandinCloud()
    killed(cloud, number, how)
    settle(cloud)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("number", range(len(REPLACE)), ids=REPLACE)
def test_killed_while_a_server_is_replaced(number: int, how: str) -> None:
    cloud = to_be_replaced()
    killed(cloud, number, how)
    settle(cloud)


def killed(cloud: StandinCloud, number: int, how: str) -> None:
    def act(answer: Answer) -> Response | None:
        if how == "after":
            answer()
        raise Killed

    cloud.fault = at_write(number, act)
    with pytest.raises(Killed):
        run_fleet(cloud, **OPTIONS)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("number", range(len(CREATE)), ids=CREATE)
def test_a_second_run_in_the_middle_of_a_creation(number: int, how: str) -> None:
    cloud = StandinCloud()
    raced(cloud, number, how)
    settle(cloud)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("number", range(len(REPLACE)), ids=REPLACE)
def test_a_second_run_in_the_middle_of_a_replacement(number: int, how: str) -> None:
    cloud = to_be_replaced()
    raced(cloud, number, how)
    settle(cloud)


@pytest.mark.parametrize("number", range(3), ids=CREATE[:3])
def test_a_cloud_that_answers_later_than_anyone_waits_makes_nothing_twice(number: int) -> None:
    cloud = StandinCloud()

    def late(answer: Answer) -> Response | None:
        cloud.now += 30
        cloud.pending.append((cloud.now + 20, answer))
        raise Cut("Read timed out.")

    cloud.fault = at_write(number, late)
    assert run_fleet(cloud, **OPTIONS).ok
    assert (len(cloud.servers), len(cloud.ports), len(cloud.volumes), cloud.orphans()) == (1, 1, 1, [])
    assert shape(cloud) == CREATE


def raced(cloud: StandinCloud, number: int, how: str) -> None:
    def act(answer: Answer) -> Response | None:
        cloud.fault = None
        if how == "after":
            given = answer()
            run_here(cloud, **OPTIONS)
            return given
        run_here(cloud, **OPTIONS)
        return None

    cloud.fault = at_write(number, act)
    run_fleet(cloud, **OPTIONS)
    assert len(cloud.alive("gpu1")) == 1, "a slot was doubled, or lost"


def test_two_runs_in_two_threads_make_each_server_once() -> None:
    options = {"servers": [], "name_pattern": "gpu{n}", "count": 3, "deadline": 3000}
    for _round in range(5):
        cloud = StandinCloud()
        with ThreadPoolExecutor(2) as pool:
            runs = [pool.submit(run_fleet, cloud, **options) for _run in range(2)]
            ended = [run.result() for run in runs]
        assert all(one.ok for one in ended), [one.reason for one in ended]
        assert sorted(one["name"] for one in cloud.servers.values()) == ["gpu1", "gpu2", "gpu3"]


def test_of_two_servers_in_a_slot_the_first_stays_and_the_other_goes_when_its_maker_must_be_over() -> None:
    cloud = StandinCloud()
    run_fleet(cloud)
    (first,) = list(cloud.servers)
    twin = {**cloud.servers[first], "id": "srv-9999", "_ports": [], "_volumes": [], "metadata": dict(cloud.servers[first]["metadata"])}
    twin["created"] = cloud._stamp()
    cloud.servers["srv-9999"] = twin
    ended = run_fleet(cloud)
    assert ended.plan.plan.steps == ()
    assert "gpu1 has a second server srv-9999" in ended.plan.plan.warnings[0]
    cloud.now += 1000
    run_fleet(cloud)
    assert list(cloud.servers) == [first]


@pytest.mark.parametrize("dated", [-2, 0, 2])
def test_of_a_server_made_twice_by_one_request_the_one_that_has_the_port_stays(dated: int) -> None:
    cloud = StandinCloud()

    def answered_late(_cloud: StandinCloud, _service: str, method: str, path: str, answer: Answer) -> Response | None:
        if (method, path) != ("POST", "/servers"):
            return None
        answer()
        (first,) = list(cloud.servers.values())
        created = datetime.fromisoformat(first["created"].replace("Z", "+00:00")) + timedelta(seconds=dated)
        unplugged = {"id": "srv-0000", "created": created.strftime("%Y-%m-%dT%H:%M:%SZ"), "_ports": [], "_volumes": [], "_actions": []}
        cloud.servers["srv-0000"] = {**first, **unplugged}
        return Response(202, {"server": {"id": "srv-0000"}})

    cloud.fault = answered_late
    ended = run_fleet(cloud, **OPTIONS)
    assert ended.actions == {"gpu1": "created"}
    servers = list(cloud.servers.values())
    assert [server["_ports"] for server in servers] == [list(cloud.ports)]
    assert cloud.orphans() == []


# -- what a cloud can answer ----------------------------------------------------------------------------------------------------
def cut_before(cloud: StandinCloud, _answer: Answer) -> Response:
    raise Cut("Connection aborted")


def cut_after(cloud: StandinCloud, answer: Answer) -> Response:
    answer()
    raise Cut("Connection reset by peer")


def hang(cloud: StandinCloud, _answer: Answer) -> Response:
    cloud.now += 30
    raise Cut("Request timed out")


def expired(cloud: StandinCloud, _answer: Answer) -> Response:
    raise LoginRefused("The request you have made requires authentication. password=hunter2")


def answers(status: int, text: str, **headers: str) -> Any:
    return lambda cloud, answer: refusal(status, text, **headers)


PASSING = {
    "413": answers(413, "This request was rate-limited.", **{"Retry-After": "7"}),
    "429": answers(429, "Too many requests", **{"Retry-After": "3"}),
    "500": answers(500, "Unexpected API Error."),
    "503": answers(503, "The server is currently unavailable."),
    "cut before": cut_before,
    "cut after": cut_after,
    "hang": hang,
}
LASTING = {
    "401": (answers(401, "The request you have made requires authentication."), "The cloud does not accept the credentials any more"),
    "token": (expired, "The cloud does not accept the credentials"),
    "403": (answers(403, "Policy doesn't allow it to be performed."), "answered 403: Policy doesn't allow it to be performed"),
    "409": (answers(409, "There was a conflict."), "answered 409: There was a conflict"),
    "quota": (answers(413, "VolumeLimitExceeded: Maximum number of volumes allowed (10) exceeded", **{"Retry-After": "0"}), "answered 413"),
    "429": (answers(429, "Too many requests", **{"Retry-After": "60"}), "deadline of 300 s is over"),
    "500": (answers(500, "Unexpected API Error."), "answered 500: Unexpected API Error"),
    "503": (answers(503, "Unavailable."), "answered 503: Unavailable"),
    "cut": (cut_before, "gave no answer: Connection aborted"),
    "hang": (hang, "gave no answer: Request timed out"),
}


@pytest.mark.parametrize("kind", PASSING)
@pytest.mark.parametrize("number", range(len(CREATE)), ids=CREATE)
def test_a_passing_fault_is_outlived_by_the_same_run(number: int, kind: str) -> None:
    cloud = StandinCloud()
    cloud.fault = at_write(number, lambda answer: PASSING[kind](cloud, answer))
    assert run_fleet(cloud, **OPTIONS).actions == {"gpu1": "created"}
    settle(cloud)


@pytest.mark.parametrize(
    ("status", "header", "least"),
    [(413, {"Retry-After": "7"}, 7.0), (429, {"Retry-After": "30"}, 30.0), (429, {}, 2.0), (429, {"Retry-After": "soon"}, 2.0)],
)
def test_a_cloud_that_asks_to_wait_is_left_alone_for_so_long(status: int, header: dict[str, str], least: float) -> None:
    cloud = StandinCloud()
    asked: list[float] = []

    def busy(_cloud: StandinCloud, _service: str, method: str, path: str, _answer: Answer) -> Response | None:
        if (method, path) != ("POST", "/servers"):
            return None
        asked.append(cloud.now)
        return refusal(status, "Too many requests", **header) if len(asked) == 1 else None

    cloud.fault = busy
    assert run_fleet(cloud, **OPTIONS).actions == {"gpu1": "created"}
    assert len(asked) == 2
    assert least <= asked[1] - asked[0] < least + 1


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.5),
        ("-3", 0.5),
        (formatdate(START + 30, usegmt=True), 30.0),
        (formatdate(START - 60, usegmt=True), 0.5),
        ("soon", 2.0),
        ("", 2.0),
    ],
)
def test_how_long_to_wait_is_told_as_seconds_or_as_a_date(told: str, seconds: float) -> None:
    assert retry_after(Response(429, headers={"Retry-After": told}), START) == seconds


@pytest.mark.parametrize("kind", LASTING)
@pytest.mark.parametrize("request_", [*CREATE, "POST /servers/ID/action", "GET /servers/ID"])
def test_a_lasting_fault_ends_in_a_sentence_within_the_deadline(request_: str, kind: str) -> None:
    fault, sentence = LASTING[kind]
    method, wanted_path = request_.split(" ")
    restores = request_ in ("POST /servers/ID/action", "GET /servers/ID")
    cloud = StandinCloud()
    if restores:
        run_fleet(cloud, **OPTIONS)
        cloud.interrupt(next(iter(cloud.servers)))
    began = cloud.now

    def broken(_cloud: StandinCloud, _service: str, used: str, path: str, answer: Answer) -> Response | None:
        parts = path.strip("/").split("/")
        same = "/" + "/".join("ID" if place == 1 and part != "detail" else part for place, part in enumerate(parts)) == wanted_path
        return fault(cloud, answer) if used == method and same else None

    cloud.fault = broken
    ended = run_fleet(cloud, **OPTIONS)
    if ended.ok:
        # Where the server cannot be restored, another one takes its place.
        assert ended.actions == {"gpu1": "replaced"}
    assert sentence in ended.reason
    assert "hunter2" not in ended.reason
    assert cloud.now - began <= 300 + 30 + 5
    settle(cloud)


def test_reading_fails_in_a_sentence() -> None:
    cloud = StandinCloud()
    cloud.fault = lambda *_request: refusal(403, "Policy doesn't allow os_compute_api:servers:detail to be performed.")
    with pytest.raises(StackError, match="compute of r1 answered 403: Policy doesn't allow"):
        run_fleet(cloud)
    assert cloud.writes() == []


def test_a_start_that_is_refused_is_that_servers_failure() -> None:
    cloud = StandinCloud()
    run_fleet(cloud)
    (server,) = list(cloud.servers)
    cloud.set_status(server, "SHUTOFF")
    cloud.fault = at_write(0, lambda _answer: refusal(403, "Policy doesn't allow it."))
    ended = run_fleet(cloud, start_stopped=True)
    assert ended.actions == {"gpu1": "failed"}
    assert f"the server {server} does not start: compute of r1 answered 403: Policy doesn't allow it" in ended.reason


def test_one_server_that_fails_does_not_stop_the_others() -> None:
    cloud = StandinCloud()
    servers = [{"name": "gpu1", "networks": [{"port": "port-that-is-not-there"}]}, {"name": "gpu2"}]
    cloud.fault = lambda _cloud, _service, method, path, _answer: (
        refusal(400, "Port could not be found.")
        if (method, path) == ("POST", "/servers") and "port-that-is-not-there" in str(cloud.bodies[-1])
        else None
    )
    ended = run_fleet(cloud, servers=servers)
    assert ended.actions == {"gpu1": "failed", "gpu2": "created"}
    assert "Port could not be found" in ended.outcomes[0].reason
    assert cloud.orphans() == []


def test_a_cloud_without_network_disks_serves_local_ones() -> None:
    cloud = StandinCloud()

    def no_cinder(_cloud: StandinCloud, service: str, _method: str, _path: str, _answer: Answer) -> Response | None:
        if service == "block_storage":
            raise EndpointNotFound("publicURL endpoint for block-storage service not found")
        return None

    cloud.fault = no_cinder
    placements = [{"region": "r1", "zone": "z1", "flavor": "LOC"}]
    assert run_fleet(cloud, boot="local", volume_size=None, placements=placements).ok
    # A service that is there and does not answer is no reason to believe that it holds nothing.
    cloud.fault = lambda cloud, service, _method, _path, answer: hang(cloud, answer) if service == "block_storage" else None
    with pytest.raises(StackError, match="block storage of r1 gave no answer"):
        remove_fleet(cloud)


@pytest.mark.parametrize("broken", ["volume", "server"])
def test_what_a_failed_step_made_is_taken_back(broken: str) -> None:
    cloud = StandinCloud()
    cloud.volume_fails = broken == "volume"
    cloud.room = {"z1": 0, "z2": 0} if broken == "server" else {}
    ended = run_fleet(cloud, **OPTIONS)
    assert not ended.ok
    assert "No placement of gpu1 worked. there is no server" in ended.reason
    assert (cloud.servers, cloud.ports, cloud.volumes, cloud.addresses) == ({}, {}, {}, {})


def test_what_could_not_be_taken_back_is_named() -> None:
    cloud = StandinCloud()
    cloud.room = {"z1": 0, "z2": 0}
    cloud.fault = lambda _cloud, _service, method, path, _answer: (
        refusal(403, "Not today.") if method == "DELETE" and path.startswith("/ports/") else None
    )
    ended = run_fleet(cloud, **OPTIONS)
    assert len(cloud.ports) == 2
    assert all(f"(left for the next run: port {port})" in ended.reason for port in cloud.ports)


def test_the_deadline_ends_a_run_and_the_next_one_takes_the_server_up() -> None:
    cloud = StandinCloud()
    cloud.fault = at_write(2, lambda answer: slow(cloud, answer))
    ended = run_fleet(cloud, **OPTIONS)
    assert not ended.ok
    assert "the deadline of 300 s is over while srv-0003 was BUILD: the next run takes it up" in ended.reason
    assert ended.run.memory == {}
    cloud.fault = None
    assert run_fleet(cloud, **OPTIONS).actions == {"gpu1": "adopted"}
    settle(cloud)


def delete_behind_our_back(cloud: StandinCloud) -> str:
    """Delete the only server as another tool does, and return the port that it leaves."""
    cloud._delete_server(next(iter(cloud.servers.values())))
    cloud.sleep(2)
    cloud._tick()
    (port,) = cloud.ports
    return port


def test_the_port_of_a_server_deleted_by_others_is_taken_for_another_run_s_until_a_deadline_has_passed() -> None:
    cloud = StandinCloud()
    run_fleet(cloud, **OPTIONS)
    port = delete_behind_our_back(cloud)
    assert run_fleet(cloud, **OPTIONS).actions == {"gpu1": "created"}
    assert cloud.orphans() == [f"port {port}"]
    cloud.sleep(301)
    assert run_fleet(cloud, **OPTIONS).actions == {"gpu1": "kept"}
    assert cloud.orphans() == []


def test_the_port_of_a_server_deleted_by_others_serves_the_next_one_after_a_deadline() -> None:
    cloud = StandinCloud()
    run_fleet(cloud, **OPTIONS)
    port = delete_behind_our_back(cloud)
    cloud.sleep(301)
    assert run_fleet(cloud, **OPTIONS).actions == {"gpu1": "created"}
    assert (list(cloud.ports), cloud.orphans()) == ([port], [])


def slow(cloud: StandinCloud, answer: Answer) -> Response:
    given = answer()
    cloud.servers["srv-0003"]["_until"] = (cloud.now + 310, cloud._built)
    return given


def test_a_restore_that_breaks_the_server_goes_on_to_the_next_placement() -> None:
    cloud = StandinCloud()
    run_fleet(cloud)
    (server,) = list(cloud.servers)
    cloud.interrupt(server)
    cloud.restore_breaks = True
    ended = run_fleet(cloud)
    assert ended.actions == {"gpu1": "replaced"}
    assert f"the server {server} went into ERROR while it was restored: Build of instance aborted" in ended.reason


def test_a_server_deleted_while_it_is_restored_is_made_anew() -> None:
    cloud = StandinCloud()
    run_fleet(cloud)
    (server,) = list(cloud.servers)
    cloud.interrupt(server)

    def act(answer: Answer) -> Response:
        given = answer()
        cloud._deleted(cloud.servers[server])
        return given

    cloud.fault = at_write(0, act)
    ended = run_fleet(cloud)
    assert ended.ok
    assert f"the server {server} was deleted meanwhile" in ended.reason
    assert len(cloud.alive("gpu1")) == 1


def test_an_interruption_stops_every_thread_at_its_next_call() -> None:
    watch = Watch(100, now=lambda: 0.0, sleep=lambda seconds: None)

    def do(item: int) -> None:
        if item == 0:
            raise KeyboardInterrupt
        while True:
            watch.pause(1)

    with pytest.raises(KeyboardInterrupt):
        in_parallel([0, 1, 2], do, watch)


# -- removal --------------------------------------------------------------------------------------------------------------------
def test_a_fleet_is_removed_with_what_was_made_for_it_and_nothing_else() -> None:
    cloud = StandinCloud()
    run_fleet(cloud, **OPTIONS)
    run_fleet(cloud, fleet="other", floating_network="ext")
    cloud.ports["mine"] = cloud._new_port({"description": "mine"})
    cloud.interrupt(next(iter(cloud.servers)))
    others = {one["id"] for one in cloud.servers.values() if one["metadata"]["llm_stack"] == "other"}
    with pytest.raises(Refused, match="without confirmation: set confirm to llm, the name of the fleet"):
        remove_fleet(cloud, confirm="")
    with pytest.raises(Refused, match="set confirm to llm"):
        remove_fleet(cloud, confirm="other")
    assert len(cloud.servers) == 2
    assert [one.action for one in remove_fleet(cloud)] == ["removed"]
    assert set(cloud.servers) == others
    assert (len(cloud.volumes), len(cloud.addresses)) == (1, 1)
    assert "mine" in cloud.ports
    assert remove_fleet(cloud, confirm="") == []


def test_the_removal_of_a_locked_server_fails_in_a_sentence_and_takes_the_others() -> None:
    cloud = StandinCloud()
    run_fleet(cloud, servers=[{"name": "gpu1"}, {"name": "gpu2"}])
    server = next(one for one in cloud.servers.values() if one["name"] == "gpu1")
    server["locked"] = True
    outcomes = {one.slot: one for one in remove_fleet(cloud)}
    assert (outcomes["gpu1"].ok, outcomes["gpu2"].ok) == (False, True)
    assert "is locked" in outcomes["gpu1"].reason
    server["locked"] = False
    assert remove_fleet(cloud)[0].ok
    assert (cloud.servers, cloud.orphans()) == ({}, [])


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("number", range(4))
def test_a_removal_that_is_killed_is_finished_by_the_next_one(number: int, how: str) -> None:
    cloud = StandinCloud()
    run_fleet(cloud, **OPTIONS)

    def act(answer: Answer) -> Response | None:
        if how == "after":
            answer()
        raise Killed

    cloud.fault = at_write(number, act)
    with pytest.raises(Killed):
        remove_fleet(cloud)
    cloud.fault = None
    remove_fleet(cloud)
    assert (cloud.servers, cloud.ports, cloud.volumes, cloud.addresses) == ({}, {}, {}, {})
