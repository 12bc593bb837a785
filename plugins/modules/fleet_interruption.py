#!/usr/bin/python
# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Interrupt a server of a fleet on purpose."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_interruption
short_description: Interrupt a server of a fleet on purpose, for a drill
version_added: "0.1.0"
description:
  - Shelves a running server, which leaves it as a cloud leaves a preemptible server that it has interrupted. Its disk stays.
  - It is refused without O(confirm), which names the worker, and where the worker has no server that runs, or more than one.
author:
  - The selfhosted.llm_stack contributors (@selfhosted)
extends_documentation_fragment:
  - selfhosted.llm_stack.openstack_login
  - selfhosted.llm_stack.attributes.cloud
attributes:
  check_mode:
    description: Can run in check mode and refuse what would be refused; nothing is interrupted.
    support: full
  diff_mode:
    description: Returns no diff.
    support: none
options:
  fleet:
    description: Name of the fleet.
    type: str
    required: true
  name:
    description: Name of the worker.
    type: str
    required: true
  confirm:
    description: The name of the worker once more.
    type: str
    default: ""
  regions:
    description: Further regions to look at, beside all that the cloud offers.
    type: list
    elements: str
    default: []
  deadline:
    description: Seconds until the server must be interrupted.
    type: float
    default: 300
"""

EXAMPLES = r"""
- name: Interrupt gpu2
  selfhosted.llm_stack.fleet_interruption:
    cloud: selectel
    fleet: llm
    name: gpu2
    confirm: gpu2
  delegate_to: localhost
"""

RETURN = r"""
server:
  description: ID of the server.
  returned: success
  type: str
at:
  description: When the interruption was asked for, in seconds since 1970.
  returned: success
  type: float
"""

from typing import Any, Mapping

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import BadInput, StackError
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.apply import Run, start
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.client import Calls, Watch
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.login import LOGIN_OPTIONS, connect
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.model import Fleet, Server
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.states import INTERRUPTED, RUNNING, kind_of


def argument_spec() -> dict[str, Any]:
    """Return the module's options."""
    return {
        **LOGIN_OPTIONS,
        "fleet": {"type": "str", "required": True},
        "name": {"type": "str", "required": True},
        "confirm": {"type": "str", "default": ""},
        "regions": {"type": "list", "elements": "str", "default": []},
        "deadline": {"type": "float", "default": 300},
    }


def chosen(fleet: Fleet, *, name: str, confirm: str) -> Server:
    """Return the server to interrupt.

    :raises BadInput: it is not confirmed, or which one is meant is not clear.
    """
    if confirm != name:
        raise BadInput(f"Refusing to interrupt {name} without confirmation: set confirm to {name}, the name of the worker.")
    running = [one for one in fleet.servers if one.slot == name and kind_of(one) == RUNNING]
    if len(running) != 1:
        many = "no server that runs" if not running else f"{len(running)} servers that run ({', '.join(one.id for one in running)})"
        raise BadInput(f"Refusing to interrupt {name}: it has {many}. Run the playbook recover first.")
    return running[0]


def interrupt(run: Run, server: Server, *, fleet: str) -> float:
    """Interrupt a server and wait until it is; return when that was asked for.

    :raises StackError: the cloud refused, or took too long.
    """
    at = run.watch.now()
    run.clouds[server.region].send("compute", "POST", f"/servers/{server.id}/action", {"shelve": None})
    while True:
        found = next((one for one in run.look(fleet).servers if one.id == server.id), None)
        if found is None or kind_of(found) == INTERRUPTED:
            return at
        run.watch.pause(1.0)


def act(params: Mapping[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Do what is asked for and return the module's result."""
    if params["confirm"] != params["name"]:
        chosen(Fleet(), name=params["name"], confirm=params["confirm"])
    connections = connect({**params, "state": "absent"})
    run = start(connections, watch=Watch(params["deadline"]), calls=Calls(), api_timeout=params["api_timeout"], memory={})
    server = chosen(run.look(params["fleet"]), name=params["name"], confirm=params["confirm"])
    at = run.watch.now() if check_mode else interrupt(run, server, fleet=params["fleet"])
    return {"changed": True, "server": server.id, "at": at}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    try:
        found = act(module.params, check_mode=module.check_mode)
    except StackError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**found)


if __name__ == "__main__":
    main()
