# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the swarm has, by the docker command."""

from __future__ import annotations

import base64
import json
from typing import Any

from .._errors import CommandFailed, StackError
from .._run import Runner
from .model import LABEL, Current, Running, Service, Stored, Task


def read_current(runner: Runner, *, foresee: bool) -> Current:
    """Read services, configs, secrets and networks of the swarm.

    :param foresee: in check mode a machine that is no manager yet has nothing, and that is no error.
    :raises StackError: the machine is no manager of a swarm.
    """
    try:
        is_manager = runner.run(("docker", "info", "--format", "{{.Swarm.ControlAvailable}}")).stdout.strip() == "true"
    except CommandFailed as error:
        if foresee:
            return Current()
        raise StackError(f"Docker does not answer, so no stack can be deployed: {error}. Run playbooks/swarm.yml first.") from error
    if not is_manager:
        if foresee:
            return Current()
        raise StackError("This machine is no manager of a swarm, so no stack can be deployed from it. Run playbooks/swarm.yml first.")
    services = tuple(map(_service, _inspect(runner, "service")))
    stored = tuple(_stored(kind, raw) for kind in ("config", "secret") for raw in _inspect(runner, kind))
    return Current(services=services, stored=stored, networks=_networks(runner))


def _inspect(runner: Runner, kind: str) -> list[dict[str, Any]]:
    identities = runner.run(("docker", kind, "ls", "--quiet")).stdout.split()
    # What vanished since it was listed is left out of the answer and makes the exit status 1.
    shown = runner.run(("docker", kind, "inspect", *identities), ok=(0, 1)).stdout if identities else "[]"
    return list(json.loads(shown))


def _service(raw: dict[str, Any]) -> Service:
    spec = raw["Spec"]
    return Service(spec["Name"], (spec.get("Labels") or {}).get(LABEL, ""), spec, raw.get("PreviousSpec") or {})


def _stored(kind: str, raw: dict[str, Any]) -> Stored:
    spec = raw["Spec"]
    text = base64.b64decode(spec.get("Data") or "").decode("utf-8", "replace") if kind == "config" else ""
    return Stored(kind, spec["Name"], (spec.get("Labels") or {}).get(LABEL, ""), text)


def _networks(runner: Runner) -> dict[str, str]:
    listed = runner.run(("docker", "network", "ls", "--no-trunc", "--format", "{{.ID}} {{.Name}}")).stdout
    return dict(line.split(" ", 1) for line in listed.splitlines() if line)


def read_running(runner: Runner, stack: str) -> tuple[Running, ...]:
    """Read how far the services of the stack have got."""
    mark = f"label={LABEL}={stack}"
    listed = runner.run(("docker", "service", "ls", "--filter", mark, "--format", "{{.Name}} {{.Replicas}}")).stdout
    counts = {line.split()[0]: line.split()[1].partition("/") for line in listed.splitlines() if line}
    if not counts:
        return ()
    updates = runner.run(("docker", "service", "inspect", "--format", "{{.Spec.Name}} {{with .UpdateStatus}}{{.State}}{{end}}", *counts))
    states = {line.split()[0]: [*line.split(), ""][1] for line in updates.stdout.splitlines() if line}
    rows = _task_rows(runner, tuple(counts))
    return tuple(_running(name, count, states.get(name, ""), rows) for name, count in sorted(counts.items()))


def _running(name: str, count: tuple[str, str, str], update: str, rows: list[dict[str, str]]) -> Running:
    ours = [row for row in rows if row["Name"].startswith(f"{name}.")]
    failed = frozenset(row["ID"] for row in ours if row["CurrentState"].startswith(("Failed", "Rejected")))
    return Running(name, int(count[0]), int(count[2]), update, _newest(ours), failed)


def _task_rows(runner: Runner, services: tuple[str, ...]) -> list[dict[str, str]]:
    shown = runner.run(("docker", "service", "ps", "--no-trunc", "--format", "{{json .}}", *services)).stdout
    rows = [json.loads(line) for line in shown.splitlines()]
    return [{**row, "Name": row["Name"].replace("\\_ ", "").strip()} for row in rows]


def _newest(rows: list[dict[str, str]]) -> tuple[Task, ...]:
    """The newest task of every slot, with the error of the one before it where it has none yet."""
    newest: dict[str, Task] = {}
    for row in rows:
        known = newest.get(row["Name"])
        if known is None:
            newest[row["Name"]] = Task(row["Name"], row["Node"], row["CurrentState"], row["Error"])
        elif not known.error and row["Error"] and not known.state.startswith("Running"):
            newest[row["Name"]] = Task(known.name, known.node, known.state, f"{row['Error']} (on {row['Node']})")
    return tuple(newest.values())
