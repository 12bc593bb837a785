# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a playbook inside the lab and read what it did."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

from . import network
from .artifacts import python
from .config import REPO
from .lab import Lab
from .process import kill_tree

INVENTORY = REPO / "inventories" / "lab"
SITE = REPO / "playbooks" / "site.yml"
_TASK = re.compile(r"^(?:TASK|RUNNING HANDLER) \[(?P<name>.*)\] \**$")
_OUTCOME = re.compile(r"^(?P<state>changed|fatal|failed): \[(?P<host>[^\]\s]+)")
_RECAP = re.compile(r"^(?P<host>\S+)\s+: (?P<counts>ok=.*)$")


@dataclass(frozen=True)
class Outcome:
    """What a run of ansible-playbook did.

    :param changed: (host, task) of every task that changed something.
    :param failed: (host, task) of every task that failed.
    :param recap: host to its counts, such as ``changed`` and ``unreachable``.
    """

    status: int
    text: str
    changed: tuple[tuple[str, str], ...]
    failed: tuple[tuple[str, str], ...]
    recap: dict[str, dict[str, int]]

    @property
    def changes(self) -> int:
        """Changes on all hosts together."""
        return sum(counts["changed"] for counts in self.recap.values())

    @property
    def words(self) -> str:
        """The output with line breaks and runs of spaces folded, to look for sentences."""
        return " ".join(self.text.split())


def read(status: int, text: str) -> Outcome:
    """Read the default callback's output."""
    task = ""
    outcomes: dict[str, list[tuple[str, str]]] = {"changed": [], "fatal": [], "failed": []}
    recap = {}
    for line in text.splitlines():
        if found := _TASK.match(line):
            task = found["name"]
        elif found := _OUTCOME.match(line):
            outcomes[found["state"]].append((found["host"], task))
        elif found := _RECAP.match(line):
            recap[found["host"]] = {name: int(count) for name, count in (pair.split("=") for pair in found["counts"].split())}
    return Outcome(status, text, tuple(outcomes["changed"]), tuple(outcomes["fatal"] + outcomes["failed"]), recap)


def play(
    lab: Lab,
    playbook: Path | str = SITE,
    *options: str,
    variables: dict[str, Any] | None = None,
    inventory: Sequence[Path] = (INVENTORY,),
    collections: Path | None = None,
    kill_at: str = "",
) -> Outcome:
    """Run ansible-playbook in the lab's network, showing its output as it comes.

    :param playbook: a file, or the name of a playbook in an installed collection.
    :param variables: given as extra variables.
    :param collections: where the collection is installed, instead of the checkout.
    :param kill_at: the name of a task; as it starts, the whole run is ended without notice.
    """
    argv = [*network.inside(lab.paths), str(python().with_name("ansible-playbook")), str(playbook), *options]
    argv += [argument for path in inventory for argument in ("-i", str(path))]
    if variables:
        argv += ["-e", json.dumps(variables)]
    environment = {**lab.environment(), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "0", "COLUMNS": "200"}
    if collections:
        environment["ANSIBLE_COLLECTIONS_PATH"] = str(collections)
    lines = []
    with subprocess.Popen(argv, cwd=REPO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        for line in running.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
            found = _TASK.match(line.rstrip()) if kill_at else None
            if found and found["name"].endswith(kill_at):
                kill_tree(running.pid)
    return read(running.returncode, "".join(lines))
