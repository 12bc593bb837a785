#!/usr/bin/python

# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_files
short_description: Write a list of configuration files in one call
version_added: "0.1.0"
description:
  - Writes small files with their owner and mode, all of them in one task, and sets parameters of the kernel below C(/sys) and C(/proc).
  - For the roles of this collection, where many single tasks would take most of the time of a run. Folders that are missing are made.
attributes:
  check_mode:
    description: Plans without changing anything.
    support: full
  diff_mode:
    description: Shows contents, except those given as O(files[].secret_content).
    support: full
  platform:
    description: Platforms the module is tested on.
    platforms: debian
    support: full
options:
  files:
    description: The files.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Path of the file.
        type: path
        required: true
      content:
        description: The whole content. Exactly one of this and O(files[].secret_content) is needed.
        type: str
      secret_content:
        description: The whole content of a file that holds secrets; it is shown nowhere.
        type: str
      mode:
        description: Permissions, in octal.
        type: str
        default: "0644"
      owner:
        description: Name of the owner.
        type: str
        default: root
      group:
        description: Name of the group.
        type: str
        default: root
      in_place:
        description:
          - Whether to write into an existing file, for parameters of the kernel. Blanks at the ends do not count as a difference.
          - A file that does not exist is left out with a warning. Owner and mode are not touched.
        type: bool
        default: false
      block:
        description:
          - Whether the content is a part of a file that a package or a person wrote. It is kept between two comment lines at the end, or
            where they are; the rest of an existing file stays, as do its owner and mode.
        type: bool
        default: false
      marker:
        description:
          - Words that the content holds. An existing file without them was written by somebody else and is refused.
        type: str
      leave_others:
        description:
          - Whether such a file of somebody else's is left as it is, with a warning, and not refused.
        type: bool
        default: false
      validate:
        description:
          - A command and its arguments that must accept the new file before it takes the place of the old one. V(%s) stands for its path.
        type: list
        elements: str
author:
  - The selfhosted.llm_stack contributors (@selfhosted)
"""

EXAMPLES = r"""
- name: Set the memory ZFS may use, now and at the next boot
  selfhosted.llm_stack.host_files:
    files:
      - path: /etc/modprobe.d/llm-stack-zfs.conf
        content: |
          options zfs zfs_arc_max=11811160064
      - path: /sys/module/zfs/parameters/zfs_arc_max
        content: "11811160064"
        in_place: true
"""

RETURN = r"""
changed_files:
  description: Paths of the files that were written or whose owner or mode was set, or in check mode would be.
  returned: success
  type: list
  elements: str
  sample: ["/etc/modprobe.d/llm-stack-zfs.conf"]
plan:
  description: The steps taken, or in check mode the steps that would be, as sentences.
  returned: always
  type: list
  elements: str
  sample: ["Write /etc/modprobe.d/llm-stack-zfs.conf"]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._host_files import (
    apply,
    parse_files,
    plan,
    read_file,
)
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._module import conclude
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._plan import Plan


def main() -> None:
    file = {
        "path": {"type": "path", "required": True},
        "content": {"type": "str"},
        "secret_content": {"type": "str", "no_log": True},
        "mode": {"type": "str", "default": "0644"},
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
        "in_place": {"type": "bool", "default": False},
        "block": {"type": "bool", "default": False},
        "marker": {"type": "str"},
        "leave_others": {"type": "bool", "default": False},
        "validate": {"type": "list", "elements": "str"},
    }
    spec = {"files": {"type": "list", "elements": "dict", "required": True, "options": file}}
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    changed: list[str] = []

    def make_plan() -> Plan:
        wanted = parse_files(module.params["files"])
        planned = plan({each.path: read_file(each.path) for each in wanted}, wanted)
        changed.extend(step.target for step in planned.steps)
        return planned

    conclude(module, make_plan=make_plan, do=apply, report=lambda: {"changed_files": changed})


if __name__ == "__main__":
    main()
