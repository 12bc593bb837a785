# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes partition tables: one ``sfdisk`` a disk writes the whole table or none of it."""

from __future__ import annotations

import os
from typing import Callable

from .._errors import StackError
from .._plan import Step
from .._run import Runner
from .partitions import MIB, REST, WantedDisk
from .probe import carries, clear

# "Solaris /usr & Apple ZFS": the type OpenZFS itself gives to the partitions it makes.
_TYPE = "6A898CC3-1DD2-11B2-99A6-080020736631"


class Applier:
    """Takes the steps of the partition planner.

    :param exists: whether a path exists; udev makes the links after the table is written.
    """

    def __init__(self, runner: Runner, *, exists: Callable[[str], bool] = os.path.exists) -> None:
        self.runner = runner
        self.exists = exists

    def do(self, step: Step) -> None:
        """Take one step.

        :raises StackError: when a tool fails or the partitions do not appear.
        """
        if step.action == "wipe":
            clear(self.runner, step.data)
            self.settle(step.target)
        else:
            self.partition(step.data)

    def partition(self, disk: WantedDisk) -> None:
        found = carries(self.runner, disk.device)
        if found:
            raise StackError(
                f"Refusing to partition {disk.device}: since the plan was made it changed: {'; '.join(found)}."
                " Look at it before you run again"
            )
        argv = ["sfdisk", "--wipe", "always", "--wipe-partitions", "always", disk.device]
        self.runner.run(argv, stdin=script(disk))
        self.settle(disk.device)
        missing = [path for path in disk.paths if not self.exists(path)]
        if missing:
            raise StackError(
                f"the table is written, but udev made no {', '.join(missing)}; look at udevadm info {disk.device}, "
                "and name the disk by a link that has -part links"
            )

    def settle(self, device: str) -> None:
        """Let udev finish with the disk, so that the links of its partitions are there."""
        self.runner.run(["udevadm", "trigger", "--settle", os.path.realpath(device)], ok=(0, 1))
        self.runner.run(["udevadm", "settle", "--timeout=60"])


def script(disk: WantedDisk) -> str:
    """Return the table in sfdisk's own language; it aligns the partitions to 1 MiB."""
    lines = ["label: gpt"]
    for partition in disk.partitions:
        size = "" if partition.size == REST else f"size={partition.size // MIB}MiB, "
        lines.append(f'{size}type={_TYPE}, name="{partition.name}"')
    return "\n".join(lines) + "\n"
