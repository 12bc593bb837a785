# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""backup and restore of swarm_manager, with stand-ins for the engine and systemctl: what is not whole is not restored."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rolekit import run_play, stand_in

pytestmark = pytest.mark.one_core
TAR = "/usr/bin/tar"
# STAND-INS: the engine has a swarm when its folder holds a state; each program writes down what it is told.
HOST = """
import os
from pathlib import Path
from ansible.module_utils.basic import AnsibleModule

m = AnsibleModule(argument_spec={}, supports_check_mode=True)
there = (Path(os.environ["ENGINE"]) / "swarm" / "docker-state.json").exists()
swarm = {"ControlAvailable": there, "LocalNodeState": "active" if there else "inactive", "Cluster": {"Spec": {}}}
m.exit_json(host_info={"DockerRootDir": os.environ["ENGINE"], "Swarm": swarm})
"""
PROGRAMS = {
    "systemctl": """case "$1" in
  show) printf 'Id=%s\\nLoadState=loaded\\nActiveState=%s\\nUnitFileState=enabled\\n' "$2" "$(cat "$ENGINE/state-$2")" ;;
  stop|start|restart) echo "$1 $2" >> "$ENGINE/log"
    [ "$1" = stop ] && echo inactive > "$ENGINE/state-$2" || echo active > "$ENGINE/state-$2" ;;
  is-enabled) echo enabled ;;
esac""",
    "docker": """echo "docker $*" >> "$ENGINE/log"
case "$FAILING $*" in
  "lead node ls"*) grep -q '^restart docker.service' "$ENGINE/log" || { echo "the client connection is closing" >&2; exit 1; } ;;
esac""",
    "tar": f"""case "$*" in
  *--create*) {TAR} "$@"; [ "$FAILING" != create ] || {{ echo "No space left" >&2; exit 2; }} ;;
  *--extract*) {TAR} "$@"; [ "$FAILING" != extract ] || {{ echo "No space left" >&2; exit 2; }} ;;
  *) exec {TAR} "$@" ;;
esac""",
}


class Engine:
    """A manager with a state, and a place for its archives."""

    def __init__(self, place: Path) -> None:
        self.place, self.root, self.archives = place, place / "engine", place / "archives"
        stand_in(place, docker_host_info=HOST)
        (place / "programs").mkdir()
        for name, text in PROGRAMS.items():
            (place / "programs" / name).write_text(f"#!/bin/sh\n{text}\n")
            (place / "programs" / name).chmod(0o755)
        self.root.mkdir()
        self.archives.mkdir()
        for unit in ("docker.socket", "docker.service"):
            (self.root / f"state-{unit}").write_text("active\n")

    def join(self, text: str) -> None:
        (self.root / "swarm").mkdir(exist_ok=True)
        (self.root / "swarm" / "docker-state.json").write_text(text)

    def leave(self) -> None:
        (self.root / "swarm" / "docker-state.json").unlink()

    def run(self, entry: str, *, failing: str = "") -> str:
        """Run one entry point of the role; what was said."""
        role = {"name": "selfhosted.llm_stack.swarm_manager", "tasks_from": entry}
        play = {"hosts": "manager1", "gather_facts": False, "tasks": [{"ansible.builtin.include_role": role}]}
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        (self.place / "hosts.yml").write_text(yaml.safe_dump({"swarm_managers": {"hosts": {"manager1": local}}}))
        variables = {"swarm_manager_backup_directory": str(self.archives), "__swarm_manager_looks": 1}
        path = f"{self.place / 'programs'}:{os.environ['PATH']}"
        return run_play(self.place, play, "-e", json.dumps(variables), PATH=path, ENGINE=str(self.root), FAILING=failing)

    @property
    def state(self) -> str:
        """The state of its swarm, or nothing; and the engine runs."""
        assert (self.root / "state-docker.service").read_text() == "active\n"
        path = self.root / "swarm" / "docker-state.json"
        return path.read_text() if path.exists() else ""

    @property
    def log(self) -> list[str]:
        path = self.root / "log"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path)


def test_what_was_kept_comes_back_and_a_backup_that_broke_off_does_not(engine: Engine) -> None:
    engine.join("whole")
    assert "rc=0" in engine.run("backup")
    (archive,) = engine.archives.glob("swarm-*.tar.gz")
    engine.join("half")
    assert "No space left" in engine.run("backup", failing="create")
    assert list(engine.archives.glob("swarm-*.tar.gz")) == [archive]
    engine.leave()
    assert "rc=0" in engine.run("restore")
    assert engine.state == "whole"
    assert [call for call in engine.log if "swarm init --force-new-cluster" in call]


@pytest.mark.parametrize("what", ["cut off", "of something else"])
def test_an_archive_that_is_not_whole_is_refused_before_the_engine_is_stopped(engine: Engine, what: str) -> None:
    engine.join("whole")
    assert "rc=0" in engine.run("backup")
    (archive,) = engine.archives.glob("swarm-*.tar.gz")
    newest = engine.archives / "swarm-29991231T235959Z.tar.gz"
    if what == "cut off":
        newest.write_bytes(archive.read_bytes()[:-20])
    else:
        subprocess.run([TAR, "--create", "--gzip", "--file", str(newest), "--directory", str(engine.place), "hosts.yml"], check=True)
    engine.leave()
    (engine.root / "log").unlink()
    said = engine.run("restore")
    assert "rc=0" not in said
    assert f"{newest} on manager1 is not a whole archive of a swarm's state (" in said
    assert "so nothing was changed. Move it away to have the one before it restored" in said
    assert (engine.state, engine.log) == ("", [])


def test_a_restore_that_fails_leaves_an_engine_that_runs_and_can_be_run_again(engine: Engine) -> None:
    engine.join("whole")
    assert "rc=0" in engine.run("backup")
    engine.leave()
    said = engine.run("restore", failing="extract")
    assert "rc=0" not in said
    assert "The engine of manager1 is started without a swarm, as it was. Put that right and run this again." in said
    assert engine.state == ""
    assert "rc=0" in engine.run("restore")
    assert engine.state == "whole"


def test_a_manager_that_answers_nobody_after_the_restore_is_started_anew(engine: Engine) -> None:
    engine.join("whole")
    assert "rc=0" in engine.run("backup")
    engine.leave()
    (engine.root / "log").unlink()
    assert "rc=0" in engine.run("restore", failing="lead")
    calls = [call for call in engine.log if call.startswith(("restart", "docker swarm init", "docker node ls"))]
    assert [call.split(" --")[0] for call in calls][-3:] == ["restart docker.service", "docker swarm init", "docker node ls"]
    assert engine.state == "whole"
