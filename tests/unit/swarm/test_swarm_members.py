# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Members of a swarm: planned as tables, changed on a manager that other runs change too and that fails at every step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import StackError, StepFailed
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm import read
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.client import EngineError, SdkApi
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.members_apply import MembersApplier
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.members_plan import plan_members, unmet
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.model import Guards, Member, Node

RECORDED = Path(__file__).parent / "recorded"
NODES = (Node("n0", "manager1", 3, role="manager"), Node("n1", "gpu2", 7, gpus=1, labels={"gpu": "true", "rack": "a"}))

MEMBERS: list[tuple[str, list[Member], list[str]]] = [
    ("nothing differs", [Member("n1", "gpu2", {"gpu": "true"}, "active")], []),
    ("one label", [Member("n1", "gpu2", {"gpu.count": "1"})], ["On gpu2 (n1): label gpu.count=1"]),
    ("label removed", [Member("n1", "", {"rack": None})], ["On gpu2 (n1): remove label rack"]),
    ("drained", [Member("n1", "gpu2", {}, "drain")], ["On gpu2 (n1): set availability from active to drain"]),
    ("paused", [Member("n1", "gpu2", {}, "pause")], ["On gpu2 (n1): set availability from active to pause"]),
    ("by name", [Member("", "gpu2", {"gpu": "1"})], ["On gpu2 (n1): label gpu=1"]),
    (
        "drained for a while",
        [Member("n1", "gpu2", {}, "drain", temporary=True)],
        ["On gpu2 (n1): label llm-stack.drained-from=active; set availability from active to drain"],
    ),
    ("resumed without a drain", [Member("n1", "gpu2", {}, "resume")], []),
    ("absent already", [Member("", "gpu9", absent=True)], []),
    ("twins, of which there are none", [Member("n1", "gpu2", remove_twins=True)], []),
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


OLD = Node("n9", "gpu2", 3, state="down", labels={"gpu": "true"})
PAUSED = replace(NODES[1], availability="drain", labels={"llm-stack.drained-from": "pause"})
DRAINED = replace(NODES[1], availability="drain")
REMOVALS: list[tuple[str, Node, Member, list[str]]] = [
    (
        "a node that is down",
        OLD,
        Member("n9", absent=True),
        ["Remove the node gpu2 (n9), which is down, and its labels: gpu=true"],
    ),
    (
        "a former self",
        OLD,
        Member("n1", "gpu2", {"a": "1"}, remove_twins=True),
        ["On gpu2 (n1): label a=1", "Remove the node gpu2 (n9), which is down: the machine of that name has joined anew"],
    ),
    (
        "a former self of a member given by its name",
        OLD,
        Member("", "gpu2", remove_twins=True),
        ["Remove the node gpu2 (n9), which is down: the machine of that name has joined anew"],
    ),
    ("a former self that is not asked for", OLD, Member("n1", "gpu2"), []),
    ("a living twin", replace(OLD, state="ready"), Member("n1", "gpu2", remove_twins=True), []),
    ("a twin that is a manager", replace(OLD, role="manager"), Member("n1", "gpu2", remove_twins=True), []),
    ("another name", replace(OLD, hostname="gpu8"), Member("n1", "gpu2", remove_twins=True), []),
]


@pytest.mark.parametrize(("node", "member", "sentences"), [row[1:] for row in REMOVALS], ids=[row[0] for row in REMOVALS])
def test_removals(node: Node, member: Member, sentences: list[str]) -> None:
    found = plan_members(current=(*NODES, node), desired=(member,), guards=Guards())
    assert (found.refusals, found.sentences) == ((), sentences)


def test_a_namesake_that_is_a_member_itself_is_no_former_self() -> None:
    both = (Member("n1", remove_twins=True), Member("n9", remove_twins=True))
    assert plan_members(current=(*NODES, OLD), desired=both, guards=Guards()).steps == ()


def test_a_twin_that_is_a_manager_is_said() -> None:
    found = plan_members(current=(*NODES, replace(OLD, role="manager")), desired=(Member("n1", remove_twins=True),), guards=Guards())
    assert found.warnings[0] == (
        "gpu2 (n9) has the host name of another node and is a manager, so it is kept. If it is gone for good, run "
        "`docker node demote n9` and `docker node rm n9`."
    )


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (
            replace(OLD, state="ready"),
            "Refusing to remove gpu2 (n9): it is ready, and only a node that is down can be removed without losing its tasks. Drain it "
            "(availability: drain), stop its engine, and run again when `docker node ls` shows it down.",
        ),
        (
            replace(OLD, role="manager"),
            "Refusing to remove gpu2 (n9): it is a manager, and the others may need its vote. Run `docker node demote n9` first, if the "
            "swarm keeps enough managers without it.",
        ),
    ],
)
@pytest.mark.parametrize("rehearsal", [False, True])
def test_what_is_not_removed(node: Node, reason: str, rehearsal: bool) -> None:
    found = plan_members(current=(*NODES[:1], node), desired=(Member("", "gpu2", absent=True),), guards=Guards(rehearsal=rehearsal))
    assert (found.steps, [refusal.reason for refusal in found.refusals]) == ((), [reason])


@pytest.mark.parametrize(
    ("node", "member", "availability", "labels"),
    [
        (PAUSED, Member("n1", availability="resume"), "pause", {}),
        (PAUSED, Member("n1", availability="active"), "active", {}),
        (PAUSED, Member("n1", availability="drain"), "drain", {}),
        (PAUSED, Member("n1", availability="drain", temporary=True), "drain", PAUSED.labels),
        (PAUSED, Member("n1"), "drain", PAUSED.labels),
        (DRAINED, Member("n1", availability="drain", temporary=True), "drain", DRAINED.labels),
        (DRAINED, Member("n1", availability="resume"), "drain", DRAINED.labels),
    ],
    ids=["resumed", "made active", "drained for good", "drained again", "left alone", "drained by a person", "kept by a person"],
)
def test_temporary_drains(node: Node, member: Member, availability: str, labels: dict[str, str]) -> None:
    found = plan_members(current=(NODES[0], node), desired=(member,), guards=Guards())
    after = found.after.get("gpu2", {"labels": node.labels, "availability": node.availability})
    assert after == {"labels": labels, "availability": availability}


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


class Manager:
    """The API of a manager with one node."""

    def __init__(self, conflicts: int = 0) -> None:
        self.node_now = json.loads((RECORDED / "nodes-26.1.5.json").read_text())[0]
        self.others: list[dict[str, Any]] = []
        self.conflicts = conflicts
        self.calls: list[str] = []
        # How often the tasks are asked for until they have ended.
        self.busy = 0
        self.fail_at = ""
        # The time, how long each call takes, and what it was given.
        self.now = 0.0
        self.takes = 0.0
        self.left: list[float] = []

    def nodes(self) -> list[dict[str, Any]]:
        self._count("nodes")
        return [self.node_now, *self.others]

    def within(self, seconds: float) -> None:
        self.left.append(seconds)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def _count(self, name: str) -> None:
        self.calls.append(name)
        self.now += self.takes
        if name == self.fail_at:
            raise EngineError(f"Docker could not {name}: connection aborted")

    def tasks(self, node_ids: list[str]) -> list[dict[str, Any]]:
        self._count("tasks")
        self.busy = max(0, self.busy - 1)
        task = {"ID": "t1", "NodeID": node_ids[0], "ServiceID": "s1", "Status": {"State": "running" if self.busy else "shutdown"}}
        return [task, {**task, "ID": "t0", "Status": {"State": "complete"}}]

    def service(self, _service_id: str) -> dict[str, Any]:
        return {"Spec": {"Name": "llm_engine"}}

    def twin(self, node_id: str, **changes: Any) -> None:
        self.others.append({**json.loads(json.dumps(self.node_now)), "ID": node_id, "Status": {"State": "down"}, **changes})

    def remove_node(self, node_id: str) -> None:
        self._count("remove")
        before = len(self.others)
        self.others = [node for node in self.others if node["ID"] != node_id]
        if len(self.others) == before:
            raise EngineError("Docker could not remove: node not found", 404)

    def node(self, _node_id: str) -> dict[str, Any]:
        self._count("node")
        return json.loads(json.dumps(self.node_now))

    def update_node(self, _node_id: str, version: int, spec: dict[str, Any]) -> None:
        self._count("update")
        if self.conflicts:
            self.conflicts -= 1
            self.node_now["Version"]["Index"] += 1
            self.node_now["Spec"]["Labels"]["rack"] = "a"
            raise EngineError("Docker could not update: rpc error: code = Unknown desc = update out of sequence", 500)
        assert version == self.node_now["Version"]["Index"]
        self.node_now["Spec"] = spec

    def run(self, *members: Member, timeout: float = 2.0) -> list[str]:
        self.calls.clear()
        nodes = read.read_nodes(self)  # type: ignore[arg-type]
        plan = plan_members(current=nodes, desired=members, guards=Guards())
        applier = MembersApplier(self, clock=lambda: self.now, sleep=self.sleep, timeout=timeout)  # type: ignore[arg-type]
        plan.carry_out(applier.do)
        applier.verify(members, None if plan.changed else nodes)
        return self.calls


NODE = "jpqgv0x6d62cmhfu7todd67zv"


def test_members_are_labelled_and_then_left_alone() -> None:
    manager = Manager()
    member = Member(NODE, "gpu2", {"gpu.count": "1", "zone": "b", "gpu": None}, "drain", gpus=1)
    assert manager.run(member) == ["nodes", "node", "update", "nodes", "tasks"]
    spec = manager.node_now["Spec"]
    assert spec["Labels"] == {"gpu.count": "1", "gpu.model": "GeForce-RTX-4090", "gpu.vram_gb": "24", "zone": "b"}
    assert (spec["Role"], spec["Availability"]) == ("worker", "drain")
    # With the connection's own call these are three: the most a run that has nothing to do may make.
    assert manager.run(member) == ["nodes", "tasks"]
    assert manager.run(replace(member, wait=False)) == ["nodes"]


def test_labels_set_by_another_meanwhile_stay() -> None:
    manager = Manager(conflicts=2)
    manager.run(Member(NODE, "", {"zone": "b"}))
    assert manager.node_now["Spec"]["Labels"]["rack"] == "a"
    assert manager.node_now["Spec"]["Labels"]["zone"] == "b"


def test_conflicts_without_end() -> None:
    with pytest.raises(StepFailed, match="update out of sequence"):
        Manager(conflicts=99).run(Member(NODE, "", {"zone": "b"}))


def test_gpus_the_manager_does_not_see() -> None:
    with pytest.raises(StackError) as caught:
        Manager().run(Member(NODE, "gpu2", gpus=2))
    assert str(caught.value) == (
        f"The manager does not see the GPUs it should after 2 s: gpu2 ({NODE}) advertises 1 GPUs and should advertise 2. "
        "Look at `docker node inspect` here and `journalctl -u docker` there."
    )


DRAIN = Member(NODE, "gpu2", {}, "drain", temporary=True)


def test_what_a_manager_takes_to_answer_is_waited_for_too() -> None:
    manager = Manager()
    manager.busy, manager.takes = 99, 20.0
    with pytest.raises(StackError, match=r"The drain has not ended after 81 s"):
        manager.run(DRAIN, timeout=60)
    # Two looks of two calls, with a pause in between; no call had more than what was left of the minute.
    assert manager.calls[-4:] == ["nodes", "tasks"] * 2
    assert manager.left == [60, 19]


def test_each_call_has_what_is_left_but_no_less_than_any_needs() -> None:
    client = SimpleNamespace(timeout=0.0)
    api = SdkApi(client, ())
    found = []
    for seconds in (60, -1, 86400):
        api.within(seconds)
        found.append(client.timeout)
    assert found == [60, 10, 120]


def test_a_drain_waits_for_its_tasks_and_is_taken_back() -> None:
    manager = Manager()
    manager.busy = 3
    assert manager.run(DRAIN, timeout=9) == ["nodes", "node", "update", *["nodes", "tasks"] * 3]
    assert manager.node_now["Spec"]["Labels"]["llm-stack.drained-from"] == "active"
    assert manager.run(Member(NODE, availability="resume")) == ["nodes", "node", "update", "nodes"]
    assert manager.node_now["Spec"]["Availability"] == "active"
    assert "llm-stack.drained-from" not in manager.node_now["Spec"]["Labels"]


def test_a_drain_that_does_not_end_names_the_task() -> None:
    manager = Manager()
    manager.busy = 99
    with pytest.raises(StackError) as caught:
        manager.run(DRAIN)
    assert str(caught.value) == (
        f"The drain has not ended after 2 s: gpu2 ({NODE}) still runs llm_engine (task t1). The node stays drained. Look at "
        "`docker node ps` here; a task may take its service's stop_grace_period. Raise timeout, or end what holds it up, and run again."
    )
    # Nothing is left to plan, and still the next run waits.
    manager.busy = 2
    assert manager.run(DRAIN) == ["nodes", "tasks", "nodes", "tasks"]


def test_nothing_is_waited_for_on_a_node_that_is_down() -> None:
    manager = Manager()
    manager.node_now["Status"]["State"] = "down"
    manager.busy = 99
    assert manager.run(DRAIN) == ["nodes", "node", "update", "nodes"]


def test_a_replaced_machine_leaves_nothing_behind() -> None:
    manager = Manager()
    manager.twin("b" * 25)
    assert manager.run(Member(NODE, "gpu2", {"gpu": "true"}, remove_twins=True)) == ["nodes", "remove", "nodes"]
    assert manager.others == []
    assert manager.run(Member(NODE, "gpu2", {"gpu": "true"}, remove_twins=True)) == ["nodes"]


def test_a_node_removed_by_another_run_meanwhile() -> None:
    manager = Manager()
    manager.twin("b" * 25)
    nodes = manager.remove_node

    def faster(node_id: str) -> None:
        nodes(node_id)
        nodes(node_id)

    manager.remove_node = faster  # type: ignore[method-assign]
    manager.run(Member("b" * 25, absent=True))
    assert manager.others == []


STEPS = ["node", "update", "remove"]


@pytest.mark.parametrize("fail_at", STEPS)
def test_killed_after_any_call_the_next_run_does_the_rest(fail_at: str) -> None:
    manager = Manager()
    manager.twin("b" * 25)
    members = (Member(NODE, "gpu2", {"zone": "b"}, "drain", temporary=True, remove_twins=True),)
    manager.fail_at = fail_at
    with pytest.raises(StepFailed, match=f"Docker could not {fail_at}: connection aborted"):
        manager.run(*members)
    assert len(manager.others) == 1
    manager.fail_at = ""
    manager.run(*members)
    assert manager.others == []
    assert manager.node_now["Spec"]["Labels"]["zone"] == "b"
    assert manager.node_now["Spec"]["Availability"] == "drain"
    assert manager.run(*members) == ["nodes", "tasks"]
