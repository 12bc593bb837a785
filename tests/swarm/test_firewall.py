# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules that keep the swarm's ports to its nodes, as the kernel applies them in a namespace of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

import jinja2
import pytest
import yaml
from ansible.plugins.test import core
from labkit.config import REPO

ROLES = REPO / "roles"
NODE, STRANGER, MANAGER = "10.88.0.2", "10.88.0.3", "10.88.0.1"
# Who tries, which port, and whether a connection is answered: refused is an answer too, silence is none.
TRIES = [(NODE, 2377, True), (NODE, 7946, True), (STRANGER, 2377, False), (STRANGER, 7946, False), (STRANGER, 443, True)]


def rules(sources: list[str]) -> str:
    """The rules as the role swarm_manager has them filled in."""
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.tests.update(core.TestModule().tests())
    (service,) = yaml.safe_load((ROLES / "swarm_manager" / "vars" / "main.yml").read_text())["__swarm_manager_firewall_services"]
    filled: dict[str, Any] = {"role": "swarm_manager", "table": "llm_stack_swarm", "revision": "revision_1"}
    filled["services"] = [{**service, "ports": [2377, 7946, 4789], "networks": sources}]
    return environment.from_string((ROLES / "storage_host" / "templates" / "firewall.nft.j2").read_text()).render(firewall=filled)


@pytest.fixture
def namespaces() -> Iterator[list[str]]:
    names = [f"llmfw{os.getpid()}-{end}" for end in ("manager", "others")]
    for name in names:
        subprocess.run(["ip", "netns", "add", name], check=True)
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "-n", names[0], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", names[1]], check=True)
    for name, addresses in ((names[0], [MANAGER]), (names[1], [NODE, STRANGER])):
        for address in addresses:
            subprocess.run(["ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0"], check=True)
        subprocess.run(["ip", "-n", name, "link", "set", "eth0", "up"], check=True)
    yield names
    for name in names:
        subprocess.run(["ip", "netns", "delete", name], check=True)


CONNECT = """
import socket, sys
source, target, port = sys.argv[1:]
try:
    socket.create_connection((target, int(port)), timeout=1.5, source_address=(source, 0))
except ConnectionRefusedError:
    print("answered")
except socket.timeout:
    print("silence")
"""


def test_only_nodes_are_answered_on_the_swarms_ports(namespaces: list[str], tmp_path: Path) -> None:
    manager, others = namespaces
    file = tmp_path / "rules.nft"
    file.write_text(rules([NODE]))
    for _run in (1, 2):
        # The second time it takes the place of the first.
        subprocess.run(["ip", "netns", "exec", manager, "nft", "--file", str(file)], check=True)
    for source, port, answered in TRIES:
        argv = ["ip", "netns", "exec", others, sys.executable, "-c", CONNECT, source, MANAGER, str(port)]
        said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
        assert said == ("answered" if answered else "silence"), f"{source} to port {port}"


@pytest.mark.parametrize(
    "sources",
    [[NODE, "10.88.1.0/24"], ["fd00::1"], [NODE, "fd00::/64"], [NODE, "10.88.0.0/24"], []],
    ids=["four", "six", "both", "one in the other", "none"],
)
def test_the_rules_are_understood(namespaces: list[str], tmp_path: Path, sources: list[str]) -> None:
    file = tmp_path / "rules.nft"
    file.write_text(rules(sources))
    subprocess.run(["ip", "netns", "exec", namespaces[0], "nft", "--file", str(file)], check=True)


def test_this_machine_can_tell_silence_from_an_answer() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = str(unused.getsockname()[1])
    argv = [sys.executable, "-c", CONNECT, "127.0.0.1", "127.0.0.1", port]
    assert subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip() == "answered"
