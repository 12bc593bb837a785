# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan datasets: create what is missing, parents first, set what differs in as few commands as the values allow."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import Any, Mapping, Sequence

from .._errors import BadInput
from .._plan import Plan, Refusal, Step
from .model import Dataset, FoundDataset
from .values import as_size, same, show_size

# ZFS fixes these when it creates a dataset.
_FIXED = frozenset({"casesensitivity", "encryption", "keyformat", "normalization", "pbkdf2iters", "type", "utf8only", "volblocksize"})
_REPORTED = frozenset(
    {
        "available",
        "compressratio",
        "creation",
        "createtxg",
        "guid",
        "mounted",
        "origin",
        "refcompressratio",
        "referenced",
        "used",
        "written",
    }
)
# A change of these on a parent changes nothing on its children.
_NOT_INHERITED = frozenset(
    {"canmount", "filesystem_limit", "quota", "refquota", "refreservation", "reservation", "snapshot_limit", "volsize"}
)
_SPARSE = "refreservation"


@dataclass(frozen=True)
class CreateData:
    """What the applier needs to create a dataset: the command is complete.

    :param link: the device node to wait for; empty for a file system.
    """

    argv: tuple[str, ...]
    link: str = ""


@dataclass(frozen=True)
class SetData:
    """The same changes on several datasets: one command."""

    changes: tuple[tuple[str, str], ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class MountData:
    """A file system to mount."""

    name: str


@dataclass(frozen=True)
class OwnData:
    """Who owns the directory a file system is mounted on; None leaves a part as it is."""

    name: str
    uid: int | None
    gid: int | None
    mode: int | None


@dataclass(frozen=True)
class Owners:
    """Numbers of the declared users and groups, where the host knows them."""

    users: Mapping[str, int]
    groups: Mapping[str, int]


def lineage(names: Sequence[str]) -> list[str]:
    """The names with all their parents, each parent before its children."""
    parts = [name.split("/") for name in names]
    return sorted({"/".join(each[:depth]) for each in parts for depth in range(1, len(each) + 1)}, key=_by_depth)


def _by_depth(name: str) -> tuple[int, str]:
    return name.count("/"), name


def check_unique(wanted: Sequence[Dataset]) -> None:
    """Refuse a list that says two things of one dataset.

    :raises BadInput: naming the dataset.
    """
    names = [each.name for each in wanted]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"datasets: {name} is listed twice: merge the two entries.")


def plan_datasets(wanted: Sequence[Dataset], found: Mapping[str, FoundDataset], owners: Owners, *, rehearsal: bool) -> Plan:
    """Plan for a list of datasets.

    :param found: every declared dataset and parent that exists.
    :param rehearsal: the pool may still be missing, an earlier task would create it.
    """
    draft = _Draft(found)
    pools = {name.split("/")[0] for name in (each.name for each in wanted)}
    for pool in sorted(pools - set(found)):
        if not rehearsal:
            draft.refuse(
                pool, f"Pool {pool} does not exist: create it with zfs_pool, or import it with `zpool import {pool}`, before its datasets."
            )
    declared = {each.name: each for each in wanted}
    for name in lineage(list(declared)):
        want = declared.get(name)
        if name not in found:
            _plan_missing(draft, name, want)
        elif want:
            _plan_one(draft, want, found[name])
    for each in sorted(wanted, key=lambda each: _by_depth(each.name)):
        _plan_directory(draft, each, owners, rehearsal=rehearsal)
    return draft.finish()


class _Draft:
    """A plan in the making."""

    def __init__(self, found: Mapping[str, FoundDataset]) -> None:
        self.found = found
        self.changes: dict[str, dict[str, str]] = {}
        self.creations: list[Step] = []
        self.growths: list[Step] = []
        self.mounts: list[Step] = []
        self.ownerships: list[Step] = []
        self.refusals: list[Refusal] = []
        self.warnings: list[str] = []
        self.before: dict[str, Any] = {}
        self.after: dict[str, Any] = {}

    def refuse(self, name: str, reason: str) -> None:
        self.refusals.append(Refusal(name, reason))

    def differ(self, name: str, what: str, before: Any, after: Any) -> None:
        self.before.setdefault(name, {})[what] = before
        self.after.setdefault(name, {})[what] = after

    def effective(self, name: str, what: str) -> str:
        """The value a dataset will have once the changes planned for its parents have been made."""
        now = self.found[name].values.get(what)
        if now is None:
            return "-"
        if what in _NOT_INHERITED or "@" in what or not (now.source == "default" or now.source.startswith("inherited")):
            return now.text
        ancestor = name
        while "/" in ancestor:
            ancestor = ancestor.rsplit("/", 1)[0]
            changed = self.changes.get(ancestor, {}).get(what)
            if changed is not None:
                return _below(changed, ancestor, name) if what == "mountpoint" else changed
            if now.source == f"inherited from {ancestor}":
                break
        return now.text

    def finish(self) -> Plan:
        if self.refusals:
            return Plan(refusals=tuple(self.refusals), warnings=tuple(self.warnings))
        steps = [*_group(self.changes, self.found), *self.growths, *self.creations, *self.mounts, *self.ownerships]
        return Plan(tuple(steps), (), tuple(self.warnings), self.before, self.after)


def _below(mountpoint: str, ancestor: str, name: str) -> str:
    return posixpath.join(mountpoint, name[len(ancestor) + 1 :]) if mountpoint.startswith("/") else mountpoint


def _group(changes: Mapping[str, Mapping[str, str]], found: Mapping[str, FoundDataset]) -> list[Step]:
    """One step for all datasets with the same changes."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name in sorted(changes, key=_by_depth):
        groups.setdefault(tuple(changes[name].items()), []).append(name)
    return [_set_step(same_changes, names, found) for same_changes, names in groups.items()]


def _set_step(changes: tuple[tuple[str, str], ...], names: list[str], found: Mapping[str, FoundDataset]) -> Step:
    told = []
    for what, value in changes:
        was = dict.fromkeys(found[name].text(what) for name in names if name in found)
        told.append(f"{what}={value}" + (f" (was {', '.join(was)})" if was else ""))
    return Step("set", names[0], f"Set {', '.join(told)} on {', '.join(names)}", SetData(changes, tuple(names)))


def _plan_missing(draft: _Draft, name: str, want: Dataset | None) -> None:
    if "/" not in name:  # the pool itself: zfs_pool creates it, what is left to do is to set its properties
        if want and want.properties:
            draft.changes[name] = dict(want.properties)
            draft.differ(name, "properties", None, dict(want.properties))
        return
    if want is None:
        sentence = f"Create file system {name}, a parent that is not declared and inherits all it has"
        draft.creations.append(Step("create", name, sentence, CreateData(("zfs", "create", name))))
        draft.differ(name, "type", None, "filesystem")
        return
    draft.creations.append(_create_step(want))
    shown = {"volsize": want.volsize} if want.volsize else {}
    for what, value in {"type": want.kind, **shown, **want.properties}.items():
        draft.differ(name, what, None, value)


def _create_step(want: Dataset) -> Step:
    argv = ["zfs", "create"]
    for what, value in want.properties.items():
        argv += ["-o", f"{what}={value}"]
    if want.kind == "filesystem":
        return Step("create", want.name, f"Create file system {want.name}", CreateData((*argv, want.name)))
    size = want.volsize or 0
    block = as_size(want.properties.get("volblocksize", "")) or 16 * 1024
    argv += [*(["-s"] if want.sparse else []), "-V", str(_round_up(size, block))]
    hidden = want.properties.get("volmode") == "none"
    thin = "sparse volume" if want.sparse else "volume"
    sentence = f"Create {thin} {want.name} of {show_size(size)}"
    return Step("create", want.name, sentence, CreateData((*argv, want.name), "" if hidden else f"/dev/zvol/{want.name}"))


def _round_up(size: int, block: int) -> int:
    return -(-size // block) * block


def _plan_one(draft: _Draft, want: Dataset, have: FoundDataset) -> None:
    if want.kind != have.kind:
        draft.refuse(
            want.name,
            f"Refusing to turn the {have.kind} {want.name} into a {want.kind}: ZFS never changes the type of a dataset."
            f" Declare it with type {have.kind}, or choose another name.",
        )
        return
    for what, value in _declared_values(want, have).items():
        now = draft.effective(want.name, what)
        if what == _SPARSE and value == "auto" and have.kind == "volume":
            alike = now.isdigit() and int(now) >= int(have.text("volsize"))
        else:
            alike = same(what, value, now)
        if alike:
            continue
        reason = _why_not(want, what, value, now)
        if reason:
            draft.refuse(want.name, reason)
        else:
            draft.changes.setdefault(want.name, {})[what] = value
            draft.differ(want.name, what, now, value)
    _plan_size(draft, want, have)


def _declared_values(want: Dataset, have: FoundDataset) -> dict[str, str]:
    """The declared properties, with C(sparse) as the reservation it stands for."""
    values = dict(want.properties)
    if want.sparse is not None and have.kind == "volume":
        values.setdefault(_SPARSE, "none" if want.sparse else "auto")
    return values


def _why_not(want: Dataset, what: str, value: str, now: str) -> str:
    """Why a property cannot be set; empty when it can."""
    if what in _FIXED:
        return (
            f"Refusing to change {what} of {want.name} from {now} to {value}: ZFS fixes it when a dataset is created. Declare {now},"
            " or create a new dataset and copy the data."
        )
    if what in _REPORTED:
        return f"Refusing to set {what} of {want.name}: ZFS only reports it, it is {now} now. Remove it from properties."
    if now == "-" and ":" not in what and "@" not in what:
        return f"Refusing to set {what} on {want.name}: a {want.kind} has no such property. Remove it from properties."
    return ""


def _plan_size(draft: _Draft, want: Dataset, have: FoundDataset) -> None:
    if want.volsize is None:
        return
    now, block = int(have.text("volsize")), as_size(have.text("volblocksize")) or 8192
    size = _round_up(want.volsize, block)
    if now in (size, want.volsize):
        return
    if size < now:
        draft.refuse(
            want.name,
            f"Refusing to shrink volume {want.name} from {show_size(now)} to {show_size(size)}: what lies beyond would be lost."
            f" Declare volsize: {now}, or create a smaller volume and copy the data.",
        )
        return
    sentence = f"Grow volume {want.name} from {show_size(now)} to {show_size(size)}"
    draft.growths.append(Step("grow", want.name, sentence, SetData((("volsize", str(size)),), (want.name,))))
    draft.differ(want.name, "volsize", now, size)


def _plan_directory(draft: _Draft, want: Dataset, owners: Owners, *, rehearsal: bool) -> None:
    """Mount what should be mounted, and give its directory to whom it belongs."""
    if want.kind != "filesystem":
        return
    have = draft.found.get(want.name)
    mountpoint = draft.effective(want.name, "mountpoint") if have else want.properties.get("mountpoint", "/")
    mountpoint = draft.changes.get(want.name, {}).get("mountpoint", mountpoint)
    canmount = want.properties.get("canmount", have.text("canmount") if have else "on")
    if not mountpoint.startswith("/") or canmount == "off":
        if want.owned:
            draft.refuse(
                want.name,
                f"Refusing to set the owner or mode of the mountpoint of {want.name}: it is not mounted (mountpoint={mountpoint},"
                f" canmount={canmount}). Remove mountpoint_owner, mountpoint_group and mountpoint_mode, or give it a mountpoint.",
            )
        return
    absent = have is not None and have.text("mounted") == "no"
    if have and absent and canmount == "on":
        _plan_mount(draft, want, have, mountpoint)
    if want.owned and absent and canmount == "noauto":
        draft.warnings.append(f"{want.name} is not mounted (canmount=noauto): the owner and mode of its mountpoint were not looked at.")
    elif want.owned:
        _plan_owner(draft, want, have, owners, rehearsal=rehearsal)


def _plan_mount(draft: _Draft, want: Dataset, have: FoundDataset, mountpoint: str) -> None:
    if have.text("keystatus") == "unavailable":
        draft.warnings.append(f"{want.name} is not mounted because its key is not loaded: run `zfs load-key {want.name}`.")
        return
    draft.mounts.append(Step("mount", want.name, f"Mount {want.name} on {mountpoint}, where it is missing", MountData(want.name)))
    draft.differ(want.name, "mounted", "no", "yes")


def _plan_owner(draft: _Draft, want: Dataset, have: FoundDataset | None, owners: Owners, *, rehearsal: bool) -> None:
    for kind, name, known in (("user", want.owner, owners.users), ("group", want.group, owners.groups)):
        if name and name not in known and not rehearsal:
            draft.refuse(
                want.name, f"Dataset {want.name}: the {kind} {name} does not exist on this host: create it first, or give its number."
            )
    now = have.directory if have else None
    parts = [
        ("owner", want.owner, owners.users.get(want.owner), now.uid if now else None),
        ("group", want.group, owners.groups.get(want.group), now.gid if now else None),
        ("mode", f"{want.mode:04o}" if want.mode is not None else "", want.mode, now.mode if now else None),
    ]
    differing = {what: (told, value, was) for what, told, value, was in parts if told and (now is None or value != was)}
    if not differing:
        return
    told = ", ".join(f"{what} {told}" for what, (told, _value, _was) in differing.items())
    data = OwnData(want.name, *(differing[what][1] if what in differing else None for what in ("owner", "group", "mode")))
    draft.ownerships.append(Step("own", want.name, f"Give the mountpoint of {want.name} the {told}", data))
    for what, (told, _value, was) in differing.items():
        draft.differ(want.name, f"mountpoint_{what}", f"{was:04o}" if what == "mode" and was is not None else was, told)
