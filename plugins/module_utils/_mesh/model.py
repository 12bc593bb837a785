# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A WireGuard mesh and one host's part in it."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from dataclasses import dataclass, field
from typing import Any, Iterable, Mapping

from .._errors import BadInput

# The kernel's limit is 15 characters; wg-quick takes fewer kinds of them.
_INTERFACE = re.compile(r"[a-zA-Z0-9_=+.-]{1,15}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\]")
_KEY_BYTES = 32
# IPv6 needs 1280 of every link, which is the least a tunnel should carry; 9000 are jumbo frames.
_MTUS = range(1280, 9001)


@dataclass(frozen=True)
class Host:
    """A host of the mesh.

    :param address: in the mesh.
    :param endpoint: ``host:port`` at which the others reach it; empty behind NAT.
    :param public_key: empty when it is not known in this run.
    """

    name: str
    address: str
    endpoint: str = ""
    public_key: str = ""


@dataclass(frozen=True)
class Peer:
    """A host as another one's configuration names it."""

    name: str
    public_key: str
    addresses: tuple[str, ...]
    endpoint: str = ""
    keepalive: int = 0


@dataclass(frozen=True)
class Mesh:
    """The mesh as it should be, seen from one of its hosts.

    :param hosts: all of them; empty to make a key and nothing else.
    :param forget: names of hosts that may be taken out of the configuration.
    """

    interface: str
    name: str = ""
    network: str = ""
    hosts: tuple[Host, ...] = ()
    port: int = 51820
    mtu: int = 1420
    keepalive: int = 25
    forget: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """One host's part as it is.

    :param public_key: empty where there is no key yet.
    :param config: the text of the configuration file.
    :param live: by public key, the addresses the running interface sends to that peer; None when it does not tell.
    """

    installed: bool = True
    public_key: str = ""
    config: str = field(default="", repr=False)
    enabled: bool = False
    active: bool = False
    live: Mapping[str, tuple[str, ...]] | None = None


def parse(options: Mapping[str, Any]) -> Mesh:
    """Check the module's options.

    :raises BadInput: at the first fault.
    """
    if not _INTERFACE.fullmatch(options["interface"]):
        raise BadInput(f"interface is {options['interface']!r}: give a name of 1 to 15 letters, digits and dashes.")
    if options["hosts"] is None:
        return Mesh(options["interface"])
    _check_numbers(options)
    network = _network(options["network"])
    hosts = tuple(_host(host, network) for host in options["hosts"])
    _check_together(options["name"], hosts)
    return Mesh(
        interface=options["interface"],
        name=options["name"],
        network=str(network),
        hosts=hosts,
        port=options["listen_port"],
        mtu=options["mtu"],
        keepalive=options["keepalive"],
        forget=tuple(options["forget"]),
    )


def _check_numbers(options: Mapping[str, Any]) -> None:
    for name, allowed in (("listen_port", range(1, 65536)), ("mtu", _MTUS), ("keepalive", range(1, 65536))):
        if options[name] not in allowed:
            raise BadInput(f"{name} is {options[name]}: give a number from {allowed[0]} to {allowed[-1]}.")


def _network(text: str) -> Any:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise BadInput(f"network is {text!r}: give one such as 10.99.0.0/24 ({error}).") from error


def _host(option: Mapping[str, Any], network: Any) -> Host:
    name, address = option["name"], option["address"]
    if not name or not name.isprintable() or "#" in name:
        raise BadInput(f"hosts holds the name {name!r}: give each host the name the inventory has.")
    try:
        inside = ipaddress.ip_address(address) in network
    except ValueError:
        inside = False
    if not inside:
        raise BadInput(f"The address of {name} is {address!r}: give one of the network {network}.")
    _check_endpoint(name, option["endpoint"])
    _check_key(name, option["public_key"])
    return Host(name, address, option["endpoint"], option["public_key"])


def _check_endpoint(name: str, text: str) -> None:
    host, _colon, port = text.rpartition(":")
    if text and not (_HOST.fullmatch(host) and port.isdigit() and 0 < int(port) <= 65535):
        raise BadInput(f"The endpoint of {name} is {text!r}: give address and port at which the others reach it, as 192.0.2.21:51820.")


def _check_key(name: str, text: str) -> None:
    try:
        good = not text or len(base64.b64decode(text, validate=True)) == _KEY_BYTES
    except binascii.Error:
        good = False
    if not good:
        raise BadInput(f"The public key of {name} is not one of WireGuard: 44 characters, as `wg pubkey` prints them.")


def _check_together(name: str, hosts: tuple[Host, ...]) -> None:
    if name not in {host.name for host in hosts}:
        raise BadInput(f"name is {name!r}, which is none of hosts: list this host there too.")
    for what in ("name", "address", "public_key"):
        twice = _doubled(getattr(host, what) for host in hosts)
        if twice:
            raise BadInput(f"Two hosts of the mesh have the {what.replace('_', ' ')} {twice}: each has its own.")
    if len(hosts) > 1 and not any(host.endpoint for host in hosts):
        names = ", ".join(host.name for host in hosts)
        raise BadInput(
            f"No host of the mesh has an endpoint ({names}): at least one must be reached by the others. Set mesh_endpoint there."
        )


def _doubled(values: Iterable[str]) -> str:
    seen: set[str] = set()
    for value in values:
        if value and value in seen:
            return value
        seen.add(value)
    return ""
