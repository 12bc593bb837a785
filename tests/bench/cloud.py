# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bench's figures about the fleet in a cloud: right outcomes beside those of openstack.cloud, and how fast a whole fleet is back."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import tempfile
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Callable, Iterator

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "cloud"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lab"))

from cloudkit import environment
from cloudkit.cloud import Cloud
from cloudkit.config import REPO
from cloudkit.control import Control, Project
from cloudkit.fleet import CLOUD, IMAGE, LOCAL_FLAVOR, TAG, Fleet, by_name, clouds_yaml
from cloudkit.proxy import Proxy
from cloudkit.runner import Ran, Runner
from labkit.say import LabError, say
from measure import PAIRS, Figure, NotTaken, timed
from states import EVENTS, STATES, WANTED, Seen, Stage, expire, judge, marks

OURS = "ansible_collections.selfhosted.llm_stack.plugins.modules.selectel_preemptible"
PEER = "ansible_collections.openstack.cloud.plugins.modules.server"
FLEET = 8
# What a server in ru-9 takes from the call to ACTIVE.
BOOT_SECONDS = 20
# On a busy machine the services need longer for an answer than a cloud does; what is measured is not how patient a run is.
PATIENCE = {"deadline": 540, "api_timeout": 120}


class Bed:
    """A cloud with a project for each who is measured."""

    def __init__(self, cloud: Cloud, place: Path) -> None:
        self.control = Control(cloud.paths)
        self.proxy = Proxy(self.control.ports)
        self._place = place

    def project(self) -> tuple[Project, Path]:
        """Make a project, and the clouds.yaml that leads to it."""
        made = self.control.project()
        return made, clouds_yaml(self._place / f"{made.name}.yaml", made.name, self.proxy)


@contextlib.contextmanager
def bed() -> Iterator[Bed]:
    """Bring the cloud up, empty; one that was up before stays up."""
    cloud = Cloud()
    was_up = cloud.running
    try:
        cloud.up()
    except LabError as error:
        raise NotTaken(str(error)) from error
    with tempfile.TemporaryDirectory() as place:
        made = Bed(cloud, Path(place))
        try:
            yield made
        finally:
            made.proxy.close()
            cloud.reset() if was_up else cloud.down()


def cloud_states() -> Figure:
    """Count wrong outcomes of every state and event, ours and those of openstack.cloud.server with the same wish."""
    with bed() as found:
        wrong = {"ours": _matrix(found, _ours), "peer": _matrix(found, _peer)}
    for name, sentences in wrong.items():
        for sentence in sentences:
            say(f"cloud_states, {name}: {sentence}")
    return Figure("cloud_states", "wrong outcomes", len(wrong["ours"]), len(wrong["peer"]), n=len(EVENTS) * len(STATES), goal="0")


Run = Callable[[str], dict[str, tuple[bool, str]]]


def _matrix(found: Bed, make: Callable[[Bed, Project, Path], contextlib.AbstractContextManager[Run]]) -> list[str]:
    """Play every event and return what came out wrong."""
    project, clouds = found.project()
    stage = Stage(found.control, project, marks=marks)
    wrong: list[str] = []
    with make(found, project, clouds) as run:
        for event in EVENTS:
            found.proxy.clear()
            found.proxy.inject("compute", "GET", "/servers", times=None, response=lambda body: expire(stage.expired, body))
            with stage.happening(event) as before:
                said = run(event)
            seen = stage.seen(before)
            wrong += [f"{event}, {state}: {text}" for state in STATES if (text := _verdict(event, state, seen[state], said[state]))]
    found.control.empty(project)
    return wrong


def _verdict(event: str, state: str, seen: Seen, said: tuple[bool, str]) -> str:
    """Return what is wrong, if anything."""
    wanted, (ok, reason) = WANTED[event][state], said
    text = judge(wanted, seen)
    if event == "drop tags" and not wanted.ok and ok and seen.after is not None and TAG in seen.after.tags:
        # To put the tag back is as good as to raise an alarm.
        return text
    if not text and ok is not wanted.ok:
        text = "it says that all is well" if ok else "it says that it failed"
    return f"{text} (it says: {' '.join(reason.split())[:200]})" if text else ""


@contextlib.contextmanager
def _ours(found: Bed, project: Project, clouds: Path) -> Iterator[Run]:
    runner = Runner(Path(sys.executable), OURS, collections=(REPO / "build" / "collections",))
    fleet = Fleet(runner, clouds=clouds, control=found.control, project=project)

    def run(event: str) -> dict[str, tuple[bool, str]]:
        ran = fleet.run(
            servers=[{"name": state} for state in STATES], start_stopped=event == "crash", allow_data_loss=["error"], **PATIENCE
        )
        return {name: (server["ok"], server["reason"]) for name, server in by_name(ran).items()}

    yield run
    runner.close()


@contextlib.contextmanager
def _peer(_found: Bed, _project: Project, clouds: Path) -> Iterator[Run]:
    """Run the peer with one task for each server: it knows no fleet."""
    runner = peer_runner(PEER)
    asked: dict[str, Any] = {
        "cloud": CLOUD,
        "state": "present",
        "image": IMAGE,
        "flavor": LOCAL_FLAVOR,
        "network": "private",
        "tags": [TAG],
    }
    asked |= {"network": "private", "tags": [TAG], "availability_zone": "zone-a", "timeout": 60, "wait": True, "auto_ip": False}

    def run(_event: str) -> dict[str, tuple[bool, str]]:
        promised: dict[str, Future[Ran]] = {
            state: runner.start({**asked, "name": state}, environment={"OS_CLIENT_CONFIG_FILE": str(clouds)}) for state in STATES
        }
        ran = {state: one.result(600) for state, one in promised.items()}
        return {state: (not one.failed, one.message) for state, one in ran.items()}

    yield run
    runner.close()


def peer_runner(module: str) -> Runner:
    """Run a module of openstack.cloud, as the `ansible` package has it, with the last openstacksdk it works with."""
    found = importlib.util.find_spec("ansible_collections.openstack")
    if found is None or not found.submodule_search_locations:
        raise NotTaken("the collection openstack.cloud is missing: it comes with the package ansible; run `make venv`")
    place = REPO / "build" / "peers"
    link = place / "ansible_collections" / "openstack"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(found.submodule_search_locations[0])
    return Runner(environment.build(Cloud().paths, "peers") / "bin" / "python", module, collections=(place,))


def cloud_fleet_restore() -> Figure:
    """Time the restore of eight interrupted servers together over that of one, where a boot takes what it takes at Selectel."""
    with bed() as found:
        project, clouds = found.project()
        runner = Runner(Path(sys.executable), OURS, collections=(REPO / "build" / "collections",))
        fleet = Fleet(runner, clouds=clouds, control=found.control, project=project)
        _succeed(fleet.run(count=FLEET, name_pattern="gpu{n}", **PATIENCE))
        seconds: dict[str, list[float]] = {"one": [], "eight": []}
        with contextlib.ExitStack() as slow:
            for number in range(1, FLEET + 1):
                slow.enter_context(found.control.slow(f"gpu{number}", BOOT_SECONDS))
            for _pair in range(PAIRS):
                seconds["one"].append(_restore(fleet, 1))
                seconds["eight"].append(_restore(fleet, FLEET))
        runner.close()
        found.control.empty(project)
    worst = max(many / one for one, many in zip(seconds["one"], seconds["eight"]))
    return Figure("cloud_fleet_restore", "times one server", worst, n=PAIRS, goal="at most 1.5", seconds=seconds)


def _restore(fleet: Fleet, count: int) -> float:
    ids = {name: server.id for name, server in fleet.servers().items()}
    names = [f"gpu{number}" for number in range(1, count + 1)]
    fleet.control.each([ids[name] for name in names], fleet.control.interrupt)
    servers: list[dict[str, Any]] = [{"name": name} for name in names]
    return timed(lambda: _succeed(fleet.run(servers=servers, **PATIENCE)))


def _succeed(ran: Ran) -> None:
    if ran.failed:
        raise NotTaken(f"the module failed: {ran.message}")
