# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares an inventory with the options of the roles, on the control node, before any machine is reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator, Mapping

import yaml
from ansible.errors import AnsibleError, AnsibleUndefinedVariable
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.common.parameters import remove_values
from ansible.plugins.action import ActionBase
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import BadInput
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._inventory.plan import (
    FLEET,
    SPARE,
    Broken,
    Findings,
    Role,
    Undecided,
    check_fleet,
    check_groups,
    check_host,
    check_required,
    owner,
)
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.act import with_spare
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.spec import fleet_spec
from ansible_collections.selfhosted.llm_stack.plugins.modules.selectel_preemptible import argument_spec as fleet_options

ROLES = Path(__file__).resolve().parent.parent.parent / "roles"
# What argument_specs.yml may say of an option that a module's specification may not.
_PROSE = ("description", "version_added", "author")
# Constraints between options cannot be judged on one option at a time; the role itself checks them all.
_JUDGED = ("type", "elements", "choices", "options", "no_log", "required_together", "required_one_of", "mutually_exclusive")


def specification(option: Mapping[str, Any], *, top: bool = True) -> dict[str, Any]:
    """Turn an option of argument_specs.yml into one of a module's argument specification."""
    kept = {key: value for key, value in option.items() if key not in _PROSE and (key in _JUDGED or not top)}
    if option.get("options"):
        kept["options"] = {name: specification(part, top=False) for name, part in option["options"].items()}
    return kept


def judge(name: str, option: Mapping[str, Any], value: Any) -> str:
    """Return what Ansible finds wrong with a value, or an empty string."""
    if value is None and not option.get("required"):
        return ""
    result = ArgumentSpecValidator({name: specification(option)}).validate({name: value})
    return "is wrong: " + "; ".join(result.error_messages) if result.error_messages else ""


def judge_fleet(value: Mapping[str, Any], spare: Any = 0) -> str:
    """Return what the module that keeps fleets would refuse, or an empty string; no secret is quoted.

    :param spare: how many servers beyond those declared recovery keeps; they may be named as the others may.
    """
    # What the playbooks say themselves is not said again in the inventory.
    spec = {name: option for name, option in fleet_options().items() if name not in ("state", "confirm")}
    result = ArgumentSpecValidator(spec).validate(dict(value))
    counted = ArgumentSpecValidator({SPARE: {"type": "int"}}).validate({SPARE: spare or 0})
    wrong = [*result.error_messages, *counted.error_messages]
    if wrong:
        secrets: set[str] = getattr(result, "_no_log_values", set())
        return "; ".join(str(remove_values(text, secrets)) for text in wrong)
    try:
        fleet_spec(with_spare({**result.validated_parameters, "state": "present"}, counted.validated_parameters[SPARE]))
    except BadInput as error:
        return str(error)
    return ""


def _facts_set(tasks: Any) -> Iterator[str]:
    """Yield the names of the variables that a list of tasks sets."""
    for task in tasks or []:
        for key in ("ansible.builtin.set_fact", "set_fact"):
            yield from (name for name in task.get(key) or {} if name != "cacheable")
        if task.get("register"):
            yield str(task["register"])
        for section in ("block", "rescue", "always"):
            yield from _facts_set(task.get(section))


def read_role(directory: Path) -> Role:
    """Read the options a role declares and the facts it sets."""
    specs = yaml.safe_load((directory / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]
    options: dict[str, Any] = {}
    for entry in specs.values():
        options.update(entry.get("options") or {})
    facts: set[str] = set()
    for path in sorted(directory.glob("tasks/**/*.yml")) + sorted(directory.glob("handlers/*.yml")):
        facts.update(_facts_set(yaml.safe_load(path.read_text(encoding="utf-8"))))
    return Role(directory.name, options, frozenset(facts))


def read_roles(roles: Path = ROLES) -> list[Role]:
    """Read all roles of the collection that declare options."""
    return [read_role(path.parent.parent) for path in sorted(roles.glob("*/meta/argument_specs.yml"))]


class ActionModule(ActionBase):
    """The action; the module of the same name holds its documentation."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _VALID_ARGS = frozenset(("groups", "inhabited_groups", "roles"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Check all hosts of the inventory."""
        variables = task_vars or {}
        super().run(tmp, variables)
        _result, arguments = self.validate_argument_spec(
            {
                "groups": {"type": "list", "elements": "str", "default": []},
                "inhabited_groups": {"type": "list", "elements": "str", "default": []},
                "roles": {"type": "dict", "default": {}},
            }
        )
        known = read_roles()
        groups, hostvars = variables["groups"], variables["hostvars"]
        problems = check_groups(groups, required=arguments["groups"], inhabited=arguments["inhabited_groups"])
        problems += _required(arguments["roles"], known, groups, hostvars)
        here = hostvars[variables["inventory_hostname"]]
        spare = _render(here, SPARE) if SPARE in here else 0
        problems += check_fleet(_render(here, FLEET) if FLEET in here else None, lambda fleet: judge_fleet(fleet, spare))
        hosts = [host for host in hostvars if host in groups.get("all", [])]
        found = _check_hosts(hosts, hostvars, known)
        problems += found.problems
        for warning in found.warnings:
            self._display.warning(warning)
        result: dict[str, Any] = {"changed": False, "problems": problems, "checked": {"hosts": len(hosts), "variables": found.variables}}
        if problems:
            result.update(failed=True, msg=_message(problems))
        return result


def _check_hosts(hosts: list[str], hostvars: Mapping[str, Any], roles: list[Role]) -> Findings:
    total = Findings()
    for host in hosts:
        found = check_host(host, dict(_rendered(hostvars[host], roles)), roles=roles, judge=judge)
        total.problems += found.problems
        total.warnings += found.warnings
        total.variables += found.variables
    return total


def _required(
    wanted: Mapping[str, list[str]], roles: list[Role], groups: Mapping[str, list[str]], hostvars: Mapping[str, Any]
) -> list[str]:
    """Look for options without a default on the hosts that the playbooks will run the roles on."""
    problems: list[str] = []
    for group, names in wanted.items():
        chosen = [role for role in roles if role.name in names]
        for host in groups.get(group, []):
            problems += check_required(host, hostvars[host], roles=chosen)
    return problems


def _rendered(hostvars: Mapping[str, Any], roles: list[Role]) -> Iterator[tuple[str, Any]]:
    """Yield the variables of a host; values only of those that belong to a role, as only they are judged."""
    for name in hostvars:
        role = owner(name, roles)
        yield name, _render(hostvars, name) if role and name in role.options else None


def _render(hostvars: Mapping[str, Any], name: str) -> Any:
    try:
        return _plain(hostvars[name])
    except AnsibleUndefinedVariable:
        return Undecided()
    except AnsibleError as error:
        return Broken(str(error).rstrip("."))


def _plain(value: Any) -> Any:
    """Render what is nested as well: Ansible renders containers as they are read."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def _message(problems: list[str]) -> str:
    count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
    return f"The inventory has {count}; nothing was changed.\n" + "\n".join(f"- {text}" for text in problems)
