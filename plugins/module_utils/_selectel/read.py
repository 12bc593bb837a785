# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads fleets and what clouds offer. No decision is made here."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, Iterable, Mapping

from .client import Cloud
from .errors import NoService
from .model import (
    ATTEMPT_KEY,
    FLEET_KEY,
    SLOT_KEY,
    USED_KEY,
    Catalogue,
    Flavor,
    Fleet,
    FloatingIp,
    Image,
    Named,
    NetAddress,
    Port,
    Server,
    Volume,
)

_MARK = "llm_stack:"


def mark(fleet: str, slot: str, attempt: str) -> str:
    """Return the description by which a port or an address is known as one of a slot."""
    return f"{_MARK}{fleet}/{slot}/{attempt}"


def slot_of(description: str | None, fleet: str) -> str:
    """Return the slot a port or an address was made for, or an empty string."""
    start = f"{_MARK}{fleet}/"
    return description[len(start) :].split("/")[0] if description and description.startswith(start) else ""


def seconds_of(text: str | None) -> float | None:
    """Read a time of the API (UTC, with or without ``Z``) as seconds since 1970."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return found.replace(tzinfo=found.tzinfo or timezone.utc).timestamp()


def parse_server(found: Mapping[str, Any], region: str) -> Server:
    """Read a server of Nova's list."""
    flavor = found.get("flavor") or {}
    attached = found.get("os-extended-volumes:volumes_attached") or []
    return Server(
        id=found["id"],
        name=found.get("name") or "",
        region=region,
        status=found.get("status") or "UNKNOWN",
        task_state=found.get("OS-EXT-STS:task_state") or "",
        tags=tuple(found.get("tags") or ()),
        metadata={str(key): str(value) for key, value in (found.get("metadata") or {}).items()},
        created_at=seconds_of(found.get("created")) or 0.0,
        launched_at=seconds_of(found.get("OS-SRV-USG:launched_at")),
        zone=found.get("OS-EXT-AZ:availability_zone") or "",
        flavor=flavor.get("original_name") or flavor.get("id") or "",
        specs={str(key): str(value) for key, value in (flavor.get("extra_specs") or {}).items()},
        addresses=tuple(_addresses(found.get("addresses") or {})),
        volumes=tuple(volume["id"] for volume in attached),
        locked=bool(found.get("locked")),
        fault=(found.get("fault") or {}).get("message") or "",
    )


def _addresses(found: Mapping[str, Any]) -> Iterable[NetAddress]:
    for network, entries in found.items():
        for entry in entries:
            yield NetAddress(entry["addr"], entry.get("OS-EXT-IPS:type") or "fixed", network)


def parse_port(found: Mapping[str, Any], region: str, fleet: str) -> Port:
    """Read a port of Neutron's list."""
    return Port(
        id=found["id"],
        region=region,
        network=found.get("network_id") or "",
        server=found.get("device_id") or "",
        slot=slot_of(found.get("description"), fleet),
        groups=tuple(found.get("security_groups") or ()),
        ips=tuple(fixed["ip_address"] for fixed in found.get("fixed_ips") or ()),
        created_at=seconds_of(found.get("created_at")) or 0.0,
    )


def parse_address(found: Mapping[str, Any], region: str, fleet: str) -> FloatingIp:
    """Read a floating IP of Neutron's list."""
    slot = slot_of(found.get("description"), fleet)
    return FloatingIp(found["id"], region, found.get("floating_ip_address") or "", slot, found.get("port_id") or "")


def parse_volume(found: Mapping[str, Any], region: str) -> Volume:
    """Read a volume of Cinder's list."""
    metadata = found.get("metadata") or {}
    attached = found.get("attachments") or []
    return Volume(
        id=found["id"],
        region=region,
        slot=metadata.get(SLOT_KEY) or "",
        status=found.get("status") or "",
        size=int(found.get("size") or 0),
        server=attached[0].get("server_id") or "" if attached else "",
        used=metadata.get(USED_KEY) == "true",
        created_at=seconds_of(found.get("created_at")) or 0.0,
        attempt=metadata.get(ATTEMPT_KEY) or "",
    )


def read_servers(cloud: Cloud, fleet: str) -> tuple[Server, ...]:
    """Return the servers of a fleet in one region."""
    found = cloud.pages("compute", "/servers/detail", "servers")
    return tuple(parse_server(one, cloud.region) for one in found if (one.get("metadata") or {}).get(FLEET_KEY) == fleet)


def read_region(cloud: Cloud, fleet: str, *, groups: bool) -> Fleet:
    """Return what there is of a fleet in one region: four requests.

    :param groups: also read the names of the security groups.
    """
    servers = read_servers(cloud, fleet)
    ids = {server.id for server in servers}
    ports = [parse_port(one, cloud.region, fleet) for one in cloud.pages("network", "/ports", "ports")]
    addresses = [parse_address(one, cloud.region, fleet) for one in cloud.pages("network", "/floatingips", "floatingips")]
    named = cloud.pages("network", "/security-groups", "security_groups") if groups else []
    return Fleet(
        servers=servers,
        ports=tuple(port for port in ports if port.slot or port.server in ids),
        addresses=tuple(address for address in addresses if address.slot),
        volumes=read_volumes(cloud, fleet),
        groups={cloud.region: tuple(Named(one["id"], one.get("name") or "") for one in named)} if groups else {},
    )


def read_volumes(cloud: Cloud, fleet: str) -> tuple[Volume, ...]:
    """Return the volumes made for a fleet; none where the cloud has no such service."""
    try:
        found = cloud.pages("block_storage", "/volumes/detail", "volumes")
    except NoService:
        return ()
    return tuple(parse_volume(one, cloud.region) for one in found if (one.get("metadata") or {}).get(FLEET_KEY) == fleet)


def merged(parts: Iterable[Fleet]) -> Fleet:
    """Return what was read of several regions as one."""
    total = Fleet()
    for part in parts:
        total = replace(
            total,
            servers=total.servers + part.servers,
            ports=total.ports + part.ports,
            addresses=total.addresses + part.addresses,
            volumes=total.volumes + part.volumes,
            groups={**total.groups, **part.groups},
            catalogues={**total.catalogues, **part.catalogues},
        )
    return total


def read_catalogue(cloud: Cloud) -> Catalogue:
    """Return what a region offers: three requests."""
    flavors = cloud.pages("compute", "/flavors/detail", "flavors")
    images = cloud.pages("image", "/images", "images", status="active")
    networks = cloud.pages("network", "/networks", "networks")
    return Catalogue(
        flavors=tuple(parse_flavor(one) for one in flavors),
        images=tuple(Image(one["id"], one.get("name") or "", one.get("created_at") or "", int(one.get("min_disk") or 0)) for one in images),
        networks=tuple(Named(one["id"], one.get("name") or "") for one in networks),
    )


def parse_flavor(found: Mapping[str, Any]) -> Flavor:
    """Read a flavor of Nova's list."""
    specs = {str(key): str(value) for key, value in (found.get("extra_specs") or {}).items()}
    return Flavor(found["id"], found.get("name") or "", int(found["vcpus"]), int(found["ram"]), int(found["disk"]), specs)


def gpus_of(specs: Mapping[str, str]) -> dict[str, int]:
    """Return the GPUs of a flavor, by alias: ``pci_passthrough:alias`` is ``T4:1`` or ``a:1,b:2``."""
    found = {}
    for part in specs.get("pci_passthrough:alias", "").split(","):
        alias, _colon, count = part.strip().partition(":")
        if alias:
            found[alias] = int(count) if count.isdigit() else 1
    return found
