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
  - Creates file systems and volumes, parents first, and keeps their properties, the size of volumes, and the owner and mode of mountpoints.
  - All datasets are read with one command, whatever their number, and equal changes are made with one command.
  - Values are compared by what they mean, so V(1M) and V(1048576), V(none) and V(0), V(true) and V(on) are the same. A property
    that has the declared value by inheritance or default is left alone.
  - What is not declared is left alone.
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
        type: str
        choices: [present]
        default: present
      type:
        description:
          - What it is. It cannot be changed later.
        type: str
        choices: [filesystem, volume]
        default: filesystem
      volsize:
        description:
          - Size of a volume, such as V(100G); required for one. It is rounded up to whole blocks.
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
          - A difference in one that ZFS fixes at creation, such as C(volblocksize) or C(encryption), is refused.
        type: dict
        default: {}
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
"""

RETURN = r"""
plan:
  description: What was done, or would be done in check mode, a sentence a step.
  returned: always
  type: list
  elements: str
  sample: ["Set atime=off (was on) on llm/models, llm/backup"]
datasets:
  description: The declared datasets; a volume with the path of its device.
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
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.apply_dataset import DatasetKeeper
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.model import declare_dataset
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.plan_dataset import check_unique


def arguments() -> dict[str, dict[str, object]]:
    """The options, as documented above."""
    dataset = {
        "name": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["present"], "default": "present"},
        "type": {"type": "str", "choices": ["filesystem", "volume"], "default": "filesystem"},
        "volsize": {"type": "str"},
        "sparse": {"type": "bool"},
        "properties": {"type": "dict", "default": {}},
        "mountpoint_owner": {"type": "str"},
        "mountpoint_group": {"type": "str"},
        "mountpoint_mode": {"type": "str"},
    }
    return {"datasets": {"type": "list", "elements": "dict", "required": True, "options": dataset}}


def main() -> None:
    """Read, plan, apply, report."""
    module = AnsibleModule(argument_spec=arguments(), supports_check_mode=True)
    try:
        wanted = [declare_dataset(raw) for raw in module.params["datasets"]]
        check_unique(wanted)
    except BadInput as error:
        module.fail_json(msg=str(error), changed=False)
    keeper = DatasetKeeper(Runner(), wanted, rehearsal=module.check_mode)
    conclude(module, make_plan=keeper.plan, do=keeper.do, report=keeper.report)


if __name__ == "__main__":
    main()
