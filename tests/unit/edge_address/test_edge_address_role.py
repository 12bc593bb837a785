# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role edge_address refuses, and keepalived's configuration as it writes it; one run of ansible-playbook for all."""

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
HOSTS = {"one": {"ansible_host": "10.88.0.11"}, "two": {"ansible_host": "edge2.test", "edge_address_own": "10.88.0.12"}}
GOOD: dict[str, Any] = {"edge_address_cidr": "10.88.0.50/24", "edge_address_hosts": ["one", "two"], "edge_address_interface": "eth7"}
WRONG = "The edges cannot share {} like this."
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "two edges": ({}, ""),
    "no prefix length": ({"edge_address_cidr": "10.88.0.50"}, WRONG.format("10.88.0.50")),
    "one edge": ({"edge_address_hosts": ["one"]}, "edge_address_hosts names two hosts or more, one among them, and is one;"),
    "another host": ({"edge_address_hosts": ["two", "three"]}, "and is two, three;"),
    "the address of one of them": ({"edge_address_cidr": "10.88.0.12/24"}, WRONG.format("10.88.0.12/24")),
    "a group that VRRP does not have": ({"edge_address_router_id": 256}, "edge_address_router_id is from 1 to 255, and is 256."),
}


def playbook(out: Path) -> list[dict[str, Any]]:
    """A play that tries every case on the host `one`, and keeps what was said and what is written."""
    tasks: list[dict[str, Any]] = []
    for name, (changes, _sentence) in CASES.items():
        include = {"name": "selfhosted.llm_stack.edge_address", "tasks_from": "preflight"}
        tried = {"ansible.builtin.include_role": include, "vars": {**GOOD, **changes}}
        said = {"ansible.builtin.set_fact": {"said": "{{ said | combine({case: ansible_failed_result.msg}) }}"}, "vars": {"case": name}}
        tasks.append({"block": [tried], "rescue": [said]})
    role = {"name": "selfhosted.llm_stack.edge_address", "tasks_from": "preflight", "public": True}
    tasks.append({"ansible.builtin.include_role": role, "vars": GOOD})
    template = "{{ lookup('ansible.builtin.template', role_path ~ '/templates/keepalived.conf.j2') }}"
    role_path = str(COLLECTIONS / "ansible_collections" / "selfhosted" / "llm_stack" / "roles" / "edge_address")
    content = "{{ {'said': said, 'text': text} | to_json }}"
    copied = {"ansible.builtin.copy": {"content": content, "dest": str(out), "mode": "0600"}}
    tasks.append({**copied, "vars": {**GOOD, "text": template, "role_path": role_path}})
    return [{"hosts": "one", "gather_facts": False, "vars": {"said": {}}, "tasks": tasks}]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The message of every case that was refused, and the configuration."""
    place = tmp_path_factory.mktemp("edge_address")
    (place / "play.yml").write_text(yaml.safe_dump(playbook(place / "out.json")))
    hosts = {name: {**variables, "ansible_connection": "local"} for name, variables in {**HOSTS, "three": {}}.items()}
    (place / "hosts.yml").write_text(yaml.safe_dump({"swarm_managers": {"hosts": hosts}}))
    program = Path(sys.executable).with_name("ansible-playbook")
    argv = [str(program if program.exists() else shutil.which("ansible-playbook")), "-i", "hosts.yml", "play.yml"]
    ours = os.environ.get("ANSIBLE_COLLECTIONS_PATH") or str(COLLECTIONS)
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": ours, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PYTHON_INTERPRETER": sys.executable}
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment, cwd=place)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    result: dict[str, Any] = json.loads((place / "out.json").read_text())
    return result


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_work_is_refused_with_its_reason(found: dict[str, Any], name: str) -> None:
    wanted = CASES[name][1]
    if wanted:
        assert wanted in " ".join(found["said"][name].split())
    else:
        assert name not in found["said"]


def test_an_edge_tells_the_others_by_their_addresses_and_none_is_preferred(found: dict[str, Any]) -> None:
    lines = [line.strip() for line in found["text"].splitlines()]
    peers = lines[lines.index("unicast_peer {") + 1 : lines.index("}", lines.index("unicast_peer {"))]
    assert peers == ["10.88.0.12"]
    assert {"unicast_src_ip 10.88.0.11", "interface eth7", "10.88.0.50/24", "virtual_router_id 51"} <= set(lines)
    # The same priority everywhere: the address does not go back by itself.
    assert {"priority 100", "state BACKUP", "weight -50"} <= set(lines)
