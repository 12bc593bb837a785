# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role refuses by its variables alone, each with its whole message; one run of ansible-playbook for all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

COLLECTIONS = Path(__file__).resolve().parents[3] / "build" / "collections"
GOOD = {
    "llm_services_model": "tiny",
    "llm_services_model_file": "tiny.gguf",
    "llm_services_api_keys": [{"name": "team", "key": "a-key-of-the-tests-only"}],
}
CHAT: dict[str, Any] = {"enabled": True, "image": "x:1", "analytics_password": "a-password-of-the-tests"}
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, ""),
    "ollama with a store of its own": ({"llm_services_model_file": ""}, ""),
    "no model": ({"llm_services_model": ""}, 'llm_services_model is "" and llm_services_model_file is "tiny.gguf". Set llm_services_model'),
    "a name Ollama cannot have": ({"llm_services_model": 'my "model"'}, "(Ollama knows letters, digits and . _ - : / in it)"),
    "a name with everything Ollama knows": ({"llm_services_model": "hf.co/some_one/Qwen-3:Q4_K_M"}, ""),
    "any name for llamacpp": (
        {"llm_services_model": "my model", "llm_services_engine": "llamacpp", "llm_services_engine_image": "x:1"},
        "",
    ),
    "llamacpp without a file": (
        {"llm_services_engine": "llamacpp", "llm_services_engine_image": "x:1", "llm_services_model_file": ""},
        "(llamacpp needs it; ollama without it expects a model store of its own there).",
    ),
    "a file elsewhere": ({"llm_services_model_file": "../x.gguf"}, 'llm_services_model_file is "../x.gguf"'),
    "llamacpp without an image": ({"llm_services_engine": "llamacpp"}, "llm_services_engine_image is empty, and llama.cpp has no default."),
    "no keys": ({"llm_services_api_keys": []}, "llm_services_api_keys has 0 keys. Give at least one;"),
    "a short key": ({"llm_services_api_keys": [{"name": "a", "key": "short"}]}, "has 1 keys; not usable: a. Give at least one;"),
    "a name that breaks the map": (
        {"llm_services_api_keys": [{"name": 'a";', "key": "a-key-of-the-tests-only"}]},
        'not usable: a";. Give at least one;',
    ),
    "a key with a line end": (
        {"llm_services_api_keys": [{"name": "a", "key": "a-key-of-the-tests-only\n"}]},
        "not usable: a. Give at least one; each needs a name of its own",
    ),
    "a key's name with a line end": ({"llm_services_api_keys": [{"name": "a\n", "key": "a-key-of-the-tests-only"}]}, "not usable: a"),
    "one key twice": (
        {"llm_services_api_keys": [{"name": name, "key": "a-key-of-the-tests-only"} for name in "ab"]},
        "each needs a name of its own",
    ),
    "half a certificate": ({"llm_services_tls": {"key": "/x"}}, "llm_services_tls cannot be used like this."),
    "two kinds of certificate": (
        {"llm_services_tls": {"certificate": "/x", "key": "/y", "domains": ["llm.test"]}},
        "It has certificate, domains, key, server.",
    ),
    "a certificate for an address": ({"llm_services_tls": {"domains": ["10.0.0.1/8"]}}, "no addresses and no wildcards"),
    "a domain with a line end": ({"llm_services_tls": {"domains": ["llm.test\n"]}}, "no addresses and no wildcards"),
    "an authority with a line end": (
        {"llm_services_tls": {"domains": ["llm.test"], "server": "https://ca.test/dir\n"}},
        "server begins with https://",
    ),
    "one port for two pages": ({"llm_services_open_webui": {"enabled": True, "port": 443}}, "The edge cannot listen on 443, 11434, 443."),
    "one port for two APIs": ({"llm_services_edge_port": 11434}, "The edge cannot listen on 11434, 11434. llm_services_edge_port,"),
    "a port for two APIs of which one is closed": ({"llm_services_edge_port": 11434, "llm_services_ollama_port": 0}, ""),
    "the authority's port": (
        {"llm_services_edge_port": 80, "llm_services_tls": {"domains": ["llm.test"]}},
        "The edge cannot listen on 80, 11434, 80.",
    ),
    "a port the edge has for itself": ({"llm_services_edge_port": 8082}, "none is 8081 or 8082, which the edge has for itself."),
    "no port": ({"llm_services_edge_port": 0}, "each needs a port of its own, from 1 to 65535"),
    "the chat service": ({"llm_services_chat": CHAT}, ""),
    "a chat service without a password": (
        {"llm_services_chat": {"enabled": True, "image": "x:1"}},
        "llm_services_chat cannot run like this. analytics_password has 0 characters and needs 12;",
    ),
    "a password of the analytics with a line end": (
        {"llm_services_chat": {**CHAT, "analytics_password": "a-password-of-the-tests\n"}},
        "postgresql://. None of them has a line end, as a file of a vault often has.",
    ),
    "a chat service without an image or a registry": (
        {"llm_services_chat": {**CHAT, "image": ""}, "registry_address": ""},
        'image is "" (empty needs registry_address, to push what is built)',
    ),
    "too many chat services": ({"llm_services_chat": {**CHAT, "replicas": 4}}, "replicas is 4 (1 to 3)"),
    "a widget without answers": ({"llm_services_chat": {**CHAT, "widget_daily": 0}}, "widget_daily is 0 (at least one for each replica)"),
    "unknown embeddings": ({"llm_services_chat": {**CHAT, "embeddings": "bert"}}, "embeddings is bert (minilm, or ollama:NAME"),
    "embeddings of Ollama": ({"llm_services_chat": {**CHAT, "embeddings": "ollama:nomic-embed-text:v1.5"}}, ""),
    "embeddings with a line end": ({"llm_services_chat": {**CHAT, "embeddings": "minilm\n"}}, "(minilm, or ollama:NAME"),
    "embeddings of an engine that is not there": (
        {
            "llm_services_chat": {**CHAT, "embeddings": "ollama:nomic-embed-text"},
            "llm_services_engine": "llamacpp",
            "llm_services_engine_image": "x:1",
        },
        "embeddings is ollama:nomic-embed-text (minilm, or ollama:NAME with llm_services_engine ollama)",
    ),
    "a database with a line end": (
        {"llm_services_chat": {**CHAT, "database_url": "postgresql://db/llm\n"}},
        "database_url is empty or begins with postgresql://.",
    ),
    "a widget": (
        {
            "llm_services_chat": {
                **CHAT,
                "widget_domains": ["www.Example.org", "*.example.org", "localhost"],
                "widget_collection": "hand-book",
            }
        },
        "",
    ),
    "a widget's collection by a name it cannot have": (
        {"llm_services_chat": {**CHAT, "widget_collection": "Hand Book"}},
        'widget_collection is "Hand Book": a collection\'s name has lower-case letters',
    ),
    "a widget for an address": (
        {"llm_services_chat": {**CHAT, "widget_domains": ["ok.example.org", "https://www.example.org/"]}},
        "not usable: https://www.example.org/.",
    ),
    "another database": (
        {"llm_services_chat": {**CHAT, "database_url": "mysql://x"}},
        "database_url is empty or begins with postgresql://.",
    ),
    "no queue": ({"llm_services_queue": 0}, "llm_services_queue 0 and llm_services_context_length 8192. The first two are at least 1"),
}


def ours() -> dict[str, str]:
    """What ansible-playbook needs to find the collection."""
    collections = os.environ.get("ANSIBLE_COLLECTIONS_PATH") or str(COLLECTIONS)
    return {**os.environ, "ANSIBLE_COLLECTIONS_PATH": collections, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PYTHON_INTERPRETER": sys.executable}


def played(place: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the play of ``place``."""
    program = Path(sys.executable).with_name("ansible-playbook")
    argv = [str(program if program.exists() else shutil.which("ansible-playbook")), "-i", "localhost,", str(place / "play.yml"), *options]
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=ours(), cwd=place)


def playbook(out: Path) -> list[dict[str, Any]]:
    """A play that tries every case and writes down what was said."""
    tasks: list[dict[str, Any]] = []
    for name, (changes, _sentence) in CASES.items():
        include = {"name": "selfhosted.llm_stack.llm_services", "tasks_from": "options"}
        tried = {"ansible.builtin.include_role": include, "vars": {**GOOD, **changes}}
        said = {"ansible.builtin.set_fact": {"said": "{{ said | combine({case: ansible_failed_result.msg}) }}"}, "vars": {"case": name}}
        tasks.append({"block": [tried], "rescue": [said]})
    tasks.append({"ansible.builtin.copy": {"content": "{{ said | to_json }}", "dest": str(out), "mode": "0600"}})
    return [{"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": {"said": {}}, "tasks": tasks}]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The message of every case that was refused."""
    place = tmp_path_factory.mktemp("refusals")
    (place / "play.yml").write_text(yaml.safe_dump(playbook(place / "said.json")))
    ended = played(place)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found: dict[str, str] = json.loads((place / "said.json").read_text())
    return found


@pytest.mark.parametrize("name", CASES)
def test_what_the_variables_alone_tell(said: dict[str, str], name: str) -> None:
    wanted = CASES[name][1]
    if wanted:
        assert wanted in " ".join(said[name].split())
        assert "a-key-of-the-tests-only" not in said[name]
    else:
        assert name not in said


def test_a_question_that_is_not_answered_tells_no_key(tmp_path: Path) -> None:
    # Nothing listens there, and of a key with a line end the module's own error would show all.
    include = {"name": "selfhosted.llm_stack.llm_services", "tasks_from": "verify"}
    values = {
        **GOOD,
        "llm_services_api_keys": [{"name": "team", "key": "a-key-of-the-tests-only\n"}],
        "llm_services_edge_port": 1,
        "__llm_services_tries": 1,
    }
    tasks = [{"ansible.builtin.include_role": include, "vars": values}]
    play = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}]
    (tmp_path / "play.yml").write_text(yaml.safe_dump(play))
    ended = played(tmp_path, "-vvv")
    assert ended.returncode != 0
    assert "did not answer a question to model tiny" in ended.stdout
    assert "a-key-of-the-tests-only" not in ended.stdout + ended.stderr
