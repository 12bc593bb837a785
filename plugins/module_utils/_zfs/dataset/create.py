# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan datasets that are missing: created, cloned, or brought from another name."""

from __future__ import annotations

from typing import Mapping

from ..._plan import Step
from ..model import Value
from ..values import as_size, show_size
from .draft import Draft, Phase, Run, below, command
from .keys import creation_key
from .model import Current, Dataset, FoundDataset
from .properties import DEFAULT_BLOCK, SPARSE, creation_options, grow, quota_refusal, whole_blocks


def plan_missing(draft: Draft, name: str, want: Dataset | None, wanted: Mapping[str, Dataset]) -> None:
    """Plan a dataset that does not exist; without an entry it is a parent."""
    if "/" not in name:  # the pool itself: zfs_pool creates it, what is left to do is to set its properties
        if want and want.values:
            draft.changes[name] = want.values
            draft.differ(name, "properties", None, want.values)
        return
    if want is None:
        sentence = f"Create file system {name}, a parent that is not declared and inherits all it has"
        draft.add(Phase.CREATE, command("create", name, sentence, "zfs", "create", name))
        draft.differ(name, "type", None, "filesystem")
        return
    for reason in filter(None, (quota_refusal(draft, name, what) for what in want.properties)):
        draft.refuse(name, reason)
    if want.rollback and not draft.rehearsal:
        draft.refuse(name, f"Refusing to roll {name} back: there is no such dataset. Remove rollback, or correct its name.")
    if want.origin:
        _plan_clone(draft, want, wanted)
    else:
        _plan_create(draft, want, wanted)
    shown = {"volsize": want.volsize} if want.volsize and not want.origin else {}
    for what, value in {"type": want.kind, **shown, **want.values}.items():
        draft.differ(name, what, None, value)


def _plan_create(draft: Draft, want: Dataset, wanted: Mapping[str, Dataset]) -> None:
    key, stdin = creation_key(draft, want, wanted)
    argv = ["zfs", "create", *creation_options({**key, **want.values})]
    # A dataset needs its parents and nothing beside them; ZFS writes what several ask for together in one transaction group.
    group = f"create at depth {want.name.count('/')}"
    if want.kind == "filesystem":
        sentence = f"Create file system {want.name}"
        draft.add(Phase.CREATE, Step("create", want.name, sentence, Run((*argv, want.name), stdin), group))
        return
    size = want.volsize or 0
    block = as_size(want.values.get("volblocksize", "")) or DEFAULT_BLOCK
    argv += [*(["-s"] if want.sparse else []), "-V", str(whole_blocks(size, block)), want.name]
    sentence = f"Create {'sparse volume' if want.sparse else 'volume'} {want.name} of {show_size(size)}"
    draft.add(Phase.CREATE, Step("create", want.name, sentence, Run(tuple(argv), stdin, _link(want)), group))


def _link(want: Dataset) -> str:
    hidden = want.kind != "volume" or want.values.get("volmode") == "none"
    return "" if hidden else f"/dev/zvol/{want.name}"


def _plan_clone(draft: Draft, want: Dataset, wanted: Mapping[str, Dataset]) -> None:
    source, _at, snapshot = want.origin.partition("@")
    listed = source in wanted and any(each.name == snapshot and each.present for each in wanted[source].snapshots)
    origin = draft.find(want.origin)
    if not origin and not listed and not draft.rehearsal:
        draft.refuse(
            want.name,
            f"Refusing to clone {want.name}: its origin {want.origin} does not exist. Declare {snapshot} in the snapshots of {source},"
            " or name one that exists.",
        )
        return
    values = dict(want.values)
    if want.kind == "volume" and want.sparse is not None:
        values.setdefault(SPARSE, "none" if want.sparse else "auto")
    sentence = f"Clone {want.name} from {want.origin}"
    argv = ("zfs", "clone", *creation_options(values), want.origin, want.name)
    draft.add(Phase.CREATE, Step("clone", want.name, sentence, Run(argv, link=_link(want))))
    draft.differ(want.name, "origin", None, want.origin)
    if want.volsize:
        _plan_clone_size(draft, want, origin or draft.find(source), wanted.get(source))
    if want.promote:
        plan_promote(draft, want)


def _plan_clone_size(draft: Draft, want: Dataset, origin: FoundDataset | None, declared: Dataset | None) -> None:
    now = int(origin.text("volsize")) if origin and origin.text("volsize").isdigit() else (declared.volsize if declared else None) or 0
    block = as_size(origin.text("volblocksize")) if origin else None
    size = whole_blocks(want.volsize or 0, block or DEFAULT_BLOCK)
    if now and size < now:
        draft.refuse(
            want.name,
            f"Refusing to clone {want.name} with {show_size(size)}: its origin {want.origin} has {show_size(now)}. Declare volsize: {now}"
            " or more, or leave it out.",
        )
    elif size > now:
        grow(draft, want.name, now, size)


def plan_promote(draft: Draft, want: Dataset) -> None:
    """Plan that a clone stands for itself: the shared snapshots become its own."""
    sentence = f"Promote {want.name}: {want.origin} and older snapshots become its own"
    draft.add(Phase.PROMOTE, command("promote", want.name, sentence, "zfs", "promote", want.name))
    draft.differ(want.name, "promoted", "no", "yes")


def plan_origin(draft: Draft, want: Dataset, have: FoundDataset) -> None:
    """Compare the origin of a dataset that exists."""
    now = have.text("origin")
    if not want.origin or (now in {"-", ""} and want.promote):
        return
    if now != want.origin:
        told = f"a clone of {now}" if now not in {"-", ""} else "no clone"
        draft.refuse(
            want.name,
            f"Refusing to make {want.name} a clone of {want.origin}: it exists and is {told}. Correct its origin, or choose another name.",
        )
    elif want.promote:
        plan_promote(draft, want)


def plan_rename(draft: Draft, want: Dataset) -> None:
    """Plan a new name for a dataset, and go on as if it had it already."""
    old, new = want.renamed_from, want.name
    if not old or not draft.find(old):
        return
    if draft.find(new):
        draft.refuse(
            new,
            f"Refusing to rename {old} to {new}: both exist. Remove renamed_from, and move the data or declare {old} absent.",
        )
        return
    parent = new.rsplit("/", 1)[0]
    if not draft.find(parent):
        draft.refuse(new, f"Refusing to rename {old} to {new}: {parent} does not exist. Create it in a run before, or choose another name.")
        return
    draft.add(Phase.RENAME, command("rename", new, f"Rename {old} to {new}, with all below it", "zfs", "rename", old, new))
    draft.differ(new, "name", old, new)
    draft.current = _renamed(draft.current, old, new)


def _renamed(current: Current, old: str, new: str) -> Current:
    """What will have been found once the dataset has its new name."""

    def at(name: str) -> str:
        return new + name[len(old) :] if _within(name, old) else name

    parent = current.found[new.rsplit("/", 1)[0]]
    found = {}
    for name, have in current.found.items():
        values = _inheriting(have, old, at(name), parent) if _within(name, old) else dict(have.values)
        values.update({what: Value(at(have.text(what)), "-") for what in ("encryptionroot", "origin") if what in values})
        found[at(name)] = FoundDataset(at(name), values, have.directory)
    return Current(
        found=found,
        holds={at(name): tags for name, tags in current.holds.items()},
        grants={at(name): granted for name, granted in current.grants.items()},
        below=current.below,
        fitting=current.fitting,
    )


def _within(name: str, dataset: str) -> bool:
    return name == dataset or name.startswith((f"{dataset}/", f"{dataset}@", f"{dataset}#"))


def _inheriting(have: FoundDataset, old: str, name: str, parent: FoundDataset) -> dict[str, Value]:
    """Values of a moved dataset: what it inherited from outside, it inherits from its new parent."""
    new = name[: len(name) - len(have.name) + len(old)]
    values = {}
    for what, value in have.values.items():
        lender = value.source[len("inherited from ") :] if value.source.startswith("inherited from ") else ""
        if lender and _within(lender, old):
            values[what] = Value(value.text, f"inherited from {new}{lender[len(old) :]}")
        elif lender or (value.source == "default" and what in parent.values and parent.source(what) != "default"):
            text = parent.text(what)
            values[what] = Value(below(text, parent.name, name) if what == "mountpoint" else text, f"inherited from {parent.name}")
        elif what == "mountpoint" and value.source == "default":
            values[what] = Value(f"/{name}", "default")
        else:
            values[what] = value
    return values
