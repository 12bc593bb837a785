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


def declared_aliases(path: str) -> frozenset[str]:
    """The names a declared device may be known by."""
    return frozenset({path, os.path.realpath(path)})


def member_aliases(path: str, *, sysfs: str = _SYSFS) -> frozenset[str]:
    """The names a member of a pool may be declared by.

    ZFS given a whole disk partitions it (1 holds data, 9 is a reserve) and from then on shows partition 1: that member
    answers to the disk's name too. A member that is gone answers to the path it was last seen at.
    """
    real = os.path.realpath(path)
    names = {path, real}
    disk = whole_disk(real, sysfs=sysfs)
    if disk:
        names.add(disk)
    if not Path(path).exists():
        names.add(_PART_SUFFIX.sub("", path))
    return frozenset(names)


def whole_disk(real: str, *, sysfs: str = _SYSFS) -> str:
    """The disk that ZFS was given whole when this is its partition 1; empty for anything else."""
    entry = Path(sysfs, _sys_name(real))
    if _partition_number(entry) != "1":
        return ""
    disk = entry.resolve().parent
    reserve = any(_partition_number(child) == "9" for child in disk.glob(f"{disk.name}*9"))
    return f"/dev/{disk.name.replace('!', '/')}" if reserve else ""


def parent_disk(real: str, *, sysfs: str = _SYSFS) -> str:
    """The disk a partition belongs to; empty for anything that is not a partition."""
    entry = Path(sysfs, _sys_name(real))
    return f"/dev/{entry.resolve().parent.name.replace('!', '/')}" if _partition_number(entry) else ""


def _sys_name(real: str) -> str:
    return real[len("/dev/") :].replace("/", "!") if real.startswith("/dev/") else "-"


def _partition_number(entry: Path) -> str:
    try:
        return (entry / "partition").read_text(encoding="ascii").strip()
    except OSError:
        return ""
