# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run returns: plain data about each server, what is left over, and the cost. Pure."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Iterable

from .ladder import Outcome
from .model import HOST_KEY_KEY, MEANT_KEY, Fleet, FleetSpec, Profile, Server
from .plan import Work
from .prices import running_price
from .read import gpus_of
from .states import ALIVE, GONE, INTERRUPTED, kind_of


def started_at(server: Server, profile: Profile, now: float) -> float | None:
    """Return since when the clock of a server's life runs.

    A restore sets ``launched_at`` anew; whether it also restarts the cloud's clock is not documented, so the creation counts as
    long as a life from there is not over.
    """
    if server.launched_at is None:
        return None
    if profile.lifetime is not None and server.created_at + profile.lifetime <= now:
        return server.launched_at
    return min(server.created_at, server.launched_at)


def iso(seconds: float | None) -> str:
    """Return a time as ISO 8601 in UTC, an empty string for none."""
    return "" if seconds is None else datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def server_report(server: Server | None, *, fleet: Fleet, desired: FleetSpec, now: float) -> dict[str, Any]:
    """Return what a person and a playbook want to know of a server; there may be none."""
    profile = desired.profile
    if server is None or kind_of(server) == GONE:
        server = Server("", "", "", "absent")
    since = started_at(server, profile, now)
    preemptible = profile.tag in server.tags
    alive = kind_of(server) in ALIVE and bool(server.id)
    expires = since + profile.lifetime if since is not None and profile.lifetime is not None and preemptible and alive else None
    meant = server.metadata.get(MEANT_KEY, "true" if preemptible else "false")
    return {
        "id": server.id,
        "status": server.status,
        "addresses": _addresses(server, fleet),
        "preemptible": preemptible,
        "created_at": iso(server.created_at or None),
        "launched_at": iso(server.launched_at),
        "expires_at": iso(expires),
        "rotate": bool(alive and desired.max_age is not None and since is not None and now - since >= desired.max_age),
        "placement": {"region": server.region, "zone": server.zone, "flavor": server.flavor, "preemptible": meant == "true"},
        "gpus": gpus_of(server.specs),
        "hourly_cost": running_price(server, desired.prices, profile) if alive else 0.0,
        "ssh_host_key": server.metadata.get(HOST_KEY_KEY, ""),
    }


def _addresses(server: Server, fleet: Fleet) -> list[dict[str, str]]:
    found = [{"address": one.address, "kind": one.kind, "network": one.network} for one in server.addresses]
    ports = {port.id for port in fleet.ports if port.server == server.id}
    known = {one.address for one in server.addresses}
    # Nova learns of a public address a little after Neutron.
    found += [
        {"address": one.address, "kind": "floating", "network": ""}
        for one in fleet.addresses
        if one.port in ports and one.address not in known
    ]
    return found


def leftovers(fleet: Fleet, slot: str, chosen: Server | None, desired: FleetSpec) -> list[dict[str, Any]]:
    """Return what of a slot is billed although no server runs with it."""
    idle = {one.id: one for one in fleet.servers if one.slot == slot and kind_of(one) not in (*ALIVE, GONE)}
    prices, found = desired.prices, []
    for server in idle.values():
        reason = "interrupted" if kind_of(server) == INTERRUPTED else f"it is {server.status}"
        if chosen is None or server.id != chosen.id:
            found.append({"kind": "server", "id": server.id, "region": server.region, "reason": reason, "hourly_cost": 0.0})
    for volume in fleet.volumes:
        if volume.slot == slot and (not volume.server or volume.server in idle):
            reason = f"the disk of {volume.server}" if volume.server else "no server uses it"
            cost = volume.size * prices.volume_gb
            found.append({"kind": "volume", "id": volume.id, "region": volume.region, "reason": reason, "hourly_cost": cost})
    running = {port.id for port in fleet.ports if port.server and port.server not in idle}
    for address in fleet.addresses:
        if address.slot == slot and address.port not in running:
            reason = f"{address.address} leads to no running server"
            found.append({"kind": "address", "id": address.id, "region": address.region, "reason": reason, "hourly_cost": prices.address})
    return found


def current_server(servers: Iterable[Server]) -> Server | None:
    """Return the server that fills a slot: an alive one before an interrupted one, and that before a broken one."""
    known = [server for server in servers if kind_of(server) != GONE]
    replaced = {name for server in known for name in server.replaces}
    alive = sorted((one for one in known if kind_of(one) in ALIVE), key=lambda one: (one.id in replaced, *one.age_key))
    idle = sorted((one for one in known if one not in alive), key=lambda one: (kind_of(one) == INTERRUPTED, *one.age_key), reverse=True)
    return next(iter(alive + idle), None)


def as_outcome(work: Work) -> Outcome:
    """Return how the work would end, for check mode."""
    server = work.server or (work.restore[0] if work.restore else None)
    return Outcome(work.slot.name, work.action, work.reason, server, ok=work.action != "blocked")


def fleet_report(outcomes: Iterable[Outcome], *, fleet: Fleet, cost: tuple[float, float], desired: FleetSpec, now: float) -> dict[str, Any]:
    """Return the result of a run.

    :param cost: an hour, before and after.
    """
    by_id = {server.id: server for server in fleet.servers}
    servers = []
    for outcome in outcomes:
        server = by_id.get(outcome.server.id, outcome.server) if outcome.server else None
        found = {"name": outcome.slot, "action": outcome.action, "reason": outcome.reason, "ok": outcome.ok}
        found.update(server_report(server, fleet=fleet, desired=desired, now=now))
        found["leftovers"] = leftovers(fleet, outcome.slot, server, desired)
        servers.append(found)
    names = {slot.name for slot in desired.slots}
    held = {one.slot for one in fleet.servers} | {one.slot for one in fleet.volumes} | {one.slot for one in fleet.addresses}
    others = sorted(held - names - {""})
    return {
        "servers": servers,
        "leftovers": [left for name in others for left in undeclared(fleet, name, desired)],
        "cost": {
            "before": round(cost[0], 6),
            "after": round(cost[1], 6),
            "change": round(cost[1] - cost[0], 6),
            "currency": desired.prices.currency,
            "unknown": sorted({one.flavor for one in fleet.servers if running_price(one, desired.prices, desired.profile) is None}),
        },
    }


def undeclared(fleet: Fleet, slot: str, desired: FleetSpec) -> list[dict[str, Any]]:
    """Return what a slot holds that is not declared any more: all of it is billed for nothing."""
    alive = [one for one in fleet.servers if one.slot == slot and kind_of(one) in ALIVE]
    found = [
        {
            "kind": "server",
            "id": one.id,
            "region": one.region,
            "reason": f"{slot} is not declared",
            "hourly_cost": running_price(one, desired.prices, desired.profile),
        }
        for one in alive
    ]
    return found + leftovers(fleet, slot, None, desired)
