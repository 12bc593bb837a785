#!/usr/bin/python

# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: zfs_dataset
short_description: Keep a list of ZFS file systems and volumes
version_added: "0.1.0"
description:
  - Creates file systems and volumes, parents first, and keeps their properties, keys, permissions, snapshots, holds and bookmarks, the size
    of volumes, and the owner and mode of mountpoints.
  - All properties of all datasets are read with one command, whatever their number, and equal changes are made with one command. Holds take
    one command more, delegations one for each dataset with some (none for those that have one below them), a key one where
    O(datasets[].encryption.change=true).
  - Values are compared by what they mean, so V(1M) and V(1048576), V(none) and V(0), V(true) and V(on) are the same, and a mountpoint is
    compared without the C(altroot) of its pool.
  - What is not declared is left alone. What ZFS fixes when it creates a dataset is refused when it differs.
  - Destroys only what is declared V(absent) by its own name, with C(zfs destroy) without options; what destroys comes after all else.
options:
  datasets:
    description:
      - The datasets, in any order. Parents that are not listed are created as plain file systems.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Name with its pool, such as V(llm/models). The name of a pool alone is its root file system.
        type: str
        required: true
      state:
        description:
          - V(present) creates the dataset when it is missing.
          - V(absent) destroys it. Refused while it has children, snapshots, clones or holds, unless each is listed too, children and clones
            in entries of their own, snapshots in O(datasets[].snapshots), holds in O(datasets[].snapshots[].release).
          - Besides its snapshots nothing else may be declared of what is V(absent). Its bookmarks go with it.
        type: str
        choices: [present, absent]
        default: present
      type:
        description:
          - What it is. It cannot be changed later.
        type: str
        choices: [filesystem, volume]
        default: filesystem
      volsize:
        description:
          - Size of a volume, such as V(100G); required for one, unless it is a clone. It is rounded up to whole blocks.
          - A volume grows to a larger size. A smaller one is refused.
        type: str
      sparse:
        description:
          - V(true) keeps a volume without a reservation, V(false) with one of its whole size.
          - By default a new volume has one, and an existing volume stays as it is.
        type: bool
      properties:
        description:
          - ZFS properties. C(true) and C(false) mean C(on) and C(off); sizes may have a unit.
          - V(inherit) removes the value of the dataset's own, so that it has that of its parent, or the default.
          - C(userquota@NAME), C(groupquota@NAME), C(userobjquota@NAME), C(groupobjquota@NAME), C(projectquota@NUMBER) and
            C(projectobjquota@NUMBER) are the quotas of a user, group or project; V(none) removes one.
          - A difference in one that ZFS fixes at creation, such as C(volblocksize), C(encryption) or C(casesensitivity), is refused.
        type: dict
        default: {}
      match:
        description:
          - V(value) leaves a property alone that has the declared value by inheritance or default, V(local) gives the dataset that value of
            its own.
        type: str
        choices: [value, local]
        default: value
      purge:
        description:
          - V(true) removes the local values of properties that are not in O(datasets[].properties), C(mountpoint) among them, but for the
            size and reservation of a volume, and where a key is.
          - Properties of users, which have a colon in their name, stay, because other programs keep theirs there. V(inherit) removes one.
        type: bool
        default: false
      mountpoint_owner:
        description:
          - Owner of the directory the file system is mounted on, as a name or number. By default it stays as it is.
        type: str
      mountpoint_group:
        description:
          - Group of that directory, as a name or number. By default it stays as it is.
        type: str
      mountpoint_mode:
        description:
          - Mode of that directory in octal, quoted, such as V('0750'). By default it stays as it is.
        type: str
      encryption:
        description:
          - The key of an encrypted dataset. A new one is encrypted with it, by the cipher in C(encryption) of O(datasets[].properties) or
            the default of ZFS. A dataset below needs no key of its own.
          - A dataset that exists without encryption is refused.
        type: dict
        suboptions:
          format:
            description:
              - What the key is; for a file, what it holds.
            type: str
            choices: [passphrase, hex, raw]
            default: passphrase
          key:
            description:
              - The key. A V(passphrase) has 8 to 512 bytes, a V(hex) key 64 digits, a V(raw) key 32 bytes, given in Base64.
              - It reaches ZFS by standard input and is kept nowhere. After a boot it must be loaded, which a run with this option does.
            type: str
          file:
            description:
              - A file on the host that holds the key, so that C(zfs load-key -a) needs nobody. Instead of O(datasets[].encryption.key).
            type: path
          loaded:
            description:
              - V(true) loads the key and mounts what needs it. V(false) unmounts the declared datasets that need it and unloads it.
            type: bool
            default: true
          change:
            description:
              - V(true) looks whether the key opens the dataset, with one more command, and makes it the key if not. The present key must be
                loaded. This also gives a key of its own to a dataset that has that of its parent.
              - V(false) refuses another format, and a new place whose key does not open the dataset. While a key is loaded, one that is
                given is not looked at.
            type: bool
            default: false
      delegations:
        description:
          - Who may do what to the dataset without being root. Permissions that are not listed stay.
        type: list
        elements: dict
        default: []
        suboptions:
          who:
            description:
              - V(user:NAME) or V(group:NAME), by name or number, V(everyone), V(creator) for who creates a dataset below it, there, or
                V(@SET) to define a set of permissions.
            type: str
            required: true
          permissions:
            description:
              - What they may do, such as V(snapshot) and V(send), or V(@SET).
            type: list
            elements: str
            required: true
          scope:
            description:
              - V(local) is the dataset itself, V(descendent) all below it, V(both) both. Without effect for V(creator) and sets.
            type: str
            choices: [both, local, descendent]
            default: both
          state:
            description:
              - V(absent) takes the permissions away.
            type: str
            choices: [present, absent]
            default: present
      snapshots:
        description:
          - Snapshots of the dataset. Those that are not listed stay. The first missing ones of all datasets of a pool are taken at the same
            moment, then the second ones.
        type: list
        elements: dict
        default: []
        suboptions:
          name:
            description:
              - What follows the C(@).
            type: str
            required: true
          state:
            description:
              - V(absent) destroys it. Refused while it has clones or holds, unless these are declared absent, too.
            type: str
            choices: [present, absent]
            default: present
          holds:
            description:
              - Tags that hold it. Others stay.
            type: list
            elements: str
            default: []
          release:
            description:
              - Tags that must not hold it.
            type: list
            elements: str
            default: []
      bookmarks:
        description:
          - Bookmarks of the dataset. Those that are not listed stay.
        type: list
        elements: dict
        default: []
        suboptions:
          name:
            description:
              - What follows the C(#).
            type: str
            required: true
          snapshot:
            description:
              - The snapshot it marks. A bookmark of another snapshot is refused.
            type: str
          state:
            description:
              - V(absent) destroys it.
            type: str
            choices: [present, absent]
            default: present
      origin:
        description:
          - The snapshot, such as V(llm/models@v1), that a missing dataset is cloned from. One that exists and is not its clone is refused.
        type: str
      promote:
        description:
          - V(true) makes a clone stand for itself. The snapshot it came from and older ones become its own.
        type: bool
        default: false
      renamed_from:
        description:
          - The name it had before. It is renamed, with all below it, when there is a dataset of that name and none of the new one.
        type: str
      rollback:
        description:
          - Goes back to a snapshot. B(What was written to the dataset since then is lost.)
          - This is done once for a snapshot. The property C(llm_stack:rolled_back) of the dataset remembers it, so that a later run loses
            nothing that was written in the meantime; declare that property as V(inherit) in an earlier run to go back a second time.
        type: dict
        suboptions:
          snapshot:
            description:
              - The snapshot to go back to.
            type: str
            required: true
          discard:
            description:
              - Snapshots, and bookmarks as V(#NAME), that are newer and may be lost. It is refused while there is any other.
            type: list
            elements: str
            default: []
attributes:
  check_mode:
    support: full
    description: Shows the plan and changes nothing. Works before the pool exists or ZFS is installed, too.
  diff_mode:
    support: full
    description: Shows what differs before and after.
  platform:
    support: full
    description: The systems it works on.
    platforms: debian
seealso:
  - module: selfhosted.llm_stack.zfs_pool
author:
  - The selfhosted.llm_stack contributors (@selfhosted)
"""

EXAMPLES = r"""
- name: Keep the file system of the models and a disk for a virtual machine
  selfhosted.llm_stack.zfs_dataset:
    datasets:
      - name: llm
        properties: {compression: lz4, atime: false, xattr: sa}
      - name: llm/models
        properties: {recordsize: 1M, quota: 500G}
        mountpoint_owner: root
        mountpoint_mode: "0755"
      - name: llm/vm/disk0
        type: volume
        volsize: 100G
        sparse: true
        properties: {volblocksize: 16K, sync: always}

- name: Limit what users store, and let backup take and send snapshots
  selfhosted.llm_stack.zfs_dataset:
    datasets:
      - name: llm/home
        purge: true
        properties: {recordsize: inherit, userquota@www-data: 10G, groupquota@users: 100G}
        delegations:
          - {who: "user:backup", permissions: [snapshot, send, hold]}
          - {who: everyone, permissions: [diff], scope: local}

- name: Keep an encrypted file system whose key is not on the machine, and one that reads its key at boot
  selfhosted.llm_stack.zfs_dataset:
    datasets:
      - name: llm/private
        encryption: {key: "{{ vault_llm_private }}"}
      - name: llm/backup
        encryption: {format: raw, file: /etc/zfs/keys/llm-backup}

- name: Change a passphrase while the present one is loaded
  selfhosted.llm_stack.zfs_dataset:
    datasets:
      - name: llm/private
        encryption: {key: "{{ vault_llm_private_new }}", change: true}

- name: Take the key away before maintenance
  selfhosted.llm_stack.zfs_dataset:
    datasets:
      - name: llm/private
        encryption: {loaded: false}

- name: Mark a release, hold it, and try the next one on a clone
  selfhosted.llm_stack.zfs_dataset:
    datasets:
      - name: llm/models
        snapshots: [{name: v1, holds: [release]}]
        bookmarks: [{name: v1, snapshot: v1}]
      - name: llm/models-next
        origin: llm/models@v1

- name: Go back to a snapshot, losing two newer ones
  selfhosted.llm_stack.zfs_dataset:
    datasets:
      - name: llm/models
        rollback: {snapshot: v1, discard: [v2, v3]}

- name: Let a clone stand for itself
  selfhosted.llm_stack.zfs_dataset:
    datasets:
      - {name: llm/models-next, origin: llm/models@v1, promote: true}

- name: Give a file system another name, with all below it
  selfhosted.llm_stack.zfs_dataset:
    datasets:
      - {name: llm/models-old, renamed_from: llm/models}

- name: Destroy a file system with its only snapshot, which is held
  selfhosted.llm_stack.zfs_dataset:
    datasets:
      - name: llm/models-old
        state: absent
        snapshots: [{name: v0, state: absent, release: [release]}]
"""

RETURN = r"""
plan:
  description: What was done, or would be done in check mode, a sentence a step.
  returned: always
  type: list
  elements: str
  sample: ["Set atime=off (was on) on llm/models, llm/backup"]
datasets:
  description: The datasets that are declared present; a volume with the path of its device.
  returned: success
  type: list
  elements: dict
  sample:
    - {name: llm/models, type: filesystem}
    - {name: llm/vm/disk0, type: volume, volsize: 107374182400, device: /dev/zvol/llm/vm/disk0}
warnings_planned:
  description: Advice that also came as warnings.
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
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.dataset.apply import DatasetKeeper
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.dataset.declare import declare_datasets

_STATE = {"type": "str", "choices": ["present", "absent"], "default": "present"}
_WORDS = {"type": "list", "elements": "str", "default": []}


def arguments() -> dict[str, dict[str, object]]:
    """The options, as documented above."""
    dataset = {
        "name": {"type": "str", "required": True},
        "state": _STATE,
        "type": {"type": "str", "choices": ["filesystem", "volume"], "default": "filesystem"},
        "volsize": {"type": "str"},
        "sparse": {"type": "bool"},
        "properties": {"type": "dict", "default": {}},
        "match": {"type": "str", "choices": ["value", "local"], "default": "value"},
        "purge": {"type": "bool", "default": False},
        "mountpoint_owner": {"type": "str"},
        "mountpoint_group": {"type": "str"},
        "mountpoint_mode": {"type": "str"},
        "encryption": {"type": "dict", "options": _key_arguments()},
        **_belongings(),
        "origin": {"type": "str"},
        "promote": {"type": "bool", "default": False},
        "renamed_from": {"type": "str"},
        "rollback": {"type": "dict", "options": {"snapshot": {"type": "str", "required": True}, "discard": _WORDS}},
    }
    return {"datasets": {"type": "list", "elements": "dict", "required": True, "options": dataset}}


def _key_arguments() -> dict[str, dict[str, object]]:
    return {
        "format": {"type": "str", "choices": ["passphrase", "hex", "raw"], "default": "passphrase"},
        "key": {"type": "str", "no_log": True},
        "file": {"type": "path"},
        "loaded": {"type": "bool", "default": True},
        "change": {"type": "bool", "default": False},
    }


def _belongings() -> dict[str, dict[str, object]]:
    """Lists of what belongs to a dataset."""
    delegation = {
        "who": {"type": "str", "required": True},
        "permissions": {"type": "list", "elements": "str", "required": True},
        "scope": {"type": "str", "choices": ["both", "local", "descendent"], "default": "both"},
        "state": _STATE,
    }
    snapshot = {"name": {"type": "str", "required": True}, "state": _STATE, "holds": _WORDS, "release": _WORDS}
    bookmark = {"name": {"type": "str", "required": True}, "snapshot": {"type": "str"}, "state": _STATE}
    entries = {"delegations": delegation, "snapshots": snapshot, "bookmarks": bookmark}
    return {name: {"type": "list", "elements": "dict", "default": [], "options": options} for name, options in entries.items()}


def main() -> None:
    """Read, plan, apply, report."""
    module = AnsibleModule(argument_spec=arguments(), supports_check_mode=True)
    try:
        wanted = declare_datasets(module.params["datasets"])
    except BadInput as error:
        module.fail_json(msg=str(error), changed=False)
    keeper = DatasetKeeper(Runner(), wanted, rehearsal=module.check_mode)
    conclude(module, make_plan=keeper.plan, do=keeper.do, report=keeper.report)


if __name__ == "__main__":
    main()
