# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Advice on a layout, with figures. It never stops anything."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping, Sequence

from ..values import show_size
from .devices import Candidates
from .model import VITAL, FoundPool, Group, Pool, Vdev

# What the ARC keeps for each block on a cache device: l2arc_hdr in OpenZFS's arc_impl.h, 96 bytes since 0.7.
_HEADER = 96
# A share of the ARC that is better spent on data than on the index of a slower cache.
_HEADER_SHARE = 0.25
# Beyond it the allocator looks for the best place rather than the first: zpoolconcepts and metaslab_lba_weighting agree on 80 %.
_POOL_FULL = 80
# A full special vdev sends metadata to the data vdevs; there must be time to add one.
_SPECIAL_FULL = 75
# Not more than three transaction groups are open, quiescing or syncing at a time, each of at most the dirty data limit.
_GROUPS_IN_FLIGHT = 3
_LOG_PLENTY = 16 << 30
_DEFAULT_BLOCK = 128 << 10


@dataclass(frozen=True)
class DatasetFacts:
    """What matters of a dataset: the size of its blocks, and what it leaves to chance."""

    name: str
    block: int
    sync: str = "standard"
    secondarycache: str = "all"


@dataclass(frozen=True)
class Host:
    """What is known of the machine; zero is unknown.

    :param memory: bytes of RAM.
    :param arc: bytes the ARC may grow to.
    :param dirty: bytes that may wait to be written: zfs_dirty_data_max.
    :param sizes: bytes of devices, by the name the pool shows.
    :param sectors: physical sector sizes of disks, by the name the pool shows.
    """

    memory: int = 0
    arc: int = 0
    dirty: int = 0
    datasets: Sequence[DatasetFacts] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    sectors: Mapping[str, int] = field(default_factory=dict)


def advise_pool(have: FoundPool, host: Host) -> list[str]:
    """Advice on a pool that exists."""
    name = have.name
    cache = sum(_size(group, host) for group in have.of("cache"))
    logs = [_size(group, host) for group in have.of("log")]
    found = [_full(have), *(_vdev_full(name, group) for group in have.of("special", "dedup")), *_cache(name, cache, host)]
    found += [_log(name, sum(logs), host), _sectors(have, host), _sync(name, host)]
    return [each for each in found if each]


def advise_layout(want: Pool, candidates: Candidates, host: Host) -> list[str]:
    """Advice on a pool that is still to be created."""
    sizes = {path: candidate.device.size for path, candidate in candidates.items()}
    cache = sum(sizes.get(vdev.devices[0], 0) for vdev in want.vdevs if vdev.use == "cache")
    logs = sum(min(sizes.get(device, 0) for device in vdev.devices) for vdev in want.vdevs if vdev.use == "log")
    redundant = any(vdev.use == "data" and vdev.redundancy for vdev in want.vdevs)
    weak = [_single_log(want.name, vdev) for vdev in want.vdevs if vdev.use == "log" and not vdev.redundancy and redundant]
    return [each for each in (*weak, *_cache(want.name, cache, host), _log(want.name, logs, host)) if each]


def _single_log(pool: str, vdev: Vdev) -> str:
    return f"Pool {pool}: the {vdev.label} has no mirror; if it fails together with the host, seconds of synchronous writes are lost."


def _size(group: Group, host: Host) -> int:
    known = [host.sizes[leaf.name] for leaf in group.leaves if leaf.name in host.sizes]
    return group.size or min(known, default=0)


def _full(have: FoundPool) -> str:
    capacity = have.properties.get("capacity", "")
    if not capacity.isdigit() or int(capacity) <= _POOL_FULL:
        return ""
    free = have.properties.get("free", "")
    left = f" ({show_size(int(free))} free)" if free.isdigit() else ""
    return f"Pool {have.name} is {capacity} % full{left}: over {_POOL_FULL} % writing gets slow. Delete data, or add a vdev."


def _vdev_full(pool: str, group: Group) -> str:
    if not group.size or group.allocated is None or group.allocated * 100 <= group.size * _SPECIAL_FULL:
        return ""
    return (
        f"Pool {pool}: {group.label} is {group.allocated * 100 // group.size} % full ({show_size(group.allocated)} of"
        f" {show_size(group.size)}); when it is full, its blocks go to the data vdevs. Add another, or lower special_small_blocks."
    )


def _cache(pool: str, size: int, host: Host) -> list[str]:
    """Headers of a full cache against the ARC, for the smallest blocks that may go there."""
    used = [each for each in host.datasets if each.secondarycache == "all"]
    smallest = min(used, key=lambda each: each.block, default=DatasetFacts("datasets with the default recordsize", _DEFAULT_BLOCK))
    headers = size // smallest.block * _HEADER if smallest.block else 0
    if not host.arc or headers <= host.arc * _HEADER_SHARE:
        return []
    return [
        f"Pool {pool}: a full cache of {rough(size)} in blocks of {show_size(smallest.block)} ({smallest.name}) takes {rough(headers)}"
        f" of the {rough(host.arc)} that the ARC may have, {_HEADER} bytes a block. Make the cache smaller, or set secondarycache=metadata"
        " there."
    ]


def _log(pool: str, size: int, host: Host) -> str:
    dirty = host.dirty or host.memory // 10
    if not size or not dirty:
        return ""
    waiting = f"at most {rough(dirty)} of data wait to be written (zfs_dirty_data_max, a tenth of RAM)"
    told = f"Pool {pool}: the log has {rough(size)}, and {waiting}"
    if size < dirty:
        return f"{told}: synchronous writes will wait for the data vdevs. Make it at least {rough(dirty * _GROUPS_IN_FLIGHT)}."
    plenty = max(_LOG_PLENTY, dirty * _GROUPS_IN_FLIGHT)
    return f"{told}: more than {rough(plenty)} is never used. Give the rest to a special vdev." if size > plenty else ""


def _sectors(have: FoundPool, host: Host) -> str:
    found: dict[int, list[str]] = {}
    for group in have.of(*VITAL):
        for leaf in group.leaves:
            if leaf.name in host.sectors:
                found.setdefault(host.sectors[leaf.name], []).append(leaf.path)
    if len(found) < 2:
        return ""
    told = "; ".join(f"{size} bytes: {', '.join(paths)}" for size, paths in sorted(found.items()))
    return (
        f"Pool {have.name} has devices of unlike physical sectors ({told}): with ashift below the largest, each small write is read first."
    )


def _sync(pool: str, host: Host) -> str:
    loose = [each.name for each in host.datasets if each.sync == "disabled"]
    if not loose:
        return ""
    return (
        f"Pool {pool}: sync=disabled on {', '.join(loose)}: what was acknowledged in the last seconds is lost at a power cut, also to NFS"
        " clients and virtual machines. Set sync=standard unless all of it can be made again."
    )


def rough(size: int) -> str:
    """Bytes for a person: to a tenth, in the largest fitting unit."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size >= 1024**power:
            return f"{size / 1024**power:.1f} {unit}"
    return f"{size} bytes"
