# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the inventory check finds, as tables."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.action.inventory_check import judge, read_roles
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._inventory.plan import (
    Broken,
    Role,
    Undecided,
    check_groups,
    check_host,
    check_required,
)

STORAGE = Role(
    "storage_host",
    {
        "storage_host_pools": {
            "type": "list",
            "elements": "dict",
            "options": {"name": {"type": "str", "required": True}, "ashift": {"type": "int"}},
        },
        "storage_host_models_https_port": {"type": "int"},
        "storage_host_models_path": {"type": "path"},
        "storage_host_models_tokens": {
            "type": "list",
            "elements": "dict",
            "options": {"name": {"type": "str"}, "token": {"type": "str", "no_log": True, "choices": ["a"]}},
        },
    },
    facts=frozenset({"storage_host_tls_ca"}),
)
WORKER = Role("gpu_worker", {"gpu_worker_model_source": {"type": "str", "choices": ["nfs", "https"]}})


@pytest.mark.parametrize(
    ("present", "problems"),
    [
        ({"storage_hosts": ["s"], "gpu_workers": []}, []),
        (
            {"storage_hosts": [], "gpu_workers": []},
            ["The group storage_hosts is empty, and the playbook needs at least one host in it. List the host under storage_hosts."],
        ),
        (
            {"storage_host": ["s"], "gpu_workers": []},
            [
                "The inventory has no group storage_hosts. Rename the group storage_host, if that is the one, and list its hosts there; "
                "inventories/example shows how."
            ],
        ),
        (
            {"storage_hosts": ["s"]},
            ["The inventory has no group gpu_workers. Add it and list its hosts there; inventories/example shows how."],
        ),
    ],
)
def test_groups(present: dict[str, list[str]], problems: list[str]) -> None:
    assert check_groups(present, required=["gpu_workers"], inhabited=["storage_hosts"]) == problems


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"storage_host_pools": [{"name": "llm", "ashift": "12"}]}, ""),
        ({"storage_host_models_https_port": "8443"}, ""),
        ({"storage_host_models_https_port": None}, ""),
        ({"storage_host_tls_ca": "set by the role itself"}, ""),
        ({"storage_host_models_path": Undecided()}, ""),
        ({"something_else": 1}, ""),
        (
            {"storage_host_pool": []},
            "box: storage_host_pool is not an option of the role storage_host. Did you mean storage_host_pools?",
        ),
        (
            {"gpu_worker_xyz": 1},
            "box: gpu_worker_xyz is not an option of the role gpu_worker. Remove it; roles/gpu_worker/README.md lists the options.",
        ),
        (
            {"__storage_host_x": 1},
            "box: __storage_host_x is internal to the role storage_host and is set by it alone. Remove it from the inventory.",
        ),
        (
            {"storage_host_pools": "llm"},
            "box: storage_host_pools must be of type list, and is of type str. "
            "Correct it; roles/storage_host/README.md describes the option.",
        ),
        (
            {"storage_host_models_path": {"a": 1}},
            "box: storage_host_models_path must be of type path, and is of type dict. "
            "Correct it; roles/storage_host/README.md describes the option.",
        ),
        (
            {"storage_host_models_path": Broken("no filter named 'x'")},
            "box: storage_host_models_path cannot be rendered: no filter named 'x'. Correct the template.",
        ),
    ],
)
def test_one_variable(variables: dict[str, Any], problem: str) -> None:
    found = check_host("box", variables, roles=[STORAGE, WORKER], judge=judge)
    assert found.problems == ([problem] if problem else [])
    assert found.warnings == []


@pytest.mark.parametrize(
    ("variables", "parts"),
    [
        ({"storage_host_models_https_port": "https"}, ["box: storage_host_models_https_port is wrong", "int"]),
        ({"storage_host_pools": [{"nam": "llm"}]}, ["storage_host_pools", "nam"]),
        ({"gpu_worker_model_source": "ftp"}, ["gpu_worker_model_source", "ftp", "nfs, https"]),
    ],
)
def test_what_ansible_itself_refuses_is_quoted(variables: dict[str, Any], parts: list[str]) -> None:
    (problem,) = check_host("box", variables, roles=[STORAGE, WORKER], judge=judge).problems
    for part in parts:
        assert part in problem


def test_a_secret_is_never_quoted() -> None:
    variables = {"storage_host_models_tokens": [{"name": "gpu2", "token": "hunter2"}]}
    (problem,) = check_host("box", variables, roles=[STORAGE], judge=judge).problems
    assert "hunter2" not in problem
    assert "storage_host_models_tokens does not match its declaration" in problem


def test_a_slip_in_the_prefix_is_warned_about() -> None:
    found = check_host("box", {"storge_host_models_path": "/x"}, roles=[STORAGE], judge=judge)
    assert found.problems == []
    assert found.warnings == [
        "box: storge_host_models_path is no option of any role, but is all but equal to storage_host_models_path. "
        "If that was meant, correct the name."
    ]


def test_an_option_without_default_must_be_set() -> None:
    role = Role("registry", {"registry_password": {"type": "str", "required": True}, "registry_user": {"type": "str"}})
    assert check_required("manager", {"registry_password": "x"}, roles=[role]) == []
    assert check_required("manager", {}, roles=[role]) == [
        "manager: registry_password is not set, and the role registry has no default for it. Set it for the host or its group; "
        "roles/registry/README.md describes the option."
    ]


def test_every_role_of_the_collection_can_be_read() -> None:
    for role in read_roles():
        assert role.options, role.name
        assert all(name.startswith(role.prefix) for name in role.options), role.name


def test_what_is_empty_by_default_may_be_empty() -> None:
    # Ansible judges defaults as it judges what is given: a part that is required of an empty one would keep the role from ever running.
    for role in read_roles():
        wrong = {name: text for name, option in role.options.items() if option.get("default") == {} and (text := judge(name, option, {}))}
        assert wrong == {}, role.name
