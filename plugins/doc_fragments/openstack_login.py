# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How one logs in to an OpenStack cloud: the options of openstacksdk, under its names."""

from __future__ import annotations


class ModuleDocFragment:
    """The options shared by the module and the inventory plugin for fleets."""

    DOCUMENTATION = r"""
options:
  cloud:
    description:
      - Name of a cloud in C(clouds.yaml), which openstacksdk looks for in the current directory, C(~/.config/openstack) and
        C(/etc/openstack).
      - Without it and O(auth), the environment variables C(OS_*) are used.
    type: str
  auth:
    description:
      - What the authentication plugin needs, such as C(auth_url), C(username), C(password), C(project_name), C(user_domain_name) and
        C(project_domain_name), or C(application_credential_id) and C(application_credential_secret).
    type: dict
  auth_type:
    description: The authentication plugin, V(password) by default; V(v3applicationcredential) for an application credential.
    type: str
  region_name:
    description: Region for placements that name none. Selectel calls its regions pools, for example V(ru-9).
    type: str
  interface:
    description: Which endpoint of each service to use.
    type: str
    choices: [public, internal, admin]
  validate_certs:
    description: Whether the cloud's TLS certificate is verified. Without it, what C(clouds.yaml) says, and else it is.
    type: bool
  ca_cert:
    description: Path of a bundle of certificates of authorities to verify the cloud's certificate with.
    type: path
  client_cert:
    description: Path of a client certificate.
    type: path
  client_key:
    description: Path of the key of O(client_cert).
    type: path
  api_timeout:
    description: Seconds one request may take.
    type: float
    default: 30
requirements:
  - openstacksdk 1.0 or newer, on the machine that runs this
"""
