# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a block device is and what it carries: asked before anything is written to it."""

from __future__ import annotations

import errno
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator

from .._errors import CommandFailed, StackError
from .._run import Runner

_COLUMNS = "KNAME,PKNAME,TYPE,SIZE,RO,LOG-SEC,PHY-SEC,MOUNTPOINTS"


@dataclass(frozen=True)
class BlockDevice:
    """A device or a file used as one.

    :param path: the path it was asked for by.
    :param real: the same without symbolic links: the identity to compare by.
    :param kind: ``disk``, ``part``, ``lvm``, ``loop``..., ``file``, ``missing``, or ``other`` for what can hold no data.
    :param size: bytes.
    :param sector: bytes of a physical sector.
    :param logical: bytes of the smallest write it takes.
    :param parent: real path of the disk a partition belongs to; empty for anything else.
    :param partitions: real paths of its partitions.
    :param holders: real paths of what is stacked on it or its partitions: LVM, RAID, dm-crypt, multipath.
    :param mountpoints: where it, its partitions or what is stacked on it are mounted; ``[SWAP]`` for swap space.
    :param busy: the kernel says that something holds it, or one of its partitions, exclusively: a file system, a pool, a target.
    """

    path: str
    real: str
    kind: str
    size: int = 0
    sector: int = 512
    read_only: bool = False
    parent: str = ""
    partitions: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    mountpoints: tuple[str, ...] = ()
    busy: bool = False
    logical: int = 512

    @property
    def exists(self) -> bool:
        """Whether there is anything at the path."""
        return self.kind != "missing"


@dataclass(frozen=True)
class Row:
    """One device as ``lsblk`` shows it."""

    real: str
    kind: str
    size: int
    sector: int
    read_only: bool
    parents: tuple[str, ...]
    mountpoints: tuple[str, ...]
    logical: int = 512


@dataclass(frozen=True)
class Signature:
    """Something recognisable written on a device.

    :param kind: ``gpt``, ``ext4``, ``zfs_member``... as ``wipefs`` names it.
    """

    kind: str
    label: str = ""


def probe(runner: Runner, paths: Iterable[str], *, busy: Callable[[str], bool] | None = None) -> dict[str, BlockDevice]:
    """Look at devices with one process, whatever their number.

    :param busy: tells whether a block device is held exclusively; the kernel is asked by default.
    :returns: by path as given; a path where there is nothing has the kind ``missing``.
    """
    wanted = list(paths)
    if not wanted:
        return {}
    rows = parse_lsblk(runner.run(["lsblk", "--json", "--bytes", "--output", _COLUMNS]).stdout)
    return {path: _describe(path, rows, busy or is_busy) for path in wanted}


def parse_lsblk(text: str) -> dict[str, Row]:
    """Read the output of ``lsblk --json --bytes`` by real path; a device with two parents comes as two rows."""
    rows: dict[str, Row] = {}
    for raw in _flat(json.loads(text).get("blockdevices", [])):
        real = f"/dev/{raw['kname'].replace('!', '/')}"
        known = rows[real].parents if real in rows else ()
        parent = (f"/dev/{raw['pkname'].replace('!', '/')}",) if raw.get("pkname") else ()
        rows[real] = Row(
            real=real,
            kind=str(raw.get("type") or "disk"),
            size=int(raw.get("size") or 0),
            sector=int(raw.get("phy-sec") or 512),
            read_only=str(raw.get("ro")).lower() in {"true", "1"},
            parents=known + parent,
            mountpoints=tuple(mount for mount in raw.get("mountpoints") or () if mount),
            logical=int(raw.get("log-sec") or 512),
        )
    return rows


def _flat(nodes: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for node in nodes:
        yield node
        yield from _flat(node.get("children", []))


def _describe(path: str, rows: dict[str, Row], busy: Callable[[str], bool]) -> BlockDevice:
    real = os.path.realpath(path)
    try:
        found = Path(real).stat()
    except OSError:
        return BlockDevice(path=path, real=real, kind="missing")
    if stat.S_ISREG(found.st_mode):
        return BlockDevice(path=path, real=real, kind="file", size=found.st_size)
    if not stat.S_ISBLK(found.st_mode):
        return BlockDevice(path=path, real=real, kind="other")
    row = rows.get(real) or Row(real, "disk", 0, 512, False, (), ())
    return describe_row(path, row, rows, is_held=busy(real))


def describe_row(path: str, row: Row, rows: dict[str, Row], *, is_held: bool) -> BlockDevice:
    """Put together what the rows tell about one device."""
    above = list(_above(row.real, rows))
    partitions = tuple(other.real for other in above if other.kind == "part" and row.real in other.parents)
    mounts = [mount for each in [row, *above] for mount in each.mountpoints]
    return BlockDevice(
        path=path,
        real=row.real,
        kind=row.kind,
        size=row.size,
        sector=row.sector,
        read_only=row.read_only,
        parent=row.parents[0] if row.kind == "part" and row.parents else "",
        partitions=partitions,
        holders=tuple(other.real for other in above if other.real not in partitions),
        mountpoints=tuple(dict.fromkeys(mounts)),
        busy=is_held,
        logical=row.logical,
    )


def _above(real: str, rows: dict[str, Row]) -> Iterator[Row]:
    for row in rows.values():
        if real in row.parents:
            yield row
            yield from _above(row.real, rows)


def is_busy(real: str) -> bool:
    """Whether the kernel refuses an exclusive open: something uses the device or a partition of it."""
    try:
        descriptor = os.open(real, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        return error.errno == errno.EBUSY
    os.close(descriptor)
    return False


def uses(device: BlockDevice) -> list[str]:
    """What is using the device now, as phrases; a device in use is never written to, whatever was confirmed."""
    found = []
    if device.mountpoints:
        found.append("it is mounted on " + ", ".join(device.mountpoints))
    if device.holders:
        found.append("it is held by " + ", ".join(device.holders))
    if device.busy and not found:
        found.append("it is in use (an imported pool, a mount, RAID, LVM or an iSCSI target holds it)")
    return found


def signatures(runner: Runner, path: str) -> tuple[Signature, ...]:
    """Read from the device itself, not from udev's memory, every signature on it."""
    text = runner.run(["wipefs", "--json", path]).stdout.strip()
    raw = json.loads(text).get("signatures", []) if text else []
    found = [Signature(kind=str(each.get("type") or "unknown"), label=str(each.get("label") or "")) for each in raw]
    return tuple(dict.fromkeys(found))


def contents(runner: Runner, device: BlockDevice) -> list[str]:
    """What the device carries, as phrases: nothing at all is the only state that may be written to unasked."""
    found = [_phrase("it", signature) for signature in signatures(runner, device.real)]
    for part in device.partitions:
        found.extend(_phrase(Path(part).name, signature) for signature in signatures(runner, part))
    if device.partitions:
        found.insert(0, f"it has partitions ({', '.join(Path(each).name for each in device.partitions)})")
    return list(dict.fromkeys(found))


def carries(runner: Runner, path: str) -> list[str]:
    """What speaks against writing to a disk at this moment, as phrases; one process."""
    busy = ["it is in use"] if is_busy(path) else []
    return [*busy, *dict.fromkeys(_phrase("it", signature) for signature in signatures(runner, path))]


def _phrase(subject: str, signature: Signature) -> str:
    named = f" named {signature.label}" if signature.label else ""
    return f"{subject} {_WORDS.get(signature.kind, f'carries {signature.kind}')}{named}"


_WORDS = {
    "PMBR": "has a partition table (gpt)",
    "gpt": "has a partition table (gpt)",
    "dos": "has a partition table (dos)",
    "zfs_member": "carries a ZFS pool",
    "LVM2_member": "is an LVM physical volume",
    "linux_raid_member": "is a member of a RAID array",
    "crypto_LUKS": "is a LUKS container",
    "swap": "is swap space",
}


def clear(runner: Runner, device: BlockDevice) -> None:
    """Erase every signature of the device and of its partitions; their content is lost.

    :raises StackError: when the device is in use.
    """
    if uses(device):
        raise StackError(f"Refusing to erase {device.path}: {'; '.join(uses(device))}. Stop what uses it first.")
    for position, path in enumerate([*device.partitions, device.real]):
        try:
            _clear_one(runner, path)
        except CommandFailed as error:
            begun = f". {', '.join(device.partitions[:position])} of it are erased already" if position else ""
            raise StackError(f"{error}{begun}") from error
    if runner.has("udevadm"):  # the nodes of erased partitions go away only when udev has been told
        runner.run(["udevadm", "settle"])


def _clear_one(runner: Runner, path: str) -> None:
    """Erase the signatures of one device or partition.

    wipefs leaves parts of a ZFS label behind by which zpool would still know the old pool. labelclear ends with 1 where
    there is no label and with 255 where a label would not fit.
    """
    if runner.has("zpool"):
        runner.run(["zpool", "labelclear", "-f", path], ok=(0, 1, 255))
    runner.run(["wipefs", "--all", "--force", path])
