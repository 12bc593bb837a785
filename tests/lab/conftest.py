# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab rung: one lab for the session, put back to its clean state, left down."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Callable, Iterator

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import package
from labkit.artifacts import prepare
from labkit.lab import Lab


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The four machines, clean, with what the inventory refers to; a lab that was up before stays up.

    LLM_LAB_KEEP=1, set by a person at work on the tests, leaves the machines as they are.
    """
    found = Lab()
    was_up = any(machine.running for machine in found.machines())
    found.up()
    prepare(found.paths)
    if was_up and os.environ.get("LLM_LAB_KEEP") != "1":
        found.load("clean")
    yield found
    if not was_up:
        found.down()


@pytest.fixture(scope="module", params=["storage1", "storage12"])
def zfs_host(lab: Lab, request: pytest.FixtureRequest) -> Iterator[str]:
    """A machine to try the modules on: Debian 13 with ZFS 2.3, then Debian 12 with 2.1, made new and taken down again."""
    name = str(request.param)
    if name == "storage1":
        yield name
        return
    lab.forget(name)
    lab.up([name])
    yield name
    lab.forget(name)


@pytest.fixture
def on(lab: Lab) -> Callable[..., str]:
    """Run a command line on a machine: ``on("storage1", "zpool list")``."""
    return lab.ssh


@pytest.fixture(scope="session")
def installed_collection() -> Path:
    """The collection as others get it, installed alone; what ANSIBLE_COLLECTIONS_PATH must be."""
    return package.install(package.BUILD / "installed-lab")
