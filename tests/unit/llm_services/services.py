# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Renders the role's templates as the role does, without a host."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

import jinja2
import yaml
from ansible.module_utils.parsing.convert_bool import boolean

ROLE = Path(__file__).resolve().parents[3] / "roles" / "llm_services"
KEY = "a-key-of-the-tests-only"


def variables(**changes: Any) -> dict[str, Any]:
    """The role's variables with values a small site has."""
    internal = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())
    values: dict[str, Any] = {
        **yaml.safe_load((ROLE / "defaults" / "main.yml").read_text()),
        "__llm_services_stack": internal["__llm_services_stack"],
        "__llm_services_engines": internal["__llm_services_engines"],
        "llm_services_engine_image": "registry.test/engine:1",
        "llm_services_engine_replicas": 2,
        "llm_services_model": "tiny",
        "llm_services_model_file": "tiny.gguf",
        "llm_services_api_keys": [{"name": "team", "key": KEY}],
        "__llm_services_network": internal["__llm_services_network"],
        "__llm_services_chat_image": "registry.test/chat@sha256:0",
        "__llm_services_here": ["node.id == this-manager"],
        **changes,
    }
    values["__llm_services_chat"] = {**internal["__llm_services_chat_defaults"], **values["llm_services_chat"]}
    values["__llm_services_open_webui"] = {**internal["__llm_services_open_webui_defaults"], **values["llm_services_open_webui"]}
    values.setdefault("__llm_services_acme", bool(values["llm_services_tls"].get("domains")))
    values["__llm_services_port"] = values["__llm_services_engines"][values["llm_services_engine"]]["port"]
    return values


def render(template: str, **changes: Any) -> str:
    """One rendered template."""
    # Block lines leave nothing behind, as in Ansible.
    loader = jinja2.FileSystemLoader(ROLE / "templates")
    environment = jinja2.Environment(loader=loader, trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    environment.filters.update(
        to_json=json.dumps, quote=shlex.quote, bool=boolean, hash=lambda text, kind: hashlib.new(kind, text.encode()).hexdigest()
    )
    return environment.get_template(template).render(variables(**changes))


def stack(**changes: Any) -> dict[str, Any]:
    """The compose file as data."""
    parsed: dict[str, Any] = yaml.safe_load(render("stack.yml.j2", **changes))
    return parsed
