# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pools and datasets, as declared and as found."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence

from .._errors import BadInput
from .values import as_text

CLASSES = ("data", "special", "dedup", "log", "cache", "spare")
_POOL_NAME = re.compile(r"^(?!(?:mirror|raidz|draid|spare)|log$)[A-Za-z][A-Za-z0-9_.: -]*$")
_PROPERTY = re.compile(r"^[^\s,=]+$")
_KIND = re.compile(r"^(stripe|mirror|raidz[123]?|draid[123]?(:\d+[dcs])*)$")
_MINIMUM = {"mirror": 2, "raidz1": 2, "raidz2": 3, "raidz3": 4}


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
    def label(self) -> str:
        """How a sentence names it."""
        kind = "disk" if self.kind == "stripe" else f"{self.kind} of"
        return f"{self.use} {kind} {', '.join(self.devices)}"


@dataclass(frozen=True)
class Pool:
    """A pool as declared; without vdevs only its properties are managed."""

    name: str
    vdevs: tuple[Vdev, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    filesystem_properties: Mapping[str, str] = field(default_factory=dict)

    @property
    def devices(self) -> tuple[str, ...]:
        """Every declared device, in order."""
        return tuple(device for vdev in self.vdevs for device in vdev.devices)


@dataclass(frozen=True)
class Member:
    """One place in a group that was found.

    :param paths: the device; more than one while it is being replaced or a spare stands in for it.
    """

    paths: tuple[str, ...]
    state: str


@dataclass(frozen=True)
class Group:
    """A group of devices that was found; a single disk is a group of one."""

    use: str
    kind: str
    name: str
    state: str
    members: tuple[Member, ...]

    @property
    def label(self) -> str:
        """How a sentence names it."""
        paths = ", ".join("/".join(member.paths) for member in self.members)
        return f"{self.use} disk {paths}" if self.kind == "stripe" else f"{self.use} {self.name} ({paths})"


@dataclass(frozen=True)
class FoundPool:
    """An imported pool."""

    name: str
    state: str
    groups: tuple[Group, ...]
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Importable:
    """A pool that lies on attached devices but is not imported."""

    name: str
    guid: str


@dataclass(frozen=True)
class Value:
    """A property as found; the source is ``local``, ``default``, ``received``, ``inherited from x`` or ``-``."""

    text: str
    source: str


def redundancy(kind: str, width: int) -> int:
    """How many devices a group may lose."""
    if kind == "mirror":
        return width - 1
    digits = re.match(r"^(?:raidz|draid)([123])", kind)
    return int(digits.group(1)) if digits else 0


def declare_pool(
    name: str,
    *,
    vdevs: Sequence[Mapping[str, Any]],
    properties: Mapping[str, Any],
    filesystem_properties: Mapping[str, Any],
) -> Pool:
    """Check what was declared and give it one form.

    :raises BadInput: naming the option.
    """
    if not _POOL_NAME.match(name):
        raise BadInput(f"The pool name {name!r} is not one ZFS accepts: start with a letter, then letters, digits and _ . : -")
    groups = tuple(group for raw in vdevs for group in declare_vdev(raw))
    if groups and not any(group.use == "data" for group in groups):
        raise BadInput(f"Pool {name} has no data vdev: give at least one entry of vdevs the class data.")
    named = [device for group in groups for device in group.devices]
    for device in named:
        if named.count(device) > 1:
            raise BadInput(f"Pool {name}: {device} is listed twice under vdevs: a device belongs to one vdev.")
    return Pool(name, groups, texts(properties), texts(filesystem_properties))


def declare_vdev(raw: Mapping[str, Any]) -> list[Vdev]:
    """One entry of C(vdevs); a stripe becomes one group a device."""
    use, devices = str(raw.get("class") or "data"), tuple(str(device) for device in raw.get("devices") or ())
    kind = str(raw.get("type") or "stripe")
    if use not in CLASSES:
        raise BadInput(f"vdevs: the class {use!r} is not one of {', '.join(CLASSES)}.")
    if not _KIND.match(kind):
        raise BadInput(f"vdevs: the type {kind!r} is not one of stripe, mirror, raidz1, raidz2, raidz3, draid[1-3][:<n>d][:<n>c][:<n>s].")
    kind = re.sub(r"^(raidz|draid)(?![123])", r"\g<1>1", kind)
    if not devices:
        raise BadInput(f"vdevs: the {use} {kind} names no devices.")
    for device in devices:
        if not device.startswith("/"):
            raise BadInput(f"vdevs: {device!r} is not an absolute path: name devices like /dev/disk/by-id/..., which do not change.")
    if use in {"cache", "spare"} and kind != "stripe":
        raise BadInput(f"vdevs: a {use} vdev has no redundancy of its own: leave out the type {kind}.")
    if len(devices) < _MINIMUM.get(kind, 1):
        raise BadInput(f"vdevs: a {kind} takes at least {_MINIMUM[kind]} devices, {len(devices)} given: {', '.join(devices)}.")
    return [Vdev(use, kind, (device,)) for device in devices] if kind == "stripe" else [Vdev(use, kind, devices)]


def texts(properties: Mapping[str, Any]) -> dict[str, str]:
    """Properties as ZFS spells them."""
    for name in properties:
        if not _PROPERTY.match(str(name)):
            raise BadInput(f"{name!r} is not the name of a ZFS property.")
    return {str(name): as_text(str(name), value) for name, value in properties.items()}
