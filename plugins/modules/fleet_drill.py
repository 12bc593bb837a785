#!/usr/bin/python
# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Watch a worker come back under a steady load, and report it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_drill
short_description: Watch a worker come back under a steady load, and report it
version_added: "0.1.0"
description:
  - With O(state=watched), puts questions through the edge steadily and looks at the swarm, until O(worker) was lost and its engine has
    answered again. The playbook C(drill) runs it in the background while M(selfhosted.llm_stack.fleet_interruption) interrupts the worker.
  - With O(state=reported), makes a report of what was watched, as data and as a page with a timeline.
author:
  - The selfhosted.llm_stack contributors (@selfhosted)
requirements:
  - Docker SDK for Python (python3-docker)
extends_documentation_fragment:
  - selfhosted.llm_stack.attributes.looks
  - selfhosted.llm_stack.attributes.manager
options:
  state:
    description: What to do.
    type: str
    choices: [watched, reported]
    required: true
  worker:
    description: Host name of the worker.
    type: str
    required: true
  url:
    description: Address of the edge. Needed with O(state=watched).
    type: str
  key:
    description: An API key of the service. Needed with O(state=watched).
    type: str
  model:
    description: The model to ask. Needed with O(state=watched).
    type: str
  clients:
    description: How many clients ask at a time.
    type: int
    default: 4
  pause:
    description: Seconds a client waits between two requests.
    type: float
    default: 0.25
  timeout:
    description: Seconds after which the watch ends, whatever was seen.
    type: float
    default: 900
  while_exists:
    description:
      - Path of a file on this host. The watch ends when that is gone, whatever was seen, so that whoever began it in the background can end
        it. Without it, O(timeout) alone does.
    type: path
  watched:
    description: What O(state=watched) returned. Needed with O(state=reported).
    type: dict
  interrupted_at:
    description: When the worker was interrupted, in seconds since 1970. Needed with O(state=reported).
    type: float
  marks:
    description: When recovery began its phases C(look), C(cloud) and C(join), in seconds since 1970.
    type: dict
    default: {}
  skew:
    description: By how many seconds the clock of this host is ahead of the one that O(interrupted_at) and O(marks) come from.
    type: float
    default: 0
  cost:
    description: What the fleet costs, as RV(selfhosted.llm_stack.fleet_recovery#module:cost), to be shown.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Watch gpu2 for a quarter of an hour at the most
  selfhosted.llm_stack.fleet_drill:
    state: watched
    worker: gpu2
    url: https://127.0.0.1:443
    key: "{{ vault_api_key }}"
    model: qwen3-8b
  async: 960
  poll: 0
  register: watch
"""

RETURN = r"""
came_back:
  description: Whether the worker was lost and its engine has answered again.
  returned: with O(state=watched)
  type: bool
requests:
  description: The requests, each as when it was sent, seconds to the first token, engine, error, and whether it was cut.
  returned: with O(state=watched)
  type: list
  elements: list
sights:
  description: What was seen of the worker, each as when, whether its node was ready, and the addresses of its engines.
  returned: with O(state=watched)
  type: list
  elements: list
report:
  description: Seconds of each phase, requests sent, failed and cut, cost, and the timeline.
  returned: with O(state=reported)
  type: dict
page:
  description: The report as HTML.
  returned: with O(state=reported)
  type: str
"""

import time
from pathlib import Path
from typing import Any, Mapping

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import StackError
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.drill import Request, Sight, Watching, ask, report
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.drill_page import page
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.swarm import Swarm, connect, look

_ONE_QUESTION = 120.0


def argument_spec() -> dict[str, Any]:
    """Return the module's options."""
    return {
        "state": {"type": "str", "choices": ["watched", "reported"], "required": True},
        "worker": {"type": "str", "required": True},
        "url": {"type": "str"},
        "key": {"type": "str", "no_log": True},
        "model": {"type": "str"},
        "clients": {"type": "int", "default": 4},
        "pause": {"type": "float", "default": 0.25},
        "timeout": {"type": "float", "default": 900},
        "while_exists": {"type": "path"},
        "watched": {"type": "dict"},
        "interrupted_at": {"type": "float"},
        "marks": {"type": "dict", "default": {}},
        "skew": {"type": "float", "default": 0},
        "cost": {"type": "dict", "default": {}},
    }


def sight(api: Swarm, worker: str) -> Sight:
    """Return what a manager sees of a worker now; of several nodes of its name those that are ready count."""
    nodes = [node for node in look(api)["nodes"] if node["hostname"] == worker and node["ready"]]
    return Sight(time.time(), bool(nodes), tuple(address for node in nodes for address in node["engine_addresses"]))


def watch(params: Mapping[str, Any], api: Swarm) -> dict[str, Any]:
    """Watch, and return what was seen as plain data."""
    lease = params["while_exists"]
    watching = Watching(
        lambda: sight(api, params["worker"]),
        lambda: ask(params["url"], key=params["key"], model=params["model"], timeout=_ONE_QUESTION),
        wanted=lambda: not lease or Path(lease).exists(),
    )
    back = watching.run(clients=params["clients"], pause=params["pause"], timeout=params["timeout"])
    return {
        "came_back": back,
        "requests": [[one.at, one.first, one.engine, one.error, one.cut] for one in watching.requests],
        "sights": [[one.at, one.ready, list(one.engines)] for one in watching.sights],
    }


def reported(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report of what was watched."""
    seen, skew = params["watched"], params["skew"]
    found = report(
        [Sight(at, ready, tuple(engines)) for at, ready, engines in seen["sights"]],
        [Request(at, first, engine, error, cut) for at, first, engine, error, cut in seen["requests"]],
        worker=params["worker"],
        interrupted=params["interrupted_at"] + skew,
        marks={str(name): float(at) + skew for name, at in params["marks"].items()},
        cost=params["cost"],
    )
    return {"report": found, "page": page(found)}


def main() -> None:
    """Run the module."""
    needed = [("state", "watched", ["url", "key", "model"]), ("state", "reported", ["watched", "interrupted_at"])]
    module = AnsibleModule(argument_spec=argument_spec(), required_if=needed, supports_check_mode=True)
    try:
        found = watch(module.params, connect()) if module.params["state"] == "watched" else reported(module.params)
    except StackError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
