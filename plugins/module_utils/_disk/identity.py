# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which device a path means: compared by what it leads to, never by how it is spelled."""

from __future__ import annotations

import os
import re
from pathlib import Path

_SYSFS = "/sys/class/block"
_PART_SUFFIX = re.compile(r"(-part1|(?<=\d)p1|(?<=[a-z])1)$")
# How multipath-tools and kpartx name what they make of the device mapper.
_MAPPED_PART = re.compile(r"^part(\d+)-")
_MULTIPATH = "mpath-"


def declared_aliases(path: str, *, sysfs: str = _SYSFS) -> frozenset[str]:
    """The names a declared device may be known by: a path of a multipath device means that device."""
    real = os.path.realpath(path)
    return frozenset({path, real, *_multipath_over(real, sysfs)})


def member_aliases(path: str, *, sysfs: str = _SYSFS) -> frozenset[str]:
    """The names a member of a pool may be declared by.

    ZFS given a whole disk partitions it (1 holds data, 9 is a reserve) and from then on shows partition 1: that member
    answers to the disk's name too. A member that is gone answers to the path it was last seen at.
    """
    real = os.path.realpath(path)
    names = {path, real, *_multipath_over(real, sysfs)}
    for each in list(names):
        disk = whole_disk(each, sysfs=sysfs)
        if disk:
            names |= {disk, *_multipath_over(disk, sysfs)}
    if not Path(path).exists():
        names.add(_PART_SUFFIX.sub("", path))
    return frozenset(names)


def whole_disk(real: str, *, sysfs: str = _SYSFS) -> str:
    """The disk that ZFS was given whole when this is its partition 1; empty for anything else."""
    entry = Path(sysfs, _sys_name(real))
    if _partition_number(entry) != "1":
        return ""
    disk = _disk_of(entry)
    return _dev(disk) if disk and any(_partition_number(part) == "9" for part in _partitions(disk)) else ""


def parent_disk(real: str, *, sysfs: str = _SYSFS) -> str:
    """The disk a partition belongs to; empty for anything that is not a partition."""
    entry = Path(sysfs, _sys_name(real))
    disk = _disk_of(entry) if _partition_number(entry) else None
    return _dev(disk) if disk else ""


def _disk_of(entry: Path) -> Path | None:
    """The disk of a partition: its folder is below the disk's, that of a mapped one names the disk as its slave."""
    if (entry / "partition").exists():
        return entry.resolve().parent
    slaves = _names(entry / "slaves")
    return entry.parent / slaves[0] if len(slaves) == 1 else None


def _partitions(disk: Path) -> list[Path]:
    """The partitions of a disk; those of a mapped one are its holders."""
    return [*disk.glob(f"{disk.name}*"), *(disk.parent / name for name in _names(disk / "holders"))]


def _multipath_over(real: str, sysfs: str) -> list[str]:
    """The multipath device that has this disk as one of its paths."""
    entry = Path(sysfs, _sys_name(real))
    return [_dev(entry.parent / name) for name in _names(entry / "holders") if _mapped(entry.parent / name).startswith(_MULTIPATH)]


def _partition_number(entry: Path) -> str:
    mapped = _MAPPED_PART.match(_mapped(entry))
    return mapped.group(1) if mapped else _read(entry / "partition")


def _mapped(entry: Path) -> str:
    return _read(entry / "dm" / "uuid")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _names(folder: Path) -> list[str]:
    try:
        return sorted(each.name for each in folder.iterdir())
    except OSError:
        return []


def _dev(entry: Path) -> str:
    return f"/dev/{entry.name.replace('!', '/')}"


def _sys_name(real: str) -> str:
    return real[len("/dev/") :].replace("/", "!") if real.startswith("/dev/") else "-"
