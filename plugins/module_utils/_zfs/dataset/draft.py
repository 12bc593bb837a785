# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan for datasets in the making: what was found, what is planned so far, and the order of it."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Mapping

from ..._plan import Plan, Refusal, Step
from .model import Below, Current, Dataset, FoundDataset, Host, by_depth, dataset_of
from .rules import NOT_INHERITED

# No value: nobody can tell what a property will be once a parent has let go of its own.
UNKNOWN = "?"


class Phase(IntEnum):
    """When a step is taken. What destroys comes last: nothing is lost when anything before it fails."""

    RENAME = 0
    SET = 1
    KEY = 2
    CREATE = 3
    PROMOTE = 4
    GROW = 5
    MOUNT = 6
    ROLLBACK = 7
    SNAPSHOT = 8
    HOLD = 9
    BOOKMARK = 10
    DELEGATE = 11
    OWN = 12
    UNLOAD = 13
    RELEASE = 14
    DESTROY = 15


@dataclass(frozen=True)
class Run:
    """A command; it is complete.

    :param stdin: what it reads from standard input: a key.
    :param link: the device node to wait for afterwards.
    :param done: what it says when it fails because there is nothing left to do.
    """

    argv: tuple[str, ...]
    stdin: str = field(default="", repr=False)
    link: str = ""
    done: str = ""


@dataclass(frozen=True)
class Own:
    """Who owns the directory a file system is mounted on; None leaves a part as it is."""

    name: str
    uid: int | None
    gid: int | None
    mode: int | None


class Draft:
    """A plan in the making.

    :param rehearsal: the pool, users and key files may still be missing, an earlier task would create them.
    """

    def __init__(self, current: Current, host: Host, *, rehearsal: bool) -> None:
        self.current = current
        self.host = host
        self.rehearsal = rehearsal
        self.changes: dict[str, dict[str, str]] = {}
        self.inherits: dict[str, list[str]] = {}
        self.loading: set[str] = set()
        self.unloading: set[str] = set()
        self.waves: dict[str, int] = {}
        self.refusals: list[Refusal] = []
        self.warnings: list[str] = []
        self._steps: list[tuple[int, Phase, Step]] = []
        self.before: dict[str, Any] = {}
        self.after: dict[str, Any] = {}
        self._inside: dict[str, list[Below]] | None = None

    def find(self, name: str) -> FoundDataset | None:
        """A dataset, snapshot or bookmark, unless there is none."""
        return self.current.found.get(name)

    def add(self, phase: Phase, step: Step) -> None:
        """Plan a step; what concerns a clone that does not exist yet waits for its origin."""
        self._steps.append((self.wave(step.target), phase, step))

    def wave(self, name: str) -> int:
        """How many clones must have been made before there is anything of that name."""
        dataset = dataset_of(name)
        while dataset not in self.waves and "/" in dataset:
            dataset = dataset.rsplit("/", 1)[0]
        return self.waves.get(dataset, 0)

    def refuse(self, name: str, reason: str) -> None:
        """Plan nothing: a difference that is not acted on."""
        self.refusals.append(Refusal(name, reason))

    def differ(self, name: str, what: str, before: Any, after: Any) -> None:
        """Show a difference in the diff."""
        self.before.setdefault(name, {})[what] = before
        self.after.setdefault(name, {})[what] = after

    def inside(self, name: str) -> list[Below]:
        """What lies in and below a dataset that is to be destroyed; put in order once, there may be many thousands."""
        if self._inside is None:
            self._inside = {}
            for each in self.current.below:
                place = dataset_of(each.name)
                if place != each.name:
                    self._inside.setdefault(place, []).append(each)
                while "/" in place:
                    place = place.rsplit("/", 1)[0]
                    self._inside.setdefault(place, []).append(each)
        return self._inside.get(name, [])

    def effective(self, name: str, what: str) -> str:
        """The value a dataset will have once the changes planned for its parents have been made."""
        have = self.find(name)
        now = have.values.get(what) if have else None
        if now is None:
            return "-"
        if what in NOT_INHERITED or "@" in what or not (now.source == "default" or now.source.startswith("inherited")):
            return now.text
        ancestor = name
        while "/" in ancestor:
            ancestor = ancestor.rsplit("/", 1)[0]
            if what in self.inherits.get(ancestor, ()):
                return UNKNOWN
            changed = self.changes.get(ancestor, {}).get(what)
            if changed is not None:
                return below(changed, ancestor, name) if what == "mountpoint" else changed
            if now.source == f"inherited from {ancestor}":
                break
        return now.text

    def finish(self) -> Plan:
        """The plan: its steps in order, or only the refusals."""
        if self.refusals:
            return Plan(refusals=tuple(self.refusals), warnings=tuple(self.warnings))
        late = Phase.UNLOAD
        ordered = sorted(self._steps, key=lambda each: (each[1] >= late, each[1] if each[1] >= late else each[0], each[1]))
        return Plan(tuple(step for _wave, _phase, step in ordered), (), tuple(self.warnings), self.before, self.after)


def below(mountpoint: str, ancestor: str, name: str) -> str:
    """Where a dataset is mounted that inherits the mountpoint of an ancestor."""
    return posixpath.join(mountpoint, name[len(ancestor) + 1 :]) if mountpoint.startswith("/") else mountpoint


def command(action: str, target: str, sentence: str, *argv: str) -> Step:
    """A step that is one command without a secret."""
    return Step(action, target, sentence, Run(argv))


def in_order(names: Mapping[str, Any]) -> list[str]:
    """Names with parents before children."""
    return sorted(names, key=by_depth)


def set_waves(draft: Draft, wanted: Mapping[str, Dataset]) -> None:
    """A clone that is missing is made after its origin's dataset and its snapshots."""
    for _round in wanted:  # origins may be clones themselves: as many rounds as there are datasets settle it
        for name, want in wanted.items():
            if want.origin and not draft.find(name):
                draft.waves[name] = draft.wave(want.origin) + 1
