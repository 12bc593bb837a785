#!/usr/bin/python
# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation only: plugins/action/inventory_check.py does the work, on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: inventory_check
version_added: "0.1.0"
short_description: Check an inventory against the roles of this collection
description:
  - Compares every variable of every host with the argument specifications of the roles of this collection, before any machine is reached.
  - Refuses missing or empty groups, variables that no role knows, and values of another type than declared.
    All findings are reported at once, each with the host, the variable and a remedy.
  - A variable belongs to a role when its name starts with the role's name and an underscore. All other variables are left alone,
    but a name that is all but equal to an option of a role is warned about.
  - Variables whose value depends on facts that are not known yet are not judged.
author:
  - The selfhosted.llm_stack contributors (@selfhosted)
options:
  groups:
    description:
      - Groups that the inventory must define. They may be empty, as a fleet of preemptible servers sometimes is.
    type: list
    elements: str
    default: []
  inhabited_groups:
    description:
      - Groups that the inventory must define and that must hold at least one host.
    type: list
    elements: str
    default: []
  roles:
    description:
      - The roles that will run on the hosts of each group, as a dictionary of groups and lists of role names.
      - Their options that have no default must be set for every host of the group.
      - Without it, missing options are left for the roles to report.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Can run in check mode and return changed status prediction without modifying the target.
    support: full
  diff_mode:
    description: Returns details on what has changed, or would change in check mode.
    support: none
    details: Nothing is ever changed.
  platform:
    description: Target operating systems that can be operated against.
    support: full
    platforms: all
"""

EXAMPLES = r"""
- name: Check the inventory before anything is touched
  hosts: all
  gather_facts: false
  tasks:
    - name: Compare all variables with the options of the roles
      selfhosted.llm_stack.inventory_check:
        groups:
          - gpu_workers
        inhabited_groups:
          - storage_hosts
          - swarm_managers
      run_once: true
"""

RETURN = r"""
checked:
  description: How many variables of how many hosts were compared.
  returned: always
  type: dict
  sample:
    hosts: 4
    variables: 57
problems:
  description: The findings, each a sentence that names the host, the variable and the remedy.
  returned: always
  type: list
  elements: str
  sample:
    - "storage1: storage_host_pool is not an option of the role storage_host. Did you mean storage_host_pools?"
"""
