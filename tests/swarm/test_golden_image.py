# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker of a real swarm turned into a raw image: nothing of the worker itself is in it, and a machine booted from it joins by itself.

A container machine boots the file system of the image and not its disk, so what kernel and boot code do is not seen here.
"""

from __future__ import annotations

import json
import re
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from labkit import image
from labkit.config import REPO, machine
from labkit.container import ContainerMachine
from labkit.lab import Lab
from labkit.play import Outcome, play
from places import MANAGER, TOKEN, WORKERS

pytestmark = pytest.mark.long

Docker = Callable[[str], str]
Run = Callable[..., Outcome]
HERE = Path(__file__).resolve().parent
WORKER = WORKERS[-1]
REPLACEMENT = "gpu3"
GPU = "GPU-5d1b7c52-5d4e-4f0f-9a63-0c0ffee00003"
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
def tree(made: Outcome, converged: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The image's file system, checked and mounted for reading."""
    assert made.status == 0
    start = 512 * json.loads(converged.ssh(WORKER, f"sfdisk --json {PLACE}"))["partitiontable"]["partitions"][0]["start"]
    raw = converged.get(WORKER).home / "upper" / PLACE.lstrip("/")
    subprocess.run(["e2fsck", "-f", "-n", f"{raw}?offset={start}"], check=True)
    place = tmp_path_factory.mktemp("image") / "root"
    place.mkdir()
    subprocess.run(["mount", "-o", f"ro,loop,offset={start}", str(raw), str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


def user_data(lab: Lab) -> dict[str, tuple[int, str]]:
    """What the cloud tells a server at its first boot: its keys, its GPU and how to join the swarm; by path, with the mode."""
    base = image.image(lab.paths)
    joining = {
        "manager": f"{lab.get(MANAGER).spec.address}:2377",
        "cluster_id": lab.ssh(MANAGER, "docker info --format '{{.Swarm.Cluster.ID}}'").strip(),
        "token": lab.ssh(MANAGER, "docker swarm join-token -q worker").strip(),
        "expires": (datetime.now(timezone.utc) + timedelta(minutes=10)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "advertise_address": machine(REPLACEMENT).address,
    }
    return {
        "etc/ssh/ssh_host_ed25519_key": (0o600, (base.directory / "host_key").read_text()),
        "root/.ssh/authorized_keys": (0o600, base.key.with_suffix(".pub").read_text()),
        "etc/llm-lab/gpus": (0o644, f"{GPU}, NVIDIA GeForce RTX 4090, 24564\n"),
        "etc/llm-stack/join.json": (0o600, json.dumps(joining)),
    }


@pytest.fixture(scope="module")
def replacement(tree: Path, converged: Lab) -> Iterator[Lab]:
    """The lab with one machine more, which boots what the image holds."""
    converged.forget(REPLACEMENT)
    booted = ContainerMachine(machine(REPLACEMENT), converged.paths, image.Image(tree.parent))
    booted.create()
    for name, (mode, text) in user_data(converged).items():
        path = booted.home / "upper" / name
        path.parent.mkdir(mode=0o700 if name.startswith("root/") else 0o755, parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
    (booted.home / "upper" / "root").chmod(0o700)
    converged._remember_kinds({**{found.spec.name: found.kind for found in converged.machines()}, REPLACEMENT: booted.kind})
    try:
        booted.boot()
        converged.wait([REPLACEMENT])
        yield converged
    finally:
        converged.forget(REPLACEMENT)
        converged.ssh(MANAGER, f"docker node rm --force $(docker node ls --quiet --filter name={REPLACEMENT})", check=False)


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


def test_a_machine_booted_from_the_image_joins_by_a_unit_of_its_own(replacement: Lab, docker: Docker, until: Any) -> None:
    until(lambda: docker(f"node ls --filter name={REPLACEMENT} --format '{{{{.Status}}}}'"), "Ready", seconds=120)
    advertised = "{{range .Description.Resources.GenericResources}}{{.NamedResourceSpec.Kind}}={{.NamedResourceSpec.Value}}{{end}}"
    assert docker(f"node inspect {REPLACEMENT} --format '{advertised}'") == f"GPU={GPU}"
    assert "Joined the swarm" in replacement.ssh(REPLACEMENT, "journalctl -u llm-swarm-rejoin -o cat")
    # The token was used and is kept nowhere.
    until(lambda: replacement.ssh(REPLACEMENT, "test -e /etc/llm-stack/join.json || echo gone").strip(), "gone", seconds=10)
    itself = "cat /etc/machine-id; docker info --format '{{.Swarm.NodeID}}'"
    assert not set(replacement.ssh(REPLACEMENT, itself).split()) & set(replacement.ssh(WORKER, itself).split())


def test_the_playbook_finds_nothing_to_install_on_it(replacement: Lab, docker: Docker, models: str, tmp_path: Path) -> None:
    one_more = tmp_path / "replacement.json"
    options = {"ansible_host": machine(REPLACEMENT).address, "ansible_ssh_common_args": f"-F {replacement.paths.ssh_config()}"}
    one_more.write_text(json.dumps({"all": {"children": {"gpu_workers": {"hosts": {REPLACEMENT: options}}}}}))
    itself = "systemctl show docker --property=InvocationID; docker info --format '{{.Swarm.NodeID}}'"
    before = replacement.ssh(REPLACEMENT, itself)
    inventory = (HERE / "inventory", one_more)
    outcome = play(replacement, REPO / "playbooks" / "workers.yml", inventory=inventory, variables={"gpu_worker_models_ca": models})
    assert outcome.status == 0
    assert [task for host, task in outcome.changed if host == REPLACEMENT and "Install" in task] == []
    assert replacement.ssh(REPLACEMENT, itself) == before
    assert json.loads(docker(f"node inspect {REPLACEMENT} --format '{{{{json .Spec.Labels}}}}'"))["gpu.count"] == "1"


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
