# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the advice is based on: read from /proc and /sys in process, and from the datasets with one command."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Iterable

from ..._disk.identity import parent_disk
from ..._run import Runner
from ..read import ask
from .advise import DatasetFacts, Host
from .model import FoundPool, Group

_COLUMNS = ("recordsize", "volblocksize", "sync", "secondarycache")


def read_host(*, proc: str = "/proc", sys: str = "/sys") -> Host:
    """RAM, the limit of the ARC, and the limit of dirty data; no process."""
    memory = re.search(r"^MemTotal:\s+(\d+) kB", _text(f"{proc}/meminfo"), re.MULTILINE)
    arc = re.search(r"^c_max\s+\d+\s+(\d+)", _text(f"{proc}/spl/kstat/zfs/arcstats"), re.MULTILINE)
    dirty = _text(f"{sys}/module/zfs/parameters/zfs_dirty_data_max").strip()
    total = int(memory.group(1)) * 1024 if memory else 0
    # Before the module is loaded: OpenZFS takes half of the memory.
    return Host(memory=total, arc=int(arc.group(1)) if arc else total // 2, dirty=int(dirty) if dirty.isdigit() else 0)


def read_devices(host: Host, pool: FoundPool, *, sys: str = "/sys") -> Host:
    """Sizes and sectors of the devices of a pool; no process."""
    names = [leaf.name for group in pool.groups for leaf in group.leaves if leaf.name.startswith("/")]
    sizes = {name: _size(name, sys) for name in names}
    sectors = {name: _sector(name, sys) for name in names}
    return replace(
        host,
        sizes={name: size for name, size in sizes.items() if size},
        sectors={name: sector for name, sector in sectors.items() if sector},
    )


def read_datasets_of(runner: Runner, pool: str) -> list[DatasetFacts]:
    """Block sizes, sync and secondarycache of every dataset of a pool, with one process."""
    argv = ["zfs", "get", "-r", "-H", "-p", "-t", "filesystem,volume", "-o", "name,property,value", ",".join(_COLUMNS), pool]
    return parse_datasets(ask(runner, argv).stdout)


def parse_datasets(text: str) -> list[DatasetFacts]:
    """Read ``zfs get -H -p -o name,property,value``."""
    values: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        parts = line.split("\t")
        if len(parts) == 3:
            values.setdefault(parts[0], {})[parts[1]] = parts[2]
    return [
        DatasetFacts(name, _block(found), found.get("sync", "standard"), found.get("secondarycache", "all"))
        for name, found in values.items()
    ]


def _block(found: dict[str, str]) -> int:
    sizes = [found.get("recordsize", "-"), found.get("volblocksize", "-")]
    return next((int(size) for size in sizes if size.isdigit()), 0)


def read_usage(runner: Runner, pool: FoundPool) -> FoundPool:
    """How full the vdevs are, where the status does not tell (before ZFS 2.3): one process."""
    text = ask(runner, ["zpool", "list", "-H", "-p", "-P", "-v", "-o", "name,size,allocated", pool.name]).stdout
    found = parse_usage(text)
    return replace(pool, groups=tuple(_used(group, found) for group in pool.groups))


def parse_usage(text: str) -> dict[str, tuple[int, int]]:
    """Size and allocated bytes by the name of a vdev, from ``zpool list -v``."""
    found = {}
    for line in text.splitlines():
        parts = line.strip().split("\t")
        if len(parts) >= 3 and parts[1].isdigit():
            found[parts[0]] = (int(parts[1]), int(parts[2]) if parts[2].isdigit() else 0)
    return found


def _used(group: Group, found: dict[str, tuple[int, int]]) -> Group:
    size, allocated = found.get(group.name, (None, None))
    return replace(group, size=size, allocated=allocated)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _size(name: str, sys: str) -> int:
    real = os.path.realpath(name)
    blocks = _text(f"{sys}/class/block/{Path(real).name}/size").strip()
    if real.startswith("/dev/"):
        return int(blocks) * 512 if blocks.isdigit() else 0
    try:
        return Path(real).stat().st_size
    except OSError:
        return 0


def _sector(name: str, sys: str) -> int:
    real = os.path.realpath(name)
    disk = parent_disk(real, sysfs=f"{sys}/class/block") or real
    found = _text(f"{sys}/class/block/{Path(disk).name}/queue/physical_block_size").strip()
    return int(found) if found.isdigit() else 0


def names_in_use(pools: Iterable[FoundPool]) -> dict[str, str]:
    """The pool that each device belongs to, by every name the pools show.

    A device that is gone is left out: what is at its path now is another, or has to be looked at like one.
    """
    leaves = ((pool.name, leaf) for pool in pools for group in pool.groups for leaf in group.leaves)
    return {name: pool for pool, leaf in leaves if leaf.state != "UNAVAIL" for name in leaf.names}
