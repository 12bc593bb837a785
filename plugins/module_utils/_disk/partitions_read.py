# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Partition tables as they are, by ``sfdisk --json``. No decision here."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Iterable

from .._run import Runner
from .partitions import Disk, Partition, State, Table, WantedDisk
from .partitions_plan import matches
from .probe import contents, probe

_NO_TABLE = "does not contain a recognized partition table"


def read_state(runner: Runner, wanted: Iterable[WantedDisk]) -> State:
    """Read the disks the user declares: one ``lsblk``, one ``sfdisk`` a disk, one ``wipefs`` for each that differs."""
    disks = tuple(wanted)
    devices = probe(runner, [disk.device for disk in disks])
    found = {}
    for disk in disks:
        current = Disk(devices[disk.device])
        if current.device.kind == "disk":
            current = replace(current, table=read_table(runner, disk.device))
            if not matches(current.table, disk.partitions):
                current = replace(current, contents=tuple(contents(runner, current.device)))
        found[disk.device] = current
    return State(found)


def read_table(runner: Runner, device: str) -> Table | None:
    """Read one table; None where there is none, or where sfdisk is still to be installed."""
    if not runner.has("sfdisk"):
        return None
    ended = runner.run(["sfdisk", "--json", device], ok=(0, 1))
    if ended.rc == 1 and _NO_TABLE not in ended.stderr:
        return Table("unreadable", ())
    return parse_table(ended.stdout) if ended.rc == 0 else None


def parse_table(text: str) -> Table:
    """Read the output of ``sfdisk --json``; partitions come in the order of their numbers."""
    raw = json.loads(text)["partitiontable"]
    sector = int(raw.get("sectorsize", 512))
    rows = raw.get("partitions", [])
    end = max((int(row["start"]) + int(row["size"]) for row in rows), default=0)
    last = int(raw.get("lastlba", 0)) + 1
    partitions = tuple(Partition(str(row.get("name", "")), int(row["size"]) * sector) for row in rows)
    return Table(str(raw["label"]), partitions, slack=max(0, last - end) * sector if rows else 0)
