# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""swarm_monitor: what it keeps of workers that vanish, what it says when it does not know, and to whom."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Iterator

import pytest
import site_files
from test_exporters import API, NOW, answering, asked, told, values

from swarm_monitor import look as looking  # isort: skip - site_files puts it on the path
from swarm_monitor import page  # isort: skip
from swarm_monitor import watcher as watching  # isort: skip
from swarm_monitor.history import GIVEN_UP, Account, History, Outage  # isort: skip
from swarm_monitor.look import Copies, Look, look  # isort: skip
from swarm_monitor.server import admitted, answer, make_server  # isort: skip
from swarm_monitor.settings import Settings, from_environment  # isort: skip
from swarm_monitor.watcher import View, Watcher  # isort: skip

assert site_files.ROLE
PASSWORD = "a-password-of-the-tests"
HASH = hashlib.sha256(PASSWORD.encode()).hexdigest()
BASIC = "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode()


def node(name: str, *, up: bool = True, availability: str = "active", gpu: str = "true", ident: str = "") -> dict[str, Any]:
    return {
        "ID": ident or name,
        "Spec": {"Role": "worker", "Availability": availability, "Labels": {"gpu": gpu}},
        "Description": {"Hostname": name},
        "Status": {"State": "ready" if up else "down"},
    }


def seen(at: float, *nodes: dict[str, Any], engines: set[str] | None = None, **labels: Any) -> Look:
    return Look(at, list(nodes), [], None if engines is None else frozenset(engines), {key: json.dumps(one) for key, one in labels.items()})


# --- what is kept -----------------------------------------------------------------------------------------------------------------
# Looks ten seconds apart, and the outages they make: name, lost, back, given up.
STORIES: dict[str, tuple[list[Look], list[tuple[str, float, float | None, bool]]]] = {
    "a worker is lost and serves again": (
        [seen(0, node("a")), seen(10, node("a", up=False)), seen(20, node("a", up=False)), seen(30, node("a"))],
        [("a", 10, 30, False)],
    ),
    "it is up, but its engine does not run yet": (
        [
            seen(0, node("a"), engines={"a"}),
            seen(10, node("a", up=False), engines=set()),
            seen(20, node("a"), engines=set()),
            seen(30, node("a"), engines={"a"}),
        ],
        [("a", 10, 30, False)],
    ),
    "an engine that starts again is no lost worker": ([seen(0, node("a"), engines={"a"}), seen(10, node("a"), engines=set())], []),
    "its node is replaced by another of its name": (
        [seen(0, node("a")), seen(10, node("a", up=False)), seen(20), seen(30, node("a", ident="new"))],
        [("a", 10, 30, False)],
    ),
    "a former self that is down is not lost": ([seen(0, node("a"), node("a", up=False, ident="old")), seen(10, node("a"))], []),
    "a drained worker that goes is not lost": (
        [seen(0, node("a")), seen(10, node("a", availability="drain")), seen(20, node("a", up=False, availability="drain")), seen(30)],
        [],
    ),
    "one that vanishes while it serves is lost, and given up after an hour": (
        [seen(0, node("a")), seen(10), seen(GIVEN_UP), seen(GIVEN_UP + 20)],
        [("a", 10, None, True)],
    ),
    "one that never served is not lost": ([seen(0, node("a", up=False)), seen(10, node("a", up=False))], []),
    "a node without GPUs is nobody's worker": ([seen(0, node("a", gpu="")), seen(10, node("a", gpu="", up=False))], []),
    "two losses of one worker are two": (
        [seen(0, node("a")), seen(10, node("a", up=False)), seen(20, node("a")), seen(30, node("a", up=False))],
        [("a", 30, None, False), ("a", 10, 20, False)],
    ),
}


@pytest.mark.parametrize("story", STORIES)
def test_what_becomes_of_workers_is_kept(story: str, tmp_path: Path) -> None:
    looks, outages = STORIES[story]
    for one in looks:
        # Each look by a service that was just started: nothing is kept in memory.
        History(str(tmp_path / "monitor.sqlite")).take(one)
    account = History(str(tmp_path / "monitor.sqlite")).account()
    assert [(one.name, one.lost, one.back, one.gone) for one in account.recent] == outages
    back = [end - begin for _name, begin, end, _gone in outages if end is not None]
    assert (account.recoveries, account.seconds) == (len(back), sum(back))
    assert account.lost_now == sum(end is None and not gone for _name, _begin, end, gone in outages)


def test_an_interruption_counts_once_and_for_ever(tmp_path: Path) -> None:
    history = History(str(tmp_path / "monitor.sqlite"))
    breaker = {"llm-stack.breaker": {"seen": [["z1", "s1/1", 5.0], ["z1", "s2/1", 6.0], ["z2", "s3/1", 7.0]]}}
    for at in (10, 20):
        history.take(replace(seen(at), labels={key: json.dumps(one) for key, one in breaker.items()}))
    # The runs over the fleet forget after a day.
    history.take(replace(seen(100000), labels={"llm-stack.breaker": "{}"}))
    history.take(replace(seen(100010), labels={"llm-stack.breaker": "no json"}))
    assert history.account().preemptions == {"z1": 2, "z2": 1}


def test_a_storage_host_that_does_not_answer_is_said_to_be_unknown() -> None:
    with answering({**API, "/metrics": (200, b'llm_backup_success{job_name="a"} 1\n')}) as port:
        settings = Settings(proxy=f"127.0.0.1:{port}", storage={"s1": f"127.0.0.1:{port}", "s2": "127.0.0.1:1"})
        found = look(settings, NOW).copies
    assert [(one.host, one.jobs, bool(one.error)) for one in found] == [
        ("s1", {"a": {"llm_backup_success": 1.0}}, False),
        ("s2", {}, True),
    ]


def test_every_manager_is_asked_for_its_backups(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        "10.0.0.2:9777": b'llm_backup_success{job_name="state",instance="manager2"} 0.0\n',
        "10.0.0.3:9777": b'llm_backup_success{job_name="state",instance="manager1"} 1.0\n',
        # One without backups.
        "10.0.0.4:9777": b"",
    }

    def get(address: str, path: str, _seconds: float = 0) -> bytes:
        if address == "10.0.0.5:9777":
            raise OSError(113, "No route to host")
        return said[address] if path == "/metrics" else b"[]"

    addresses = [(2, 1, 6, "", (address.partition(":")[0], 9777)) for address in (*said, "10.0.0.5:9777", "10.0.0.2:9777")]
    monkeypatch.setattr(looking, "get", get)
    monkeypatch.setattr(looking.socket, "getaddrinfo", lambda name, port, *_more: addresses if (name, port) == ("backups", 9777) else [])
    found = list(looking.copies(Settings(backups="backups:9777")))
    assert [(one.host, one.jobs, one.error) for one in found] == [
        ("10.0.0.5:9777", {}, "No route to host"),
        ("manager1", {"state": {"llm_backup_success": 1.0}}, ""),
        ("manager2", {"state": {"llm_backup_success": 0.0}}, ""),
    ]


def test_hosts_that_are_silent_do_not_make_the_swarm_old(tmp_path: Path) -> None:
    """Each for itself they would take longer together than a look stands for the present."""
    silent = [socket.create_server(("127.0.0.1", 0)) for _number in range(12)]
    storage = {f"s{number:02}": f"127.0.0.1:{one.getsockname()[1]}" for number, one in enumerate(silent)}
    with answering(API) as port:
        watcher = Watcher(Settings(proxy=f"127.0.0.1:{port}", database=str(tmp_path / "m.sqlite"), storage=storage))
        begun = time.monotonic()
        watcher.turn()
    assert time.monotonic() - begun < looking.ALL_SECONDS
    view = watcher.view
    assert view.fresh and view.seen
    assert [(one.host, one.error) for one in view.seen.copies] == [(name, "timed out") for name in storage]
    for one in silent:
        one.close()


def test_hosts_that_take_for_ever_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than are asked at once, and none comes to its end."""
    end = threading.Event()

    def get(_address: str, _path: str, _seconds: float) -> bytes:
        end.wait(30)
        return b""

    monkeypatch.setattr(looking, "get", get)
    monkeypatch.setattr(looking, "ALL_SECONDS", 0.2)
    storage = {f"s{number:02}": "192.0.2.11:9100" for number in range(looking.AT_ONCE + 1)}
    found = list(looking.copies(Settings(storage=storage)))
    end.set()
    assert [(one.host, one.error) for one in found] == [(name, "it has told nothing after 0 s") for name in storage]


@pytest.mark.parametrize("address", ["192.0.2.11", "s1:http", "PORT"])
def test_what_cannot_be_understood_does_not_end_the_looks(tmp_path: Path, address: str) -> None:
    odd = {"llm_backup_success": "1e+", "llm_backup_max_age_seconds": "1.5e+3"}
    said = "".join(f'{name}{{job_name="a"}} {value}\n' for name, value in odd.items())
    with answering({**API, "/metrics": (200, said.encode())}) as port:
        storage = {"s1": address.replace("PORT", f"127.0.0.1:{port}")}
        watcher = Watcher(Settings(proxy=f"127.0.0.1:{port}", database=str(tmp_path / "m.sqlite"), storage=storage))
        watcher.turn()
    assert watcher.view.seen, watcher.view.error
    (copy,) = watcher.view.seen.copies
    if address == "PORT":
        assert copy.jobs == {"a": {"llm_backup_max_age_seconds": 1500.0}}
    else:
        assert "is no address with a port" in copy.error


def test_a_look_that_fails_in_an_unforeseen_way_is_a_reason_like_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(*_words: object) -> Look:
        raise ValueError("no number")

    monkeypatch.setattr(watching, "look", fails)
    watcher = Watcher(Settings(database=str(tmp_path / "m.sqlite")))
    watcher.turn()
    assert "no number" in watcher.view.error


def test_backups_of_managers_that_are_not_found_are_said_to_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_words: object) -> list[object]:
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(looking.socket, "getaddrinfo", unknown)
    (found,) = looking.copies(Settings(backups="backups:9777"))
    assert (found.host, found.error) == ("managers", "backups:9777 is not found: Name or service not known")


# --- what is said when it is not known --------------------------------------------------------------------------------------------
class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watcher(tmp_path: Path, clock: Clock) -> Iterator[Watcher]:
    """A monitor that has looked once, at a swarm that does not answer any more."""
    with answering(API) as port:
        made = Watcher(Settings(proxy=f"127.0.0.1:{port}", database=str(tmp_path / "m.sqlite"), password_hash=HASH), clock=clock)
        made.turn()
    yield made


def test_what_was_seen_just_now_is_told(watcher: Watcher, clock: Clock) -> None:
    said = answer(watcher, "/metrics", "", clock.now)
    assert said.status == 200
    assert values(said.text)["swarm_monitor_looked_timestamp_seconds"] == NOW
    assert 'class="present"' in answer(watcher, "/status/view", BASIC, clock.now).text


def test_an_old_look_is_no_metric_and_no_present(watcher: Watcher, clock: Clock) -> None:
    clock.now += 46
    watcher.turn()
    said = answer(watcher, "/metrics", "", clock.now)
    assert (said.status, "/nodes cannot be read from" in said.text) == (503, True)
    shown = answer(watcher, "/status/view", BASIC, clock.now).text
    assert "This is not the present." in shown and "46 s ago" in shown and 'class="present"' not in shown
    assert answer(watcher, "/healthy", "", clock.now).status == 200


def test_a_clock_that_was_set_back_makes_nothing_fresh(watcher: Watcher, clock: Clock) -> None:
    clock.now -= 3600
    assert answer(watcher, "/metrics", "", clock.now).status == 503


def test_one_that_has_stopped_to_look_is_not_healthy(watcher: Watcher, clock: Clock) -> None:
    clock.now += 600
    assert answer(watcher, "/healthy", "", clock.now).status == 503


def test_before_the_first_look_nothing_is_shown(tmp_path: Path, clock: Clock) -> None:
    fresh = Watcher(Settings(database=str(tmp_path / "m.sqlite"), password_hash=HASH), clock=clock)
    assert answer(fresh, "/metrics", "", clock.now).status == 503
    assert "Nothing was looked at yet." in answer(fresh, "/status/", BASIC, clock.now).text


def test_a_swarm_that_cannot_be_understood_is_told_so(tmp_path: Path, clock: Clock) -> None:
    with answering({**API, "/v1.41/nodes": (200, ["x"])}) as port:
        broken = Watcher(Settings(proxy=f"127.0.0.1:{port}", database=str(tmp_path / "m.sqlite")), clock=clock)
        broken.turn()
    assert "What was seen cannot be kept or understood" in broken.view.error
    assert broken.view.seen is None


# --- to whom ----------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("header", ["", "Basic", "Basic !", f"Bearer {PASSWORD}", BASIC[:-4], "Basic " + base64.b64encode(b"me:").decode()])
def test_without_the_password_nothing_of_the_page_is_shown(watcher: Watcher, header: str) -> None:
    for path in ("/status/", "/status/view", "/status/page.js", "/status/nothing"):
        assert answer(watcher, path, header, NOW).status == 401


def test_without_a_password_the_page_is_closed_to_everybody() -> None:
    assert not admitted("Basic " + base64.b64encode(b"me:").decode(), "")
    assert not admitted("Basic " + base64.b64encode(b"me:closed").decode(), "closed")


def test_it_answers_on_the_network_and_changes_nothing(watcher: Watcher) -> None:
    server = make_server(watcher, 0, address="127.0.0.1")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        port = server.server_address[1]
        assert asked(port, "GET", "/healthy") == 200
        assert asked(port, "GET", "/status/") == 401
        assert asked(port, "GET", "/elsewhere") == 404
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert asked(port, method, "/status/") == 501
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_settings_come_from_the_environment(tmp_path: Path) -> None:
    (tmp_path / "hash").write_text(HASH.upper() + "\n")
    env = {"PASSWORD_HASH_FILE": str(tmp_path / "hash"), "STORAGE": "s1=192.0.2.11:9100 s2=[2001:db8::1]:9100", "CURRENCY": "RUB"}
    found = from_environment(env)
    assert (found.password_hash, found.currency) == (HASH, "RUB")
    assert found.storage == {"s1": "192.0.2.11:9100", "s2": "[2001:db8::1]:9100"}


# --- the page ---------------------------------------------------------------------------------------------------------------------
def test_names_from_elsewhere_are_text() -> None:
    hostile = "<script>alert(1)</script>"
    account = Account({hostile: 1}, 0, 0.0, None, 1, (Outage(hostile, NOW, None, False),))
    shown = Look(NOW, [node(hostile)], [], None, None, (Copies(hostile, {hostile: {"llm_backup_success": 0.0}}, hostile),))
    text = page.document(View(shown, account, hostile, False), now=NOW, fresh=45, currency=hostile)
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;") >= 6


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3600, "1 h"), (90061, "1 d 1 h"), (86400 * 3 + 60, "3 d")]
)
def test_lengths_of_time_are_words(seconds: float, text: str) -> None:
    assert page.span(seconds) == text


@pytest.mark.parametrize(
    ("told_of", "text", "tone"),
    [
        ({"at": -60, "most": 100, "success": 1}, "1 min ago", ""),
        ({"at": -200, "most": 100, "success": 1}, "3 min 20 s ago", "bad"),
        ({"at": -60, "most": 100, "success": 0}, "1 min ago, then failed", "bad"),
        ({"success": 0}, "failed", "bad"),
        ({}, "never", "warn"),
    ],
)
def test_a_backup_is_as_old_as_its_last_success(told_of: dict[str, float], text: str, tone: str) -> None:
    names = {"at": "llm_backup_last_success_timestamp_seconds", "most": "llm_backup_max_age_seconds", "success": "llm_backup_success"}
    values_of = {names[key]: value + (NOW if key == "at" else 0) for key, value in told_of.items()}
    assert page.aged(values_of, "llm_backup", NOW) == page.Cell(text, tone)


def test_the_metrics_are_those_of_one_moment() -> None:
    with answering(API) as port:
        assert told(port) == told(port)
