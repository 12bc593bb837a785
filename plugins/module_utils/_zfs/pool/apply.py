# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring one pool to its declared state: read, plan, carry out the steps, report."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Mapping, Sequence

from ..._disk.identity import declared_aliases, member_aliases
from ..._disk.probe import BlockDevice, clear, contents, probe, uses
from ..._errors import CommandFailed, StackError
from ..._plan import Plan, Step
from ..._run import Runner
from ..read import NoZfsError
from ..values import same
from .advise import Host
from .devices import Candidate
from .draft import Command, Draft, SettleData, WipeData
from .facts import names_in_use, read_datasets_of, read_devices, read_host, read_usage
from .life import find_importable
from .match import Identity
from .model import FoundPool, Guards, Importable, Pool
from .plan import plan_absent, plan_existing, plan_import, plan_new
from .properties import plan_properties
from .read import allowed_features, read_geometry, read_importable, read_pools, read_properties, search_places
from .report import describe
from .scene import Scene


@dataclass(frozen=True)
class Manner:
    """How a run goes about it.

    :param rehearsal: nothing will be carried out, so ZFS and devices that this run will bring may still be missing.
    :param absent: the pool shall not exist.
    :param wait: seconds to wait at the end for what runs by itself; 0 for not at all.
    """

    rehearsal: bool = False
    absent: bool = False
    wait: float = 0


class PoolKeeper:
    """Brings one pool to its declared state."""

    def __init__(self, runner: Runner, want: Pool, guards: Guards, manner: Manner) -> None:
        self._runner = runner
        self._want = want
        self._guards = guards
        self._manner = manner
        self._identity = Identity(declared_aliases, member_aliases)
        self._progress = bool({"trim", "initialize"} & set(want.activities))
        self._found: FoundPool | None = None
        self._acted = False

    def plan(self) -> Plan:
        """Read what there is and plan; three processes when nothing differs."""
        try:
            pools = read_pools(self._runner, progress=self._progress)
        except NoZfsError as error:
            if not self._manner.rehearsal:
                raise
            return self._without_zfs(error)
        have = pools.get(self._want.name)
        if have is not None:
            have = self._found = replace(have, properties=read_properties(self._runner, have.name))
        if self._manner.absent:
            return plan_absent(have, self._want.name, self._guards)
        return self._plan_missing(pools) if have is None else self._plan_found(have, pools)

    def _without_zfs(self, error: NoZfsError) -> Plan:
        plan = plan_absent(None, self._want.name, self._guards) if self._manner.absent else self._plan_new({}, [])
        return replace(plan, warnings=(str(error), *plan.warnings))

    def _plan_found(self, have: FoundPool, pools: Mapping[str, FoundPool]) -> Plan:
        have, host = self._advice_for(have)
        scene = Scene(self._want, have, self._guards, self._identity)
        allowed = allowed_features(have.properties.get("compatibility", "off")) if self._want.upgrade else None
        return plan_existing(self._look_closer(scene, pools), host, allowed=allowed)

    def _look_closer(self, scene: Scene, pools: Mapping[str, FoundPool]) -> Scene:
        """Look at what would come into the pool; nothing is asked when nothing would."""
        arriving = (*scene.arrivals, *(device for _group, _leaf, device in scene.vacancies if Path(device).exists()))
        drifted = not same("ashift", self._want.properties.get("ashift", "0"), scene.have.properties.get("ashift", "0"))
        if not arriving and not ("ashift" in self._want.properties and drifted):
            return scene
        geometry = read_geometry(self._runner, scene.have.name) if scene.have.properties else {}
        return replace(scene, candidates=self._candidates(arriving, pools), geometry=geometry)

    def _advice_for(self, have: FoundPool) -> tuple[FoundPool, Host]:
        """One process more: before ZFS 2.3 it tells how full special vdevs are where there are any, else what the datasets are."""
        host = read_devices(read_host(), have)
        blind = any(group.size is None for group in have.of("special", "dedup"))
        if blind:
            return read_usage(self._runner, have), host
        return have, replace(host, datasets=tuple(read_datasets_of(self._runner, have.name)))

    def _plan_missing(self, pools: Mapping[str, FoundPool]) -> Plan:
        files = [path for path in self._want.devices if Path(path).is_file()]
        importable = read_importable(self._runner, files)
        ours = [each for each in find_importable(self._want, importable, self._identity) if each.name == self._want.name]
        if len(ours) == 1:
            return self._plan_import(ours[0], pools, files)
        return self._plan_new(pools, importable)

    def _plan_import(self, found: Importable, pools: Mapping[str, FoundPool], files: Sequence[str]) -> Plan:
        scene = Scene(self._want, found.pool, self._guards, self._identity)
        scene = replace(scene, candidates=self._candidates(scene.arrivals, pools))
        return plan_import(scene, found, search_places(files))

    def _plan_new(self, pools: Mapping[str, FoundPool], importable: Sequence[Importable]) -> Plan:
        candidates = self._candidates(self._want.devices, pools)
        return plan_new(self._want, importable, candidates, self._guards, read_host(), identity=self._identity)

    def _candidates(self, paths: Sequence[str], pools: Mapping[str, FoundPool]) -> dict[str, Candidate]:
        used = {alias: pool for name, pool in names_in_use(pools.values()).items() for alias in member_aliases(name)}
        found = {}
        for path, device in probe(self._runner, paths).items():
            found[path] = Candidate(
                device,
                contents=self._carries(device),
                pool=used.get(device.real, ""),
                near=() if device.exists else _near(path),
            )
        return found

    def _carries(self, device: BlockDevice) -> tuple[str, ...]:
        return tuple(contents(self._runner, device)) if device.exists and device.kind != "other" else ()

    def do(self, step: Step) -> None:
        """Take one step."""
        self._acted = True
        data = step.data
        if isinstance(data, WipeData):
            self._wipe(data.device)
        elif isinstance(data, Command):
            self._take(data) if data.takes else self._runner.run(data.argv)
        elif isinstance(data, SettleData):
            self._settle()
        else:
            raise StackError(f"The step {step.action} of {step.target} has no way to be carried out; please report this.")

    def _wipe(self, planned: BlockDevice) -> None:
        """Erase a device, looked at anew: what uses it now counts, not what did when the plan was made."""
        device = probe(self._runner, [planned.path])[planned.path]
        if device.real != planned.real:
            raise StackError(
                f"Refusing to erase {planned.path}: it leads to {device.real} now, and to {planned.real} when this was planned"
            )
        clear(self._runner, device)

    def _take(self, data: Command) -> None:
        """Let ZFS take devices that are still blank, or leave them as blank as they were.

        udev reads the partition table of a disk that ZFS has just written again, and for a moment its partitions are
        gone; ZFS calls that an unavailable device. It is tried once more.
        """
        self._require_blank(data.takes)
        for last in (False, True):
            try:
                self._runner.run(data.argv)
            except CommandFailed as error:
                if self._taken(data):
                    raise StackError(f"the devices are in the pool, but not all that follows was done: {error.stderr}") from error
                self._blank_again(data.takes)
                if last or "currently unavailable" not in error.stderr:
                    raise
            else:
                return

    def _require_blank(self, paths: Sequence[str]) -> None:
        """ZFS itself does not look when it is forced, and much can be written between a plan and its step."""
        for path, device in probe(self._runner, paths).items():
            found = uses(device) or list(self._carries(device))
            if not device.exists or found:
                told = "; ".join(found) or "it is gone"
                raise StackError(f"Refusing to take {path}: since the plan was made it changed: {told}. Look at it before you run again")

    def _taken(self, data: Command) -> bool:
        pool = read_pools(self._runner).get(self._want.name)
        if pool is None:
            return False
        places = [self._identity.find(pool.groups, path) for path in data.takes]
        return any(place is not None and place[2].state != "UNAVAIL" for place in places)

    def _blank_again(self, paths: Sequence[str]) -> None:
        """Remove what a failed command wrote: every device was blank just before it."""
        for device in probe(self._runner, paths).values():
            if device.exists and contents(self._runner, device):
                clear(self._runner, device)

    def _settle(self) -> None:
        """Plan the properties that could not be read before, and set those that differ."""
        name = self._want.name
        have = replace(read_pools(self._runner)[name], properties=read_properties(self._runner, name))
        geometry = read_geometry(self._runner, name) if "ashift" in self._want.properties else {}
        draft = Draft(name)
        plan_properties(draft, Scene(self._want, have, self._guards, self._identity, geometry=geometry))
        if draft.reasons:
            raise StackError(" ".join(draft.reasons))
        for step in draft.steps:
            self._runner.run(step.data.argv)

    def report(self) -> dict[str, Any]:
        """The pool as it is now; none where it does not exist."""
        name, waits = self._want.name, self._manner.wait and not self._manner.rehearsal and not self._manner.absent
        if waits:
            self._await()
        if self._acted or waits:
            have = read_pools(self._runner, progress=self._progress).get(name)
            self._found = have and replace(have, properties=read_properties(self._runner, name))
        return {"pool": describe(self._found) if self._found else None, "processes": self._runner.count}

    def _await(self) -> None:
        """Wait for everything that ZFS does by itself on the pool."""
        usual, self._runner.timeout = self._runner.timeout, self._manner.wait
        try:
            self._runner.run(["zpool", "wait", self._want.name])
        except CommandFailed as error:
            if error.rc != 124:
                raise
            have = read_pools(self._runner, progress=self._progress)[self._want.name]
            told = (
                f"the {have.scan.kind} is {have.scan.percent:g} % done"
                if have.scan.state == "running"
                else "`zpool status -it` shows how far it is"
            )
            raise StackError(
                f"Pool {self._want.name} is not through after {self._manner.wait:g} s: {told}. Nothing is wrong with that, it goes on by"
                " itself; run again, or allow more time with wait_timeout."
            ) from error
        finally:
            self._runner.timeout = usual


def _near(path: str) -> tuple[str, ...]:
    """Names beside a path that look alike."""
    try:
        names = [each.name for each in Path(path).parent.iterdir()]
    except OSError:
        return ()
    return tuple(difflib.get_close_matches(Path(path).name, names, n=2, cutoff=0.7))
