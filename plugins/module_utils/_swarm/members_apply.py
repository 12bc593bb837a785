# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes the steps for the nodes of a swarm, through the API of a manager, and sees their end."""

from __future__ import annotations

import time
from typing import Any, Callable

from .._errors import StackError
from .._plan import Step
from .client import Api, EngineError
from .members_plan import busy, draining, unmet
from .model import Member, Node, Task
from .read import read_nodes, read_tasks

# How often an update is repeated when another writer was faster.
CONFLICTS = 5
_NOT_FOUND = 404


def is_conflict(error: EngineError) -> bool:
    """Whether an update was refused because the object has changed since it was read."""
    return "out of sequence" in str(error)


class MembersApplier:
    """Takes the steps of :func:`.members_plan.plan_members`.

    :param sleep: waits; replaced in tests, as is the clock.
    :param timeout: seconds until the nodes must be as they should be.
    """

    def __init__(
        self,
        api: Api,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        timeout: float = 60.0,
    ) -> None:
        self._api = api
        self._clock = clock
        self._sleep = sleep
        self._timeout = timeout

    def do(self, step: Step) -> None:
        """Take one step."""
        if step.action == "remove":
            self._remove(step.target)
        else:
            self._update(step)

    def _remove(self, node_id: str) -> None:
        try:
            self._api.remove_node(node_id)
        except EngineError as error:
            # Another run was faster.
            if error.status != _NOT_FOUND:
                raise

    def _update(self, step: Step) -> None:
        """Update one node; when another writer was faster, look again and repeat."""
        for attempt in range(CONFLICTS):
            found = self._api.node(step.target)
            spec = dict(found["Spec"])
            spec["Labels"] = self._merged(spec.get("Labels") or {}, step.data)
            spec["Availability"] = step.data["availability"] or spec.get("Availability", "active")
            try:
                self._api.update_node(step.target, found["Version"]["Index"], spec)
                return
            except EngineError as error:
                if not is_conflict(error) or attempt == CONFLICTS - 1:
                    raise
                self._sleep(0.2)

    @staticmethod
    def _merged(labels: dict[str, str], change: dict[str, Any]) -> dict[str, str]:
        kept = {key: value for key, value in labels.items() if key not in change["remove"]}
        return {**kept, **change["set"]}

    def verify(self, desired: tuple[Member, ...], nodes: tuple[Node, ...] | None = None) -> tuple[Node, ...]:
        """Wait until the manager sees every member's GPUs and drained nodes are free of tasks, and return the nodes.

        :param nodes: what the manager has just said, None to ask.
        :raises StackError: it does not within the time allowed; names what is missing.
        """
        start = self._clock()
        while True:
            # What a manager takes to answer is waited for as well.
            self._api.within(self._timeout - (self._clock() - start))
            seen = read_nodes(self._api) if nodes is None else nodes
            missing = unmet(seen, desired)
            drained = draining(seen, desired)
            tasks = read_tasks(self._api, [node.id for node in drained])
            if not missing and not tasks:
                return seen
            waited = self._clock() - start
            if waited >= self._timeout:
                raise StackError(" ".join(self._reasons(waited, missing, busy(drained, tasks, self._names(tasks)))))
            self._sleep(1.0)
            nodes = None

    def _names(self, tasks: tuple[Task, ...]) -> dict[str, str]:
        """Return the names of the tasks' services; one that is gone meanwhile has none."""
        found = {}
        for service_id in {task.service_id for task in tasks}:
            try:
                found[service_id] = str(self._api.service(service_id)["Spec"]["Name"])
            except EngineError:
                continue
        return found

    @staticmethod
    def _reasons(waited: float, missing: list[str], held: list[str]) -> list[str]:
        found = []
        if missing:
            found.append(
                f"The manager does not see the GPUs it should after {waited:.0f} s: {'; '.join(missing)}. "
                "Look at `docker node inspect` here and `journalctl -u docker` there."
            )
        if held:
            found.append(
                f"The drain has not ended after {waited:.0f} s: {'; '.join(held)}. The node stays drained. Look at `docker node ps` here; "
                "a task may take its service's stop_grace_period. Raise timeout, or end what holds it up, and run again."
            )
        return found
