# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What decided that names of services mean their tasks: how long a lost task goes on being asked, behind a virtual address and behind the
balancer, which finds the tasks one by one. On a machine whose kernel has IPVS."""

from __future__ import annotations

import subprocess
import time
from typing import Callable, Iterator

import pytest
from labkit import network
from labkit.lab import Lab

pytestmark = pytest.mark.long

KEPT, LOST = "gpu1", "gpu2"
TASK = """
frontend probe
  bind :8080
  mode http
  timeout client 5s
  http-request return status 200 content-type text/plain string here
"""
# As the role's balancer looks at engines.
BALANCER = """
resolvers docker
  nameserver dns 127.0.0.11:53
  resolve_retries 3
  timeout resolve 1s
  timeout retry 300ms
  hold valid 1s
defaults
  mode http
  timeout connect 300ms
  timeout check 200ms
  timeout client 5s
  timeout server 5s
frontend balancer
  bind :8080
  default_backend tasks
backend tasks
  option redispatch 1
  retries 3
  default-server check inter 250ms fastinter 100ms downinter 1s fall 2 rise 2 observe layer4 error-limit 1 on-error mark-down
  server-template task 4 tasks.probe:8080 resolvers docker init-addr none
"""
# Asks five times a second, a second at most each; says when and what came of it.
ASK = """
end=$((SECONDS + $2))
while [ $SECONDS -lt $end ]; do
  began=$EPOCHREALTIME
  echo "$began $(curl --silent --output /dev/null --max-time 1 --write-out '%{http_code}' http://$1:8080/)"
  sleep 0.2
done
"""
IMAGE = "haproxy:lab"


@pytest.fixture(scope="module")
def swarm(lab: Lab) -> Iterator[Lab]:
    """Two machines with a task each of one service behind a virtual address, and a balancer beside the one that stays."""
    archive = lab.paths.state / "artifacts" / "images" / "haproxy.tar"
    for machine in (KEPT, LOST):
        copy = [*network.inside(lab.paths), "scp", "-q", "-F", str(lab.paths.ssh_config()), str(archive), f"{machine}:/var/tmp/haproxy.tar"]
        subprocess.run(copy, check=True)
        loaded = lab.ssh(machine, "systemctl start docker && docker load --input /var/tmp/haproxy.tar", seconds=300)
        lab.ssh(machine, f"docker tag {loaded.strip().rsplit(' ', 1)[-1]} {IMAGE}")
    kept, lost = (lab.get(machine).spec.address for machine in (KEPT, LOST))
    lab.ssh(KEPT, f"docker swarm init --advertise-addr {kept} --dispatcher-heartbeat 5s")
    token = lab.ssh(KEPT, "docker swarm join-token --quiet worker").strip()
    lab.ssh(LOST, f"docker swarm join --advertise-addr {lost} --token {token} {kept}:2377")
    lab.ssh(KEPT, "docker network create --driver overlay --attachable probe")
    for name, text, more in (
        ("probe", TASK, "--replicas 2 --replicas-max-per-node 1 --endpoint-mode vip"),
        ("balancer", BALANCER, f"--constraint node.hostname=={KEPT} --endpoint-mode dnsrr"),
    ):
        lab.ssh(KEPT, f"docker config create {name} -", stdin=text)
        place = "/usr/local/etc/haproxy/haproxy.cfg"
        options = f"--detach --no-resolve-image --name {name} --network probe --config source={name},target={place} {more}"
        lab.ssh(KEPT, f"docker service create {options} {IMAGE}")
    yield lab
    lab.get(LOST).stop()
    lab.get(LOST).discard()
    lab.up([LOST])
    lab.ssh(KEPT, "docker service rm probe balancer; docker swarm leave --force", check=False)


def ask(lab: Lab, name: str, seconds: int) -> subprocess.Popen[str]:
    command = f"docker run --rm --interactive --network probe --entrypoint bash {IMAGE} -s -- {name} {seconds}"
    asking = subprocess.Popen([*lab.ssh_argv(KEPT), command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert asking.stdin
    asking.stdin.write(ASK)
    asking.stdin.close()
    return asking


def answers(asking: subprocess.Popen[str]) -> list[tuple[float, bool]]:
    """When each was asked, by the clock of the machine, and whether it was answered."""
    assert asking.stdout
    said = [line.split() for line in asking.stdout.read().splitlines()]
    asking.wait(30)
    return [(float(at), code == "200") for at, code in said]


def test_a_lost_task_is_asked_no_more_after_a_second_only_behind_the_balancer(swarm: Lab, on: Callable[..., str]) -> None:
    listed = "docker service ls --format '{{.Name}} {{.Replicas}}'"
    end = time.monotonic() + 120
    while sorted(line.split()[1] for line in on(KEPT, listed).splitlines()) != ["1/1", "2/2"]:
        assert time.monotonic() < end, on(KEPT, listed)
        time.sleep(2)
    asked = {name: ask(swarm, name, 60) for name in ("probe", "balancer")}
    time.sleep(20)
    cut = float(on(KEPT, "date +%s.%N"))
    swarm.cut(LOST)
    failed: dict[str, float] = {}
    for name, asking in asked.items():
        seen = answers(asking)
        before = [right for at, right in seen if at < cut - 2]
        assert before and all(before), f"{name} failed with both tasks there"
        late = [at - cut for at, right in seen if at > cut and not right]
        assert seen[-1][1], f"{name} never answered again"
        failed[name] = max(late, default=0.0)
        print(f"{name}: {len(late)} of {len([at for at, _ in seen if at > cut])} failed, the last {failed[name]:.1f} s after the loss")
    assert failed["balancer"] <= 2
    assert failed["probe"] > 3 * failed["balancer"]
