#!/usr/bin/python

# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: storage_probe
short_description: Ask the services of a storage host as their clients ask
version_added: "0.1.0"
description:
  - Mounts NFS exports, writes and reads through them; logs in to iSCSI targets; asks the HTTPS store of models; looks for the
    firewall's rules.
  - Runs on the storage host. What is wrong is returned in RV(problems) and is no failure of the task, so that it can be repaired.
  - An export is mounted where only this module sees it. Where writing is allowed, a file is written, compared with what is on the disk
    and removed again; a read-only export is compared with a file that is there.
  - An iSCSI login ends before a session begins. No disk appears, and sessions of real initiators are not touched.
attributes:
  check_mode:
    description: Does the same, as nothing is changed.
    support: full
  diff_mode:
    description: Returns details on what has changed.
    support: none
  platform:
    description: Platforms the module is tested on.
    platforms: debian
    support: full
options:
  address:
    description: Address of this host that NFS exports are mounted from.
    type: str
    required: true
  exports:
    description: Folders that are exported by NFS.
    type: list
    elements: path
    default: []
  targets:
    description: The iSCSI targets and those who may log in.
    type: list
    elements: dict
    default: []
    suboptions:
      wwn:
        description: Name of the target.
        type: str
        required: true
      portals:
        description: Addresses it listens on.
        type: list
        elements: str
        required: true
      initiators:
        description: Who may log in; each tries at every portal.
        type: list
        elements: dict
        required: true
        suboptions:
          initiator:
            description: Name of the initiator.
            type: str
            required: true
          userid:
            description: CHAP user.
            type: str
          password:
            description: CHAP password.
            type: str
          mutual_password:
            description: CHAP password of the target towards the initiator.
            type: str
  store:
    description: The HTTPS store of models. Without it none is asked.
    type: dict
    suboptions:
      port:
        description: Its port.
        type: int
        required: true
      token:
        description: A token that may read.
        type: str
        required: true
  nfs_threads:
    description: How many threads the NFS server must run, and no version but 4. Without it neither is looked at.
    type: int
  firewall_chain:
    description: Chain of nftables, as C(FAMILY TABLE CHAIN), that the wanted version of the rules has. Without it none is looked for.
    type: str
author:
  - The selfhosted.llm_stack contributors (@selfhosted)
"""

EXAMPLES = r"""
- name: Ask the services
  selfhosted.llm_stack.storage_probe:
    address: 192.0.2.11
    exports: [/llm/models]
    targets:
      - wwn: iqn.2026-01.org.example:storage1
        portals: ["192.0.2.11:3260"]
        initiators:
          - initiator: iqn.2026-01.org.example:vmhost1
            userid: vmhost1
            password: "{{ vault_iscsi_password }}"
  register: answers

- name: Require services that answer
  ansible.builtin.assert:
    that: answers.problems | length == 0
"""

RETURN = r"""
problems:
  description: What is wrong, as sentences.
  returned: success
  type: list
  elements: str
  sample: ["The firewall's rules are not loaded. Look at them with: systemctl status llm-stack-firewall"]
exports:
  description: What was seen of each export.
  returned: success
  type: list
  elements: dict
  sample:
    - path: /llm/models
      read: true
      written: false
      note: nothing was written, because it is exported read-only
      problem: ""
logins:
  description: How many iSCSI logins succeeded.
  returned: success
  type: int
  sample: 1
stale:
  description: Services that answer otherwise than their configuration says and should take it up.
  returned: success
  type: list
  elements: str
  sample: ["nginx.service"]
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import StackError
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._probe import iscsi, nfs, store
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._run import Runner

# A server that was just restarted answers writes only after its grace period of 90 seconds.
NFS_SECONDS = 180.0
# Every system has it, and what is mounted over it here is seen by nobody else.
MOUNT_AT = Path("/mnt")


def ask_exports(address: str, paths: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Use every export as a client does."""
    if not paths:
        return [], []
    nfs.own_mounts()
    runner = Runner(timeout=NFS_SECONDS)
    found = [nfs.probe(address, path, at=MOUNT_AT, runner=runner) for path in paths]
    look = "Look at it with: exportfs -v; journalctl -u nfs-server"
    return [asdict(each) for each in found], [f"The export {each.path}: {each.problem}. {look}" for each in found if each.problem]


def ask_targets(targets: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """Log in as every initiator at every portal."""
    succeeded, problems = 0, []
    for target in targets:
        for login in [_login(target, portal, who) for portal in target["portals"] for who in target["initiators"]]:
            wrong = iscsi.log_in(login)
            succeeded += not wrong
            if wrong:
                who = login.initiator
                problems.append(
                    f"The target {login.wwn} at {login.portal} does not let {who} log in: {wrong}. Look at it with: targetcli ls"
                )
    return succeeded, problems


def _login(target: dict[str, Any], portal: str, who: dict[str, Any]) -> iscsi.Login:
    return iscsi.Login(
        wwn=target["wwn"],
        portal=portal,
        initiator=who["initiator"],
        userid=who["userid"] or "",
        password=who["password"] or "",
        mutual_password=who["mutual_password"] or "",
    )


def ask_stale(options: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The services that may only need to take up their configuration: units, and sentences."""
    units, problems = [], []
    wrong = nfs.settings(options["nfs_threads"]) if options["nfs_threads"] else ""
    if wrong:
        units.append("nfs-server.service")
        problems.append(f"The NFS server {wrong}. Look at it with: nfsconf --dump; journalctl -u nfs-server")
    wrong = store.ask(options["store"]["port"], options["store"]["token"]) if options["store"] else ""
    if wrong:
        units.append("nginx.service")
        problems.append(f"The model store on port {options['store']['port']} {wrong}. Look at it with: nginx -t; journalctl -u nginx")
    chain = options["firewall_chain"]
    if chain and Runner().run(["nft", "list", "chain", *chain.split()], ok=(0, 1)).rc:
        units.append("llm-stack-firewall.service")
        problems.append("The firewall's rules are not loaded. Look at them with: systemctl status llm-stack-firewall")
    return units, problems


def main() -> None:
    initiator = {
        "initiator": {"type": "str", "required": True},
        "userid": {"type": "str"},
        "password": {"type": "str", "no_log": True},
        "mutual_password": {"type": "str", "no_log": True},
    }
    target = {
        "wwn": {"type": "str", "required": True},
        "portals": {"type": "list", "elements": "str", "required": True},
        "initiators": {"type": "list", "elements": "dict", "required": True, "options": initiator},
    }
    asked = {"port": {"type": "int", "required": True}, "token": {"type": "str", "required": True, "no_log": True}}
    spec = {
        "address": {"type": "str", "required": True},
        "exports": {"type": "list", "elements": "path", "default": []},
        "targets": {"type": "list", "elements": "dict", "default": [], "options": target},
        "store": {"type": "dict", "options": asked},
        "nfs_threads": {"type": "int"},
        "firewall_chain": {"type": "str"},
    }
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    options = module.params
    try:
        stale, outdated = ask_stale(options)
        exports, bad_exports = ask_exports(options["address"], options["exports"])
        logins, bad_targets = ask_targets(options["targets"])
    except StackError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, exports=exports, logins=logins, stale=stale, problems=bad_exports + bad_targets + outdated)


if __name__ == "__main__":
    main()
