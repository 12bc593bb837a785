# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: E402 - Ansible's loader of collections comes before what it loads
"""Reads an inventory file of the plugin as Ansible does, in a process of its own, with a stand-in for the cloud.

It prints groups, variables and calls as JSON. The fleet `llm` has a running, an interrupted and a stopped server.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

from ansible.plugins.loader import init_plugin_loader

init_plugin_loader([str(HERE.parent.parent.parent / "build" / "collections")])

from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel import login
from fleetkit import run_fleet
from standin_cloud import Response, StandinCloud, refusal


def make_cloud() -> StandinCloud:
    """Return the cloud with the fleet."""
    cloud = StandinCloud()
    run_fleet(cloud, servers=[{"name": f"gpu{number}"} for number in (1, 2, 3)], floating_network="ext", deadline=3000)
    names = {one["name"]: one["id"] for one in cloud.servers.values()}
    cloud.interrupt(names["gpu2"])
    cloud.set_status(names["gpu3"], "SHUTOFF")
    cloud.log.clear()
    return cloud


def main(path: str, mode: str) -> None:
    """Read the file and print what it gives."""
    cloud = make_cloud()
    if "fleet: broken" in Path(path).read_text():
        cloud.fault = lambda *_request: refuse()
    login.connect = lambda _options, _desired=None: {cloud.region: cloud.connection()}  # type: ignore[assignment]
    reads = []
    inventory = InventoryManager(loader=DataLoader(), sources=[path])
    reads.append(len(cloud.log))
    if mode == "again":
        inventory = InventoryManager(loader=DataLoader(), sources=[path])
        reads.append(len(cloud.log))
        inventory.refresh_inventory()
        reads.append(len(cloud.log))
    groups = {name: sorted(hosts) for name, hosts in inventory.get_groups_dict().items() if name not in ("all", "ungrouped")}
    found: dict[str, Any] = {"groups": groups, "reads": reads, "writes": len(cloud.writes())}
    found["vars"] = {host.name: host.get_vars() for host in inventory.get_hosts()}
    json.dump(found, sys.stdout, default=str)


def refuse() -> Response:
    return refusal(403, "not for password=hunter2")


main(*sys.argv[1:])
