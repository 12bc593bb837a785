# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""recover.yml interrupted itself, and interruptions that come when they like: it always comes to the fleet that is declared."""

from __future__ import annotations

import http.client
import json
import random
import signal
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Callable

import pytest
from controlkit import Control, Ended, age, ids, summary
from standin_cloud import StandinCloud
from standin_swarm import node_of

pytestmark = pytest.mark.long

HERE = Path(__file__).resolve().parent
ROOM = 200
# A run is killed after each of its tasks, in so many tests that each take every so-manieth: they can run beside each other.
PARTS = 4


def struck(control: Control, at: int, what: str) -> Ended:
    """Run recovery; after a task of it something happens."""
    command, environment = control.command()
    plugin = {"ANSIBLE_CALLBACK_PLUGINS": str(HERE / "at_task"), "ANSIBLE_CALLBACKS_ENABLED": "at_task"}
    environment = {**environment, **plugin, "AT_TASK": str(at), "AT_TASK_DO": what}
    return subprocess.run(["timeout", "400", *command], cwd=control.place, env=environment, capture_output=True, text=True, check=False)


def let_the_lock_end(control: Control) -> None:
    """Do what time does to the lock of a run that was killed."""
    for config in control.swarm.configs.values():
        labels = config["Spec"]["Labels"]
        if "llm-stack.lock" in labels:
            labels["llm-stack.lock"] = json.dumps({**json.loads(labels["llm-stack.lock"]), "until": time.time() - 1})


def come_to_rest(control: Control) -> int:
    """Run until a run has nothing to do any more; return how many that took."""
    let_the_lock_end(control)
    for number in range(1, 5):
        ended = control.recover()
        said = summary(ended)
        busy = said["repaired"] or said["rotated"] or said["refused"]
        if ended.returncode == 0 and not busy and said["healthy"] == ["gpu1", "gpu2"]:
            return number
    raise AssertionError(f"after four runs the fleet is not at rest: {said}")


def require_whole(control: Control) -> None:
    """One server for each worker, its node and no other, nothing left over, the lock free."""
    cloud = control.cloud
    assert sorted(one["name"] for one in cloud.servers.values()) == ["gpu1", "gpu2"]
    assert cloud.orphans() == []
    assert {node["ID"] for node in control.swarm.nodes()} == {node_of(server) for server in ids(control).values()}
    assert {node["Spec"]["Availability"] for node in control.swarm.nodes()} == {"active"}
    assert "llm-stack.lock" not in control.swarm.labels


def lose_one_for_good(control: Control) -> None:
    """Both are interrupted, and where the first was there is no room any more."""

    def lose(cloud: StandinCloud) -> None:
        first = next(one for one in cloud.alive() if one["name"] == "gpu1")
        zone = first["OS-EXT-AZ:availability_zone"]
        for server in [one["id"] for one in cloud.alive()]:
            cloud.interrupt(server)
        cloud.room = {zone: 0}

    control.change(lose)


def near_the_end(control: Control) -> None:
    age(control, "gpu1")
    control.swarm.labels.pop("llm-stack.rotated", None)


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("amiss", [lose_one_for_good, near_the_end])
def test_killed_after_each_of_its_tasks_the_next_run_goes_on(whole: Control, amiss: Callable[[Control], None], part: int) -> None:
    for at in range(part, ROOM, PARTS):
        amiss(whole)
        ended = struck(whole, at, "kill")
        whole.change(lambda cloud: cloud.room.clear())
        runs = come_to_rest(whole)
        print(f"killed after task {at}: at rest after {runs} runs")
        require_whole(whole)
        if ended.returncode == 0:
            assert at > 15
            return
        # `timeout` ends as what it watches did.
        assert ended.returncode == -signal.SIGKILL
    raise AssertionError(f"a run has more than {ROOM} tasks")


def interrupt(control: Control, names: str, no_room: dict[str, int]) -> None:
    def lose(cloud: StandinCloud) -> None:
        for one in cloud.alive():
            if one["name"] in names.split():
                cloud.interrupt(one["id"])
        cloud.room.update(no_room)

    control.change(lose)


def test_twenty_interruptions_whenever_they_come(whole: Control) -> None:
    rng = random.Random(20)
    for number in range(20):
        first, during = rng.choice(["gpu1", "gpu2", "gpu1 gpu2"]), rng.choice(["", "gpu1", "gpu2", "gpu1 gpu2"])
        no_room: dict[str, int] = rng.choice([{}, {"z1": 0}, {"z2": 0}, {"z1": 0, "z2": 0}])
        interrupt(whole, first, no_room)
        ended = struck(whole, rng.randrange(30), during)
        whole.change(lambda cloud: cloud.room.clear())
        # The breaker's rest is not what is tested here.
        whole.swarm.labels.pop("llm-stack.breaker", None)
        runs = come_to_rest(whole)
        print(f"{number}: {first}, no room in {sorted(no_room)}, during the run {during or 'none'}: ended {ended.returncode}, {runs} runs")
        require_whole(whole)


class Clients(threading.Thread):
    """Ask the edge all the time, and look how many engines there are."""

    def __init__(self, control: Control) -> None:
        super().__init__(daemon=True)
        self._control, self._over = control, threading.Event()
        self.statuses: list[int] = []
        self.fewest = 99
        self.errors: list[str] = []

    def run(self) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        while not self._over.wait(0.1):
            try:
                with self._control.swarm.lock:
                    self.fewest = min(self.fewest, len(self._control.swarm.tasks()))
                connection = http.client.HTTPSConnection("127.0.0.1", self._control.edge.port, timeout=10, context=context)
                connection.request("POST", "/v1/chat/completions", b"{}", {"Authorization": "Bearer hunter3"})
                self.statuses.append(connection.getresponse().status)
                connection.close()
            except Exception as error:
                self.errors.append(repr(error))

    def end(self) -> None:
        self._over.set()
        self.join(30)


def test_a_whole_fleet_is_rotated_without_a_failed_request_or_an_engine_too_few(whole: Control) -> None:
    former = ids(whole)
    age(whole, *former)
    clients = Clients(whole)
    clients.start()
    for _slot in former:
        # The gap between two is not waited for.
        whole.swarm.labels.pop("llm-stack.rotated", None)
        ended = whole.recover()
        assert ended.returncode == 0
    clients.end()
    print(f"{len(clients.statuses)} requests, at least {clients.fewest} engines")
    assert clients.errors == []
    assert set(clients.statuses) == {200}
    assert clients.fewest >= 2
    assert not set(former.values()) & set(whole.cloud.servers)
    come_to_rest(whole)
    require_whole(whole)
