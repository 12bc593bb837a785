# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a fleet from reading to report: what the module and other programs call."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Iterable, Mapping, TypeVar

from .client import Calls, Cloud, Connection, Watch
from .ladder import Ladder, Outcome, Shared
from .model import Fleet, FleetSpec
from .plan import FleetPlan, plan_fleet, regions_to_offer
from .read import merged, read_catalogue, read_region
from .remove import Removal, remove

# Threads wait for the cloud nearly all the time; a project rarely has more servers with GPUs than this.
_THREADS = 16

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass
class Run:
    """One run over a fleet.

    :param clouds: the regions looked at, by name.
    """

    clouds: dict[str, Cloud]
    watch: Watch
    calls: Calls
    memory: dict[str, dict[str, Any]] = field(default_factory=dict)

    def look(self, fleet: str, *, groups: bool = False) -> Fleet:
        """Read what there is of a fleet in all regions."""
        return merged(in_parallel(self.clouds.values(), lambda cloud: read_region(cloud, fleet, groups=groups), self.watch))

    def read(self, desired: FleetSpec) -> Fleet:
        """Read the fleet, and what those regions offer in which a server will be made."""
        current = self.look(desired.fleet, groups=bool(desired.security_groups))
        regions = regions_to_offer(current, desired, self.watch.now())
        offers = in_parallel(regions, lambda region: read_catalogue(self.clouds[region]), self.watch)
        return replace(current, catalogues=dict(zip(regions, offers)))

    def plan(self, current: Fleet, desired: FleetSpec) -> FleetPlan:
        """Plan what :meth:`read` has found."""
        return plan_fleet(current=current, desired=desired, memory=self.memory, now=self.watch.now())

    def apply(self, plan: FleetPlan, *, current: Fleet, desired: FleetSpec) -> list[Outcome]:
        """Do the work of all slots at once; each ends in an outcome of its own."""
        shared = Shared(self.clouds, current=current, desired=desired, memory=self.memory)
        try:
            return in_parallel(plan.works, lambda work: Ladder(work, shared).run(), self.watch)
        finally:
            now = self.watch.now()
            self.memory = {key: entry for key, entry in shared.memory.items() if float(entry["until"]) > now}

    def remove(self, works: Iterable[Removal]) -> list[Outcome]:
        """Remove what belongs to some slots, all at once."""
        return in_parallel(works, lambda work: remove(work, self.clouds), self.watch)


def start(
    connections: Mapping[str, Connection], *, watch: Watch, calls: Calls, api_timeout: float, memory: Mapping[str, Mapping[str, Any]]
) -> Run:
    """Begin a run.

    :param api_timeout: seconds for one request.
    :param memory: what the last run returned.
    """
    clouds = {name: Cloud(one, watch=watch, calls=calls, api_timeout=api_timeout) for name, one in connections.items()}
    return Run(clouds, watch, calls, {key: dict(value) for key, value in memory.items()})


def in_parallel(items: Iterable[_Item], do: Callable[[_Item], _Result], watch: Watch) -> list[_Result]:
    """Do the same to all items at once; an interruption makes every thread stop at its next request."""
    todo = list(items)
    if not todo:
        return []
    with ThreadPoolExecutor(max_workers=min(_THREADS, len(todo))) as pool:
        futures = [pool.submit(do, item) for item in todo]
        try:
            return [future.result() for future in futures]
        except BaseException:
            watch.stop()
            raise
