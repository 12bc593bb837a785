# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""GPT partitions, as found and as wanted."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Iterable, Mapping

from .._errors import BadInput
from .probe import BlockDevice

MIB = 1 << 20
REST = 0
_UNITS = {"MIB": MIB, "GIB": 1 << 30, "TIB": 1 << 40}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,35}")


@dataclass(frozen=True)
class Partition:
    """A partition by what the user declares of it.

    :param size: bytes; :data:`REST` means up to the end of the disk.
    """

    name: str
    size: int

    def __str__(self) -> str:
        return f"{self.name} ({format_size(self.size)})"


@dataclass(frozen=True)
class Table:
    """A partition table as ``sfdisk`` reads it.

    :param kind: ``gpt``, ``dos``...
    :param slack: bytes between the end of the last partition and the last usable byte.
    """

    kind: str
    partitions: tuple[Partition, ...]
    slack: int = 0

    def __str__(self) -> str:
        return f"{self.kind} with {', '.join(str(each) for each in self.partitions) or 'no partitions'}"


@dataclass(frozen=True)
class Disk:
    """A disk as found.

    :param device: what it is and what uses it.
    :param table: its partition table, if it has one.
    :param contents: what else it carries, as phrases; only looked for where the table is not the declared one.
    """

    device: BlockDevice
    table: Table | None = None
    contents: tuple[str, ...] = ()


@dataclass(frozen=True)
class WantedDisk:
    """The partitions a disk shall have, in this order and no others."""

    device: str
    partitions: tuple[Partition, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """The links udev makes for the partitions."""
        return tuple(f"{self.device}-part{number}" for number in range(1, len(self.partitions) + 1))


@dataclass(frozen=True)
class State:
    """The disks found, by the path they were asked for by."""

    disks: Mapping[str, Disk] = field(default_factory=dict)


def format_size(size: int) -> str:
    """Write a size the way it is declared."""
    if size == REST:
        return "rest"
    for unit in ("TiB", "GiB", "MiB"):
        if size % _UNITS[unit.upper()] == 0:
            return f"{size // _UNITS[unit.upper()]}{unit}"
    return f"{size} bytes"


def parse_size(text: str, *, where: str) -> int:
    """Read ``8GiB`` or ``rest``.

    :raises BadInput: naming the partition.
    """
    if text.strip().lower() == "rest":
        return REST
    found = re.match(r"^\s*([1-9][0-9]*)\s*(MiB|GiB|TiB)\s*$", text, re.IGNORECASE)
    if not found:
        raise BadInput(f"The size {text!r} of {where} is not understood. Write whole MiB, GiB or TiB, such as 8GiB, or rest.")
    return int(found[1]) * _UNITS[found[2].upper()]


def parse_disks(options: Iterable[Mapping[str, Any]]) -> tuple[WantedDisk, ...]:
    """Check the option ``disks`` and return what it declares.

    :raises BadInput: at the first fault.
    """
    disks = tuple(_disk(option) for option in options)
    devices = [disk.device for disk in disks]
    for device in devices:
        if devices.count(device) > 1:
            raise BadInput(f"The disk {device} is declared {devices.count(device)} times in disks. Declare it once, with all partitions.")
    return disks


def _disk(option: Mapping[str, Any]) -> WantedDisk:
    device = option["device"]
    if not device.startswith("/dev/disk/by-"):
        raise BadInput(
            f"The disk {device} is named by a path that may change from boot to boot. Name it by its link below /dev/disk/by-id "
            f"(ls -l /dev/disk/by-id shows which one leads to {device})."
        )
    partitions = tuple(_partition(entry, device) for entry in option["partitions"])
    names = [each.name for each in partitions]
    for partition in partitions:
        if names.count(partition.name) > 1:
            raise BadInput(
                f"The disk {device} declares the partition {partition.name} {names.count(partition.name)} times. Name each apart."
            )
    if not partitions:
        raise BadInput(f"The disk {device} declares no partitions. List at least one, or leave the disk out.")
    if any(each.size == REST for each in partitions[:-1]):
        raise BadInput(f"Only the last partition of {device} can take the rest of the disk. Move it to the end, or give it a size.")
    return WantedDisk(device, partitions)


def _partition(entry: Mapping[str, Any], device: str) -> Partition:
    name = entry["name"]
    if not _NAME.fullmatch(name):
        raise BadInput(f"The partition name {name!r} of {device} may hold letters, digits and . _ - only, at most 36 of them.")
    return Partition(name, parse_size(entry["size"], where=f"partition {name} of {device}"))
