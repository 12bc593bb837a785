# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Twenty interruptions under load, half of them restored and half made anew: no request fails, and every time the fleet is whole again.

What each took is printed, and written where RECOVER_FIGURES says, for `make bench`; no time is asserted.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from fleets import Docker, Fleet, fleet_of, nodes, summary
from labkit import network
from labkit.artifacts import python
from labkit.lab import Lab
from places import WORKERS

pytestmark = pytest.mark.long

ROUNDS = 10
Load = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def boots(converged: Lab) -> dict[str, float]:
    """How long a machine takes to boot while nothing else goes on: from its disk, and from a new one; the quickest of three."""
    worker = WORKERS[0]
    taken: dict[str, list[float]] = {"restored": [], "replaced": []}
    for how in [*["restored"] * 3, *["replaced"] * 3]:
        converged.cut(worker)
        if how == "replaced":
            converged.get(worker).discard()
        began = time.monotonic()
        converged.up([worker])
        taken[how].append(time.monotonic() - began)
    return {how: min(seconds) for how, seconds in taken.items()}


@pytest.fixture(scope="module")
def figures() -> Iterator[dict[str, Any]]:
    """What was measured, written down however far it came."""
    found: dict[str, Any] = {}
    yield found
    print(json.dumps(found))
    if "RECOVER_FIGURES" in os.environ:
        Path(os.environ["RECOVER_FIGURES"]).write_text(json.dumps(found))


@pytest.fixture(scope="module")
def fleet(boots: dict[str, float], converged: Lab, models: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet_of(converged, tmp_path_factory.mktemp("fleet"), models) as found:
        yield found


def address(lab: Lab, worker: str) -> str:
    """The address of the worker's engine inside the cluster, which answers are marked with."""
    inspect = "docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}'"
    return lab.ssh(worker, f"{inspect} $(docker ps --quiet --filter name=llm_engine --filter health=healthy)").strip()


def test_with_nothing_to_do_it_costs_a_few_pings(fleet: Fleet, figures: dict[str, Any]) -> None:
    times = figures.setdefault("noop", {"recover": [], "ping": []})
    lab = fleet.lab
    inventory = Path(__file__).resolve().parent / "inventory"
    ping = [*network.inside(lab.paths), str(python().with_name("ansible")), "-i", str(inventory), "all", "-m", "ansible.builtin.ping"]
    for _ in range(3):
        began = time.monotonic()
        subprocess.run(ping, env=lab.environment(), check=True, capture_output=True)
        times["ping"].append(time.monotonic() - began)
        began = time.monotonic()
        outcome = fleet.recover()
        times["recover"].append(time.monotonic() - began)
        assert (outcome.status, outcome.changed) == (0, ())


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("how", ["restored", "replaced"])
def test_an_interruption_costs_no_request_and_the_worker_is_back(
    how: str, number: int, fleet: Fleet, boots: dict[str, float], figures: dict[str, Any], docker: Docker, load: Load
) -> None:
    worker = WORKERS[number % len(WORKERS)]
    before, server = nodes(docker), fleet.servers()[worker]
    clients = load(clients=4, seconds=600, first_token=0.2, times=True)
    try:
        time.sleep(5)
        cut = time.time()
        fleet.interrupt(worker, room=how == "restored")
        # So many losses at one place would make recovery leave it alone for a while.
        outcome = fleet.recover(gpu_workers_breaker_limit="0")
        time.sleep(5)
    finally:
        clients.terminate()
        said = json.loads(clients.communicate(timeout=120)[0])
    assert outcome.status == 0
    recovered = address(fleet.lab, worker)
    answers = [at for engine, times in said["times"].items() if f"({recovered})" in engine for at in times]
    # What the lost one had sent already may still arrive.
    first = min((at for at in answers if at > cut + 1), default=float("nan"))
    took = {"boot": boots[how], "first_token": first - cut, "failures": said["failures"], **summary(outcome)["seconds"]}
    figures.setdefault(how, []).append(took)
    assert answers, f"the engine of {worker} ({recovered}) answered nobody: {sorted(said['engines'])}"
    assert said["failures"] == []
    assert (nodes(docker)[worker] == before[worker]) == (how == "restored")
    assert (fleet.servers()[worker] == server) == (how == "restored")
    assert fleet.cloud.orphans() == []
