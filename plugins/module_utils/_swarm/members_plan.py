# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pure planner: the nodes of a swarm as a manager sees them and as they should be; steps or refusals come out."""

from __future__ import annotations

from typing import Any

from .._plan import Plan, Refusal, Step
from .model import DRAINED_LABEL, Guards, Member, Node, Task


class _Changes:
    """What has been planned so far."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.refusals: list[Refusal] = []
        self.warnings: list[str] = []
        self.before: dict[str, Any] = {}
        self.after: dict[str, Any] = {}

    def show(self, node: Node, after: Any) -> None:
        """Add one node to the diff; nodes that share a host name are told apart by their IDs."""
        name = node.hostname if node.hostname not in self.before else f"{node.hostname} ({node.id})"
        self.before[name] = {"labels": node.labels, "availability": node.availability}
        self.after[name] = after


def plan_members(*, current: tuple[Node, ...], desired: tuple[Member, ...], guards: Guards) -> Plan:
    """Plan labels, availability and removal of all members, those that are not named are not looked at."""
    changes = _Changes()
    for member in desired:
        if member.absent:
            _plan_absence(changes, current, member)
        else:
            _plan_presence(changes, current, member, guards)
    chosen = [find_node(current, member) for member in desired if not member.absent]
    meant = {node.id for node in chosen if isinstance(node, Node)}
    for member in desired:
        if member.remove_twins:
            _plan_twins(changes, current, member, meant)
    return Plan(
        steps=tuple(changes.steps),
        refusals=tuple(changes.refusals),
        warnings=tuple(changes.warnings),
        before=changes.before,
        after=changes.after,
    )


def _plan_presence(changes: _Changes, current: tuple[Node, ...], member: Member, guards: Guards) -> None:
    found = find_node(current, member)
    if isinstance(found, str):
        if guards.rehearsal and not _matches(current, member):
            _rehearse(changes, member)
        else:
            changes.refusals.append(Refusal(member.name, found))
        return
    labels, availability = _node_after(found, member)
    steps = _member_steps(found, labels, availability)
    if steps:
        changes.steps += steps
        changes.show(found, {"labels": labels, "availability": availability})


def _rehearse(changes: _Changes, member: Member) -> None:
    node = Node(id="", hostname=member.name)
    labels, availability = _node_after(node, member)
    changes.steps.append(Step("label", member.name, f"Label {member.name} once it has joined: {_as_text(labels)}"))
    changes.show(node, {"labels": labels, "availability": availability})


def _plan_twins(changes: _Changes, current: tuple[Node, ...], member: Member, meant: set[str]) -> None:
    """Collect what a machine was before it joined anew.

    :param meant: the nodes of all members, which are machines of their own, whatever they are called.
    """
    found = find_node(current, member)
    if isinstance(found, Node):
        for twin in current:
            if twin.hostname == found.hostname and twin.id not in meant:
                _plan_twin(changes, twin)


def _plan_twin(changes: _Changes, twin: Node) -> None:
    if twin.role == "manager":
        changes.warnings.append(
            f"{twin.hostname} ({twin.id}) has the host name of another node and is a manager, so it is kept. If it is gone for good, run "
            f"`docker node demote {twin.id}` and `docker node rm {twin.id}`."
        )
    elif twin.state == "down":
        sentence = f"Remove the node {twin.hostname} ({twin.id}), which is down: the machine of that name has joined anew"
        changes.steps.append(Step("remove", twin.id, sentence))
        changes.show(twin, "removed")


def _plan_absence(changes: _Changes, current: tuple[Node, ...], member: Member) -> None:
    for node in _matches(current, member):
        reason = _why_kept(node)
        if reason:
            changes.refusals.append(Refusal(member.name, reason))
            continue
        sentence = f"Remove the node {node.hostname} ({node.id}), which is down, and its labels: {_as_text(node.labels)}"
        changes.steps.append(Step("remove", node.id, sentence))
        changes.show(node, "removed")


def _why_kept(node: Node) -> str:
    if node.role == "manager":
        return (
            f"Refusing to remove {node.hostname} ({node.id}): it is a manager, and the others may need its vote. "
            f"Run `docker node demote {node.id}` first, if the swarm keeps enough managers without it."
        )
    if node.state != "down":
        return (
            f"Refusing to remove {node.hostname} ({node.id}): it is {node.state}, and only a node that is down can be removed without "
            "losing its tasks. Drain it (availability: drain), stop its engine, and run again when `docker node ls` shows it down."
        )
    return ""


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
    return _availability_after(node, member, labels)


def _availability_after(node: Node, member: Member, labels: dict[str, str]) -> tuple[dict[str, str], str]:
    """A temporary drain remembers on the node what it was, so that any later run can take it back."""
    if member.availability == "resume":
        return labels, labels.pop(DRAINED_LABEL, node.availability)
    if not member.availability:
        return labels, node.availability
    if member.temporary:
        if node.availability != "drain":
            labels[DRAINED_LABEL] = node.availability
    else:
        labels.pop(DRAINED_LABEL, None)
    return labels, member.availability


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
        if member.gpus is None or member.absent:
            continue
        node = find_node(nodes, member)
        if isinstance(node, str):
            found.append(node)
        elif node.state != "ready":
            found.append(f"{node.hostname} ({node.id}) is {node.state}, not ready")
        elif node.gpus != member.gpus:
            found.append(f"{node.hostname} ({node.id}) advertises {node.gpus} GPUs and should advertise {member.gpus}")
    return found


def draining(nodes: tuple[Node, ...], desired: tuple[Member, ...]) -> list[Node]:
    """Return the nodes that must be free of tasks; of a node that is down nobody knows what still runs there."""
    found = [find_node(nodes, member) for member in desired if member.availability == "drain" and member.wait and not member.absent]
    return [node for node in found if isinstance(node, Node) and node.availability == "drain" and node.state != "down"]


def busy(nodes: list[Node], tasks: tuple[Task, ...], names: dict[str, str]) -> list[str]:
    """Return which tasks still hold drained nodes up.

    :param names: of services, by ID; a service that is not in it is called by its ID.
    """
    found = []
    for node in nodes:
        held = [f"{names.get(task.service_id, task.service_id)} (task {task.id})" for task in tasks if task.node_id == node.id]
        if held:
            found.append(f"{node.hostname} ({node.id}) still runs {', '.join(sorted(held))}")
    return found
