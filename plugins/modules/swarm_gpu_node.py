#!/usr/bin/python
# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Docker engines with GPUs as nodes of a swarm."""

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_gpu_node
short_description: Make Docker engines with GPUs nodes of a swarm, and label them
version_added: "0.1.0"
description:
  - With O(engine), run on the machine itself, it finds the GPUs, merges C(/etc/docker/daemon.json), starts or restarts the engine
    when that is needed, and makes the machine a member of one particular swarm, known by its ID.
  - With O(members), run once on a manager, it labels, drains or removes any number of nodes in one call, waits for the end of the
    drains and checks that the manager sees the GPUs.
  - An engine on which tasks of a swarm run is restarted only after a drain. A manager drains itself for that; a worker is refused,
    unless a manager has drained it before (RV(drain_first) tells that in check mode).
  - GPUs are advertised as generic resources of the kind V(GPU), by their full UUIDs, so that a service asks for one with
    C(generic_resources) and a task sees only the GPU assigned to it.
  - What others wrote to C(daemon.json), to the NVIDIA runtime's configuration or as labels stays.
author:
  - The selfhosted.llm_stack maintainers (@selfhosted)
requirements:
  - Docker 26 or newer
  - Docker SDK for Python (python3-docker)
attributes:
  check_mode:
    description: Can run in check mode and return the plan without changing anything, also before Docker or the swarm exist.
    support: full
  diff_mode:
    description: Returns what has changed, or would change in check mode. Only settings this module changes are shown.
    support: full
  platform:
    description: Target systems the module works on.
    support: full
    platforms: Debian, Ubuntu
options:
  engine:
    description:
      - The engine of this machine as it should be.
      - Exactly one of O(engine) and O(members) is given.
    type: dict
    suboptions:
      daemon:
        description:
          - Settings merged into C(/etc/docker/daemon.json). Dictionaries are merged by key, lists get the entries they lack, and a key
            whose value is V(null) is removed. Other keys stay.
          - The former file is kept beside it, with the time in its name, and C(dockerd --validate) sees the new one first.
        type: dict
        default: {}
      gpus:
        description:
          - Whether the GPUs that C(nvidia-smi) shows are advertised to the swarm.
          - Where the NVIDIA container toolkit is installed, its runtime becomes the engine's default and is told to obey the swarm.
        type: bool
        default: true
      require_gpu:
        description: Refuse a machine on which no GPU is found, or no NVIDIA container toolkit that would give it to containers.
        type: bool
        default: false
      manager:
        description:
          - Address and port of a manager of the swarm to join as a worker.
          - Without it and O(engine.init) the membership is left as it is.
        type: str
        default: ""
      role:
        description:
          - What the machine joins as. V(manager) needs the join token for managers.
          - A worker of the same swarm is not made a manager; it has to be promoted on one.
        type: str
        choices: [worker, manager]
        default: worker
      cluster_id:
        description:
          - ID of the swarm to join. A worker of another swarm, or one whose membership is broken, leaves and joins this one.
          - A manager of another swarm is refused.
          - In check mode it may be empty, for the swarm may not be made yet.
        type: str
        default: ""
      join_token:
        description: The swarm's join token for O(engine.role). Used only when the machine joins.
        type: str
      known_nodes:
        description:
          - IDs of the nodes that the manager knows. A machine that believes to be a node of the swarm and is not among them leaves and
            joins anew, because a node that was removed on the manager is not told so.
          - Without it the machine's own word is taken.
        type: list
        elements: str
      init:
        description: Make a swarm with this machine as its first manager, unless it is a manager already, and keep the swarm's settings.
        type: dict
        suboptions:
          dispatcher_heartbeat:
            description:
              - Seconds between the heartbeats of a node. A node is down after three were missed.
              - Without it, a swarm keeps what it has; a new one gets Docker's 5 seconds.
            type: float
          data_path_port:
            description: Port of the overlay networks' traffic. Used only when the swarm is made; Docker's default is 4789.
            type: int
          address_pools:
            description: Networks in CIDR notation from which overlay networks get their addresses. Used only when the swarm is made.
            type: list
            elements: str
            default: []
          subnet_size:
            description: Prefix length of the networks cut from O(engine.init.address_pools). Used only when the swarm is made.
            type: int
          autolock:
            description:
              - Whether a manager needs the swarm's unlock key after each start of its engine. Without it, a swarm keeps what it has.
              - The key is not returned; C(docker swarm unlock-key) tells it on a manager. A restart by this module unlocks by itself.
            type: bool
          rotate_worker_token:
            description: Replace the workers' join token, so that the former one opens nothing any more. With V(true) every run does.
            type: bool
            default: false
      advertise_address:
        description: Address at which other nodes reach this one. Used when the machine joins or makes a swarm; Docker guesses by default.
        type: str
        default: ""
      data_path_address:
        description:
          - Address for the overlay networks' traffic, O(engine.advertise_address) by default.
          - Used when the machine joins or makes a swarm.
        type: str
        default: ""
      timeout:
        description: Seconds to wait until the machine is an active member.
        type: int
        default: 60
  members:
    description:
      - Nodes as they should be. Nodes that are not named are not touched.
      - Exactly one of O(engine) and O(members) is given.
    type: list
    elements: dict
    suboptions:
      id:
        description: The node's ID, as RV(node_id) returns it on the machine itself.
        type: str
        default: ""
      hostname:
        description:
          - The node's host name. Where O(members[].id) is given it serves messages only, because a machine that joined anew
            appears twice under one name.
        type: str
        default: ""
      labels:
        description: Labels to set, merged into those the node has. Values become strings; a label whose value is V(null) is removed.
        type: dict
        default: {}
      availability:
        description:
          - Whether the node gets tasks (V(active)), keeps those it has (V(pause)) or loses them (V(drain)).
          - V(resume) gives a node back what it had before a drain with O(members[].temporary=true), and leaves any other as it is.
          - Without it nothing changes.
        type: str
        choices: [active, pause, drain, resume]
      gpus:
        description: How many GPUs the manager must see on the node, which must be ready. Without it this is not checked.
        type: int
      state:
        description:
          - V(absent) removes the node, with its labels. Only a node that is down is removed, and a manager never.
          - A machine that will come back as the same node is not removed, for the swarm lets a removed node in no more.
        type: str
        choices: [present, absent]
        default: present
      temporary:
        description:
          - Whether a drain is for a while. The node then carries the label C(llm-stack.drained-from) with its former availability, which
            V(resume) takes back, also in a later run. A node that was drained before is a person's choice and stays so.
        type: bool
        default: false
      wait:
        description: Whether a drain has ended only when no task runs on the node any more. For a node that is down nothing is waited for.
        type: bool
        default: true
      remove_twins:
        description:
          - Whether nodes of the same host name that are down are removed. They are what the machine was before it joined anew.
          - So each machine needs a host name of its own. Nodes that are members themselves in the same call are kept, whatever they are
            called, and so is a manager, with a warning.
        type: bool
        default: false
  timeout:
    description: Seconds to wait until the manager sees the members' GPUs, and no task on those drained. Used with O(members).
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: Make the first manager of a swarm
  selfhosted.llm_stack.swarm_gpu_node:
    engine:
      gpus: false
      advertise_address: 10.77.0.21
      init:
        dispatcher_heartbeat: 3

- name: Advertise the GPUs and join that swarm
  selfhosted.llm_stack.swarm_gpu_node:
    engine:
      daemon:
        log-opts:
          max-size: 10m
      require_gpu: true
      manager: 10.77.0.21:2377
      cluster_id: "{{ swarm_manager_cluster_id }}"
      join_token: "{{ swarm_manager_join_token }}"
      advertise_address: 10.77.0.32
  register: worker

- name: Label it on the manager, and see its GPUs there
  selfhosted.llm_stack.swarm_gpu_node:
    members:
      - id: "{{ worker.node_id }}"
        hostname: "{{ worker.hostname }}"
        labels: "{{ worker.labels }}"
        availability: active
        gpus: "{{ worker.gpus | length }}"
  delegate_to: manager1

- name: Empty a node for a while, and wait until its tasks have ended
  selfhosted.llm_stack.swarm_gpu_node:
    members:
      - hostname: gpu2
        availability: drain
        temporary: true
    timeout: 120
  delegate_to: manager1

- name: Give it its tasks back, and forget what it was before it was replaced
  selfhosted.llm_stack.swarm_gpu_node:
    members:
      - hostname: gpu2
        availability: resume
        remove_twins: true
  delegate_to: manager1

- name: Remove a server that will not come back
  selfhosted.llm_stack.swarm_gpu_node:
    members:
      - hostname: gpu3
        state: absent
  delegate_to: manager1
"""

RETURN = r"""
plan:
  description: The steps taken, or those that would be taken in check mode, as sentences.
  returned: always
  type: list
  elements: str
node_id:
  description: The machine's node ID; empty before it has joined.
  returned: with O(engine)
  type: str
cluster_id:
  description: ID of the swarm the machine is a member of; empty when of none.
  returned: with O(engine)
  type: str
state:
  description: The machine's membership as the engine names it; V(stopped) when the engine does not run but holds a node's identity.
  returned: with O(engine)
  type: str
  sample: active
manager:
  description: Whether the machine is a manager of that swarm.
  returned: with O(engine)
  type: bool
running:
  description: Whether the engine runs.
  returned: with O(engine)
  type: bool
hostname:
  description: The machine's name in the swarm.
  returned: with O(engine)
  type: str
gpus:
  description: The GPUs found; empty unless O(engine.gpus=true).
  returned: with O(engine)
  type: list
  elements: dict
  sample:
    - uuid: GPU-8f6d2a61-0b5c-4c4e-9d3a-2f1f6b1f7c10
      model: NVIDIA GeForce RTX 4090
      vram_gb: 24
      driver: "570.86.10"
labels:
  description: The labels that describe these GPUs, ready for O(members[].labels).
  returned: with O(engine)
  type: dict
  sample:
    gpu: "true"
    gpu.count: "1"
    gpu.model: GeForce-RTX-4090
    gpu.vram_gb: "24"
tasks:
  description: Names of the swarm's tasks that run here; after the run, or as found in check mode.
  returned: with O(engine)
  type: list
  elements: str
  sample: [llm_engine.x7u4wbsdgxq0vkg2ulrz0bh2e.3bgxyfefmzwmoiyjkjtcbjh5b]
drain_first:
  description: Whether a manager has to drain this worker before the plan can be carried out, for it restarts the engine while tasks run.
  returned: with O(engine)
  type: bool
backups:
  description: Copies kept of the files that were changed.
  returned: with O(engine)
  type: list
  elements: str
members:
  description: The members as the manager sees them, in the order given. Those it does not know are left out.
  returned: with O(members)
  type: list
  elements: dict
  sample:
    - id: x7u4wbsdgxq0vkg2ulrz0bh2e
      hostname: gpu2
      state: ready
      availability: active
      gpus: 1
      labels:
        gpu: "true"
"""

from typing import Any, Callable, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import StackError, StepFailed
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._module import conclude
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._plan import Plan, Step
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._run import Runner
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.apply import EngineApplier
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.client import Api, EngineError, connect
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.members_apply import MembersApplier
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.members_plan import find_node, plan_members
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.model import Engine, Guards, Node, gpu_labels
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.options import engine_spec, member_specs
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.plan import drain_needed, plan_engine, wanted_settings
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.read import Paths, read_engine, read_nodes

TEXT = {"type": "str", "default": ""}


def engine_options() -> dict[str, Any]:
    """Return the options of this machine's engine."""
    init = {
        "dispatcher_heartbeat": {"type": "float"},
        "data_path_port": {"type": "int"},
        "address_pools": {"type": "list", "elements": "str", "default": []},
        "subnet_size": {"type": "int"},
        "autolock": {"type": "bool"},
        "rotate_worker_token": {"type": "bool", "default": False, "no_log": False},
    }
    return {
        "daemon": {"type": "dict", "default": {}},
        "gpus": {"type": "bool", "default": True},
        "require_gpu": {"type": "bool", "default": False},
        "manager": TEXT,
        "role": {"type": "str", "choices": ["worker", "manager"], "default": "worker"},
        "cluster_id": TEXT,
        "join_token": {"type": "str", "no_log": True},
        "known_nodes": {"type": "list", "elements": "str"},
        "init": {"type": "dict", "options": init},
        "advertise_address": TEXT,
        "data_path_address": TEXT,
        "timeout": {"type": "int", "default": 60},
    }


def argument_spec() -> dict[str, Any]:
    """Return the module's options."""
    member = {
        "id": TEXT,
        "hostname": TEXT,
        "labels": {"type": "dict", "default": {}},
        "availability": {"type": "str", "choices": ["active", "pause", "drain", "resume"]},
        "gpus": {"type": "int"},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "temporary": {"type": "bool", "default": False},
        "wait": {"type": "bool", "default": True},
        "remove_twins": {"type": "bool", "default": False},
    }
    return {
        "engine": {"type": "dict", "options": engine_options()},
        "members": {"type": "list", "elements": "dict", "options": member},
        "timeout": {"type": "int", "default": 60},
    }


def run_engine(module: AnsibleModule) -> NoReturn:
    """Make this machine's engine what it should be."""
    runner, paths = Runner(), Paths()
    state: dict[str, Any] = {}

    def read() -> Engine:
        return read_engine(runner, connect, paths, look_for_gpus=module.params["engine"]["gpus"])

    def make_plan() -> Plan:
        spec = engine_spec(module.params["engine"])
        state["engine"] = read()
        settings = wanted_settings(state["engine"], spec)
        timeout = module.params["engine"]["timeout"]
        state["applier"] = EngineApplier(spec, settings, runner=runner, connect=connect, paths=paths, timeout=timeout)
        plan = plan_engine(current=state["engine"], desired=spec, guards=Guards(rehearsal=module.check_mode))
        state["changed"] = plan.changed
        state["drain_first"] = not state["engine"].membership.is_manager and drain_needed(state["engine"], list(plan.steps))
        return plan

    def do(step: Step) -> None:
        state["applier"].do(step)

    def report() -> dict[str, Any]:
        untouched = module.check_mode or not state["changed"]
        found = engine_report(state["engine"] if untouched else read(), state["applier"].backups)
        return {**found, "drain_first": state["drain_first"]}

    conclude(module, make_plan=make_plan, do=do, report=report)


def engine_report(engine: Engine, backups: list[str]) -> dict[str, Any]:
    """Return an engine as a task's result."""
    gpus = [{"uuid": gpu.uuid, "model": gpu.model, "vram_gb": gpu.vram_gb, "driver": gpu.driver} for gpu in engine.gpus]
    return {
        "node_id": engine.membership.node_id,
        "cluster_id": engine.membership.cluster_id,
        "state": engine.membership.state,
        "manager": engine.membership.is_manager,
        "running": engine.service.active,
        "hostname": engine.hostname,
        "gpus": gpus,
        "labels": gpu_labels(engine.gpus),
        "tasks": list(engine.tasks),
        "backups": backups,
    }


def run_members(module: AnsibleModule) -> NoReturn:
    """Make the nodes of this manager's swarm what they should be."""
    state: dict[str, Any] = {}

    def make_plan() -> Plan:
        state["desired"] = member_specs(module.params["members"], module.params["timeout"])
        state["api"], state["nodes"] = nodes_of_swarm(connect, rehearsal=module.check_mode)
        plan = plan_members(current=state["nodes"], desired=state["desired"], guards=Guards(rehearsal=module.check_mode))
        state["done"] = tuple(plan.sentences)
        return plan

    def do(step: Step) -> None:
        MembersApplier(state["api"]).do(step)

    def report() -> dict[str, Any]:
        if not module.check_mode:
            state["nodes"] = settled_nodes(state, module.params["timeout"])
        found = [find_node(state["nodes"], member) for member in state["desired"]]
        gone = {member.id for member in state["desired"] if member.absent}
        return {"members": [member_report(node) for node in found if isinstance(node, Node) and node.id not in gone]}

    conclude(module, make_plan=make_plan, do=do, report=report)


def nodes_of_swarm(connecting: Callable[[], Api], *, rehearsal: bool) -> tuple[Api | None, tuple[Node, ...]]:
    """Return the connection and the nodes; in a rehearsal the swarm may not be made yet."""
    try:
        api = connecting()
        return api, read_nodes(api)
    except EngineError as error:
        if rehearsal and error.status in {0, 503}:
            return None, ()
        raise


def settled_nodes(state: dict[str, Any], timeout: float) -> tuple[Node, ...]:
    """Return the nodes once they are as they should be, without another call when they were from the start."""
    applier = MembersApplier(state["api"], timeout=timeout)
    try:
        return applier.verify(state["desired"], None if state["done"] else state["nodes"])
    except StackError as error:
        raise StepFailed(done=state["done"], failed="The check of the members", left=(), cause=error) from error


def member_report(node: Node) -> dict[str, Any]:
    """Return a node as a task's result."""
    return {
        "id": node.id,
        "hostname": node.hostname,
        "state": node.state,
        "availability": node.availability,
        "gpus": node.gpus,
        "labels": node.labels,
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=argument_spec(),
        mutually_exclusive=[("engine", "members")],
        required_one_of=[("engine", "members")],
        supports_check_mode=True,
    )
    try:
        if module.params["engine"] is not None:
            run_engine(module)
        run_members(module)
    except StackError as error:
        module.fail_json(msg=str(error), changed=False, plan=[])


if __name__ == "__main__":
    main()
