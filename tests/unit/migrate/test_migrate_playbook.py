# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""migrate.yml as it is run, with folders as machines: plan, export, fetch, import, upload, switch, and the way back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest
from test_migrate_stages import BOTH, KEY, Chat, Old

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.one_core
# A STAND-IN for rsync between folders of one machine: what it is told to take, and nothing beside it.
RSYNC = """#!/usr/bin/env python3
import os, pathlib, shutil, sys
if sys.argv[1:] == ["--version"]:
    sys.exit(0)
includes = [word.partition("=")[2] for word in sys.argv if word.startswith("--include=")]
assert "--exclude=*" in sys.argv and any(word.startswith("--rsh=ssh -o BatchMode=yes") for word in sys.argv), sys.argv
top, to = (pathlib.Path(word.partition(":")[2] or word) for word in sys.argv[-2:])
kept = [name.strip("/").split("/")[0] for name in includes]
if os.environ.get("RSYNC_FAIL"):
    sys.exit("rsync: connection unexpectedly closed")
for path in sorted(top.rglob("*")):
    there = to / path.relative_to(top)
    if path.is_file() and path.relative_to(top).parts[0] in kept and not (there.exists() and there.read_bytes() == path.read_bytes()):
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, there)
        print(">f+++++++++", path.relative_to(top))
"""


class Site:
    """An inventory of three folders, and the programs they have."""

    def __init__(self, home: Path, chat: Chat) -> None:
        self.home, self.old, self.chat = home, Old(home / "old"), chat
        self.store = home / "store"
        self.store.mkdir()
        (home / "bin").mkdir()
        (home / "bin" / "rsync").write_text(RSYNC)
        (home / "bin" / "rsync").chmod(0o755)
        local = {"ansible_connection": "local", "ansible_become": False, "ansible_python_interpreter": sys.executable}
        services = {"llm_services_chat": {"enabled": True}, "llm_services_api_keys": [{"name": "a", "key": KEY}]}
        self.inventory: dict[str, Any] = {
            "all": {
                "vars": {**local, **services, "storage_host_models_path": str(self.store)},
                "hosts": {"old1": {"ansible_host": "192.0.2.9"}},
                "children": {"storage_hosts": {"hosts": {"storage1": {}}}, "swarm_managers": {"hosts": {"manager1": {}}}},
            }
        }
        options = self.old.options
        self.words: dict[str, Any] = {
            "llm_stack_migrate_host": "old1",
            "llm_stack_migrate_export": options["path"],
            "llm_stack_migrate_models": options["models"],
            "llm_stack_migrate_documents": options["documents"],
            "llm_stack_migrate_chroma": options["chroma"],
            "llm_stack_migrate_url": chat.url,
            "__migrate_documents_staging": str(home / "staging"),
        }

    def play(self, *argv: str, fail: str = "", **words: Any) -> subprocess.CompletedProcess[str]:
        (self.home / "hosts.yml").write_text(json.dumps(self.inventory))
        environment = {
            **os.environ,
            "PATH": f"{self.home / 'bin'}:{os.environ['PATH']}",
            "ANSIBLE_NOCOLOR": "1",
            "RSYNC_FAIL": fail,
        }
        told = json.dumps({**self.words, **words})
        command = ["ansible-playbook", "-i", str(self.home / "hosts.yml"), str(ROOT / "playbooks" / "migrate.yml"), "-e", told, *argv]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    chat = Chat()
    yield Site(tmp_path, chat)
    chat.server.shutdown()
    chat.server.server_close()


def test_all_moves_once_and_the_rehearsal_says_so_before(site: Site) -> None:
    plan = site.play("--check")
    assert plan.returncode == 0, plan.stdout + plan.stderr
    for sentence in ("Put tiny.gguf into", "Upload keys.md into the collection house", "Stays behind: "):
        assert sentence in plan.stdout
    assert not site.old.export.exists() and not list(site.store.iterdir()) and not site.chat.documents

    broken = site.play(fail="1")
    assert broken.returncode != 0 and "connection unexpectedly closed" in broken.stdout + broken.stderr
    assert not list(site.store.glob("*.gguf")) and not site.chat.documents

    done = site.play()
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in site.store.glob("*.gguf")} == {"qwen3-8b.gguf", "tiny.gguf"}
    assert {name: len(found) for name, found in site.chat.documents.items()} == {"house": 2, "my-docs": 2}
    assert f'"src": "{site.store}/tiny.gguf"' in done.stdout
    assert KEY not in done.stdout + done.stderr

    again = site.play()
    assert again.returncode == 0 and "changed=0" in again.stdout and "changed=1" not in again.stdout, again.stdout


def test_a_document_that_is_there_already_stops_before_the_switch(site: Site) -> None:
    site.chat.documents["house"] = [{"id": "7", "name": "keys.md", "bytes": 3}]
    ended = site.play(llm_stack_migrate_switch=True, llm_stack_migrate_services=BOTH)
    assert ended.returncode != 0
    assert "The collection house has keys.md already" in ended.stdout
    assert "Stop the services" not in ended.stdout


def test_documents_are_not_left_behind_by_a_stack_without_the_chat_service(site: Site) -> None:
    site.inventory["all"]["vars"]["llm_services_chat"] = {"enabled": False}
    ended = site.play(llm_stack_migrate_switch=True, llm_stack_migrate_services=BOTH)
    assert ended.returncode != 0
    assert "There are documents to move, and the chat service is off" in ended.stdout


@pytest.mark.parametrize(
    "words",
    [
        {"llm_stack_migrate_host": "none"},
        {"llm_stack_migrate_switch": True},
        {"llm_stack_migrate_switch": True, "llm_stack_migrate_back": True, "llm_stack_migrate_services": ["a"]},
    ],
)
def test_words_that_do_not_fit_together_are_refused(site: Site, words: dict[str, Any]) -> None:
    ended = site.play(**words)
    assert ended.returncode != 0
    assert "Say what is to be moved" in ended.stdout and "Nothing was changed." in ended.stdout
    assert not site.old.export.exists()


def test_an_export_that_is_at_hand_is_imported_without_the_old_machine(site: Site) -> None:
    assert site.play().returncode == 0
    export = str(site.old.export)
    for path in site.store.glob("*.gguf"):
        path.unlink()
    site.chat.documents.clear()
    del site.words["llm_stack_migrate_host"]
    plan = site.play("--check", llm_stack_migrate_from=export)
    assert plan.returncode == 0 and "Put tiny.gguf into" in plan.stdout, plan.stdout
    assert site.play(llm_stack_migrate_from=export).returncode == 0
    assert len(list(site.store.glob("*.gguf"))) == 2 and len(site.chat.documents) == 2
