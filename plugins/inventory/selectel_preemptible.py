# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet of preemptible servers as hosts."""

from __future__ import annotations

DOCUMENTATION = r"""
name: selectel_preemptible
short_description: The servers of a fleet as hosts
version_added: "0.1.0"
description:
  - Lists the servers that M(selfhosted.llm_stack.selectel_preemptible) keeps, each under the name of its place in the fleet.
  - Running ones are in O(group), interrupted ones in the group of that name with C(_interrupted) behind it, so that they are not lost.
  - All are also in C(fleet_state_<status>), C(fleet_zone_<zone>) and, for each kind of GPU, C(fleet_gpu_<alias>), in lower case.
  - Each host has the variable C(fleet_server) with what the module returns about a server, and C(ansible_host).
  - The file's name ends in C(selectel_preemptible.yml) or C(selectel_preemptible.yaml). Values may be templates.
author:
  - The selfhosted.llm_stack contributors (@selfhosted)
extends_documentation_fragment:
  - selfhosted.llm_stack.openstack_login
  - ansible.builtin.inventory_cache
options:
  plugin:
    description: The name of this plugin.
    type: str
    required: true
    choices: [selfhosted.llm_stack.selectel_preemptible]
  fleet:
    description: Name of the fleet. When it is empty, nothing is asked and no host is added.
    type: str
    default: ""
  profile:
    description: As in M(selfhosted.llm_stack.selectel_preemptible).
    type: str
    choices: [selectel, openstack]
    default: selectel
  regions:
    description: Regions to look for the fleet in; O(region_name) by default.
    type: list
    elements: str
    default: []
  group:
    description: The group of running servers.
    type: str
    default: gpu_workers
  connect_to:
    description:
      - The address for C(ansible_host). V(public) takes the public address, or where there is none the first other one. V(private) takes
        the first address in a network of the project.
    type: str
    choices: [public, private]
    default: public
"""

EXAMPLES = r"""
# fleet.selectel_preemptible.yml
plugin: selfhosted.llm_stack.selectel_preemptible
cloud: selectel
fleet: llm
regions: [ru-7, ru-9]
cache: true
cache_plugin: ansible.builtin.jsonfile
cache_connection: ~/.cache/llm_stack
cache_timeout: 60
"""

import hashlib
import json
import os
import re
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import StackError
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.apply import start
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.client import Calls, Watch
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.login import LOGIN_OPTIONS, connect, whereabouts
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.model import PROFILES, Fleet, FleetSpec
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.report import current_server, server_report
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.states import INTERRUPTED, RUNNING, kind_of

# An inventory is read before every playbook: it must not wait for long.
_DEADLINE = 120.0


def hosts_of(fleet: Fleet, *, desired: FleetSpec, now: float) -> dict[str, dict[str, Any]]:
    """Return the hosts by name: what is known of the server, and the kind of its state."""
    found: dict[str, dict[str, Any]] = {}
    for slot in sorted({server.slot for server in fleet.servers if server.slot}):
        server = current_server(one for one in fleet.servers if one.slot == slot)
        if server is not None:
            found[slot] = {"server": server_report(server, fleet=fleet, desired=desired, now=now), "kind": kind_of(server)}
    return found


def address_of(server: dict[str, Any], connect_to: str) -> str:
    """Return the address to connect to, or an empty string."""
    wanted = "floating" if connect_to == "public" else "fixed"
    addresses = sorted(server["addresses"], key=lambda one: one["kind"] != wanted)
    return str(addresses[0]["address"]) if addresses else ""


def groups_of(host: dict[str, Any], group: str) -> list[str]:
    """Return the groups a host belongs to."""
    server = host["server"]
    names = [f"fleet_state_{server['status']}"] + [f"fleet_gpu_{alias}" for alias in server["gpus"]]
    names += [f"fleet_zone_{server['placement']['zone']}"] if server["placement"]["zone"] else []
    safe = [re.sub(r"[^a-z0-9_]", "_", name.lower()) for name in names]
    if host["kind"] == RUNNING:
        return [group, *safe]
    return [f"{group}_interrupted", *safe] if host["kind"] == INTERRUPTED else safe


class InventoryModule(BaseInventoryPlugin, Cacheable):
    """The inventory plugin."""

    NAME = "selfhosted.llm_stack.selectel_preemptible"

    def verify_file(self, path: str) -> bool:
        """Whether the file is meant for this plugin, by its name."""
        return bool(super().verify_file(path)) and path.endswith(("selectel_preemptible.yml", "selectel_preemptible.yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Add the fleet to the inventory, from the cloud or the cache."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        group = str(self._option("group"))
        for name in (group, f"{group}_interrupted"):
            self.inventory.add_group(name)
        if self._option("fleet"):
            self._add(self._cached(path, cache), group)

    def _option(self, name: str) -> Any:
        return self._rendered(self.get_option(name))

    def _rendered(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._rendered(part) for key, part in value.items()}
        if isinstance(value, list):
            return [self._rendered(part) for part in value]
        return self.templar.template(value) if isinstance(value, str) else value

    def _cache_key(self, path: str) -> str:
        """Return the key of what is listed now: the file may say another fleet or cloud the next time, by a template."""
        options = {name: self._option(name) for name in (*LOGIN_OPTIONS, "fleet", "profile", "regions")}
        said = {**whereabouts(options, os.environ), **{name: options[name] for name in ("fleet", "profile", "regions")}}
        digest = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()
        return f"{self.get_cache_key(path)}_{digest[:16]}"

    def _cached(self, path: str, cache: bool) -> dict[str, dict[str, Any]]:
        key = self._cache_key(path)
        if cache and self.get_option("cache"):
            try:
                found: dict[str, dict[str, Any]] = self._cache[key]
            except KeyError:
                pass
            else:
                return found
        read = self._read()
        if self.get_option("cache"):
            self._cache[key] = read
        return read

    def _read(self) -> dict[str, dict[str, Any]]:
        options = {name: self._option(name) for name in (*LOGIN_OPTIONS, "regions")}
        desired = FleetSpec(str(self._option("fleet")), profile=PROFILES[self._option("profile")])
        watch = Watch(_DEADLINE)
        try:
            run = start(connect(options), watch=watch, calls=Calls(), api_timeout=float(options["api_timeout"]), memory={})
            return hosts_of(run.look(desired.fleet), desired=desired, now=watch.now())
        except StackError as error:
            raise AnsibleParserError(f"The fleet {desired.fleet} cannot be listed: {error}") from error

    def _add(self, hosts: dict[str, dict[str, Any]], group: str) -> None:
        connect_to = self._option("connect_to")
        for name, host in hosts.items():
            for joined in groups_of(host, group):
                self.inventory.add_group(joined)
                self.inventory.add_host(name, group=joined)
            self.inventory.set_variable(name, "fleet_server", host["server"])
            address = address_of(host["server"], connect_to)
            if address:
                self.inventory.set_variable(name, "ansible_host", address)
