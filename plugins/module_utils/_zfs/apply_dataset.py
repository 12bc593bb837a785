# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carry out the steps of a dataset plan."""

from __future__ import annotations

import grp
import os
import pwd
import time
from pathlib import Path
from typing import Any, Sequence

from .._errors import StackError
from .._plan import Plan, Step
from .._run import Runner
from .model import Dataset, FoundDataset
from .plan_dataset import CreateData, MountData, OwnData, Owners, SetData, lineage, plan_datasets
from .read import NoZfsError, read_datasets

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

    def plan(self) -> Plan:
        """Read what there is and plan: one process, whatever the number of datasets."""
        names = lineage([each.name for each in self._wanted])
        properties = [what for each in self._wanted for what in each.properties]
        found: dict[str, FoundDataset] = {}
        warnings: tuple[str, ...] = ()
        try:
            found = read_datasets(self._runner, names, properties) if names else {}
        except NoZfsError as error:
            if not self._rehearsal:
                raise
            warnings = (str(error),)
        plan = plan_datasets(self._wanted, found, owners_of(self._wanted), rehearsal=self._rehearsal)
        return Plan(plan.steps, plan.refusals, (*warnings, *plan.warnings), plan.before, plan.after)

    def do(self, step: Step) -> None:
        """Take one step."""
        data = step.data
        if isinstance(data, CreateData):
            self._runner.run(data.argv)
            if data.link:
                await_link(data.link)
        elif isinstance(data, SetData):
            self._runner.run(["zfs", "set", *(f"{what}={value}" for what, value in data.changes), *data.names])
        elif isinstance(data, MountData):
            self._runner.run(["zfs", "mount", data.name])
        elif isinstance(data, OwnData):
            self._own(data)
        else:
            raise StackError(f"The step {step.action} of {step.target} has no way to be carried out; please report this.")

    def _own(self, data: OwnData) -> None:
        path = self._runner.run(["zfs", "get", "-H", "-o", "value", "mountpoint", data.name]).stdout.strip()
        if not os.path.ismount(path):
            raise StackError(f"{data.name} is not mounted on {path}: see `zfs mount {data.name}`")
        try:
            os.chown(path, -1 if data.uid is None else data.uid, -1 if data.gid is None else data.gid)
            if data.mode is not None:
                Path(path).chmod(data.mode)
        except OSError as error:
            raise StackError(f"the directory {path} cannot be changed: {error.strerror}") from error

    def report(self) -> dict[str, Any]:
        """The declared datasets."""
        return {"datasets": [describe(each) for each in self._wanted], "processes": self._runner.count}


def describe(dataset: Dataset) -> dict[str, Any]:
    """A dataset as a module returns it."""
    shown: dict[str, Any] = {"name": dataset.name, "type": dataset.kind}
    if dataset.kind == "volume":
        shown.update(volsize=dataset.volsize, device=f"/dev/zvol/{dataset.name}")
    return shown


def owners_of(wanted: Sequence[Dataset]) -> Owners:
    """Numbers of the users and groups the list names, where the host knows them."""
    users: dict[str, int] = {}
    groups: dict[str, int] = {}
    for each in wanted:
        if each.owner:
            users.update(_number(each.owner, pwd.getpwnam, "pw_uid"))
        if each.group:
            groups.update(_number(each.group, grp.getgrnam, "gr_gid"))
    return Owners(users, groups)


def _number(name: str, look_up: Any, field: str) -> dict[str, int]:
    if name.isdigit():
        return {name: int(name)}
    try:
        return {name: int(getattr(look_up(name), field))}
    except KeyError:
        return {}


def await_link(path: str, *, patience: float = _LINK_PATIENCE) -> None:
    """Wait for the device node of a new volume.

    :raises StackError: when it does not come.
    """
    end = time.monotonic() + patience
    while not Path(path).exists():
        if time.monotonic() > end:
            raise StackError(f"the volume was created but {path} did not appear within {patience:g} s: try `udevadm trigger`")
        time.sleep(0.1)
