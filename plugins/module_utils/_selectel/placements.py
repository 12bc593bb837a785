# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a server can be made: placements of the options, resolved against what the regions offer. Pure."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import Any, Iterable, Mapping

from .model import Catalogue, Flavor, FlavorMatch, FleetSpec, Image, Named, NetworkSpec, Placement, SlotSpec
from .prices import server_price
from .read import gpus_of


@dataclass(frozen=True)
class Rung:
    """A placement with everything a request needs.

    :param networks: IDs, in the order of the slot's networks; empty for a port of the user's.
    :param price: of the server an hour, None when the price table does not say.
    """

    placement: Placement
    flavor: Flavor
    image: Image
    networks: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    floating_network: str = ""
    price: float | None = None

    def is_at(self, other: tuple[str, str, str, bool]) -> bool:
        """Whether it is the place of a server: region, zone, flavor, preemptible."""
        region, zone, flavor, preemptible = other
        here = self.placement
        return here.region == region and here.zone in ("", zone) and self.flavor.name == flavor and here.preemptible == preemptible


class Unresolved(Exception):
    """A name of the options that a region does not know; the text is a sentence."""


def find_flavor(flavors: tuple[Flavor, ...], placement: Placement) -> Flavor:
    """Return the flavor of a placement: by name or ID, or the smallest that has what is asked for.

    :raises Unresolved: there is none.
    """
    if placement.match:
        fitting = [flavor for flavor in flavors if fits(flavor, placement.match)]
    else:
        fitting = [flavor for flavor in flavors if placement.flavor in (flavor.name, flavor.id)]
    if not fitting:
        raise Unresolved(f"{placement.region or 'The cloud'} offers no flavor {placement.wanted_flavor}")
    return min(fitting, key=lambda flavor: (flavor.vcpus, flavor.ram, flavor.disk, flavor.name))


def fits(flavor: Flavor, wanted: FlavorMatch) -> bool:
    """Whether a flavor has what is asked for: these GPUs and no other, vCPUs and memory at least, disk exactly."""
    gpus = gpus_of(flavor.specs)
    right_gpus = gpus == ({wanted.gpu: wanted.gpus} if wanted.gpu else {})
    return right_gpus and flavor.vcpus >= wanted.vcpus and flavor.ram >= wanted.ram and wanted.disk in (None, flavor.disk)


def find_image(images: tuple[Image, ...], wanted: str) -> Image:
    """Return an image by ID, else the newest of this name, else the newest whose name matches the pattern.

    :raises Unresolved: there is none.
    """
    for fitting in (
        [image for image in images if image.id == wanted],
        [image for image in images if image.name == wanted],
        [image for image in images if fnmatch.fnmatchcase(image.name, wanted)],
    ):
        if fitting:
            return max(fitting, key=lambda image: (image.created_at, image.id))
    raise Unresolved(f"There is no active image {wanted}")


def find_named(known: Iterable[Named], wanted: str, what: str) -> str:
    """Return the ID of a network or security group by name or ID.

    :raises Unresolved: there is none, or several have the name.
    """
    entries = list(known)
    found = [entry.id for entry in entries if entry.id == wanted] or [entry.id for entry in entries if entry.name == wanted]
    if len(found) != 1:
        number = f"{len(found)} {what}s" if found else f"no {what}"
        raise Unresolved(f"The cloud has {number} named {wanted}" + (": give its ID" if found else ""))
    return found[0]


def resolve(placement: Placement, *, slot: SlotSpec, desired: FleetSpec, offer: Catalogue, groups: tuple[Named, ...]) -> Rung:
    """Resolve one placement.

    :raises Unresolved: the region lacks something it names.
    """
    flavor = find_flavor(offer.flavors, placement)
    image = find_image(offer.images, desired.image)
    if desired.boot == "volume" and desired.volume_size < image.min_disk:
        raise Unresolved(f"The image {image.name} needs a disk of {image.min_disk} GiB and volume_size is {desired.volume_size}")
    if desired.boot == "local" and not flavor.disk:
        raise Unresolved(f"The flavor {flavor.name} has no local disk and boot is local")
    return Rung(
        placement,
        flavor,
        image,
        networks=tuple(_network(net, offer.networks) for net in slot.networks),
        groups=tuple(find_named(groups, name, "security group") for name in desired.security_groups),
        floating_network=find_named(offer.networks, desired.floating_network, "network") if desired.floating_network else "",
        price=server_price(desired.prices, flavor=flavor.name, region=placement.region, preemptible=placement.preemptible),
    )


def _network(net: NetworkSpec, known: tuple[Named, ...]) -> str:
    return "" if net.port else find_named(known, net.network, "network")


def by_merit(rungs: Iterable[Rung], memory: Mapping[str, Mapping[str, Any]], now: float) -> list[Rung]:
    """Return the rungs in order, those that failed a short while ago last."""
    return sorted(rungs, key=lambda rung: float(memory.get(rung.placement.key, {}).get("until", 0)) > now)
