# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The planners of swarm_gpu_node as tables: every difference is one step or one refusal with its reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import Refused
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._plan import Plan
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.model import (
    Engine,
    EngineSpec,
    Gpu,
    Guards,
    Init,
    Join,
    Member,
    Membership,
    Node,
    Service,
    Toolkit,
    gpu_labels,
)
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.plan import plan_engine, plan_members, unmet
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.settings import merge_settings, with_gpus

UUID = "GPU-b0f8cfaf-0d61-598c-bbf1-4397b75b01b2"
CARD = Gpu(UUID, "NVIDIA GeForce RTX 4090", 24564, "570.133.20")
ADVERTISED = {"node-generic-resources": [f"GPU={UUID}"]}
RUNNING = Service(installed=True, active=True, enabled=True)
FRESH = Engine("gpu2", "26.1.5", Service(installed=True), {}, (CARD,))
DONE = Engine("gpu2", "26.1.5", RUNNING, ADVERTISED, (CARD,), None, Membership("active", "n1", "c1"))
JOIN = EngineSpec(join=Join("10.77.0.21:2377", "c1", "SWMTKN-secret"))
INIT = EngineSpec(gpus=False, advertise_address="10.77.0.21", init=Init(heartbeat_ns=5 * 10**9))
MANAGER = Membership("active", "n0", "c1", is_manager=True, heartbeat_ns=5 * 10**9)


def plan(current: Engine, desired: EngineSpec, *, rehearsal: bool = False) -> Plan:
    return plan_engine(current=current, desired=desired, guards=Guards(rehearsal=rehearsal))


def engine(**changes: Any) -> Engine:
    return replace(DONE, **changes)


STEPS: list[tuple[str, Engine, EngineSpec, list[str]]] = [
    ("nothing differs", DONE, JOIN, []),
    ("fresh", FRESH, JOIN, ["configure", "enable", "start", "join"]),
    ("settings differ", DONE, replace(JOIN, settings={"debug": True}), ["configure", "restart"]),
    ("GPU replaced", engine(gpus=(replace(CARD, uuid="GPU-other"),)), JOIN, ["configure", "restart"]),
    ("GPU gone", engine(gpus=()), JOIN, ["configure", "restart"]),
    ("GPUs are not asked for", engine(settings={}), replace(JOIN, gpus=False), []),
    ("file changed behind the engine", engine(service=replace(RUNNING, stale=True)), JOIN, ["restart"]),
    ("stopped", engine(service=replace(RUNNING, active=False), membership=Membership("stopped", "n1", "c1")), JOIN, ["start"]),
    ("not enabled", engine(service=replace(RUNNING, enabled=False)), JOIN, ["enable"]),
    ("in no swarm", engine(membership=Membership()), JOIN, ["join"]),
    ("in another swarm", engine(membership=Membership("active", "n1", "c2")), JOIN, ["leave", "join"]),
    ("stopped in another swarm", engine(membership=Membership("stopped", "n1", "c2")), JOIN, ["leave", "join"]),
    ("broken membership", engine(membership=Membership("error", "n1", "c1", error="expired")), JOIN, ["leave", "join"]),
    ("known to the manager", DONE, EngineSpec(join=Join("m:2377", "c1", "t", ("n0", "n1"))), []),
    ("removed on the manager", DONE, EngineSpec(join=Join("m:2377", "c1", "t", ("n0",))), ["leave", "join"]),
    ("manager out of sight", engine(membership=Membership("pending", "n1", "c1")), JOIN, []),
    ("manager with a GPU", engine(membership=MANAGER), JOIN, []),
    ("membership is not asked for", engine(membership=Membership()), EngineSpec(), []),
    ("toolkit", engine(toolkit=Toolkit((1, 19, 0))), EngineSpec(), ["configure", "configure_runtime", "restart"]),
    ("first manager", engine(membership=Membership()), INIT, ["init"]),
    ("manager already", engine(membership=MANAGER), INIT, []),
    ("other heartbeat", engine(membership=replace(MANAGER, heartbeat_ns=9 * 10**9)), INIT, ["update"]),
    ("heartbeat is not asked for", engine(membership=MANAGER), replace(INIT, init=Init()), []),
    (
        "stopped manager",
        engine(service=replace(RUNNING, active=False), membership=replace(MANAGER, state="stopped", heartbeat_ns=0)),
        INIT,
        ["start", "update"],
    ),
]


@pytest.mark.parametrize(("current", "desired", "actions"), [row[1:] for row in STEPS], ids=[row[0] for row in STEPS])
def test_engine_steps(current: Engine, desired: EngineSpec, actions: list[str]) -> None:
    found = plan(current, desired)
    assert found.refusals == ()
    assert [step.action for step in found.steps] == actions
    assert "SWMTKN" not in repr(found) + repr(desired)


def test_engine_sentences_and_diff() -> None:
    found = plan(FRESH, replace(JOIN, settings={"log-opts": {"max-size": "10m"}}))
    assert found.sentences == [
        "Merge log-opts, node-generic-resources into /etc/docker/daemon.json",
        "Enable docker.service, so that it starts at boot",
        "Start docker.service",
        "Join the swarm c1 at 10.77.0.21:2377 as a worker",
    ]
    assert found.before == {"settings": {}, "enabled": False, "active": False, "swarm": "inactive"}
    assert found.after["settings"] == {"log-opts": {"max-size": "10m"}, **ADVERTISED}


def test_engine_diff_shows_no_settings_of_others() -> None:
    found = plan(engine(settings={**ADVERTISED, "proxies": {"http-proxy": "http://u:p@proxy"}}), replace(JOIN, settings={"debug": True}))
    assert "proxy" not in repr(found.before) + repr(found.after)


REFUSALS: list[tuple[str, Engine, EngineSpec, str]] = [
    (
        "no engine",
        engine(service=Service(), version=""),
        JOIN,
        "No Docker engine is installed on this host. Run the role docker_engine, or install docker.io, first.",
    ),
    (
        "old engine",
        engine(version="20.10.24"),
        JOIN,
        (
            "Docker 20.10.24 is too old: before 26 the swarm rejects tasks that ask for a GPU whenever their node is updated. Install "
            "a newer engine, for example docker-ce from Docker's own repository (docker_engine_packages)."
        ),
    ),
    (
        "no GPU",
        engine(gpus=()),
        replace(JOIN, require_gpu=True),
        (
            "nvidia-smi shows no GPU on this host, and require_gpu asks for one. Install the NVIDIA driver and check `nvidia-smi -L`, "
            "or take the host out of the group gpu_workers."
        ),
    ),
    (
        "broken toolkit",
        engine(toolkit=Toolkit((1, 18, 2))),
        JOIN,
        (
            "nvidia-container-toolkit 1.18.2 ignores the GPU a swarm assigns (its issue 1599). Install 1.19 or newer, or set "
            '`mode = "legacy"` in /etc/nvidia-container-runtime/config.toml.'
        ),
    ),
    (
        "no token",
        engine(membership=Membership()),
        EngineSpec(join=Join("10.77.0.21:2377", "", "")),
        (
            "engine.cluster_id and engine.join_token are needed to join a swarm, and at least one is empty. "
            "Run the role swarm_manager on the manager first: it sets both as facts."
        ),
    ),
    (
        "manager of another swarm",
        engine(membership=replace(MANAGER, cluster_id="c2")),
        JOIN,
        (
            "Refusing to join the swarm c1: this host is a manager of the swarm c2, and leaving would lose that swarm's state. "
            "Demote it there and run `docker swarm leave`, then run again."
        ),
    ),
    (
        "locked",
        engine(membership=Membership("locked")),
        JOIN,
        "The swarm on this host is locked. Run `docker swarm unlock` with its unlock key, then run again.",
    ),
    (
        "worker as first manager",
        DONE,
        INIT,
        (
            "Refusing to make a swarm here: this host is a worker of the swarm c1. Choose another first host for the group swarm_managers, "
            "or take this one out with `docker swarm leave`."
        ),
    ),
]


@pytest.mark.parametrize(("current", "desired", "reason"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_engine_refusals(current: Engine, desired: EngineSpec, reason: str) -> None:
    found = plan(current, desired)
    assert found.steps == ()
    with pytest.raises(Refused) as caught:
        found.raise_if_refused()
    assert str(caught.value) == reason


def test_legacy_mode_makes_a_broken_toolkit_usable() -> None:
    assert plan(engine(toolkit=Toolkit((1, 18, 2), mode="legacy")), JOIN).refusals == ()


def test_rehearsal_before_anything_exists() -> None:
    found = plan(Engine("gpu2", gpus=(CARD,)), EngineSpec(join=Join("10.77.0.21:2377", "", "")), rehearsal=True)
    assert [step.action for step in found.steps] == ["configure", "enable", "start", "join"]
    assert found.sentences[-1] == "Join the swarm (not made yet) at 10.77.0.21:2377 as a worker"


def test_rehearsal_without_a_swarm_does_not_leave_the_present_one() -> None:
    assert plan(DONE, EngineSpec(join=Join("10.77.0.21:2377", "", "")), rehearsal=True).steps == ()


@pytest.mark.parametrize(
    ("current", "wanted", "merged"),
    [
        ({}, {"a": 1}, {"a": 1}),
        ({"a": 1}, {}, {"a": 1}),
        ({"a": {"x": 1}}, {"a": {"y": 2}}, {"a": {"x": 1, "y": 2}}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"x": None}}, {"a": {"y": 2}}),
        ({"a": 1, "b": 2}, {"a": None}, {"b": 2}),
        ({"a": ["x"]}, {"a": ["y", "x"]}, {"a": ["x", "y"]}),
        ({"a": "text"}, {"a": {"x": 1}}, {"a": {"x": 1}}),
        ({"a": 1}, {"b": None}, {"a": 1}),
    ],
)
def test_merge(current: dict[str, Any], wanted: dict[str, Any], merged: dict[str, Any]) -> None:
    before = repr(current)
    assert merge_settings(current, wanted) == merged
    assert repr(current) == before


def test_resources_of_other_kinds_stay() -> None:
    held = {"node-generic-resources": ["FPGA=f1", "GPU=GPU-old", "NVIDIA-GPU=GPU-x"], "debug": True}
    assert with_gpus(held, (CARD,)) == {"node-generic-resources": ["FPGA=f1", "NVIDIA-GPU=GPU-x", f"GPU={UUID}"], "debug": True}
    assert with_gpus({"node-generic-resources": ["GPU=GPU-old"]}, ()) == {}


def test_nvidia_runtime_becomes_the_default_and_keeps_its_own_settings() -> None:
    own = {"runtimes": {"nvidia": {"path": "/opt/nvidia"}, "runsc": {"path": "runsc"}}}
    found = plan(engine(settings={**ADVERTISED, **own}, toolkit=Toolkit((1, 19, 0), "DOCKER_RESOURCE_GPU")), EngineSpec())
    assert found.after["settings"] == {"default-runtime": "nvidia"}


@pytest.mark.parametrize(
    ("gpus", "labels"),
    [
        ((), {}),
        ((CARD,), {"gpu": "true", "gpu.model": "GeForce-RTX-4090", "gpu.vram_gb": "24", "gpu.count": "1"}),
        (
            (CARD, Gpu("GPU-2", "NVIDIA A100-SXM4-80GB", 81920, "570")),
            {"gpu": "true", "gpu.model": "A100-SXM4-80GB+GeForce-RTX-4090", "gpu.vram_gb": "24", "gpu.count": "2"},
        ),
    ],
)
def test_labels(gpus: tuple[Gpu, ...], labels: dict[str, str]) -> None:
    assert gpu_labels(gpus) == labels


NODES = (Node("n0", "manager1", 3, role="manager"), Node("n1", "gpu2", 7, gpus=1, labels={"gpu": "true", "rack": "a"}))

MEMBERS: list[tuple[str, list[Member], list[str]]] = [
    ("nothing differs", [Member("n1", "gpu2", {"gpu": "true"}, "active")], []),
    ("one label", [Member("n1", "gpu2", {"gpu.count": "1"})], ["On gpu2 (n1): label gpu.count=1"]),
    ("label removed", [Member("n1", "", {"rack": None})], ["On gpu2 (n1): remove label rack"]),
    ("drained", [Member("n1", "gpu2", {}, "drain")], ["On gpu2 (n1): set availability from active to drain"]),
    ("by name", [Member("", "gpu2", {"gpu": "1"})], ["On gpu2 (n1): label gpu=1"]),
    (
        "all in one call",
        [Member("n1", "gpu2", {"a": "1"}), Member("n0", "", {"b": "2"})],
        ["On gpu2 (n1): label a=1", "On manager1 (n0): label b=2"],
    ),
]


@pytest.mark.parametrize(("desired", "sentences"), [row[1:] for row in MEMBERS], ids=[row[0] for row in MEMBERS])
def test_members(desired: list[Member], sentences: list[str]) -> None:
    found = plan_members(current=NODES, desired=tuple(desired), guards=Guards())
    assert (found.refusals, found.sentences) == ((), sentences)


def test_labels_of_others_stay() -> None:
    found = plan_members(current=NODES, desired=(Member("n1", "gpu2", {"gpu.count": "1"}),), guards=Guards())
    assert found.after["gpu2"]["labels"] == {"gpu": "true", "rack": "a", "gpu.count": "1"}
    assert found.steps[0].data == {"set": {"gpu.count": "1"}, "remove": [], "availability": ""}


def test_a_former_self_is_passed_over() -> None:
    nodes = (*NODES, Node("n9", "gpu2", state="down"))
    found = plan_members(current=nodes, desired=(Member("", "gpu2", {"a": "1"}),), guards=Guards())
    assert [step.target for step in found.steps] == ["n1"]


@pytest.mark.parametrize("rehearsal", [False, True])
def test_two_living_nodes_of_one_name_are_refused(rehearsal: bool) -> None:
    nodes = (*NODES, Node("n9", "gpu2"))
    found = plan_members(current=nodes, desired=(Member("", "gpu2", {"a": "1"}),), guards=Guards(rehearsal=rehearsal))
    assert found.steps == ()
    assert found.refusals[0].reason == "The swarm has 2 nodes named gpu2: n1, n9. Give the id of the one that is meant."


def test_an_unknown_node_is_refused_and_only_rehearsed_before_it_joined() -> None:
    desired = (Member("", "gpu3", {"gpu": "true"}),)
    assert plan_members(current=NODES, desired=desired, guards=Guards()).refusals[0].reason == (
        "The swarm has no node gpu3; it has: manager1 (n0), gpu2 (n1). Join it first (workers.yml), or take it out of members."
    )
    rehearsed = plan_members(current=NODES, desired=desired, guards=Guards(rehearsal=True))
    assert rehearsed.sentences == ["Label gpu3 once it has joined: gpu=true"]


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        (NODES, ""),
        ((replace(NODES[1], gpus=0),), "gpu2 (n1) advertises 0 GPUs and should advertise 1"),
        ((replace(NODES[1], state="down"),), "gpu2 (n1) is down, not ready"),
        ((), "The swarm has no node gpu2; it has: none. Join it first (workers.yml), or take it out of members."),
    ],
)
def test_what_the_manager_does_not_see(nodes: tuple[Node, ...], reason: str) -> None:
    assert unmet(nodes, (Member("n1", "gpu2", gpus=1), Member("n0"))) == ([reason] if reason else [])
