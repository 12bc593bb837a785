# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The drill: its phases by what was seen, its page, what it refuses, and drill.yml as it is run."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import BadInput
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.drill import Request, Sight, answered_again, report
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
def test_drill_interrupts_nobody_without_a_name_given_twice(whole: Control) -> None:
    before = whole.cloud.writes()
    ended = whole.play("drill", "-e", "llm_stack_drill_worker=gpu1")
    assert ended.returncode != 0
    assert "give its name twice" in " ".join(ended.stdout.split())
    assert whole.cloud.writes() == before


@pytest.mark.long
def test_drill_interrupts_brings_back_and_reports(whole: Control) -> None:
    servers = ids(whole)
    named = "llm_stack_drill_worker=gpu1 llm_stack_drill_confirm=gpu1 llm_stack_drill_before=2 llm_stack_drill_timeout=200"
    ended = whole.play("drill", "-e", named, "-e", f"llm_stack_drill_reports={whole.place}/reports")
    assert ended.returncode == 0
    assert ids(whole) == servers
    (data,) = (whole.place / "reports").glob("gpu1-*.json")
    found = json.loads(data.read_text())
    print(found["seconds"], found["requests"])
    assert found["requests"]["failed"] == 0
    assert found["requests"]["sent"] > 10
    assert all(value is not None for value in found["seconds"].values())
    assert "Drill: gpu1 was interrupted" in data.with_suffix(".html").read_text()
