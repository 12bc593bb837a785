#!/usr/bin/python
# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may use a private registry, and who trusts it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: registry_access
short_description: Certificate and password of a private image registry, and the trust of its clients
version_added: "0.1.0"
description:
  - With O(server) it keeps the files a registry is started with, a self-signed certificate and a password file, on the machine that
    runs it. It needs no Python package, and other users' passwords stay.
  - With O(client) it makes the Docker engine of a machine trust the registry's certificate and logs the user root in. It needs no
    running engine, and other registries' logins stay.
author:
  - The selfhosted.llm_stack maintainers (@selfhosted)
requirements:
  - openssl (with O(server))
attributes:
  check_mode:
    description: Can run in check mode and return the plan without changing anything.
    support: full
  diff_mode:
    description: Returns what has changed, or would change in check mode. Passwords are not shown.
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
  user:
    description: The user who is let in, or logged in.
    type: str
    required: true
  password:
    description: The user's password. The registry gets its bcrypt hash only.
    type: str
    required: true
  server:
    description: The registry runs on this machine. Exactly one of O(server) and O(client) is given.
    type: dict
    suboptions:
      directory:
        description: Where C(tls.crt), C(tls.key) and C(htpasswd) are kept.
        type: path
        default: /var/lib/llm-stack/registry
      own_certificate:
        description:
          - Whether a self-signed certificate is kept. It is made anew when it is for another address or ends within 30 days.
          - With V(false) only the password file is kept.
        type: bool
        default: true
      certificate:
        description: The certificate to return as RV(ca) when O(server.own_certificate=false).
        type: path
  client:
    description: The registry is used from this machine. Exactly one of O(server) and O(client) is given.
    type: dict
    suboptions:
      ca:
        description: PEM text of the certificate to trust. Without it the system's certificate authorities decide.
        type: str
        default: ""
      certificates:
        description: Where the Docker engine looks for certificates of registries.
        type: path
        default: /etc/docker/certs.d
      config:
        description: The Docker client's configuration, which holds the login.
        type: path
        default: /root/.docker/config.json
      verify:
        description: Whether the registry is asked, after that, if it accepts the login. Never done in check mode.
        type: bool
        default: true
"""

EXAMPLES = r"""
- name: Keep the registry's certificate and password
  selfhosted.llm_stack.registry_access:
    address: 10.77.0.21:5000
    user: llm
    password: "{{ registry_password }}"
    server: {}
  register: access

- name: Trust it and log in
  selfhosted.llm_stack.registry_access:
    address: 10.77.0.21:5000
    user: llm
    password: "{{ registry_password }}"
    client:
      ca: "{{ access.ca }}"
"""

RETURN = r"""
plan:
  description: The steps taken, or those that would be taken in check mode, as sentences.
  returned: always
  type: list
  elements: str
ca:
  description: PEM text of the certificate clients have to trust; empty in check mode before it is made.
  returned: with O(server)
  type: str
fingerprint:
  description: SHA-256 of that certificate's text, by which a change is noticed.
  returned: with O(server)
  type: str
"""

import hashlib
from pathlib import Path
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import StackError
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._module import conclude
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._plan import Plan, Step
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._registry.api import Registry
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._registry.files import (
    ServerApplier,
    apply_client,
    auth_of,
    host_of,
    read_client,
    read_server,
)
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._registry.model import Client, ServerSpec
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._registry.plan import plan_client, plan_server
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._run import Runner


def argument_spec() -> dict[str, Any]:
    """Return the module's options."""
    server = {
        "directory": {"type": "path", "default": "/var/lib/llm-stack/registry"},
        "own_certificate": {"type": "bool", "default": True},
        "certificate": {"type": "path"},
    }
    client = {
        "ca": {"type": "str", "default": ""},
        "certificates": {"type": "path", "default": "/etc/docker/certs.d"},
        "config": {"type": "path", "default": "/root/.docker/config.json"},
        "verify": {"type": "bool", "default": True},
    }
    return {
        "address": {"type": "str", "required": True},
        "user": {"type": "str", "required": True},
        "password": {"type": "str", "required": True, "no_log": True},
        "server": {"type": "dict", "options": server},
        "client": {"type": "dict", "options": client},
    }


def run_server(module: AnsibleModule) -> NoReturn:
    """Keep the registry's files."""
    options, runner = module.params["server"], Runner()
    directory = Path(options["directory"])
    certificate = directory / "tls.crt" if options["own_certificate"] else Path(options["certificate"] or directory / "tls.crt")
    state: dict[str, Any] = {}

    def make_plan() -> Plan:
        host = host_of(module.params["address"])
        spec = ServerSpec(host, module.params["user"], module.params["password"], options["own_certificate"])
        current = read_server(runner, directory, spec)
        state["applier"] = ServerApplier(runner, directory, current=current, spec=spec)
        return plan_server(current, spec)

    def do(step: Step) -> None:
        state["applier"].do(step)

    def report() -> dict[str, Any]:
        text = certificate.read_text(encoding="utf-8") if certificate.exists() else ""
        return {"ca": text, "fingerprint": hashlib.sha256(text.encode()).hexdigest()}

    conclude(module, make_plan=make_plan, do=do, report=report)


def run_client(module: AnsibleModule) -> NoReturn:
    """Keep the trust and the login of this machine."""
    options, address = module.params["client"], module.params["address"]
    user, password = module.params["user"], module.params["password"]
    desired = Client(ca=options["ca"], auth=auth_of(user, password))
    certificates, config = Path(options["certificates"]), Path(options["config"])

    def make_plan() -> Plan:
        host_of(address)
        return plan_client(address, read_client(address, certificates=certificates, config=config), desired)

    def do(step: Step) -> None:
        apply_client(step, desired, certificates=certificates, config=config)

    def report() -> dict[str, Any]:
        if options["verify"] and not module.check_mode:
            Registry(address, ca=options["ca"], user=user, password=password).check()
        return {}

    conclude(module, make_plan=make_plan, do=do, report=report)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=argument_spec(),
        mutually_exclusive=[("server", "client")],
        required_one_of=[("server", "client")],
        supports_check_mode=True,
    )
    try:
        if module.params["server"] is not None:
            run_server(module)
        run_client(module)
    except StackError as error:
        module.fail_json(msg=str(error), changed=False, plan=[])


if __name__ == "__main__":
    main()
