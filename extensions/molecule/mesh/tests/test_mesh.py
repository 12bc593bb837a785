# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The mesh as it is after the role ran."""

from __future__ import annotations

import json
from typing import Any


def test_the_interface_is_up_and_comes_back_at_boot(host: Any) -> None:
    service = host.service("wg-quick@llm0")
    assert service.is_running, host.run("journalctl --no-pager -n 30 -u wg-quick@llm0").stdout
    assert service.is_enabled
    assert host.interface("llm0").exists


def test_the_key_is_for_root_alone(host: Any) -> None:
    for path in ("/etc/wireguard/llm0.key", "/etc/wireguard/llm0.conf"):
        found = host.file(path)
        assert (found.user, found.mode) == ("root", 0o600)
    assert "PrivateKey" not in host.file("/etc/wireguard/llm0.conf").content_string


def test_every_peer_answers(host: Any) -> None:
    peers = [line.split()[1].partition("/")[0] for line in host.check_output("wg show llm0 allowed-ips").splitlines()]
    assert peers
    for address in peers:
        host.check_output("ping -c 1 -w 30 %s", address)


def test_the_swarm_runs_in_the_mesh(host: Any) -> None:
    addresses = [line.split()[3].partition("/")[0] for line in host.check_output("ip -o -4 address show dev llm0").splitlines()]
    swarm = json.loads(host.check_output("docker info --format '{{json .Swarm}}'"))
    assert [swarm["NodeAddr"]] == addresses
    assert swarm["LocalNodeState"] == "active"
    assert all(manager["Addr"] == "10.99.0.37:2377" for manager in swarm["RemoteManagers"])
