# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options and runs for the tests of fleets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.apply import Run, start
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.client import Calls, Watch
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.ladder import Ladder, Outcome, Shared
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.model import Fleet, FleetSpec
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.plan import FleetPlan
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.read import read_catalogue, read_region
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.remove import plan_removal
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.spec import fleet_spec
from ansible_collections.selfhosted.llm_stack.plugins.modules.selectel_preemptible import argument_spec
from standin_cloud import StandinCloud

Z1 = {"region": "r1", "zone": "z1", "flavor": "GL10"}
Z2 = {"region": "r1", "zone": "z2", "flavor": "GL10"}
PRICES = {
    "currency": "RUB",
    "servers": [{"flavor": "GL10", "preemptible": 30.0, "regular": 100.0}],
    "volume_gb": 0.01,
    "address": 0.3,
}
OPTIONS: dict[str, Any] = {
    "fleet": "llm",
    "servers": [{"name": "gpu1"}],
    "placements": [Z1, Z2],
    "image": "golden-*",
    "volume_size": 10,
    "networks": [{"network": "lan"}],
    "prices": PRICES,
    "deadline": 300,
}


def validated(**options: Any) -> dict[str, Any]:
    """Return options as Ansible hands them to the module."""
    result = ArgumentSpecValidator(argument_spec()).validate({**OPTIONS, **options})
    assert not result.error_messages, result.error_messages
    found: dict[str, Any] = result.validated_parameters
    return found


def wanted(**options: Any) -> FleetSpec:
    """Return a fleet of one server with two placements, as the options say otherwise."""
    return fleet_spec(validated(**options))


@dataclass
class Ended:
    """A run that has ended."""

    plan: FleetPlan
    outcomes: list[Outcome]
    run: Run
    calls: Calls
    current: Fleet

    @property
    def actions(self) -> dict[str, str]:
        return {outcome.slot: outcome.action for outcome in self.outcomes}

    @property
    def reason(self) -> str:
        return " ".join(outcome.reason for outcome in self.outcomes)

    @property
    def ok(self) -> bool:
        return all(outcome.ok for outcome in self.outcomes)


def begin(clouds: list[StandinCloud], *, deadline: float = 300.0, memory: Any = None) -> tuple[Run, Calls]:
    """Begin a run on the clock of the clouds."""

    def sleep(seconds: float) -> None:
        for cloud in clouds:
            cloud.sleep(seconds)

    calls = Calls()
    watch = Watch(deadline, now=lambda: clouds[0].now, sleep=sleep)
    connections = {cloud.region: cloud.connection() for cloud in clouds}
    return start(connections, watch=watch, calls=calls, api_timeout=30.0, memory=memory or {}), calls


def run_fleet(*clouds: StandinCloud, memory: Any = None, **options: Any) -> Ended:
    """Do what the module does when it is not in check mode."""
    desired = wanted(**options)
    run, calls = begin(list(clouds), deadline=desired.deadline, memory=memory)
    current = run.read(desired)
    plan = run.plan(current, desired)
    plan.plan.raise_if_refused()
    outcomes = run.apply(plan, current=current, desired=desired)
    return Ended(plan, outcomes, run, calls, current)


def run_here(cloud: StandinCloud, **options: Any) -> list[Outcome]:
    """Do the same in this thread alone, so that a run can take place inside a request of another one."""
    desired = wanted(**options)
    run, _calls = begin([cloud], deadline=desired.deadline)
    (region,) = run.clouds.values()
    current = read_region(region, desired.fleet, groups=False)
    current = replace(current, catalogues={region.region: read_catalogue(region)})
    plan = run.plan(current, desired)
    shared = Shared(run.clouds, current=current, desired=desired, memory={})
    return [Ladder(work, shared).run() for work in plan.works]


def remove_fleet(*clouds: StandinCloud, slots: tuple[str, ...] = (), fleet: str = "llm", confirm: str = "llm") -> list[Outcome]:
    """Do what the module does with the state absent."""
    run, _calls = begin(list(clouds))
    plan, works = plan_removal(current=run.look(fleet), fleet=fleet, slots=slots, confirm=confirm)
    plan.raise_if_refused()
    return run.remove(works)
