#!/usr/bin/python
# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine's part in a WireGuard mesh."""

from __future__ import annotations

DOCUMENTATION = r"""
module: wireguard_mesh
short_description: Make a machine a part of a WireGuard mesh, with a key it keeps to itself
version_added: "0.1.0"
description:
  - Makes the machine's key where there is none, and returns the public half. The private half stays in C(/etc/wireguard), mode 0600,
    and is in no result, diff, argument or log.
  - With O(hosts) it writes the configuration for C(wg-quick) and keeps its service running. Two hosts of which one has an endpoint are
    peers; those that have none reach each other through the first that has one.
  - Peers are changed while the interface runs; it is restarted only for another address, port or MTU.
author:
  - The selfhosted.llm_stack maintainers (@selfhosted)
requirements:
  - wireguard-tools
  - WireGuard in the kernel, or wireguard-go
  - iptables, where others behind NAT reach each other through this machine
attributes:
  check_mode:
    description: Can run in check mode and return the plan without changing anything, also before wireguard-tools is installed.
    support: full
  diff_mode:
    description: Returns the configuration, which holds no private key.
    support: full
  platform:
    description: Target systems the module works on.
    support: full
    platforms: Debian, Ubuntu
options:
  interface:
    description: Name of the interface, and of the files in C(/etc/wireguard).
    type: str
    default: llm0
  hosts:
    description: All hosts of the mesh, this one too. Without it only the key is made.
    type: list
    elements: dict
    suboptions:
      name:
        description: A name of one's own for the host.
        type: str
        required: true
      address:
        description: Its address in the mesh.
        type: str
        required: true
      endpoint:
        description: Address and port at which the others reach it, as in V(192.0.2.21:51820). Empty for a host behind NAT.
        type: str
        default: ""
      public_key:
        description: Its public key. Empty when it is not known in this run, which keeps the one known before.
        type: str
        default: ""
  name:
    description: Which of O(hosts) this machine is.
    type: str
    default: ""
  network:
    description: The network of the mesh. Required with O(hosts).
    type: str
    default: ""
  listen_port:
    description: UDP port this machine listens on.
    type: int
    default: 51820
  mtu:
    description: Largest packet the mesh carries. 1420 fits an internet path of 1500; less where that itself runs through a tunnel.
    type: int
    default: 1420
  keepalive:
    description: Seconds after which a host behind NAT sends something, so that the way back to it stays open.
    type: int
    default: 25
  forget:
    description: Names of peers that are no hosts any more and may be taken out. Others that are not declared stay, with a warning.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Make the key of this machine
  selfhosted.llm_stack.wireguard_mesh:
  register: mesh

- name: Join the mesh
  selfhosted.llm_stack.wireguard_mesh:
    name: gpu1
    network: 10.99.0.0/24
    hosts:
      - name: manager1
        address: 10.99.0.21
        endpoint: 192.0.2.21:51820
        public_key: xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=
      - name: gpu1
        address: 10.99.0.31
        public_key: "{{ mesh.public_key }}"
"""

RETURN = r"""
plan:
  description: The steps taken, or those that would be taken in check mode, as sentences.
  returned: always
  type: list
  elements: str
public_key:
  description: The machine's public key; empty in check mode before it is made.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._mesh.apply import Host
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._mesh.model import parse
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._mesh.plan import plan_mesh
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._module import conclude
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._plan import Plan
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._run import Runner


def main() -> None:
    text = {"type": "str", "default": ""}
    host = {
        "name": {"type": "str", "required": True},
        "address": {"type": "str", "required": True},
        "endpoint": text,
        # Half of a pair that may be known to everybody.
        "public_key": {"type": "str", "default": "", "no_log": False},
    }
    spec = {
        "interface": {"type": "str", "default": "llm0"},
        "hosts": {"type": "list", "elements": "dict", "options": host},
        "name": text,
        "network": text,
        "listen_port": {"type": "int", "default": 51820},
        "mtu": {"type": "int", "default": 1420},
        "keepalive": {"type": "int", "default": 25},
        "forget": {"type": "list", "elements": "str", "default": []},
    }
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    here = Host(module.params["interface"], runner=Runner())

    def make_plan() -> Plan:
        desired = parse(module.params)
        return plan_mesh(current=here.read(), desired=desired, key_file=str(here.key))

    conclude(module, make_plan=make_plan, do=here.do, report=lambda: {"public_key": here.read().public_key})


if __name__ == "__main__":
    main()
