#!/usr/bin/python
# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a private registry offers."""

from __future__ import annotations

DOCUMENTATION = r"""
module: registry_image
short_description: Publish images in a private registry
version_added: "0.1.0"
description:
  - Compares a list of images with what the registry has, and publishes through this machine's Docker engine what it lacks.
  - An image from an archive is published again when the archive's content has changed. An archive is sent to this machine only when
    it has to be published.
  - Images that are not named are left as they are.
author:
  - The selfhosted.llm_stack maintainers (@selfhosted)
requirements:
  - Docker SDK for Python (python3-docker)
attributes:
  action:
    description: Indicates this has a corresponding action plugin so some parts of the options can be executed on the controller.
    support: full
  check_mode:
    description: Can run in check mode and return the plan without changing anything, also before the registry runs.
    support: full
  diff_mode:
    description: Returns what has changed, or would change in check mode.
    support: full
  platform:
    description: Target systems the module works on.
    support: full
    platforms: Debian, Ubuntu
options:
  address:
    description: Address and port of the registry, as in C(10.77.0.21:5000).
    type: str
    required: true
  ca:
    description: PEM text of the certificate to trust. Without it the system's certificate authorities decide.
    type: str
    default: ""
  user:
    description: The user who publishes.
    type: str
    required: true
  password:
    description: The user's password.
    type: str
    required: true
  images:
    description: Images the registry should have.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Repository and tag in this registry, as in C(llm/nginx:1.30).
        type: str
        required: true
      archive:
        description: Path on the controller of an archive made by C(docker save). Exactly one of this and O(images[].source) is given.
        type: str
      source:
        description: Where the engine pulls the image from. It is pulled only while the registry has no image of that name.
        type: str
      digest:
        description: Digest of the archive's configuration. The controller computes it.
        type: str
      staged:
        description: Path of the archive on this machine. The controller sends it there and sets this.
        type: path
"""

EXAMPLES = r"""
- name: Publish the images of the services
  selfhosted.llm_stack.registry_image:
    address: 10.77.0.21:5000
    ca: "{{ registry_ca }}"
    user: llm
    password: "{{ registry_password }}"
    images:
      - name: llm/nginx:1.30
        source: docker.io/library/nginx:1.30
      - name: llm/llama-server:lab
        archive: build/images/llama-server.tar
"""

RETURN = r"""
plan:
  description: The steps taken, or those that would be taken in check mode, as sentences.
  returned: always
  type: list
  elements: str
images:
  description: The references by which nodes pull the images, in the order given.
  returned: success
  type: list
  elements: str
  sample:
    - 10.77.0.21:5000/llm/nginx:1.30
unstaged:
  description: Images whose archive has to be sent to this machine before anything is published. Used between module and controller.
  returned: success
  type: list
  elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._module import conclude
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._plan import Plan, Step
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._registry.api import Publisher, Registry, UnreachableError
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._registry.files import host_of
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._registry.model import Image, Published
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._registry.plan import plan_images
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.client import sdk


def argument_spec() -> dict[str, Any]:
    """Return the module's options."""
    image = {
        "name": {"type": "str", "required": True},
        "archive": {"type": "str"},
        "source": {"type": "str"},
        "digest": {"type": "str"},
        "staged": {"type": "path"},
    }
    return {
        "address": {"type": "str", "required": True},
        "ca": {"type": "str", "default": ""},
        "user": {"type": "str", "required": True},
        "password": {"type": "str", "required": True, "no_log": True},
        "images": {
            "type": "list",
            "elements": "dict",
            "required": True,
            "options": image,
            "mutually_exclusive": [("archive", "source")],
            "required_one_of": [("archive", "source")],
        },
    }


def read_published(registry: Registry, images: tuple[Image, ...], *, rehearsal: bool) -> dict[str, Published | None]:
    """Ask the registry for every image; in a rehearsal it may not run yet."""
    try:
        return {image.name: registry.published(image) for image in images}
    except UnreachableError:
        if rehearsal:
            return {}
        raise


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    options = module.params
    login = {"address": options["address"], "user": options["user"], "password": options["password"]}
    images = tuple(Image(entry["name"], entry["source"] or "", entry["digest"] or "") for entry in options["images"])
    staged = {entry["name"]: entry["staged"] or "" for entry in options["images"]}
    archived = {entry["name"] for entry in options["images"] if entry["archive"]}
    state: dict[str, Any] = {"unstaged": []}

    def make_plan() -> Plan:
        host_of(options["address"])
        registry = Registry(ca=options["ca"], **login)
        plan = plan_images(read_published(registry, images, rehearsal=module.check_mode), images)
        wanted = [step.target for step in plan.steps if step.target in archived and not staged[step.target]]
        if module.check_mode or not wanted:
            return plan
        state["unstaged"] = wanted
        return Plan()

    def do(step: Step) -> None:
        if "publisher" not in state:
            state["publisher"] = Publisher(*sdk(), **login)
        state["publisher"].publish(step.data, staged[step.target])

    def report() -> dict[str, Any]:
        return {"images": [f"{options['address']}/{image.repository}:{image.tag}" for image in images], "unstaged": state["unstaged"]}

    conclude(module, make_plan=make_plan, do=do, report=report)


if __name__ == "__main__":
    main()
