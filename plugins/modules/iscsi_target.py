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
  - Offers block devices, such as ZFS volumes, and files as LUNs of iSCSI targets (LIO), and saves the configuration for the next boot.
  - All targets are read and changed in one process through rtslib; C(targetcli) is never started. Only what differs is changed, so
    that sessions of other initiators are not disturbed.
  - What the kernel or the saved file holds beyond the declared targets stays. Nothing is removed unless it is named, and the data
    behind a LUN never is.
  - What would take a disk away from an initiator that is logged in is refused unless it is named.
  - When a step fails, everything the run had changed is taken back, and nothing is saved.
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
    description: The targets to offer, a portal group an entry. Several portal groups of one target are entries with the same name.
    type: list
    elements: dict
    required: true
    suboptions:
      wwn:
        description: Name of the target, such as V(iqn.2025-01.lan.storage:vm).
        type: str
        required: true
      state:
        description:
          - V(present) keeps the target as declared.
          - V(absent) removes the target with all its portal groups and lets go of its disks, whose data stays. It needs
            O(targets[].confirm), and nobody may be logged in.
        type: str
        choices: [present, absent]
        default: present
      confirm:
        description: With O(targets[].state=absent), the name of the target again. Without it the removal is refused.
        type: str
      tag:
        description: Number of the portal group in the target.
        type: int
        default: 1
      portals:
        description:
          - Addresses to listen on, as V(10.0.0.11), V(10.0.0.11:3260) or V([fd00::11]:3260). Needed unless O(targets[].state=absent).
          - There is no implicit address; V(0.0.0.0) has to be written out and is refused where nobody has to authenticate.
        type: list
        elements: str
      iser_portals:
        description: Those of O(targets[].portals) that speak iSCSI over RDMA too. By default none does.
        type: list
        elements: str
      luns:
        description: The disks of the target. Needed unless O(targets[].state=absent).
        type: list
        elements: dict
        suboptions:
          lun:
            description: Index of the disk in the target, 0 to 255.
            type: int
            required: true
          name:
            description: Name of the backstore that serves the disk; unique on the host.
            type: str
            required: true
          plugin:
            description: V(block) serves a block device, V(fileio) a file; writes to a file are on the disk before they are acknowledged.
            type: str
            choices: [block, fileio]
            default: block
          device:
            description:
              - Path of the block device, for example V(/dev/zvol/llm/vm/disk0), or of the file.
              - A file is created sparse where there is none. Exchanging the device under a LUN is refused unless the LUN is named in
                O(targets[].allow_remove).
            type: path
            required: true
          size:
            description: Size of a file, such as V(10GiB); needed with O(targets[].luns[].plugin=fileio). A file grows and never shrinks.
            type: str
          serial:
            description:
              - Serial number initiators know the disk by.
              - By default an existing serial is kept, also one that is only in the saved file, and that of a new disk is derived from
                O(targets[].wwn) and O(targets[].luns[].name), so that a rebuilt host offers the same disk.
            type: str
          attributes:
            description:
              - Attributes of the backstore, such as C(emulate_tpu). Those not listed stay as they are.
              - To set C(block_size) and others that the kernel fixes while a disk is offered, the LUN is withdrawn for a moment.
            type: dict
      acls:
        description: The initiators that may log in. Needed unless O(targets[].state=absent).
        type: list
        elements: dict
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
          attributes:
            description: Attributes of the initiator's entry, such as C(nopin_timeout). Those not listed stay as they are.
            type: dict
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
      attributes:
        description:
          - Attributes of the portal group, such as C(login_timeout). Those not listed stay as they are.
          - Those that decide who may come in follow from the other options and are refused here.
        type: dict
      parameters:
        description: What the portal group offers in negotiations, such as C(MaxRecvDataSegmentLength). Those not listed stay as they are.
        type: dict
      allow_unauthenticated:
        description:
          - Whether initiators may be listed without a password.
          - Everyone who can reach the portal and knows the name of an initiator can then read and write its disks.
        type: bool
        default: false
      allow_disconnect:
        description: Names of LUNs, initiators and portals that may change or go although somebody is logged in and loses them.
        type: list
        elements: str
      allow_remove:
        description:
          - What may be taken away, by the names of the warning that reports it as not declared. These are a LUN by its name, an initiator,
            a portal with its port, and V(INITIATOR/INDEX) for a LUN that an initiator sees.
          - A declared LUN that is named here may be built anew on another device or with another serial.
          - A name that is not there any more does no harm.
        type: list
        elements: str
  discovery_auth:
    description:
      - Credentials that initiators need before they are told which targets there are; one setting for the whole host.
      - By default discovery stays as it is.
    type: dict
    suboptions:
      enforce:
        description: Whether credentials are needed. V(false) needs none and forgets those there were.
        type: bool
        default: true
      userid:
        description: CHAP user for discovery.
        type: str
      password:
        description: CHAP password for discovery, at least 12 characters.
        type: str
      mutual_userid:
        description: CHAP user the host proves itself with. By default it does not have to.
        type: str
      mutual_password:
        description: CHAP password the host proves itself with, at least 12 characters and other than O(discovery_auth.password).
        type: str
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

- name: Offer a file, and list targets to nobody without credentials
  selfhosted.llm_stack.iscsi_target:
    discovery_auth:
      userid: finder
      password: "{{ vault_iscsi_discovery_password }}"
    targets:
      - wwn: iqn.2025-01.lan.storage:scratch
        portals: ["[fd00::11]:3260"]
        luns:
          - lun: 0
            name: scratch0
            plugin: fileio
            device: /srv/iscsi/scratch0.img
            size: 10GiB
        acls:
          - initiator: iqn.2025-01.lan.gpu1:host
            userid: gpu1
            password: "{{ vault_iscsi_password }}"

- name: Take a target away; its volumes stay
  selfhosted.llm_stack.iscsi_target:
    targets:
      - wwn: iqn.2025-01.lan.storage:old
        state: absent
        confirm: iqn.2025-01.lan.storage:old
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
  description: Serial numbers of the declared LUNs by name.
  returned: success
  type: dict
  sample: {"disk0": "5ab0a4a1-2d4d-5b3e-9f7e-2b7a1f0d3c11"}
saved_drift:
  description: How the saved file differed from the running configuration before the run, a phrase each; passwords never appear.
  returned: success
  type: list
  elements: str
  sample: ["targets iscsi iqn.2025-01.lan.storage:vm tpgs 1 portals 10.0.0.12 3260 is in the kernel only"]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.apply import Applier
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.model import Guards, State
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.options import parse_wanted
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.parse import read_state
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.plan import plan, planned_serials
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.read import (
    default_save_file,
    load_rtslib,
    open_root,
    read_device,
    read_dump,
    read_saved,
    read_sessions,
)
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.wanted import Wanted
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._module import conclude
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._plan import Plan, Step


class Session:
    """One run of the module: the library is opened once, when the plan is made."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.rtslib = load_rtslib()
        self.save_file = module.params["save_file"] or default_save_file(self.rtslib)
        self.applier = Applier(self.rtslib, None, save_file=self.save_file)
        self.found: dict[str, Any] = {}

    def read(self, wanted: Wanted, root: Any) -> State:
        paths = dict.fromkeys(lun.device for target in wanted.targets for lun in target.luns)
        return read_state(
            read_dump(self.rtslib, root, check_mode=self.module.check_mode),
            saved=read_saved(self.save_file),
            devices=[read_device(path) for path in paths],
            sessions=read_sessions(self.rtslib, root, [target.wwn for target in wanted.targets]),
        )

    def make_plan(self) -> Plan:
        params = self.module.params
        wanted = parse_wanted(params["targets"], params["discovery_auth"])
        root = open_root(self.rtslib, save_file=self.save_file, check_mode=self.module.check_mode)
        self.applier = Applier(self.rtslib, root, save_file=self.save_file)
        guards = Guards(
            check_mode=self.module.check_mode,
            pending=None if params["pending"] is None else tuple(params["pending"]),
            save_file=self.save_file,
        )
        state = self.read(wanted, root)
        made = plan(state, wanted, guards)
        self.found = {"serials": planned_serials(state, wanted, made), "saved_drift": drift_found(made)}
        return made

    def do(self, step: Step) -> None:
        self.applier.do(step)

    def undo(self) -> None:
        self.applier.undo()

    def report(self) -> dict[str, Any]:
        return self.found


def drift_found(made: Plan) -> list[str]:
    """How the saved file differs, where there is one."""
    saved = made.before.get("saved")
    return saved if isinstance(saved, list) else []


def chap_spec() -> dict[str, Any]:
    return {
        "userid": {"type": "str"},
        "password": {"type": "str", "no_log": True},
        "mutual_userid": {"type": "str"},
        "mutual_password": {"type": "str", "no_log": True},
    }


def lun_spec() -> dict[str, Any]:
    return {
        "lun": {"type": "int", "required": True},
        "name": {"type": "str", "required": True},
        "plugin": {"type": "str", "choices": ["block", "fileio"], "default": "block"},
        "device": {"type": "path", "required": True},
        "size": {"type": "str"},
        "serial": {"type": "str"},
        "attributes": {"type": "dict"},
    }


def acl_spec() -> dict[str, Any]:
    mapped = {
        "lun": {"type": "int", "required": True},
        "index": {"type": "int"},
        "write_protect": {"type": "bool", "default": False},
    }
    return {
        "initiator": {"type": "str", "required": True},
        **chap_spec(),
        "attributes": {"type": "dict"},
        "mapped_luns": {"type": "list", "elements": "dict", "options": mapped},
    }


def target_spec() -> dict[str, Any]:
    return {
        "wwn": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "confirm": {"type": "str"},
        "tag": {"type": "int", "default": 1},
        "portals": {"type": "list", "elements": "str"},
        "iser_portals": {"type": "list", "elements": "str"},
        "luns": {"type": "list", "elements": "dict", "options": lun_spec()},
        "acls": {"type": "list", "elements": "dict", "options": acl_spec()},
        "attributes": {"type": "dict"},
        "parameters": {"type": "dict"},
        "allow_unauthenticated": {"type": "bool", "default": False},
        "allow_disconnect": {"type": "list", "elements": "str"},
        "allow_remove": {"type": "list", "elements": "str"},
    }


def argument_spec() -> dict[str, Any]:
    target = {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": target_spec(),
        "required_if": [("state", "present", ("portals", "luns", "acls"))],
    }
    return {
        "targets": target,
        "discovery_auth": {"type": "dict", "options": {"enforce": {"type": "bool", "default": True}, **chap_spec()}},
        "pending": {"type": "list", "elements": "path"},
        "save_file": {"type": "path"},
    }


def main() -> None:
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    session = Session(module)
    conclude(module, make_plan=session.make_plan, do=session.do, undo=session.undo, report=session.report)


if __name__ == "__main__":
    main()
