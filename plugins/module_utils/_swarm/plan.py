# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pure planner: an engine as it is and as it should be; steps or refusals come out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .._plan import Plan, Refusal, Step
from .model import OLDEST_ENGINE, OLDEST_TOOLKIT, SWARM_RESOURCE, Engine, EngineSpec, Guards, Init, Join, Membership
from .settings import differing, merge_settings, with_gpus, with_nvidia_runtime

DAEMON_FILE = "/etc/docker/daemon.json"
RUNTIME_FILE = "/etc/nvidia-container-runtime/config.toml"


def wanted_settings(current: Engine, desired: EngineSpec) -> dict[str, Any]:
    """Return the configuration file's content as it should be."""
    settings = merge_settings(current.settings, desired.settings)
    if desired.join or desired.init:
        # An engine that keeps its containers while it is restarted refuses to be a node of a swarm.
        settings = {key: value for key, value in settings.items() if key != "live-restore"}
    if not desired.gpus:
        return settings
    settings = with_gpus(settings, current.gpus)
    return with_nvidia_runtime(settings) if current.gpus and current.toolkit else settings


def plan_engine(*, current: Engine, desired: EngineSpec, guards: Guards) -> Plan:
    """Plan configuration, service and membership of one engine, in that order."""
    refusals = _engine_refusals(current, desired, guards) + _membership_refusals(current.membership, desired, guards)
    if refusals:
        return Plan(refusals=tuple(refusals))
    after = wanted_settings(current, desired)
    changed = differing(current.settings, after)
    steps = _configure_steps(current, desired, changed)
    service = _service_steps(current, bool(steps))
    membership = _membership_steps(current.membership, desired)
    if drain_needed(current, service + membership):
        if not current.membership.is_manager and not guards.rehearsal:
            return Plan(refusals=(_undrained(current),))
        service = _around_a_drain(current, service)
    steps += service + membership
    before_view, after_view = _views(current, after, changed, steps)
    return Plan(steps=tuple(steps), before=before_view, after=after_view)


def _engine_refusals(current: Engine, desired: EngineSpec, guards: Guards) -> list[Refusal]:
    found = []
    if not current.service.installed and not guards.rehearsal:
        found.append(
            Refusal("docker", "No Docker engine is installed on this host. Run the role docker_engine, or install docker.io, first.")
        )
    if current.version and int(current.version.split(".")[0]) < OLDEST_ENGINE:
        reason = (
            f"Docker {current.version} is too old: before {OLDEST_ENGINE} the swarm rejects tasks that ask for a GPU whenever their "
            "node is updated. Install a newer engine, for example docker-ce from Docker's own repository (docker_engine_source)."
        )
        found.append(Refusal("docker", reason))
    return found + _gpu_refusals(current, desired) + _data_root_refusals(current, desired)


def _gpu_refusals(current: Engine, desired: EngineSpec) -> list[Refusal]:
    """Refuse a GPU that containers would not get, or not the one that the swarm assigns."""
    if not desired.gpus:
        return []
    if desired.require_gpu and not current.gpus:
        reason = (
            "nvidia-smi shows no GPU on this host, and require_gpu asks for one. Install the NVIDIA driver and check "
            "`nvidia-smi -L`, or take the host out of the group gpu_workers."
        )
        return [Refusal("gpu", reason)]
    toolkit = current.toolkit
    # Another default runtime is somebody's own way to hand GPUs to containers.
    own = wanted_settings(current, desired).get("default-runtime", "runc") != "runc"
    if desired.require_gpu and not toolkit and not own:
        reason = (
            f"This host has {len(current.gpus)} GPU(s) and no nvidia-container-toolkit: containers would get none of them, and engines "
            "would run on the processor. Install it, in version 1.19 or newer (gpu_worker_nvidia: {toolkit: true} does)."
        )
        return [Refusal("nvidia-container-toolkit", reason)]
    if toolkit and toolkit.version < OLDEST_TOOLKIT and toolkit.mode != "legacy":
        version = ".".join(map(str, toolkit.version)) or "of a version that nvidia-container-runtime --version does not tell"
        reason = (
            f"nvidia-container-toolkit {version} may ignore the GPU a swarm assigns (its issue "
            f'1599). Install 1.19 or newer, or set `mode = "legacy"` in {RUNTIME_FILE}.'
        )
        return [Refusal("nvidia-container-toolkit", reason)]
    return []


def _data_root_refusals(current: Engine, desired: EngineSpec) -> list[Refusal]:
    default = "/var/lib/docker"
    before, after = (settings.get("data-root") or default for settings in (current.settings, wanted_settings(current, desired)))
    if before == after or current.membership.state == "inactive":
        return []
    reason = (
        f"Refusing to move Docker's data-root from {before} to {after}: images, volumes and this host's membership of its swarm would stay "
        "behind. Take the host out of the swarm with `docker swarm leave`, or leave data-root as it is."
    )
    return [Refusal("docker", reason)]


def drain_needed(current: Engine, steps: list[Step]) -> bool:
    """Whether tasks run here that the steps would end without warning; a membership that is left anyway cannot be drained."""
    actions = {step.action for step in steps}
    return bool(current.tasks) and "restart" in actions and "leave" not in actions


def _undrained(current: Engine) -> Refusal:
    tasks = ", ".join(current.tasks)
    reason = (
        f"Refusing to restart Docker on {current.hostname}: tasks of its swarm run here ({tasks}), and only a manager can drain the node. "
        "Drain it there with members (availability: drain, temporary: true), then run again."
    )
    return Refusal("docker.service", reason)


def _around_a_drain(current: Engine, steps: list[Step]) -> list[Step]:
    """A manager drains itself; for a worker, which is only rehearsed here, a manager does it before."""
    node = current.membership.node_id
    tasks = ", ".join(current.tasks)
    if not current.membership.is_manager:
        return [replace(step, sentence=f"{step.sentence}; a manager drains the node first, for these tasks run: {tasks}") for step in steps]
    drain = Step("drain", node, f"Drain this manager ({node}) before the restart, and wait for its tasks to end: {tasks}")
    return [drain, *steps, Step("resume", node, f"Give this manager ({node}) back the availability it had")]


def _membership_refusals(now: Membership, desired: EngineSpec, guards: Guards) -> list[Refusal]:
    reason = ""
    if now.state == "locked" and (desired.join or desired.init):
        reason = "The swarm on this host is locked. Run `docker swarm unlock` with its unlock key, then run again."
    elif desired.init and now.state != "inactive" and not now.is_manager:
        reason = (
            f"Refusing to make a swarm here: this host is a worker of the swarm {now.cluster_id or '(unknown)'}. "
            "Choose another first host for the group swarm_managers, or take this one out with `docker swarm leave`."
        )
    elif desired.join:
        reason = _join_refusal(now, desired.join, guards)
    return [Refusal("swarm", reason)] if reason else []


def _join_refusal(now: Membership, wanted: Join, guards: Guards) -> str:
    if not guards.rehearsal and not (wanted.cluster_id and wanted.token):
        return (
            "engine.cluster_id and engine.join_token are needed to join a swarm, and at least one is empty. "
            "Run the role swarm_manager on the manager first: it sets both as facts."
        )
    if wanted.cluster_id and now.is_manager and now.state != "inactive" and now.cluster_id != wanted.cluster_id:
        return (
            f"Refusing to join the swarm {wanted.cluster_id}: this host is a manager of the swarm {now.cluster_id or '(unknown)'}, "
            "and leaving would lose that swarm's state. Demote it there and run `docker swarm leave`, then run again."
        )
    reason = _why_leave(now, wanted)
    if now.is_manager and reason:
        return (
            f"Refusing to leave the swarm {now.cluster_id or '(unknown)'}, although {reason}: this host is one of its managers, and the "
            "others may need its vote. On another manager run `docker node demote` and `docker node rm` for it, here "
            "`docker swarm leave --force`, then run again."
        )
    if wanted.role == "manager" and not now.is_manager and now.state != "inactive" and not reason:
        return (
            f"This host is a worker of the swarm {now.cluster_id or '(unknown)'} and should be a manager, which no worker can make itself. "
            f"Run `docker node promote {now.node_id}` on a manager, then run again."
        )
    return ""


def _configure_steps(current: Engine, desired: EngineSpec, changed: list[str]) -> list[Step]:
    steps = []
    if changed:
        steps.append(Step("configure", DAEMON_FILE, f"Merge {', '.join(changed)} into {DAEMON_FILE}"))
    toolkit = current.toolkit
    if desired.gpus and current.gpus and toolkit and toolkit.swarm_resource != SWARM_RESOURCE:
        sentence = f"Set swarm-resource to {SWARM_RESOURCE} in {RUNTIME_FILE}, so that a task sees only the GPU assigned to it"
        steps.append(Step("configure_runtime", RUNTIME_FILE, sentence))
    return steps


def _service_steps(current: Engine, reconfigured: bool) -> list[Step]:
    steps = []
    service = current.service
    if not service.enabled:
        steps.append(Step("enable", "docker.service", "Enable docker.service, so that it starts at boot"))
    if not service.active:
        steps.append(Step("start", "docker.service", "Start docker.service"))
    elif reconfigured:
        steps.append(Step("restart", "docker.service", "Restart docker.service: its settings are read only at the start"))
    elif service.stale:
        steps.append(Step("restart", "docker.service", f"Restart docker.service: it started before {DAEMON_FILE} was last changed"))
    return steps


def _membership_steps(now: Membership, desired: EngineSpec) -> list[Step]:
    if desired.init:
        return _init_steps(now, desired.init, desired.advertise_address)
    return _join_steps(now, desired.join) if desired.join else []


def _why_leave(now: Membership, wanted: Join) -> str:
    """Return why the present membership is none of the swarm that is wanted, or nothing."""
    if now.state == "inactive":
        return ""
    if wanted.cluster_id and now.cluster_id != wanted.cluster_id:
        return f"it is not the one of {wanted.manager}"
    if now.state == "error":
        return f"its membership is broken ({now.error or 'no reason given'})"
    if wanted.cluster_id and wanted.known_nodes is not None and now.node_id not in wanted.known_nodes:
        # A removed node is not told so: its engine goes on calling itself active.
        return f"{wanted.manager} does not know the node {now.node_id} any more"
    return ""


def _join_steps(now: Membership, wanted: Join) -> list[Step]:
    reason = _why_leave(now, wanted)
    if now.state != "inactive" and not reason:
        return []
    sentence = f"Join the swarm {wanted.cluster_id or '(not made yet)'} at {wanted.manager} as a {wanted.role}"
    join = Step("join", wanted.manager, sentence)
    if now.state == "inactive":
        return [join]
    return [Step("leave", now.cluster_id, f"Leave the swarm {now.cluster_id or '(unknown)'}: {reason}"), join]


def _init_steps(now: Membership, init: Init, address: str) -> list[Step]:
    if now.state == "inactive":
        return [Step("init", address, f"Make a swarm with this host as its first manager at {address or 'the address the engine finds'}")]
    differences = [sentence for sentence in (_heartbeat(now, init), _autolock(now, init)) if sentence]
    steps = [Step("update", now.cluster_id, "; ".join(differences))] if differences else []
    if init.rotate_worker_token:
        steps.append(Step("rotate", now.cluster_id, "Rotate the workers' join token: the former one opens nothing any more"))
    return steps


def _heartbeat(now: Membership, init: Init) -> str:
    wanted = init.heartbeat_ns
    if wanted is None or wanted == now.heartbeat_ns:
        return ""
    if now.state == "stopped":
        # The engine tells its swarm's settings only while it runs: the step compares once more.
        return f"Make sure the swarm's dispatcher heartbeat is {wanted / 1e9:g} s"
    return f"Set the swarm's dispatcher heartbeat from {now.heartbeat_ns / 1e9:g} s to {wanted / 1e9:g} s"


def _autolock(now: Membership, init: Init) -> str:
    if init.autolock is None or init.autolock == now.autolock:
        return ""
    return "Lock the managers: from now on each needs the unlock key after its start" if init.autolock else "Lock the managers no more"


def _views(current: Engine, after: dict[str, Any], changed: list[str], steps: list[Step]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return only what differs, so that settings of others are not printed."""
    before_view: dict[str, Any] = {}
    after_view: dict[str, Any] = {}
    if changed:
        before_view["settings"] = {key: current.settings[key] for key in changed if key in current.settings}
        after_view["settings"] = {key: after[key] for key in changed if key in after}
    actions = {step.action: step for step in steps}
    if "enable" in actions:
        before_view["enabled"], after_view["enabled"] = False, True
    if "start" in actions:
        before_view["active"], after_view["active"] = False, True
    for action in ("init", "join"):
        if action in actions:
            before_view["swarm"] = current.membership.cluster_id or current.membership.state
            after_view["swarm"] = actions[action].sentence
    if "update" in actions:
        now = current.membership
        before_view["swarm"] = {"heartbeat_ns": now.heartbeat_ns, "autolock": now.autolock}
        after_view["swarm"] = actions["update"].sentence
    return before_view, after_view
