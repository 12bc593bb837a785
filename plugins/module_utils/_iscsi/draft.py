# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the parts of the planner write into, and the questions they all ask."""

from __future__ import annotations

import uuid
from typing import Any, Iterable

from .._plan import Plan, Refusal, Step
from .model import Backstore, Group, Guards, State, StoreKey, Tpg
from .parse import read_backstores
from .wanted import Wanted, WantedLun, WantedTarget

# Serials derived in this namespace are the same on every rebuild of a host, so initiators see the same disk.
_SERIALS = uuid.UUID("5c3c1a0e-0f5e-5b0c-9b69-6c6c6d737461")


def derive_serial(wwn: str, name: str) -> str:
    """Return the serial of a LUN that declares none."""
    return str(uuid.uuid5(_SERIALS, f"{wwn}/{name}"))


class Draft:
    """A plan in the making.

    :ivar current: portal groups as they will be when the steps so far are taken.
    :ivar gone: backstores that the steps so far take away.
    :ivar made: backstores that the steps so far create.
    :ivar stuck: backstores for which a refusal says all there is to say.
    """

    def __init__(self, state: State, wanted: Wanted, guards: Guards) -> None:
        self.state = state
        self.wanted = wanted
        self.guards = guards
        self.steps: list[Step] = []
        self.refusals: list[Refusal] = []
        self.warnings: list[str] = []
        self.before: dict[str, Any] = {}
        self.after: dict[str, Any] = {}
        self.current: dict[Group, Tpg] = {}
        self.gone: set[StoreKey] = set()
        self.made: dict[StoreKey, Backstore] = {}
        self.stuck: set[StoreKey] = set()

    def plan(self) -> Plan:
        """What was written so far."""
        return Plan(tuple(self.steps), tuple(self.refusals), tuple(self.warnings), self.before, self.after)

    def add(self, action: str, target: str, sentence: str, data: Any) -> None:
        """Note a step."""
        self.steps.append(Step(action, target, sentence, data))

    def refuse(self, target: str, reason: str) -> None:
        """Note a refusal; the same one once only."""
        refusal = Refusal(target, reason)
        if refusal not in self.refusals:
            self.refusals.append(refusal)

    def warn(self, sentence: str) -> None:
        """Note what was seen and left alone."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)

    def differs(self, where: object, what: str, before: Any, after: Any) -> None:
        """Note a difference for ``diff``."""
        if before is not None:
            self.before.setdefault(str(where), {})[what] = before
        if after is not None:
            self.after.setdefault(str(where), {})[what] = after

    def store(self, name: str) -> Backstore | None:
        """The backstore of a name as it will be when the steps so far are taken."""
        made = next((store for store in self.made.values() if store.name == name), None)
        found = self.state.store(name)
        return made or (found if found and found.key not in self.gone else None)

    def previous(self, key: StoreKey) -> Backstore | None:
        """What a backstore was, in the kernel or, where an interrupted run or a failed boot left it out, in the saved file.

        One without a serial was never finished: the kernel gets the serial after all else.
        """
        stores = (*self.state.backstores, *read_backstores(self.state.saved or {}))
        return next((store for store in stores if store.key == key and store.serial), None)

    def users(self, key: StoreKey) -> tuple[tuple[Group, int], ...]:
        """Where a backstore is offered now."""
        return self.state.uses.get(key, ())

    def logged_in(self, group: Group, index: int) -> tuple[str, ...]:
        """Initiators that are logged in and see a LUN: by a mapping, or because they need no entry."""
        have = self.state.group(group) or Tpg(group.tag)
        blind = {acl.initiator for acl in have.acls if all(entry.lun != index for entry in acl.mapped)}
        return tuple(name for name in self.state.sessions.get(group, ()) if name not in blind)

    def disturbs(self, want: WantedTarget, what: str, name: str, sessions: Iterable[str]) -> bool:
        """Whether a step would disturb somebody who is logged in and that is not allowed; notes the refusal.

        :param what: what would be done, such as ``remove LUN 1 (disk1)``.
        :param name: what has to be named to allow it.
        """
        live = sorted(sessions)
        if not live or name in want.allow_disconnect:
            return False
        self.refuse(
            want.wwn,
            f"Refusing to {what} of {want.group}: {', '.join(live)} is logged in and would lose it. Log it out first, or name {name} in "
            "allow_disconnect.",
        )
        return True

    def serial(self, want: WantedTarget, lun: WantedLun) -> str:
        """The serial a backstore gets: the pinned one, else the one initiators know it by, else the derived one."""
        known = self.previous(lun.key)
        return lun.serial or (known.serial if known else "") or derive_serial(want.wwn, lun.name)
