# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carry out the steps of a pool plan."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any, Iterable, Mapping

from .._disk.identity import declared_aliases, member_aliases
from .._disk.probe import BlockDevice, clear, contents, probe
from .._errors import CommandFailed, StackError
from .._plan import Plan, Step
from .._run import Runner
from .model import FoundPool, Pool
from .plan_pool import Candidate, CreateData, Guards, SetData, plan_existing, plan_new
from .read import NoZfsError, read_importable, read_pools, read_properties


class PoolKeeper:
    """Brings one pool to its declared state: reads, plans and acts for it.

    :param rehearsal: nothing will be carried out, so ZFS and devices that this run will bring may still be missing.
    """

    def __init__(self, runner: Runner, want: Pool, guards: Guards, *, rehearsal: bool) -> None:
        self._runner = runner
        self._want = want
        self._guards = guards
        self._rehearsal = rehearsal
        self._found: FoundPool | None = None
        self._acted = False

    def plan(self) -> Plan:
        """Read what there is and plan; two processes when nothing differs."""
        try:
            pools = read_pools(self._runner)
        except NoZfsError as error:
            if not self._rehearsal:
                raise
            return self._plan_new({}, [str(error)])
        have = pools.get(self._want.name)
        if have is None:
            return self._plan_new(pools, [])
        self._found = FoundPool(have.name, have.state, have.groups, read_properties(self._runner, have.name))
        return plan_existing(self._want, self._found, declared=declared_aliases, member=member_aliases)

    def _plan_new(self, pools: Mapping[str, FoundPool], warnings: list[str]) -> Plan:
        candidates = self._candidates(pools)
        files = [path for path, each in candidates.items() if each.device.kind == "file"]
        importable = [] if warnings else read_importable(self._runner, files)
        plan = plan_new(self._want, importable, candidates, self._guards)
        return Plan(plan.steps, plan.refusals, (*warnings, *plan.warnings), plan.before, plan.after)

    def _candidates(self, pools: Mapping[str, FoundPool]) -> dict[str, Candidate]:
        used = {name: pool.name for pool in pools.values() for path in _paths(pool) for name in member_aliases(path)}
        found = {}
        for path, device in probe(self._runner, self._want.devices).items():
            readable = device.exists and device.kind != "other"
            found[path] = Candidate(
                device,
                contents=tuple(contents(self._runner, device)) if readable else (),
                pool=used.get(device.real, ""),
                near=() if device.exists else _near(path),
            )
        return found

    def do(self, step: Step) -> None:
        """Take one step."""
        self._acted = True
        data = step.data
        if isinstance(data, BlockDevice):
            clear(self._runner, data)
        elif isinstance(data, CreateData):
            self._create(data)
        elif isinstance(data, SetData):
            for name, value in data.changes:
                self._runner.run(["zpool", "set", f"{name}={value}", data.pool])
        else:
            raise StackError(f"The step {step.action} of {step.target} has no way to be carried out; please report this.")

    def _create(self, data: CreateData) -> None:
        """Create the pool, or leave its devices as blank as they were.

        udev reads the partition table of a disk that ZFS has just written again, and for a moment its partitions are
        gone; ZFS calls that an unavailable device. It is tried once more.
        """
        for last in (False, True):
            try:
                self._runner.run(data.argv)
            except CommandFailed as error:
                if self._want.name in read_pools(self._runner):
                    raise StackError(f"the pool was created, but not all that follows was done: {error.stderr}") from error
                self._blank_again()
                if last or "currently unavailable" not in error.stderr:
                    raise
            else:
                return

    def _blank_again(self) -> None:
        """Remove what a failed creation wrote: every device was blank, or named in C(wipe) and erased, before it."""
        for device in probe(self._runner, self._want.devices).values():
            if device.exists and contents(self._runner, device):
                clear(self._runner, device)

    def report(self) -> dict[str, Any]:
        """The pool as it is now; none where it does not exist."""
        name = self._want.name
        if self._acted:
            have = read_pools(self._runner)[name]
            self._found = FoundPool(have.name, have.state, have.groups, read_properties(self._runner, name))
        return {"pool": describe(self._found) if self._found else None, "processes": self._runner.count}


def describe(pool: FoundPool) -> dict[str, Any]:
    """A pool as a module returns it."""
    vdevs = [
        {
            "class": group.use,
            "type": group.kind,
            "name": group.name,
            "state": group.state,
            "devices": [{"path": member.paths[-1], "state": member.state} for member in group.members],
        }
        for group in pool.groups
    ]
    numbers = {name: int(pool.properties[name]) for name in ("size", "allocated", "free") if pool.properties.get(name, "").isdigit()}
    return {"name": pool.name, "guid": pool.properties.get("guid", ""), "health": pool.state, "vdevs": vdevs, **numbers}


def confirmed(paths: Iterable[str]) -> frozenset[str]:
    """The devices named in C(wipe), by what the paths lead to."""
    return frozenset(os.path.realpath(path) for path in paths)


def _paths(pool: FoundPool) -> list[str]:
    return [path for group in pool.groups for member in group.members for path in member.paths]


def _near(path: str) -> tuple[str, ...]:
    """Names beside a path that look alike."""
    try:
        names = [each.name for each in Path(path).parent.iterdir()]
    except OSError:
        return ()
    return tuple(difflib.get_close_matches(Path(path).name, names, n=2, cutoff=0.7))
