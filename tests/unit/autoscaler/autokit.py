# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A site for the autoscaler: the stand-in cloud in memory, a manager's engine whose workers are its servers, and a load as it is set."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

from ansible_collections.selfhosted.llm_stack.plugins.module_utils._autoscale.loop import Autoscaler, World
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._autoscale.model import Settings, settings_of
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._autoscale.scale import Demand
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.budget import DAY
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.state import Scale, State, state_of, taken
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.store import SdkConfigs, Store
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.client import SdkApi, sdk
from standin_cloud import START, StandinCloud
from standin_swarm import Swarm

FLEET = {
    "fleet": "llm",
    "name_pattern": "gpu{n}",
    "count": "3",
    "placements": [{"region": "r1", "zone": "z1", "flavor": "GL10"}, {"region": "r1", "zone": "z2", "flavor": "GL10"}],
    "image": "golden-*",
    "volume_size": 10,
    "networks": [{"network": "lan"}],
    "floating_network": "ext",
    "allow_data_loss": ["gpu1", "gpu2", "gpu3"],
    "prices": {"currency": "RUB", "servers": [{"flavor": "GL10", "preemptible": 30.0, "regular": 100.0}]},
}
LOGIN = {"auth_type": "v3applicationcredential", "auth": {"auth_url": "http://cloud", "application_credential_secret": "hunter2"}}


def told(*, fleet: dict[str, Any] | None = None, **changes: Any) -> Settings:
    """Return settings; `recovery`, `scale` and `pace` are merged with what the tests use."""
    text = {
        "fleet": {**FLEET, **(fleet or {})},
        "recovery": {"workers_min": 1, **changes.pop("recovery", {})},
        "scale": {"up_after": 60, "down_after": 600, "cooldown": 300, **changes.pop("scale", {})},
        "pace": {"drain": 20, **changes.pop("pace", {})},
        "slots": 4,
        **changes,
    }
    return settings_of(json.dumps(text), json.dumps(LOGIN), owner="autoscaler")


class Manager(Swarm):
    """A manager over the cloud in memory, whose engines are counted."""

    def __init__(self, place: Path, cloud: StandinCloud) -> None:
        self._cloud = cloud
        self.wrote: list[str] = []
        super().__init__(place)

    @property
    def cloud(self) -> StandinCloud:
        return self._cloud

    def read(self, path: str, query: dict[str, list[str]]) -> Any:
        if path == "/events":
            self.wrote.append(query["filters"][0])
            return {"Type": "node", "Action": "update"}
        found = super().read(path, query)
        return {**found, "Version": {"Index": 7}} if path == "/services/llm_engine" else found

    def write(self, path: str, body: Any) -> tuple[int, Any]:
        self.wrote.append(path)
        if path == "/services/engine/update":
            self.replicas = body["Mode"]["Replicated"]["Replicas"]
            return 200, {}
        return super().write(path, body)


class Site:
    """All of it, on the clock of the cloud, which shows the beginning of a day: what the rest of a day costs depends on the hour."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.clouds = [StandinCloud()]
        # What a day may cost depends on what is left of it, and no playbook looks at this cloud by the real clock.
        self.cloud.now = START // DAY * DAY
        self.swarm = Manager(place, self.cloud)
        self.demand: Callable[[], Demand | None] = lambda: None
        self.said: list[dict[str, Any]] = []
        self.called: list[list[str]] = []

    @property
    def cloud(self) -> StandinCloud:
        return self.clouds[0]

    @property
    def store(self) -> Store:
        return Store(SdkConfigs(*sdk(self.swarm.url)), sleep=lambda _seconds: None)

    @property
    def state(self) -> State:
        return state_of(self.swarm.labels) if self.swarm.configs else State()

    def autoscaler(self, settings: Settings | None = None, *, url: str = "") -> Autoscaler:
        """Return one that has just been started."""
        url = url or self.swarm.url
        world = World(
            api=SdkApi(*sdk(url)),
            store=Store(SdkConfigs(*sdk(url)), sleep=lambda _seconds: None),
            connections=lambda: {cloud.region: cloud.connection() for cloud in self.clouds},
            demand=self._demand,
            call_for_hands=self._call,
            say=lambda word, **what: self.said.append({"event": word, **what}),
            clock=lambda: self.cloud.now,
            sleep=self.cloud.sleep,
        )
        return Autoscaler(settings or told(), world)

    def _call(self, workers: list[str]) -> str:
        self.called.append(workers)
        return ""

    def _demand(self) -> Demand | None:
        return self.demand()

    def words(self) -> list[str]:
        return [one["event"] for one in self.said]

    def want(self, number: int) -> None:
        """Note that demand needs so many."""
        self.store.change(lambda state: replace(state, notes=replace(state.notes, scale=Scale(number, 0.0))))

    def begin(self) -> None:
        """Make two workers and bring them into the swarm, as recover.yml does."""
        self.want(2)
        self.autoscaler().turn()
        self.join()
        self.swarm.nodes()
        self.cloud.sleep(1000)
        self.said.clear()
        self.cloud.log.clear()
        self.cloud.bodies.clear()

    def join(self) -> None:
        """Let every server join the swarm."""
        for server in self.cloud.servers:
            (self.swarm.place / "joined" / server).touch()

    def load(self, use: float, waiting: int = 0, serving: int | None = None) -> None:
        """Set the load; it is measured at every look."""
        self.demand = lambda: Demand(self.cloud.now, serving if serving is not None else len(self.swarm.tasks()), use, waiting)

    def pass_time(self, autoscaler: Autoscaler, seconds: float, *, every: float = 15.0, joins: bool = True) -> None:
        """Let it turn as time goes by; servers that were made join by themselves, as a golden image with user data lets them."""
        until = self.cloud.now + seconds
        while self.cloud.now < until:
            autoscaler.turn()
            if joins:
                self.join()
            self.cloud.sleep(every)

    def hold(self, owner: str, seconds: float = 600) -> None:
        """Let another run hold the lock."""
        self.store.change(lambda state: taken(state, owner=owner, token="theirs", now=self.cloud.now, seconds=seconds))

    def servers(self) -> dict[str, str]:
        return {one["name"]: one["id"] for one in self.cloud.alive()}

    def acts(self) -> list[str]:
        """What was asked of the cloud that starts or ends something."""
        found = []
        for (method, service, path), body in zip(self.cloud.log, self.cloud.bodies):
            if method == "POST" and path.endswith("/action"):
                found.append(f"{next(iter(body))} {path.split('/')[2]}")
            elif service == "compute" and method in ("POST", "DELETE") and path.count("/") <= 2:
                found.append(f"{method.lower()} {path.split('/')[-1]}")
        return found
