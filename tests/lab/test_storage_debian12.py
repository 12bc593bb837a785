# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The storage host on Debian 12, whose ZFS is 2.1 and prints no JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Iterator

import pytest
import yaml
from labkit.config import REPO
from labkit.lab import Lab
from labkit.play import INVENTORY, Outcome, play

STORAGE = REPO / "playbooks" / "storage.yml"
ADDRESS = "10.77.0.13"


@pytest.fixture(scope="module")
def storage12(lab: Lab) -> Iterator[Lab]:
    """The machine, new; it is taken down again."""
    lab.forget("storage12")
    lab.up(["storage12"])
    yield lab
    lab.forget("storage12")


@pytest.fixture(scope="module")
def inventory(lab: Lab) -> Path:
    """What storage1 is declared to be, for storage12; its target listens on its own address."""
    declared = yaml.safe_load((INVENTORY / "group_vars" / "all.yml").read_text())["storage_host_iscsi_targets"]
    targets = [{**target, "wwn": "iqn.2026-01.lab.llm:storage12", "portals": [f"{ADDRESS}:3260"]} for target in declared]
    host = {"ansible_host": ADDRESS, "storage_host_iscsi_targets": targets}
    # The lab's variables name files from where the host was declared.
    path = lab.paths.state / "storage12" / "storage12.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"storage_hosts": {"hosts": {"storage12": host}}}))
    return path


def run(lab: Lab, inventory: Path, *options: str) -> Outcome:
    return play(lab, STORAGE, "--limit", "storage12,localhost", *options, inventory=(INVENTORY, inventory))


@pytest.mark.long
def test_the_role_converges_foresees_nothing_more_and_repeats_without_a_change(storage12: Lab, inventory: Path) -> None:
    assert storage12.ssh("storage12", "zfs version").startswith("zfs-2.1.")
    first = run(storage12, inventory)
    assert (first.status, first.failed) == (0, ())
    assert storage12.ssh("storage12", "zpool list -H -o name,health").split() == ["llm", "ONLINE"]
    again = run(storage12, inventory)
    assert (again.status, again.changed) == (0, ())
    foreseen = run(storage12, inventory, "--check")
    assert (foreseen.status, foreseen.changed) == (0, ())
