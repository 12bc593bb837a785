# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the image of the chat service is named by, and where services that keep data are placed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from services import ROLE

VERSION = "__llm_services_chat_version"
HERE = "__llm_services_here"


def filled(place: Path, name: str, **variables: Any) -> str:
    """A variable of the role, as Ansible fills it in with files of its own below ``place``."""
    if not (place / "files").exists():
        shutil.copytree(ROLE / "files", place / "files", ignore=shutil.ignore_patterns("__pycache__", ".mypy_cache"))
    copy = {"content": "{{ " + name + " }}", "dest": str(place / "said"), "mode": "0600"}
    files = [str(ROLE / "defaults" / "main.yml"), str(ROLE / "vars" / "main.yml")]
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars_files": files}
    (place / "play.json").write_text(json.dumps([{**play, "tasks": [{"ansible.builtin.copy": copy, "vars": variables}]}]))
    program = Path(sys.executable).with_name("ansible-playbook")
    argv = [str(program if program.exists() else shutil.which("ansible-playbook")), "-i", "localhost,", "play.json"]
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PYTHON_INTERPRETER": sys.executable}
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, cwd=place)
    assert ended.returncode == 0, ended.stdout
    return (place / "said").read_text()


def test_another_base_or_another_source_is_another_image(tmp_path: Path) -> None:
    before = filled(tmp_path, VERSION)
    assert len(before) == 12
    based = filled(tmp_path, VERSION, llm_services_chat={"base_image": "registry.test/python:3.13.9"})
    with (tmp_path / "files" / "chat" / "rag_chat_api" / "static" / "page.css").open("a") as source:
        source.write("/* changed */")
    assert len({before, based, filled(tmp_path, VERSION)}) == 3


def test_services_that_keep_data_are_placed_on_the_node_the_role_runs_on(tmp_path: Path) -> None:
    assert json.loads(filled(tmp_path, f"{HERE} | to_json", __llm_services_node={"stdout": "abc123\n"})) == ["node.id == abc123"]
    # In a check run on a machine that has no engine yet.
    assert json.loads(filled(tmp_path, f"{HERE} | to_json")) == ["node.id == pending"]
