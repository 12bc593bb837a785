# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The scenarios of extensions/molecule, on machines of this lab."""

from __future__ import annotations

import subprocess

import pytest
from labkit import network
from labkit.artifacts import python
from labkit.config import REPO
from labkit.lab import Lab


@pytest.mark.long
def test_the_scenario_storage_host_passes_on_a_new_machine(lab: Lab) -> None:
    lab.forget("storage1")
    lab.up(["storage1"])
    environment = {**lab.environment(), "PATH": f"{python().parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    argv = [*network.inside(lab.paths), str(python().with_name("molecule")), "test", "-s", "storage_host"]
    assert subprocess.run(argv, cwd=REPO, env=environment, check=False).returncode == 0
