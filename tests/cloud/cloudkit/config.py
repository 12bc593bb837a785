# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The services of the cloud, their ports, and where its files are."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from labkit.say import LabError

HERE = Path(__file__).resolve().parent.parent
REPO = HERE.parent.parent
SERVICES_DIR = HERE / "services"

REGION = "RegionOne"
# It guards nothing: every service listens on 127.0.0.1, and the cloud lives as long as a test run.
PASSWORD = "not-a-secret"
# Two hosts, each a zone of its own, so that one zone can lose its capacity.
HOSTS = {"host-a": "zone-a", "host-b": "zone-b"}


@dataclass(frozen=True)
class Service:
    """One API.

    :param kind: its type in the catalogue.
    :param program: what serves it, a file below services/ with its arguments.
    :param path: what follows the port in the catalogue.
    :param threads: requests it works on at once.
    """

    name: str
    kind: str
    program: tuple[str, ...]
    path: str = ""
    threads: int = 4


SERVICES = (
    Service("keystone", "identity", ("serve.py", "keystone.wsgi.api"), "/v3", threads=8),
    Service("placement", "placement", ("serve.py", "placement.wsgi.api")),
    Service("nova", "compute", ("compute.py",), "/v2.1", threads=10),
    Service("neutron", "network", ("serve.py", "neutron.wsgi.api"), threads=8),
    Service("glance", "image", ("serve.py", "glance.wsgi.api")),
    Service("cinder", "block-storage", ("volumes.py",), "/v3"),
)
# Below the range Linux takes outgoing ports from (net.ipv4.ip_local_port_range, 32768 on).
FIRST_PORT, BLOCKS, BLOCK = 20000, 1200, 10


class Paths:
    """Where one checkout's cloud keeps its things.

    Sockets live below the temporary directory: a Unix socket's path is limited to 107 bytes and a checkout may be deep.
    """

    def __init__(self, repo: Path = REPO) -> None:
        self.ident = hashlib.sha256(str(repo).encode()).hexdigest()[:8]
        self.state = repo / ".lab" / "cloud"
        self.live = self.state / "live"
        self.run = Path(tempfile.gettempdir()) / f"llmcloud-{os.getuid()}-{self.ident}"
        self.cache = Path(os.environ.get("LLM_CLOUD_CACHE") or Path.home() / ".cache" / "llm-stack-cloud")

    @property
    def socket(self) -> Path:
        """The database's socket."""
        return self.run / "db"

    @property
    def logs(self) -> Path:
        return self.state / "log"

    @property
    def controls(self) -> Path:
        """Where tests put the files that the stand-ins obey."""
        return self.live / "controls"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold this cloud alone.

        :raises LabError: when another command holds it.
        """
        self.state.mkdir(parents=True, exist_ok=True)
        with (self.state / "lock").open("w") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise LabError("Another command is starting or stopping this checkout's cloud: wait until it has ended.") from error
            yield


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def choose_ports(paths: Paths) -> dict[str, int]:
    """Choose a free block of ports, the same for a checkout whenever it can be, and remember it.

    :raises LabError: when every block is in use.
    """
    first = int(paths.ident, 16) % BLOCKS
    for block in range(first, first + BLOCKS):
        base = FIRST_PORT + block % BLOCKS * BLOCK
        ports = {service.name: base + number for number, service in enumerate(SERVICES)}
        if all(map(_free, ports.values())):
            (paths.state / "ports.json").write_text(json.dumps(ports))
            return ports
    raise LabError(f"No block of {len(SERVICES)} free ports was found from {FIRST_PORT} on: end what listens there.")


def known_ports(paths: Paths) -> dict[str, int]:
    """Return the ports that were chosen last.

    :raises LabError: when this cloud never came up.
    """
    try:
        return dict(json.loads((paths.state / "ports.json").read_text()))
    except OSError as error:
        raise LabError("The cloud was never up: run tests/cloud/cloud up.") from error


def urls(ports: dict[str, int]) -> dict[str, str]:
    """Return the catalogue: each service's type and address."""
    return {service.kind: f"http://127.0.0.1:{ports[service.name]}{service.path}" for service in SERVICES}
