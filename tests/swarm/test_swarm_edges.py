# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two edges: an address they share outlives either machine, and a certificate by ACME reaches both."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any, Callable, Iterator

import pytest
from authority import Authority
from labkit import network
from labkit.lab import Lab
from labkit.play import Outcome
from places import MANAGER, MODELS, WORKERS

Docker = Callable[[str], str]
Run = Callable[..., Outcome]
Load = Callable[..., "subprocess.Popen[str]"]
pytestmark = pytest.mark.long
SECOND = WORKERS[0]
SHARED, NAME = "10.77.0.99", "llm.example.test"
EDGES = {"llm_services_constraints": [f"node.hostname != {WORKERS[-1]}"]}
ADDRESS = {"edge_address_cidr": f"{SHARED}/24", "edge_address_hosts": [MANAGER, SECOND], "llm_stack_edge_hosts": f"{MANAGER}:{SECOND}"}


@pytest.fixture(scope="module")
def two_edges(converged: Lab, run: Run) -> Iterator[Lab]:
    """Edges on two machines that share an address."""
    outcome = run("services", **EDGES, **ADDRESS)
    assert outcome.status == 0
    yield converged
    for machine in (MANAGER, SECOND):
        converged.ssh(machine, "systemctl disable --now keepalived")
    assert run("services").status == 0


def holders(lab: Lab) -> list[str]:
    """Which machines have the shared address."""
    return [name for name in (MANAGER, SECOND) if SHARED in lab.ssh(name, "ip -brief address show")]


def test_one_machine_has_the_address_and_the_second_run_changes_nothing(two_edges: Lab, run: Run) -> None:
    assert len(holders(two_edges)) == 1
    again = run("services", **EDGES, **ADDRESS)
    assert (again.status, again.changed) == (0, ())


def test_the_loss_of_the_machine_with_the_address_moves_it_and_requests_go_on(
    two_edges: Lab, docker: Docker, load: Load, until: Any
) -> None:
    # The manager stays, for the swarm has no other: the address goes to the worker first.
    if holders(two_edges) == [MANAGER]:
        two_edges.ssh(MANAGER, "systemctl restart keepalived")
        until(lambda: holders(two_edges), [SECOND], seconds=30)
    clients = load(clients=6, seconds=60, first_token=0.3, address=SHARED, patience=5)
    time.sleep(5)
    two_edges.cut(SECOND)
    cut = time.time()
    try:
        said = json.loads(clients.communicate(timeout=180)[0])
        assert SHARED in two_edges.ssh(MANAGER, "ip -brief address show")
    finally:
        two_edges.up([SECOND])
    print(f"the machine with the address was cut at {cut:.1f}: {said}")
    # Connections to the lost machine are lost; after the address has moved none is, and answers have come again within seconds.
    assert said["gap"] <= 8.0
    assert all(float(failure.split()[1].rstrip(":")) < cut + 12 for failure in said["failures"]), said["failures"]
    assert sum(said["engines"].values()) > 60
    until(lambda: docker(f"node inspect {SECOND} --format '{{{{.Status.State}}}}'"), "ready", seconds=120)
    until(lambda: docker("service ls --filter name=llm_edge --format '{{.Replicas}}'"), "2/2", seconds=120)


@pytest.fixture(scope="module")
def authority(two_edges: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    """A certificate authority beside the machines, which the manager trusts."""
    edge = two_edges.get(MANAGER).spec.address
    place = tmp_path_factory.mktemp("authority")
    made = Authority(place, MODELS[0], 14000, 14053, edge=edge, http=80, prefix=network.inside(two_edges.paths))
    two_edges.ssh(MANAGER, "cat > /usr/local/share/ca-certificates/lab.crt && update-ca-certificates", stdin=made.certificate.read_text())
    yield made
    made.end()


def shown(lab: Lab, machine: str) -> str:
    """Names of the certificate that the edge of a machine shows, and when it begins."""
    address = lab.get(machine).spec.address
    asked = f"openssl s_client -connect {address}:443 -servername {NAME} </dev/null 2>/dev/null"
    return lab.ssh(WORKERS[-1], f"{asked} | openssl x509 -noout -serial -ext subjectAltName").strip()


def acme(authority: Authority) -> dict[str, Any]:
    """The role's options for a certificate by ACME."""
    return {**EDGES, **ADDRESS, "llm_services_tls": {"domains": [NAME], "server": authority.directory}}


def test_a_certificate_by_acme_reaches_both_edges(two_edges: Lab, authority: Authority, run: Run) -> None:
    assert run("services", **acme(authority)).status == 0
    seen = {shown(two_edges, machine) for machine in (MANAGER, SECOND)}
    assert len(seen) == 1
    assert f"DNS:{NAME}" in seen.pop()
    again = run("services", **acme(authority))
    assert (again.status, again.changed) == (0, ())


def test_a_renewal_rolls_the_edges_and_no_request_fails(two_edges: Lab, authority: Authority, load: Load) -> None:
    before = shown(two_edges, MANAGER)
    clients = load(clients=6, seconds=300, first_token=0.2, edges=(MANAGER, SECOND), trust=False)
    time.sleep(2)
    try:
        two_edges.ssh(MANAGER, "certbot -q renew --no-random-sleep-on-renew --force-renewal", seconds=200)
    finally:
        time.sleep(2)
        clients.terminate()
        said = json.loads(clients.communicate(timeout=120)[0])
    print(f"during a renewal: {said}")
    after = {shown(two_edges, machine) for machine in (MANAGER, SECOND)}
    assert len(after) == 1
    assert after != {before}
    assert said["failures"] == []


def test_an_authority_that_is_away_leaves_the_certificate(two_edges: Lab, authority: Authority, run: Run) -> None:
    before = shown(two_edges, MANAGER)
    authority.end()
    said = two_edges.ssh(MANAGER, "certbot -q renew --no-random-sleep-on-renew --force-renewal 2>&1 || echo failed", seconds=200)
    assert said.rstrip().endswith("failed")
    assert shown(two_edges, MANAGER) == before
    # A run that needs nothing of the authority does not ask it.
    outcome = run("services", **acme(authority))
    assert (outcome.status, outcome.changed) == (0, ())
    # Another name cannot be had now; the edge keeps what it has.
    more = acme(authority)
    more["llm_services_tls"] = {**more["llm_services_tls"], "domains": [NAME, f"more.{NAME}"]}
    outcome = run("services", **more)
    assert outcome.status != 0
    assert "gave no certificate for" in outcome.words
    assert "the edge keeps the one it has" in outcome.words
    assert shown(two_edges, MANAGER) == before
