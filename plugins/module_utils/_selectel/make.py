# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes one server at one placement, exactly once, and leaves nothing behind where that fails."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any, Callable

from .client import Cloud
from .errors import CloudError, OutOfTime, RungFailed
from .hostkey import encoded, make_host_key, with_host_key
from .look import look_at, wait_for, watching
from .model import (
    ATTEMPT_KEY,
    FLEET_KEY,
    HOST_KEY_KEY,
    MEANT_KEY,
    REPLACES_KEY,
    SLOT_KEY,
    FleetSpec,
    NetworkSpec,
    Server,
    SlotSpec,
)
from .placements import Rung
from .prices import server_price, told
from .read import mark, parse_port, parse_volume, read_servers
from .states import ALIVE, BROKEN, GONE, INTERRUPTED, SETTLING, kind_of

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 5.0


def settled(server: Server) -> bool:
    """Whether nothing is under way with it."""
    return kind_of(server) != SETTLING


def remove_server(cloud: Cloud, server: Server) -> None:
    """Delete a server and wait until it is gone."""
    cloud.delete("compute", f"/servers/{server.id}")
    delay = _FIRST_WAIT
    with watching(cloud) as look:
        while look(server).status not in ("DELETED", "SOFT_DELETED"):
            cloud.watch.pause(delay)
            delay = min(delay * 1.5, _LONGEST_WAIT)


def remove_volume(cloud: Cloud, volume: str) -> None:
    """Delete a volume; one that is still being detached answers 400 for a while."""
    delay = _FIRST_WAIT
    for last in (False,) * 8 + (True,):
        try:
            cloud.delete("block_storage", f"/volumes/{volume}")
            return
        except CloudError as error:
            if error.status != 400 or last:
                raise
        cloud.watch.pause(delay)
        delay = min(delay * 1.5, _LONGEST_WAIT)


def remove_free_port(cloud: Cloud, port: str) -> None:
    """Delete a port, unless a server has it: Neutron would take it away from a running one."""
    try:
        used = cloud.get("network", f"/ports/{port}")["port"].get("device_id")
    except CloudError as error:
        if error.status != 404:
            raise
        return
    if not used:
        cloud.delete("network", f"/ports/{port}")


@dataclass
class _Made:
    """What an attempt has made so far, to be taken back where it fails.

    :param plugs: the ports its server is plugged into, those that were there before included.
    """

    attempt: str
    plugs: tuple[str, ...] = ()
    ports: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)
    server: Server | None = None


class Maker:
    """Makes the servers of one slot.

    :param clouds: all regions of the fleet, by name; rivals are looked for in each.
    """

    def __init__(self, slot: SlotSpec, desired: FleetSpec, clouds: dict[str, Cloud]) -> None:
        self._slot = slot
        self._desired = desired
        self._clouds = clouds

    def make(self, rung: Rung, replaces: tuple[Server, ...]) -> tuple[str, Server]:
        """Make a server, or take the one that another run made first; return ``created`` or ``adopted`` and the server.

        :raises RungFailed: there is none at this placement; what was made for it is gone again.
        :raises OutOfTime: the deadline came first; what was made carries its marks, and the next run takes it up.
        """
        cloud = self._clouds[rung.placement.region]
        made = _Made(uuid.uuid4().hex)
        try:
            return self._make(cloud, rung, made, replaces)
        except OutOfTime:
            raise
        except (CloudError, RungFailed) as error:
            rival = self._faster(error, {server.id for server in replaces})
            if rival:
                return "adopted", self._yield_to(cloud, rival, made)
            left = self._take_back(cloud, made)
            if isinstance(error, CloudError) and error.status == 401:
                raise
            raise RungFailed(f"{error}{left}") from error

    def _make(self, cloud: Cloud, rung: Rung, made: _Made, replaces: tuple[Server, ...]) -> tuple[str, Server]:
        networks = [self._network(cloud, rung, position, made) for position in range(len(self._slot.networks))]
        made.plugs = tuple(network["port"] for network in networks)
        volume = self._volume(cloud, rung, made) if self._desired.boot == "volume" else ""
        body = self._body(rung, made, networks=networks or "auto", volume=volume, replaces=replaces)
        started = cloud.watch.now()
        answer = cloud.make("compute", "/servers", {"server": body}, find=lambda: self._find_server(cloud, made.attempt))
        made.server = Server(answer["server"]["id"], self._slot.name, cloud.region, "BUILD")
        made.server = look_at(cloud, made.server)
        took = cloud.watch.now() - started
        known = {server.id for server in replaces}
        made.server, rival = self._contest(made.server, made, known)
        if not rival:
            made.server = wait_for(cloud, made.server, settled)
            self._require_running(made.server, rung)
            # Another run's request may have begun before ours and be answered after it: look again when that cannot be any more.
            self._rest(cloud, started + took + min(max(2.0, 3 * took), 30.0))
            made.server, rival = self._contest(made.server, made, known)
        return ("adopted", self._yield_to(cloud, rival, made)) if rival else ("created", made.server)

    def _rest(self, cloud: Cloud, until: float) -> None:
        left = until - cloud.watch.now()
        if left > 0:
            cloud.watch.pause(left)

    def _require_running(self, server: Server, rung: Rung) -> None:
        kind, tag = kind_of(server), self._desired.profile.tag
        if kind == BROKEN:
            raise RungFailed(server.fault or f"the new server {server.id} went into ERROR without a reason")
        if kind == GONE:
            raise RungFailed(f"the new server {server.id} was deleted while it was made")
        if kind == INTERRUPTED:
            raise RungFailed(f"the new server {server.id} was interrupted while it was made ({server.status})")
        if rung.placement.preemptible and tag not in server.tags:
            regular = server_price(self._desired.prices, flavor=rung.flavor.name, region=rung.placement.region, preemptible=False)
            price = told(regular, self._desired.prices)
            raise RungFailed(f"the new server came up regular, without the tag {tag}; it would cost {price}")

    def _others(self, known: set[str]) -> list[Server]:
        found = [server for cloud in self._clouds.values() for server in read_servers(cloud, self._desired.fleet)]
        return [one for one in found if one.slot == self._slot.name and one.id not in known]

    def _faster(self, error: Exception, known: set[str]) -> Server | None:
        """Return the server of another run, where a conflict says that there is one: it has the address or the port already."""
        if not isinstance(error, CloudError) or error.status != 409 or error.quota:
            return None
        alive = [one for one in self._others(known) if kind_of(one) in ALIVE]
        return min(alive, key=lambda one: one.age_key) if alive else None

    def _contest(self, mine: Server, made: _Made, known: set[str]) -> tuple[Server, Server | None]:
        """Return our server, and that of another run which stays in the slot instead of it; the twins of ours are deleted."""
        others = self._others({mine.id, *known})
        twins = [mine, *(one for one in others if one.attempt == made.attempt)]
        ours = self._that_can_run(twins, made) if len(twins) > 1 else mine
        for twin in twins:
            if twin.id != ours.id:
                self._clouds[twin.region].delete("compute", f"/servers/{twin.id}")
        elder = [one for one in others if one.attempt != made.attempt and kind_of(one) in ALIVE and one.age_key < ours.age_key]
        return ours, min(elder, key=lambda one: one.age_key) if elder else None

    def _that_can_run(self, twins: list[Server], made: _Made) -> Server:
        """Return which server of those a slow or cut request made twice is plugged into the port of both; the eldest before that.

        Dates do not tell which it is: a busy Nova was seen to date the second no later than the first.
        """
        cloud = self._clouds[twins[0].region]
        holders = {cloud.get("network", f"/ports/{port}")["port"].get("device_id") for port in made.plugs}
        return min(twins, key=lambda one: (one.id not in holders, *one.age_key))

    def _yield_to(self, cloud: Cloud, rival: Server, made: _Made) -> Server:
        left = self._take_back(cloud, made)
        made.server, made.ports, made.volumes = None, [], []
        server = wait_for(self._clouds[rival.region], rival, settled)
        if kind_of(server) not in ALIVE:
            raise RungFailed(f"another run was making {server.id}, which is {server.status} now{left}")
        return server

    def _network(self, cloud: Cloud, rung: Rung, position: int, made: _Made) -> dict[str, str]:
        wanted, network = self._slot.networks[position], rung.networks[position]
        if wanted.port:
            return {"port": wanted.port}
        free = self._free_port(cloud, network, wanted)
        if free:
            return {"port": free}
        description = mark(self._desired.fleet, self._slot.name, made.attempt) + f"/{position}"
        body: dict[str, Any] = {"network_id": network, "name": self._slot.name, "description": description}
        if rung.groups:
            body["security_groups"] = list(rung.groups)
        if wanted.fixed_ip:
            body["fixed_ips"] = [{"ip_address": wanted.fixed_ip}]
        answer = cloud.make("network", "/ports", {"port": body}, find=lambda: self._find_port(cloud, description))
        made.ports.append(answer["port"]["id"])
        return {"port": answer["port"]["id"]}

    def _free_port(self, cloud: Cloud, network: str, wanted: NetworkSpec) -> str:
        """Return a port of this slot that no server uses: it keeps the address of the one before.

        A young one may be waiting for the server of another run, and is taken only for an address that no other port can have.
        """
        for found in cloud.pages("network", "/ports", "ports", network_id=network):
            port = parse_port(found, cloud.region, self._desired.fleet)
            old = cloud.watch.now() - port.created_at > self._desired.deadline
            if port.slot == self._slot.name and not port.server and (wanted.fixed_ip in port.ips or (old and not wanted.fixed_ip)):
                return port.id
        return ""

    def _find_port(self, cloud: Cloud, description: str) -> dict[str, Any] | None:
        found = [one for one in cloud.pages("network", "/ports", "ports") if one.get("description") == description]
        return {"port": found[0]} if found else None

    def _volume(self, cloud: Cloud, rung: Rung, made: _Made) -> str:
        body: dict[str, Any] = {
            "size": self._desired.volume_size,
            "imageRef": rung.image.id,
            "name": self._slot.name,
            "metadata": self._marks(made),
        }
        if rung.placement.volume_type:
            body["volume_type"] = rung.placement.volume_type
        if rung.placement.zone and self._desired.profile.zoned_volumes:
            body["availability_zone"] = rung.placement.zone
        answer = cloud.make(
            "block_storage", "/volumes", {"volume": body}, find=lambda: self._find_volume(cloud, made.attempt)
        )  # fmt: skip
        name = str(answer["volume"]["id"])
        made.volumes.append(name)
        delay = _FIRST_WAIT
        while True:
            volume = parse_volume(cloud.get("block_storage", f"/volumes/{name}")["volume"], cloud.region)
            if volume.status == "available":
                return name
            if volume.status.startswith("error"):
                raise RungFailed(f"its disk {name} went into {volume.status}: the storage has no room, or the image cannot be copied")
            cloud.watch.pause(delay)
            delay = min(delay * 1.5, _LONGEST_WAIT)

    def _find_volume(self, cloud: Cloud, attempt: str) -> dict[str, Any] | None:
        found = [
            one
            for one in cloud.pages("block_storage", "/volumes/detail", "volumes")
            if (one.get("metadata") or {}).get(ATTEMPT_KEY) == attempt
        ]
        return {"volume": found[0]} if found else None

    def _find_server(self, cloud: Cloud, attempt: str) -> dict[str, Any] | None:
        found = [server for server in read_servers(cloud, self._desired.fleet) if server.attempt == attempt]
        return {"server": {"id": min(found, key=lambda one: one.age_key).id}} if found else None

    def _marks(self, made: _Made) -> dict[str, str]:
        return {FLEET_KEY: self._desired.fleet, SLOT_KEY: self._slot.name, ATTEMPT_KEY: made.attempt}

    def _body(self, rung: Rung, made: _Made, *, networks: Any, volume: str, replaces: tuple[Server, ...]) -> dict[str, Any]:
        desired, place = self._desired, rung.placement
        metadata = {**desired.metadata, **self._marks(made), MEANT_KEY: "true" if place.preemptible else "false"}
        if replaces:
            # Also what those stood in for: one of them may be brought back by hand when they are gone.
            names = [server.id for server in replaces] + [name for server in replaces for name in server.replaces]
            # A metadata value holds 255 characters: six IDs.
            metadata[REPLACES_KEY] = ",".join(list(dict.fromkeys(names))[:6])
        user_data = self._slot.user_data
        if desired.ssh_host_key:
            key = make_host_key()
            metadata[HOST_KEY_KEY] = key.public
            user_data = with_host_key(user_data, key)
        tags = sorted({*desired.tags, *([desired.profile.tag] if place.preemptible else [])})
        body: dict[str, Any] = {"name": self._slot.name, "flavorRef": rung.flavor.id, "metadata": metadata, "networks": networks}
        optional = {
            "tags": tags,
            "availability_zone": place.zone,
            "key_name": desired.key_name,
            "user_data": encoded(user_data) if user_data else "",
            "security_groups": [{"name": group} for group in rung.groups] if networks == "auto" else [],
        }
        body.update({key: value for key, value in optional.items() if value})
        if volume:
            disk = {"boot_index": 0, "uuid": volume, "source_type": "volume", "destination_type": "volume", "delete_on_termination": True}
            body["block_device_mapping_v2"] = [disk]
        else:
            body["imageRef"] = rung.image.id
        return body

    def _take_back(self, cloud: Cloud, made: _Made) -> str:
        """Remove what the attempt made; return what could not be removed, as part of a sentence."""
        left: list[str] = []
        if made.server:
            self._try(left, f"server {made.server.id}", lambda server=made.server: remove_server(cloud, server))  # type: ignore[misc]
        for port in made.ports:
            self._try(left, f"port {port}", lambda name=port: remove_free_port(cloud, name))  # type: ignore[misc]
        for volume in made.volumes:
            self._try(left, f"volume {volume}", lambda name=volume: remove_volume(cloud, name))  # type: ignore[misc]
        return f" (left for the next run: {', '.join(left)})" if left else ""

    @staticmethod
    def _try(left: list[str], what: str, remove: Callable[[], None]) -> None:
        try:
            remove()
        except CloudError:
            left.append(what)
