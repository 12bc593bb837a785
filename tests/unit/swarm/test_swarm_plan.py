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
    Membership,
    Service,
    Toolkit,
    gpu_labels,
)
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.plan import drain_needed, plan_engine
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.settings import merge_settings, with_gpus

UUID = "GPU-b0f8cfaf-0d61-598c-bbf1-4397b75b01b2"
CARD = Gpu(UUID, "NVIDIA GeForce RTX 4090", 24564, "570.133.20")
ADVERTISED = {"node-generic-resources": [f"GPU={UUID}"]}
RUNNING = Service(installed=True, active=True, enabled=True)
FRESH = Engine("gpu2", "26.1.5", Service(installed=True), {}, (CARD,))
DONE = Engine("gpu2", "26.1.5", RUNNING, ADVERTISED, (CARD,), None, Membership("active", "n1", "c1"))
JOIN = EngineSpec(join=Join("10.77.0.21:2377", "c1", "SWMTKN-secret"))
AS_MANAGER = EngineSpec(join=Join("10.77.0.21:2377", "c1", "SWMTKN-secret", role="manager"))
TASKS = ("llm_engine.n1.t1",)
OWN_RUNTIME = {"default-runtime": "crun-gpu", "runtimes": {"crun-gpu": {"path": "/opt/crun-gpu"}}}
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
    ("a runtime of their own", DONE, replace(JOIN, require_gpu=True, settings=OWN_RUNTIME), ["configure", "restart"]),
    ("first manager", engine(membership=Membership()), INIT, ["init"]),
    ("manager already", engine(membership=MANAGER), INIT, []),
    ("other heartbeat", engine(membership=replace(MANAGER, heartbeat_ns=9 * 10**9)), INIT, ["update"]),
    ("heartbeat is not asked for", engine(membership=MANAGER), replace(INIT, init=Init()), []),
    ("live-restore is taken out", engine(settings={**ADVERTISED, "live-restore": True}), JOIN, ["configure", "restart"]),
    ("live-restore without a swarm", engine(settings={**ADVERTISED, "live-restore": True}), EngineSpec(), []),
    ("further manager", engine(membership=Membership()), AS_MANAGER, ["join"]),
    ("further manager already", engine(membership=MANAGER), AS_MANAGER, []),
    ("locked from now on", engine(membership=MANAGER), replace(INIT, init=Init(autolock=True)), ["update"]),
    ("locked already", engine(membership=replace(MANAGER, autolock=True)), replace(INIT, init=Init(autolock=True)), []),
    ("token rotated", engine(membership=MANAGER), replace(INIT, init=Init(rotate_worker_token=True)), ["rotate"]),
    ("restart with a task of the swarm, drained before", DONE, replace(JOIN, settings={"debug": True}), ["configure", "restart"]),
    ("a task without a restart", engine(tasks=TASKS), JOIN, []),
    (
        "restart of a manager with tasks",
        engine(membership=MANAGER, tasks=TASKS),
        replace(INIT, settings={"debug": True}),
        ["configure", "drain", "restart", "resume"],
    ),
    (
        "tasks of a swarm that is left",
        engine(membership=Membership("active", "n1", "c2"), tasks=TASKS),
        replace(JOIN, settings={"debug": True}),
        ["configure", "restart", "leave", "join"],
    ),
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
            "a newer engine, for example docker-ce from Docker's own repository (docker_engine_source)."
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
        "no toolkit",
        DONE,
        replace(JOIN, require_gpu=True),
        (
            "This host has 1 GPU(s) and no nvidia-container-toolkit: containers would get none of them, and engines would run on the "
            "processor. Install it, in version 1.19 or newer (gpu_worker_nvidia: {toolkit: true} does)."
        ),
    ),
    (
        "broken toolkit",
        engine(toolkit=Toolkit((1, 18, 2))),
        JOIN,
        (
            "nvidia-container-toolkit 1.18.2 may ignore the GPU a swarm assigns (its issue 1599). Install 1.19 or newer, or set "
            '`mode = "legacy"` in /etc/nvidia-container-runtime/config.toml.'
        ),
    ),
    (
        "older toolkit",
        engine(toolkit=Toolkit((1, 17, 8))),
        JOIN,
        (
            "nvidia-container-toolkit 1.17.8 may ignore the GPU a swarm assigns (its issue 1599). Install 1.19 or newer, or set "
            '`mode = "legacy"` in /etc/nvidia-container-runtime/config.toml.'
        ),
    ),
    (
        "toolkit of no known version",
        engine(toolkit=Toolkit()),
        JOIN,
        (
            "nvidia-container-toolkit of a version that nvidia-container-runtime --version does not tell may ignore the GPU a swarm "
            'assigns (its issue 1599). Install 1.19 or newer, or set `mode = "legacy"` in /etc/nvidia-container-runtime/config.toml.'
        ),
    ),
    (
        "restart with tasks",
        engine(tasks=("llm_engine.n1.t1", "web.1.t2")),
        replace(JOIN, settings={"debug": True}),
        (
            "Refusing to restart Docker on gpu2: tasks of its swarm run here (llm_engine.n1.t1, web.1.t2), and only a manager can drain "
            "the node. Drain it there with members (availability: drain, temporary: true), then run again."
        ),
    ),
    (
        "data moved",
        DONE,
        replace(JOIN, settings={"data-root": "/srv/docker"}),
        (
            "Refusing to move Docker's data-root from /var/lib/docker to /srv/docker: images, volumes and this host's membership of its "
            "swarm would stay behind. Take the host out of the swarm with `docker swarm leave`, or leave data-root as it is."
        ),
    ),
    (
        "worker as further manager",
        DONE,
        AS_MANAGER,
        (
            "This host is a worker of the swarm c1 and should be a manager, which no worker can make itself. Run `docker node promote n1` "
            "on a manager, then run again."
        ),
    ),
    (
        "broken manager",
        engine(membership=replace(MANAGER, state="error", error="expired")),
        AS_MANAGER,
        (
            "Refusing to leave the swarm c1, although its membership is broken (expired): this host is one of its managers, and the others "
            "may need its vote. On another manager run `docker node demote` and `docker node rm` for it, here "
            "`docker swarm leave --force`, then run again."
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


def test_a_restart_that_waits_for_a_drain_is_rehearsed_and_named() -> None:
    current, desired = engine(tasks=TASKS), replace(JOIN, settings={"debug": True})
    found = plan(current, desired, rehearsal=True)
    assert drain_needed(current, list(found.steps))
    assert found.sentences[-1] == (
        "Restart docker.service: its settings are read only at the start; a manager drains the node first, for these tasks run: "
        "llm_engine.n1.t1"
    )


def test_settings_of_the_swarm_in_one_sentence() -> None:
    found = plan(engine(membership=MANAGER), replace(INIT, init=Init(heartbeat_ns=10**9, autolock=True)))
    assert found.sentences == [
        "Set the swarm's dispatcher heartbeat from 5 s to 1 s; Lock the managers: from now on each needs the unlock key after its start"
    ]
    assert found.before["swarm"] == {"heartbeat_ns": 5 * 10**9, "autolock": False}


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
