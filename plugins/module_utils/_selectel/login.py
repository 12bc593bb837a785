# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Logging in, by openstacksdk: its options under its names, clouds.yaml and the OS_ variables as it reads them."""

from __future__ import annotations

import re
import threading
from typing import Any, Callable, Iterable, Mapping

from .client import Adapter, Connection
from .errors import CloudError
from .model import FleetSpec

_SECRET_NAMES = re.compile(r"password|secret|token|passcode", re.IGNORECASE)

# What the usual authentication plugins of keystoneauth take. Each is named, so that only secrets are blanked out of messages: with the
# whole of auth secret, newer cores would also hide the project's name and the cloud's address.
_NAMED = ("project", "domain", "user_domain", "project_domain", "default_domain", "application_credential")
_AUTH_PLAIN = ("auth_url", "username", "user_id", *(f"{name}_{kind}" for name in _NAMED for kind in ("id", "name")))
_AUTH_PLAIN += ("system_scope", "trust_id", "identity_provider", "protocol")
_AUTH_SECRET = ("password", "token", "passcode", "access_token", "application_credential_secret")
AUTH_OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"type": "str", "no_log": False} for name in _AUTH_PLAIN},
    **{name: {"type": "str", "no_log": True} for name in _AUTH_SECRET},
}
# Options of a module; the doc fragment openstack_login describes them.
LOGIN_OPTIONS: dict[str, dict[str, Any]] = {
    "cloud": {"type": "str"},
    "auth": {"type": "dict", "options": AUTH_OPTIONS},
    "auth_type": {"type": "str"},
    "region_name": {"type": "str"},
    "interface": {"type": "str", "choices": ["public", "internal", "admin"]},
    "validate_certs": {"type": "bool"},
    "ca_cert": {"type": "path"},
    "client_cert": {"type": "path"},
    "client_key": {"type": "path"},
    "api_timeout": {"type": "float", "default": 30},
}
# Where the SDK has another name.
_SDK_NAMES = {"validate_certs": "verify", "ca_cert": "cacert", "client_cert": "cert", "client_key": "key"}


def secrets_of(auth: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the values in authentication options that must not be shown."""
    return tuple(str(value) for key, value in auth.items() if value and _SECRET_NAMES.search(key))


def whereabouts(options: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what tells one login from another, without secrets: the options and the OS_ variables."""
    auth = {name: value for name, value in (options.get("auth") or {}).items() if not _SECRET_NAMES.search(name)}
    set_outside = {name: value for name, value in environment.items() if name.startswith("OS_") and not _SECRET_NAMES.search(name)}
    return {**{name: options.get(name) for name in ("cloud", "auth_type", "region_name", "interface")}, "auth": auth, **set_outside}


def sdk_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a module as the SDK takes them; what is not given is left for it to find."""
    given = {_SDK_NAMES.get(name, name): options[name] for name in LOGIN_OPTIONS if options.get(name) is not None}
    if "auth" in given:
        given["auth"] = {name: value for name, value in given["auth"].items() if value is not None}
    return given


def connect(options: Mapping[str, Any], desired: FleetSpec | None = None) -> dict[str, Connection]:
    """Return a connection for each region a run has to look at.

    :param desired: None to look where `regions` says, or in the region of the options. With the state absent all regions are looked at.
    :raises CloudError: openstacksdk is missing, or the options lead to no cloud.
    """
    try:
        import keystoneauth1.exceptions as kse
        import openstack
        import requests
    except ImportError as error:
        reason = f"openstacksdk is missing on the host that runs this task ({error}). Install it there: `pip install openstacksdk`."
        raise CloudError(reason) from error
    errors = (openstack.exceptions.SDKException, kse.ClientException, requests.exceptions.RequestException)
    cut = (kse.RetriableConnectionFailure, kse.UnknownConnectionError, requests.exceptions.ConnectionError, requests.exceptions.Timeout)
    given = sdk_options(options)
    secrets = secrets_of(given.get("auth") or {})
    found: dict[str, Connection] = {}
    try:
        offered = catalogue_regions(openstack.connect(**given)) if options.get("state") == "absent" else []
        for region in regions_of(options, desired, offered):
            sdk = openstack.connect(**{**given, **({"region_name": region} if region else {})})
            known = secrets + secrets_of(dict(sdk.config.get_auth_args() or {}))
            found[region] = Connection(region, _adapters(sdk), errors, cut, known)
    except errors as error:
        text = str(error)
        for secret in secrets:
            text = text.replace(secret, "********")
        raise CloudError(
            f"The options for logging in lead to no cloud: {text.rstrip('.')}. Check cloud, auth or the OS_ variables."
        ) from None
    return found


def regions_of(options: Mapping[str, Any], desired: FleetSpec | None, offered: Iterable[str] = ()) -> list[str]:
    """Return the regions to look at. An empty name is the region that the SDK finds by itself.

    :param offered: all that the cloud has, where a fleet is to be absent.
    """
    named = [placement.region for slot in (desired.slots if desired else ()) for placement in slot.placements]
    named += list(options.get("regions") or [])
    if options.get("state") == "absent":
        # A fleet may have servers where it is no longer declared to be, and its placements may be given without its servers.
        named += [str(placement.get("region") or "") for placement in options.get("placements") or []]
        # What the SDK finds by itself is among those offered: a second connection would show each server twice.
        return list(dict.fromkeys([*offered, *(name for name in named if name)]))
    return list(dict.fromkeys(named or [options.get("region_name") or ""]))


def catalogue_regions(sdk: Any) -> list[str]:
    """Return all regions in which the cloud offers servers."""
    access = sdk.session.auth.get_access(sdk.session)
    endpoints = access.service_catalog.get_endpoints(service_type="compute").get("compute") or []
    return sorted({str(one.get("region_id") or one.get("region") or "") for one in endpoints})


def _adapters(sdk: Any) -> Callable[[str], Adapter]:
    lock = threading.Lock()

    def adapter(service: str) -> Any:
        # The SDK makes its proxies at first use, and not for several threads at once.
        with lock:
            return getattr(sdk, service)

    return adapter
