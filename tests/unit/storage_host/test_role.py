# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role refuses before it asks a machine anything, and the files it would write: one run of ansible-playbook for all."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
COLLECTIONS = ROOT / "build" / "collections"
GOOD: dict[str, Any] = {
    "storage_host_pools": [{"name": "llm"}],
    "storage_host_datasets": [{"name": "llm", "properties": {"atime": "off"}}, {"name": "llm/data"}],
    "storage_host_nfs_exports": [{"path": "/llm/data", "clients": ["10.0.0.0/24"], "options": "rw,sync,no_subtree_check"}],
    "storage_host_iscsi_targets": [
        {"wwn": "iqn.2026-01.lab.llm:a", "portals": ["10.0.0.11", "[fd00::1]:3261", "fd00::12"], "acls": [{"initiator": "i"}]},
        {"wwn": "iqn.2026-01.lab.llm:gone", "state": "absent", "confirm": "iqn.2026-01.lab.llm:gone"},
    ],
    "storage_host_snapshots": [{"dataset": "llm/data", "recursive": True, "hourly": 6}, {"dataset": "copy", "take": "no"}],
    "storage_host_firewall": {"nfs": ["10.0.0.0/24", "fd00::/64"], "iscsi": ["10.0.0.31"], "https": []},
}
EXPORT = {"path": "/x", "clients": ["10.0.0.0/24"]}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "async": (
        {"storage_host_nfs_exports": [{**EXPORT, "options": "rw,async"}]},
        "The export /x in storage_host_nfs_exports is async: a power cut would lose what clients were told is safe; nothing was changed.",
    ),
    "blank": (
        {"storage_host_nfs_exports": [{**EXPORT, "path": "/x y"}]},
        "The export /x y in storage_host_nfs_exports is not usable: the path must be absolute",
    ),
    "network": (
        {"storage_host_firewall": {"nfs": ["10.0.0.0/24", "lan"]}},
        "lan in storage_host_firewall is no network; nothing was changed. Write networks as 10.0.0.0/24 or 2001:db8::/64.",
    ),
    "byte": (
        {"storage_host_firewall": {"iscsi": ["10.0.0.31", "10.0.0.256"], "nfs": ["10.0.0.0/33"]}},
        "10.0.0.256, 10.0.0.0/33 in storage_host_firewall is no network; nothing was changed.",
    ),
    "injection": (
        {"storage_host_firewall": {"https": ["10.0.0.0/24 } accept"]}},
        "10.0.0.0/24 } accept in storage_host_firewall is no network; nothing was changed.",
    ),
    "dataset": (
        {"storage_host_snapshots": [{"dataset": "llm/data]\\n[x"}]},
        "A dataset in storage_host_snapshots has a name that ZFS does not take; nothing was changed.",
    ),
    "token": (
        {"storage_host_models_tokens": [{"name": "gpu2", "token": "short"}]},
        "The token of gpu2 in storage_host_models_tokens is shorter than 16 characters",
    ),
    "token_line": (
        {"storage_host_models_tokens": [{"name": "gpu3", "token": "0123456789abcdef\n"}]},
        "The token of gpu3 in storage_host_models_tokens is shorter than 16 characters or has others than",
    ),
    "certificate": (
        {"storage_host_tls_certificate": "/etc/ssl/a.pem"},
        "Only one of storage_host_tls_certificate and storage_host_tls_key is set for certificate; nothing was changed.",
    ),
}
PROPERTIES = [("models", {"mountpoint": "/llm/models"}), ("off", {"canmount": False}), ("jobs", None), ("brought/in", {}), ("drill", {})]
# Sites that say nothing of snapshots, by what of it is decided for them.
UNSAID: dict[str, tuple[dict[str, Any], list[str]]] = {
    "usual": ({}, ["llm/data", "llm/jobs"]),
    "none": ({"llm_stack_backup": "false"}, []),
    "said": ({"storage_host_snapshots": []}, []),
    "bare": ({"storage_host_datasets": [], "storage_backup_replications": [], "storage_backup_drill": {}}, []),
}
QUIET: dict[str, Any] = {key: value for key, value in GOOD.items() if key != "storage_host_snapshots"}
QUIET["storage_host_datasets"] = [
    *GOOD["storage_host_datasets"],
    *({"name": f"llm/{name}", "properties": properties} for name, properties in PROPERTIES),
    {"name": "llm/vm", "type": "volume", "volsize": "1G"},
    {"name": "llm/gone", "state": "absent"},
]
QUIET["storage_backup_replications"] = [{"name": "a", "source": "other/data", "target": "llm/brought", "host": "b@192.0.2.11"}]
QUIET["storage_backup_drill"] = {"scratch": "llm/drill"}
TEMPLATES = ("firewall.nft", "sanoid.conf")
TASKS = [
    {
        "ansible.builtin.include_role": {"name": "selfhosted.llm_stack.storage_host", "tasks_from": "options", "public": True},
    },
    {
        "ansible.builtin.copy": {
            "content": "{{ lookup('ansible.builtin.template', role ~ '/templates/' ~ item ~ '.j2', template_vars=filled) }}",
            "dest": "{{ place }}/{{ item }}",
        },
        "loop": list(TEMPLATES),
        "when": "inventory_hostname == 'good'",
        "vars": {"filled": {"firewall": "{{ __storage_host_firewall_filled }}"}},
    },
    {
        "ansible.builtin.copy": {
            "content": "{{ said | to_json }}",
            "dest": "{{ place }}/{{ inventory_hostname }}.json",
        },
        "vars": {
            "said": {
                "policies": "{{ storage_host_snapshots }}",
                "files": "{{ __storage_host_files_snapshots }}",
                "sanoid": "{{ __storage_host_snapshots }}",
            }
        },
    },
    {
        "ansible.builtin.copy": {
            "content": "{{ {'datasets': __storage_host_datasets, 'units': __storage_host_units, 'asked': asked} | to_json }}",
            "dest": "{{ place }}/variables.json",
        },
        "when": "inventory_hostname == 'good'",
        "vars": {"asked": "{{ __storage_host_targets_asked }}"},
    },
]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The output with line breaks folded, and where the good host's files are."""
    place = tmp_path_factory.mktemp("role")
    hosts = {name: {**GOOD, **variables} for name, (variables, _text) in BAD.items()}
    common = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "place": str(place)}
    common["role"] = str(ROOT / "roles" / "storage_host")
    groups = {"storage_hosts": {"hosts": {name: {**QUIET, **variables} for name, (variables, _policies) in UNSAID.items()}}}
    everybody = {"hosts": {"good": GOOD, **hosts}, "children": groups, "vars": common}
    (place / "hosts.json").write_text(json.dumps({"all": everybody}))
    (place / "play.json").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": TASKS}]))
    # The play looks beside itself for what the role finds in its own folder.
    (place / "templates").symlink_to(ROOT / "roles" / "storage_host" / "templates")
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), "ANSIBLE_NOCOLOR": "1", "COLUMNS": "200"}
    program = Path(sys.executable).with_name("ansible-playbook")
    ended = subprocess.run(
        [str(program), "-i", "hosts.json", "play.json"], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    return " ".join(ended.stdout.split()), place


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_a_sentence(ran: tuple[str, Path], name: str) -> None:
    output = ran[0]
    assert BAD[name][1] in output
    assert re.search(rf"{name} : ok=\d+ changed=0 unreachable=0 failed=1 ", output)


def test_the_firewall_holds_what_is_declared_and_nothing_of_other_services(ran: tuple[str, Path]) -> None:
    text = (ran[1] / "firewall.nft").read_text()
    assert text.count("policy accept") == 1
    assert "elements = { 10.0.0.0/24 }" in text and "elements = { fd00::/64 }" in text and "elements = { 10.0.0.31 }" in text
    assert "th dport { 111, 2049 } counter drop" in text
    assert "th dport { 3260, 3261 } counter drop" in text
    assert "8443" not in text, "no network is named for https, so it is not touched"
    assert text.index("iif lo accept") < text.index("drop")
    # The old table goes and the new one comes in one transaction.
    assert text.index("delete table inet llm_stack_storage") < text.index("table inet llm_stack_storage {")


def test_a_target_that_is_to_go_is_not_asked(ran: tuple[str, Path]) -> None:
    found = json.loads((ran[1] / "variables.json").read_text())
    assert [target["wwn"] for target in found["asked"]] == ["iqn.2026-01.lab.llm:a"]


def test_sanoid_gets_every_period_said(ran: tuple[str, Path]) -> None:
    lines = (ran[1] / "sanoid.conf").read_text().splitlines()
    assert lines[0].startswith("# Written by the role selfhosted.llm_stack.storage_host.")
    assert lines[2:12] == [
        "[llm/data]",
        "recursive = yes",
        "frequently = 0",
        "hourly = 6",
        "daily = 14",
        "weekly = 0",
        "monthly = 3",
        "yearly = 0",
        "autosnap = yes",
        "autoprune = yes",
    ]
    assert lines[-2:] == ["autosnap = no", "autoprune = yes"], "what a replication brings is only pruned"


@pytest.mark.parametrize("name", UNSAID)
def test_where_nobody_says_what_cannot_be_had_again_has_snapshots(ran: tuple[str, Path], name: str) -> None:
    found = json.loads((ran[1] / f"{name}.json").read_text())
    assert [policy["dataset"] for policy in found["policies"]] == UNSAID[name][1]
    assert all((policy["hourly"], policy["daily"], policy["monthly"]) == (24, 7, 0) for policy in found["policies"])
    assert found["sanoid"] is bool(UNSAID[name][1]), "without a policy sanoid is not touched"


def test_who_has_policies_of_his_own_is_not_refused_for_those_he_did_not_ask_for(ran: tuple[str, Path]) -> None:
    left = {name: json.loads((ran[1] / f"{name}.json").read_text())["files"][0]["leave_others"] for name in ("usual", "good")}
    assert left == {"usual": True, "good": False}


def test_the_distributions_scrub_is_off_beside_what_is_declared_of_the_pool(ran: tuple[str, Path]) -> None:
    found = json.loads((ran[1] / "variables.json").read_text())
    assert found["datasets"] == [
        {"name": "llm", "properties": {"org.debian:periodic-scrub": "disable", "atime": "off"}},
        {"name": "llm/data", "properties": {}},
    ]
    units = {unit["name"]: unit["runs"] for unit in found["units"]}
    assert units["zfs-scrub-monthly@llm.timer"] is True
    assert units["rtslib-fb-targetctl.service"] is False, "starting it drops every session"
