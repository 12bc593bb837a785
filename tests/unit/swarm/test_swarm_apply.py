# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The appliers of swarm_gpu_node against an engine and a host that fail at every step."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Sequence

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import CommandFailed, StackError, StepFailed
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._plan import Plan
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._run import Completed
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm import read
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.apply import EngineApplier, MembersApplier, with_swarm_resource
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.client import EngineError, SdkApi
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.model import Engine, EngineSpec, Guards, Init, Join, Member
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.plan import plan_engine, plan_members, wanted_settings
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.read import Paths

RECORDED = Path(__file__).parent / "recorded"
CLUSTER = "dwtoswfw9wg0d9zjikvxqcbyk"
TOKEN = "SWMTKN-1-only-in-this-test"
SPEC = EngineSpec(settings={"debug": True}, join=Join("10.77.0.21:2377", CLUSTER, TOKEN))


class Host:
    """A host with systemd, nvidia-smi and dockerd, of which one call can fail."""

    def __init__(self, folder: Path) -> None:
        self.paths = Paths(folder / "daemon.json", folder / "config.toml", folder / "docker")
        self.calls: list[str] = []
        self.fail_at = -1
        self.active = False
        self.started = 0.0
        self.enabled = False
        self.state = "inactive"
        self.cluster = CLUSTER
        self.slow_join = False

    # -- commands
    def has(self, _program: str) -> bool:
        return True

    def run(self, argv: Sequence[str], *, stdin: str | None = None, ok: Sequence[int] = (0,)) -> Completed:
        command = tuple(argv)
        if command[0] == "nvidia-smi":
            return Completed(0, "GPU-a, NVIDIA GeForce RTX 4090, 24564, 570\n", "")
        if command[:2] == ("systemctl", "show"):
            states = ("active" if self.active else "inactive", "enabled" if self.enabled else "disabled", round(self.started * 1e6))
            text = "LoadState=loaded\nActiveState={}\nUnitFileState={}\nActiveEnterTimestampMonotonic={}\n"
            return Completed(0, text.format(*states), "")
        if command == ("dockerd", "--version"):
            return Completed(0, "Docker version 26.1.5+dfsg1, build a72d7cd\n", "")
        if command[0] == "journalctl":
            return Completed(0, "unable to configure\nthe engine\n", "")
        self._count(command, " ".join(command[:2]))
        if command[:2] == ("systemctl", "enable"):
            self.enabled = True
        elif command[0] == "systemctl":
            self.active, self.started = True, time.monotonic()
        return Completed(0, "", "")

    def _count(self, command: tuple[str, ...], name: str) -> None:
        self.calls.append(name)
        if len(self.calls) - 1 == self.fail_at:
            raise CommandFailed(command, 1, "it does not work today") if command else EngineError(f"Docker could not {name}: not today")

    # -- the engine
    def connect(self) -> Host:
        return self

    def info(self) -> dict[str, Any]:
        swarm = {"LocalNodeState": self.state, "NodeID": "n1" if self.state != "inactive" else ""}
        return {"Name": "gpu2", "ServerVersion": "26.1.5", "DockerRootDir": str(self.paths.data_root), "Swarm": swarm}

    def join_swarm(self, manager: str, token: str, *, advertise: str, data_path: str) -> None:
        self._count((), "join")
        assert token == TOKEN
        folder = self.paths.data_root / "swarm" / "certificates"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "swarm-node.crt").write_text((RECORDED / "worker-26.1.5.crt").read_text())
        self.state = "active"
        if self.slow_join:
            self.state = "pending"
            raise EngineError("Docker could not join: Timeout was reached before node joined.")

    def leave_swarm(self) -> None:
        self._count((), "leave")
        self.state = "inactive"

    def init_swarm(self, init: Init, *, advertise: str, data_path: str) -> None:
        self._count((), "init")

    def sleep(self, _seconds: float) -> None:
        self.state = "active" if self.state == "pending" and self.slow_join else self.state

    # -- a run of the module
    def read(self) -> Engine:
        return read.read_engine(self, self.connect, self.paths, look_for_gpus=True)  # type: ignore[arg-type]

    def run_module(self, spec: EngineSpec = SPEC) -> Plan:
        current = self.read()
        plan = plan_engine(current=current, desired=spec, guards=Guards())
        plan.raise_if_refused()
        settings = wanted_settings(current, spec)
        applier = EngineApplier(
            spec, settings, runner=self, connect=self.connect, paths=self.paths, sleep=self.sleep, timeout=3  # type: ignore[arg-type]
        )  # fmt: skip
        plan.carry_out(applier.do)
        return plan


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


ALL_CALLS = ["dockerd --validate", "systemctl enable", "systemctl start", "join"]


def test_a_fresh_host_joins_and_the_second_run_does_nothing(host: Host) -> None:
    host.run_module()
    assert host.calls == ALL_CALLS
    assert json.loads(host.paths.daemon.read_text()) == {"debug": True, "node-generic-resources": ["GPU=GPU-a"]}
    host.calls.clear()
    assert host.run_module().steps == ()
    assert host.calls == []


def test_an_engine_killed_between_file_and_restart_is_restarted_by_the_next_run(host: Host) -> None:
    host.run_module()
    host.calls.clear()
    host.paths.daemon.write_text(host.paths.daemon.read_text())
    assert host.run_module().sentences == ["Restart docker.service: it started before /etc/docker/daemon.json was last changed"]
    assert host.calls == ["systemctl restart"]
    assert host.run_module().steps == ()


@pytest.mark.parametrize("fail_at", range(len(ALL_CALLS)), ids=ALL_CALLS)
def test_after_a_failure_at_any_step_the_next_run_finishes_the_rest(host: Host, fail_at: int) -> None:
    host.fail_at = fail_at
    with pytest.raises(StepFailed) as caught:
        host.run_module()
    assert TOKEN not in str(caught.value)
    assert len(caught.value.done) == fail_at
    assert host.paths.daemon.exists() == (fail_at > 0)
    host.fail_at = -1
    host.calls.clear()
    host.run_module()
    assert host.calls == ALL_CALLS[fail_at:]
    assert host.run_module().steps == ()


def test_settings_that_dockerd_rejects_are_not_put_in_place(host: Host) -> None:
    host.paths.daemon.write_text('{"mine": 1}')
    host.fail_at = 0
    with pytest.raises(StepFailed) as caught:
        host.run_module()
    assert host.paths.daemon.read_text() == '{"mine": 1}'
    assert [path.name for path in host.paths.daemon.parent.iterdir()] == ["daemon.json"]
    assert f"dockerd does not accept the merged settings, so {host.paths.daemon} stays as it was: it does not work today" in str(
        caught.value
    )


def test_the_former_settings_are_kept(host: Host) -> None:
    host.paths.daemon.write_text('{"mine": 1}')
    host.paths.daemon.chmod(0o600)
    host.run_module()
    kept = [path for path in host.paths.daemon.parent.iterdir() if path.name.endswith("~")]
    assert [path.read_text() for path in kept] == ['{"mine": 1}']
    assert json.loads(host.paths.daemon.read_text())["mine"] == 1
    assert host.paths.daemon.stat().st_mode & 0o777 == 0o600


def test_an_engine_that_does_not_start_says_why(host: Host) -> None:
    host.fail_at = ALL_CALLS.index("systemctl start")
    with pytest.raises(StepFailed) as caught:
        host.run_module()
    assert "Docker's last words: unable to configure / the engine." in str(caught.value)


def test_joining_may_take_longer_than_the_engine_waits(host: Host) -> None:
    host.slow_join = True
    host.run_module()
    assert host.state == "active"


def test_a_join_that_never_settles(host: Host) -> None:
    host.slow_join = True
    host.sleep = lambda _seconds: None  # type: ignore[method-assign]
    with pytest.raises(StepFailed, match=r"This host is pending instead of active after joining 10.77.0.21:2377: no reason given"):
        host.run_module()


def test_joined_to_another_swarm_than_asked_for(host: Host) -> None:
    spec = replace(SPEC, join=Join("10.77.0.21:2377", "another", TOKEN))
    with pytest.raises(StepFailed, match=f"belongs to the swarm {CLUSTER}, not to another, so this host has left it again"):
        host.run_module(spec)
    assert host.calls[-1] == "leave"


def test_leaves_another_swarm_first(host: Host) -> None:
    host.run_module()
    host.calls.clear()
    spec = replace(SPEC, join=Join("10.77.0.99:2377", "another", TOKEN))
    with pytest.raises(StepFailed):
        host.run_module(spec)
    assert host.calls == ["leave", "join", "leave"]


@pytest.mark.parametrize(
    ("config", "after"),
    [
        ('#swarm-resource = "DOCKER_RESOURCE_GPU"\n[x]\na=1\n', 'swarm-resource = "DOCKER_RESOURCE_GPU"\n[x]\na=1\n'),
        ('swarm-resource = "OTHER"\n', 'swarm-resource = "DOCKER_RESOURCE_GPU"\n'),
        ("[x]\na=1\n", 'swarm-resource = "DOCKER_RESOURCE_GPU"\n[x]\na=1\n'),
    ],
)
def test_swarm_resource(config: str, after: str) -> None:
    assert with_swarm_resource(config) == after


class Manager:
    """The API of a manager with one node."""

    def __init__(self, conflicts: int = 0) -> None:
        self.node_now = json.loads((RECORDED / "nodes-26.1.5.json").read_text())[0]
        self.conflicts = conflicts
        self.calls: list[str] = []

    def nodes(self) -> list[dict[str, Any]]:
        self.calls.append("nodes")
        return [self.node_now]

    def node(self, _node_id: str) -> dict[str, Any]:
        self.calls.append("node")
        return json.loads(json.dumps(self.node_now))

    def update_node(self, _node_id: str, version: int, spec: dict[str, Any]) -> None:
        self.calls.append("update")
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
        applier = MembersApplier(self, sleep=lambda _seconds: None, timeout=timeout)  # type: ignore[arg-type]
        plan.carry_out(applier.do)
        applier.verify(members, None if plan.changed else nodes)
        return self.calls


NODE = "jpqgv0x6d62cmhfu7todd67zv"


def test_members_are_labelled_and_then_left_alone() -> None:
    manager = Manager()
    member = Member(NODE, "gpu2", {"gpu.count": "1", "zone": "b", "gpu": None}, "drain", gpus=1)
    assert manager.run(member) == ["nodes", "node", "update", "nodes"]
    spec = manager.node_now["Spec"]
    assert spec["Labels"] == {"gpu.count": "1", "gpu.model": "GeForce-RTX-4090", "gpu.vram_gb": "24", "zone": "b"}
    assert (spec["Role"], spec["Availability"]) == ("worker", "drain")
    assert manager.run(member) == ["nodes"]


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


def test_the_sdk_s_errors_become_sentences_without_the_token() -> None:
    class Client:
        def join_swarm(self, *_arguments: Any, **_options: Any) -> None:
            raise RuntimeError(f"invalid join token {TOKEN}")

    with pytest.raises(EngineError) as caught:
        SdkApi(Client(), (RuntimeError,)).join_swarm("10.77.0.21:2377", TOKEN, advertise="", data_path="")
    assert str(caught.value) == "Docker could not join the swarm at 10.77.0.21:2377: invalid join token ********"
