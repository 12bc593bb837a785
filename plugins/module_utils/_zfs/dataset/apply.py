# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carry out the steps of a dataset plan."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Sequence

from ..._errors import CommandFailed, StackError
from ..._plan import Plan, Step
from ..._run import Runner
from ..read import NoZfsError
from .draft import Own, Run
from .model import Current, Dataset
from .plan import plan_datasets
from .read import read_current, read_host

# udev makes the link of a new volume in its own time.
_LINK_PATIENCE = 60.0


class DatasetKeeper:
    """Brings a list of datasets to their declared state: reads, plans and acts for them.

    :param rehearsal: nothing will be carried out, so ZFS and the pool that this run will bring may still be missing.
    """

    def __init__(self, runner: Runner, wanted: Sequence[Dataset], *, rehearsal: bool) -> None:
        self._runner = runner
        self._wanted = wanted
        self._rehearsal = rehearsal
        self._owned: list[str] = []
        self._mountpoints: dict[str, str] = {}

    def plan(self) -> Plan:
        """Read what there is and plan."""
        current = Current()
        warnings: tuple[str, ...] = ()
        try:
            current = read_current(self._runner, self._wanted)
        except NoZfsError as error:
            if not self._rehearsal:
                raise
            warnings = (str(error),)
        plan = plan_datasets(self._wanted, current, read_host(self._wanted), rehearsal=self._rehearsal)
        self._owned = [step.data.name for step in plan.steps if isinstance(step.data, Own)]
        return Plan(plan.steps, plan.refusals, (*warnings, *plan.warnings), plan.before, plan.after)

    def do(self, step: Step) -> None:
        """Take one step."""
        data = step.data
        if isinstance(data, Run):
            self._run(data)
        elif isinstance(data, Own):
            self._own(data)
        else:
            raise StackError(f"The step {step.action} of {step.target} has no way to be carried out; please report this.")

    def _run(self, data: Run) -> None:
        try:
            self._runner.run(data.argv, stdin=data.stdin)
        except CommandFailed as error:
            if not data.done or data.done not in error.stderr:
                raise
        if data.link:
            await_link(data.link)

    def _own(self, data: Own) -> None:
        path = self._mountpoint(data.name)
        if not os.path.ismount(path):
            raise StackError(f"{data.name} is not mounted on {path}: see `zfs mount {data.name}`")
        try:
            os.chown(path, -1 if data.uid is None else data.uid, -1 if data.gid is None else data.gid)
            if data.mode is not None:
                Path(path).chmod(data.mode)
        except OSError as error:
            raise StackError(f"the directory {path} cannot be changed: {error.strerror}") from error

    def _mountpoint(self, name: str) -> str:
        """Where it is mounted by now; the first time, all that are about to be changed are asked for together."""
        if name not in self._mountpoints:
            names = dict.fromkeys([name, *self._owned])
            text = self._runner.run(["zfs", "get", "-H", "-o", "name,value", "mountpoint", *names]).stdout
            self._mountpoints.update((each, path) for each, _tab, path in (line.partition("\t") for line in text.splitlines()))
        return self._mountpoints.get(name, "-")

    def report(self) -> dict[str, Any]:
        """The declared datasets."""
        return {"datasets": [describe(each) for each in self._wanted if each.present], "processes": self._runner.count}


def describe(dataset: Dataset) -> dict[str, Any]:
    """A dataset as a module returns it."""
    shown: dict[str, Any] = {"name": dataset.name, "type": dataset.kind}
    if dataset.kind == "volume":
        shown.update(volsize=dataset.volsize, device=f"/dev/zvol/{dataset.name}")
    return shown


def await_link(path: str, *, patience: float = _LINK_PATIENCE) -> None:
    """Wait for the device node of a new volume.

    :raises StackError: when it does not come.
    """
    end = time.monotonic() + patience
    while not Path(path).exists():
        if time.monotonic() > end:
            raise StackError(f"the volume was created but {path} did not appear within {patience:g} s: try `udevadm trigger`")
        time.sleep(0.1)
