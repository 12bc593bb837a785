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
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import CommandFailed, StepFailed
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._plan import Plan
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._run import Completed
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm import read
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.apply import EngineApplier, with_swarm_resource
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.client import EngineError, SdkApi
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.model import Engine, EngineSpec, Guards, Init, Join
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.plan import plan_engine, wanted_settings
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.read import Paths

RECORDED = Path(__file__).parent / "recorded"
CLUSTER = "dwtoswfw9wg0d9zjikvxqcbyk"
TOKEN = "SWMTKN-1-only-in-this-test"
KEY = "SWMKEY-1-only-in-this-test"
MADE = EngineSpec(gpus=False, settings={"debug": True}, init=Init(heartbeat_ns=10**9, autolock=True))
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
        self.slow_join = False
        self.race = ""
        # As a manager: its node and its swarm's settings.
        self.manager = False
        self.spec: dict[str, Any] = {"Dispatcher": {"HeartbeatPeriod": 5 * 10**9}, "Role": "manager", "Availability": "active"}
        self.conflicts = 0
        self.leaderless = 0
        self.tasks_run = False
        # The time, how long the engine takes to describe itself, and what each call was given.
        self.now = 0.0
        self.takes = 0.0
        self.left: list[float] = []

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
        self.now += self.takes
        swarm: dict[str, Any] = {"LocalNodeState": self.state, "NodeID": "n1" if self.state != "inactive" else ""}
        if self.manager and self.leaderless:
            self.leaderless -= 1
            swarm.update(ControlAvailable=True, Cluster=None, Error="The swarm does not have a leader.")
        elif self.manager:
            swarm.update(ControlAvailable=True, Cluster={"ID": CLUSTER, "Spec": self.spec})
        found = {"Name": "gpu2", "ServerVersion": "26.1.5", "DockerRootDir": str(self.paths.data_root), "Swarm": swarm}
        return {**found, "ContainersRunning": int(self.tasks_run)}

    def tasks_here(self) -> list[dict[str, Any]]:
        return [{"Id": "c", "Labels": {"com.docker.swarm.task.name": "llm_edge.1"}}]

    def nodes(self) -> list[dict[str, Any]]:
        return [{"ID": "n1", "Spec": self.spec, "Status": {"State": "ready"}}]

    def node(self, _node_id: str) -> dict[str, Any]:
        if self.leaderless:
            self.leaderless -= 1
            raise EngineError("Docker could not inspect: the swarm does not have a leader", 503)
        return {"Version": {"Index": 1}, "Spec": json.loads(json.dumps(self.spec))}

    def update_node(self, _node_id: str, _version: int, spec: dict[str, Any]) -> None:
        self._count((), spec["Availability"])
        self.tasks_run = self.tasks_run and spec["Availability"] != "drain"
        self.spec = spec

    def tasks(self, _nodes: list[str]) -> list[dict[str, Any]]:
        return []

    def swarm(self) -> dict[str, Any]:
        return {"Version": {"Index": 1}, "Spec": json.loads(json.dumps(self.spec))}

    def update_swarm(self, _version: int, spec: dict[str, Any], *, rotate_worker_token: bool = False) -> None:
        self._count((), "rotate" if rotate_worker_token else "update")
        if self.conflicts:
            self.conflicts -= 1
            raise EngineError("Docker could not update the swarm: update out of sequence", 500)
        self.spec = spec

    def unlock_key(self) -> str:
        return KEY

    def unlock(self, key: str) -> None:
        assert key == KEY
        self._count((), "unlock")

    def join_swarm(self, manager: str, token: str, *, advertise: str, data_path: str) -> None:
        self._count((), "join")
        assert token == TOKEN
        folder = self.paths.data_root / "swarm" / "certificates"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "swarm-node.crt").write_text((RECORDED / "worker-26.1.5.crt").read_text())
        self.state = "active"
        if self.race:
            raise EngineError(self.race, 503)
        if self.slow_join:
            self.state = "pending"
            raise EngineError("Docker could not join: Timeout was reached before node joined.")

    def leave_swarm(self) -> None:
        self._count((), "leave")
        self.state = "inactive"
        if self.race:
            raise EngineError("Docker could not leave its swarm: this node is not part of a swarm", 503)

    def init_swarm(self, init: Init, *, advertise: str, data_path: str) -> None:
        self._count((), "init")
        self.manager, self.state = True, "active"
        if self.race:
            raise EngineError(self.race, 503)

    def within(self, seconds: float) -> None:
        self.left.append(seconds)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
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
            spec,
            settings,
            runner=self,  # type: ignore[arg-type]
            connect=self.connect,  # type: ignore[arg-type]
            paths=self.paths,
            clock=lambda: self.now,
            sleep=self.sleep,
            timeout=3,
        )
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
    host.sleep = lambda seconds: setattr(host, "now", host.now + seconds)  # type: ignore[method-assign]
    with pytest.raises(StepFailed, match=r"This host is pending instead of active after joining 10.77.0.21:2377: no reason given"):
        host.run_module()


def test_what_the_engine_takes_to_answer_is_waited_for_too(host: Host) -> None:
    host.slow_join, host.takes = True, 2.0
    host.sleep = lambda seconds: setattr(host, "now", host.now + seconds)  # type: ignore[method-assign]
    with pytest.raises(StepFailed, match=r"This host is pending instead of active"):
        host.run_module()
    # Two calls of two seconds and a pause of one are more than the three allowed.
    assert (host.now, host.left) == (5, [3, 0])


def test_a_manager_without_a_leader_is_given_up_by_the_clock(host: Host) -> None:
    host.run_module(MADE)
    host.leaderless, host.takes, before = 99, 100.0, host.now
    with pytest.raises(StepFailed, match=r"the managers have no leader"):
        host.run_module(replace(MADE, settings={"debug": False}))
    # One look to plan, one before the restart, and one that was tried once.
    assert (host.now - before, host.calls[-1]) == (300, "dockerd --validate")


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


@pytest.mark.parametrize("action", ["join", "init"])
def test_another_run_was_faster(host: Host, action: str) -> None:
    host.race = "Docker could not join: This node is already part of a swarm"
    spec = SPEC if action == "join" else replace(MADE, init=Init())
    host.run_module(spec)
    assert host.calls[-1] == action
    assert host.run_module(spec).steps == ()


def test_another_run_has_left_meanwhile(host: Host) -> None:
    host.run_module()
    host.race = "Docker could not join: This node is already part of a swarm"
    with pytest.raises(StepFailed, match="so this host has left it again"):
        host.run_module(replace(SPEC, join=Join("10.77.0.99:2377", "another", TOKEN)))
    assert host.calls[-3:] == ["leave", "join", "leave"]


def test_what_the_engine_refuses_is_said(host: Host) -> None:
    host.run_module(replace(SPEC, join=None))
    host.fail_at = len(host.calls)
    with pytest.raises(StepFailed, match="Docker could not init: not today"):
        host.run_module(MADE)


def test_a_workers_token_makes_no_manager(host: Host) -> None:
    spec = replace(SPEC, join=Join("10.77.0.21:2377", CLUSTER, TOKEN, role="manager"))
    with pytest.raises(StepFailed, match="has joined 10.77.0.21:2377 as a worker, for engine.join_token is the workers' token"):
        host.run_module(spec)


MANAGER_CALLS = ["dockerd --validate", "drain", "systemctl restart", "active", "update"]


def manager_with_a_task(host: Host) -> None:
    host.active, host.enabled, host.state = True, True, "active"
    host.manager, host.tasks_run = True, True


def test_a_manager_drains_itself_before_its_restart(host: Host) -> None:
    manager_with_a_task(host)
    host.leaderless = 0
    host.run_module(MADE)
    assert host.calls == MANAGER_CALLS
    assert host.spec["Availability"] == "active"
    assert "Labels" not in host.spec or host.spec["Labels"] == {}
    assert host.run_module(MADE).steps == ()


@pytest.mark.parametrize("fail_at", range(len(MANAGER_CALLS)), ids=MANAGER_CALLS)
def test_a_manager_killed_at_any_step_is_taken_up_again(host: Host, fail_at: int) -> None:
    manager_with_a_task(host)
    host.fail_at = fail_at
    if MANAGER_CALLS[fail_at] == "active":
        # Giving the node back is repeated until the manager has a leader.
        host.run_module(MADE)
        assert host.calls == [*MANAGER_CALLS[:4], "active", "update"]
        return
    with pytest.raises(StepFailed) as caught:
        host.run_module(MADE)
    assert len(caught.value.done) == fail_at
    drained = host.spec["Availability"] == "drain"
    # A drain that was cut short is on the node itself, for the task that gives it back.
    assert host.spec.get("Labels", {}) == ({"llm-stack.drained-from": "active"} if drained else {})
    host.fail_at = -1
    host.run_module(MADE)
    assert host.run_module(MADE).steps == ()
    assert json.loads(host.paths.daemon.read_text()) == {"debug": True}


def test_a_manager_without_a_leader_for_a_moment(host: Host) -> None:
    manager_with_a_task(host)
    real, host.run = (
        host.run,
        lambda argv, **kept: (setattr(host, "leaderless", 2 if "restart" in argv else host.leaderless), real(argv, **kept))[1],
    )  # type: ignore[method-assign]
    host.run_module(MADE)
    assert (host.calls, host.leaderless) == (MANAGER_CALLS, 0)


def test_a_locked_manager_is_unlocked_after_its_restart(host: Host) -> None:
    manager_with_a_task(host)
    host.tasks_run = False
    host.spec["EncryptionConfig"] = {"AutoLockManagers": True}
    plan = host.run_module(replace(MADE, init=Init()))
    assert host.calls == ["dockerd --validate", "systemctl restart", "unlock"]
    assert KEY not in repr(plan)


def test_a_locking_manager_is_not_restarted_before_it_could_tell_its_key(host: Host) -> None:
    manager_with_a_task(host)
    host.tasks_run = False
    host.spec["EncryptionConfig"] = {"AutoLockManagers": True}
    real = host.run

    def validated(argv: Any, **kept: Any) -> Completed:
        # Another manager is restarted between the plan and our restart.
        host.leaderless = 3 if "--validate" in argv else host.leaderless
        return real(argv, **kept)

    host.run = validated  # type: ignore[method-assign]
    host.run_module(replace(MADE, init=Init()))
    assert (host.calls, host.leaderless) == (["dockerd --validate", "systemctl restart", "unlock"], 0)


def test_the_swarms_settings_against_another_writer(host: Host) -> None:
    manager_with_a_task(host)
    host.tasks_run, host.conflicts = False, 2
    host.paths.daemon.write_text('{"debug": true}')
    host.started = time.monotonic() + 60
    host.run_module(MADE)
    assert host.calls == ["update"] * 3
    assert host.spec["Dispatcher"]["HeartbeatPeriod"] == 10**9
    host.calls.clear()
    host.conflicts = 99
    with pytest.raises(StepFailed, match="update out of sequence"):
        host.run_module(replace(MADE, init=Init(rotate_worker_token=True)))
    assert host.calls == ["rotate"] * 5


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


def test_the_sdk_s_errors_become_sentences_without_the_token() -> None:
    class Client:
        def join_swarm(self, *_arguments: Any, **_options: Any) -> None:
            raise RuntimeError(f"invalid join token {TOKEN}")

    with pytest.raises(EngineError) as caught:
        SdkApi(Client(), (RuntimeError,)).join_swarm("10.77.0.21:2377", TOKEN, advertise="", data_path="")
    assert str(caught.value) == "Docker could not join the swarm at 10.77.0.21:2377: invalid join token ********"
