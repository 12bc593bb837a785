# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong on one machine or at the origin of the models, while clients ask: it is said, and the others go on."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from contextlib import contextmanager
from typing import Any, Callable, Iterator

import pytest
from conftest import Origin
from labkit.lab import Lab
from labkit.play import Outcome
from places import MANAGER, WORKERS

Docker = Callable[[str], str]
Run = Callable[..., Outcome]
Load = Callable[..., "subprocess.Popen[str]"]
pytestmark = pytest.mark.long
FIRST, SECOND = WORKERS
MODELS = "/var/lib/llm-stack/models"


@contextmanager
def asking(load: Load, **more: Any) -> Iterator[dict[str, Any]]:
    """Clients ask while the block runs, no more than one engine can work on; afterwards the dictionary holds what became of it."""
    clients = load(clients=4, seconds=900, first_token=0.3, **more)
    said: dict[str, Any] = {}
    try:
        time.sleep(3)
        yield said
        time.sleep(3)
    finally:
        clients.terminate()
        said.update(json.loads(clients.communicate(timeout=400)[0]))
        print(f"clients: {said}")


def engine(lab: Lab, worker: str) -> str:
    """The container of the engine on a machine; empty when none runs."""
    return lab.ssh(worker, "docker ps --quiet --filter name=llm_engine").strip()


def both_run(docker: Docker) -> str:
    """How many engines run of those that should."""
    return docker("service ls --filter name=llm_engine --format '{{.Replicas}}'")


def complaints(lab: Lab) -> str:
    """What the engines said lately. The command may wait for a task that is being replaced; by then it has told what there is."""
    return lab.ssh(MANAGER, "timeout 15 docker service logs --since 10m --raw llm_engine 2>&1; true")


def test_an_engine_that_is_stuck_is_excluded_ended_and_its_requests_move_on(converged: Lab, docker: Docker, load: Load, until: Any) -> None:
    before = engine(converged, FIRST)
    # A stopped process: the kernel goes on to accept connections, and nothing answers.
    with asking(load, patience=300) as said:
        converged.ssh(FIRST, "kill -STOP $(pgrep -f '[o]llama serve' | tail -n 1)")
        time.sleep(5)
        # Nothing new goes there; what was there is asked elsewhere once the swarm ends the engine.
        until(lambda: engine(converged, FIRST) not in ("", before), True, seconds=240)
        until(lambda: both_run(docker), "2/2", seconds=120)
    assert said["failures"] == []
    assert sum(said["engines"].values()) > 100
    assert len(said["engines"]) >= 2


def test_an_origin_that_stalls_keeps_no_engine_from_its_local_copy(
    converged: Lab, docker: Docker, load: Load, until: Any, origin: Origin
) -> None:
    before = engine(converged, FIRST)
    origin.server.send_signal(signal.SIGSTOP)
    try:
        with asking(load) as said:
            asked = converged.ssh(FIRST, "/usr/local/sbin/llm-model-sync 2>&1 >/dev/null || true", seconds=120)
            converged.ssh(FIRST, f"docker kill {before}")
            until(lambda: engine(converged, FIRST) not in ("", before), True, seconds=90)
            until(lambda: both_run(docker), "2/2", seconds=120)
    finally:
        origin.server.send_signal(signal.SIGCONT)
    assert "does not answer: " in asked
    assert "Check that the storage host is reachable" in asked
    assert said["failures"] == []


def test_a_share_that_stalls_at_boot_keeps_no_engine_from_its_local_copy(
    converged: Lab, docker: Docker, load: Load, until: Any, run: Run
) -> None:
    # A stand-in for an NFS server that is gone: who opens the file is not answered, as on a mount that waits.
    settings = json.dumps({"source": "nfs", "directory": "/var/lib/llm-stack/stalled", "destination": MODELS})
    converged.ssh(FIRST, "mkdir -p /var/lib/llm-stack/stalled && mkfifo /var/lib/llm-stack/stalled/manifest.json")
    converged.ssh(FIRST, "cat > /etc/llm-model-sync.json", stdin=settings)
    try:
        with asking(load) as said:
            converged.ssh(FIRST, "systemctl start --no-block llm-model-sync && systemctl restart docker", seconds=120)
            until(lambda: both_run(docker), "2/2", seconds=120)
            assert converged.ssh(FIRST, "systemctl is-active llm-model-sync || true").strip() == "activating"
    finally:
        converged.ssh(FIRST, "systemctl stop llm-model-sync; rm -r /var/lib/llm-stack/stalled")
        assert run("workers").status == 0
    assert said["failures"] == []


def test_a_model_that_is_damaged_at_the_origin_is_not_put_in_place(
    converged: Lab, docker: Docker, load: Load, run: Run, origin: Origin, until: Any
) -> None:
    served = origin.folder / "tiny.gguf"
    whole = served.read_bytes()
    served.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    converged.ssh(SECOND, f"mv {MODELS}/tiny.gguf {MODELS}/tiny.gguf.aside")
    try:
        with asking(load) as said:
            outcome = run("workers")
    finally:
        served.write_bytes(whole)
    assert outcome.status != 0
    assert "tiny.gguf arrived twice with a SHA-256 other than" in outcome.words
    assert "run the role storage_host again" in outcome.words
    assert said["failures"] == []
    # The right one there, the next run repairs it.
    converged.ssh(SECOND, f"rm {MODELS}/tiny.gguf.aside")
    assert run("workers").status == 0
    until(lambda: both_run(docker), "2/2", seconds=120)


def test_a_damaged_model_on_one_machine_is_said_and_the_other_goes_on(
    converged: Lab, docker: Docker, load: Load, run: Run, until: Any
) -> None:
    with asking(load) as said:
        converged.ssh(SECOND, f"head -c $(stat -c %s {MODELS}/tiny.gguf) /dev/zero > {MODELS}/tiny.gguf")
        converged.ssh(SECOND, f"docker kill {engine(converged, SECOND)}")
        until(lambda: "does not load from" in complaints(converged), True, seconds=120)
    assert "Run playbooks/workers.yml, which verifies the file" in complaints(converged)
    assert said["failures"] == []
    assert run("workers").status == 0
    until(lambda: both_run(docker), "2/2", seconds=180)


def test_a_missing_model_is_said_and_the_other_engine_goes_on(converged: Lab, docker: Docker, load: Load, run: Run, until: Any) -> None:
    with asking(load) as said:
        converged.ssh(SECOND, f"rm {MODELS}/tiny.gguf")
        converged.ssh(SECOND, f"docker kill {engine(converged, SECOND)}")
        until(lambda: "is not on this machine, so tiny cannot be served here" in complaints(converged), True, seconds=120)
    assert said["failures"] == []
    assert run("workers").status == 0
    until(lambda: both_run(docker), "2/2", seconds=180)


def test_a_model_that_is_not_offered_is_refused_and_serving_goes_on(load: Load, run: Run, docker: Docker) -> None:
    with asking(load) as said:
        outcome = run("workers", gpu_worker_models=["absent"])
    assert outcome.status != 0
    assert "The origin does not offer absent; it offers tiny. Correct gpu_worker_models." in outcome.words
    assert said["failures"] == []
    assert run("workers").status == 0


def test_a_full_disk_is_said_before_the_first_byte_and_serving_goes_on(converged: Lab, docker: Docker, load: Load, run: Run) -> None:
    # Less than the program leaves free: the running engine keeps the directory it was started with.
    converged.ssh(SECOND, f"mount -t tmpfs -o size=4m tmpfs {MODELS}")
    try:
        with asking(load) as said:
            outcome = run("workers")
    finally:
        converged.ssh(SECOND, f"umount {MODELS}")
    assert outcome.status != 0
    assert "bytes free and the models need" in outcome.words
    assert "Free space, name fewer models in gpu_worker_models, or move gpu_worker_models_path." in outcome.words
    assert said["failures"] == []
    assert run("workers").status == 0
    assert both_run(docker) == "2/2"
