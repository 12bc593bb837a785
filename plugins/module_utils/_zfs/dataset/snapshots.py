# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan snapshots, their holds, bookmarks, and the way back to a snapshot."""

from __future__ import annotations

from ..._plan import Step
from .draft import Draft, Phase, Run, command
from .model import Below, Dataset, FoundDataset, pool_of

# A property of ours that remembers the snapshot a dataset was rolled back to: what is written afterwards is not lost by the next run.
ROLLED_BACK = "llm_stack:rolled_back"


class Marks:
    """Snapshots to take, tags to hold and tags to release: of many datasets with one command."""

    def __init__(self) -> None:
        # ZFS takes one snapshot of a dataset a command: the second ones are a group of their own.
        self.taken: dict[tuple[int, int, str], list[str]] = {}
        self.held: dict[tuple[int, str], list[str]] = {}
        self.released: dict[str, list[str]] = {}

    def steps(self, draft: Draft) -> None:
        """Add the steps to the plan."""
        for (_wave, _turn, _pool), names in sorted(self.taken.items()):
            sentence = f"Take the snapshot{'s' * (len(names) > 1)} {', '.join(names)}"
            draft.add(Phase.SNAPSHOT, command("snapshot", names[0], sentence, "zfs", "snapshot", *names))
        for (_wave, tag), names in self.held.items():
            draft.add(Phase.HOLD, command("hold", names[0], f"Hold {', '.join(names)} with the tag {tag}", "zfs", "hold", tag, *names))
        for tag, names in self.released.items():
            sentence = f"Release the hold {tag} of {', '.join(names)}"
            draft.add(Phase.RELEASE, command("release", names[0], sentence, "zfs", "release", tag, *names))


def plan_marks(draft: Draft, marks: Marks, want: Dataset) -> None:
    """Plan the snapshots, holds and bookmarks of one dataset; those to be destroyed are planned with what is absent."""
    turn = 0
    for each in want.snapshots:
        name = want.snapshot(each.name)
        if each.present and not draft.find(name) and not _comes_by_promotion(want, each.name):
            marks.taken.setdefault((draft.wave(name), turn, pool_of(name)), []).append(name)
            turn += 1
            draft.differ(want.name, f"@{each.name}", None, "present")
        now = draft.current.holds.get(name, frozenset())
        for tag in each.holds:
            if tag not in now:
                marks.held.setdefault((draft.wave(name), tag), []).append(name)
                draft.differ(want.name, f"@{each.name} hold {tag}", None, "present")
        for tag in each.release:
            if tag in now:
                marks.released.setdefault(tag, []).append(name)
                draft.differ(want.name, f"@{each.name} hold {tag}", "present", None)
    _plan_bookmarks(draft, want)


def _comes_by_promotion(want: Dataset, snapshot: str) -> bool:
    return want.promote and want.origin.partition("@")[2] == snapshot


def _plan_bookmarks(draft: Draft, want: Dataset) -> None:
    listed = {each.name for each in want.snapshots if each.present}
    for each in want.bookmarks:
        name, source = f"{want.name}#{each.name}", want.snapshot(each.snapshot)
        have, marked = draft.find(name), draft.find(source)
        if not each.present:
            if have:
                draft.add(Phase.DESTROY, command("destroy", name, f"Destroy the bookmark {name}", "zfs", "destroy", name))
                draft.differ(want.name, f"#{each.name}", "present", None)
        elif have and marked and have.text("guid") != marked.text("guid"):
            draft.refuse(
                want.name,
                f"Refusing to bookmark {source} as {name}: it marks another snapshot. Choose another name, or make it absent first.",
            )
        elif not have and not marked and each.snapshot not in listed and not draft.rehearsal:
            draft.refuse(
                want.name,
                f"Refusing to bookmark {source}: it does not exist. Declare {each.snapshot} in snapshots, or name one that exists.",
            )
        elif not have:
            draft.add(Phase.BOOKMARK, command("bookmark", name, f"Bookmark {source} as {name}", "zfs", "bookmark", source, name))
            draft.differ(want.name, f"#{each.name}", None, f"@{each.snapshot}")


def plan_rollback(draft: Draft, want: Dataset, have: FoundDataset) -> None:
    """Plan the way back to a snapshot, once: a dataset remembers that it was taken."""
    if not want.rollback:
        return
    name = want.snapshot(want.rollback.snapshot)
    target = draft.find(name)
    if not target:
        draft.refuse(want.name, f"Refusing to roll {want.name} back: the snapshot {name} does not exist. Correct rollback.")
        return
    guid = target.text("guid")
    if have.source(ROLLED_BACK) == "local" and have.text(ROLLED_BACK) == guid:
        return
    newer = _newer(draft, want.name, name)
    reason = _why_no_way_back(draft, want, newer)
    if reason:
        draft.refuse(want.name, reason)
        return
    _add_rollback(draft, want, newer, guid)


def _newer(draft: Draft, dataset: str, snapshot: str) -> list[Below]:
    """The dataset's snapshots and bookmarks that are newer than the snapshot."""
    own = [each for each in draft.current.below if each.name.startswith((f"{dataset}@", f"{dataset}#"))]
    txg = max((each.txg for each in own if each.name == snapshot), default=0)
    return [each for each in own if each.txg > txg]


def _short(each: Below) -> str:
    return each.name[each.name.rindex("#") :] if each.kind == "bookmark" else each.name.rpartition("@")[2]


def _why_no_way_back(draft: Draft, want: Dataset, newer: list[Below]) -> str:
    discard = want.rollback.discard if want.rollback else ()
    name = want.snapshot(want.rollback.snapshot) if want.rollback else ""
    unlisted = [_short(each) for each in newer if _short(each) not in discard]
    if unlisted:
        return (
            f"Refusing to roll {want.name} back to {name}: {', '.join(unlisted)} would be lost, being newer. List"
            f" {'it' if len(unlisted) == 1 else 'them'} in discard of rollback, or clone {name} instead."
        )
    clones = [clone for each in newer for clone in each.clones]
    if clones:
        return f"Refusing to roll {want.name} back to {name}: {', '.join(clones)} is a clone of what is newer. Promote or remove it first."
    holds = [f"{each.name} ({', '.join(sorted(draft.current.holds.get(each.name, ())))})" for each in newer if each.held]
    if holds:
        return f"Refusing to roll {want.name} back to {name}: {', '.join(holds)} is newer and held. Release the holds in a run before."
    return ""


def _add_rollback(draft: Draft, want: Dataset, newer: list[Below], guid: str) -> None:
    dataset, name = want.name, want.snapshot(want.rollback.snapshot) if want.rollback else ""
    snapshots = [_short(each) for each in newer if each.kind == "snapshot"]
    if snapshots:
        told = f"{dataset}@{','.join(snapshots)}"
        sentence = f"Destroy {told}, newer than {name} and named in discard"
        draft.add(Phase.ROLLBACK, command("destroy", told, sentence, "zfs", "destroy", told))
    for each in newer:
        if each.kind == "bookmark":
            sentence = f"Destroy the bookmark {each.name}, newer than {name} and named in discard"
            draft.add(Phase.ROLLBACK, command("destroy", each.name, sentence, "zfs", "destroy", each.name))
        draft.differ(dataset, _short(each) if each.kind == "bookmark" else f"@{_short(each)}", "present", None)
    sentence = f"Roll {dataset} back to {name}: what was written to it since then is lost"
    # Never with -r: a snapshot that was taken in the meantime makes this fail and is not lost.
    draft.add(Phase.ROLLBACK, command("rollback", dataset, sentence, "zfs", "rollback", name))
    mark = Run(("zfs", "set", f"{ROLLED_BACK}={guid}", dataset))
    draft.add(Phase.ROLLBACK, Step("mark", dataset, f"Remember on {dataset} that it was rolled back to {name}", mark))
    have = draft.find(dataset)
    draft.differ(dataset, "written", have.text("written") if have else "-", f"lost back to @{name.partition('@')[2]}")
