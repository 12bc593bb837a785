# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pure planners: an engine or a list of members as they are and should be; steps or refusals come out."""

from __future__ import annotations

from typing import Any

from .._plan import Plan, Refusal, Step
from .model import BROKEN_TOOLKIT, OLDEST_ENGINE, SWARM_RESOURCE, Engine, EngineSpec, Guards, Init, Join, Member, Membership, Node
from .settings import differing, merge_settings, with_gpus, with_nvidia_runtime

DAEMON_FILE = "/etc/docker/daemon.json"
RUNTIME_FILE = "/etc/nvidia-container-runtime/config.toml"


def wanted_settings(current: Engine, desired: EngineSpec) -> dict[str, Any]:
    """Return the configuration file's content as it should be."""
    settings = merge_settings(current.settings, desired.settings)
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
    steps += _service_steps(current, bool(steps))
    steps += _membership_steps(current.membership, desired)
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
            "node is updated. Install a newer engine, for example docker-ce from Docker's own repository (docker_engine_packages)."
        )
        found.append(Refusal("docker", reason))
    if desired.gpus and desired.require_gpu and not current.gpus:
        reason = (
            "nvidia-smi shows no GPU on this host, and require_gpu asks for one. Install the NVIDIA driver and check "
            "`nvidia-smi -L`, or take the host out of the group gpu_workers."
        )
        found.append(Refusal("gpu", reason))
    if desired.gpus and current.toolkit and current.toolkit.version[:2] == BROKEN_TOOLKIT and current.toolkit.mode != "legacy":
        reason = (
            f"nvidia-container-toolkit {'.'.join(map(str, current.toolkit.version))} ignores the GPU a swarm assigns (its issue "
            f'1599). Install 1.19 or newer, or set `mode = "legacy"` in {RUNTIME_FILE}.'
        )
        found.append(Refusal("nvidia-container-toolkit", reason))
    return found


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


def _join_steps(now: Membership, wanted: Join) -> list[Step]:
    reason = ""
    if wanted.cluster_id and now.cluster_id != wanted.cluster_id:
        reason = f"it is not the one of {wanted.manager}"
    elif now.state == "error":
        reason = f"its membership is broken ({now.error or 'no reason given'})"
    elif wanted.cluster_id and wanted.known_nodes is not None and now.node_id not in wanted.known_nodes:
        # A removed node is not told so: its engine goes on calling itself active.
        reason = f"{wanted.manager} does not know the node {now.node_id} any more"
    if now.state != "inactive" and not reason:
        return []
    join = Step("join", wanted.manager, f"Join the swarm {wanted.cluster_id or '(not made yet)'} at {wanted.manager} as a worker")
    if now.state == "inactive":
        return [join]
    return [Step("leave", now.cluster_id, f"Leave the swarm {now.cluster_id or '(unknown)'}: {reason}"), join]


def _init_steps(now: Membership, init: Init, address: str) -> list[Step]:
    if now.state == "inactive":
        return [Step("init", address, f"Make a swarm with this host as its first manager at {address or 'the address the engine finds'}")]
    wanted = init.heartbeat_ns
    if wanted is None or wanted == now.heartbeat_ns:
        return []
    if now.state == "stopped":
        # The engine tells its swarm's settings only while it runs: the step compares once more.
        return [Step("update", now.cluster_id, f"Make sure the swarm's dispatcher heartbeat is {wanted / 1e9:g} s")]
    return [Step("update", now.cluster_id, f"Set the swarm's dispatcher heartbeat from {now.heartbeat_ns / 1e9:g} s to {wanted / 1e9:g} s")]


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
        before_view["swarm"], after_view["swarm"] = {"heartbeat_ns": current.membership.heartbeat_ns}, actions["update"].sentence
    return before_view, after_view


def plan_members(*, current: tuple[Node, ...], desired: tuple[Member, ...], guards: Guards) -> Plan:
    """Plan labels and availability of all members, those that are not named are not looked at."""
    steps: list[Step] = []
    refusals: list[Refusal] = []
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for member in desired:
        found = find_node(current, member)
        if isinstance(found, Node):
            labels, availability = _node_after(found, member)
            new_steps = _member_steps(found, labels, availability)
        elif isinstance(found, str) and not (guards.rehearsal and not _matches(current, member)):
            refusals.append(Refusal(member.name, found))
            continue
        else:
            found = Node(id="", hostname=member.name)
            labels, availability = _node_after(found, member)
            new_steps = [Step("label", member.name, f"Label {member.name} once it has joined: {_as_text(labels)}")]
        if new_steps:
            steps += new_steps
            before[found.hostname] = {"labels": found.labels, "availability": found.availability}
            after[found.hostname] = {"labels": labels, "availability": availability}
    return Plan(steps=tuple(steps), refusals=tuple(refusals), before=before, after=after)


def find_node(nodes: tuple[Node, ...], member: Member) -> Node | str:
    """Return the member's node, or the sentence that says why there is none."""
    found = _matches(nodes, member)
    if len(found) > 1:
        # A node that joined anew leaves its former self behind under the same host name.
        found = [node for node in found if node.state != "down"] or found
    if len(found) == 1:
        return found[0]
    if not found:
        known = ", ".join(f"{node.hostname} ({node.id})" for node in nodes) or "none"
        return f"The swarm has no node {member.name}; it has: {known}. Join it first (workers.yml), or take it out of members."
    ids = ", ".join(node.id for node in found)
    return f"The swarm has {len(found)} nodes named {member.name}: {ids}. Give the id of the one that is meant."


def _matches(nodes: tuple[Node, ...], member: Member) -> list[Node]:
    if member.id:
        return [node for node in nodes if node.id == member.id]
    return [node for node in nodes if node.hostname == member.hostname]


def _node_after(node: Node, member: Member) -> tuple[dict[str, str], str]:
    labels = dict(node.labels)
    for key, value in member.labels.items():
        if value is None:
            labels.pop(key, None)
        else:
            labels[key] = value
    return labels, member.availability or node.availability


def _member_steps(node: Node, labels: dict[str, str], availability: str) -> list[Step]:
    changes = []
    set_now = {key: value for key, value in labels.items() if node.labels.get(key) != value}
    removed = sorted(set(node.labels) - set(labels))
    if set_now:
        changes.append(f"label {_as_text(set_now)}")
    if removed:
        changes.append(f"remove label {', '.join(removed)}")
    if availability != node.availability:
        changes.append(f"set availability from {node.availability} to {availability}")
    if not changes:
        return []
    sentence = f"On {node.hostname} ({node.id}): {'; '.join(changes)}"
    wanted = availability if availability != node.availability else ""
    return [Step("update", node.id, sentence, {"set": set_now, "remove": removed, "availability": wanted})]


def _as_text(labels: dict[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items())) or "nothing"


def unmet(nodes: tuple[Node, ...], desired: tuple[Member, ...]) -> list[str]:
    """Return what the manager does not see although it should: ready nodes with their GPUs."""
    found = []
    for member in desired:
        if member.gpus is None:
            continue
        node = find_node(nodes, member)
        if isinstance(node, str):
            found.append(node)
        elif node.state != "ready":
            found.append(f"{node.hostname} ({node.id}) is {node.state}, not ready")
        elif node.gpus != member.gpus:
            found.append(f"{node.hostname} ({node.id}) advertises {node.gpus} GPUs and should advertise {member.gpus}")
    return found
