#!/usr/bin/python
# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Docker stack with its configs and secrets."""

from __future__ import annotations

DOCUMENTATION = r"""
module: swarm_stack
short_description: Deploy a Docker stack with its configs and secrets
version_added: "0.1.0"
description:
  - Compares the services of a stack with what the swarm runs, setting by setting, and deploys the stack when something differs.
  - Configs and secrets get names with a hash of their content, so a service rolls when one changes. Those that no service uses any
    more, and that no rollback would need, are removed if they belong to this stack.
  - Services that belong to the stack but are not named are reported and left running.
  - Waits until every service runs as often as it should.
  - While it compares and changes, no other run of it on this machine changes the same stack.
author:
  - The selfhosted.llm_stack maintainers (@selfhosted)
requirements:
  - The C(docker) command, on a manager of the swarm
attributes:
  check_mode:
    description: Can run in check mode and return the plan without changing anything, also before the swarm is made.
    support: full
  diff_mode:
    description: Returns what has changed, or would change in check mode. Secrets are not shown.
    support: full
  platform:
    description: Target systems the module works on.
    support: full
    platforms: Debian, Ubuntu
options:
  name:
    description: Name of the stack.
    type: str
    required: true
  compose:
    description:
      - Services and networks, as in a compose file of version 3.9. V(configs) and V(secrets) of a service name entries of O(configs)
        and O(secrets).
      - Only keys whose drift can be seen are accepted.
    type: dict
    required: true
  configs:
    description: Files that are no secret.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name within the stack.
        type: str
        required: true
      content:
        description: The content. Exactly one of this and O(configs[].file) is given.
        type: str
      file:
        description: Path on this machine of a file with the content. In check mode it may not exist yet.
        type: path
  secrets:
    description: Files only their services may read.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name within the stack.
        type: str
        required: true
      content:
        description: The content. Exactly one of this and O(secrets[].file) is given.
        type: str
      file:
        description: Path on this machine of a file with the content. In check mode it may not exist yet.
        type: path
  registry_auth:
    description: Whether the nodes get the login this machine has for the images' registries.
    type: bool
    default: false
  wait:
    description: Seconds the services may take until all of them run. V(0) does not wait.
    type: int
    default: 600
"""

EXAMPLES = r"""
- name: Deploy a web server whose configuration rolls
  selfhosted.llm_stack.swarm_stack:
    name: web
    compose:
      services:
        server:
          image: nginx:1.30
          configs:
            - source: site
              target: /etc/nginx/conf.d/default.conf
          deploy:
            replicas: 2
            endpoint_mode: dnsrr
    configs:
      - name: site
        content: "server { listen 80; return 204; }"
"""

RETURN = r"""
plan:
  description: The steps taken, or those that would be taken in check mode, as sentences.
  returned: always
  type: list
  elements: str
  sample: ["Create config web_site_0f343b0931126", "Deploy stack web: create web_server"]
services:
  description: The services of the stack as they run; empty in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the service.
      type: str
    running:
      description: Tasks that run, and are healthy where the service has a health check.
      type: int
    wanted:
      description: Tasks that should run.
      type: int
    nodes:
      description: Hostnames of the nodes its tasks run on.
      type: list
      elements: str
"""

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import BadInput
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._module import conclude
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._plan import Plan, Step
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._run import Runner
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._stack.apply import Applier, wait_until_settled
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._stack.compose import expected_spec
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._stack.lock import take
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._stack.model import Item, Running, Wanted
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._stack.plan import plan
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._stack.read import read_current


def argument_spec() -> dict[str, Any]:
    """Return the module's options."""
    config = {"name": {"type": "str", "required": True}, "content": {"type": "str"}, "file": {"type": "path"}}
    secret = {**config, "content": {"type": "str", "no_log": True}}
    alone = {"mutually_exclusive": [("content", "file")], "required_one_of": [("content", "file")]}
    return {
        "name": {"type": "str", "required": True},
        "compose": {"type": "dict", "required": True},
        "configs": {"type": "list", "elements": "dict", "default": [], "options": config, **alone},
        "secrets": {"type": "list", "elements": "dict", "default": [], "options": secret, "no_log": False, **alone},
        "registry_auth": {"type": "bool", "default": False},
        "wait": {"type": "int", "default": 600},
    }


def read_item(kind: str, given: dict[str, Any], *, foresee: bool) -> Item:
    """Return a config or secret with its content.

    :raises BadInput: its file cannot be read.
    """
    if given["content"] is not None:
        return Item(kind, given["name"], given["content"])
    path = Path(given["file"])
    try:
        return Item(kind, given["name"], path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        if foresee and isinstance(error, FileNotFoundError):
            return Item(kind, given["name"], None)
        raise BadInput(f"The {kind} {given['name']} cannot be read from {path}: {error}. Put the file there, or name another.") from error


def full_names(stack: str, compose: dict[str, Any], items: tuple[Item, ...]) -> dict[str, dict[str, str]]:
    """Return, by kind and name within the stack, the names in the swarm."""
    names: dict[str, dict[str, str]] = {"config": {}, "secret": {}, "network": {"default": f"{stack}_default"}, "volume": {}}
    for item in items:
        names[item.kind][item.name] = item.full_name(stack)
    for kind in ("network", "volume"):
        for name, options in (compose.get(f"{kind}s") or {}).items():
            names[kind][name] = (options or {}).get("name") or f"{stack}_{name}"
    return names


def parse_wanted(params: dict[str, Any], *, foresee: bool) -> Wanted:
    """Return what the stack should be.

    :raises BadInput: a service names a config or secret that is not given.
    """
    items = tuple(read_item(kind, given, foresee=foresee) for kind in ("config", "secret") for given in params[f"{kind}s"])
    names = full_names(params["name"], params["compose"], items)
    services = params["compose"].get("services") or {}
    for service, entry in services.items():
        for kind in ("config", "secret"):
            for reference in entry.get(f"{kind}s", []):
                if reference["source"] not in names[kind]:
                    raise BadInput(f"Service {service} uses the {kind} {reference['source']}, which is not listed under {kind}s. Add it.")
    specs = {
        f"{params['name']}_{service}": expected_spec(service, entry, lambda kind, name: names[kind].get(name, name))
        for service, entry in services.items()
    }
    return Wanted(params["name"], params["compose"], items, specs)


def shown(service: Running) -> dict[str, Any]:
    """Return a service for the result."""
    nodes = sorted(task.node for task in service.tasks if task.state.startswith("Running"))
    return {"name": service.name, "running": service.running, "wanted": service.wanted, "nodes": nodes}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    runner, foresee = Runner(), bool(module.check_mode)
    state: dict[str, Any] = {}

    def make_plan() -> Plan:
        if not foresee:
            state["lock"] = take(module.params["name"])
        wanted = parse_wanted(module.params, foresee=foresee)
        state["applier"] = Applier(runner, wanted, registry_auth=module.params["registry_auth"])
        planned = plan(read_current(runner, foresee=foresee), wanted)
        state["deployed"] = any(step.action == "deploy" for step in planned.steps)
        return planned

    def do(step: Step) -> None:
        state["applier"].do(step)

    def report() -> dict[str, Any]:
        if not foresee:
            os.close(state["lock"])
        if foresee or not module.params["wait"]:
            return {"services": []}
        settled = wait_until_settled(runner, module.params["name"], seconds=module.params["wait"], deployed=state["deployed"])
        return {"services": [shown(service) for service in settled]}

    conclude(module, make_plan=make_plan, do=do, report=report)


if __name__ == "__main__":
    main()
