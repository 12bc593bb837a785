# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pool's plan in the making: what is planned in any order comes out in the one that works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping

from ..._disk.probe import BlockDevice
from ..._plan import Plan, Refusal, Step

# Properties first, a feature may be what an attach needs. Devices leave after others have come, but for logs and caches of
# the same plan. What runs for long is started last.
_ORDER = (
    "destroy",
    "import",
    "set",
    "upgrade",
    "online",
    "wipe",
    "create",
    "replace",
    "attach",
    "detach",
    "checkpoint",
    "add",
    "remove",
    "offline",
    "initialize",
    "trim",
    "scrub",
)


@dataclass(frozen=True)
class Command:
    """A step that is one command.

    :param takes: declared paths of the devices that come into the pool by it: they are looked at again just before.
    """

    argv: tuple[str, ...]
    takes: tuple[str, ...] = ()


@dataclass(frozen=True)
class WipeData:
    """A device to erase."""

    device: BlockDevice


@dataclass(frozen=True)
class SettleData:
    """The properties of a pool that could not be read when the plan was made: they are planned when they can be."""


class Draft:
    """Collects steps, refusals and warnings for one pool."""

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self.steps: list[Step] = []
        self.reasons: list[str] = []
        self.warnings: list[str] = []
        self._before: dict[str, Any] = {}
        self._after: dict[str, Any] = {}

    def step(self, action: str, target: str, sentence: str, data: Any) -> None:
        """Add a step; its place follows from its action."""
        self.steps.append(Step(action, target, sentence, data))

    def refuse(self, reason: str) -> None:
        """Add a refusal, once."""
        if reason not in self.reasons:
            self.reasons.append(reason)

    def warn(self, warning: str) -> None:
        """Add a warning."""
        self.warnings.append(warning)

    def differ(self, what: str, before: Any, after: Any) -> None:
        """Show a difference in the diff."""
        self._before[what] = before
        self._after[what] = after

    def plans(self, *actions: str) -> bool:
        """Whether a step of one of these kinds was added."""
        return any(step.action in actions for step in self.steps)

    def finish(self, *, before: Mapping[str, Any] | None = None, after: Mapping[str, Any] | None = None) -> Plan:
        """The plan: nothing but the refusals when there are any.

        :param before: for the diff, in place of what :meth:`differ` collected; ``after`` is the same.
        """
        if self.reasons:
            return Plan(refusals=tuple(Refusal(self.pool, reason) for reason in self.reasons), warnings=tuple(self.warnings))
        steps = sorted(self.steps, key=lambda step: _ORDER.index(step.action))
        if before is None and after is None:
            before = {self.pool: self._before} if self._before else {}
            after = {self.pool: self._after} if self._after else {}
        return Plan(tuple(steps), (), tuple(self.warnings), dict(before or {}), dict(after or {}))
