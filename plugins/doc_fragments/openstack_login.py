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
      - What the authentication plugin needs. A plugin that needs something else is set up in C(clouds.yaml).
    type: dict
    suboptions:
      auth_url:
        description: Address of the identity service, such as V(https://cloud.api.selcloud.ru/identity/v3).
        type: str
      username:
        description: Name of the user.
        type: str
      user_id:
        description: ID of the user, in place of O(auth.username).
        type: str
      project_id:
        description: ID of the project.
        type: str
      project_name:
        description: Name of the project.
        type: str
      domain_id:
        description: ID of the domain to be authorized for, in place of a project.
        type: str
      domain_name:
        description: Name of the domain to be authorized for.
        type: str
      user_domain_id:
        description: ID of the domain the user belongs to.
        type: str
      user_domain_name:
        description: Name of the domain the user belongs to; at Selectel the number of the account.
        type: str
      project_domain_id:
        description: ID of the domain the project belongs to.
        type: str
      project_domain_name:
        description: Name of the domain the project belongs to.
        type: str
      default_domain_id:
        description: ID of the domain for user and project where neither names its own.
        type: str
      default_domain_name:
        description: Name of the domain for user and project where neither names its own.
        type: str
      application_credential_id:
        description: ID of an application credential.
        type: str
      application_credential_name:
        description: Name of an application credential of O(auth.username).
        type: str
      system_scope:
        description: V(all) to be authorized for the system, in place of a project.
        type: str
      trust_id:
        description: ID of a trust.
        type: str
      identity_provider:
        description: Name of the provider of a federated identity.
        type: str
      protocol:
        description: Protocol of a federated identity.
        type: str
      password:
        description: Password of the user.
        type: str
      token:
        description: A token already issued.
        type: str
      passcode:
        description: One-time code, where the user has a second factor.
        type: str
      access_token:
        description: Token of a federated identity.
        type: str
      application_credential_secret:
        description: Secret of the application credential.
        type: str
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
