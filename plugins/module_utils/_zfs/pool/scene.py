# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything the parts of a plan for an existing pool look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping

from .devices import Candidates
from .match import Identity, Pairing, arrivals, pair, vacancies
from .model import VITAL, FoundPool, Group, Guards, Leaf, Pool, Vdev
from .read import Geometry, geometry_of


@dataclass(frozen=True)
class Scene:
    """One declared pool, what was found of it, and what is known of the devices that would come into it.

    :param candidates: the devices of :attr:`arrivals` and :attr:`vacancies`, looked at; none while these are not known.
    :param geometry: what the vdevs demand of a device, as :func:`read.read_geometry` gives it.
    """

    want: Pool
    have: FoundPool
    guards: Guards
    identity: Identity
    candidates: Candidates = field(default_factory=dict)
    geometry: Mapping[str, Geometry] = field(default_factory=dict)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The vdevs that count: one that is being removed is as good as gone."""
        return tuple(group for group in self.have.groups if group.name != self.have.removing)

    @property
    def pairing(self) -> Pairing:
        """The declared vdevs beside those of the pool."""
        return pair(self.want, self.groups, self.identity, self.guards.allow_remove)

    @property
    def arrivals(self) -> tuple[str, ...]:
        """Declared devices that are not in the pool."""
        return arrivals(self.want, self.pairing, self.identity)

    @property
    def vacancies(self) -> tuple[tuple[Group, Leaf, str], ...]:
        """Places of lost devices, with what is declared for them."""
        return vacancies(self.pairing, self.identity)

    def ashift(self, group: Group) -> int | None:
        """Sector size of a vdev, as a power of two."""
        found = geometry_of(group, self.geometry)
        return found.ashift if found else None

    def room(self, group: Group) -> int:
        """Bytes that a device must offer to join a vdev; 0 when it is not known."""
        found = geometry_of(group, self.geometry)
        return found.room if found else 0

    def common_ashift(self) -> int | None:
        """The one that all vdevs share whose loss is the loss of the pool; None when they differ or it is not known."""
        found = {self.ashift(group) for group in self.groups if group.use in VITAL}
        return found.pop() if len(found) == 1 else None

    def lacks(self, feature: str, what_for: str) -> str:
        """Why a feature of ZFS cannot be used on this pool; empty when it can, or when nothing is known of its features."""
        name, known = f"feature@{feature}", self.have.properties
        if not any(each.startswith("feature@") for each in known):
            return ""
        if name not in known:
            return f"ZFS on this host has no {feature}, which {what_for} needs: upgrade ZFS, or declare the vdevs the pool has."
        enabling = self.want.upgrade or self.want.properties.get(name) == "enabled"
        if known[name] == "disabled" and not enabling:
            return f"{name} is disabled on pool {self.want.name}, and {what_for} needs it: set {name}: enabled under properties."
        return ""

    def least_redundancy(self) -> int:
        """How many devices every data vdev of the pool survives."""
        return min((group.redundancy for group in self.groups if group.use == "data"), default=0)


def weaker(vdev: Vdev, least: int) -> str:
    """Why a vdev would make a pool weaker than its data vdevs are; empty when it would not."""
    if vdev.use not in VITAL or vdev.redundancy >= least:
        return ""
    return (
        f"losing {vdev.redundancy + 1} of its devices loses the whole pool, while the data vdevs survive {least}."
        f" Make it a mirror of {least + 1} devices, or set allow_redundancy_mismatch: true if you accept that."
    )
