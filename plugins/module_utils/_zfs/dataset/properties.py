# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan properties: what differs is set or inherited, in as few commands as the values allow."""

from __future__ import annotations

from typing import Mapping

from ..._plan import Step
from ..values import as_size, same, show_size
from .draft import Draft, Phase, Run, in_order
from .model import INHERIT, Dataset, FoundDataset
from .rules import FIXED, LIMITS, NOT_INHERITED, quota_owner

SPARSE = "refreservation"
# The blocks of a volume that declares none, since ZFS 2.2; a multiple of those before.
DEFAULT_BLOCK = 16 * 1024
# Local on every dataset that has them, and not what purge is about.
_NEVER_PURGED = frozenset({"keylocation", "volsize"})
_DEFAULTS = {"canmount": "on", **dict.fromkeys(LIMITS, "none")}


def plan_properties(draft: Draft, want: Dataset, have: FoundDataset) -> None:
    """Plan what differs on a dataset that exists; its parents must have been planned before."""
    for what, value in _declared(want, have).items():
        if value == INHERIT:
            _plan_inherit(draft, want, have, what)
        elif not _alike(draft, want, have, what, value):
            _plan_set(draft, want, have, what, value)
    if want.purge:
        _plan_purge(draft, want, have)
    _plan_size(draft, want, have)


def _declared(want: Dataset, have: FoundDataset) -> dict[str, str]:
    """The declared properties, with C(sparse) as the reservation it stands for."""
    values = dict(want.properties)
    if want.sparse is not None and have.kind == "volume":
        values.setdefault(SPARSE, "none" if want.sparse else "auto")
    return values


def _alike(draft: Draft, want: Dataset, have: FoundDataset, what: str, value: str) -> bool:
    now = draft.effective(want.name, what)
    if what == SPARSE and value == "auto" and have.kind == "volume":
        return now.isdigit() and int(now) >= int(have.text("volsize"))
    lent = have.source(what) == "default" or have.source(what).startswith("inherited")
    if want.match_local and lent and what not in NOT_INHERITED and what not in FIXED:
        return False
    return same(what, value, now)


def _plan_set(draft: Draft, want: Dataset, have: FoundDataset, what: str, value: str) -> None:
    now = draft.effective(want.name, what)
    reason = _why_not(draft, want, have, what, value)
    if reason:
        draft.refuse(want.name, reason)
        return
    draft.changes.setdefault(want.name, {})[what] = value
    draft.differ(want.name, what, f"{now} ({have.source(what)})" if same(what, value, now) else now, value)


def _why_not(draft: Draft, want: Dataset, have: FoundDataset, what: str, value: str) -> str:
    """Why a property cannot be set; empty when it can."""
    now = have.text(what)
    if what in FIXED:
        return (
            f"Refusing to change {what} of {want.name} from {now} to {value}: ZFS fixes it when a dataset is created. Declare {now},"
            " or create a new dataset and copy the data."
        )
    if quota_owner(what):
        return quota_refusal(draft, want.name, what) or (
            f"Refusing to set {what} on {want.name}: its pool has no quotas of that kind, upgrade the pool or remove it from properties."
            if now == "-"
            else ""
        )
    if now == "-" and ":" not in what:
        return f"Refusing to set {what} on {want.name}: a {want.kind} has no such property. Remove it from properties."
    return ""


def quota_refusal(draft: Draft, name: str, what: str) -> str:
    """Why a quota of a user or group cannot be set: the host does not know them."""
    owner = quota_owner(what)
    if not owner or owner[0] == "project" or draft.rehearsal or draft.host.number(*owner) is not None:
        return ""
    return f"Dataset {name}: the {owner[0]} {owner[1]} of {what} does not exist on this host: create it first, or give its number."


def _plan_inherit(draft: Draft, want: Dataset, have: FoundDataset, what: str) -> None:
    if have.source(what) not in {"local", "received"}:
        return
    draft.inherits.setdefault(want.name, []).append(what)
    draft.differ(want.name, what, have.text(what), "inherited")


def _plan_purge(draft: Draft, want: Dataset, have: FoundDataset) -> None:
    """Let go of local values that are not declared, but for the properties of users: those may be others'."""
    for what, value in have.values.items():
        if value.source != "local" or what in want.properties or ":" in what or "@" in what or what in _NEVER_PURGED:
            continue
        if what == SPARSE and have.kind == "volume":
            continue
        default = _DEFAULTS.get(what)
        if default is None:
            _plan_inherit(draft, want, have, what)
        elif not same(what, default, value.text):
            draft.changes.setdefault(want.name, {})[what] = default
            draft.differ(want.name, what, value.text, default)


def _plan_size(draft: Draft, want: Dataset, have: FoundDataset) -> None:
    if want.volsize is None:
        return
    now, block = int(have.text("volsize")), as_size(have.text("volblocksize")) or 8192
    size = whole_blocks(want.volsize, block)
    # ZFS before 2.2 makes blocks of 8K where none are declared, and the volume was rounded for larger ones.
    if now in (size, want.volsize, whole_blocks(want.volsize, DEFAULT_BLOCK)):
        return
    if size < now:
        draft.refuse(
            want.name,
            f"Refusing to shrink volume {want.name} from {show_size(now)} to {show_size(size)}: what lies beyond would be lost."
            f" Declare volsize: {now}, or create a smaller volume and copy the data.",
        )
        return
    grow(draft, want.name, now, size)


def grow(draft: Draft, name: str, now: int, size: int) -> None:
    """Plan a larger size of a volume."""
    sentence = f"Grow volume {name} from {show_size(now)} to {show_size(size)}"
    draft.add(Phase.GROW, Step("grow", name, sentence, Run(("zfs", "set", f"volsize={size}", name))))
    draft.differ(name, "volsize", now, size)


def whole_blocks(size: int, block: int) -> int:
    """A size that ZFS accepts for a volume of that block size."""
    return -(-size // block) * block


def group_properties(draft: Draft) -> None:
    """One step for all datasets with the same changes, and one for all that inherit the same property."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name in in_order(draft.changes):
        groups.setdefault(tuple(draft.changes[name].items()), []).append(name)
    for same_changes, names in groups.items():
        draft.add(Phase.SET, _set_step(draft, same_changes, names))
    inherited: dict[str, list[str]] = {}
    for name in in_order(draft.inherits):
        for what in draft.inherits[name]:
            inherited.setdefault(what, []).append(name)
    for what, names in inherited.items():
        sentence = f"Inherit {what} ({_was(draft, what, names)}) on {', '.join(names)}"
        draft.add(Phase.SET, Step("inherit", names[0], sentence, Run(("zfs", "inherit", what, *names))))


def _set_step(draft: Draft, changes: tuple[tuple[str, str], ...], names: list[str]) -> Step:
    told = []
    for what, value in changes:
        was = _was(draft, what, names)
        told.append(f"{what}={value}" + (f" ({was})" if was else ""))
    argv = ("zfs", "set", *(f"{what}={value}" for what, value in changes), *names)
    return Step("set", names[0], f"Set {', '.join(told)} on {', '.join(names)}", Run(argv))


def _was(draft: Draft, what: str, names: list[str]) -> str:
    was = dict.fromkeys(have.text(what) for have in map(draft.find, names) if have)
    return f"was {', '.join(was)}" if was else ""


def creation_options(values: Mapping[str, str]) -> list[str]:
    """Properties as C(zfs create) and C(zfs clone) take them."""
    return [argument for what, value in values.items() for argument in ("-o", f"{what}={value}")]
