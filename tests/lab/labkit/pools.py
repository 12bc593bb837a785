# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pools that a test makes by hand, for what is not about making them."""

from __future__ import annotations

from labkit.lab import Lab


def make_pool(lab: Lab, machine: str, words: str) -> None:
    """Make a pool on whole disks.

    udev reads the partition table that ZFS has just written again, and ZFS calls a disk unavailable whose partitions are gone for that
    moment (github.com/openzfs/zfs/issues/3708): it is tried once more, as the module zfs_pool does.

    :param words: what follows ``zpool create``.
    :raises LabError: the pool cannot be made.
    """
    create = f"zpool create -f {words}"
    lab.ssh(machine, f"{create} || {{ udevadm settle && {create}; }}")
