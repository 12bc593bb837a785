# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The storage host on other releases: Debian 12, whose ZFS is 2.1, and Ubuntu 24.04, whose ZFS is 2.2; neither prints JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Iterator

import pytest
import yaml
from labkit import config
from labkit.config import REPO
from labkit.lab import Lab
from labkit.play import INVENTORY, Outcome, play

STORAGE = REPO / "playbooks" / "storage.yml"
# Each machine with the version its ZFS has.
RELEASES = {"storage12": "2.1.", "storage24": "2.2."}


@pytest.fixture(params=list(RELEASES))
def machine(lab: Lab, request: pytest.FixtureRequest) -> Iterator[str]:
    """The machine, new; it is taken down again."""
    name = str(request.param)
    lab.forget(name)
    lab.up([name])
    yield name
    lab.forget(name)


@pytest.fixture
def inventory(lab: Lab, machine: str) -> Path:
    """What storage1 is declared to be, for this machine; its target listens on its own address."""
    address = config.machine(machine).address
    declared = yaml.safe_load((INVENTORY / "group_vars" / "all.yml").read_text())["storage_host_iscsi_targets"]
    targets = [{**target, "wwn": f"iqn.2026-01.lab.llm:{machine}", "portals": [f"{address}:3260"]} for target in declared]
    host = {"ansible_host": address, "storage_host_iscsi_targets": targets}
    # The lab's variables name files from where the host was declared.
    path = lab.paths.state / machine / "hosts.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"storage_hosts": {"hosts": {machine: host}}}))
    return path


def run(lab: Lab, inventory: Path, *options: str) -> Outcome:
    return play(lab, STORAGE, "--limit", f"{inventory.parent.name},localhost", *options, inventory=(INVENTORY, inventory))


@pytest.mark.long
def test_the_role_converges_foresees_nothing_more_and_repeats_without_a_change(lab: Lab, machine: str, inventory: Path) -> None:
    assert lab.ssh(machine, "zfs version").startswith(f"zfs-{RELEASES[machine]}")
    first = run(lab, inventory)
    assert (first.status, first.failed) == (0, ())
    assert lab.ssh(machine, "zpool list -H -o name,health").split() == ["llm", "ONLINE"]
    again = run(lab, inventory)
    assert (again.status, again.changed) == (0, ())
    foreseen = run(lab, inventory, "--check")
    assert (foreseen.status, foreseen.changed) == (0, ())
