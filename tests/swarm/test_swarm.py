# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A swarm of real engines: made, asked, altered behind its back, struck by the loss of a node, whole again."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any, Callable

import pytest
from labkit.lab import Lab
from labkit.play import Outcome
from places import MANAGER, SITE, WORKERS

Docker = Callable[[str], str]
Run = Callable[..., Outcome]

# Each is altered by hand and must be found: by service, the change, and what of it the diff shows.
DRIFT = {
    "llm_engine": (
        "--env-add DEBUG=1 --limit-pids 99 --label-add by=hand --health-interval 33s",
        ("DEBUG=1", "Limits.Pids", '"by"', "Healthcheck.Interval"),
    ),
    "llm_balancer": ("--constraint-add node.labels.nowhere!=1 --stop-grace-period 1s", ("node.labels.nowhere", "StopGracePeriod")),
    "llm_edge": ("--publish-add mode=host,published=8099,target=8099 --mount-add type=tmpfs,target=/x", ("8099", '"/x"')),
}


def test_foresight_on_fresh_machines_shows_the_services(lab: Lab, run: Run) -> None:
    outcome = run(*SITE, check=True)
    assert outcome.status == 0
    assert all(f'"llm_{name}"' in outcome.text for name in ("edge", "balancer", "engine"))
    assert lab.ssh(MANAGER, "docker info --format '{{.Swarm.LocalNodeState}}' 2>&1 || true").strip() != "active"


def test_every_gpu_is_a_resource_of_its_node_and_has_one_engine(docker: Docker) -> None:
    template = "{{range .Description.Resources.GenericResources}}{{.NamedResourceSpec.Kind}}={{.NamedResourceSpec.Value}}{{end}}"
    found = {docker(f"node inspect {worker} --format '{template}'") for worker in WORKERS}
    assert len(found) == 2
    assert all(gpu.startswith("GPU=GPU-") for gpu in found)
    nodes = docker("service ps llm_engine --filter desired-state=running --format '{{.Node}}'").split()
    assert sorted(nodes) == sorted(WORKERS)


def test_both_engines_answer_through_the_edge(load: Callable[..., subprocess.Popen[str]]) -> None:
    said = json.loads(load(clients=8, seconds=3, first_token=0.05).communicate(timeout=60)[0])
    assert said["failures"] == []
    assert len(said["engines"]) == 2, said["engines"]


def test_only_the_edge_listens_on_its_node(converged: Lab) -> None:
    listening = converged.ssh(MANAGER, "ss -Hltn | awk '{print $4}'").split()
    ports = {int(address.rpartition(":")[2]) for address in listening}
    assert {443, 11434} <= ports
    assert not ports & {8080, 8081, 8405}


def test_the_second_run_changes_nothing(run: Run, converged: Lab) -> None:
    outcome = run(*SITE)
    assert (outcome.status, outcome.changed) == (0, ())


def test_settings_altered_by_hand_are_foreseen_and_repaired(run: Run, docker: Docker) -> None:
    for service, (options, _) in DRIFT.items():
        docker(f"service update --detach --quiet {options} {service}")
    foreseen = run("services", check=True)
    assert {task.rpartition(" : ")[2] for _, task in foreseen.changed} == {"Deploy the stack and see it run"}
    for _, settings in DRIFT.values():
        assert [setting for setting in settings if setting not in foreseen.text] == []
    repaired = run("services")
    assert repaired.status == 0
    assert {task.rpartition(" : ")[2] for _, task in repaired.changed} == {"Deploy the stack and see it run"}
    assert "by" not in json.loads(docker("service inspect llm_engine --format '{{json .Spec.Labels}}'"))
    assert run("services", check=True).changed == ()


def test_a_new_configuration_rolls_and_one_generation_is_kept(run: Run, docker: Docker) -> None:
    docker("config create --label com.docker.stack.namespace=another theirs /etc/hostname")

    def generations() -> list[str]:
        return [name for name in docker("config ls --format '{{.Name}}'").split() if name.startswith("llm_balancer_cfg_")]

    seen = set(generations())
    for queue in (21, 22):
        assert run("services", llm_services_queue=queue).status == 0
        seen |= set(generations())
        assert len(generations()) == 2
    assert len(seen) >= 3
    held = docker("service inspect llm_balancer --format '{{(index .Spec.TaskTemplate.ContainerSpec.Configs 0).ConfigName}}'")
    assert held in generations()
    assert "theirs" in docker("config ls --format '{{.Name}}'")
    assert run("services", llm_services_queue=22).changed == ()
    assert run("services").status == 0


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"llm_services_api_keys": []}, "llm_services_api_keys has 0 keys. Give at least one"),
        # Container machines have no modules, and this kernel may have no IPVS.
        ({"llm_services_endpoint_mode": "vip"}, "the kernel has no IPVS (ip_vs) on"),
        ({"llm_services_engine_replicas": 0}, "no worker has a GPU that the swarm knows"),
    ],
)
def test_what_cannot_work_is_refused_and_nothing_changes(run: Run, docker: Docker, variables: dict[str, Any], text: str) -> None:
    def versions() -> str:
        return docker("service inspect llm_edge llm_balancer llm_engine --format '{{.Version.Index}}'")

    before = versions()
    outcome = run("services", **variables)
    assert outcome.status != 0
    assert text in outcome.words
    assert (outcome.changed, versions()) == ((), before)


def test_a_service_that_cannot_start_is_said_with_its_reason_and_the_old_one_stays(run: Run, docker: Docker, until: Any) -> None:
    outcome = run("services", llm_services_balancer_image="10.77.0.34:5000/llm/absent:1", llm_services_wait=90)
    assert outcome.status != 0
    assert "not all of it runs as it should: llm_balancer runs" in outcome.words
    assert run("services").status == 0
    until(lambda: docker("service ls --filter name=llm_balancer --format '{{.Replicas}}'"), "1/1")


def test_a_node_that_vanishes_costs_no_request_and_comes_back_by_itself(
    converged: Lab, docker: Docker, run: Run, until: Any, load: Callable[..., subprocess.Popen[str]]
) -> None:
    identity = docker("node inspect gpu6 --format '{{.ID}}'")
    clients = load(clients=6, seconds=15, first_token=0.3)
    time.sleep(4)
    converged.cut("gpu6")
    try:
        said = json.loads(clients.communicate(timeout=120)[0])
    finally:
        converged.up(["gpu6"])
    print(f"during the loss of gpu6: {said}")
    assert said["failures"] == []
    # Both engines had work, so the loss hit some of it; how much there was depends on the machine.
    assert len(said["engines"]) == 2
    assert sum(said["engines"].values()) >= 20
    until(lambda: docker("node inspect gpu6 --format '{{.ID}} {{.Status.State}}'"), f"{identity} ready", seconds=90)
    until(lambda: docker("service ls --filter name=llm_engine --format '{{.Replicas}}'"), "2/2", seconds=120)
    outcome = run(*SITE)
    assert (outcome.status, outcome.changed) == (0, ())
