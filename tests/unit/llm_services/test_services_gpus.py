# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many engines there are to be: what the workers told where all of them did, or what the swarm has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[3]
VARS = REPO / "roles" / "llm_services" / "vars" / "main.yml"


def node(hostname: str, gpus: int) -> dict[str, Any]:
    found = [{"NamedResourceSpec": {"Kind": "GPU", "Value": f"GPU-{number}"}} for number in range(gpus)]
    return {"Description": {"Hostname": hostname, "Resources": {"GenericResources": found}}}


@pytest.mark.parametrize(
    ("told", "engines"),
    [
        ({"gpu1": 1, "gpu2": 3}, 4),
        # Only one of them was worked on: the others' engines are not to be ended.
        ({"gpu2": 3}, 5),
        ({}, 5),
    ],
)
def test_engines_follow_the_workers_only_where_all_of_them_told(tmp_path: Path, told: dict[str, int], engines: int) -> None:
    hosts = {name: {"gpu_worker_gpu_count": told[name]} if name in told else {} for name in ("gpu1", "gpu2")}
    (tmp_path / "hosts.json").write_text(json.dumps({"gpu_workers": {"hosts": hosts}}))
    found = {"nodes": [node("manager1", 0), node("gpu1", 2), node("gpu2", 3)]}
    copy = {"content": "{{ __llm_services_gpus }}", "dest": str(tmp_path / "engines"), "mode": "0600"}
    play = {"hosts": "localhost", "gather_facts": False, "vars_files": [str(VARS)], "vars": {"__llm_services_found": found}}
    (tmp_path / "play.json").write_text(json.dumps([{**play, "tasks": [{"ansible.builtin.copy": copy}]}]))
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "hosts.json", "play.json"]
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PYTHON_INTERPRETER": sys.executable}
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout
    assert (tmp_path / "engines").read_text() == str(engines)
