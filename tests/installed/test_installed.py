# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection as others get it: built, installed alone into an empty path, its playbooks found by name; bad input is refused there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "tools"))

import package  # noqa: E402 - importable after the line above

EXAMPLE = ROOT / "inventories" / "example"
# Where nothing listens: a host that is there and does not answer.
NOBODY = {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_connection": "ssh"}
PLAYBOOKS = (
    "site",
    "provision",
    "recover",
    "teardown",
    "preflight",
    "mesh",
    "storage",
    "swarm",
    "workers",
    "services",
    "monitoring",
    "autoscaler",
    "backup",
    "restore_drill",
    "restore",
    "migrate",
    "image",
    "drill",
    "upgrade",
)
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def collections() -> Path:
    """Install the collection below build/, so that the lab can use the same place."""
    return package.install(ROOT / "build" / "installed")


def ansible(collections: Path, *argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program of Ansible that knows the installed collection and not the checkout."""
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(collections), "ANSIBLE_NOCOLOR": "1", "COLUMNS": "200"}
    command = [package.tool(argv[0]), *argv[1:]]
    return subprocess.run(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def three_hosts(**more: Any) -> dict[str, Any]:
    """Return an inventory whose hosts run on this machine; nothing is changed on it, as every test stops before that."""
    local = {"ansible_connection": "local", "ansible_become": False, "ansible_python_interpreter": "/usr/bin/python3"}
    groups: dict[str, Any] = {
        "storage_hosts": {"hosts": {"storage1": {}}},
        "swarm_managers": {"hosts": {"manager1": {"registry_password": "x"}}},
        "gpu_workers": {"hosts": {"gpu1": {"registry_password": "x"}}},
    }
    return {"all": {"vars": {**local, **more}, "children": groups}}


def refusal(collections: Path, place: Path, inventory: dict[str, Any], playbook: str = "site") -> str:
    """Run a playbook that must stop before any change; return its output with line breaks folded."""
    (place / "hosts.yml").write_text(json.dumps(inventory))
    ended = ansible(collections, "ansible-playbook", "-i", "hosts.yml", f"selfhosted.llm_stack.{playbook}", cwd=place)
    assert ended.returncode != 0, ended.stdout
    assert not re.search(r"changed=[1-9]", ended.stdout), ended.stdout
    return " ".join(ended.stdout.split())


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_playbooks_are_found_by_name(collections: Path, tmp_path: Path, playbook: str) -> None:
    ended = ansible(collections, "ansible-playbook", "-i", str(EXAMPLE), "--syntax-check", f"selfhosted.llm_stack.{playbook}", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout


def test_what_only_the_checkout_has_is_not_shipped(collections: Path) -> None:
    shipped = {path.name for path in (collections / package.NAME).iterdir()}
    assert {"meta", "plugins", "roles", "playbooks", "README.md", "LICENSE", "CHANGELOG.rst"} <= shipped
    assert not shipped & {".ci", ".git", ".venv", ".lab", "build", "tests"}


def test_the_example_inventory_is_accepted(collections: Path, tmp_path: Path) -> None:
    play = [
        {
            "hosts": "all",
            "gather_facts": False,
            "tasks": [
                {
                    "selfhosted.llm_stack.inventory_check": {
                        "groups": ["gpu_workers"],
                        "inhabited_groups": ["storage_hosts", "swarm_managers"],
                    },
                    "run_once": True,
                }
            ],
        }
    ]
    (tmp_path / "check.yml").write_text(yaml.safe_dump(play))
    ended = ansible(collections, "ansible-playbook", "-i", str(EXAMPLE), "check.yml", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize(
    ("variables", "sentences"),
    [
        (
            {"storage_host_pol": []},
            ["storage1: storage_host_pol is not an option of the role storage_host. Did you mean storage_host_pools?"],
        ),
        (
            {"llm_services_parallel": "many"},
            ["manager1: llm_services_parallel is wrong", "many", "Correct it; roles/llm_services/README.md describes the option."],
        ),
        (
            {"llm_services_engine": "vllm"},
            ["manager1: llm_services_engine is wrong", "vllm", "ollama, llamacpp"],
        ),
        (
            {"storage_host_pools": "llm"},
            ["storage1: storage_host_pools must be of type list, and is of type str."],
        ),
        (
            {"gpu_fleet": {"fleet": "llm", "name_pattern": "gpu", "count": 2}},
            ["gpu_fleet: name_pattern is 'gpu': it needs {n} once", "`ansible-doc selfhosted.llm_stack.selectel_preemptible` describes"],
        ),
    ],
)
def test_variables_are_checked_before_any_machine_is_reached(
    collections: Path, tmp_path: Path, variables: dict[str, Any], sentences: list[str]
) -> None:
    output = refusal(collections, tmp_path, three_hosts(**variables, **NOBODY))
    for sentence in sentences:
        assert sentence in output
    assert "nothing was changed" in output
    assert "UNREACHABLE" not in output, "a machine was asked for before the inventory was refused"


def test_a_teardown_wants_a_fleet(collections: Path, tmp_path: Path) -> None:
    output = refusal(collections, tmp_path, three_hosts(), "teardown")
    assert "The inventory declares no gpu_fleet, so there is nothing to remove." in output


def test_missing_groups_are_refused(collections: Path, tmp_path: Path) -> None:
    inventory = three_hosts(**NOBODY)
    inventory["all"]["children"]["storage_host"] = inventory["all"]["children"].pop("storage_hosts")
    inventory["all"]["children"]["swarm_managers"] = {}
    output = refusal(collections, tmp_path, inventory)
    assert "The inventory has no group storage_hosts. Rename the group storage_host, if that is the one" in output
    assert "The group swarm_managers is empty" in output


def test_an_inventory_without_hosts_is_refused(collections: Path, tmp_path: Path) -> None:
    assert "The inventory has no group storage_hosts. Add it" in refusal(collections, tmp_path, {"all": {}})


def test_a_missing_password_is_refused(collections: Path, tmp_path: Path) -> None:
    inventory = three_hosts(**NOBODY)
    del inventory["all"]["children"]["swarm_managers"]["hosts"]["manager1"]["registry_password"]
    output = refusal(collections, tmp_path, inventory)
    assert "manager1: registry_password is not set, and the role registry has no default for it." in output


def test_an_unreachable_machine_stops_all_before_any_change(collections: Path, tmp_path: Path) -> None:
    inventory = three_hosts()
    inventory["all"]["children"]["gpu_workers"]["hosts"]["gpu1"].update(NOBODY)
    output = refusal(collections, tmp_path, inventory)
    assert "gpu1 cannot be reached, so nothing was changed on any machine." in output
    assert "--limit 'all:!gpu1'" in output
    assert "Connection refused" in output


def test_a_playbook_alone_asks_for_its_own_machines_only(collections: Path, tmp_path: Path) -> None:
    inventory = three_hosts()
    inventory["all"]["children"] = {"storage_hosts": {"hosts": {"storage1": dict(NOBODY)}}}
    output = refusal(collections, tmp_path, inventory, "storage")
    assert "storage1 cannot be reached, so nothing was changed on any machine." in output
    inventory["all"]["children"] = {"gpu_workers": {"hosts": {"gpu1": dict(NOBODY)}}}
    output = refusal(collections, tmp_path, inventory, "storage")
    assert "The inventory has no group storage_hosts. Add it" in output


def test_an_unsupported_distribution_stops_all_before_any_change(collections: Path, tmp_path: Path) -> None:
    facts = tmp_path / "plugins"
    facts.mkdir()
    # Stands in for a machine with another distribution: its Python answers as Ansible's setup module would there.
    python = facts / "python3"
    answer = {"changed": False, "ansible_facts": {"ansible_distribution": "Fedora", "ansible_distribution_major_version": "44"}}
    python.write_text(f"#!/bin/sh\nexec printf '%s\\n' '{json.dumps(answer)}'\n")
    python.chmod(0o755)
    inventory = three_hosts()
    inventory["all"]["children"]["gpu_workers"]["hosts"]["gpu1"]["ansible_python_interpreter"] = str(python)
    inventory["all"]["vars"]["ansible_pipelining"] = True
    output = refusal(collections, tmp_path, inventory)
    assert "gpu1 runs Fedora 44, which is not supported, so nothing was changed on any machine." in output
    assert "Install Ubuntu 22.04, Debian 12, Debian 13 or Ubuntu 24.04 on it" in output


def test_every_name_the_readme_shows_exists() -> None:
    for kind, place in (("modules", "plugins/modules/*.py"), ("roles", "roles/*/README.md"), ("playbooks", "playbooks/*.yml")):
        (section,) = re.findall(rf"^### {kind}$(.*?)^\S[^|]*$", README, re.MULTILINE | re.DOTALL | re.IGNORECASE)
        names = {name for cell in re.findall(r"^\| ([^|]*`[^|]*) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)}
        there = {path.parent.name if kind == "roles" else path.stem for path in ROOT.glob(place)}
        assert names == there, kind
    targets = re.findall(r"^make ([a-z-]+)", README, re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        assert subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, check=False).returncode == 0, target


def test_the_readme_inventory_is_accepted(collections: Path, tmp_path: Path) -> None:
    """What the README shows as the shortest inventory passes the check; its machines are then asked for, and are not there."""
    (block,) = [text for text in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if "storage_hosts:" in text]
    inventory = yaml.safe_load(block)
    inventory["all"].setdefault("vars", {}).update(NOBODY)
    for group in inventory["all"]["children"].values():
        for host in group["hosts"].values():
            (host or {}).pop("ansible_host", None)
    output = refusal(collections, tmp_path, inventory)
    assert "cannot be reached, so nothing was changed on any machine." in output


def test_every_module_is_in_the_action_group() -> None:
    groups = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text())["action_groups"]
    assert groups["all"] == sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*.py"))


def test_every_example_of_the_inventory_names_an_option_of_a_role() -> None:
    """The commented lines too: they are what a reader will uncomment."""
    recovery = "".join((ROOT / "playbooks" / path).read_text(encoding="utf-8") for path in ("tasks/recover_look.yml", "vars/recover.yml"))
    switches = re.findall(r"(?:when:|-) (llm_stack_\w+) \|", (ROOT / "playbooks" / "site.yml").read_text(encoding="utf-8"))
    options = {"gpu_fleet", *switches, *re.findall(r"gpu_workers_\w+", recovery)}
    for path in ROOT.glob("roles/*/meta/argument_specs.yml"):
        for entry in yaml.safe_load(path.read_text())["argument_specs"].values():
            options |= set(entry.get("options") or {})
    for path in EXAMPLE.glob("group_vars/**/*.yml"):
        shown = set(re.findall(r"^#? ?([a-z]\w*):", path.read_text(), re.MULTILINE))
        assert shown <= options, path
