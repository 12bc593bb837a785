# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The scenario llm_services of extensions/molecule, on the machines of this rung."""

from __future__ import annotations

import json
import subprocess

import pytest
from labkit import network
from labkit.artifacts import python
from labkit.config import REPO
from labkit.lab import Lab


@pytest.mark.long
def test_the_scenario_llm_services_passes_on_new_machines(lab: Lab, models: str) -> None:
    (lab.paths.state / "molecule-llm_services.json").write_text(json.dumps({"gpu_worker_models_ca": models}))
    environment = {**lab.environment(), "PATH": f"{python().parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    argv = [*network.inside(lab.paths), str(python().with_name("molecule")), "test", "-s", "llm_services"]
    assert subprocess.run(argv, cwd=REPO, env=environment, check=False).returncode == 0
