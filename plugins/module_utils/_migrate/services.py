# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The old machine's services: how they are, how they were, and their end and return."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Iterable

from .._errors import StackError
from .._run import Runner
from . import files
from .plan import Unit


class Services:
    """Systemd's services on this machine, and the file that remembers how they were."""

    def __init__(self, runner: Runner, record: Path) -> None:
        self.runner, self.path = runner, record

    def look(self, names: Iterable[str]) -> dict[str, Unit]:
        """Return how services are."""
        found = {}
        for name in names:
            asked = ("systemctl", "show", "--property=LoadState,ActiveState,UnitFileState", "--", name)
            told = dict(line.partition("=")[::2] for line in self.runner.run(asked).stdout.splitlines())
            active = told.get("ActiveState") in ("active", "activating", "reloading")
            found[name] = Unit(active, told.get("UnitFileState") == "enabled", told.get("LoadState") == "loaded")
        return found

    def record(self) -> dict[str, Unit]:
        """Return how the services were before the switch; empty before it.

        :raises StackError: the file is damaged.
        """
        try:
            told = json.loads(self.path.read_text(encoding="utf-8"))
            return {str(name): Unit(bool(one["active"]), bool(one["enabled"])) for name, one in told.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StackError(f"{self.path}, which says how the services were, cannot be read: {error}. Start them by hand.") from error

    def write(self, units: dict[str, Unit]) -> None:
        """Write down how the services were."""
        files.write_json(self.path, {name: {"active": unit.active, "enabled": unit.enabled} for name, unit in units.items()})

    def forget(self) -> None:
        """Remove what was written down."""
        try:
            self.path.unlink()
        except OSError as error:
            raise StackError(f"{self.path} cannot be removed: {error.strerror}. Remove it by hand.") from error

    def act(self, verb: str, name: str) -> None:
        """Stop a service for good, have it start with the machine, or start it."""
        words = {"stop": ["disable", "--now"], "enable": ["enable"], "start": ["start"]}[verb]
        self.runner.run(("systemctl", *words, "--", name))
