#!/usr/bin/python

# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gpt_partitions
short_description: Divide disks into GPT partitions for ZFS
version_added: "0.1.0"
description:
  - Gives disks, named by their stable links, exactly the declared partitions.
  - A disk whose table has the declared names and sizes is left alone. An empty disk is partitioned. Every other disk is refused
    unless it is named in O(wipe), and a disk in use is refused always.
requirements:
  - fdisk (sfdisk) and util-linux on the managed host
attributes:
  check_mode:
    description: Plans without changing anything.
    support: full
  diff_mode:
    description: Shows the tables found and declared.
    support: full
  platform:
    description: Platforms the module is tested on.
    platforms: debian
    support: full
options:
  disks:
    description: The disks and all their partitions.
    type: list
    elements: dict
    required: true
    suboptions:
      device:
        description: The disk, by a link below C(/dev/disk/by-id) or another C(/dev/disk/by-*) folder.
        type: path
        required: true
      partitions:
        description: Its partitions in order; they become C(-part1), C(-part2) and so on.
        type: list
        elements: dict
        required: true
        suboptions:
          name:
            description: Name of the partition in the table.
            type: str
            required: true
          size:
            description: Whole V(MiB), V(GiB) or V(TiB), such as V(8GiB); or V(rest) for the last one to take what is left.
            type: str
            required: true
  wipe:
    description:
      - Disks of O(disks) whose present content is destroyed when their table is not the declared one.
      - A disk that has the declared table already is left alone although it is listed.
    type: list
    elements: path
    default: []
author:
  - The selfhosted.llm_stack contributors (@selfhosted)
"""

EXAMPLES = r"""
- name: Divide an NVMe into a log and a special part
  selfhosted.llm_stack.gpt_partitions:
    disks:
      - device: /dev/disk/by-id/nvme-INTEL_SSDPE2KE016T8_PHLN1234
        partitions:
          - name: log
            size: 8GiB
          - name: special
            size: rest
"""

RETURN = r"""
partitions:
  description: Paths of all declared partitions, in order, whether they exist already or are planned.
  returned: success
  type: list
  elements: str
  sample: ["/dev/disk/by-id/nvme-INTEL_SSDPE2KE016T8_PHLN1234-part1"]
plan:
  description: The steps taken, or in check mode the steps that would be, as sentences.
  returned: always
  type: list
  elements: str
  sample: ["Partition /dev/disk/by-id/nvme-INTEL_SSDPE2KE016T8_PHLN1234 into log (8GiB), special (rest)"]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._disk.partitions import parse_disks
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._disk.partitions_apply import Applier
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._disk.partitions_plan import plan
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._disk.partitions_read import read_state
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import StackError
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._module import conclude
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._plan import Plan
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._run import Runner


def make_plan(module: AnsibleModule, runner: Runner) -> Plan:
    if not module.check_mode and not runner.has("sfdisk"):
        raise StackError("sfdisk is not installed on this host, so its disks cannot be partitioned. Install the package fdisk.")
    wanted = parse_disks(module.params["disks"])
    return plan(read_state(runner, wanted), wanted, module.params["wipe"])


def report(module: AnsibleModule) -> dict[str, Any]:
    return {"partitions": [path for disk in parse_disks(module.params["disks"]) for path in disk.paths]}


def main() -> None:
    partition = {
        "name": {"type": "str", "required": True},
        "size": {"type": "str", "required": True},
    }
    disk = {
        "device": {"type": "path", "required": True},
        "partitions": {"type": "list", "elements": "dict", "required": True, "options": partition},
    }
    spec = {
        "disks": {"type": "list", "elements": "dict", "required": True, "options": disk},
        "wipe": {"type": "list", "elements": "path", "default": []},
    }
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    runner = Runner()
    conclude(
        module,
        make_plan=lambda: make_plan(module, runner),
        do=Applier(runner).do,
        report=lambda: report(module),
    )


if __name__ == "__main__":
    main()
