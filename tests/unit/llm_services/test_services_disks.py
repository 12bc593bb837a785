# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which directories the role keeps no data in: those on a network file system, whichever of them it is and before it is made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from services import ROLE

# A stand-in for coreutils' stat: what is below the directory "share" is on NFS. As the real one it follows links, and fails for what is
# missing.
STAT = """#!/bin/sh
shift 3
status=0
for path; do
  if [ ! -e "$path" ]; then status=1; continue; fi
  case "$(readlink -f "$path")/" in */share/*) echo nfs;; *) echo ext2/ext3;; esac
done
exit $status
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "share" / "a").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "stat").write_text(STAT)
    (tmp_path / "bin" / "stat").chmod(0o755)
    return tmp_path


def refused(place: Path, **variables: Any) -> str:
    """What is said against the directories; empty when nothing is."""
    files = [str(ROLE / "defaults" / "main.yml"), str(ROLE / "vars" / "main.yml")]
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars_files": files}
    tried = [{"ansible.builtin.import_tasks": str(ROLE / "tasks" / "disks.yml"), "vars": variables}]
    (place / "play.json").write_text(json.dumps([{**play, "tasks": tried}]))
    program = Path(sys.executable).with_name("ansible-playbook")
    argv = [str(program if program.exists() else shutil.which("ansible-playbook")), "-i", "localhost,", "play.json"]
    path = f"{place / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PYTHON_INTERPRETER": sys.executable}
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, cwd=place)
    assert ("is on nfs" in ended.stdout) == (ended.returncode != 0), ended.stdout + ended.stderr
    return ended.stdout if ended.returncode else ""


def chat(path: Path) -> dict[str, Any]:
    return {"llm_services_chat": {"enabled": True, "data_path": str(path)}}


def test_a_local_directory_that_is_not_there_yet_is_fine(place: Path) -> None:
    webui = {"llm_services_open_webui": {"enabled": True, "data_path": str(place / "webui")}}
    assert refused(place, **chat(place / "not" / "yet"), **webui) == ""


@pytest.mark.parametrize("child", ["chroma", "analytics"])
def test_a_share_at_one_of_the_directories_is_refused(place: Path, child: str) -> None:
    (place / "data").mkdir()
    (place / "data" / child).symlink_to(place / "share" / "a")
    assert f"data/{child} is on nfs. Chroma and SQLite lose data there" in refused(place, **chat(place / "data"))


def test_a_directory_that_would_be_made_on_a_share_is_refused_and_not_made(place: Path) -> None:
    (place / "data").symlink_to(place / "share")
    assert "data/llm/chroma is on nfs" in refused(place, **chat(place / "data" / "llm"))
    webui = {"llm_services_open_webui": {"enabled": True, "data_path": str(place / "data" / "webui")}}
    assert "data/webui is on nfs" in refused(place, **webui)
    assert [path.name for path in (place / "share").iterdir()] == ["a"]


def test_nothing_is_looked_at_where_nothing_is_kept(place: Path) -> None:
    assert refused(place, llm_services_chat={"data_path": str(place / "share")}) == ""
