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
attributes:
  check_mode:
    description: Can run in check mode and return the plan and its change of cost; nothing that changes the cloud is called.
    support: full
  diff_mode:
    description: Returns what has changed, or would change in check mode, for each server.
    support: full
  platform:
    description: Target systems the module works on. It runs where openstacksdk is, usually the control node.
    support: full
    platforms: posix
options:
  fleet:
    description: Name of the fleet. It is written to the metadata of each server, and nothing of another fleet is ever touched.
    type: str
    required: true
  state:
    description:
      - V(present) brings all servers up. Servers that are not declared are reported and stay.
      - V(absent) removes the servers, and the ports, disks and addresses that were made for them, and nothing else. Without O(servers)
        and O(name_pattern) that is the whole fleet. It is looked for in O(regions), and without those in all the cloud offers.
    type: str
    choices: [present, absent]
    default: present
  profile:
    description:
      - V(selectel) knows that a preemptible server lives for at most 24 hours, that an interruption loses a local disk, and that a
        disk belongs to a zone.
      - V(openstack) assumes none of this. The tag is C(preemptible) in both.
    type: str
    choices: [selectel, openstack]
    default: selectel
  servers:
    description: The servers, by name. Exactly one of O(servers) and O(name_pattern) is given.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the server and of its place in the fleet.
        type: str
        required: true
      placements:
        description: Where this server may be made, in place of O(placements).
        type: list
        elements: dict
        suboptions: &placement
          region:
            description: Region, O(region_name) by default.
            type: str
          zone:
            description: Availability zone; the cloud chooses by default.
            type: str
          flavor:
            description: Name or ID of the flavor.
            type: str
          flavor_match:
            description: What the flavor must have, because names cannot be guessed. The smallest that has it is taken.
            type: dict
            suboptions:
              gpu:
                description: Alias of the GPU, as in the flavor's extra spec C(pci_passthrough:alias).
                type: str
              gpus:
                description: How many of them, V(1) by default. A flavor with other GPUs beside them does not match.
                type: int
              vcpus:
                description: Virtual processors at least.
                type: int
              ram_mb:
                description: MiB of memory at least.
                type: int
              disk_gb:
                description: GiB of local disk, exactly. V(0) finds flavors for network disks.
                type: int
          preemptible:
            description: Whether the server made here is preemptible.
            type: bool
            default: true
          volume_type:
            description: Type of the network disk, for example V(fast.ru-9a).
            type: str
      networks:
        description: Networks of this server, in place of O(networks).
        type: list
        elements: dict
        suboptions: &network
          network:
            description: Name or ID of the network. A port is made in it, and kept for as long as the server has a place in the fleet.
            type: str
          fixed_ip:
            description: Address the server has in this network.
            type: str
          port:
            description: ID of a port of yours to use instead. It is never changed or removed.
            type: str
      user_data:
        description: User data of this server, in place of O(user_data).
        type: str
      restore:
        description:
          - Whether the server is brought back where it was interrupted. V(first) makes it anew where that fails.
          - V(never) makes it anew at once, if O(allow_data_loss) names it and it needs no fixed address.
          - V(only) leaves it interrupted where that fails.
        type: str
        choices: [first, never, only]
        default: first
      successor:
        description:
          - Make a second server beside a running one, so that the first can go once the second has proven itself, and keep both while this
            is set. Without it, and with the server in O(allow_data_loss), the first is deleted with its disk and address.
        type: bool
        default: false
  name_pattern:
    description: Names of the servers, with C({n}) in place of a number from 1 to O(count).
    type: str
  count:
    description: How many servers there are, with O(name_pattern).
    type: int
  placements:
    description:
      - Where servers may be made, and as what, best first.
      - One that failed goes to the end of the list for O(demote_for) seconds.
    type: list
    elements: dict
    default: []
    suboptions: *placement
  allow_regular:
    description: Make a regular server, at the full price, where no placement has a preemptible one.
    type: bool
    default: false
  image:
    description: Image the servers boot from, by ID, name, or a pattern such as V(golden-*). Of several, the newest is taken.
    type: str
  boot:
    description:
      - V(volume) boots from a network disk of O(volume_size), which outlives an interruption.
      - V(local) boots from the flavor's local disk. In the profile V(selectel) an interruption loses it, and the server is made anew
        only when O(allow_data_loss) names it.
    type: str
    choices: [volume, local]
    default: volume
  volume_size:
    description: Size of the network disk in GiB. Needed with O(boot=volume).
    type: int
  networks:
    description: Networks the servers are plugged into. Without any, the cloud's own default.
    type: list
    elements: dict
    default: []
    suboptions: *network
  security_groups:
    description: Security groups, by name or ID, that the ports made here have beside those they have already.
    type: list
    elements: str
    default: []
  floating_network:
    description: External network, by name or ID, from which each server gets a public address. None by default.
    type: str
    default: ""
  key_name:
    description: Name of the key pair in the cloud that may log in. Used when a server is made.
    type: str
    default: ""
  user_data:
    description: What cloud-init does at the first boot. Used when a server is made.
    type: str
  ssh_host_key:
    description:
      - Make an SSH host key for each server, hand it over in its user data, and keep the public part in its metadata
        (RV(servers[].ssh_host_key)), so that nobody has to accept an unknown key.
      - User data can be read from within the server through the metadata service, by whatever may reach 169.254.169.254 there.
    type: bool
    default: false
  metadata:
    description: Metadata merged into that of each server.
    type: dict
    default: {}
  tags:
    description: Tags added to those of each server. The one that makes it preemptible is not among them.
    type: list
    elements: str
    default: []
  start_stopped:
    description: Start servers that are stopped, paused or suspended.
    type: bool
    default: false
  switch_to_preemptible:
    description: Servers, by name, to make preemptible from now on. An interrupted one is restored first.
    type: list
    elements: str
    default: []
  switch_to_regular:
    description: Servers, by name, to make regular from now on, at the full price. An interrupted one is restored first.
    type: list
    elements: str
    default: []
  allow_data_loss:
    description:
      - Servers, by name, whose disks may be lost. Theirs are deleted once they are replaced; without this, a replaced server stays as it
        is, with its disk, and is reported as left over.
    type: list
    elements: str
    default: []
  only:
    description: Servers, by name, to work on in this run. The others are looked at, reported and left alone. All by default.
    type: list
    elements: str
    default: []
  max_age:
    description: Seconds after whose passing a running server is marked with RV(servers[].rotate).
    type: float
  memory:
    description: What the last run returned as RV(memory); the module keeps nothing itself.
    type: dict
    default: {}
  demote_for:
    description: Seconds for which a placement that failed is tried last.
    type: float
    default: 1800
  prices:
    description: What things cost an hour, for RV(cost). The module knows no price.
    type: dict
    suboptions:
      currency:
        description: For messages, such as V(RUB).
        type: str
      servers:
        description: Prices of servers.
        type: list
        elements: dict
        suboptions:
          flavor:
            description: Name of the flavor.
            type: str
            required: true
          region:
            description: Region the row is for; all by default.
            type: str
          preemptible:
            description: Price of a preemptible server.
            type: float
          regular:
            description: Price of a regular server.
            type: float
      volume_gb:
        description: Price of a GiB of network disk.
        type: float
      address:
        description: Price of a public address.
        type: float
  regions:
    description: Further regions to look for the fleet in, such as one that has left O(placements).
    type: list
    elements: str
    default: []
  deadline:
    description:
      - Seconds for the whole run. What is under way then is left to the next run, which takes it up.
    type: float
    default: 900
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
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.prices import fleet_price
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.remove import plan_removal, removed_price
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.report import as_outcome, fleet_report
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.spec import fleet_spec, memory_of


def placement_options() -> dict[str, Any]:
    """Return the options of a placement."""
    match = {"gpu": {"type": "str"}, **{name: {"type": "int"} for name in ("gpus", "vcpus", "ram_mb", "disk_gb")}}
    return {
        "region": {"type": "str"},
        "zone": {"type": "str"},
        "flavor": {"type": "str"},
        "flavor_match": {"type": "dict", "options": match},
        "preemptible": {"type": "bool", "default": True},
        "volume_type": {"type": "str"},
    }


def network_options() -> dict[str, Any]:
    """Return the options of a network."""
    return {name: {"type": "str"} for name in ("network", "fixed_ip", "port")}


def server_options() -> dict[str, Any]:
    """Return the options of one server."""
    return {
        "name": {"type": "str", "required": True},
        "placements": {"type": "list", "elements": "dict", "options": placement_options()},
        "networks": {"type": "list", "elements": "dict", "options": network_options()},
        "user_data": {"type": "str", "no_log": True},
        "restore": {"type": "str", "choices": ["first", "never", "only"], "default": "first"},
        "successor": {"type": "bool", "default": False},
    }


def price_options() -> dict[str, Any]:
    """Return the options of the price table."""
    row = {
        "flavor": {"type": "str", "required": True},
        "region": {"type": "str"},
        "preemptible": {"type": "float"},
        "regular": {"type": "float"},
    }
    return {
        "currency": {"type": "str"},
        "servers": {"type": "list", "elements": "dict", "options": row},
        "volume_gb": {"type": "float"},
        "address": {"type": "float"},
    }


def argument_spec() -> dict[str, Any]:
    """Return the module's options."""
    text, flag = {"type": "str", "default": ""}, {"type": "bool", "default": False}
    names = {"type": "list", "elements": "str", "default": []}
    return {
        **LOGIN_OPTIONS,
        "fleet": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "profile": {"type": "str", "choices": ["selectel", "openstack"], "default": "selectel"},
        "servers": {"type": "list", "elements": "dict", "default": [], "options": server_options()},
        "name_pattern": {"type": "str"},
        "count": {"type": "int"},
        "placements": {"type": "list", "elements": "dict", "default": [], "options": placement_options()},
        "allow_regular": flag,
        "image": {"type": "str"},
        "boot": {"type": "str", "choices": ["volume", "local"], "default": "volume"},
        "volume_size": {"type": "int"},
        "networks": {"type": "list", "elements": "dict", "default": [], "options": network_options()},
        "security_groups": names,
        "floating_network": text,
        "key_name": {**text, "no_log": False},
        "user_data": {"type": "str", "no_log": True},
        "ssh_host_key": {**flag, "no_log": False},
        "metadata": {"type": "dict", "default": {}},
        "tags": names,
        "start_stopped": flag,
        "switch_to_preemptible": names,
        "switch_to_regular": names,
        "allow_data_loss": names,
        "only": names,
        "max_age": {"type": "float"},
        "memory": {"type": "dict", "default": {}},
        "demote_for": {"type": "float", "default": 1800},
        "prices": {"type": "dict", "options": price_options()},
        "regions": names,
        "deadline": {"type": "float", "default": 900},
        "confirm": text,
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
