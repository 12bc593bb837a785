# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A certificate authority that speaks ACME: Pebble, which Let's Encrypt wrote to try clients on, with a name server of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def make_pair(certificate: Path, key: Path, *names: str) -> None:
    """Write a self-signed certificate for such names as ``IP:10.0.0.1``, which clients can also take for an authority's."""
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=acme"]
    argv += ["-addext", f"subjectAltName={','.join(names)}", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(argv, check=True, capture_output=True)


class Authority:
    """Pebble at an address. It asks port ``http`` of ``edge`` for every name.

    :param prefix: what a command begins with to run where the authority is, such as a network namespace.
    """

    def __init__(self, place: Path, address: str, port: int, names: int, *, edge: str, http: int, prefix: Sequence[str] = ()) -> None:
        self.directory = f"https://{address}:{port}/dir"
        self.certificate = place / "authority.crt"
        self.log = place / "authority.log"
        self._started: list[subprocess.Popen[bytes]] = []
        key = place / "authority.key"
        make_pair(self.certificate, key, f"IP:{address}")
        listening = {"listenAddress": f"{address}:{port}", "managementListenAddress": ""}
        config = {**listening, "certificate": str(self.certificate), "privateKey": str(key), "httpPort": http, "tlsPort": 5001}
        (place / "authority.json").write_text(json.dumps({"pebble": config}))
        quiet = ["-http01", "", "-https01", "", "-tlsalpn01", "", "-management", f"{address}:{names + 1}"]
        server = [program("pebble-challtestsrv"), *quiet, "-dns01", f"{address}:{names}", "-defaultIPv4", edge, "-defaultIPv6", ""]
        self._start([*prefix, *server])
        self._start([*prefix, program("pebble"), "-config", str(place / "authority.json"), "-dnsserver", f"{address}:{names}"])
        self._prefix = list(prefix)
        self._until_open(address, port)

    def _start(self, argv: list[str]) -> None:
        # Every order is validated anew and at once.
        # It refuses a good nonce now and then to try its clients; certbot gives up when that happens twice in a row.
        environment = {**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_AUTHZREUSE": "0", "PEBBLE_WFE_NONCEREJECT": "0"}
        with self.log.open("ab") as sink:
            self._started.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=environment))

    def _until_open(self, address: str, port: int) -> None:
        probe = [*self._prefix, "bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}"]
        for _attempt in range(200):
            if subprocess.run(probe, check=False, capture_output=True).returncode == 0:
                return
            time.sleep(0.05)
        self.end()
        raise RuntimeError(f"the authority does not listen on {address}:{port}: {self.log.read_text()}")

    def end(self) -> None:
        """End what was started."""
        for process in self._started:
            if process.poll() is None:
                process.terminate()
            process.wait(timeout=10)


def program(name: str) -> str:
    """Path of a program.

    :raises RuntimeError: it is not installed: a rung that cannot run has not passed.
    """
    found = shutil.which(name, path=PATH)
    if found is None:
        raise RuntimeError(f"{name} is not installed: apt-get install pebble certbot (.ci/packages does)")
    return found


def two_free_ports() -> int:
    """The first of two ports beside each other that nobody listens on."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            try:
                two.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
