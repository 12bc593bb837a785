#!/usr/bin/python
# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet of preemptible servers in an OpenStack cloud."""

from __future__ import annotations

DOCUMENTATION = r"""
module: selectel_preemptible
short_description: Keep a fleet of preemptible servers in an OpenStack cloud
version_added: "0.1.0"
description:
  - Makes the servers of a fleet, brings interrupted ones back, and replaces those that cannot come back, all at once in one call.
  - An interrupted server is restored. Where there is no room for it, a new one is made at the next of its placements, and a regular
    one as the last resort, if O(allow_regular) says so. Nova gives up a restore for lack of room without saying so; this is noticed.
  - Servers are known by the metadata C(llm_stack), which holds the name of the fleet, and C(llm_stack_slot). Two runs at once make
    no server twice. What a failed or killed run left half-made is removed or taken up by the next one.
  - Tags, metadata and security groups are merged with those a server has. A server that was made preemptible and has lost the tag is
    reported with its price, and nothing removes the tag but O(switch_to_regular).
  - A server that is stopped, paused or suspended is left alone unless O(start_stopped) is set, because this may be on purpose.
  - Any OpenStack cloud with the compute API 2.72 (Stein, 2019) or newer will do; what is particular to Selectel is O(profile).
author:
  - The selfhosted.llm_stack contributors (@selfhosted)
extends_documentation_fragment:
  - selfhosted.llm_stack.openstack_login
  - selfhosted.llm_stack.fleet
  - selfhosted.llm_stack.attributes.cloud
attributes:
  check_mode:
    description: Can run in check mode and return the plan and its change of cost; nothing that changes the cloud is called.
    support: full
  diff_mode:
    description: Returns what has changed, or would change in check mode, for each server.
    support: full
options:
  fleet:
    description: Name of the fleet. It is written to the metadata of each server, and nothing of another fleet is ever touched.
    type: str
    required: true
  state:
    description:
      - V(present) brings all servers up. Servers that are not declared are reported and stay.
      - V(absent) removes the servers, and the ports, disks and addresses that were made for them, and nothing else. Without O(servers)
        and O(name_pattern) that is the whole fleet. It is looked for in all regions the cloud offers, in those of O(placements) and in
        O(regions).
    type: str
    choices: [present, absent]
    default: present
  only:
    description: Servers, by name, to work on in this run. The others are looked at, reported and left alone. All by default.
    type: list
    elements: str
    default: []
  keep_predecessors:
    description:
      - Whether a server that runs beside its successor stays, also when O(allow_data_loss) names it. A successor may still have to prove
        itself, and this module does not know whether it serves.
    type: bool
    default: false
  memory:
    description: What the last run returned as RV(memory); the module keeps nothing itself.
    type: dict
    default: {}
  confirm:
    description: The name of the fleet once more. Needed with O(state=absent) when there is something to remove.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Two servers with a GPU, in the first zone that has room
  selfhosted.llm_stack.selectel_preemptible:
    cloud: selectel
    fleet: llm
    name_pattern: gpu{n}
    count: 2
    placements:
      - {region: ru-9, zone: ru-9a, flavor: GL10.8-32768-0-1GPU, volume_type: fast.ru-9a}
      - {region: ru-7, zone: ru-7b, flavor_match: {gpu: T4, vcpus: 4, ram_mb: 16384, disk_gb: 0}, volume_type: fast.ru-7b}
    image: Ubuntu 24.04 LTS 64-bit
    volume_size: 60
    networks:
      - network: llm
    floating_network: external-network
    key_name: admin
    ssh_host_key: true
    memory: "{{ fleet_memory | default({}) }}"
  register: fleet
  delegate_to: localhost

- name: What would it cost to make one of them regular?
  selfhosted.llm_stack.selectel_preemptible:
    cloud: selectel
    fleet: llm
    servers:
      - name: gpu1
    placements:
      - {region: ru-9, flavor: GL10.8-32768-0-1GPU}
    image: Ubuntu 24.04 LTS 64-bit
    volume_size: 60
    switch_to_regular: [gpu1]
    prices:
      currency: RUB
      servers:
        - {flavor: GL10.8-32768-0-1GPU, preemptible: 33.5, regular: 110.2}
  check_mode: true
  delegate_to: localhost

- name: Remove the fleet with its disks and addresses
  selfhosted.llm_stack.selectel_preemptible:
    cloud: selectel
    fleet: llm
    state: absent
    confirm: llm
  delegate_to: localhost
"""

RETURN = r"""
plan:
  description: The steps taken, or those that would be taken in check mode, as sentences.
  returned: always
  type: list
  elements: str
servers:
  description: The servers declared, in the order given; also when some of them failed.
  returned: when the cloud could be read
  type: list
  elements: dict
  contains:
    name:
      description: Name of the server.
      type: str
    action:
      description: What was done about it, or would be in check mode.
      type: str
      sample: restored
    reason:
      description: Why, for a person.
      type: str
    ok:
      description: Whether the server is as it should be. The task fails when one is not, after the work on all others.
      type: bool
    id:
      description: Its ID in the cloud.
      type: str
    status:
      description: Its status in the cloud.
      type: str
      sample: ACTIVE
    addresses:
      description: Its addresses, each with C(address), C(kind) (V(fixed) or V(floating)) and C(network).
      type: list
      elements: dict
    preemptible:
      description: Whether it is preemptible.
      type: bool
    created_at:
      description: When it was made, in UTC.
      type: str
      sample: "2026-11-28T02:57:03Z"
    launched_at:
      description: When it was started last, in UTC.
      type: str
    expires_at:
      description: When its life is over at the latest, in UTC; empty where the cloud promises none.
      type: str
    rotate:
      description: Whether it is older than O(max_age).
      type: bool
    placement:
      description: Its C(region), C(zone) and C(flavor), and whether it was made C(preemptible).
      type: dict
    gpus:
      description: Its GPUs by alias, as the flavor tells.
      type: dict
    leftovers:
      description: What is billed although no running server uses it, each with C(kind), C(id), C(region), C(reason) and C(hourly_cost).
      type: list
      elements: dict
    hourly_cost:
      description: What the server costs an hour without disks and addresses; null where O(prices) does not say.
      type: float
    ssh_host_key:
      description: The public SSH host key that was handed over with O(ssh_host_key).
      type: str
leftovers:
  description: What belongs to the fleet and to no declared server, with the keys of RV(servers[].leftovers).
  returned: when the cloud could be read
  type: list
  elements: dict
memory:
  description: Placements that failed, for O(memory) of the next run.
  returned: when the cloud could be read
  type: dict
cost:
  description: What the fleet costs an hour C(before) and C(after), the C(change), its C(currency), and flavors of C(unknown) price.
  returned: when the cloud could be read
  type: dict
api_calls:
  description: Requests sent, C(read) and C(write), without those for logging in.
  returned: always
  type: dict
"""

from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import StackError
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._plan import Plan
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.apply import Run, start
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.client import Calls, Watch
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.errors import CloudError
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.ladder import Outcome
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.login import LOGIN_OPTIONS, connect
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.model import Fleet, FleetSpec
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.options import fleet_options
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.prices import fleet_price
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.remove import plan_removal, removed_price
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.report import as_outcome, fleet_report
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.spec import fleet_spec, memory_of


def argument_spec() -> dict[str, Any]:
    """Return the module's options."""
    names = {"type": "list", "elements": "str", "default": []}
    return {
        **LOGIN_OPTIONS,
        **fleet_options(),
        "fleet": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "only": names,
        "keep_predecessors": {"type": "bool", "default": False},
        "memory": {"type": "dict", "default": {}},
        "confirm": {"type": "str", "default": ""},
    }


class Task:
    """One run of the module, and what it has to tell so far."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._calls = Calls()
        self._plan = Plan()
        self._acted = False

    def leave(self) -> NoReturn:
        """Run, and end the module with a result."""
        params = self._module.params
        try:
            desired = fleet_spec(params)
            watch = Watch(params["deadline"])
            connections = connect({**params, "api_timeout": min(params["api_timeout"], params["deadline"])}, desired)
            memory = memory_of(params["memory"])
            run = start(connections, watch=watch, calls=self._calls, api_timeout=params["api_timeout"], memory=memory)
            found = self._present(run, desired) if params["state"] == "present" else self._absent(run, desired)
        except StackError as error:
            self._module.fail_json(msg=str(error), changed=self._acted, **self._told())
        self._end(found)

    def _end(self, found: dict[str, Any]) -> NoReturn:
        for warning in self._plan.warnings:
            self._module.warn(warning)
        failed = [entry for entry in found["servers"] if not entry["ok"]]
        if failed:
            reasons = " ".join(f"{entry['name']}: {entry['reason'].rstrip('.')}." for entry in failed)
            message = f"{len(failed)} of {len(found['servers'])} servers are not as they should be. {reasons}"
            self._module.fail_json(msg=message, changed=self._acted, **found, **self._told())
        self._module.exit_json(changed=self._plan.changed, **found, **self._told())
        raise SystemExit  # exit_json has left by now; Ansible ships no types that say so

    def _told(self) -> dict[str, Any]:
        counted = {"read": self._calls.read, "write": self._calls.write}
        return {"plan": self._plan.sentences, "diff": self._plan.diff, "api_calls": counted}

    def _acts(self) -> bool:
        """Whether the plan is carried out: not in check mode."""
        self._plan.raise_if_refused()
        self._acted = self._plan.changed and not self._module.check_mode
        return self._acted

    def _present(self, run: Run, desired: FleetSpec) -> dict[str, Any]:
        current = run.read(desired)
        planned = run.plan(current, desired)
        self._plan = planned.plan
        outcomes = [as_outcome(work) for work in planned.works]
        cost = (planned.cost_before, planned.cost_after)
        if self._acts():
            outcomes = run.apply(planned, current=current, desired=desired)
            current = self._seen_after(run, desired, current)
            cost = (cost[0], fleet_price(current, desired.prices, desired.profile))
        return self._report(run, desired, current, outcomes, cost)

    def _absent(self, run: Run, desired: FleetSpec) -> dict[str, Any]:
        current = run.look(desired.fleet)
        slots = tuple(slot.name for slot in desired.slots)
        confirm = self._module.params["confirm"]
        self._plan, works = plan_removal(current=current, fleet=desired.fleet, slots=slots, confirm=confirm)
        outcomes = [Outcome(work.slot, "removed", "the fleet is to be absent") for work in works]
        cost = fleet_price(current, desired.prices, desired.profile)
        gone = removed_price(works, desired)
        if self._acts():
            outcomes = run.remove(works)
            current = self._seen_after(run, desired, current)
        return self._report(run, desired, current, outcomes, (cost, cost - gone))

    @staticmethod
    def _seen_after(run: Run, desired: FleetSpec, before: Fleet) -> Fleet:
        """Return the fleet as it is now, or as it was seen last when the time is over."""
        try:
            return run.look(desired.fleet)
        except CloudError:
            return before

    @staticmethod
    def _report(run: Run, desired: FleetSpec, current: Fleet, outcomes: list[Outcome], cost: tuple[float, float]) -> dict[str, Any]:
        report = fleet_report(outcomes, fleet=current, cost=cost, desired=desired, now=run.watch.now())
        return {**report, "memory": run.memory}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    Task(module).leave()


if __name__ == "__main__":
    main()
