# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker of a real swarm turned into a raw image, which is taken apart again: nothing of the worker itself is in it.

A container machine has no disk to boot from, so what the image's own boot code does is not seen here.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from labkit.lab import Lab
from labkit.play import Outcome
from places import TOKEN, WORKERS

pytestmark = pytest.mark.long

Run = Callable[..., Outcome]
WORKER = WORKERS[-1]
PLACE = f"/var/lib/llm-stack/golden/{WORKER}.raw"
WANTED = {"llm_stack_image_of": WORKER, "llm_stack_image_boots": False}
PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+(?:[A-Za-z-]+: [^\n]*\n)*\s*[A-Za-z0-9+/=]{32}")


def own(lab: Lab) -> dict[str, bytes]:
    """What makes the worker itself, and what it must keep secret, read from the worker."""
    read = {
        "machine ID": "cat /etc/machine-id",
        "host key": "cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub",
        "private host key": "sed -n 3p /etc/ssh/ssh_host_ed25519_key",
        "node key": "sed -n '/^[A-Za-z0-9+/=]\\{40,\\}$/{p;q}' /var/lib/docker/swarm/certificates/swarm-node.key",
        "login to the registry": 'grep -o \'"auth": *"[^"]*\' /root/.docker/config.json | grep -o \'[^"]*$\'',
    }
    found = {what: lab.ssh(WORKER, command).strip().encode() for what, command in read.items()}
    assert all(len(value) >= 16 for value in found.values()), {what: len(value) for what, value in found.items()}
    return {**found, "token for models": TOKEN.encode(), "password": b"lab-only-registry-password", "API key": b"lab-only-api-key"}


@pytest.fixture(scope="module")
def made(converged: Lab, run: Run) -> Iterator[Outcome]:
    """The run that made the image."""
    yield run("image", **WANTED)
    converged.ssh(WORKER, "rm -rf /var/lib/llm-stack/golden")


@pytest.fixture(scope="module")
def tree(made: Outcome, converged: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that is in the image's file system, which is checked before."""
    assert made.status == 0
    start = json.loads(converged.ssh(WORKER, f"sfdisk --json {PLACE}"))["partitiontable"]["partitions"][0]["start"]
    image = f"{converged.get(WORKER).home / 'upper' / PLACE.lstrip('/')}?offset={start * 512}"
    subprocess.run(["e2fsck", "-f", "-n", image], check=True)
    place = tmp_path_factory.mktemp("image")
    subprocess.run(["debugfs", "-R", f"rdump / {place}", image], check=True, capture_output=True)
    return place


def test_foresight_makes_nothing(converged: Lab, run: Run) -> None:
    assert run("image", check=True, **WANTED).status == 0
    assert converged.ssh(WORKER, f"test -e {PLACE} || echo none").strip() == "none"


def test_the_worker_serves_on_and_the_run_tells_no_secret(made: Outcome, converged: Lab) -> None:
    assert made.status == 0
    assert converged.ssh(WORKER, "docker info --format '{{.Swarm.LocalNodeState}}'").strip() == "active"
    assert [what for what, value in own(converged).items() if value.decode() in made.text] == []


def test_nothing_of_the_worker_itself_is_in_the_image(tree: Path, converged: Lab) -> None:
    secrets = own(converged)
    files = [path for path in tree.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 1000
    found = [(str(path.relative_to(tree)), what) for path in files for what, value in secrets.items() if value in path.read_bytes()]
    assert found == []
    configuration = [path for path in files if path.relative_to(tree).parts[0] in ("etc", "root", "home", "opt", "srv", "var")]
    assert [str(path) for path in configuration if PRIVATE_KEY.search(path.read_bytes())] == []
    assert (tree / "etc" / "machine-id").read_text() == ""
    assert not list((tree / "etc" / "ssh").glob("ssh_host_*"))
    assert not (tree / "root" / ".ssh").exists()


def test_what_a_replacement_needs_is_in_the_image(tree: Path) -> None:
    for name in ("usr/local/sbin/llm-swarm-rejoin", "usr/local/sbin/llm-model-sync", "usr/sbin/dockerd", "usr/sbin/sshd"):
        path = tree / name
        assert path.exists(), name
    assert (tree / "etc/systemd/system/docker.service.d/llm-swarm-rejoin.conf").exists()
    assert "GPU=" not in (tree / "etc/docker/daemon.json").read_text()
    assert list((tree / "etc/docker/certs.d").glob("*/ca.crt"))


def test_a_worker_with_a_secret_in_an_unknown_place_gives_no_image(converged: Lab, run: Run, made: Outcome) -> None:
    converged.ssh(WORKER, f"mkdir -p /opt/agent && echo token={TOKEN} > /opt/agent/settings")
    try:
        refused = run("image", llm_stack_image_file="/var/lib/llm-stack/golden/second.raw", **WANTED)
    finally:
        converged.ssh(WORKER, "rm -r /opt/agent")
    assert refused.status != 0
    assert "No image was made, for it would give secrets away: /opt/agent/settings holds secret" in refused.words
    assert TOKEN not in refused.text
    assert converged.ssh(WORKER, "ls /var/lib/llm-stack/golden").split() == [f"{WORKER}.raw"]


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({}, "llm_stack_image_of is not given, which is no host of the group gpu_workers"),
        ({"llm_stack_image_of": "gpu4"}, "llm_stack_image_of is gpu4, which is no host of the group gpu_workers"),
        (WANTED, f"{PLACE} is there already. Give the new image another name"),
        ({"llm_stack_image_of": WORKER, "llm_stack_image_file": "/var/lib/x.raw"}, "an image that boots is made of an ext4 root"),
    ],
)
def test_what_cannot_become_an_image_is_refused(run: Run, made: Outcome, variables: dict[str, Any], text: str) -> None:
    refused = run("image", **variables)
    assert refused.status != 0
    assert text in refused.words
    assert not [task for _, task in refused.changed if "image" in task and "Bring" not in task]
