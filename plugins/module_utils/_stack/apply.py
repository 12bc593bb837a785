# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries a plan out with the docker command, and waits until the services run."""

from __future__ import annotations

import json
import time
from typing import Any, Callable

from .._errors import CommandFailed, StackError
from .._plan import Step
from .._run import Runner
from .model import LABEL, Item, Running, Wanted
from .read import read_running

# How often a deployment is tried when the swarm changed a service between its look and its update, and the seconds between.
_TRIES = 5
_PAUSE = 1.0


def compose_text(wanted: Wanted) -> str:
    """The compose file, with configs and secrets under their full names; JSON is YAML, and no value is interpolated."""
    whole = dict(wanted.compose)
    # The first that knows start_interval.
    whole.setdefault("version", "3.12")
    for kind in ("config", "secret"):
        ours = {item.name: {"external": True, "name": item.full_name(wanted.stack)} for item in wanted.items if item.kind == kind}
        if ours:
            whole[f"{kind}s"] = ours
    return json.dumps(_literal(whole), sort_keys=True)


def _literal(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _literal(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_literal(each) for each in value]
    return value.replace("$", "$$") if isinstance(value, str) else value


class Applier:
    """Takes the steps of a plan.

    :param registry_auth: whether nodes get the credentials this machine uses for the images' registries.
    """

    def __init__(self, runner: Runner, wanted: Wanted, *, registry_auth: bool, sleep: Callable[[float], None] = time.sleep) -> None:
        self._runner = runner
        self._wanted = wanted
        self._registry_auth = registry_auth
        self._sleep = sleep

    def do(self, step: Step) -> None:
        """Take one step."""
        verb, _sep, kind = step.action.partition("_")
        if verb == "create":
            self._create(step.data)
        elif verb == "deploy":
            self._deploy()
        else:
            self._runner.run(("docker", kind, "rm", step.target))

    def _create(self, item: Item) -> None:
        name = item.full_name(self._wanted.stack)
        argv = ("docker", item.kind, "create", "--label", f"{LABEL}={self._wanted.stack}", name, "-")
        self._runner.run(argv, stdin=item.content or "")

    def _deploy(self) -> None:
        argv = ["docker", "stack", "deploy", "--compose-file", "-"]
        if self._registry_auth:
            argv.append("--with-registry-auth")
        for left in reversed(range(_TRIES)):
            try:
                self._runner.run((*argv, self._wanted.stack), stdin=compose_text(self._wanted))
                return
            except CommandFailed as error:
                # The swarm itself writes to a service that is still rolling; the next try reads its new version.
                if "out of sequence" not in error.stderr or not left:
                    raise
            self._sleep(_PAUSE)


def wait_until_settled(
    runner: Runner,
    stack: str,
    *,
    seconds: float,
    deployed: bool,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[Running, ...]:
    """Wait until every service of the stack runs as often as it should.

    :param deployed: services were just changed; a state then counts only when it was seen twice, because an update begins late.
    :raises StackError: it took longer than ``seconds``, tasks fail again and again, or an update was given up; with what the tasks say.
    """
    begin = clock()
    # A deployment forgets how earlier updates ended, so a rollback seen after it is its own.
    gave_up = ("paused", "rollback_paused", *(("rollback_completed",) if deployed else ()))
    failures = _Failures()
    calm = 0
    while True:
        services = read_running(runner, stack)
        calm = calm + 1 if all(service.settled and service.update not in gave_up for service in services) else 0
        if calm > (1 if deployed else 0):
            return services
        hopeless = failures.too_many(services) or any(service.update in gave_up for service in services)
        if hopeless or clock() - begin >= seconds:
            raise StackError(_complaint(stack, services, clock() - begin))
        sleep(2)


class _Failures:
    """Counts the tasks that fail while we look, so that a service that cannot start is not waited for to the end."""

    def __init__(self) -> None:
        self._before: dict[str, frozenset[str]] = {}
        self._seen: dict[str, set[str]] = {}

    def too_many(self, services: tuple[Running, ...]) -> bool:
        """Whether a service had five failures for each task it wants, since the first look."""
        for service in services:
            before = self._before.setdefault(service.name, service.failed)
            self._seen.setdefault(service.name, set()).update(service.failed - before)
        return any(len(self._seen[service.name]) >= 5 * max(1, service.wanted) for service in services)


def _complaint(stack: str, services: tuple[Running, ...], seconds: float) -> str:
    lines = []
    for service in services:
        if service.settled and service.update != "rollback_completed":
            continue
        update = f", update {service.update}" if service.update and service.update != "completed" else ""
        tasks = [
            f"{task.name} on {task.node or 'no node'} is {task.state}" + (f": {task.error}" if task.error else "") for task in service.tasks
        ]
        lines.append(f"{service.name} runs {service.running} of {service.wanted}{update} ({'; '.join(tasks) or 'no task yet'})")
    return (
        f"Stack {stack} is deployed, but after {seconds:.0f} s not all of it runs as it should: {'; '.join(lines)}. "
        "Correct what the tasks say (`docker service logs NAME` has more) and run again."
    )
