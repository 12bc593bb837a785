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
    tasks = _tasks(runner, tuple(counts))
    return tuple(
        Running(name, int(count[0]), int(count[2]), states.get(name, ""), tuple(task for task in tasks if task.name.startswith(f"{name}.")))
        for name, count in sorted(counts.items())
    )


def _tasks(runner: Runner, services: tuple[str, ...]) -> list[Task]:
    """The newest task of every slot."""
    shown = runner.run(("docker", "service", "ps", "--no-trunc", "--format", "{{json .}}", *services)).stdout
    newest: dict[str, Task] = {}
    for line in shown.splitlines():
        row = json.loads(line)
        name = row["Name"].replace("\\_ ", "").strip()
        # The list has the newest first; an older task of the same slot still tells why it failed.
        known = newest.get(name)
        if known is None:
            newest[name] = Task(name, row["Node"], row["CurrentState"], row["Error"])
        elif not known.error and row["Error"] and not known.state.startswith("Running"):
            newest[name] = Task(name, known.node, known.state, f"{row['Error']} (on {row['Node']})")
    return list(newest.values())
