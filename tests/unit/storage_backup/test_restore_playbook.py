# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""restore.yml as it is run, with stand-ins for llm-backup and systemctl: a timer stands still for a restore, and for no refusal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.one_core
ROOT = Path(__file__).resolve().parents[3]
# STAND-INS: each writes down what it is told; the backup says no to what the test names.
PROGRAM = """#!/bin/sh
echo "llm-backup $*" >> "{home}/log"
case "$*" in {refused}) echo "That is refused." >&2; exit 1 ;; esac
echo "Restore a to b."
"""
SYSTEMCTL = """#!/bin/sh
case "$1" in
  show) printf 'Id=%s\\nLoadState=loaded\\nActiveState=%s\\nUnitFileState=enabled\\n' "$2" "$(cat {home}/state)" ;;
  stop) echo "stop $2" >> "{home}/log"; echo inactive > "{home}/state" ;;
  start) echo "start $2" >> "{home}/log"; echo active > "{home}/state" ;;
  is-enabled) echo enabled ;;
esac
"""


class Host:
    """A host with one job and its timer."""

    def __init__(self, home: Path) -> None:
        self.home, self.collections = home, ROOT / "build" / "collections"
        local = {"ansible_connection": "local", "ansible_become": False, "ansible_python_interpreter": sys.executable}
        (home / "hosts.json").write_text(json.dumps({"all": {"hosts": {"storage1": local}}}))
        (home / "state").write_text("active\n")

    def new_manager(self) -> None:
        """Put STAND-INS in the place of the roles that install: each writes down that it ran."""
        roles = self.home / "collections" / "ansible_collections" / "selfhosted" / "llm_stack" / "roles"
        for name, file in (("docker_engine", "main"), ("storage_backup", "main"), ("swarm_manager", "restore")):
            note = {"ansible.builtin.lineinfile": {"path": str(self.home / "log"), "line": f"role {name}", "create": True, "mode": "0600"}}
            (roles / name / "tasks").mkdir(parents=True)
            (roles / name / "tasks" / f"{file}.yml").write_text(json.dumps([note]))
        self.collections = self.home / "collections"

    def restore(self, *, refused: str = "nothing", **words: Any) -> subprocess.CompletedProcess[str]:
        """Run the playbook; what the program refuses is a pattern of the shell."""
        for name, text in (("llm-backup", PROGRAM), ("systemctl", SYSTEMCTL)):
            (self.home / name).write_text(text.format(home=self.home, refused=refused))
            (self.home / name).chmod(0o755)
        given = {
            "llm_stack_restore_host": "storage1",
            "llm_stack_restore_job": "data",
            "llm_stack_restore_argv": [str(self.home / "llm-backup"), "restore", "data"],
            **words,
        }
        environment = {
            **os.environ,
            "PATH": f"{self.home}:{os.environ['PATH']}",
            "ANSIBLE_COLLECTIONS_PATH": str(self.collections),
            "ANSIBLE_NOCOLOR": "1",
            "COLUMNS": "200",
        }
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        argv = [program, "-i", "hosts.json", str(ROOT / "playbooks" / "restore.yml"), "-e", json.dumps(given)]
        return subprocess.run(argv, cwd=self.home, env=environment, capture_output=True, text=True, check=False)

    @property
    def log(self) -> list[str]:
        return (self.home / "log").read_text().splitlines()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


PLAN, DO = "llm-backup restore data --plan", "llm-backup restore data"
STOP, START = "stop llm-backup@data.timer", "start llm-backup@data.timer"


def test_a_plan_touches_nothing_and_what_is_confirmed_is_done_with_the_timer_stopped(host: Host) -> None:
    ended = host.restore()
    assert ended.returncode == 0, ended.stdout
    assert host.log == [PLAN]
    assert "run the same with -e llm_stack_restore_confirm=data" in ended.stdout
    assert host.restore(llm_stack_restore_confirm="data").returncode == 0
    assert host.log[1:] == [PLAN, STOP, DO, START]


def test_a_restore_that_is_refused_leaves_the_backup_running(host: Host) -> None:
    ended = host.restore(refused="*--plan", llm_stack_restore_confirm="data")
    assert ended.returncode != 0 and "That is refused." in ended.stdout
    assert host.log == [PLAN]
    assert (host.home / "state").read_text() == "active\n"


def test_a_restore_that_breaks_off_says_that_the_backup_stands_still(host: Host) -> None:
    ended = host.restore(refused='"restore data"', llm_stack_restore_confirm="data")
    assert ended.returncode != 0
    assert host.log == [PLAN, STOP, DO]
    said = " ".join(ended.stdout.split())
    assert "That is refused. No copies are made by llm-backup@data.timer on storage1 now" in said
    assert "`systemctl start llm-backup@data.timer`" in said


def test_a_new_manager_gets_nothing_before_it_is_confirmed(host: Host) -> None:
    host.new_manager()
    missing = [str(host.home / "missing"), "restore", "data"]
    ended = host.restore(llm_stack_restore_swarm=True, llm_stack_restore_argv=missing)
    assert ended.returncode == 0, ended.stdout
    assert not (host.home / "log").exists(), "nothing was installed"
    for text in ("Install Docker and the backup where they are missing.", "Nothing was changed.", "-e llm_stack_restore_confirm=data"):
        assert text in ended.stdout
    # Where the backup is there already, a plan can be made.
    ended = host.restore(llm_stack_restore_swarm=True)
    assert ended.returncode == 0, ended.stdout
    assert host.log == [PLAN]
    assert "Install Docker and the backup where they are missing." in ended.stdout and "Restore a to b." in ended.stdout


def test_a_new_manager_that_is_confirmed_gets_what_restores_first(host: Host) -> None:
    host.new_manager()
    ended = host.restore(llm_stack_restore_swarm=True, llm_stack_restore_confirm="data")
    assert ended.returncode == 0, ended.stdout
    assert host.log == ["role docker_engine", "role storage_backup", PLAN, STOP, DO, "role swarm_manager"]
