#!/usr/bin/python
# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The GPU workers of a swarm and the engines on them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_workers_info
short_description: The GPU workers of a swarm, and the engines on them, proven on request
version_added: "0.1.0"
description:
  - Tells which nodes a manager knows, which GPUs they advertise, which engines run on them, and how many engines there should be.
  - With O(prove) it also puts real questions through the edge until the engine of each node named has answered one, which proves GPU,
    model and the whole way in between.
author:
  - The selfhosted.llm_stack contributors (@selfhosted)
requirements:
  - Docker SDK for Python (python3-docker)
extends_documentation_fragment:
  - selfhosted.llm_stack.attributes.looks
  - selfhosted.llm_stack.attributes.manager
options:
  ready:
    description:
      - Wait until all of these are nodes that are ready. Each is the ID of a server of the fleet, or the host name of a node.
      - That it takes longer than O(timeout) is no error; see RV(not_ready).
    type: list
    elements: str
    default: []
  since:
    description:
      - RV(nodes[].version) by node, as it was while the machines of O(ready) were away. A node that still has this version has not been
        heard of since, though a manager says V(ready) of one that was lost a moment ago, for three heartbeats of its dispatcher, 15 seconds
        by default.
    type: dict
    default: {}
  prove:
    description: Put questions through the edge.
    type: dict
    suboptions:
      url:
        description: Address of the edge.
        type: str
        required: true
      key:
        description: An API key of the service.
        type: str
        required: true
      model:
        description: The model to ask.
        type: str
        required: true
      nodes:
        description: IDs of the nodes whose engines must answer. When it is empty, any answer will do.
        type: list
        elements: str
        default: []
  timeout:
    description: Seconds for O(ready), and again for O(prove).
    type: float
    default: 120
"""

EXAMPLES = r"""
- name: Wait until a server that was restored is a node again
  selfhosted.llm_stack.swarm_workers_info:
    ready: [gpu2]
  register: workers

- name: See that the engines of all nodes answer
  selfhosted.llm_stack.swarm_workers_info:
    prove:
      url: https://127.0.0.1:443
      key: "{{ vault_api_key }}"
      model: qwen3-8b
      nodes: "{{ workers.nodes | selectattr('ready') | map(attribute='id') }}"
  register: proof
  failed_when: proof.missing | length > 0
"""

RETURN = r"""
nodes:
  description: The nodes that are workers, or advertise GPUs.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: Its ID.
      type: str
    hostname:
      description: Its host name.
      type: str
    address:
      description: The address the manager knows it by.
      type: str
    ready:
      description: Whether it is ready.
      type: bool
    version:
      description: How often the swarm has changed, as of the last change of this node; its registration is one.
      type: int
    availability:
      description: V(active), V(pause) or V(drain).
      type: str
    gpus:
      description: How many GPUs it advertises.
      type: int
    labels:
      description: Its labels.
      type: dict
    server:
      description: ID of the server of the fleet that it is; empty where that is not known.
      type: str
    engines:
      description: How many engines run on it.
      type: int
    engine_addresses:
      description: The addresses of these engines in the overlay network.
      type: list
      elements: str
gpus:
  description: GPUs of all nodes that are ready and active.
  returned: success
  type: int
replicas:
  description: How many engines there should be; null where there is no such service.
  returned: success
  type: int
not_ready:
  description: Which of O(ready) are no ready nodes.
  returned: success
  type: list
  elements: str
missing:
  description: IDs of the nodes in O(prove.nodes) whose engine did not answer.
  returned: with O(prove)
  type: list
  elements: str
answered:
  description: By node, after how many seconds its engine answered first.
  returned: with O(prove)
  type: dict
error:
  description: Why the last question had no answer; empty when it had one.
  returned: with O(prove)
  type: str
"""

import time
from typing import Any, Mapping

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import StackError
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.proof import http_ask, prove
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.swarm import Swarm, connect, look

# An engine that loads its model for the first time answers late.
_ONE_QUESTION = 120.0


def argument_spec() -> dict[str, Any]:
    """Return the module's options."""
    text = {"type": "str", "required": True}
    return {
        "ready": {"type": "list", "elements": "str", "default": []},
        "since": {"type": "dict", "default": {}},
        "prove": {
            "type": "dict",
            "options": {
                "url": text,
                "key": {**text, "no_log": True},
                "model": text,
                "nodes": {"type": "list", "elements": "str", "default": []},
            },
        },
        "timeout": {"type": "float", "default": 120},
    }


def not_ready(found: Mapping[str, Any], wanted: list[str], since: Mapping[str, Any]) -> list[str]:
    """Return which of these servers or host names are no ready nodes, or have not been heard of since they had a version."""
    ready = [node for node in found["nodes"] if node["ready"] and node["version"] > int(since.get(node["id"], -1))]
    known = {node["server"] for node in ready} | {node["hostname"] for node in ready}
    return [name for name in wanted if name not in known]


def wait_ready(api: Swarm, wanted: list[str], since: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Look until all of these are ready, or the time is over."""
    end = time.monotonic() + timeout
    while True:
        found = look(api)
        found["not_ready"] = not_ready(found, wanted, since)
        if not found["not_ready"] or time.monotonic() >= end:
            return found
        time.sleep(1.0)


def proven(api: Swarm, wanted: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Put questions until every engine asked for has answered, or the time is over."""
    found = prove(
        lambda: http_ask(wanted["url"], key=wanted["key"], model=wanted["model"], timeout=min(timeout, _ONE_QUESTION)),
        lambda: {node["id"]: node["engine_addresses"] for node in look(api)["nodes"]},
        nodes=wanted["nodes"],
        timeout=timeout,
        clock=time.monotonic,
        sleep=time.sleep,
    )
    return {"answered": found.answered, "missing": found.missing, "error": found.error}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    params = module.params
    try:
        api = connect()
        found = wait_ready(api, params["ready"], params["since"], params["timeout"])
        if params["prove"]:
            found.update(proven(api, params["prove"], params["timeout"]))
    except StackError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
