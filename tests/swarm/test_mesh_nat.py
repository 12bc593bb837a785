# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A mesh through NAT: WireGuard as it is, in network namespaces of its own; machines that come back from elsewhere are found again."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Callable, Iterator, Sequence

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._mesh import apply
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._mesh.model import Host, Mesh
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._mesh.plan import plan_mesh
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._plan import Plan
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._run import Completed, Runner

NETWORK = "10.99.0.0/24"
# The sockets of wireguard-go are named after the interface and shared by all namespaces: each machine has its own name.
HUB, HOME, GPU = "manager1", "gpu1", "gpu2"
INTERFACES = {HUB: "llmtest0", HOME: "llmtest1", GPU: "llmtest2"}
MESH = {HUB: "10.99.0.21", HOME: "10.99.0.31", GPU: "10.99.0.32"}
ENDPOINT = "203.0.113.1:51820"


def sh(*argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command."""
    ended = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert not check or ended.returncode == 0, f"{' '.join(argv)}: {ended.stderr or ended.stdout}"
    return ended


class Namespaces:
    """An internet, one machine on it, and two behind a router that translates addresses."""

    def __init__(self) -> None:
        self.prefix = f"llmmesh{os.getpid()}-"

    def make(self) -> None:
        """Make the namespaces and their links."""
        for name in ("internet", "router", *INTERFACES):
            sh("ip", "netns", "add", self.prefix + name)
            self.ip(name, "link", "set", "lo", "up")
        self.bridge("internet", "br0")
        self.plug(HUB, "internet", "br0", "203.0.113.1/24")
        self.plug("router", "internet", "br0", "203.0.113.9/24", end="wan")
        self.bridge("router", "lan", "192.168.7.1/24")
        self.plug(HOME, "router", "lan", "192.168.7.2/24", gateway="192.168.7.1")
        self.plug(GPU, "router", "lan", "192.168.7.3/24", gateway="192.168.7.1")
        sh(*self.inside("router"), "sysctl", "-q", "net.ipv4.ip_forward=1")
        sh(
            *self.inside("router"),
            "nft",
            "table ip nat { chain out { type nat hook postrouting priority srcnat; oifname wan masquerade; }; }",
        )
        # Nobody comes in unasked.
        unasked = "chain f { type filter hook forward priority 0; iifname wan ct state new drop; };"
        sh(*self.inside("router"), "nft", f"table ip filter {{ {unasked} }}")

    def inside(self, name: str) -> list[str]:
        """The prefix of a command that runs there."""
        return ["ip", "netns", "exec", self.prefix + name]

    def ip(self, name: str, *argv: str) -> None:
        sh("ip", "-n", self.prefix + name, *argv)

    def bridge(self, name: str, bridge: str, address: str = "") -> None:
        self.ip(name, "link", "add", bridge, "type", "bridge", "forward_delay", "0")
        if address:
            self.ip(name, "address", "add", address, "dev", bridge)
        self.ip(name, "link", "set", bridge, "up")

    def plug(self, name: str, other: str, bridge: str, address: str, *, end: str = "eth0", gateway: str = "") -> None:
        self.ip(other, "link", "add", f"to-{name}", "type", "veth", "peer", "name", end, "netns", self.prefix + name)
        self.ip(other, "link", "set", f"to-{name}", "master", bridge, "up")
        self.move(name, address, end=end, gateway=gateway)

    def move(self, name: str, address: str, *, end: str = "eth0", gateway: str = "") -> None:
        """Give a machine this address and no other."""
        self.ip(name, "address", "flush", "dev", end)
        self.ip(name, "address", "add", address, "dev", end)
        self.ip(name, "link", "set", end, "up")
        if gateway:
            self.ip(name, "route", "add", "default", "via", gateway)

    def remove(self) -> None:
        """Take everything down; a tunnel whose interface is gone ends its program."""
        for name, interface in INTERFACES.items():
            sh("ip", "-n", self.prefix + name, "link", "delete", interface, check=False)
        for name in ("internet", "router", *INTERFACES):
            sh("ip", "netns", "delete", self.prefix + name, check=False)


class Inside(Runner):
    """Runs commands in a machine's namespace; there is no systemd, so wg-quick is started as its service would."""

    def __init__(self, namespaces: Namespaces, name: str, config: Path) -> None:
        super().__init__()
        self.prefix = namespaces.inside(name)
        self.config = config
        self.enabled = False

    def run(self, argv: Sequence[str], *, stdin: str | None = None, ok: Sequence[int] = (0,)) -> Completed:
        if argv[0] != "systemctl":
            return super().run([*self.prefix, *argv], stdin=stdin, ok=ok)
        if argv[1] == "show":
            up = sh(*self.prefix, "ip", "link", "show", self.config.stem, check=False).returncode == 0
            return Completed(0, f"ActiveState={'active' if up else 'inactive'}\nUnitFileState={'enabled' if self.enabled else ''}\n", "")
        if argv[1] == "enable":
            self.enabled = True
        for verb in {"start": ["up"], "restart": ["down", "up"]}.get(argv[1], []):
            super().run([*self.prefix, "wg-quick", verb, str(self.config)])
        return Completed(0, "", "")


class Machines:
    """The mesh's hosts, each with its folder in place of /etc/wireguard."""

    def __init__(self, namespaces: Namespaces, folder: Path) -> None:
        self.namespaces = namespaces
        self.hosts: dict[str, apply.Host] = {}
        for name, interface in INTERFACES.items():
            own = folder / name
            runner = Inside(namespaces, name, own / f"{interface}.conf")
            self.hosts[name] = apply.Host(interface, runner=runner, folder=own)

    def carry_out(self, name: str, wanted: Mesh) -> Plan:
        here = self.hosts[name]
        planned = plan_mesh(current=here.read(), desired=wanted, key_file=str(here.key))
        planned.carry_out(here.do)
        return planned

    def join(self, *names: str) -> list[Plan]:
        """What the role does: keys first, then the mesh, on each host."""
        for name in names:
            self.carry_out(name, Mesh(INTERFACES[name]))
        members = tuple(Host(name, MESH[name], ENDPOINT if name == HUB else "", self.hosts[name].public_key()) for name in names)
        # Signs of life each second, so that the test need not wait for 25.
        return [self.carry_out(name, Mesh(INTERFACES[name], name, NETWORK, members, keepalive=1)) for name in names]

    def reaches(self, name: str, other: str) -> Callable[[], bool]:
        argv = [*self.namespaces.inside(name), "ping", "-c", "1", "-W", "1", MESH[other]]
        return lambda: sh(*argv, check=False).returncode == 0

    def reboot(self, name: str) -> None:
        """Bring the tunnel up anew from what is on the disk, as at boot."""
        here = self.hosts[name]
        for verb in ("down", "up"):
            sh(*self.namespaces.inside(name), "wg-quick", verb, str(here.config))

    def shown(self, name: str, what: str) -> str:
        return sh(*self.namespaces.inside(name), "wg", "show", INTERFACES[name], what).stdout


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    missing = [program for program in ("wg-quick", "wireguard-go", "nft", "iptables", "ping") if not Runner().has(program)]
    assert missing == [], f"{', '.join(missing)} must be installed (.ci/packages does)"
    namespaces = Namespaces()
    try:
        namespaces.make()
        yield Machines(namespaces, tmp_path)
    finally:
        namespaces.remove()


def eventually(look: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 60
    while not look():
        assert time.monotonic() < end, what
        time.sleep(0.2)


def test_through_nat_from_a_new_address_and_through_the_hub(machines: Machines) -> None:
    machines.join(HUB, HOME)
    eventually(machines.reaches(HOME, HUB), "a machine behind NAT does not reach the hub")
    eventually(machines.reaches(HUB, HOME), "the hub does not reach a machine behind NAT")
    assert "1420" in sh(*machines.namespaces.inside(HOME), "ip", "link", "show", INTERFACES[HOME]).stdout

    # A second machine behind the same router: the first keeps its interface, and both reach each other through the hub.
    before = sh(*machines.namespaces.inside(HOME), "ip", "-o", "link", "show", INTERFACES[HOME]).stdout.split(":")[0]
    plans = machines.join(HUB, HOME, GPU)
    assert [step.action for step in plans[0].steps] == ["sync", "configure"]
    assert [step.action for step in plans[1].steps] == ["sync", "configure"]
    eventually(machines.reaches(HOME, GPU), "two machines behind NAT do not reach each other through the hub")
    assert sh(*machines.namespaces.inside(HOME), "ip", "-o", "link", "show", INTERFACES[HOME]).stdout.split(":")[0] == before
    assert [plan.steps for plan in machines.join(HUB, HOME, GPU)] == [(), (), ()]

    # A machine that was away comes back with another address; nobody tells the hub.
    machines.namespaces.move(GPU, "192.168.7.77/24", gateway="192.168.7.1")
    machines.reboot(GPU)
    eventually(machines.reaches(HUB, GPU), "the hub does not find a machine that came back from another address")

    # The router gets another address from its provider, while the tunnels run.
    machines.namespaces.move("router", "203.0.113.200/24", end="wan")
    eventually(machines.reaches(HUB, HOME), "the hub does not find a machine whose router has moved")
    assert "203.0.113.200:" in machines.shown(HUB, "endpoints")

    keys = {name: host.key.read_text().strip() for name, host in machines.hosts.items()}
    assert len(set(keys.values())) == 3
    assert all(key not in host.config.read_text() for key in keys.values() for host in machines.hosts.values())


def test_a_machine_made_anew_takes_the_place_of_its_former_self(machines: Machines) -> None:
    machines.join(HUB, HOME)
    eventually(machines.reaches(HUB, HOME), "the hub does not reach the machine")
    former = machines.hosts[HOME].public_key()
    machines.hosts[HOME].key.unlink()
    sh(*machines.namespaces.inside(HOME), "wg-quick", "down", str(machines.hosts[HOME].config))
    machines.hosts[HOME].config.unlink()
    machines.join(HUB, HOME)
    eventually(machines.reaches(HUB, HOME), "the hub does not reach the machine that was made anew")
    assert former not in machines.shown(HUB, "peers")
