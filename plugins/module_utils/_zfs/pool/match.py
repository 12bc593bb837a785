# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which declared vdev is which of the pool's: by the devices in it, never by its name or its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Sequence

from .model import VITAL, Group, Leaf, Member, Pool, Vdev

Aliases = Callable[[str], "frozenset[str]"]


@dataclass(frozen=True)
class Identity:
    """What makes a declared device and one of the pool the same.

    :param declared: every name a declared device may be known by.
    :param member: every name a device of the pool may be declared by.
    """

    declared: Aliases
    member: Aliases

    def is_leaf(self, device: str, leaf: Leaf) -> bool:
        """Whether a declared path, or a GUID, means this device."""
        if device == leaf.guid:
            return True
        names = self.declared(device)
        return any(names & self.member(name) for name in leaf.names)

    def holds(self, member: Member, device: str) -> bool:
        """Whether the device has this place, alone or beside the one it stands in for."""
        return any(self.is_leaf(device, leaf) for leaf in member.leaves)

    def find(self, groups: Sequence[Group], device: str) -> tuple[Group, Member, Leaf] | None:
        """Where a device is in the pool; a spare in use is found where it stands in."""
        found = [
            (group, member, leaf) for group in groups for member in group.members for leaf in member.leaves if self.is_leaf(device, leaf)
        ]
        return min(found, key=lambda place: place[0].use == "spare", default=None)


@dataclass(frozen=True)
class Pairing:
    """The declared vdevs beside those of the pool."""

    matched: tuple[tuple[Vdev, Group], ...]
    missing: tuple[Vdev, ...]
    undeclared: tuple[Group, ...]


def pair(want: Pool, groups: Sequence[Group], identity: Identity, allow_remove: Sequence[str]) -> Pairing:
    """Match vdevs by their devices, the best match first; nothing is compared when no vdevs are declared."""
    if not want.vdevs:
        return Pairing((), (), ())
    scored = []
    for index, vdev in enumerate(want.vdevs):
        for position, group in enumerate(groups):
            hits = sum(any(identity.holds(member, device) for member in group.members) for device in vdev.devices)
            if hits:
                scored.append((-hits, group.use != vdev.use, index, position))
    partner: dict[int, int] = {}
    for _hits, _use, index, position in sorted(scored):
        if index not in partner and position not in partner.values():
            partner[index] = position
    _pair_singles(want, groups, partner, [group for group in groups if named(group, allow_remove, identity)])
    return Pairing(
        matched=tuple((want.vdevs[index], groups[position]) for index, position in sorted(partner.items())),
        missing=tuple(vdev for index, vdev in enumerate(want.vdevs) if index not in partner),
        undeclared=tuple(group for position, group in enumerate(groups) if position not in partner.values()),
    )


def _pair_singles(want: Pool, groups: Sequence[Group], partner: dict[int, int], leaving: Sequence[Group]) -> None:
    """A single disk that was exchanged shares nothing with its vdev: match what is left by class, unless it shall leave."""
    for index, vdev in enumerate(want.vdevs):
        if index in partner or vdev.kind != "stripe" or vdev.use not in {*VITAL, "log"}:
            continue
        for position, group in enumerate(groups):
            free = position not in partner.values() and group not in leaving
            if free and group.kind == "stripe" and group.use == vdev.use:
                partner[index] = position
                break


def named(group: Group, allow_remove: Sequence[str], identity: Identity) -> bool:
    """Whether the user named this group as one that may leave: by name or GUID, or by its device when it has but one."""
    if group.name in allow_remove or group.guid in allow_remove:
        return True
    return group.kind == "stripe" and any(identity.holds(group.members[0], each) for each in allow_remove if _is_device(each))


def named_member(member: Member, allow_remove: Sequence[str], identity: Identity) -> bool:
    """Whether the user named this device as one that may leave."""
    return any(identity.holds(member, each) for each in allow_remove if _is_device(each))


def _is_device(text: str) -> bool:
    return text.startswith("/") or text.isdigit()


def arrivals(want: Pool, pairing: Pairing, identity: Identity) -> tuple[str, ...]:
    """Declared devices that are in no group of the pool: those to look at before anything is planned with them."""
    absent = [
        device
        for vdev, group in pairing.matched
        for device in vdev.devices
        if not any(identity.holds(member, device) for member in group.members)
    ]
    return (*absent, *(device for vdev in pairing.missing for device in vdev.devices))


def vacancies(pairing: Pairing, identity: Identity) -> tuple[tuple[Group, Leaf, str], ...]:
    """Places whose device is gone, with the path that is declared for it: another disk may be there by now."""
    return tuple(
        (group, member.leaves[0], device)
        for vdev, group in pairing.matched
        for member in group.members
        if len(member.leaves) == 1 and member.leaves[0].state == "UNAVAIL"
        for device in vdev.devices
        if identity.is_leaf(device, member.leaves[0])
    )
