#!/usr/bin/python
# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Move the models, documents and Chroma data of a single machine in."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_migration
short_description: Move the models, documents and Chroma data of a single machine in
version_added: "0.1.0"
description:
  - Moves what a single machine with Ollama or llama.cpp and Chroma has into this stack, a stage at a time. The playbook C(migrate) runs the
    stages in their order, each on the machine it is for.
  - Nothing is overwritten, at any stage. Another file or document of the same name is an error, and then nothing of that stage is done.
  - A stage that was killed is taken up by the next run. Two runs at once in one folder are refused.
  - Files are known by their SHA-256 checksums, which go with the export. They are read whole, also in check mode.
attributes:
  check_mode:
    description: Plans without changing anything; files are still read for their checksums.
    support: full
  diff_mode:
    description: Returns no diff; the plan names each file.
    support: none
  platform:
    description: Target systems the module works on.
    support: full
    platforms: Debian, Ubuntu
options:
  state:
    description:
      - V(exported), on the old machine, copies O(models), O(documents) and O(chroma) to O(path), with a manifest that is written last.
      - V(imported), on a storage host, puts the models of an export that was brought to O(path) into O(store).
      - V(uploaded), on a manager, gives the documents of an export that was brought to O(path) to the chat service, and counts them there.
      - V(switched), on the old machine, stops O(services), also for its next start, and writes down how they were.
      - V(returned), on the old machine, has the services as they were before the switch.
    type: str
    choices: [exported, imported, uploaded, switched, returned]
    required: true
  path:
    description: The folder of the export. Needed for V(exported), V(imported) and V(uploaded) as O(state).
    type: path
  models:
    description: The models that move.
    type: list
    elements: dict
    default: []
    suboptions:
      file:
        description: Path of a model file. Exactly one of this and O(models[].ollama) is given.
        type: path
      ollama:
        description: Name of a model in Ollama's store, as C(ollama list) shows it. Its weights move; its template and parameters do not.
        type: str
      store:
        description: Where Ollama keeps its models.
        type: path
        default: /usr/share/ollama/.ollama/models
      name:
        description: Name of the file in the model store, with its ending. By default that of the file, or made of Ollama's name.
        type: str
  documents:
    description:
      - Folders of documents. A file in a folder below is called C(folder_file). What the chat service does not take stays behind, with a
        warning.
    type: list
    elements: dict
    default: []
    suboptions:
      collection:
        description: The collection they come into.
        type: str
        required: true
      path:
        description: The folder.
        type: path
        required: true
  chroma:
    description:
      - Chroma databases whose documents are not at hand any more. The texts of their passages move, one document for each source named in
        their metadata; they are cut and embedded anew.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: The folder with C(chroma.sqlite3). It is only read, and may be in use.
        type: path
        required: true
      collections:
        description: New names of collections by their old ones. Others are called by what the old name has of small letters, digits and -.
        type: dict
        default: {}
  manifest:
    description:
      - In check mode, what O(path) will hold, as RV(manifest) of an export in check mode. It is used where O(path) holds no export yet.
    type: dict
  store:
    description: Folder of the model store. Needed for O(state=imported).
    type: path
  url:
    description: Address of the edge. Needed for O(state=uploaded). On this host its certificate is not looked at, elsewhere it is.
    type: str
  key:
    description: An API key of the service. Needed for O(state=uploaded).
    type: str
  timeout:
    description: Seconds for one document, which has to be read and embedded.
    type: float
    default: 300
  services:
    description: The units of the old machine that end. Needed for O(state=switched).
    type: list
    elements: str
    default: []
  record:
    description: The file that remembers how the services were.
    type: path
    default: /var/lib/llm-stack/migration-services.json
author:
  - The selfhosted.llm_stack contributors (@selfhosted)
"""

EXAMPLES = r"""
- name: Export what a machine with Ollama has
  selfhosted.llm_stack.stack_migration:
    state: exported
    path: /srv/export
    models:
      - ollama: qwen3:8b
      - file: /srv/models/tiny.gguf
    documents:
      - collection: house
        path: /srv/documents
    chroma:
      - path: /srv/chroma
        collections: {langchain: manuals}

- name: Put its models into the model store
  selfhosted.llm_stack.stack_migration:
    state: imported
    path: /llm/models/.import
    store: /llm/models

- name: Give its documents to the chat service
  selfhosted.llm_stack.stack_migration:
    state: uploaded
    path: /var/lib/llm-stack/import
    url: https://127.0.0.1
    key: "{{ llm_services_api_keys[0].key }}"

- name: Stop what the old machine served
  selfhosted.llm_stack.stack_migration:
    state: switched
    services: [ollama.service, chroma.service]
"""

RETURN = r"""
plan:
  description: The steps taken, or in check mode the steps that would be, as sentences.
  returned: always
  type: list
  elements: str
  sample: ["Upload keys.md into the collection house"]
manifest:
  description: All files of the export with their checksums, the number of passages by collection, and sentences about what is left out.
  returned: for exports, imports and uploads
  type: dict
models:
  description: The models of the export, as the option C(storage_host_models) wants them.
  returned: for imports
  type: list
  elements: dict
documents:
  description: For each collection how many documents move, and how many of these the service has, whole and once.
  returned: for uploads
  type: dict
  sample: {house: {moved: 3, there: 3}}
services:
  description: How the services were before the switch.
  returned: for V(switched) and V(returned) as O(state)
  type: dict
  sample: {ollama.service: {active: true, enabled: true}}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._migrate.stages import STAGES
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._module import conclude


def arguments() -> dict[str, dict[str, Any]]:
    """The options, as documented above."""
    model = {
        "file": {"type": "path"},
        "ollama": {"type": "str"},
        "store": {"type": "path", "default": "/usr/share/ollama/.ollama/models"},
        "name": {"type": "str"},
    }
    folder = {"collection": {"type": "str", "required": True}, "path": {"type": "path", "required": True}}
    database = {"path": {"type": "path", "required": True}, "collections": {"type": "dict", "default": {}}}
    return {
        "state": {"type": "str", "choices": list(STAGES), "required": True},
        "path": {"type": "path"},
        "models": {"type": "list", "elements": "dict", "default": [], "options": model},
        "documents": {"type": "list", "elements": "dict", "default": [], "options": folder},
        "chroma": {"type": "list", "elements": "dict", "default": [], "options": database},
        "manifest": {"type": "dict"},
        "store": {"type": "path"},
        "url": {"type": "str"},
        "key": {"type": "str", "no_log": True},
        "timeout": {"type": "float", "default": 300},
        "services": {"type": "list", "elements": "str", "default": []},
        "record": {"type": "path", "default": "/var/lib/llm-stack/migration-services.json"},
    }


def main() -> None:
    """Read, plan, apply, report."""
    needed = [
        ("state", "exported", ("path",)),
        ("state", "imported", ("path", "store")),
        ("state", "uploaded", ("path", "url", "key")),
        ("state", "switched", ("services",)),
    ]
    module = AnsibleModule(argument_spec=arguments(), required_if=needed, supports_check_mode=True)
    stage = STAGES[module.params["state"]](module.params, rehearsal=module.check_mode)
    conclude(module, make_plan=stage.plan, do=stage.do, report=stage.report)


if __name__ == "__main__":
    main()
