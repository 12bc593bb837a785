#!/usr/bin/python

# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: zfs_pool
short_description: Create a ZFS pool and keep its properties
version_added: "0.1.0"
description:
  - Creates a ZFS pool with data, special, dedup, log, cache and spare vdevs, and sets its properties.
  - A device is compared by what its path leads to, so a pool declared by C(/dev/disk/by-id) paths, kernel names, whole disks or partitions
    is left alone as long as it holds these devices. A failed disk counts as the device it was.
  - A vdev that is declared and missing, or present and not declared, is refused with the command that would do it. Nothing is ever added
    to, or removed from, a pool that exists.
  - A degraded or resilvering pool is reported as such and is no difference.
options:
  name:
    description:
      - Name of the pool.
    type: str
    required: true
  state:
    description:
      - V(present) creates the pool when it is missing.
    type: str
    choices: [present]
    default: present
  vdevs:
    description:
      - The whole layout of the pool.
      - Without it only the properties of a pool that exists are managed.
    type: list
    elements: dict
    default: []
    suboptions:
      type:
        description:
          - How the devices stand together.
          - V(stripe), V(mirror), V(raidz1), V(raidz2), V(raidz3), or V(draid1), V(draid2), V(draid3) with optional figures such as
            V(draid2:4d:11c:1s). A stripe of several devices is as many vdevs of one device.
        type: str
        default: stripe
      class:
        description:
          - What the vdev is for.
        type: str
        choices: [data, special, dedup, log, cache, spare]
        default: data
      devices:
        description:
          - Absolute paths of disks, partitions or files. Prefer C(/dev/disk/by-id), whose names do not change.
        type: list
        elements: path
        required: true
  properties:
    description:
      - Pool properties, such as C(ashift) or C(autotrim). Set at creation, and again whenever they differ.
      - C(true) and C(false) mean C(on) and C(off); sizes may have a unit.
    type: dict
    default: {}
  filesystem_properties:
    description:
      - Properties of the root file system at creation. Later differences are M(selfhosted.llm_stack.zfs_dataset)'s part.
    type: dict
    default: {}
  wipe:
    description:
      - Devices whose content may be erased when the pool is created. A device that carries anything and is not named here is refused.
      - A device that is mounted, held by another, or in an imported pool is refused even when named.
      - Has no effect on a pool that exists.
    type: list
    elements: path
    default: []
  pending:
    description:
      - Devices that an earlier task of the same run will create, such as partitions. In check mode they may be missing.
      - Has no effect outside check mode.
    type: list
    elements: path
    default: []
  allow_redundancy_mismatch:
    description:
      - Whether to create a pool that one of its vdevs makes weaker than its data vdevs, as a single special device does, or one of unlike
        data vdevs.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Shows the plan and changes nothing. Works before ZFS is installed, too.
  diff_mode:
    support: full
    description: Shows what differs before and after.
  platform:
    support: full
    description: The systems it works on.
    platforms: debian
seealso:
  - module: selfhosted.llm_stack.zfs_dataset
author:
  - The selfhosted.llm_stack contributors (@selfhosted)
"""

EXAMPLES = r"""
- name: Keep a pool of two mirrors with a mirrored special vdev, log and cache
  selfhosted.llm_stack.zfs_pool:
    name: llm
    vdevs:
      - type: mirror
        devices: [/dev/disk/by-id/ata-HGST_A, /dev/disk/by-id/ata-HGST_B]
      - type: mirror
        devices: [/dev/disk/by-id/ata-HGST_C, /dev/disk/by-id/ata-HGST_D]
      - type: mirror
        class: special
        devices: [/dev/disk/by-id/nvme-P4510-part1, /dev/disk/by-id/nvme-P4610-part1]
      - class: log
        devices: [/dev/disk/by-id/nvme-P4610-part2]
      - class: cache
        devices: [/dev/disk/by-id/nvme-P4510-part2]
    properties:
      ashift: 12
      autotrim: true
    filesystem_properties:
      compression: lz4
      atime: false

- name: Keep one property of a pool, whatever its layout
  selfhosted.llm_stack.zfs_pool:
    name: llm
    properties:
      autoexpand: true
"""

RETURN = r"""
plan:
  description: What was done, or would be done in check mode, a sentence a step.
  returned: always
  type: list
  elements: str
  sample: ["Set autotrim=on (was off) on pool llm"]
pool:
  description: The pool as it is at the end; null when it does not exist.
  returned: success
  type: dict
  sample:
    name: llm
    guid: "12345678901234567890"
    health: ONLINE
    size: 1099511627776
    allocated: 1048576
    free: 1099510579200
    vdevs:
      - class: data
        type: mirror
        name: mirror-0
        state: ONLINE
        devices:
          - {path: /dev/disk/by-id/ata-HGST_A-part1, state: ONLINE}
          - {path: /dev/disk/by-id/ata-HGST_B-part1, state: ONLINE}
warnings_planned:
  description: Advice about the layout that also came as warnings.
  returned: success
  type: list
  elements: str
processes:
  description: How many commands the module ran.
  returned: success
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import BadInput
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._module import conclude
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._run import Runner
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.apply_pool import PoolKeeper, confirmed
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.model import CLASSES, declare_pool
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.plan_pool import Guards


def arguments() -> dict[str, dict[str, object]]:
    """The options, as documented above."""
    vdev = {
        "type": {"type": "str", "default": "stripe"},
        "class": {"type": "str", "choices": list(CLASSES), "default": "data"},
        "devices": {"type": "list", "elements": "path", "required": True},
    }
    return {
        "name": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["present"], "default": "present"},
        "vdevs": {"type": "list", "elements": "dict", "default": [], "options": vdev},
        "properties": {"type": "dict", "default": {}},
        "filesystem_properties": {"type": "dict", "default": {}},
        "wipe": {"type": "list", "elements": "path", "default": []},
        "pending": {"type": "list", "elements": "path", "default": []},
        "allow_redundancy_mismatch": {"type": "bool", "default": False},
    }


def main() -> None:
    """Read, plan, apply, report."""
    module = AnsibleModule(argument_spec=arguments(), supports_check_mode=True)
    given = module.params
    guards = Guards(
        wipe=confirmed(given["wipe"]),
        pending=frozenset(given["pending"]) if module.check_mode else frozenset(),
        allow_redundancy_mismatch=given["allow_redundancy_mismatch"],
    )
    try:
        want = declare_pool(
            given["name"],
            vdevs=given["vdevs"],
            properties=given["properties"],
            filesystem_properties=given["filesystem_properties"],
        )
    except BadInput as error:
        module.fail_json(msg=str(error), changed=False)
    keeper = PoolKeeper(Runner(), want, guards, rehearsal=module.check_mode)
    conclude(module, make_plan=keeper.plan, do=keeper.do, report=keeper.report)


if __name__ == "__main__":
    main()
