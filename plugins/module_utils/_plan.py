# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a planner returns: the steps that lead from the current to the desired state, or why not.

Planners are pure: current state, desired state and guards in, a :class:`Plan` out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable

from ._errors import Refused, StackError, StepFailed

# From how many steps on it is worth taking them at once, and how many at a time. Most of a step is waiting for a disk.
_MANY, _AT_ONCE = 8, 4


@dataclass(frozen=True)
class Step:
    """One difference, one step.

    :param action: a verb of the module's own set, such as ``create``, ``attach`` or ``set``.
    :param target: the object acted on, by the identity the user knows it by.
    :param sentence: what will happen and why, for a person; it never holds a secret.
    :param data: what the applier needs; opaque here.
    :param group: steps in a row that share one depend on nothing of each other, so they may be taken at once.
    """

    action: str
    target: str
    sentence: str
    data: Any = None
    group: str = ""


@dataclass(frozen=True)
class Refusal:
    """A difference that is not acted on.

    :param target: the object, by the identity the user knows it by.
    :param reason: the whole sentence: what is refused, why, and what to do about it.
    """

    target: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """Steps in the order they must be taken, refusals, and warnings.

    :param before: the part of the current state that differs, as plain data for ``diff``.
    :param after: the same part as it will be.
    """

    steps: tuple[Step, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    warnings: tuple[str, ...] = ()
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether carrying the plan out changes anything."""
        return bool(self.steps)

    @property
    def sentences(self) -> list[str]:
        """The plan as a person reads it."""
        return [step.sentence for step in self.steps]

    @property
    def diff(self) -> dict[str, Any]:
        """The plan as ``--diff`` shows it."""
        return {"before": self.before, "after": self.after}

    def raise_if_refused(self) -> None:
        """Stop before anything changes when there is a refusal.

        :raises Refused: with the reasons, one after another.
        """
        if self.refusals:
            raise Refused(" ".join(refusal.reason for refusal in self.refusals))

    def carry_out(self, do: Callable[[Step], None], undo: Callable[[], None] | None = None) -> None:
        """Take the steps in order, many of one group at once, and stop at the first that fails.

        :param do: takes one step.
        :param undo: takes all back that ``do`` did, where that can be done.
        :raises StepFailed: names the steps done, the one that failed and those not started.
        """
        done: set[int] = set()
        for row in self._rows():
            failures = _take_at_once(self.steps, row, do, done) if len(row) >= _MANY else _take(self.steps, row, do, done)
            if failures:
                position = min(failures)
                raise self._failed(position, done, failures[position], undo) from failures[position]

    def _rows(self) -> list[list[int]]:
        """The positions of the steps, those in one list that may be taken at once."""
        rows: list[list[int]] = []
        for position, step in enumerate(self.steps):
            if step.group and rows and self.steps[rows[-1][0]].group == step.group:
                rows[-1].append(position)
            else:
                rows.append([position])
        return rows

    def _failed(self, position: int, done: set[int], cause: StackError, undo: Callable[[], None] | None) -> StepFailed:
        undone = undo is not None
        try:
            if undo is not None:
                undo()
        except StackError as error:
            undone = False
            cause = StackError(f"{cause}; taking back what was done failed too: {error}")
        sentences = self.sentences
        return StepFailed(
            done=tuple(sentences[each] for each in sorted(done)),
            failed=sentences[position],
            left=tuple(sentence for each, sentence in enumerate(sentences) if each != position and each not in done),
            cause=cause,
            undone=undone,
        )


def _take(steps: tuple[Step, ...], row: list[int], do: Callable[[Step], None], done: set[int]) -> dict[int, StackError]:
    """Take steps in order until one fails; add to ``done``, and return what failed."""
    for position in row:
        try:
            do(steps[position])
        except StackError as error:
            return {position: error}
        done.add(position)
    return {}


def _take_at_once(steps: tuple[Step, ...], row: list[int], do: Callable[[Step], None], done: set[int]) -> dict[int, StackError]:
    """Take steps a few at a time; once one has failed none is begun, and those under way are waited for.

    An error that is no failure of a step comes through, as it does where steps are taken one by one.
    """
    # Few plans come here, and what this brings along takes time to load.
    from concurrent.futures import ThreadPoolExecutor

    failures: dict[int, StackError] = {}

    def take(position: int) -> None:
        if not failures:
            failures.update(_take(steps, [position], do, done))

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        # Nothing comes back but an error that one of them raised.
        list(pool.map(take, row))
    return failures
