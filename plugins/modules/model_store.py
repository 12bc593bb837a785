#!/usr/bin/python

# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: model_store
short_description: Verify model files and list them for workers
version_added: "0.1.0"
description:
  - Verifies the files of a folder by their SHA-256 checksums, tells which are missing or wrong, and writes C(manifest.json) beside them,
    by which workers copy them.
  - A file is read whole only when it is new or was touched since its checksum was last taken.
  - Files that are not declared stay where they are; they are not listed.
attributes:
  check_mode:
    description: Plans without changing anything; files are still read where their checksum is not known.
    support: full
  diff_mode:
    description: Shows the manifest.
    support: full
  platform:
    description: Platforms the module is tested on.
    platforms: debian
    support: full
options:
  path:
    description: The folder of the model files.
    type: path
    required: true
  models:
    description: The models, all of them.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name the model is asked for by.
        type: str
        required: true
      file:
        description: Name of its file in O(path).
        type: str
        required: true
      sha256:
        description: Checksum the file must have.
        type: str
        required: true
  complete:
    description:
      - Whether to fail when a model is missing or has another checksum.
      - By default such models are returned in RV(missing) and the manifest stays as it was.
    type: bool
    default: false
  filesystem:
    description: Type of the file system O(path) has to be on, such as V(zfs). By default any.
    type: str
  memory:
    description: File in which the checksums are remembered.
    type: path
    default: /var/lib/llm-stack/model-checksums.json
author:
  - The selfhosted.llm_stack contributors (@selfhosted)
"""

EXAMPLES = r"""
- name: See which models have to be copied
  selfhosted.llm_stack.model_store:
    path: /llm/models
    filesystem: zfs
    models:
      - name: tiny
        file: tiny.gguf
        sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
"""

RETURN = r"""
missing:
  description: Names of the declared models whose file is absent or has another checksum.
  returned: success
  type: list
  elements: str
  sample: ["tiny"]
plan:
  description: The steps taken, or in check mode the steps that would be, as sentences.
  returned: always
  type: list
  elements: str
  sample: ["Write /llm/models/manifest.json"]
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.llm_stack.plugins.module_utils import _model_store as store
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._module import conclude
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._plan import Plan, Step


class Session:
    """One run of the module: what the planner read is what the steps write."""

    def __init__(self, module: AnsibleModule) -> None:
        self.options = module.params
        self.check_mode = module.check_mode
        self.state = store.State()
        self.models: tuple[store.Model, ...] = ()

    def make_plan(self) -> Plan:
        path = self.options["path"]
        self.models = store.parse_models(self.options["models"])
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
        memory = store.read_memory(self.options["memory"])
        self.state = store.read_state(path, models=self.models, memory=memory, mounts=mounts)
        guards = store.Guards(
            path=path,
            filesystem=self.options["filesystem"] or "",
            complete=self.options["complete"],
            check_mode=self.check_mode,
        )
        return store.plan(self.state, self.models, guards)

    def do(self, step: Step) -> None:
        if step.action == "list":
            store.write_json(Path(self.options["path"]) / store.MANIFEST, step.data, mode=0o644)
        else:
            store.write_json(Path(self.options["memory"]), store.remember(self.state, self.options["path"]), mode=0o600)

    def report(self) -> dict[str, Any]:
        return {"missing": store.missing(self.state, self.models)}


def main() -> None:
    model = {
        "name": {"type": "str", "required": True},
        "file": {"type": "str", "required": True},
        "sha256": {"type": "str", "required": True},
    }
    spec = {
        "path": {"type": "path", "required": True},
        "models": {"type": "list", "elements": "dict", "required": True, "options": model},
        "complete": {"type": "bool", "default": False},
        "filesystem": {"type": "str"},
        "memory": {"type": "path", "default": "/var/lib/llm-stack/model-checksums.json"},
    }
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    session = Session(module)
    conclude(module, make_plan=session.make_plan, do=session.do, report=session.report)


if __name__ == "__main__":
    main()
