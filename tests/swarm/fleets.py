# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers that lose their power are servers that a cloud has interrupted, and come back through it.

The cloud is the stand-in of the unit tests; what it starts, a thread starts as a machine: the same disk for a restored server, a new one
for a server that is made anew.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator

from labkit.config import REPO
from labkit.lab import Lab
from labkit.play import Outcome, play
from places import WORKERS

sys.path.append(str(REPO / "tests" / "unit" / "selectel"))

from standin_cloud import StandinCloud, shared

HERE = Path(__file__).resolve().parent
SDK = REPO / "tests" / "unit" / "selectel" / "standin_sdk"
FLEET = {
    "auth": {"auth_url": "http://cloud", "password": "hunter2"},
    "fleet": "swarm",
    "servers": [{"name": worker} for worker in WORKERS],
    "placements": [{"region": "r1", "zone": zone, "flavor": "GL10"} for zone in ("z1", "z2")],
    "image": "golden-*",
    "volume_size": 10,
    "networks": [{"network": "lan"}],
    "ssh_host_key": False,
    "allow_data_loss": list(WORKERS),
    "prices": {"currency": "RUB", "servers": [{"flavor": "GL10", "preemptible": 30.0, "regular": 100.0}]},
}
Docker = Callable[[str], str]


class Hypervisor(threading.Thread):
    """Starts machines as the stand-in cloud starts their servers, and takes their power where it shelves them."""

    def __init__(self, lab: Lab, cloud: Path) -> None:
        super().__init__(daemon=True)
        self._lab, self._cloud = lab, cloud
        self._over = threading.Event()
        self._disks: dict[str, str] = {}
        # Held while a machine is started or its power is taken.
        self.lock = threading.Lock()
        self.errors: list[str] = []

    def run(self) -> None:
        while not self._over.wait(0.5):
            with self.lock:
                cloud: StandinCloud = pickle.loads(self._cloud.read_bytes())
                for server in cloud.servers.values():
                    self._follow(server["name"], server["id"], server["status"])

    def _follow(self, machine: str, server: str, status: str) -> None:
        try:
            found = self._lab.get(machine)
            if status == "ACTIVE":
                if not found.running:
                    if self._disks.get(machine, server) != server:
                        found.discard()
                    self._lab.up([machine])
                self._disks[machine] = server
            elif status.startswith("SHELVED") and found.running and self._disks.get(machine) == server:
                # Not by the lab, which closes connections: a playbook is running.
                found.cut()
        except Exception as error:
            self.errors.append(repr(error))

    def end(self) -> None:
        self._over.set()
        self.join(120)


class Fleet:
    """The workers as servers."""

    def __init__(self, lab: Lab, place: Path, models: str) -> None:
        self.lab, self.file, self._models = lab, place / "cloud", models
        self.file.write_bytes(pickle.dumps(StandinCloud()))
        self.hypervisor = Hypervisor(lab, self.file)

    @property
    def cloud(self) -> StandinCloud:
        found: StandinCloud = pickle.loads(self.file.read_bytes())
        return found

    def servers(self) -> dict[str, str]:
        return {one["name"]: one["id"] for one in self.cloud.alive()}

    def interrupt(self, *machines: str, room: bool = True) -> None:
        """Take the power from machines, as a cloud does that interrupts their servers.

        :param room: whether they may come back where they were.
        """
        servers = self.servers()
        with self.hypervisor.lock:
            with shared(self.file) as cloud:
                for machine in machines:
                    cloud.interrupt(servers[machine])
                cloud.room = {} if room else {cloud.servers[servers[machine]]["OS-EXT-AZ:availability_zone"]: 0 for machine in machines}
            for machine in machines:
                self.lab.cut(machine)

    def recover(self, *options: str, playbook: str = "recover", **variables: Any) -> Outcome:
        """Run recover.yml, or a playbook that does."""
        strings = {"llm_stack_recover_grace": "60", "llm_stack_recover_wait": "180"}
        extra = {"gpu_worker_models_ca": self._models, "gpu_fleet": FLEET, **strings, **variables}
        inventory = (HERE / "fleet", HERE / "inventory")
        outcome = play(self.lab, REPO / "playbooks" / f"{playbook}.yml", *options, variables=extra, inventory=inventory)
        assert self.hypervisor.errors == []
        return outcome


def summary(outcome: Outcome) -> dict[str, Any]:
    """Return what a scheduler is told."""
    (line,) = [line for line in outcome.text.splitlines() if line.strip().startswith("RUN: {")]
    found: dict[str, Any] = json.loads(line.strip().removeprefix("RUN: "))["llm_stack_recover"]
    print(f"summary: {json.dumps(found)}")
    return found


@contextmanager
def fleet_of(lab: Lab, place: Path, models: str) -> Iterator[Fleet]:
    """The fleet after its first recovery, which makes the servers and finds their machines up."""
    found = Fleet(lab, place, models)
    kept = {name: os.environ.get(name) for name in ("PYTHONPATH", "STANDIN_CLOUD", "ANSIBLE_SHOW_CUSTOM_STATS")}
    os.environ.update(PYTHONPATH=str(SDK), STANDIN_CLOUD=str(found.file), ANSIBLE_SHOW_CUSTOM_STATS="true")
    found.hypervisor.start()
    outcome = found.recover()
    assert outcome.status == 0
    assert summary(outcome)["repaired"] == list(WORKERS)
    yield found
    found.hypervisor.end()
    lab.up(list(WORKERS))
    for name, value in kept.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def nodes(docker: Docker) -> dict[str, str]:
    """Return the nodes' IDs by host name; none may be there twice or down."""
    lines = docker("node ls --format '{{.Hostname}} {{.ID}} {{.Status}}'").splitlines()
    assert {line.split()[2] for line in lines} == {"Ready"}
    assert len(lines) == len(WORKERS) + 1
    return {line.split()[0]: line.split()[1] for line in lines}
