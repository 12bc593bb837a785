# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the partition tables found to those declared: an empty disk is partitioned, any other difference is refused."""

from __future__ import annotations

import os
from typing import Any, Collection, Iterable

from .._plan import Plan, Refusal, Step
from .partitions import MIB, REST, Disk, Partition, State, Table, WantedDisk, format_size
from .probe import uses

# The first partition starts at 1 MiB; the backup table and the alignment of the end take another one.
_OVERHEAD = 2 * MIB


def plan(state: State, wanted: Iterable[WantedDisk], wipe: Collection[str]) -> Plan:
    """Plan all disks.

    :param wipe: disks whose present content may be lost, by any of their paths.
    """
    steps: list[Step] = []
    refusals: list[Refusal] = []
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    confirmed = {os.path.realpath(path) for path in wipe} | set(wipe)
    seen: dict[str, str] = {}
    for want in wanted:
        found = state.disks[want.device]
        other = seen.setdefault(found.device.real, want.device)
        if other != want.device and found.device.exists:
            twice = f"{other} and {want.device} are the same disk. Declare it once, with all its partitions."
            refusals.append(Refusal(want.device, twice))
            continue
        if matches(found.table, want.partitions):
            continue
        reason = _refusal(found, want, may_wipe=not confirmed.isdisjoint({want.device, found.device.real}))
        if reason:
            refusals.append(Refusal(want.device, reason))
            continue
        steps += _steps(found, want)
        before[want.device] = str(found.table) if found.table else "; ".join(found.contents) or "empty"
        after[want.device] = str(Table("gpt", want.partitions))
    return Plan(steps=tuple(steps), refusals=tuple(refusals), before=before, after=after)


def matches(table: Table | None, partitions: tuple[Partition, ...]) -> bool:
    """Whether a table is the declared one: as many partitions, the same names in the same order, the same sizes."""
    if table is None or table.kind != "gpt" or len(table.partitions) != len(partitions):
        return False
    return all(
        have.name == want.name and (have.size == want.size or (want.size == REST and table.slack < 2 * MIB))
        for have, want in zip(table.partitions, partitions)
    )


def _refusal(found: Disk, want: WantedDisk, *, may_wipe: bool) -> str:
    device = found.device
    if not device.exists:
        return (
            f"The disk {want.device} does not exist on this host. Correct its name under partitions (ls -l /dev/disk/by-id lists "
            "what is there), or attach it."
        )
    if device.kind != "disk":
        return f"{want.device} is a {device.kind}, and only whole disks are partitioned. Name the disk."
    if device.read_only:
        return f"The disk {want.device} is read-only. Unlock it, or name another."
    carried = _carried(found)
    if uses(device):
        return (
            f"Refusing to partition {want.device}: {'; '.join(uses(device))}{_differs(found, want)}. "
            "Declare the partitions it has, or free the disk first; wipe does not override this."
        )
    if carried and not may_wipe:
        return (
            f"Refusing to partition {want.device}: {'; '.join(carried)}{_differs(found, want)}. Declare the partitions it has, "
            f"name another disk, or list {want.device} under wipe to destroy what is on it."
        )
    return _too_small(found, want)


def _carried(found: Disk) -> list[str]:
    """What would be lost: the table always counts, even where no other signature was found."""
    if found.table and found.table.kind == "unreadable":
        return [*found.contents, "it has a partition table that cannot be read"]
    return list(found.contents) or (["it has a partition table"] if found.table else [])


def _differs(found: Disk, want: WantedDisk) -> str:
    if not found.table or found.table.kind == "unreadable":
        return ""
    return f" (found {found.table}; declared {Table('gpt', want.partitions)})"


def _too_small(found: Disk, want: WantedDisk) -> str:
    """Whether the partitions fit; the rest must leave something to take."""
    needed = sum(each.size or MIB for each in want.partitions) + _OVERHEAD
    if needed <= found.device.size:
        return ""
    return (
        f"The partitions declared for {want.device} need {format_size(needed)} with the tables, and it has "
        f"{format_size(found.device.size // MIB * MIB)}. Declare smaller ones."
    )


def _steps(found: Disk, want: WantedDisk) -> list[Step]:
    steps = []
    if _carried(found):
        steps.append(Step("wipe", want.device, f"Erase {want.device}: {'; '.join(_carried(found))}", found.device))
    listed = ", ".join(str(each) for each in want.partitions)
    steps.append(Step("partition", want.device, f"Partition {want.device} into {listed}", want))
    return steps
