# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Three managers: one vanishes, is made anew and joins the others; they lock, rotate their token and back their state up."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
import yaml
from labkit.artifacts import prepare
from labkit.config import REPO
from labkit.lab import Lab
from labkit.play import Outcome, play
from labkit.say import LabError

MANAGERS = ("gpu7", "gpu8", "gpu9")
INVENTORY = REPO / "tests" / "swarm" / "managers"
pytestmark = pytest.mark.long
Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def machines() -> Iterator[Lab]:
    lab = Lab()
    others = any(machine.running for machine in lab.machines() if machine.spec.name not in MANAGERS)
    lab.up(MANAGERS)
    prepare(lab.paths)
    yield lab
    for machine in lab.machines():
        if machine.spec.name in MANAGERS:
            machine.stop()
            machine.discard()
    lab._remember_kinds({machine.spec.name: machine.spec.kind for machine in lab.machines() if machine.spec.name not in MANAGERS})
    if not others:
        lab.down()


@pytest.fixture(scope="module")
def run(machines: Lab) -> Run:
    def swarm(playbook: Path = REPO / "playbooks" / "swarm.yml", *, check: bool = False, **variables: Any) -> Outcome:
        # As talkative as it can be, for no secret may be in it.
        options = ["-vvv", *(["--check", "--diff"] if check else [])]
        return play(machines, playbook, *options, variables=variables, inventory=(INVENTORY,))

    return swarm


def on(lab: Lab, name: str, command: str) -> str:
    return lab.ssh(name, command).strip()


def standing(lab: Lab, name: str) -> dict[str, str]:
    """What each node is, as one manager sees it."""
    shown = on(lab, name, "docker node ls --format '{{.Hostname}} {{.Status}} {{.ManagerStatus}}'")
    return {line.split()[0] + " " + line.split()[1]: " ".join(line.split()[2:]) for line in shown.splitlines()}


def test_three_managers_are_made_and_then_left_alone(machines: Lab, run: Run) -> None:
    assert run(check=True).status == 0
    assert run().status == 0
    assert sorted(standing(machines, "gpu8").values()) == ["Leader", "Reachable", "Reachable"]
    again = run()
    assert (again.status, again.changed) == (0, ())
    for name in MANAGERS:
        assert on(machines, name, "systemctl is-enabled llm-swarm-firewall") == "enabled"
        assert "elements = { 10.77.0.37-10.77.0.39 }" in on(machines, name, "nft list set inet llm_stack_swarm nodes4")


def test_two_managers_are_refused(machines: Lab, tmp_path: Path) -> None:
    inventory = yaml.safe_load((INVENTORY / "hosts.yml").read_text())
    del inventory["all"]["children"]["swarm_managers"]["hosts"]["gpu9"]
    text = yaml.safe_dump(inventory).replace("{{ inventory_dir }}", str(INVENTORY))
    (tmp_path / "hosts.yml").write_text(text)
    outcome = play(machines, REPO / "playbooks" / "swarm.yml", inventory=(tmp_path / "hosts.yml",))
    assert outcome.status != 0
    assert (
        "The group swarm_managers has 2 hosts: gpu7, gpu8. Swarm managers vote: with two, the loss of either stops the swarm."
        in outcome.words
    )
    assert outcome.changed == ()


def test_the_cache_is_named_and_garbage_is_collected(machines: Lab, run: Run, tmp_path: Path) -> None:
    shown = on(machines, "gpu7", "docker ps --format '{{.Names}}'").split()
    assert {"llm-registry", "llm-registry-cache"} <= set(shown)
    assert on(machines, "gpu7", "systemctl is-active llm-registry-garbage.timer") == "active"
    # The registry asks its upstream before it serves, and nothing leaves the lab.
    assert "registry-1.docker.io" in on(machines, "gpu7", "docker logs llm-registry-cache 2>&1 | grep -m 1 registry-1")
    for machine in MANAGERS:
        assert "BEGIN CERTIFICATE" in on(machines, machine, "cat /etc/docker/certs.d/10.77.0.37:5001/ca.crt")
        assert "https://10.77.0.37:5001" in on(machines, machine, "docker info --format '{{json .RegistryConfig.Mirrors}}'")
    playbook = on_demand(tmp_path, "registry", "collect_garbage", hosts="gpu7")
    outcome = run(playbook)
    assert outcome.status == 0
    assert on(machines, "gpu7", "docker inspect -f '{{.State.Running}}' llm-registry") == "true"
    assert "blobs marked" in on(machines, "gpu7", "journalctl -u llm-registry-garbage -o cat")


def test_what_was_pulled_once_is_there_while_upstream_is_cut_off(machines: Lab, run: Run) -> None:
    """A registry of the test's own is what upstream is to the cache; it holds one image, and then it is gone."""
    image = on(machines, "gpu7", "docker inspect -f '{{.Config.Image}}' llm-registry")
    upstream = "127.0.0.1:5002"
    on(machines, "gpu7", f"docker run -d --name upstream --network host -e REGISTRY_HTTP_ADDR={upstream} {image}")
    try:
        on(machines, "gpu7", f"docker tag {image} {upstream}/library/probe:1 && docker push --quiet {upstream}/library/probe:1")
        turned = run(registry_cache_upstream=f"http://{upstream}")
        assert (turned.status, turned.changed) == (0, (("gpu7", "selfhosted.llm_stack.registry : Run the cache of public images"),))
        # By the name the image has in public: the engine asks its mirror, which is the cache.
        on(machines, "gpu8", "docker pull --quiet probe:1")
        on(machines, "gpu7", "docker rm --force upstream")
        on(machines, "gpu9", "docker pull --quiet probe:1")
        with pytest.raises(LabError, match="failed"):
            on(machines, "gpu9", "docker pull --quiet never:1")
    finally:
        on(machines, "gpu7", "docker rm --force upstream 2>/dev/null; true")
        assert run().status == 0


def on_demand(folder: Path, role: str, entry: str, *, hosts: str = "swarm_managers[0]") -> Path:
    """A playbook that runs one entry point of a role."""
    task = {"ansible.builtin.include_role": {"name": f"selfhosted.llm_stack.{role}", "tasks_from": entry}}
    path = folder / f"{entry}.yml"
    path.write_text(json.dumps([{"hosts": hosts, "gather_facts": False, "become": True, "tasks": [task]}]))
    return path


def test_somebody_elses_registry_is_used_by_its_address_and_none_is_run(machines: Lab, run: Run, tmp_path: Path) -> None:
    # That of another machine stands in for Harbor, whose names begin with a project.
    playbook = on_demand(tmp_path, "registry", "main", hosts="gpu8")
    refused = run(playbook, registry_external=True)
    assert refused.status != 0
    assert "registry_external is true, so that no registry runs here: leave registry_cache_address" in refused.words
    assert refused.changed == ()
    archive = str(machines.paths.state / "artifacts" / "images" / "nginx.tar")
    theirs = {
        "registry_external": True,
        "registry_ca": on(machines, "gpu7", "cat /var/lib/llm-stack/registry/tls.crt") + "\n",
        "registry_images": [{"name": "project/nginx:1", "archive": archive}],
        "registry_cache_address": "",
        "registry_garbage_collection": "",
    }
    assert run(playbook, **theirs).status == 0
    assert "llm-registry" not in on(machines, "gpu8", "docker ps --format '{{.Names}}'")
    on(machines, "gpu8", "docker pull --quiet 10.77.0.37:5000/project/nginx:1")
    again = run(playbook, **theirs)
    assert (again.status, again.changed) == (0, ())


def test_managers_lock_and_a_restart_unlocks_them(machines: Lab, run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    key = tmp_path_factory.mktemp("key") / "unlock.key"
    locked = {"swarm_manager_autolock": True, "swarm_manager_unlock_key_file": str(key)}
    outcome = run(**locked)
    assert outcome.status == 0
    text = key.read_text().strip()
    assert text.startswith("SWMKEY-1-")
    assert key.stat().st_mode & 0o777 == 0o600
    assert text not in outcome.text
    assert run(**locked).changed == ()
    settings = {"labels": ["restarted=by-test"]}
    restarted = run(**locked, docker_engine_daemon=settings)
    assert restarted.status == 0
    assert text not in restarted.text
    states = [on(machines, name, "docker info --format '{{.Swarm.LocalNodeState}}'") for name in MANAGERS]
    assert states == ["active"] * 3
    kept = run(on_demand(key.parent, "swarm_manager", "backup"), **locked)
    assert kept.status == 0
    assert text not in kept.text
    assert on(machines, "gpu7", "docker info --format '{{.Swarm.LocalNodeState}}'") == "active"
    archive = on(machines, "gpu7", "ls /var/lib/llm-stack/swarm-backup/*.tar.gz")
    assert "swarm/docker-state.json" in on(machines, "gpu7", f"tar --list --gzip --file {archive}")
    assert run(swarm_manager_autolock=False).status == 0


def test_the_workers_token_is_rotated_and_told_to_nobody(machines: Lab, run: Run, tmp_path: Path) -> None:
    before = on(machines, "gpu7", "docker swarm join-token -q worker")
    outcome = run(on_demand(tmp_path, "swarm_manager", "rotate_worker_token", hosts="swarm_managers"))
    assert outcome.status == 0
    after = on(machines, "gpu7", "docker swarm join-token -q worker")
    assert before != after
    assert not re.search(r"SWMTKN-1-", outcome.text)


def test_a_first_manager_made_anew_joins_the_others(machines: Lab, run: Run) -> None:
    cluster = on(machines, "gpu8", "docker info --format '{{.Swarm.Cluster.ID}}'")
    machines.cut("gpu7")
    machines.get("gpu7").discard()
    # The others go on without it, once they have a leader again.
    machines.up(["gpu7"])
    outcome = run()
    assert outcome.status == 0
    assert on(machines, "gpu7", "docker info --format '{{.Swarm.Cluster.ID}}'") == cluster
    assert on(machines, "gpu7", "docker info --format '{{.Swarm.ControlAvailable}}'") == "true"
