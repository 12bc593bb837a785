#!/usr/bin/python

# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: zfs_pool
short_description: Keep a ZFS pool as it is declared
version_added: "0.1.0"
description:
  - Creates a pool, imports one that was exported, and brings the vdevs and properties of one that exists to what is declared. Each
    difference is one command, or is refused with its reason.
  - A device is compared by what its path leads to, so a pool declared by C(/dev/disk/by-id) paths, kernel names, whole disks, partitions
    or multipath devices is left alone as long as it holds these devices. A failed disk counts as the device it was, until a blank one is
    found in its place.
  - A declared device that is not in the pool is attached to its mirror or raidz, takes the place of the one that is no longer declared, or
    comes with a new vdev. What is in the pool and not declared is never taken out, unless O(allow_remove) names it.
  - A degraded or resilvering pool, a spare in use and a device that is offline are reported in RV(pool) and are no difference.
  - Gives advice on the layout as warnings, with figures, and is never stopped by it. Before ZFS 2.3 it looks either at how full special and
    dedup vdevs are, or, where there are none, at the datasets.
options:
  name:
    description:
      - Name of the pool.
    type: str
    required: true
  state:
    description:
      - V(present) creates the pool when it is missing, or imports it when it lies exported on the declared devices.
      - V(absent) destroys the pool and all that is on it, when O(confirm) holds its GUID. An exported pool is left alone.
    type: str
    choices: [present, absent]
    default: present
  vdevs:
    description:
      - The whole layout of the pool.
      - Without it the layout of a pool that exists is not looked at.
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
      - Pool properties, such as C(ashift), C(autotrim), C(compatibility) or C(feature@zstd_compress). Set at creation, and again whenever
        they differ. A feature that is active counts as enabled; V(disabled) is possible at creation only.
      - C(true) and C(false) mean C(on) and C(off); sizes may have a unit.
      - C(ashift) is fixed for each vdev when it is created; another value than the vdevs of the pool have is refused.
    type: dict
    default: {}
  filesystem_properties:
    description:
      - Properties of the root file system at creation. Later differences are M(selfhosted.llm_stack.zfs_dataset)'s part.
    type: dict
    default: {}
  wipe:
    description:
      - Devices whose content may be erased when they are taken into the pool. A device that carries anything and is not named here is
        refused.
      - A device that is mounted, held by another, or in an imported pool is refused even when named.
      - Has no effect on devices that are in the pool.
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
      - Whether the pool may have a vdev that makes it weaker than its data vdevs do, as a single special device does, unlike data vdevs, or
        a mirror, also one of logs, that is left with a single device.
    type: bool
    default: false
  allow_mixed_ashift:
    description:
      - Whether the pool may have vdevs of unlike C(ashift), or devices with larger sectors than C(ashift) says.
    type: bool
    default: false
  allow_remove:
    description:
      - What may leave the pool when it is not declared, one by one. Vdevs by name, such as V(mirror-1), or GUID; devices by path or GUID.
      - Logs, caches and spares can always be removed, and devices detached from mirrors. Data, special and dedup vdevs can only be removed
        from a pool without raidz and draid.
      - What is declared stays, whatever is named here.
    type: list
    elements: str
    default: []
  force_import:
    description:
      - GUID of the pool that may be imported although another host used it last and did not export it.
    type: str
    default: ""
  confirm:
    description:
      - GUID of the pool that O(state=absent) may destroy.
    type: str
    default: ""
  online:
    description:
      - Devices, by path or GUID, that were taken offline and shall be used again.
    type: list
    elements: str
    default: []
  offline:
    description:
      - Devices, by path or GUID, that shall stay in the pool and not be used. Refused where data would be out of reach.
    type: list
    elements: str
    default: []
  upgrade:
    description:
      - Whether to enable all features that ZFS on the host has and C(compatibility) allows. Older ZFS can then no longer import the pool.
    type: bool
    default: false
  checkpoint_before_add:
    description:
      - Whether to take a checkpoint of the pool before a vdev is added, so that C(zpool import --rewind-to-checkpoint) can undo it.
      - While a pool has a checkpoint, ZFS refuses to attach, replace and remove devices. Give it up with C(zpool checkpoint -d).
    type: bool
    default: false
  run:
    description:
      - What to start, unless it is running. V(scrub) and V(trim) are started each time, V(initialize) for devices that never were
        initialised.
    type: list
    elements: str
    choices: [initialize, trim, scrub]
    default: []
  wait:
    description:
      - Whether to wait until nothing runs on the pool any more, such as a scrub, a resilver, an expansion or a removal.
    type: bool
    default: false
  wait_timeout:
    description:
      - Seconds to wait at most. Then the task fails, and what runs goes on.
    type: int
    default: 3600
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

- name: Exchange a disk, whose successor may be erased, and let the second log go
  selfhosted.llm_stack.zfs_pool:
    name: llm
    vdevs:
      - type: mirror
        devices: [/dev/disk/by-id/ata-HGST_A, /dev/disk/by-id/ata-HGST_B]
      - type: mirror
        devices: [/dev/disk/by-id/ata-HGST_C, /dev/disk/by-id/ata-NEW_D]
      - class: log
        devices: [/dev/disk/by-id/nvme-P4610-part2]
    allow_remove: [/dev/disk/by-id/nvme-P4610-part3]
    wipe: [/dev/disk/by-id/ata-NEW_D]
    wait: true

- name: Scrub a pool and wait for the end
  selfhosted.llm_stack.zfs_pool:
    name: llm
    run: [scrub]
    wait: true
    wait_timeout: 86400

- name: Destroy a pool
  selfhosted.llm_stack.zfs_pool:
    name: old
    state: absent
    confirm: "12345678901234567890"
"""

RETURN = r"""
plan:
  description: What was done, or would be done in check mode, a sentence a step.
  returned: always
  type: list
  elements: str
  sample: ["Set autotrim=on (was off) on pool llm"]
pool:
  description: The pool as it is at the end, with what runs on it and how far that is; null when it does not exist.
  returned: success
  type: dict
  sample:
    name: llm
    guid: "12345678901234567890"
    health: ONLINE
    size: 1099511627776
    allocated: 1048576
    free: 1099510579200
    capacity: 0
    errors: ""
    activity:
      scrub: {state: running, percent: 42.5}
    vdevs:
      - class: data
        type: mirror
        name: mirror-0
        state: ONLINE
        devices:
          - {path: /dev/disk/by-id/ata-HGST_A-part1, state: ONLINE, guid: "3456789012345678901"}
          - {path: /dev/disk/by-id/ata-HGST_B-part1, state: ONLINE, guid: "4567890123456789012"}
warnings_planned:
  description: Advice about the layout, with figures, that also came as warnings.
  returned: success
  type: list
  elements: str
processes:
  description: How many commands the module ran; at most three when nothing differs.
  returned: success
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import BadInput
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._module import conclude
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._run import Runner
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.pool.apply import Manner, PoolKeeper
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.pool.declare import ACTIVITIES, declare_guards, declare_pool
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.pool.model import CLASSES


def arguments() -> dict[str, dict[str, object]]:
    """The options, as documented above."""
    vdev = {
        "type": {"type": "str", "default": "stripe"},
        "class": {"type": "str", "choices": list(CLASSES), "default": "data"},
        "devices": {"type": "list", "elements": "path", "required": True},
    }
    return {
        "name": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "vdevs": {"type": "list", "elements": "dict", "default": [], "options": vdev},
        "properties": {"type": "dict", "default": {}},
        "filesystem_properties": {"type": "dict", "default": {}},
        "wipe": {"type": "list", "elements": "path", "default": []},
        "pending": {"type": "list", "elements": "path", "default": []},
        "allow_redundancy_mismatch": {"type": "bool", "default": False},
        "allow_mixed_ashift": {"type": "bool", "default": False},
        "allow_remove": {"type": "list", "elements": "str", "default": []},
        "force_import": {"type": "str", "default": ""},
        "confirm": {"type": "str", "default": ""},
        "online": {"type": "list", "elements": "str", "default": []},
        "offline": {"type": "list", "elements": "str", "default": []},
        "upgrade": {"type": "bool", "default": False},
        "checkpoint_before_add": {"type": "bool", "default": False},
        "run": {"type": "list", "elements": "str", "choices": list(ACTIVITIES), "default": []},
        "wait": {"type": "bool", "default": False},
        "wait_timeout": {"type": "int", "default": 3600},
    }


def main() -> None:
    """Read, plan, apply, report."""
    module = AnsibleModule(argument_spec=arguments(), supports_check_mode=True)
    given = module.params
    try:
        want = declare_pool(given)
        guards = declare_guards(given, rehearsal=module.check_mode)
    except BadInput as error:
        module.fail_json(msg=str(error), changed=False)
    manner = Manner(
        rehearsal=module.check_mode,
        absent=given["state"] == "absent",
        wait=given["wait_timeout"] if given["wait"] else 0,
    )
    keeper = PoolKeeper(Runner(), want, guards, manner)
    conclude(module, make_plan=keeper.plan, do=keeper.do, report=keeper.report)


if __name__ == "__main__":
    main()
