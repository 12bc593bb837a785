# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role asks the engine before it deploys and verifies, with stand-ins for the engine's command and modules."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COLLECTIONS = Path(__file__).resolve().parents[3] / "build" / "collections"
MODULE = """#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule

module = AnsibleModule({{"name": {{"type": "str"}}}}, supports_check_mode=True)
answer = {answer!r}
module.exit_json(**answer) if answer else module.fail_json(msg="there is no engine")
"""
DIGEST = "registry.test:5000/llm/chat@sha256:abc"


def play(place: Path, tasks: list[dict[str, Any]], *options: str, modules: dict[str, Any], docker: str = "exit 1") -> str:
    """Run tasks of the role where modules give these answers and ``docker`` is this script; what was said."""
    stubs = place / "collections" / "ansible_collections" / "community" / "docker" / "plugins" / "modules"
    stubs.mkdir(parents=True)
    for name in ("docker_image", "docker_image_info", "docker_node_info"):
        (stubs / f"{name}.py").write_text(MODULE.format(answer=modules.get(name, {})))
    (place / "bin").mkdir()
    (place / "bin" / "docker").write_text(f"#!/bin/sh\n{docker}\n")
    (place / "bin" / "docker").chmod(0o755)
    made = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
    (place / "play.json").write_text(json.dumps([made]))
    program = Path(sys.executable).with_name("ansible-playbook")
    argv = [str(program if program.exists() else shutil.which("ansible-playbook")), "-i", "localhost,", "play.json", *options]
    ours = f"{place / 'collections'}:{os.environ.get('ANSIBLE_COLLECTIONS_PATH') or COLLECTIONS}"
    environment = {**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}", "ANSIBLE_COLLECTIONS_PATH": ours, "ANSIBLE_NOCOLOR": "1"}
    environment["ANSIBLE_PYTHON_INTERPRETER"] = sys.executable
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, cwd=place)
    return f"{ended.stdout}{ended.stderr}status {ended.returncode}"


def role(phase: str, **variables: Any) -> dict[str, Any]:
    """A task that runs one phase of the role."""
    return {"ansible.builtin.include_role": {"name": "selfhosted.llm_stack.llm_services", "tasks_from": phase}, "vars": variables}


@pytest.mark.parametrize(
    ("answer", "deployed"),
    [
        ({"images": [{"RepoDigests": ["other.test/llm/chat@sha256:0", DIGEST]}]}, DIGEST),
        # What it is built of has changed.
        ({"images": []}, "not built"),
        # A fresh machine.
        ({}, "not built"),
    ],
)
def test_a_check_run_names_the_image_that_is_there_by_its_digest(tmp_path: Path, answer: dict[str, Any], deployed: str) -> None:
    chat = {"enabled": True, "data_path": str(tmp_path / "data")}
    told = {"content": "{{ __llm_services_chat_built | default('not built') }}", "dest": str(tmp_path / "deployed"), "mode": "0600"}
    tasks = [
        role("chat", llm_services_chat=chat, registry_address="registry.test:5000"),
        {"ansible.builtin.copy": told, "check_mode": False},
    ]
    said = play(tmp_path, tasks, "--check", modules={"docker_image_info": answer})
    assert said.endswith("status 0"), said
    assert (tmp_path / "deployed").read_text() == deployed


def node(name: str, state: str, address: str) -> dict[str, Any]:
    return {"Description": {"Hostname": name}, "Status": {"State": state, "Addr": address}}


NODES = [node("manager1", "ready", "127.0.0.2"), node("edge1", "down", "127.0.0.3"), node("edge1", "ready", "127.0.0.4")]


@pytest.mark.parametrize(
    ("docker", "asked"),
    [
        # One runs here.
        ('case "$1" in node) echo abc;; *) echo edge1;; esac', "The edge on localhost port 1 did not answer"),
        ('case "$1" in node) ;; *) echo edge1;; esac', "The edge on 127.0.0.4 port 1 did not answer"),
        ("exit 1", "The edge on localhost port 1 did not answer"),
    ],
)
def test_an_edge_is_asked_where_one_runs(tmp_path: Path, docker: str, asked: str) -> None:
    keys = [{"name": "team", "key": "a-key-of-the-tests-only"}]
    verify = role("verify", llm_services_model="tiny", llm_services_api_keys=keys, llm_services_edge_port=1, __llm_services_tries=1)
    said = play(tmp_path, [verify], modules={"docker_node_info": {"nodes": NODES}}, docker=docker)
    assert asked in " ".join(said.split())
