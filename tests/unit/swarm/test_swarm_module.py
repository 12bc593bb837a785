# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module swarm_gpu_node as a whole: bad input, its API calls counted on a socket, that socket dying in mid-run."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Iterator, NoReturn

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._run import Completed
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm import client
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.read import Paths
from ansible_collections.selfhosted.llm_stack.plugins.modules import swarm_gpu_node
from daemon import Daemon, serving

RECORDED = Path(__file__).parent / "recorded"
CLUSTER = "dwtoswfw9wg0d9zjikvxqcbyk"
MANAGER = "ncgakerstv25bs2c3ukawkvjk"
WORKER = "jpqgv0x6d62cmhfu7todd67zv"
TOKEN = "SWMTKN-1-" + "0" * 50 + "-" + "1" * 25
JOIN = {"manager": "10.77.0.21:2377", "cluster_id": CLUSTER, "join_token": TOKEN}


class Left(Exception):
    """The module has left with this result."""


class Module:
    """An AnsibleModule that raises its result."""

    def __init__(self, options: dict[str, Any], *, check: bool = False) -> None:
        validated = ArgumentSpecValidator(
            swarm_gpu_node.argument_spec(), mutually_exclusive=[("engine", "members")], required_one_of=[("engine", "members")]
        ).validate(options)
        self.params = validated.validated_parameters
        self.check_mode = check
        if validated.error_messages:
            self.fail_json(msg=" ".join(validated.error_messages))

    def fail_json(self, **result: Any) -> NoReturn:
        raise Left({"failed": True, **result})

    exit_json = fail_json

    def warn(self, _text: str) -> None:
        return


def run(options: dict[str, Any], *, check: bool = False) -> dict[str, Any]:
    """Run the module and return its result."""

    def leave(**result: Any) -> NoReturn:
        raise Left(result)

    with pytest.raises(Left) as caught:
        module = Module(options, check=check)
        module.exit_json = leave  # type: ignore[method-assign]
        (swarm_gpu_node.run_engine if module.params["engine"] is not None else swarm_gpu_node.run_members)(module)  # type: ignore[arg-type]
    return dict(caught.value.args[0])


def engine(**options: Any) -> dict[str, Any]:
    return {"engine": options}


def member(**options: Any) -> dict[str, Any]:
    return {"members": [{"hostname": "gpu2", **options}]}


def label(**labels: Any) -> dict[str, Any]:
    return member(labels=labels)


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "one of the following is required: engine, members"),
    ({"engine": {}, "members": []}, "parameters are mutually exclusive: engine|members"),
    (engine(joint_token=TOKEN), "engine.joint_token. Supported parameters include"),
    (engine(init={}, **JOIN), "engine.init makes a swarm and engine.manager joins one: give only one of them."),
    (engine(role="manager"), "engine.role is manager, and engine.manager is empty"),
    (engine(role="leader", **JOIN), "value of role must be one of: worker, manager, got: leader"),
    (engine(gpus=False, require_gpu=True), "engine.require_gpu asks for a GPU, and engine.gpus is false"),
    (engine(gpus="perhaps"), "'perhaps' is not a valid boolean"),
    (engine(timeout=0), "engine.timeout is 0: give a number of seconds from 1 to 86400."),
    (engine(timeout=-5), "engine.timeout is -5"),
    (engine(timeout=10**6), "engine.timeout is 1000000"),
    (engine(timeout="soon"), "timeout"),
    (engine(advertise_address="10.77.0.0/24"), "engine.advertise_address is '10.77.0.0/24': give an address of this host"),
    (engine(advertise_address="0.0.0.0"), "engine.advertise_address is '0.0.0.0'"),
    (engine(advertise_address="10.77.0.300"), "engine.advertise_address is '10.77.0.300'"),
    (engine(advertise_address="10.77.0.21:99999"), "engine.advertise_address is '10.77.0.21:99999': its port is not one from 1 to 65535."),
    (engine(advertise_address="an interface"), "engine.advertise_address is 'an interface'"),
    (engine(data_path_address="10.77.0.21:4789"), "engine.data_path_address is '10.77.0.21:4789'"),
    (engine(data_path_address="http://10.77.0.21"), "engine.data_path_address is 'http://10.77.0.21'"),
    (engine(**{**JOIN, "manager": "10.77.0.21"}), "engine.manager is '10.77.0.21': give address and port of a manager"),
    (engine(**{**JOIN, "manager": "tcp://10.77.0.21:2377"}), "engine.manager is 'tcp://10.77.0.21:2377'"),
    (engine(**{**JOIN, "manager": "10.77.0.21:port"}), "engine.manager is '10.77.0.21:port'"),
    (engine(**{**JOIN, "manager": "10.77.0.21:0"}), "engine.manager is '10.77.0.21:0': its port is not one from 1 to 65535."),
    (engine(**{**JOIN, "manager": "10.77.0:2377"}), "engine.manager is '10.77.0:2377'"),
    (engine(**{**JOIN, "cluster_id": "my-swarm"}), "engine.cluster_id is 'my-swarm': an ID of Docker has 25 small letters and digits"),
    (engine(**{**JOIN, "cluster_id": CLUSTER.upper()}), "engine.cluster_id is"),
    (engine(**{**JOIN, "join_token": "secret-of-mine"}), "engine.join_token is no join token of a swarm"),
    (engine(**JOIN, known_nodes=["gpu2"]), "engine.known_nodes is 'gpu2'"),
    (engine(**JOIN, known_nodes=[""]), "engine.known_nodes is ''"),
    (engine(**JOIN, daemon={"live-restore": True}), "engine.daemon sets live-restore, with which Docker refuses to be a node of a swarm"),
    (engine(init={}, daemon={"live-restore": True}), "engine.daemon sets live-restore"),
    (engine(daemon={"node-generic-resources": ["GPU=1"]}), "engine.daemon sets node-generic-resources, which engine.gpus keeps"),
    (engine(daemon={"data-root": "docker"}), "engine.daemon sets data-root to 'docker': give an absolute path."),
    (engine(daemon="debug"), "dict"),
    (engine(init={"dispatcher_heartbeat": 0}), "engine.init.dispatcher_heartbeat is 0: give seconds from 0.5 to 600."),
    (engine(init={"dispatcher_heartbeat": -3}), "engine.init.dispatcher_heartbeat is -3"),
    (engine(init={"dispatcher_heartbeat": float("nan")}), "engine.init.dispatcher_heartbeat is nan"),
    (engine(init={"dispatcher_heartbeat": 5e9}), "engine.init.dispatcher_heartbeat is 5e+09"),
    (engine(init={"data_path_port": 80}), "engine.init.data_path_port is 80: Docker takes ports from 1024 to 49151."),
    (engine(init={"address_pools": ["10.20.0.0"], "subnet_size": 33}), "engine.init.subnet_size is 33"),
    (
        engine(init={"address_pools": ["10.20.0.1/16"]}),
        "engine.init.address_pools holds '10.20.0.1/16': give networks such as 10.20.0.0/16",
    ),
    (engine(init={"address_pools": ["ten"]}), "engine.init.address_pools holds 'ten'"),
    (engine(init={"address_pools": ["10.20.0.0/16", "10.20.4.0/24"]}), "10.20.0.0/16 and 10.20.4.0/24, which overlap"),
    (engine(init={"address_pools": ["10.20.0.0/16"], "subnet_size": 8}), "engine.init.subnet_size is 8"),
    (engine(init={"subnet_size": 24}), "engine.init.subnet_size is given without engine.init.address_pools"),
    ({"members": [{}]}, "members[0] names no node: give its id or hostname."),
    ({"members": ["gpu2"]}, "dict"),
    ({"members": [{"id": "gpu2"}]}, "members[0].id is 'gpu2'"),
    (member(hostname="gpu_2!"), "members[0].hostname is 'gpu_2!', which is no host name"),
    ({"members": [{"hostname": "gpu2"}, {"hostname": "gpu2"}]}, "members names the node gpu2 twice"),
    ({"members": [{"id": WORKER}, {"id": WORKER}]}, f"members names the node {WORKER} twice"),
    ({"timeout": 0, **member()}, "timeout is 0"),
    (member(availability="gone"), "value of availability must be one of: active, pause, drain, resume, got: gone"),
    (member(state="removed"), "value of state must be one of: present, absent, got: removed"),
    (member(state="absent", labels={"a": "1"}), "members[0].state is absent, and labels would be set on a node that is gone"),
    (member(state="absent", availability="drain"), "members[0].state is absent, and availability would be set"),
    (member(state="absent", gpus=1), "members[0].state is absent, and gpus would be set"),
    (member(state="absent", remove_twins=True), "members[0].state is absent, and remove_twins would be set"),
    (member(temporary=True), "members[0].temporary belongs to a drain"),
    (member(temporary=True, availability="pause"), "members[0].temporary belongs to a drain"),
    (member(gpus=-1), "members[0].gpus is -1: give 0 or more."),
    (label(**{"": "1"}), "members[0].labels has the key ''"),
    (label(**{"a b": "1"}), "members[0].labels has the key 'a b'"),
    (label(**{"gpu=": "1"}), "members[0].labels has the key 'gpu='"),
    (member(labels={7: "1"}), "members[0].labels has the key 7"),
    (label(**{"com.docker.gpu": "1"}), "members[0].labels has the key com.docker.gpu, which is reserved"),
    (label(**{"llm-stack.drained-from": "active"}), "members[0].labels has the key llm-stack.drained-from, which is reserved"),
    (label(a={"b": "c"}), "members[0].labels gives a a dictionary: a label is one text."),
    (label(a=["b"]), "members[0].labels gives a a list"),
    (label(a="one\ntwo"), "members[0].labels gives a a value with control characters or line ends"),
]


@pytest.mark.parametrize(("options", "text"), BAD, ids=[text[:60] for _options, text in BAD])
def test_bad_input_is_refused_with_a_sentence_and_nothing_is_called(
    options: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    for name in ("connect", "read_engine", "Runner", "EngineApplier", "MembersApplier"):
        monkeypatch.setattr(swarm_gpu_node, name, lambda *_given, name=name, **_options: called.append(name))
    result = run(options)
    assert result["failed"]
    assert text in result["msg"]
    assert "secret-of-mine" not in repr(result)
    assert not result.get("changed")
    assert [name for name in called if name != "Runner"] == []


def test_every_example_is_understood() -> None:
    for task in yaml.safe_load(swarm_gpu_node.EXAMPLES):
        options = json.loads(
            json.dumps(task["selfhosted.llm_stack.swarm_gpu_node"])
            .replace("{{ swarm_manager_cluster_id }}", CLUSTER)
            .replace("{{ swarm_manager_join_token }}", TOKEN)
            .replace("{{ worker.node_id }}", WORKER)
            .replace("{{ worker.hostname }}", "gpu2")
            .replace('"{{ worker.labels }}"', '{"gpu": true}')
            .replace("{{ worker.gpus | length }}", "1")
        )
        params = Module(options).params
        if params["engine"] is not None:
            assert swarm_gpu_node.engine_spec(params["engine"])
        else:
            assert swarm_gpu_node.member_specs(params["members"], params["timeout"])


class Commands:
    """systemctl, nvidia-smi and dockerd of a host on which all is as it should be."""

    calls: tuple[tuple[str, ...], ...] = ()

    def has(self, _program: str) -> bool:
        return True

    def run(self, argv: Any, **_options: Any) -> Completed:
        Commands.calls += (tuple(argv),)
        if argv[0] == "nvidia-smi":
            return Completed(0, "GPU-b0f8cfaf, NVIDIA GeForce RTX 4090, 24564, 570\n", "")
        # It has just been started, so its settings are those of the file.
        started = round(time.monotonic() * 1e6)
        text = f"LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nActiveEnterTimestampMonotonic={started}\n"
        return Completed(0, text, "")


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A worker's host and, in the same engine, a manager's view of the swarm."""
    info = {
        **json.loads((RECORDED / "info-worker-26.1.5.json").read_text()),
        "DockerRootDir": str(tmp_path),
        "ContainersRunning": 2,
        "ServerVersion": "26.1.5",
        "Name": "gpu2",
    }
    answers = {
        "/version": {"ApiVersion": "1.45"},
        "/info": info,
        "/nodes": json.loads((RECORDED / "nodes-26.1.5.json").read_text()),
        "/tasks": [],
        "/containers/json": [{"Id": "c1", "Labels": {"com.docker.swarm.task.name": "llm_engine.x.y"}}],
    }
    certificates = tmp_path / "swarm" / "certificates"
    certificates.mkdir(parents=True)
    (certificates / "swarm-node.crt").write_text((RECORDED / "worker-26.1.5.crt").read_text())
    settings = tmp_path / "daemon.json"
    settings.write_text('{"node-generic-resources": ["GPU=GPU-b0f8cfaf"]}')
    monkeypatch.setattr(swarm_gpu_node, "Runner", Commands)
    monkeypatch.setattr(swarm_gpu_node, "Paths", lambda: Paths(settings, tmp_path / "no.toml", tmp_path))
    Commands.calls = ()
    with serving(tmp_path / "docker.sock", answers) as found:
        monkeypatch.setattr(swarm_gpu_node, "connect", lambda: client.connect(found.url))
        yield found


MEMBERS = {"members": [{"id": WORKER, "labels": {"gpu": True}, "availability": "active", "gpus": 1}, {"id": MANAGER}]}


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize(
    ("options", "calls"),
    [
        (MEMBERS, ["GET /version", "GET /nodes"]),
        (engine(**JOIN, known_nodes=[WORKER, MANAGER]), ["GET /version", "GET /info", "GET /containers/json"]),
    ],
    ids=["members", "engine"],
)
def test_a_run_that_has_nothing_to_do_makes_at_most_three_calls(
    daemon: Daemon, options: dict[str, Any], calls: list[str], check: bool
) -> None:
    result = run(options, check=check)
    assert (result.get("failed", False), result["changed"], result["plan"]) == (False, False, [])
    assert daemon.calls == calls
    assert {" ".join(command[:2]).partition("=")[0] for command in Commands.calls} <= {"systemctl show", "nvidia-smi --query-gpu"}


def test_check_mode_plans_the_same_and_writes_nothing(daemon: Daemon) -> None:
    options = {"members": [{"id": WORKER, "labels": {"zone": "b"}, "availability": "drain", "temporary": True}]}
    foreseen = run(options, check=True)
    assert not [call for call in daemon.calls if call.startswith("POST")]
    done = run(options)
    assert (foreseen["plan"], foreseen["diff"]) == (done["plan"], done["diff"])
    assert done["changed"]
    assert done["members"][0]["availability"] == "drain"
    assert run(options)["changed"] is False


def test_a_restart_under_a_task_is_refused_and_told_in_check_mode(daemon: Daemon) -> None:
    options = engine(**JOIN, daemon={"debug": True})
    refused = run(options)
    assert "Refusing to restart Docker on gpu2: tasks of its swarm run here (llm_engine.x.y)" in refused["msg"]
    assert {command[0] for command in Commands.calls} == {"systemctl", "nvidia-smi"}
    assert {command[1] for command in Commands.calls if command[0] == "systemctl"} == {"show"}
    foreseen = run(options, check=True)
    assert (foreseen["drain_first"], foreseen["tasks"]) == (True, ["llm_engine.x.y"])


# The calls of a run that labels one node, in their order.
CALLS = ["GET /version", "GET /nodes", f"GET /nodes/{WORKER}", f"POST nodes/{WORKER}/update", "GET /nodes"]


@pytest.mark.parametrize("die_at", range(len(CALLS)), ids=CALLS)
def test_the_engine_dies_at_any_call(daemon: Daemon, die_at: int) -> None:
    options = {"members": [{"id": WORKER, "labels": {"zone": "b"}}]}
    daemon.die_at = die_at
    result = run(options)
    assert result["failed"]
    assert "Docker " in result["msg"]
    assert len(daemon.calls) == die_at + 1
    # It says that the label was set only if it was.
    labelled = daemon.answers["/nodes"][0]["Spec"]["Labels"].get("zone") == "b"
    assert (result["changed"], labelled) == (die_at == 4, die_at == 4)
    daemon.die_at = -1
    again = run(options)
    assert (again.get("failed", False), again["changed"]) == (False, not labelled)
    assert run(options)["changed"] is False


def test_a_socket_that_is_gone(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarm_gpu_node, "connect", lambda: client.connect("unix:///nonexistent/docker.sock"))
    result = run(MEMBERS)
    assert (result["failed"], result["changed"]) == (True, False)
    assert "Docker does not answer on unix:///nonexistent/docker.sock" in result["msg"]
    assert daemon.calls == []
