# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The process as it is in its image, beside a guard and stand-ins for the engine and the cloud: killed by SIGKILL, it goes on."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Iterator

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._autoscale.guard import Guard
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.state import Notes, Scale, State
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.store import SdkConfigs, Store
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.client import sdk
from autokit import FLEET, LOGIN, Manager
from engine import serving
from ports import free_port
from standin_cloud import StandinCloud

pytestmark = pytest.mark.one_core
ROOT = Path(__file__).resolve().parents[3]
UNIT = ROOT / "tests" / "unit"


class FromFile(Manager):
    """A manager over the cloud in a file, which several processes share."""

    @property
    def cloud(self) -> StandinCloud:
        found: StandinCloud = pickle.loads((self.place / "cloud").read_bytes())
        return found


class Place:
    """What the image and the service's environment are made of."""

    def __init__(self, place: Path, swarm: FromFile, guard: str) -> None:
        self.place, self.swarm = place, swarm
        app = place / "app"
        app.mkdir()
        (app / "llm_stack").symlink_to(ROOT / "plugins" / "module_utils")
        (app / "exposition.py").symlink_to(ROOT / "roles" / "monitoring" / "files" / "exporters" / "exposition.py")
        (app / "swarm_autoscaler.py").symlink_to(ROOT / "roles" / "autoscaler" / "files" / "swarm_autoscaler.py")
        # What a run that was killed has left is swept when that run must be over.
        text = {
            "fleet": {**FLEET, "deadline": 15},
            "recovery": {"workers_min": 1},
            "pace": {"every": 2, "drain": 5},
            "slots": 4,
            "balancers": "nobody.invalid",
        }
        (place / "autoscaler").write_text(json.dumps(text))
        (place / "autoscaler_credential").write_text(json.dumps(LOGIN))
        self.environment = {
            **os.environ,
            # As in the image. The last is for the stand-in of the cloud alone.
            "PYTHONPATH": f"{app}:{UNIT / 'selectel/standin_sdk'}:{ROOT / 'build/collections'}",
            "STANDIN_CLOUD": str(place / "cloud"),
            "SECRETS": str(place),
            "GUARD": guard,
            "ADDRESS": "127.0.0.1",
            "NODE": "manager1",
        }

    def start(self, port: int) -> subprocess.Popen[str]:
        argv = [sys.executable, str(self.place / "app" / "swarm_autoscaler.py")]
        log = (self.place / f"log.{port}").open("a")
        return subprocess.Popen(argv, env={**self.environment, "PORT": str(port)}, stdout=log, stderr=log, text=True)

    def events(self, port: int) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.place / f"log.{port}").read_text().splitlines() if line.startswith("{")]


def eventually(look: Any, *, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.1)


def metrics(port: int) -> dict[str, float]:
    """Return what a process tells; nothing while it does not listen yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    except urllib.error.URLError:
        return {}
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    (tmp_path / "cloud").write_bytes(pickle.dumps(StandinCloud()))
    with serving(FromFile(tmp_path, StandinCloud())) as swarm:
        store = Store(SdkConfigs(*sdk(swarm.url)))
        store.change(lambda state: State(state.lock, Notes(scale=Scale(2, 0.0)), state.others))
        with Guard(str(swarm.path), port=0, address="127.0.0.1") as guard:
            thread = threading.Thread(target=guard.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            yield Place(tmp_path, swarm, f"tcp://127.0.0.1:{guard.server_address[1]}")
            guard.shutdown()
            thread.join()


def test_killed_and_started_again_it_goes_on_and_tells(place: Place) -> None:
    port = free_port()
    first = place.start(port)
    try:
        eventually(lambda: place.swarm.cloud.servers)
        first.send_signal(signal.SIGKILL)
        first.wait(10)
        # It died with the lock: let the time pass that it is held for.
        labels = place.swarm.labels
        if "llm-stack.lock" in labels:
            labels["llm-stack.lock"] = json.dumps({**json.loads(labels["llm-stack.lock"]), "until": time.time() - 1})
        first = place.start(port)
        eventually(lambda: len(place.swarm.cloud.alive()) == 2 and all(one["status"] == "ACTIVE" for one in place.swarm.cloud.alive()))
        for server in place.swarm.cloud.servers:
            (place.place / "joined" / server).touch()
        eventually(lambda: metrics(port).get('llm_autoscaler_workers{state="keep"}') == 2)
        eventually(lambda: place.swarm.cloud.orphans() == [])
        found = metrics(port)
        assert (found["llm_autoscaler_healthy"], found["llm_autoscaler_wanted"], found["llm_autoscaler_most"]) == (1, 2, 3)
        assert found['llm_autoscaler_view_age_seconds{view="cloud"}'] < 60
        assert found["llm_autoscaler_demand_known"] == 0, "there is no balancer"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/alive", timeout=10) as answer:
            assert answer.read() == b"ok\n"
        first.terminate()
        assert first.wait(30) == 0
    finally:
        first.kill()
        first.wait(10)
    text = (place.place / f"log.{port}").read_text()
    assert "hunter2" not in text
    assert "Traceback" not in text
    assert {one["event"] for one in place.events(port)} >= {"start", "create", "done", "rest"}


@pytest.mark.long
def test_two_processes_act_once(place: Place) -> None:
    ports = (free_port(), free_port())
    both = [place.start(port) for port in ports]
    try:
        eventually(lambda: len([one for one in place.swarm.cloud.alive() if one["status"] == "ACTIVE"]) == 2)
        for server in place.swarm.cloud.servers:
            (place.place / "joined" / server).touch()
        eventually(lambda: all(metrics(port).get('llm_autoscaler_workers{state="keep"}') == 2 for port in ports))
        assert [one.poll() for one in both] == [None, None]
    finally:
        for one in both:
            one.kill()
            one.wait(10)
    made = [path for method, path in place.swarm.cloud.writes() if (method, path) == ("POST", "/servers")]
    assert len(made) == 2


def test_settings_that_cannot_work_end_it_with_the_reason(place: Place) -> None:
    (place.place / "autoscaler").write_text(json.dumps({"fleet": {**FLEET, "count": "many"}, "recovery": {}}))
    ended = subprocess.run(
        [sys.executable, str(place.place / "app" / "swarm_autoscaler.py")],
        env=place.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "gpu_fleet.count is 'many', which is no int. Correct it." in ended.stderr
