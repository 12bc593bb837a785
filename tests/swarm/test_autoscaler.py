# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The autoscaler on real engines: a worker loses its power under it, and is back as the same node without any playbook.

Its image is built of the sources with the locked packages, as in production. The cloud is the stand-in, over HTTP, asked by the real SDK.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
import yaml
from conftest import HERE
from fleets import FLEET, Docker, Fleet, fleet_of, nodes
from labkit import network
from labkit.artifacts import python
from labkit.config import REPO
from labkit.images import _LIBRARIES, _UNNEEDED, Recipe, build_images
from labkit.lab import Lab
from labkit.play import Outcome
from labkit.say import say
from places import MANAGER, MODELS, WORKERS

pytestmark = pytest.mark.long

Run = Callable[..., Outcome]
CLOUD = (MODELS[0], "8450")
SECRET = "lab-only-application-secret"
INTERRUPTIONS = 10
# As the chat service's: pip finds the wheels of the lock in the image, and nothing is fetched in the lab.
PYTHON = Recipe(
    "python-autoscaler",
    "llm/python-autoscaler:3.13",
    "trixie",
    ("usr/bin/python3.[0-9]*", "usr/lib/python3.[0-9]*", "usr/lib/python3/dist-packages/pip", *_LIBRARIES),
    {"Cmd": ["python3"], "Env": ["PIP_NO_INDEX=1", "PIP_FIND_LINKS=/wheels", "LANG=C.UTF-8"]},
    drop=("EXTERNALLY-MANAGED", *_UNNEEDED),
    links={"usr/bin/python": "python3.13", "usr/bin/python3": "python3.13"},
    copies={"etc/ssl/certs/ca-certificates.crt": Path("/etc/ssl/certs/ca-certificates.crt")},
    lock=REPO / "roles" / "autoscaler" / "files" / "requirements.txt",
)


def variables(**more: Any) -> dict[str, Any]:
    """What turns the autoscaler on, and the image it stands on beside the others."""
    images = yaml.safe_load((HERE / "inventory" / "group_vars" / "all.yml").read_text())["registry_images"]
    name = PYTHON.name
    return {
        "registry_images": [*images, {"name": f"llm/{name}:lab", "archive": f"{{{{ __images }}}}/{name}.tar"}],
        "llm_stack_autoscaler": True,
        "gpu_fleet": FLEET,
        # Ten interruptions in an hour are what is tried, and not the rest of a placement.
        "gpu_workers_breaker_limit": 0,
        "autoscaler_base_image": f"{{{{ registry_address }}}}/llm/{name}:lab",
        "autoscaler_credential": {"auth_url": f"http://{':'.join(CLOUD)}/identity/v3", "id": "an-id", "secret": SECRET, "region": "r1"},
        **more,
    }


@pytest.fixture(scope="module")
def fleet(converged: Lab, models: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet_of(converged, tmp_path_factory.mktemp("fleet"), models) as found:
        yield found


@pytest.fixture(scope="module")
def front(fleet: Fleet) -> Iterator[Fleet]:
    """The cloud of the fleet over HTTP, where containers of the lab reach it."""
    argv = [*network.inside(fleet.lab.paths), str(python()), str(HERE / "cloud_server.py"), *CLOUD, str(fleet.file), SECRET]
    server = subprocess.Popen(argv)
    yield fleet
    server.terminate()
    server.wait(10)


@pytest.fixture(scope="module")
def autoscaled(front: Fleet, converged: Lab, run: Run) -> Iterator[Fleet]:
    """The swarm with the autoscaler, which is taken away again: others use these machines."""
    archive = build_images(converged.paths.cache, say=say, recipes=(PYTHON,))[PYTHON.name]
    link = converged.paths.state / "artifacts" / "images" / f"{PYTHON.name}.tar"
    link.unlink(missing_ok=True)
    link.symlink_to(archive)
    assert run("swarm", "autoscaler", **variables()).status == 0
    yield front
    converged.ssh(MANAGER, "docker stack rm autoscaler")


@pytest.fixture(scope="module")
def told(autoscaled: Fleet) -> Callable[[], list[dict[str, Any]]]:
    """The autoscaler's log, oldest first."""

    def read() -> list[dict[str, Any]]:
        lines = autoscaled.lab.ssh(MANAGER, "docker service logs --raw autoscaler_autoscaler 2>&1").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    return read


def calls(found: Fleet, since: float) -> list[dict[str, Any]]:
    """What was asked of the cloud since then that changes something."""
    path = Path(f"{found.file}.calls")
    lines = path.read_text().splitlines() if path.exists() else []
    return [one for one in map(json.loads, lines) if one["at"] >= since]


def actions(found: Fleet, since: float) -> list[tuple[str, str]]:
    """The actions on servers among them."""
    return [(next(iter(one["body"])), one["path"].split("/")[2]) for one in calls(found, since) if one["path"].endswith("/action")]


def whole(docker: Docker) -> bool:
    """Whether all nodes are up and each worker has an engine that serves."""
    states = docker("node ls --format '{{.Status}}'").split()
    return (
        set(states) == {"Ready"}
        and docker("service ls --filter name=llm_engine --format '{{.Replicas}}'") == f"{len(WORKERS)}/{len(WORKERS)}"
    )


def ready(docker: Docker, until: Callable[..., None], autoscaled: Fleet) -> None:
    """Wait until all is whole and the balancer asks every engine again: a loss can be seen only then."""
    until(lambda: whole(docker), True, seconds=240)
    ask = "import urllib.request as u; print(u.urlopen('http://balancer:8405/metrics').read().decode())"
    find = "docker ps --quiet --filter label=com.docker.swarm.service.name=autoscaler_autoscaler --filter health=healthy"

    def up() -> bool:
        text = autoscaled.lab.ssh(MANAGER, f'docker exec $({find}) python3 -c "{ask}" || true')
        return f'haproxy_backend_active_servers{{proxy="engines"}} {len(WORKERS)}' in text

    until(up, True, seconds=120)


def test_it_runs_from_an_image_of_its_own_and_nothing_is_published(autoscaled: Fleet, docker: Docker, told: Any) -> None:
    shown = docker("service ls --filter name=autoscaler --format '{{.Name}} {{.Replicas}}'").splitlines()
    assert sorted(shown) == ["autoscaler_autoscaler 1/1", "autoscaler_guard 1/1"]
    template = "{{.Spec.TaskTemplate.ContainerSpec.Image}} {{json .Endpoint.Ports}}"
    for name in ("autoscaler", "guard"):
        image, _blank, ports = docker(f"service inspect autoscaler_{name} --format '{template}'").partition(" ")
        assert image.startswith("10.77.0.34:5000/llm/swarm-autoscaler@sha256:")
        assert ports == "null"
    assert told()[0]["event"] == "start"
    assert SECRET not in json.dumps(told())


def test_the_guard_refuses_what_the_autoscaler_has_no_business_with(autoscaled: Fleet) -> None:
    find = "docker ps --quiet --filter label=com.docker.swarm.service.name=autoscaler_autoscaler --filter health=healthy"
    ask = "import docker; c=docker.APIClient('tcp://guard:2375', version='auto'); print(len(c.nodes())); c.containers()"
    text = autoscaled.lab.ssh(MANAGER, f'docker exec $({find}) python3 -c "{ask}" 2>&1 || true')
    assert text.splitlines()[0] == str(len(WORKERS) + 1)
    assert "is not among what the autoscaler may ask of the engine" in text


def test_a_lost_worker_is_acted_upon_within_seconds_and_is_back_as_the_same_node(
    autoscaled: Fleet, docker: Docker, until: Callable[..., None], told: Any
) -> None:
    before, servers = nodes(docker), autoscaled.servers()
    seconds = []
    for number in range(INTERRUPTIONS):
        ready(docker, until, autoscaled)
        worker = WORKERS[number % len(WORKERS)]
        at = time.time()
        autoscaled.interrupt(worker)
        until(lambda at=at: len(actions(autoscaled, at)) > 0, True, seconds=60)
        assert actions(autoscaled, at) == [("unshelve", servers[worker])]
        seconds.append(next(one["at"] for one in calls(autoscaled, at) if one["path"].endswith("/action")) - at)
        say(f"interruption {number + 1}: {worker} was acted upon after {seconds[-1]:.2f} s")
    ready(docker, until, autoscaled)
    # For the bench, whose line recover_detect_s is the worst of these.
    if os.environ.get("RECOVER_DETECT"):
        Path(os.environ["RECOVER_DETECT"]).write_text(json.dumps(seconds))
    # Nobody laid hands on them.
    assert nodes(docker) == before
    assert autoscaled.servers() == servers
    assert autoscaled.hypervisor.errors == []
    assert [one["event"] for one in told()].count("restore") == INTERRUPTIONS
    assert max(seconds) <= 3, seconds


def test_recover_has_nothing_left_to_do_and_both_share_one_lock(autoscaled: Fleet, docker: Docker, until: Callable[..., None]) -> None:
    ready(docker, until, autoscaled)
    outcome = autoscaled.recover()
    assert (outcome.status, outcome.changed) == (0, ())
    labels = json.loads(docker("config inspect llm-stack-state --format '{{json .Spec.Labels}}'"))
    assert "llm-stack.lock" not in labels
    assert len(json.loads(labels["llm-stack.breaker"])["seen"]) >= INTERRUPTIONS


def test_killed_it_starts_again_and_acts(autoscaled: Fleet, docker: Docker, until: Callable[..., None]) -> None:
    ready(docker, until, autoscaled)
    find = "docker ps --quiet --filter label=com.docker.swarm.service.name=autoscaler_autoscaler"
    at = time.time()
    autoscaled.interrupt("gpu6")
    autoscaled.lab.ssh(MANAGER, f"docker kill $({find})")
    # It may have died with the lock, which is held for a minute and a half then.
    until(lambda: len(actions(autoscaled, at)) > 0, True, seconds=180)
    ready(docker, until, autoscaled)
    assert set(actions(autoscaled, at)) == {("unshelve", autoscaled.servers()["gpu6"])}


def test_the_second_run_of_the_playbook_changes_nothing(autoscaled: Fleet, run: Run) -> None:
    outcome = run("swarm", "autoscaler", **variables())
    assert (outcome.status, outcome.changed) == (0, ())
