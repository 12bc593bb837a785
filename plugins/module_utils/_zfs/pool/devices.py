# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a device may be taken into a pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Sequence

from ..._disk.probe import BlockDevice, uses
from ..values import show_size
from .draft import Draft, WipeData
from .model import Guards, Vdev

# A member of a mirror or raidz may be this much smaller before its size is worth a word: ZFS's own measure.
_FUZZ = 16 * 1024 * 1024
# SPA_MINDEVSIZE: ZFS takes nothing smaller.
_SMALLEST = 64 * 1024 * 1024
# Four labels and the boot block. Of a whole disk, the first partition begins at 1 MiB and the ninth takes 8.
_LABELS = 4608 * 1024
_DIVIDED = 9 * 1024 * 1024
_WHOLE = frozenset({"disk", "mpath"})


@dataclass(frozen=True)
class Candidate:
    """A device a pool would take.

    :param contents: phrases that say what is written on it.
    :param pool: the imported pool that uses it.
    :param near: names beside a missing device that look alike.
    """

    device: BlockDevice
    contents: tuple[str, ...] = ()
    pool: str = ""
    near: tuple[str, ...] = ()

    @property
    def room(self) -> int:
        """Bytes that are left for data: less the labels and, where ZFS divides a whole disk, less the table and the reserve."""
        return self.device.size - _LABELS - (_DIVIDED if self.device.kind in _WHOLE else 0)


Candidates = Mapping[str, Candidate]


def judge(draft: Draft, paths: Sequence[str], candidates: Candidates, guards: Guards) -> None:
    """Refuse every device that cannot be taken, and plan to erase those that were named for it."""
    for path in paths:
        candidate = candidates.get(path)
        if candidate is None or path in guards.pending:
            continue
        reason = unfit(draft.pool, candidate, guards)
        if reason:
            draft.refuse(reason)
        elif candidate.contents:
            told = "; ".join(candidate.contents)
            draft.step("wipe", path, f"Erase {path}, which is named in wipe ({told})", WipeData(candidate.device))
    for reason in _overlaps(draft.pool, paths, candidates):
        draft.refuse(reason)


def unfit(pool: str, candidate: Candidate, guards: Guards) -> str:
    """Why a device cannot be taken into a pool; empty when it can."""
    device = candidate.device
    reason = _unusable(candidate)
    if reason:
        return f"Pool {pool}: {reason}"
    used = [f"it belongs to the imported pool {candidate.pool}"] if candidate.pool else uses(device)
    if used:
        return (
            f"Refusing to take {device.path} into pool {pool}: {'; '.join(used)}. Stop what uses it, or name another device under vdevs;"
            " wipe does not override this."
        )
    if candidate.contents and device.real not in guards.wipe:
        return (
            f"Refusing to take {device.path} into pool {pool}: {'; '.join(candidate.contents)}, which would be lost."
            f" Name another device under vdevs or, if nothing on it is needed, add {device.path} to wipe.{_begun(candidate)}"
        )
    return ""


def _begun(candidate: Candidate) -> str:
    """A word on a table that nothing is in: ZFS writes one before its labels, and may have been cut off between the two.

    It is no proof: a disk that was divided for others a moment ago looks the same. So it is only said.
    """
    if not all(phrase.startswith(("it has partitions", "it has a partition table")) for phrase in candidate.contents):
        return ""
    return " Nothing is in its partitions: this is also what a `zpool` leaves that was cut off while it took the disk."


def _unusable(candidate: Candidate) -> str:
    device = candidate.device
    if not device.exists:
        hint = f" (beside it there is {' and '.join(candidate.near)})" if candidate.near else ""
        return f"the device {device.path} does not exist. Attach it or correct its path under vdevs{hint}."
    if device.kind == "other":
        return f"{device.path} is neither a block device nor a file: correct its path under vdevs."
    if device.read_only:
        return f"the device {device.path} is read-only: make it writable or name another under vdevs."
    if device.size < _SMALLEST and (device.size or device.kind == "file"):
        return f"{device.path} has {show_size(device.size)}, and ZFS takes nothing below 64 MiB: name a larger one under vdevs."
    return ""


def _overlaps(pool: str, paths: Sequence[str], candidates: Candidates) -> list[str]:
    """Devices named twice under different paths, or a disk beside its own partition."""
    reasons = []
    seen: dict[str, str] = {}
    present = [candidates[path].device for path in paths if path in candidates and candidates[path].device.exists]
    for device in present:
        if device.real in seen:
            reasons.append(f"Pool {pool}: {seen[device.real]} and {device.path} are the same device: list it once under vdevs.")
        seen[device.real] = device.path
    for device in present:
        if device.parent in seen:
            reasons.append(
                f"Pool {pool}: {device.path} is a partition of {seen[device.parent]}: list the disk or its partitions, not both."
            )
    return reasons


def uneven(pool: str, vdev: Vdev, candidates: Candidates) -> str:
    """A word on devices of unlike size in one vdev; empty when they are alike."""
    sizes = [candidates[path].device.size for path in vdev.devices if path in candidates and candidates[path].device.size]
    if not sizes or max(sizes) - min(sizes) <= _FUZZ:
        return ""
    return (
        f"Pool {pool}: the devices of the {vdev.label} differ in size; each counts as {show_size(min(sizes))},"
        f" the largest has {show_size(max(sizes))}."
    )


def sectors(paths: Sequence[str], candidates: Candidates) -> tuple[int, ...]:
    """The physical sector sizes of block devices; a file has that of whatever it lies on."""
    found = [candidates[path].device for path in paths if path in candidates]
    return tuple(sorted({device.sector for device in found if device.exists and device.kind not in {"file", "other"}}))
