# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The drill: its phases by what was seen, its page, what it refuses, and drill.yml as it is run."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import BadInput
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.drill import Request, Sight, Watching, answered_again, report
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.drill_page import page, timeline
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.model import Fleet
from ansible_collections.selfhosted.llm_stack.plugins.modules.fleet_interruption import chosen
from controlkit import Control, ids
from recoverkit import server

SEEN = [
    Sight(0, True, ("10.0.1.2",)),
    Sight(12, False),
    Sight(40, False),
    Sight(50, True),
    Sight(58, True, ("10.0.1.9",)),
]
ASKED = [
    Request(1, 0.2, "10.0.1.2"),
    Request(11, None, "", "edge answered 503"),
    Request(20, 0.3, "10.0.1.3"),
    Request(21, 0.3, "10.0.1.3", cut=True),
    Request(59, 1.5, "10.0.1.9"),
]
MARKS = {"look": 13.0, "cloud": 18.0, "join": 38.0}


def test_phases_are_what_was_seen() -> None:
    found = report(SEEN, ASKED, worker="gpu1", interrupted=10.0, marks=MARKS, cost={})
    assert found["seconds"] == {
        "detection": 2.0,
        "plan": 5.0,
        "cloud": 20.0,
        "boot and join": 12.0,
        "model": 8.0,
        "first token": 2.5,
        "total": 50.5,
    }
    assert {name: found["requests"][name] for name in ("sent", "failed", "cut")} == {"sent": 5, "failed": 1, "cut": 1}


@pytest.mark.parametrize("sights", [SEEN[:1], SEEN[:3], SEEN[:4], SEEN[1:3]])
def test_a_worker_that_is_not_back_has_not_answered(sights: list[Sight]) -> None:
    assert answered_again(sights, ASKED) is None
    found = report(sights, ASKED, worker="gpu1", interrupted=10.0, marks={}, cost={})
    assert found["seconds"]["total"] is None
    assert "not seen" in page(found)


def test_a_worker_that_boots_before_the_manager_misses_it_was_lost_when_its_engine_was() -> None:
    sights = [
        Sight(0, True, ("10.0.1.2",)),
        Sight(12, True, ("10.0.1.2",)),
        Sight(20, True),
        Sight(21, True),
        Sight(30, True, ("10.0.1.9",)),
    ]
    found = report(sights, [*ASKED[:1], Request(31, 0.5, "10.0.1.9")], worker="gpu1", interrupted=10.0, marks={}, cost={})
    assert [found["seconds"][name] for name in ("detection", "model", "first token", "total")] == [10.0, 9.0, 1.5, 21.5]
    # A new engine may be seen before the old one is seen to be gone.
    assert answered_again([sights[1], sights[4], Sight(31, True, ("10.0.1.9",))], [Request(31.5, 0.5, "10.0.1.9")]) == 32


def test_a_worker_whose_engines_come_one_by_one_is_not_lost() -> None:
    assert answered_again([Sight(0, True), Sight(1, True, ("a",)), Sight(2, True, ("a", "b"))], [Request(3, 0.1, "a")]) is None


def test_the_page_shows_all_and_trusts_nothing() -> None:
    found = report(SEEN, ASKED, worker="<b>", interrupted=10.0, marks=MARKS, cost={})
    assert "<b>" not in page(found)
    plot = ElementTree.fromstring(timeline(found))
    assert len(plot.findall("{*}circle")) == len(ASKED)
    assert len([dot for dot in plot.findall("{*}circle") if dot.get("fill") == "#c00"]) == 2
    assert len(plot.findall("{*}rect")) == 6


@pytest.mark.parametrize(
    ("servers", "confirm", "text"),
    [
        ([server()], "", "without confirmation: set confirm to gpu1"),
        ([server()], "gpu2", "without confirmation"),
        ([server(status="SHELVED_OFFLOADED")], "gpu1", "no server that runs"),
        ([server(), server(id="other")], "gpu1", "2 servers that run"),
    ],
)
def test_what_is_not_confirmed_or_not_clear_is_not_interrupted(servers: list[object], confirm: str, text: str) -> None:
    with pytest.raises(BadInput, match=text):
        chosen(Fleet(servers=tuple(servers)), name="gpu1", confirm=confirm)  # type: ignore[arg-type]


@pytest.mark.one_core
@pytest.mark.parametrize(
    ("more", "text"),
    [("", "give its name twice"), ("llm_stack_drill_confirm=gpu1 llm_stack_drill_clients=0", "numbers above 0, or left out")],
)
def test_drill_interrupts_nobody_without_a_name_given_twice_and_a_load(whole: Control, more: str, text: str) -> None:
    before = whole.cloud.writes()
    ended = whole.play("drill", "-e", f"llm_stack_drill_worker=gpu1 {more}")
    assert ended.returncode != 0
    assert text in " ".join(ended.stdout.split())
    assert whole.cloud.writes() == before


@pytest.mark.parametrize("wanted", [0, 2])
def test_a_watch_ends_when_nobody_waits_for_it_any_more(wanted: int) -> None:
    left = iter([True] * wanted + [False])
    watching = Watching(lambda: Sight(0.0, True), lambda: Request(0.0, 0.1), wanted=lambda: next(left))
    assert watching.run(clients=1, pause=0.01, timeout=600) is False
    assert len(watching.sights) == wanted
    assert not [one for one in threading.enumerate() if one.name.endswith("(_client)")]


@pytest.mark.one_core
def test_an_interruption_that_fails_ends_the_load_at_once_and_says_so(whole: Control) -> None:
    """The cloud does not answer the request to shelve: it would have gone on for half an hour."""
    whole.change(lambda cloud: cloud.servers[ids(whole)["gpu1"]].update(locked=True))
    begin = time.monotonic()
    ended = whole.play("drill", "-e", "llm_stack_drill_worker=gpu1 llm_stack_drill_confirm=gpu1 llm_stack_drill_before=1")
    assert ended.returncode != 0
    said = " ".join(ended.stdout.split())
    assert re.search(
        r"gpu1 was not interrupted, so there is nothing to report: .* is locked.* after [1-9]\d* requests, of which 0 failed", said
    )
    assert time.monotonic() - begin < 120
    # Nobody asks any more, and nothing is left.
    asked = whole.edge.questions
    time.sleep(2)
    assert whole.edge.questions == asked
    leases = re.findall(r'"path": "([^"]*llm-drill[^"]*)"', ended.stdout)
    assert leases
    assert not any(Path(lease).exists() for lease in leases)
    assert "Take the lock of the fleet" not in ended.stdout


@pytest.mark.long
@pytest.mark.one_core
def test_a_drill_after_which_a_person_is_needed_reports_and_does_not_wait_for_its_timeout(whole: Control) -> None:
    whole.declare(gpu_workers_budget="0")
    begin = time.monotonic()
    named = "llm_stack_drill_worker=gpu1 llm_stack_drill_confirm=gpu1 llm_stack_drill_before=1"
    ended = whole.play("drill", "-e", named, "-e", f"llm_stack_drill_reports={whole.place}/reports")
    assert ended.returncode != 0
    assert "a person is needed" in " ".join(ended.stdout.split())
    (data,) = (whole.place / "reports").glob("gpu1-*.json")
    assert json.loads(data.read_text())["seconds"]["total"] is None
    assert time.monotonic() - begin < 180


@pytest.mark.long
def test_drill_interrupts_brings_back_and_reports(whole: Control) -> None:
    servers = ids(whole)
    # What was left empty in a form has its default: as 0 it would be a drill that asks nothing.
    empty = "llm_stack_drill_before='' llm_stack_drill_timeout='' llm_stack_drill_clients=''"
    named = f"llm_stack_drill_worker=gpu1 llm_stack_drill_confirm=gpu1 {empty}"
    ended = whole.play("drill", "-e", named, "-e", f"llm_stack_drill_reports={whole.place}/reports")
    assert ended.returncode == 0
    assert ids(whole) == servers
    (data,) = (whole.place / "reports").glob("gpu1-*.json")
    found = json.loads(data.read_text())
    print(found["seconds"], found["requests"])
    assert found["requests"]["failed"] == 0
    assert found["requests"]["sent"] > 10
    assert all(value is not None for value in found["seconds"].values())
    # The clocks of this host and of the control node are one, in another time zone: nothing took hours.
    assert all(-5 < value < 400 for value in found["seconds"].values()), found["seconds"]
    assert "Drill: gpu1 was interrupted" in data.with_suffix(".html").read_text()
