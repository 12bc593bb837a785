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


@dataclass(frozen=True)
class Step:
    """One difference, one step.

    :param action: a verb of the module's own set, such as ``create``, ``attach`` or ``set``.
    :param target: the object acted on, by the identity the user knows it by.
    :param sentence: what will happen and why, for a person; it never holds a secret.
    :param data: what the applier needs; opaque here.
    """

    action: str
    target: str
    sentence: str
    data: Any = None


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
        """Take the steps in order and stop at the first that fails.

        :param do: takes one step.
        :param undo: takes all back that ``do`` did, where that can be done.
        :raises StepFailed: names the steps done, the one that failed and those not started.
        """
        for position, step in enumerate(self.steps):
            try:
                do(step)
            except StackError as error:
                raise self._failed(position, error, undo) from error

    def _failed(self, position: int, cause: StackError, undo: Callable[[], None] | None) -> StepFailed:
        undone = undo is not None
        try:
            if undo is not None:
                undo()
        except StackError as error:
            undone = False
            cause = StackError(f"{cause}; taking back what was done failed too: {error}")
        sentences = tuple(self.sentences)
        return StepFailed(
            done=sentences[:position],
            failed=sentences[position],
            left=sentences[position + 1 :],
            cause=cause,
            undone=undone,
        )
