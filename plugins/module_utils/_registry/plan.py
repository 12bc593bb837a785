# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pure planners: a registry's files, a client's trust and the published images, as they are and should be."""

from __future__ import annotations

import hashlib
from typing import Any

from .._plan import Plan, Step
from .model import Client, Image, Published, Server, ServerSpec


def plan_server(current: Server, desired: ServerSpec) -> Plan:
    """Plan certificate and password file."""
    steps = []
    reason = _certificate_reason(current, desired)
    if reason:
        steps.append(Step("certificate", desired.host, f"Make a self-signed certificate for {desired.host}: {reason}"))
    if not current.accepts:
        steps.append(Step("password", desired.user, f"Let {desired.user} in with the password given"))
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    if reason:
        before["certificate"] = list(current.names) if current.names is not None else None
        after["certificate"] = [desired.host]
    if not current.accepts:
        before["users"], after["users"] = "the password does not open", f"{desired.user} is let in"
    return Plan(steps=tuple(steps), before=before, after=after)


def _certificate_reason(current: Server, desired: ServerSpec) -> str:
    if not desired.own_certificate:
        return ""
    if current.names is None:
        return "there is no usable one"
    if desired.host not in current.names:
        return f"the present one is for {', '.join(current.names) or 'no address'}"
    return "the present one ends within 30 days" if current.expiring else ""


def plan_client(address: str, current: Client, desired: Client) -> Plan:
    """Plan whom a Docker client trusts and what it logs in with. No password is shown."""
    steps = []
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    if desired.ca and current.ca != desired.ca:
        steps.append(Step("trust", address, f"Trust the certificate of the registry {address}"))
        before["ca"], after["ca"] = _fingerprint(current.ca), _fingerprint(desired.ca)
    if desired.auth and current.auth != desired.auth:
        steps.append(Step("login", address, f"Log in to the registry {address}"))
        before["login"], after["login"] = "another one" if current.auth else "none", "the one given"
    return Plan(steps=tuple(steps), before=before, after=after)


def _fingerprint(pem: str) -> str:
    return f"sha256 of the file {hashlib.sha256(pem.encode()).hexdigest()}" if pem else "none"


def plan_images(current: dict[str, Published | None], desired: tuple[Image, ...]) -> Plan:
    """Plan what is published.

    :param current: for every wanted name what the registry has; None where it has nothing.
    """
    steps = []
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for image in desired:
        held = current.get(image.name)
        if held and (not image.digest or held.digest == image.digest):
            continue
        origin = image.source or "its archive"
        reason = "its content differs" if held else "the registry has none"
        steps.append(Step("publish", image.name, f"Publish {image.name} from {origin}: {reason}", image))
        before[image.name] = held.digest if held else None
        after[image.name] = image.digest or image.source
    return Plan(steps=tuple(steps), before=before, after=after)
