# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole site on the lab: converge, answer, repeat without a change, foresee no change, repair drift."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Callable

import pytest
from labkit import demo
from labkit.lab import Lab
from labkit.play import SITE, Outcome, play
from labkit.vm import VirtualMachine


@pytest.fixture(scope="module")
def first_run(lab: Lab) -> Outcome:
    """The first run of site.yml, as talkative as it can be."""
    outcome = play(lab, SITE, "-vvv", "--diff")
    assert outcome.status == 0
    return outcome


@pytest.fixture(scope="module")
def converged(lab: Lab, first_run: Outcome) -> Lab:
    """The lab after the first run of site.yml."""
    return lab


def test_the_most_talkative_run_shows_no_secret(first_run: Outcome) -> None:
    assert "ESTABLISH SSH CONNECTION" in first_run.text, "the run was not talkative enough for this test to mean anything"
    # How every secret of inventories/lab begins; a swarm's join token; any private key.
    for secret in ("lab-only-", "SWMTKN-", "PRIVATE KEY"):
        shown = [line for line in first_run.text.splitlines() if secret in line]
        assert shown == []


def test_the_demo_question_is_answered_through_the_edge(converged: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    demo.ask(converged)
    said = capfd.readouterr().out
    assert "pieces from engine" in said


def test_the_edge_refuses_a_wrong_key(converged: Lab) -> None:
    argv = ["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Authorization: Bearer wrong", "https://10.77.0.21/v1/models"]
    ended = subprocess.run([*converged.ssh_argv("gpu2"), *argv], capture_output=True, text=True, check=True)
    assert ended.stdout.endswith("401")


def test_the_second_run_changes_nothing_as_an_installed_collection(converged: Lab, installed_collection: Path) -> None:
    outcome = play(converged, "selfhosted.llm_stack.site", collections=installed_collection)
    assert outcome.status == 0
    assert outcome.changed == ()
    assert outcome.changes == 0


def test_check_mode_after_converge_foresees_nothing(converged: Lab) -> None:
    outcome = play(converged, SITE, "--check")
    assert outcome.status == 0
    assert outcome.changed == ()


def test_engines_run_one_on_each_gpu(converged: Lab, on: Callable[..., str]) -> None:
    rows = on("manager1", "docker service ps llm_engine --filter desired-state=running --format '{{.Node}} {{.CurrentState}}'").splitlines()
    assert sorted(row.split()[0] for row in rows) == ["gpu1", "gpu2"]
    assert all(row.split()[1] == "Running" for row in rows)


def test_models_came_by_the_way_each_worker_names(converged: Lab, on: Callable[..., str]) -> None:
    declared = (converged.paths.state / "artifacts" / "tiny.gguf.sha256").read_text().strip()
    for worker in ("gpu1", "gpu2"):
        assert on(worker, "sha256sum /var/lib/llm-stack/models/tiny.gguf").split()[0] == declared
    assert "nfs4" in on("gpu1", "findmnt -n -t nfs4 -o FSTYPE")
    assert on("gpu2", "findmnt -n -t nfs4 -o FSTYPE || true") == ""


def test_an_initiator_logs_in_and_the_lun_keeps_what_it_writes(converged: Lab, on: Callable[..., str]) -> None:
    target, portal = "iqn.2026-01.lab.llm:storage1", "10.77.0.11:3260"
    node = f"iscsiadm -m node -T {target} -p {portal}"
    on("gpu1", "printf 'InitiatorName=iqn.2026-01.lab.llm:gpu1\\n' > /etc/iscsi/initiatorname.iscsi && systemctl restart iscsid")
    on("gpu1", f"iscsiadm -m discovery -t sendtargets -p {portal}")
    assert "24" in on("gpu1", f"{node} --login 2>&1; echo status $?"), "a login without CHAP must be refused (iscsiadm exit status 24)"
    for name, value in (("authmethod", "CHAP"), ("username", "gpu1"), ("password", "lab-only-chap-secret")):
        on("gpu1", f"{node} -o update -n node.session.auth.{name} -v {value}")
    on("gpu1", f"{node} --login")
    try:
        on("gpu1", "for i in $(seq 30); do ls /dev/disk/by-path/*iscsi* >/dev/null 2>&1 && break; sleep 1; done")
        disk = on("gpu1", "readlink -f /dev/disk/by-path/*iscsi*lun-0").strip()
        on("gpu1", f"echo written over iSCSI | dd of={disk} bs=512 count=1 conv=sync,fsync oflag=direct status=none")
        assert "written over iSCSI" in on("storage1", "head -c 512 /dev/zvol/llm/vm/disk0")
    finally:
        on("gpu1", f"{node} --logout; {node} -o delete")


def test_a_share_that_stalls_keeps_no_engine_from_its_local_copy(
    converged: Lab, on: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    share = on("gpu1", "findmnt -n -t nfs4 -o TARGET").strip()
    storage = converged.get("storage1")
    assert isinstance(storage, VirtualMachine)
    with storage.frozen():
        # A name that was never looked up: nothing of the answer can be cached.
        assert on("gpu1", f"timeout -s KILL 10 stat {share}/never-asked-for 2>&1; echo status $?").split()[-1] == "137"
        on("gpu1", "docker kill $(docker ps --quiet --filter name=llm_engine)")
        started = "docker ps --filter name=llm_engine --filter health=healthy --quiet"
        assert on("gpu1", f'for i in $(seq 100); do [ -z "$({started})" ] || break; sleep 1; done; {started}', seconds=180)
        answered = set()
        for _ in range(10):
            demo.ask(converged)
            answered.add(capfd.readouterr().out.rsplit("from engine ", 1)[1])
        assert len(answered) == 2, answered


# One setting per role, altered behind its back: (machine, how, the role that repairs it, how to see it is repaired, what must be seen).
DRIFT = {
    "storage_host": ("storage1", "zfs set recordsize=128K llm/models", "zfs get -H -o value recordsize llm/models", "1M"),
    "docker_engine": (
        "manager1",
        'sed -i \'s/"max-size": *"[^"]*"/"max-size": "1m"/\' /etc/docker/daemon.json',
        'grep -c \'"max-size": "1m"\' /etc/docker/daemon.json || true',
        "0",
    ),
    "registry": ("gpu2", "rm /etc/docker/certs.d/10.77.0.21:5000/ca.crt", "ls /etc/docker/certs.d/10.77.0.21:5000", "ca.crt"),
    "swarm_manager": (
        "manager1",
        "docker swarm update --dispatcher-heartbeat 20s",
        "docker info -f '{{.Swarm.Cluster.Spec.Dispatcher.HeartbeatPeriod}}'",
        "5s",
    ),
    "gpu_worker": ("manager1", "docker node update --label-rm gpu gpu2", "docker node inspect gpu2 -f '{{.Spec.Labels.gpu}}'", "true"),
    "llm_services": (
        "manager1",
        "docker service scale -d llm_engine=1",
        "docker service inspect llm_engine -f '{{.Spec.Mode.Replicated.Replicas}}'",
        "2",
    ),
}


def test_drift_of_every_role_is_repaired_and_only_that(converged: Lab, on: Callable[..., str]) -> None:
    for machine, alter, _, _ in DRIFT.values():
        on(machine, alter)
    outcome = play(converged, SITE)
    assert outcome.status == 0
    for role, (machine, _, look, wanted) in DRIFT.items():
        assert on(machine, look).strip() == wanted, role
    # The workers' labels are set in one call on the manager, by a task of the playbook.
    repaired = {
        task.partition(" : ")[0].rpartition(".")[2].replace("Label all workers and see their GPUs", "gpu_worker")
        for _, task in outcome.changed
    }
    assert repaired == set(DRIFT), outcome.changed
