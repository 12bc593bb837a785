#!/usr/bin/python

# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: iscsi_target
short_description: Manage iSCSI targets of the Linux kernel
version_added: "0.1.0"
description:
  - Offers block devices, such as ZFS volumes, as LUNs of iSCSI targets (LIO), and saves the configuration for the next boot.
  - All targets are read and changed in one process through rtslib; C(targetcli) is never started. Only what differs is changed, so
    that sessions of other initiators are not disturbed.
  - What the kernel or the saved file holds beyond the declared targets stays. Nothing is ever removed.
requirements:
  - python3-rtslib-fb on the managed host (not needed in check mode)
attributes:
  check_mode:
    description: Plans without changing anything, and without loading kernel modules.
    support: full
  diff_mode:
    description: Shows what differs; passwords never appear.
    support: full
  platform:
    description: Platforms the module is tested on.
    platforms: debian
    support: full
options:
  targets:
    description: The targets to offer. Each gets one portal group, number 1.
    type: list
    elements: dict
    required: true
    suboptions:
      wwn:
        description: Name of the target, such as V(iqn.2025-01.lan.storage:vm).
        type: str
        required: true
      portals:
        description:
          - Addresses to listen on, as V(10.0.0.11), V(10.0.0.11:3260) or V([fd00::11]:3260).
          - There is no implicit address; V(0.0.0.0) has to be written out and is refused where nobody has to authenticate.
        type: list
        elements: str
        required: true
      luns:
        description: The disks of the target.
        type: list
        elements: dict
        required: true
        suboptions:
          lun:
            description: Index of the disk in the target, 0 to 255.
            type: int
            required: true
          name:
            description: Name of the backstore that serves the device; unique on the host.
            type: str
            required: true
          device:
            description: Path of the block device, for example V(/dev/zvol/llm/vm/disk0).
            type: path
            required: true
          serial:
            description:
              - Serial number initiators know the disk by.
              - By default an existing serial is kept and that of a new disk is derived from O(targets[].wwn) and
                O(targets[].luns[].name), so that a rebuilt host offers the same disk.
            type: str
      acls:
        description: The initiators that may log in.
        type: list
        elements: dict
        required: true
        suboptions:
          initiator:
            description: Name of the initiator, as in its C(/etc/iscsi/initiatorname.iscsi).
            type: str
            required: true
          userid:
            description: CHAP user the initiator logs in with.
            type: str
          password:
            description: CHAP password the initiator logs in with, at least 12 characters.
            type: str
          mutual_userid:
            description: CHAP user the target proves itself with. By default it does not have to.
            type: str
          mutual_password:
            description: CHAP password the target proves itself with, at least 12 characters and other than O(targets[].acls[].password).
            type: str
          mapped_luns:
            description:
              - The LUNs this initiator sees.
              - By default an initiator that is alone at its target sees all of them; where there are several initiators, each has to
                list its own, because two hosts that write to one disk destroy what is on it.
            type: list
            elements: dict
            suboptions:
              lun:
                description: Index of the LUN in the target.
                type: int
                required: true
              index:
                description: Index under which the initiator sees it; by default that of O(targets[].acls[].mapped_luns[].lun).
                type: int
              write_protect:
                description: Whether the initiator may only read it.
                type: bool
                default: false
      allow_unauthenticated:
        description:
          - Whether initiators may be listed without a password.
          - Everyone who can reach the portal and knows the name of an initiator can then read and write its disks.
        type: bool
        default: false
  pending:
    description:
      - Devices that an earlier task of the same run will create. In check mode they are accepted although they are missing.
      - By default missing devices below C(/dev/zvol) are accepted in check mode, with a warning.
    type: list
    elements: path
  save_file:
    description: File the configuration is saved to. By default the one that the distribution's boot service restores.
    type: path
author:
  - The selfhosted.llm_stack contributors (@selfhosted)
"""

EXAMPLES = r"""
- name: Offer a volume to one virtual machine host
  selfhosted.llm_stack.iscsi_target:
    targets:
      - wwn: iqn.2025-01.lan.storage:vm
        portals: ["10.0.0.11:3260"]
        luns:
          - lun: 0
            name: disk0
            device: /dev/zvol/llm/vm/disk0
        acls:
          - initiator: iqn.2025-01.lan.gpu1:host
            userid: gpu1
            password: "{{ vault_iscsi_password }}"
            mapped_luns:
              - lun: 0
"""

RETURN = r"""
plan:
  description: The steps taken, or in check mode the steps that would be, as sentences.
  returned: always
  type: list
  elements: str
  sample: ["Create backstore disk0 on /dev/zvol/llm/vm/disk0 with serial 5ab0a4a1-2d4d-5b3e-9f7e-2b7a1f0d3c11"]
warnings_planned:
  description: What was noticed and left alone, such as LUNs that are not declared.
  returned: success
  type: list
  elements: str
serials:
  description: Serial numbers of the declared LUNs by name; those of new LUNs in check mode are missing.
  returned: success
  type: dict
  sample: {"disk0": "5ab0a4a1-2d4d-5b3e-9f7e-2b7a1f0d3c11"}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.apply import Applier
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.model import Guards, State, WantedTarget
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.options import parse_targets
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.plan import plan
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.read import (
    default_save_file,
    load_rtslib,
    open_root,
    read_device,
    read_dump,
    read_saved,
    read_state,
)
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._module import conclude
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._plan import Plan, Step


class Session:
    """One run of the module: the library is opened once, when the plan is made."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.rtslib = load_rtslib()
        self.save_file = module.params["save_file"] or default_save_file(self.rtslib)
        self.root: Any = None
        self.wanted: tuple[WantedTarget, ...] = ()

    def read(self) -> State:
        dump = read_dump(self.rtslib, self.root)
        devices = [read_device(lun.device) for target in self.wanted for lun in target.luns]
        return read_state(dump, saved=read_saved(self.save_file), devices=devices)

    def make_plan(self) -> Plan:
        self.wanted = parse_targets(self.module.params["targets"])
        self.root = open_root(self.rtslib, save_file=self.save_file, check_mode=self.module.check_mode)
        pending = self.module.params["pending"]
        guards = Guards(
            check_mode=self.module.check_mode,
            pending=None if pending is None else tuple(pending),
            save_file=self.save_file,
        )
        return plan(self.read(), self.wanted, guards)

    def do(self, step: Step) -> None:
        Applier(self.rtslib, self.root, save_file=self.save_file).do(step)

    def report(self) -> dict[str, Any]:
        names = {lun.name for target in self.wanted for lun in target.luns}
        if self.root is None:
            return {"serials": {}}
        stores = self.root.storage_objects
        return {"serials": {store.name: store.wwn for store in stores if store.name in names}}


def argument_spec() -> dict[str, Any]:
    mapped = {
        "lun": {"type": "int", "required": True},
        "index": {"type": "int"},
        "write_protect": {"type": "bool", "default": False},
    }
    acl = {
        "initiator": {"type": "str", "required": True},
        "userid": {"type": "str"},
        "password": {"type": "str", "no_log": True},
        "mutual_userid": {"type": "str"},
        "mutual_password": {"type": "str", "no_log": True},
        "mapped_luns": {"type": "list", "elements": "dict", "options": mapped},
    }
    lun = {
        "lun": {"type": "int", "required": True},
        "name": {"type": "str", "required": True},
        "device": {"type": "path", "required": True},
        "serial": {"type": "str"},
    }
    target = {
        "wwn": {"type": "str", "required": True},
        "portals": {"type": "list", "elements": "str", "required": True},
        "luns": {"type": "list", "elements": "dict", "required": True, "options": lun},
        "acls": {"type": "list", "elements": "dict", "required": True, "options": acl},
        "allow_unauthenticated": {"type": "bool", "default": False},
    }
    return {
        "targets": {"type": "list", "elements": "dict", "required": True, "options": target},
        "pending": {"type": "list", "elements": "path"},
        "save_file": {"type": "path"},
    }


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    session = Session(module)
    conclude(module, make_plan=session.make_plan, do=session.do, report=session.report)


if __name__ == "__main__":
    main()
