# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pools as declared and as found."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Mapping

CLASSES = ("data", "special", "dedup", "log", "cache", "spare")
# Classes whose loss is the loss of the pool.
VITAL = ("data", "special", "dedup")


@dataclass(frozen=True)
class Vdev:
    """A declared group of devices.

    :param use: its class: one of ``CLASSES``.
    :param kind: ``mirror``, ``stripe``, ``raidz2``, ``draid1:4d:8c:1s``...; a stripe of n is n groups of one device here.
    """

    use: str
    kind: str
    devices: tuple[str, ...]

    @property
    def redundancy(self) -> int:
        """How many of its devices may be lost."""
        return redundancy(self.kind, len(self.devices))

    @property
    def shape(self) -> tuple[str, int]:
        """Type and width: what should be alike among the data vdevs of a pool."""
        return self.kind.split(":")[0], len(self.devices)

    @property
    def label(self) -> str:
        """How a sentence names it."""
        kind = "disk" if self.kind == "stripe" else f"{self.kind} of"
        return f"{self.use} {kind} {', '.join(self.devices)}"

    @property
    def argv(self) -> tuple[str, ...]:
        """How ``zpool create`` and ``zpool add`` take it."""
        use = () if self.use == "data" else (self.use,)
        return (*use, *(() if self.kind == "stripe" else (self.kind,)), *self.devices)


@dataclass(frozen=True)
class Pool:
    """A pool as declared.

    :param vdevs: the whole layout; without any only the rest is managed.
    :param online: devices that were taken offline and shall be used again.
    :param offline: devices that shall not be used.
    :param activities: what to start: ``scrub``, ``trim``, ``initialize``.
    :param checkpoint: whether to take a checkpoint before a vdev is added.
    """

    name: str
    vdevs: tuple[Vdev, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    filesystem_properties: Mapping[str, str] = field(default_factory=dict)
    online: tuple[str, ...] = ()
    offline: tuple[str, ...] = ()
    activities: tuple[str, ...] = ()
    upgrade: bool = False
    checkpoint: bool = False

    @property
    def devices(self) -> tuple[str, ...]:
        """Every declared device, in order."""
        return tuple(device for vdev in self.vdevs for device in vdev.devices)


@dataclass(frozen=True)
class Guards:
    """What the user confirmed, and what is known of the devices.

    :param wipe: real paths of the devices whose content may be lost.
    :param pending: declared paths that an earlier task of this run will create; only for a plan that is not carried out.
    :param allow_remove: vdevs by name, and devices by path or GUID, that may be taken out of the pool.
    :param force_import: GUID of the pool that may be imported although another host used it last.
    :param confirm: GUID of the pool that may be destroyed.
    """

    wipe: frozenset[str] = frozenset()
    pending: frozenset[str] = frozenset()
    allow_redundancy_mismatch: bool = False
    allow_mixed_ashift: bool = False
    allow_remove: tuple[str, ...] = ()
    force_import: str = ""
    confirm: str = ""


@dataclass(frozen=True)
class Leaf:
    """One device as the pool shows it.

    :param name: its path, or its GUID where it is lost.
    :param was: where a lost device was last seen.
    :param initialized: ``no``, ``running`` or ``done``; empty when that was not asked.
    :param trimmed: the same of trimming; ``unsupported`` where the device cannot.
    """

    name: str
    state: str = ""
    guid: str = ""
    was: str = ""
    initialized: str = ""
    trimmed: str = ""

    @property
    def path(self) -> str:
        """Where it is, or was last seen."""
        return self.was or self.name

    @property
    def names(self) -> tuple[str, ...]:
        """Everything it may be called by."""
        return tuple(name for name in (self.name, self.was, self.guid) if name)


@dataclass(frozen=True)
class Member:
    """One place in a group.

    :param leaves: the device; more than one while it is being replaced or a spare stands in for it.
    :param standing: ``replacing`` or ``spare`` then.
    """

    leaves: tuple[Leaf, ...]
    state: str
    standing: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """Every name its devices are shown by."""
        return tuple(name for leaf in self.leaves for name in (leaf.name, leaf.was) if name)


@dataclass(frozen=True)
class Group:
    """A top-level vdev that was found; a single disk is a group of one.

    :param size: bytes it can hold, where the output tells; so is ``allocated``.
    """

    use: str
    kind: str
    name: str
    state: str
    members: tuple[Member, ...]
    guid: str = ""
    size: int | None = None
    allocated: int | None = None

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """Its devices."""
        return tuple(leaf for member in self.members for leaf in member.leaves)

    @property
    def redundancy(self) -> int:
        """How many of its devices may be lost."""
        return redundancy(self.kind, len(self.members))

    @property
    def shape(self) -> tuple[str, int]:
        """Type and width."""
        return self.kind.split(":")[0], len(self.members)

    @property
    def label(self) -> str:
        """How a sentence names it."""
        paths = ", ".join("/".join(member.paths) for member in self.members)
        return f"{self.use} disk {paths}" if self.kind == "stripe" else f"{self.use} {self.name} ({paths})"


@dataclass(frozen=True)
class Scan:
    """A scrub or resilver, running or past.

    :param kind: ``scrub``, ``resilver``, or empty when there never was one.
    :param state: ``running``, ``paused``, ``finished`` or ``canceled``.
    :param percent: how far it is.
    """

    kind: str = ""
    state: str = ""
    percent: float = 0.0


@dataclass(frozen=True)
class FoundPool:
    """A pool that is imported, or could be.

    :param removing: name of the vdev whose data is being moved away.
    :param expanding: name of the raidz that a disk is being added to.
    """

    name: str
    state: str
    groups: tuple[Group, ...]
    properties: Mapping[str, str] = field(default_factory=dict)
    guid: str = ""
    scan: Scan = Scan()
    removing: str = ""
    expanding: str = ""
    errors: str = ""

    @property
    def checkpointed(self) -> bool:
        """Whether it has a checkpoint."""
        return self.properties.get("checkpoint", "-") not in {"-", ""}

    def of(self, *uses: str) -> tuple[Group, ...]:
        """Its groups of these classes."""
        return tuple(group for group in self.groups if group.use in uses)


@dataclass(frozen=True)
class Importable:
    """A pool that lies on attached devices but is not imported.

    :param other_host: it was last used by another system and not exported there.
    :param in_use: another system uses it now, as its multihost protection tells.
    """

    pool: FoundPool
    other_host: bool = False
    in_use: bool = False

    @property
    def name(self) -> str:
        """Name of the pool."""
        return self.pool.name

    @property
    def guid(self) -> str:
        """Number it is imported by."""
        return self.pool.guid


def redundancy(kind: str, width: int) -> int:
    """How many devices a group may lose."""
    if kind == "mirror":
        return width - 1
    digits = re.match(r"^(?:raidz|draid)([123])", kind)
    return int(digits.group(1)) if digits else 0
