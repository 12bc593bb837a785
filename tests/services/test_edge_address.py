# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The address that edges share: a real keepalived with the role's configuration in each of two network namespaces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator

import jinja2
import pytest
from authority import make_pair, program

TEMPLATE = Path(__file__).resolve().parents[2] / "roles" / "edge_address" / "templates" / "keepalived.conf.j2"
ADDRESS, OWN = "10.88.0.50", {"one": "10.88.0.11", "two": "10.88.0.12"}
# An edge as keepalived and clients see it: TLS, and 200 at /health.
EDGE = """
import http.server, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
        self.wfile.write(sys.argv[1].encode())
server = http.server.ThreadingHTTPServer(("", 443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[3])
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
"""


def ip(*argv: str) -> str:
    """Run ip.

    :raises AssertionError: it failed, as without root.
    """
    ended = subprocess.run(["ip", *argv], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"ip {' '.join(argv)}: {ended.stderr}"
    return ended.stdout


class Edges:
    """Two machines and the network between them; clients are in it too."""

    def __init__(self, place: Path) -> None:
        self.place, self.hub = place, f"llmvip{os.getpid()}"
        self.names = {name: f"{self.hub}-{name}" for name in OWN}
        self.made: list[str] = []
        self.started: list[subprocess.Popen[bytes]] = []
        self.edges: dict[str, subprocess.Popen[bytes]] = {}
        make_pair(place / "tls.crt", place / "tls.key", f"IP:{ADDRESS}")

    def up(self) -> None:
        """Make the network, and start edges and keepalived."""
        for name in (self.hub, *self.names.values()):
            ip("netns", "add", name)
            self.made.append(name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", self.hub, "link", "add", "br0", "type", "bridge", "forward_delay", "0")
        ip("-n", self.hub, "address", "add", "10.88.0.1/24", "dev", "br0")
        ip("-n", self.hub, "link", "set", "br0", "up")
        for name, space in self.names.items():
            ip("-n", self.hub, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("-n", self.hub, "link", "set", name, "master", "br0", "up")
            ip("-n", space, "address", "add", f"{OWN[name]}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "up")
            self.edge(name)
            self.keepalived(name)

    def start(self, name: str, argv: list[str], log: str) -> subprocess.Popen[bytes]:
        """Start a program on one of the machines."""
        with (self.place / log).open("ab") as sink:
            process = subprocess.Popen(["ip", "netns", "exec", self.names[name], *argv], stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
        self.started.append(process)
        return process

    def edge(self, name: str) -> None:
        """Start an edge."""
        argv = [sys.executable, "-c", EDGE, name, str(self.place / "tls.crt"), str(self.place / "tls.key")]
        self.edges[name] = self.start(name, argv, f"edge-{name}.log")

    def keepalived(self, name: str) -> None:
        """Start keepalived as the role configures it."""
        variables = {
            "inventory_hostname": name,
            "edge_address_port": 443,
            "edge_address_router_id": 51,
            "edge_address_cidr": f"{ADDRESS}/24",
            "__edge_address_device": "eth0",
            "__edge_address_members": OWN,
            "__edge_address_peers": [address for other, address in OWN.items() if other != name],
        }
        environment = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
        path = self.place / f"keepalived-{name}.conf"
        path.write_text(environment.from_string(TEMPLATE.read_text()).render(variables))
        pids = [f"--pid={self.place}/{name}.pid", f"--vrrp_pid={self.place}/{name}-vrrp.pid"]
        argv = [program("keepalived"), "--vrrp", "--dont-fork", "--log-console", "--no-syslog", f"--use-file={path}", *pids]
        self.start(name, argv, f"keepalived-{name}.log")

    def holders(self) -> list[str]:
        """Who has the address."""
        found = []
        for name, space in self.names.items():
            addresses = json.loads(ip("-n", space, "-json", "address", "show", "dev", "eth0"))[0]["addr_info"]
            found += [name for address in addresses if address["local"] == ADDRESS]
        return found

    def answering(self) -> str:
        """Which edge a client of the address reaches; empty when none."""
        argv = ["ip", "netns", "exec", self.hub, "curl", "--silent", "--max-time", "1", "--cacert", str(self.place / "tls.crt")]
        return subprocess.run([*argv, f"https://{ADDRESS}/health"], capture_output=True, text=True, check=False).stdout

    def until(self, wanted: str, seconds: float) -> float:
        """Wait until that edge answers at the address; the seconds it took."""
        begin = time.monotonic()
        while self.answering() != wanted:
            if time.monotonic() - begin > seconds:
                logs = "\n".join(path.read_text()[-1500:] for path in sorted(self.place.glob("keepalived-*.log")))
                raise AssertionError(f"after {seconds:.0f} s {self.holders()} have the address, and {wanted} does not answer there: {logs}")
            time.sleep(0.1)
        return time.monotonic() - begin

    def down(self) -> None:
        """End what was started."""
        for process in reversed(self.started):
            if process.poll() is None:
                process.terminate()
        for process in self.started:
            process.wait(timeout=20)
        for name in reversed(self.made):
            ip("netns", "delete", name)


@pytest.fixture
def edges(tmp_path: Path) -> Iterator[Edges]:
    """Two edges, of which one has the address."""
    made = Edges(tmp_path)
    try:
        made.up()
        yield made
    finally:
        made.down()


def test_the_address_leaves_an_edge_that_is_ill_and_a_machine_that_is_lost(edges: Edges) -> None:
    begin = time.monotonic()
    while not edges.answering():
        assert time.monotonic() - begin < 30, [path.read_text() for path in edges.place.glob("keepalived-*.log")]
        time.sleep(0.2)
    (first,) = edges.holders()
    (second,) = set(OWN) - {first}
    # Its edge ends: the machine is there and says so.
    edges.edges[first].terminate()
    edges.edges[first].wait(timeout=10)
    took = {"edge ended": edges.until(second, 15)}
    # It is back, and has nothing to take: answers under way at the other one go on.
    edges.edge(first)
    time.sleep(6)
    assert edges.holders() == [second]
    # The machine vanishes without a word.
    ip("-n", edges.hub, "link", "set", second, "down")
    took["machine lost"] = edges.until(first, 15)
    # While it was alone it kept the address; in the network again, one of the two gives way.
    ip("-n", edges.hub, "link", "set", second, "up")
    time.sleep(4)
    begin = time.monotonic()
    while len(edges.holders()) != 1:
        assert time.monotonic() - begin < 15, edges.holders()
        time.sleep(0.2)
    assert edges.answering()
    print({name: round(seconds, 1) for name, seconds in took.items()})


def test_where_no_edge_is_well_one_keeps_the_address(edges: Edges) -> None:
    begin = time.monotonic()
    while not edges.answering():
        assert time.monotonic() - begin < 30
        time.sleep(0.2)
    for edge in edges.edges.values():
        edge.terminate()
        edge.wait(timeout=10)
    time.sleep(6)
    assert len(edges.holders()) == 1
