# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading and applying stacks with a docker command that says what Docker 26 says."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Sequence

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import CommandFailed, StackError, StepFailed
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._plan import Plan, Step
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._run import Completed, Runner
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._stack.apply import Applier, compose_text, wait_until_settled
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._stack.model import Current, Item, Stored, Wanted
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._stack.read import read_current, read_running

RECORDED = (Path(__file__).parent / "recorded" / "docker_26_service_inspect.json").read_text()
CONF, KEY = Item("config", "conf", "listen $port;"), Item("secret", "key", "do-not-show-me")
WANTED = Wanted("web", {"services": {"server": {"image": "x", "environment": {"HOME": "$HOME"}}}}, (CONF, KEY), {})


class Docker(Runner):
    """Answers by the first words of a command, and remembers."""

    def __init__(self, answers: dict[str, str] | None = None, fail_at: int = -1) -> None:
        super().__init__()
        self.answers = answers or {}
        self.fail_at = fail_at
        self.seen: list[tuple[tuple[str, ...], str]] = []

    def run(self, argv: Sequence[str], *, stdin: str | None = None, ok: Sequence[int] = (0,)) -> Completed:
        self.seen.append((tuple(argv), stdin or ""))
        if len(self.seen) - 1 == self.fail_at:
            raise CommandFailed(tuple(argv), 1, "it broke")
        for start, answer in self.answers.items():
            if " ".join(argv).startswith(start):
                return Completed(0, answer, "")
        return Completed(0, "", "")


def test_all_that_the_swarm_has_is_read() -> None:
    data = base64.b64encode(b"listen 80;").decode()
    labels = {"com.docker.stack.namespace": "web"}
    docker = Docker(
        {
            "docker info": "true\n",
            "docker service ls": "a\nb\nc\n",
            "docker service inspect": RECORDED,
            "docker config ls": "d\n",
            "docker config inspect": json.dumps([{"Spec": {"Name": "web_conf_1", "Labels": labels, "Data": data}}]),
            "docker secret ls": "e\n",
            "docker secret inspect": json.dumps([{"Spec": {"Name": "key", "Labels": None}}]),
            "docker network ls": "id1 ingress\nid2 llm\n",
        }
    )
    found = read_current(docker, foresee=False)
    assert [(service.name, service.stack) for service in found.services] == [
        ("llm_edge", "llm"),
        ("llm_balancer", "llm"),
        ("llm_engine", "llm"),
    ]
    assert found.stored == (Stored("config", "web_conf_1", "web", "listen 80;"), Stored("secret", "key", "", ""))
    assert found.networks == {"id1": "ingress", "id2": "llm"}


@pytest.mark.parametrize("docker", [Docker({"docker info": "false\n"}), Docker(fail_at=0)])
def test_a_machine_that_is_no_manager_is_refused_but_foreseen_as_empty(docker: Docker) -> None:
    with pytest.raises(StackError, match=r"no stack can be deployed.*Run playbooks/swarm.yml first\."):
        read_current(docker, foresee=False)
    docker.seen.clear()
    assert read_current(docker, foresee=True) == Current()


def steps() -> Plan:
    stored = Stored("config", "web_old_1", "web")
    names = [item.full_name("web") for item in (CONF, KEY)]
    return Plan(
        (
            Step("create_config", names[0], f"Create config {names[0]}", CONF),
            Step("create_secret", names[1], f"Create secret {names[1]}", KEY),
            Step("deploy", "web", "Deploy stack web", {}),
            Step("remove_config", stored.name, f"Remove config {stored.name}", stored),
        )
    )


def test_the_steps_become_commands_and_secrets_travel_on_standard_input() -> None:
    docker = Docker()
    steps().carry_out(Applier(docker, WANTED, registry_auth=True).do)
    commands = [" ".join(argv) for argv, _stdin in docker.seen]
    assert commands == [
        f"docker config create --label com.docker.stack.namespace=web {CONF.full_name('web')} -",
        f"docker secret create --label com.docker.stack.namespace=web {KEY.full_name('web')} -",
        "docker stack deploy --compose-file - --with-registry-auth web",
        "docker config rm web_old_1",
    ]
    assert "do-not-show-me" not in " ".join(commands)
    assert docker.seen[1][1] == "do-not-show-me"


@pytest.mark.parametrize("position", range(4))
def test_a_failure_at_any_step_says_what_was_done_and_what_is_left(position: int) -> None:
    docker, plan = Docker(fail_at=position), steps()
    with pytest.raises(StepFailed) as caught:
        plan.carry_out(Applier(docker, WANTED, registry_auth=False).do)
    assert caught.value.done == tuple(plan.sentences[:position])
    assert caught.value.failed == plan.sentences[position]
    assert caught.value.left == tuple(plan.sentences[position + 1 :])
    assert "do-not-show-me" not in str(caught.value)


class Conflicting(Docker):
    """Refuses the first deployments because the swarm changed a service meanwhile."""

    def __init__(self, conflicts: int) -> None:
        super().__init__()
        self.conflicts = conflicts

    def run(self, argv: Sequence[str], *, stdin: str | None = None, ok: Sequence[int] = (0,)) -> Completed:
        super().run(argv, stdin=stdin, ok=ok)
        if len(self.seen) <= self.conflicts:
            raise CommandFailed(tuple(argv), 1, "failed to update service web_server: rpc error: update out of sequence")
        return Completed(0, "", "")


def test_a_service_that_is_still_rolling_is_deployed_all_the_same() -> None:
    docker, naps = Conflicting(3), []
    Applier(docker, WANTED, registry_auth=False, sleep=naps.append).do(Step("deploy", "web", "Deploy stack web", {}))
    assert [argv[:3] for argv, _stdin in docker.seen] == [("docker", "stack", "deploy")] * 4
    assert naps == [1.0, 1.0, 1.0]


def test_a_conflict_that_does_not_end_is_said() -> None:
    docker = Conflicting(99)
    with pytest.raises(CommandFailed, match="out of sequence"):
        Applier(docker, WANTED, registry_auth=False, sleep=lambda _seconds: None).do(Step("deploy", "web", "Deploy stack web", {}))
    assert len(docker.seen) == 5


def test_nothing_in_the_compose_file_is_interpolated() -> None:
    text = json.loads(compose_text(WANTED))
    assert text["services"]["server"]["environment"] == {"HOME": "$$HOME"}
    assert text["configs"] == {"conf": {"external": True, "name": CONF.full_name("web")}}


def answers(replicas: str, update: str = "", error: str = "") -> dict[str, str]:
    tasks = [
        {
            "ID": "t2",
            "Name": "web_server.1",
            "Node": "" if error else "n1",
            "CurrentState": "Pending 1s" if error else "Running 1s",
            "Error": error,
        },
        {"ID": "t1", "Name": " \\_ web_server.1", "Node": "n1", "CurrentState": "Failed 9s", "Error": "exit 1"},
    ]
    return {
        "docker service ls": f"web_server {replicas}\n",
        "docker service inspect": f"web_server {update}\n",
        "docker service ps": "\n".join(map(json.dumps, tasks)),
    }


def settle(docker: Docker, *, deployed: bool = False, seconds: float = 10) -> int:
    now = [0.0]
    naps: list[float] = []

    def sleep(nap: float) -> None:
        naps.append(nap)
        now[0] += nap

    wait_until_settled(docker, "web", seconds=seconds, deployed=deployed, clock=lambda: now[0], sleep=sleep)
    return len(naps)


def test_a_settled_stack_is_not_waited_for_and_a_changed_one_is_looked_at_twice() -> None:
    assert settle(Docker(answers("2/2", "completed"))) == 0
    assert settle(Docker(answers("2/2")), deployed=True) == 1


@pytest.mark.parametrize(
    ("docker", "text"),
    [
        (
            Docker(answers("0/1", error="no suitable node")),
            r"web_server runs 0 of 1 \(web_server\.1 on no node is Pending 1s: no suitable node",
        ),
        (Docker(answers("1/1", "paused")), r"web_server runs 1 of 1, update paused"),
        (Docker(answers("1/1", "updating")), r"web_server runs 1 of 1, update updating"),
    ],
)
def test_what_does_not_settle_is_said_with_the_words_of_its_tasks(docker: Docker, text: str) -> None:
    with pytest.raises(StackError, match=text):
        settle(docker)


def test_a_service_whose_tasks_fail_again_and_again_is_not_waited_for_to_the_end() -> None:
    class Failing(Docker):
        """Every look finds one more failed task; the swarm remembers five."""

        looks = 0

        def run(self, argv: Sequence[str], *, stdin: str | None = None, ok: Sequence[int] = (0,)) -> Completed:
            if argv[:3] != ("docker", "service", "ps"):
                return super().run(argv, stdin=stdin, ok=ok)
            self.looks += 1
            row = {"Name": "web_server.1", "Node": "n1", "CurrentState": "Failed 1s", "Error": "exit 1"}
            return Completed(0, "\n".join(json.dumps({**row, "ID": f"t{number}"}) for number in range(self.looks, self.looks + 5)), "")

    docker = Failing({"docker service ls": "web_server 0/1\n", "docker service inspect": "web_server\n"})
    with pytest.raises(StackError, match=r"after 10 s not all of it runs as it should: web_server runs 0 of 1 .*exit 1"):
        settle(docker, seconds=900)
    assert docker.looks == 6


def test_an_update_that_was_rolled_back_is_no_success() -> None:
    docker = Docker(answers("1/1", "rollback_completed"))
    assert settle(docker) == 0
    with pytest.raises(StackError, match="update rollback_completed"):
        settle(docker, deployed=True)


def test_services_without_tasks_or_a_stack_without_services() -> None:
    assert read_running(Docker({"docker service ls": ""}), "web") == ()
