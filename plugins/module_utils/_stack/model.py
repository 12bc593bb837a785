# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a stack is made of."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

LABEL = "com.docker.stack.namespace"


@dataclass(frozen=True)
class Item:
    """A config or secret. The swarm keeps it under a name that holds a hash of its content, so new content is a new object.

    :param kind: ``config`` or ``secret``.
    :param content: None while a file it comes from does not exist yet (check mode).
    """

    kind: str
    name: str
    content: str | None = field(repr=False)

    def full_name(self, stack: str) -> str:
        """Return its name in the swarm."""
        digest = "pending" if self.content is None else hashlib.sha256(self.content.encode()).hexdigest()[:12]
        return f"{stack}_{self.name}_{digest}"


@dataclass(frozen=True)
class Stored:
    """A config or secret the swarm has.

    :param stack: the stack it belongs to; empty when to none.
    :param text: what a config holds; secrets cannot be read.
    """

    kind: str
    name: str
    stack: str
    text: str = ""


@dataclass(frozen=True)
class Service:
    """A service the swarm has."""

    name: str
    stack: str
    spec: dict[str, Any]
    previous: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Current:
    """What the swarm has.

    :param networks: names of networks by their ID.
    """

    services: tuple[Service, ...] = ()
    stored: tuple[Stored, ...] = ()
    networks: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What the stack should be.

    :param compose: services and networks as a compose file names them.
    :param specs: by full name of a service, the part of its specification in the swarm that follows from ``compose``.
    """

    stack: str
    compose: dict[str, Any]
    items: tuple[Item, ...]
    specs: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Task:
    """One container of a service, as far as it got."""

    name: str
    node: str
    state: str
    error: str = ""


@dataclass(frozen=True)
class Running:
    """How far a service has got.

    :param failed: IDs of its tasks that ended with an error or could not start, as far as the swarm remembers them.
    """

    name: str
    running: int
    wanted: int
    update: str = ""
    tasks: tuple[Task, ...] = ()
    failed: frozenset[str] = frozenset()

    @property
    def settled(self) -> bool:
        """Whether all its tasks run and no update is under way."""
        return self.running >= self.wanted and self.update not in ("updating", "rollback_started", "paused", "rollback_paused")
