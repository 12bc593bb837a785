# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cloud rung: one cloud for the session, a project of its own for each test, nothing left in either."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Iterator

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lab"))

from cloudkit.cloud import Cloud
from cloudkit.config import REPO
from cloudkit.control import Control, Project
from cloudkit.fleet import Fleet, clouds_yaml
from cloudkit.proxy import Proxy
from cloudkit.runner import Runner

MODULE = "ansible_collections.selfhosted.llm_stack.plugins.modules.selectel_preemptible"
COLLECTIONS = REPO / "build" / "collections"


@pytest.fixture(scope="session")
def cloud() -> Iterator[Cloud]:
    """The cloud, empty; one that was up before stays up."""
    found = Cloud()
    was_up = found.running
    found.up()
    if was_up:
        found.reset()
    yield found
    if not was_up:
        found.down()


@pytest.fixture(scope="session")
def control(cloud: Cloud) -> Control:
    """The provider's side."""
    return Control(cloud.paths)


@pytest.fixture(scope="session")
def all_calls(control: Control) -> Iterator[Proxy]:
    """The proxy between the module and the cloud."""
    made = Proxy(control.ports)
    yield made
    made.close()


@pytest.fixture
def proxy(all_calls: Proxy) -> Iterator[Proxy]:
    """The proxy, without any fault in it."""
    all_calls.clear()
    yield all_calls
    all_calls.clear()


@pytest.fixture(scope="session")
def runner() -> Iterator[Runner]:
    """Runs our module."""
    made = Runner(Path(sys.executable), MODULE, collections=(COLLECTIONS,))
    yield made
    made.close()


@pytest.fixture
def project(control: Control) -> Iterator[Project]:
    """A project with nothing in it; what a test leaves is removed."""
    made = control.project()
    yield made
    control.empty(made)


@pytest.fixture
def fleet(runner: Runner, proxy: Proxy, control: Control, project: Project, tmp_path: Path) -> Fleet:
    """A fleet of that project."""
    return Fleet(runner, clouds=clouds_yaml(tmp_path / "clouds.yaml", project.name, proxy), control=control, project=project)
