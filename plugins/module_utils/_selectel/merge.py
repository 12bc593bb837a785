# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Merges tags, metadata, security groups and a public address into a server. What others put there stays."""

from __future__ import annotations

from typing import Any, Callable
from urllib.parse import quote

from .client import Cloud
from .errors import CloudError
from .model import USED_KEY, FleetSpec, FloatingIp, Named, Port, Server
from .placements import Unresolved, find_named
from .plan import Changes
from .read import mark, parse_address, parse_port

# How often a port may have changed between being read and being written.
_CONFLICTS = 8


def merge_into(cloud: Cloud, server: Server, changes: Changes, *, desired: FleetSpec, networks: Callable[[str], tuple[Named, ...]]) -> None:
    """Carry the changes out. Each is one request that may be repeated.

    :param networks: returns the networks of a region.
    """
    path = f"/servers/{server.id}"
    for tag in changes.add_tags:
        cloud.send("compute", "PUT", f"{path}/tags/{quote(tag, safe='')}")
    for tag in changes.drop_tags:
        cloud.delete("compute", f"{path}/tags/{quote(tag, safe='')}")
    if changes.metadata:
        cloud.send("compute", "POST", f"{path}/metadata", {"metadata": changes.metadata})
    for port, missing in changes.groups.items():
        _add_groups(cloud, port, missing)
    for volume in changes.used:
        _mark_used(cloud, volume)
    if changes.address:
        _attach_address(cloud, server, desired, networks)


def _add_groups(cloud: Cloud, port: str, missing: tuple[str, ...]) -> None:
    """Add security groups to a port. Neutron takes only the whole list, to which others may have added since the fleet was read."""
    for last in (False,) * _CONFLICTS + (True,):
        found = cloud.get("network", f"/ports/{port}")["port"]
        has = list(found.get("security_groups") or [])
        whole = has + [group for group in missing if group not in has]
        if whole == has:
            return
        # A cloud without revisions has no such number, and one that does not compare them ignores the header.
        revision = found.get("revision_number")
        headers = {} if revision is None else {"If-Match": f"revision_number={revision}"}
        try:
            cloud.send("network", "PUT", f"/ports/{port}", {"port": {"security_groups": whole}}, headers=headers)
            return
        except CloudError as error:
            if error.status != 412 or last:
                raise
        cloud.watch.pause(0.5)


def _mark_used(cloud: Cloud, volume: str) -> None:
    try:
        cloud.send("block_storage", "POST", f"/volumes/{volume}/metadata", {"metadata": {USED_KEY: "true"}})
    except CloudError as error:
        if error.status != 404:
            raise


def _attach_address(cloud: Cloud, server: Server, desired: FleetSpec, networks: Callable[[str], tuple[Named, ...]]) -> None:
    """Lead the slot's public address to the server; make one where the slot has none."""
    found = cloud.pages("network", "/ports", "ports", device_id=server.id)
    ports = sorted((parse_port(one, cloud.region, desired.fleet) for one in found), key=lambda port: port.id)
    if not ports:
        raise CloudError(f"{server.id} has no port that a public address could lead to")
    port = _first_own(ports)
    known = [parse_address(one, cloud.region, desired.fleet) for one in cloud.pages("network", "/floatingips", "floatingips")]
    mine = [address for address in known if address.slot == server.slot]
    if any(address.port == port.id for address in mine):
        return
    mine = [address for address in mine if not _leads_to_running(cloud, address)]
    if mine:
        cloud.send("network", "PUT", f"/floatingips/{mine[0].id}", {"floatingip": {"port_id": port.id}})
        return
    try:
        network = find_named(networks(cloud.region), desired.floating_network, "network")
    except Unresolved as error:
        raise CloudError(str(error)) from error
    description = mark(desired.fleet, server.slot, server.attempt)
    body = {"floating_network_id": network, "port_id": port.id, "description": description}
    try:
        cloud.make("network", "/floatingips", {"floatingip": body}, find=lambda: _find(cloud, description))
    except CloudError as error:
        # Another run that brings the same server up may have been faster.
        if error.status != 409 or not any(one.get("port_id") == port.id for one in cloud.pages("network", "/floatingips", "floatingips")):
            raise


def _leads_to_running(cloud: Cloud, address: FloatingIp) -> bool:
    """Whether a running server is reached by it: that one has a successor beside it, which gets an address of its own."""
    if not address.port:
        return False
    try:
        device = str(cloud.get("network", f"/ports/{address.port}")["port"].get("device_id") or "")
        status = str(cloud.get("compute", f"/servers/{device}")["server"].get("status")) if device else ""
    except CloudError as error:
        if error.status != 404:
            raise
        return False
    return status == "ACTIVE"


def _first_own(ports: list[Port]) -> Port:
    return next((port for port in ports if port.slot), ports[0])


def _find(cloud: Cloud, description: str) -> dict[str, Any] | None:
    found = [one for one in cloud.pages("network", "/floatingips", "floatingips") if one.get("description") == description]
    return {"floatingip": found[0]} if found else None
