# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every state of a server meets everything that can happen to it: one fleet with a server in each state, one run an event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterator

import pytest
from cloudkit.control import Control
from cloudkit.fleet import DEADLINE, Fleet, by_name, clouds_yaml
from cloudkit.proxy import Call, Proxy
from cloudkit.runner import Ran, Runner
from states import EVENTS, STATES, WANTED, Seen, Stage, expire, judge, marks

# What a run that finds nothing to do may ask: the servers, ports, volumes, addresses and what the placements name.
IDLE_READS = 12


@dataclass(frozen=True)
class Observed:
    """A run after an event.

    :param excused: free ports that were there before and are too young to be known as nobody's: another run may be about to use them.
    """

    event: str
    ran: Ran
    seen: dict[str, Seen]
    calls: list[Call]
    orphans: list[str]
    excused: list[str]


@dataclass(frozen=True)
class Scene:
    """What the whole matrix plays in."""

    fleet: Fleet
    stage: Stage
    proxy: Proxy


@pytest.fixture(scope="module")
def scene(runner: Runner, all_calls: Proxy, control: Control, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    project = control.project()
    clouds = clouds_yaml(tmp_path_factory.mktemp("matrix") / "clouds.yaml", project.name, all_calls)
    fleet = Fleet(runner, clouds=clouds, control=control, project=project)
    yield Scene(fleet, Stage(control, project, marks=marks), all_calls)
    all_calls.clear()
    control.empty(project)


@pytest.fixture(scope="module", params=EVENTS)
def observed(request: pytest.FixtureRequest, scene: Scene) -> Observed:
    event: str = request.param
    stage, proxy = scene.stage, scene.proxy
    proxy.clear()
    proxy.inject("compute", "GET", "/servers", times=None, response=lambda body: expire(stage.expired, body))
    with stage.happening(event) as before, proxy.count() as calls:
        excused = stage.control.holdings(stage.project).young_ports(DEADLINE)
        ran = scene.fleet.run(servers=[{"name": state} for state in STATES], start_stopped=event == "crash", allow_data_loss=["error"])
    seen = stage.seen(before)
    return Observed(event, ran, seen, calls, stage.control.holdings(stage.project).orphans, excused)


@pytest.mark.parametrize("state", STATES)
def test_right_outcome(observed: Observed, state: str) -> None:
    wanted = WANTED[observed.event][state]
    said: dict[str, Any] = by_name(observed.ran)[state]
    assert not judge(wanted, observed.seen[state]), f"{judge(wanted, observed.seen[state])}; the module said: {said}"
    assert said["ok"] is wanted.ok, said
    assert wanted.reason in said["reason"], said


def test_nothing_is_orphaned(observed: Observed) -> None:
    assert set(observed.orphans) <= set(observed.excused)


def test_the_run_fails_exactly_when_a_server_is_not_well(observed: Observed) -> None:
    assert observed.ran.failed is any(not wanted.ok for wanted in WANTED[observed.event].values())


def test_the_calls_it_counts_are_those_that_came_by(observed: Observed) -> None:
    counted = observed.ran.result["api_calls"]
    api = [call for call in observed.calls if call.service != "identity" and not call.discovers]
    assert counted["write"] == sum(call.writes for call in api)
    assert counted["read"] == sum(not call.writes for call in api)
    if observed.event == "re-run":
        assert not observed.ran.changed
        assert counted["write"] == 0
        assert counted["read"] <= IDLE_READS
