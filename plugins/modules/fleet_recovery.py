#!/usr/bin/python
# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What to do about a fleet and its swarm, decided and not done."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_recovery
short_description: Decide what brings a fleet of GPU workers back, and tell why and what it costs
version_added: "0.1.0"
description:
  - Compares what the cloud has with what the swarm sees, and decides for each worker what is to be done. It changes nothing; the playbook
    C(recover) carries the decisions out with M(selfhosted.llm_stack.selectel_preemptible) and the roles.
  - An interrupted server is restored; where that cannot be, or its placement was interrupted too often (O(breaker_limit)), it is made anew
    elsewhere, and as a regular one where nothing else is left (O(regular_max)). A regular one is handed back by making a preemptible
    successor beside it first.
  - A preemptible server is rotated before its life ends, one at a time, with a successor that has to prove itself first. This deletes the
    former server's disk, so it needs O(allow_data_loss).
  - Nothing is started that would bring the day above O(budget), or, where it comes to stay, every day from tomorrow on. A try that finds no
    room costs nothing. Stand-ins, spare servers and those that demand had made are ended on a day that would cost too much; where what is
    declared costs more by itself, it serves on and a person is asked for.
  - A started hour counts in full, and a server that is replaced within an hour counts twice, as clouds bill it.
author:
  - The selfhosted.llm_stack contributors (@selfhosted)
extends_documentation_fragment:
  - selfhosted.llm_stack.openstack_login
  - selfhosted.llm_stack.fleet
  - selfhosted.llm_stack.attributes.looks
  - selfhosted.llm_stack.attributes.cloud
options:
  fleet:
    description: Name of the fleet. When it is empty, no cloud is looked at, and O(hosts) alone are seen to.
    type: str
    default: ""
  workers:
    description: The nodes, as RV(selfhosted.llm_stack.swarm_workers_info#module:nodes).
    type: list
    elements: dict
    default: []
  replicas:
    description: How many engines there should be, as RV(selfhosted.llm_stack.swarm_workers_info#module:replicas).
    type: int
  hosts:
    description: Addresses by name of workers that are no servers of the fleet.
    type: dict
    default: {}
  notes:
    description: What the last run left, as RV(selfhosted.llm_stack.fleet_state#module:notes).
    type: dict
    default: {}
  spare:
    description: How many servers there are beyond those declared. They serve like the others.
    type: int
    default: 0
  regular_max:
    description:
      - How many regular servers, at the full price, may stand in at a time for preemptible ones that cannot be had.
      - V(0) is none, unless O(allow_regular) is set, which then has no bound.
    type: int
    default: 0
  budget:
    description:
      - What a day may cost, in the currency of O(prices). Days are those of UTC.
      - Without it there is no limit; V(0) starts nothing.
    type: float
  rotate_before:
    description: How many seconds before the end of its life a server is rotated at the latest. V(0) never rotates.
    type: float
    default: 7200
  rotate_gap:
    description: Seconds between the beginnings of two rotations.
    type: float
    default: 1800
  breaker_limit:
    description: As many interruptions at a placement within O(breaker_window) and it is left alone for O(breaker_rest). V(0) never.
    type: int
    default: 3
  breaker_window:
    description: Seconds in which interruptions are counted.
    type: float
    default: 3600
  breaker_rest:
    description: Seconds for which a placement is left alone.
    type: float
    default: 3600
  hand_back_gap:
    description: Seconds between two tries to have a preemptible server in place of a regular one.
    type: float
    default: 1800
  patience:
    description:
      - So many seconds before the end of an hour, a server is not brought back until the next one begins, while others run, or are started,
        in two zones. Clouds bill a started hour in full, so this saves one; the engine is missing for as long.
      - V(0) never waits.
    type: float
    default: 0
  workers_min:
    description:
      - How many of the declared servers there are at least. Demand decides about the others, as
        RV(selfhosted.llm_stack.fleet_state#module:notes) have it; one that it does not need goes with its disk (O(allow_data_loss)).
      - Where it has not decided yet, those that are there are wanted.
      - Without it, all that are declared are wanted.
    type: int
  grace:
    description: Seconds a server that was just started has to become a node by itself.
    type: float
    default: 120
"""

EXAMPLES = r"""
- name: What would bring the fleet back?
  selfhosted.llm_stack.fleet_recovery:
    cloud: selectel
    fleet: llm
    name_pattern: gpu{n}
    count: 2
    placements:
      - {region: ru-9, zone: ru-9a, flavor: GL10.8-32768-0-1GPU, volume_type: fast.ru-9a}
    image: Ubuntu 24.04 LTS 64-bit
    volume_size: 60
    allow_data_loss: [gpu1, gpu2]
    regular_max: 1
    budget: 2000
    prices:
      currency: RUB
      servers:
        - {flavor: GL10.8-32768-0-1GPU, preemptible: 33.5, regular: 110.2}
    workers: "{{ swarm.nodes }}"
    notes: "{{ state.notes }}"
  register: recovery
  delegate_to: localhost
"""

RETURN = r"""
plan:
  description: The decisions as a table, one line a worker, with reason and change of cost.
  returned: success
  type: list
  elements: str
actions:
  description:
    - The decisions, each with C(name), C(action), C(reason), C(cost) (the change an hour, null when not known), C(server), C(node),
      whether it needs a C(person), and whether it is refused for being too C(dear) for O(budget).
  returned: success
  type: list
  elements: dict
act:
  description: Options for M(selfhosted.llm_stack.selectel_preemptible) beside those of the fleet; its C(only) is empty when it has no work.
  returned: success
  type: dict
notes:
  description: What the next run must know; to be written before anything is done.
  returned: success
  type: dict
stale:
  description: IDs of nodes that are down and whose server is gone for good.
  returned: success
  type: list
  elements: str
needed:
  description: IDs of nodes that a run drained because their servers were to go, and that are needed after all.
  returned: success
  type: list
  elements: str
cost:
  description: What the fleet costs an hour C(before) and C(after), null where a price is not known, and the C(currency).
  returned: success
  type: dict
person:
  description: Whether anything needs a person.
  returned: success
  type: bool
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import StackError
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.act import acting_options, needed_again
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.decide import (
    decide,
    desired_of,
    look_at,
    policy_of,
    recovery_options,
)
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.model import Observed, Policy, Recovery, as_table, plain
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.plan import plan_recovery
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.state import Notes, notes_of, values_of
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.swarm import worker_node
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.apply import start
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.client import Calls, Watch
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.login import LOGIN_OPTIONS, connect
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.model import FleetSpec
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.options import fleet_options


def argument_spec() -> dict[str, Any]:
    """Return the module's options."""
    return {
        **LOGIN_OPTIONS,
        **fleet_options(),
        **recovery_options(),
        "fleet": {"type": "str", "default": ""},
        "workers": {"type": "list", "elements": "dict", "default": []},
        "replicas": {"type": "int"},
        "hosts": {"type": "dict", "default": {}},
        "notes": {"type": "dict", "default": {}},
    }


def seen(params: dict[str, Any]) -> Observed:
    """Return what the caller has seen of the swarm."""
    nodes = tuple(worker_node(found) for found in params["workers"])
    hosts = {str(name): str(address) for name, address in params["hosts"].items()}
    return Observed(nodes=nodes, replicas=params["replicas"], hosts=hosts)


def make(params: dict[str, Any], *, desired: FleetSpec, policy: Policy, notes: Notes) -> tuple[Observed, Recovery]:
    """Look at the cloud, if there is a fleet, and decide."""
    observed, watch = seen(params), Watch(params["deadline"])
    if not desired.fleet:
        return observed, plan_recovery(observed, desired=desired, policy=policy, notes=notes, now=watch.now())
    connections = connect({**params, "api_timeout": min(params["api_timeout"], params["deadline"])}, desired)
    run = start(connections, watch=watch, calls=Calls(), api_timeout=params["api_timeout"], memory={})
    return decide(run, look_at(run, observed, desired=desired), desired=desired, policy=policy, notes=notes)


def report(recovery: Recovery, *, observed: Observed, desired: FleetSpec) -> dict[str, Any]:
    """Return what the module returns."""
    currency = desired.prices.currency
    return {
        "plan": as_table(recovery.actions, currency),
        "actions": [plain(action) for action in recovery.actions],
        "act": acting_options(recovery, observed=observed, desired=desired),
        "notes": values_of(recovery.notes),
        "needed": [node.id for node in needed_again(recovery, observed.nodes)],
        "stale": [node.id for node in recovery.stale],
        "cost": {"before": recovery.cost[0], "after": recovery.cost[1], "currency": currency},
        "person": recovery.person,
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    try:
        desired, notes = desired_of(module.params), notes_of(module.params["notes"])
        policy = policy_of(module.params, desired, scale=notes.scale)
        observed, recovery = make(module.params, desired=desired, policy=policy, notes=notes)
        found = report(recovery, observed=observed, desired=desired)
    except StackError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
