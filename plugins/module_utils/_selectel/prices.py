# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a fleet costs an hour, by the price table of the caller. Pure."""

from __future__ import annotations

from typing import Iterable

from .model import Fleet, Prices, Profile, Server, Volume
from .states import ALIVE, kind_of


def server_price(prices: Prices, *, flavor: str, region: str, preemptible: bool) -> float | None:
    """Return what a server costs an hour; None when the table does not say."""
    rows = [row for row in prices.servers if row.flavor == flavor and row.region in ("", region)]
    # The row of the region before the one for all regions.
    for row in sorted(rows, key=lambda row: row.region == ""):
        found = row.preemptible if preemptible else row.regular
        if found is not None:
            return found
    return None


def running_price(server: Server, prices: Prices, profile: Profile) -> float | None:
    """Return what a server costs now without its disks and addresses: nothing while it is interrupted."""
    if kind_of(server) not in ALIVE:
        return 0.0
    return server_price(prices, flavor=server.flavor, region=server.region, preemptible=profile.tag in server.tags)


def volume_price(volumes: Iterable[Volume], prices: Prices) -> float:
    """Return what volumes cost an hour."""
    return sum(volume.size for volume in volumes) * prices.volume_gb


def fleet_price(current: Fleet, prices: Prices, profile: Profile) -> float:
    """Return what everything of the fleet costs an hour, as far as the table says."""
    running = sum(running_price(server, prices, profile) or 0.0 for server in current.servers)
    return running + volume_price(current.volumes, prices) + len(current.addresses) * prices.address


def told(amount: float | None, prices: Prices) -> str:
    """Return an hourly price for a person."""
    if amount is None:
        return "an unknown price"
    return f"{amount:g} {prices.currency}".strip() + " an hour"
