# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Removes a fleet, or some servers of it, with the ports, disks and addresses made for them, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterable

from .._plan import Plan, Refusal, Step
from .client import Cloud
from .errors import CloudError
from .ladder import Outcome
from .make import remove_server, remove_volume
from .model import Fleet, FleetSpec, FloatingIp, Port, Server, Volume
from .prices import fleet_price
from .states import GONE, kind_of


@dataclass(frozen=True)
class Removal:
    """What goes with one slot."""

    slot: str
    servers: tuple[Server, ...] = ()
    addresses: tuple[FloatingIp, ...] = ()
    ports: tuple[Port, ...] = ()
    volumes: tuple[Volume, ...] = ()


def plan_removal(*, current: Fleet, fleet: str, slots: tuple[str, ...], confirm: str) -> tuple[Plan, tuple[Removal, ...]]:
    """Plan the removal.

    :param slots: the slots to empty; all there are when empty.
    :param confirm: the fleet's name, repeated by the caller.
    """
    held = {one.slot for one in current.servers} | {one.slot for one in current.addresses}
    held |= {one.slot for one in current.ports if one.slot} | {one.slot for one in current.volumes}
    names = list(slots) or sorted(held)
    works = tuple(work for work in (_removal(name, current) for name in names) if _steps(work))
    steps = tuple(step for work in works for step in _steps(work))
    if steps and confirm != fleet:
        what = f"{len(steps)} objects of the fleet {fleet}"
        reason = f"Refusing to remove {what} without confirmation: set confirm to {fleet}, the name of the fleet."
        return Plan(refusals=(Refusal(fleet, reason),)), ()
    before: dict[str, Any] = {work.slot: [step.target for step in _steps(work)] for work in works}
    return Plan(steps=steps, before=before, after={name: [] for name in before}), works


def _removal(name: str, current: Fleet) -> Removal:
    return Removal(
        name,
        tuple(one for one in current.servers if one.slot == name and kind_of(one) != GONE),
        tuple(one for one in current.addresses if one.slot == name),
        tuple(one for one in current.ports if one.slot == name and name),
        tuple(one for one in current.volumes if one.slot == name),
    )


def _steps(work: Removal) -> list[Step]:
    name = work.slot or "the fleet"
    steps = [Step("delete", one.id, f"Delete the server {one.id} of {name} ({one.status})") for one in work.servers]
    steps += [Step("delete", one.id, f"Release the address {one.address} of {name}") for one in work.addresses]
    steps += [Step("delete", one.id, f"Delete the port {one.id} of {name}") for one in work.ports]
    steps += [Step("delete", one.id, f"Delete the disk {one.id} of {name} ({one.size} GiB)") for one in work.volumes]
    return steps


def remove(work: Removal, clouds: dict[str, Cloud]) -> Outcome:
    """Remove what belongs to one slot; the first failure ends it and becomes the reason."""
    try:
        for server in work.servers:
            remove_server(clouds[server.region], server)
        for address in work.addresses:
            clouds[address.region].delete("network", f"/floatingips/{address.id}")
        for port in work.ports:
            clouds[port.region].delete("network", f"/ports/{port.id}")
        for volume in work.volumes:
            remove_volume(clouds[volume.region], volume.id)
    except CloudError as error:
        return Outcome(work.slot, "failed", f"not everything of {work.slot} could be removed: {error}", ok=False)
    return Outcome(work.slot, "removed", "the fleet is to be absent")


def removed_price(works: Iterable[Removal], desired: FleetSpec) -> float:
    """Return by how much the removal lowers the hourly cost, as far as the price table says."""
    removed = list(works)
    gone = Fleet(
        servers=tuple(one for work in removed for one in work.servers),
        addresses=tuple(one for work in removed for one in work.addresses),
        volumes=tuple(one for work in removed for one in work.volumes),
    )
    return fleet_price(gone, desired.prices, desired.profile)
