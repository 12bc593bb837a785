# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machines of the lab and where its files are."""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from .say import LabError

LAB = Path(__file__).resolve().parent.parent
REPO = LAB.parent.parent
RECIPE = LAB / "recipe"
# What a machine with a GPU has of NVIDIA's before any role runs.
NVIDIA = tuple(REPO / "tests" / "standins" / name for name in ("nvidia-smi", "nvidia-container-runtime"))
SUITE = "trixie"
# Name and the archive's components of each release that machines can run.
RELEASES = {
    "trixie": ("Debian 13", "main,contrib"),
    "bookworm": ("Debian 12", "main,contrib"),
    "noble": ("Ubuntu 24.04", "main,universe"),
}
UBUNTU_KEYRING = Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg")
GIB = 1024**3

NETWORK = "10.77.0"
PREFIX = 24
GATEWAY = f"{NETWORK}.1"


@dataclass(frozen=True)
class Disk:
    """A data disk of a virtual machine; its serial gives the name below /dev/disk/by-id.

    :param volatile: it has a write cache that a power cut empties: what was written and not flushed is lost, whatever the host does.
    """

    serial: str
    size: int
    nvme: bool = False
    volatile: bool = False

    @property
    def late(self) -> bool:
        """Whether it is plugged in after a live snapshot was loaded, because QEMU cannot save it with the machine."""
        return self.nvme or self.volatile


@dataclass(frozen=True)
class Machine:
    """One machine of the lab.

    :param kind: ``vm`` has a kernel of its own, ``container`` boots natively in seconds.
    :param memory: MiB a virtual machine gets.
    :param gpus: model and memory in MiB of each GPU its stand-in nvidia-smi shows.
    :param suite: the release of Debian or Ubuntu it runs, one of RELEASES.
    """

    name: str
    address: str
    kind: str
    memory: int = 2048
    disks: tuple[Disk, ...] = ()
    gpus: tuple[str, ...] = ()
    suite: str = SUITE


RTX_4090 = "NVIDIA GeForce RTX 4090, 24564"
STORAGE_DISKS = (
    *(Disk(f"HGST{number}", 4 * GIB) for number in range(4)),
    Disk("P4610", 8 * GIB, nvme=True),
    Disk("P4510", 8 * GIB, nvme=True),
    Disk("SPARE0", 4 * GIB),
    Disk("SPARE1", 4 * GIB),
)
MACHINES = (
    Machine("storage1", f"{NETWORK}.11", "vm", memory=3072, disks=STORAGE_DISKS),
    Machine("manager1", f"{NETWORK}.21", "container"),
    Machine("gpu1", f"{NETWORK}.31", "vm", gpus=(RTX_4090,)),
    Machine("gpu2", f"{NETWORK}.32", "container", gpus=(RTX_4090,)),
)
# On demand, such as `lab up gpu3`: more workers, a storage machine whose disks lose what was not flushed, and those of other releases.
EXTRA = (
    *(Machine(f"gpu{n}", f"{NETWORK}.{30 + n}", "container", gpus=(RTX_4090,)) for n in range(3, 10)),
    Machine("storage2", f"{NETWORK}.12", "vm", disks=tuple(Disk(f"CACHED{n}", 2 * GIB, volatile=True) for n in range(3))),
    Machine("storage12", f"{NETWORK}.13", "vm", memory=3072, disks=STORAGE_DISKS, suite="bookworm"),
    Machine("storage24", f"{NETWORK}.14", "vm", memory=3072, disks=STORAGE_DISKS, suite="noble"),
)


def machine(name: str) -> Machine:
    """Return the machine of that name.

    :raises KeyError: when there is none.
    """
    return {found.name: found for found in (*MACHINES, *EXTRA)}[name]


class Paths:
    """Where one checkout's lab keeps its things.

    Sockets live below /run: a Unix socket's path is limited to 107 bytes and a checkout may be deep.
    """

    def __init__(self, repo: Path = REPO) -> None:
        self.ident = hashlib.sha256(str(repo).encode()).hexdigest()[:8]
        self.state = repo / ".lab"
        self.run = Path("/run") / f"llmlab-{self.ident}"
        self.namespace = f"llmlab-{self.ident}"
        base = os.environ.get("LLM_LAB_CACHE") or str(Path.home() / ".cache" / "llm-stack-lab")
        self.cache = Path(base)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold this lab alone: two commands that start or stop machines must not meet.

        :raises LabError: when another command holds it.
        """
        self.state.mkdir(parents=True, exist_ok=True)
        with (self.state / "lock").open("w") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise LabError("Another command is starting or stopping this lab's machines: wait until it has ended.") from error
            yield

    def of(self, name: str) -> Path:
        """The directory of one machine."""
        return self.state / "machines" / name

    def ssh_config(self) -> Path:
        """The SSH client configuration that reaches every machine."""
        return self.state / "ssh_config"
