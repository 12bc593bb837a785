# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan what is declared absent: refused while anything lives in it or on it that is not listed too."""

from __future__ import annotations

from typing import Mapping

from ..values import show_size
from .draft import Draft, Phase, command
from .model import Dataset, by_depth


def plan_absent(draft: Draft, wanted: Mapping[str, Dataset]) -> None:
    """Plan the snapshots and datasets to be destroyed, each by its own name and after all that depends on it."""
    done: set[str] = set()
    for name in sorted(wanted, key=by_depth):
        if draft.find(name):
            _check(draft, wanted[name], wanted)
            _destroy(draft, name, wanted, done)


def _check(draft: Draft, want: Dataset, wanted: Mapping[str, Dataset]) -> None:
    """Refuse what would take more with it than was listed."""
    lost = [] if want.present else _unlisted(draft, want, wanted)
    for each in want.snapshots:
        name = want.snapshot(each.name)
        if each.present or not draft.find(name):
            continue
        lost += [f"{clone}, a clone of {name}" for clone in _clones(draft, name) if not _is_absent(clone, wanted)]
        kept = draft.current.holds.get(name, frozenset()) - set(each.release)
        lost += [f"the hold {tag} of {name}" for tag in sorted(kept)]
    if lost:
        what = want.name if not want.present else f"the snapshots of {want.name} that are declared absent"
        draft.refuse(
            want.name,
            f"Refusing to destroy {what}: there is {'; '.join(lost)}. List each as absent (a hold under release of its snapshot), or"
            f" promote the clones, then {want.name} can be destroyed.",
        )


def _unlisted(draft: Draft, want: Dataset, wanted: Mapping[str, Dataset]) -> list[str]:
    snapshots = {want.snapshot(each.name) for each in want.snapshots}
    lost = []
    for each in draft.inside(want.name):
        if each.name.startswith(f"{want.name}@") and each.name not in snapshots:
            lost.append(f"the snapshot {each.name}")
            lost += [f"{clone}, a clone of {each.name}" for clone in each.clones if not _is_absent(clone, wanted)]
        elif each.kind in {"filesystem", "volume"} and not _is_absent(each.name, wanted):
            lost.append(f"the {each.kind} {each.name}")
    return lost


def _is_absent(name: str, wanted: Mapping[str, Dataset]) -> bool:
    return name in wanted and not wanted[name].present


def _clones(draft: Draft, snapshot: str) -> list[str]:
    have = draft.find(snapshot)
    text = have.text("clones") if have else "-"
    return text.split(",") if text not in {"-", ""} else []


def _destroy(draft: Draft, name: str, wanted: Mapping[str, Dataset], done: set[str]) -> None:
    """Children and clones first, then snapshots, then the dataset: each command names what it destroys and takes nothing with it."""
    want = wanted.get(name)
    if name in done or not want or not draft.find(name):
        return
    done.add(name)
    snapshots = [each.name for each in want.snapshots if not each.present and draft.find(want.snapshot(each.name))]
    if not want.present:
        for child in sorted((each for each in wanted if each.startswith(f"{name}/")), key=by_depth):
            _destroy(draft, child, wanted, done)
    for each in snapshots:
        for clone in _clones(draft, want.snapshot(each)):
            _destroy(draft, clone, wanted, done)
        draft.differ(name, f"@{each}", "present", None)
    if snapshots:
        told = f"{name}@{','.join(snapshots)}"
        draft.add(Phase.DESTROY, command("destroy", told, f"Destroy {told}", "zfs", "destroy", told))
    if not want.present:
        _destroy_dataset(draft, name)


def _destroy_dataset(draft: Draft, name: str) -> None:
    have = draft.find(name)
    kind = have.kind if have else "filesystem"
    used = have.text("referenced") if have else "-"
    size = f", which holds {show_size(int(used))}" if used.isdigit() else ""
    label = "file system" if kind == "filesystem" else kind
    draft.add(Phase.DESTROY, command("destroy", name, f"Destroy the {label} {name}{size}", "zfs", "destroy", name))
    draft.differ(name, "type", kind, None)
    for each in draft.inside(name):
        if each.name.startswith(f"{name}#"):
            draft.differ(name, f"#{each.name.partition('#')[2]}", "present", None)
