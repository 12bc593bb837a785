# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with an inventory, as sentences. Pure: no file is read and no template rendered here."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator, Mapping

# A name this close to an option but with another prefix is a slip of the finger more often than a variable of the user's own.
_ALL_BUT_EQUAL = 0.92

# The variable that declares servers to be made; it belongs to a playbook and to no role.
FLEET = "gpu_fleet"
SPARE = "gpu_workers_spare"
_FLEET_HELP = "`ansible-doc selfhosted.llm_stack.selectel_preemptible` describes its options"

_KINDS: Mapping[str, tuple[type, ...]] = {
    "dict": (dict,),
    "list": (list, tuple),
    "str": (str, int, float),
    "path": (str,),
    "raw": (object,),
}


@dataclass(frozen=True)
class Role:
    """The public face of a role.

    :param options: its argument specification, by the full name of the variable.
    :param facts: variables the role itself sets during a run; they are nobody's mistake.
    """

    name: str
    options: Mapping[str, Mapping[str, Any]]
    facts: frozenset[str] = frozenset()

    @property
    def prefix(self) -> str:
        """What every variable of the role starts with."""
        return self.name + "_"


@dataclass(frozen=True)
class Undecided:
    """A value that cannot be known before facts are gathered."""


@dataclass(frozen=True)
class Broken:
    """A value whose template cannot be rendered.

    :param reason: what the template engine says.
    """

    reason: str


@dataclass
class Findings:
    """Sentences for a person.

    :param problems: each stops the run.
    :param warnings: each may be intended.
    """

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    variables: int = 0


# Checks one value against the specification of its option and returns what is wrong with it, or nothing.
Judge = Callable[[str, Mapping[str, Any], Any], str]


def closest(name: str, known: Iterator[str] | list[str], cutoff: float = 0.6) -> str:
    """Return the name that was probably meant, or an empty string."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return found[0] if found else ""


def check_groups(present: Mapping[str, Any], *, required: list[str], inhabited: list[str]) -> list[str]:
    """Return a sentence for each group that is missing or empty.

    :param present: the groups of the inventory and their hosts.
    """
    problems = []
    for group in dict.fromkeys([*inhabited, *required]):
        if group not in present:
            others = [name for name in present if name not in ("all", "ungrouped") and name not in required + inhabited]
            meant = closest(group, others)
            hint = f"Rename the group {meant}, if that is the one," if meant else "Add it"
            problems.append(f"The inventory has no group {group}. {hint} and list its hosts there; inventories/example shows how.")
        elif group in inhabited and not present[group]:
            problems.append(f"The group {group} is empty, and the playbook needs at least one host in it. List the host under {group}.")
    return problems


def check_host(host: str, variables: Mapping[str, Any], *, roles: list[Role], judge: Judge) -> Findings:
    """Compare the variables of one host with the options of the roles.

    :param variables: rendered values; an :class:`Undecided` is passed over.
    :param judge: the type checker of Ansible.
    """
    findings = Findings()
    options = {name for role in roles for name in role.options} | {FLEET}
    for name in sorted(variables):
        role = owner(name, roles)
        if role is None and name != FLEET:
            findings.warnings += [f"{host}: {text}" for text in _nearly(name, options)]
        elif role is not None and name not in role.facts:
            findings.variables += 1
            findings.problems += [f"{host}: {text}" for text in _judge(name, variables[name], role=role, judge=judge)]
    return findings


def check_fleet(value: Any, judge: Callable[[Any], str]) -> list[str]:
    """Return what is wrong with the declaration of a fleet.

    :param value: rendered; None when there is none.
    :param judge: the checks of the module that keeps fleets.
    """
    if value is None or isinstance(value, Undecided):
        return []
    if isinstance(value, Broken):
        return [f"{FLEET} cannot be rendered: {value.reason}. Correct the template."]
    if not isinstance(value, Mapping):
        return [f"{FLEET} must be of type dict, and is of type {type_name(value)}. Correct it; {_FLEET_HELP}."]
    wrong = judge(value)
    return [f"{FLEET}: {wrong.rstrip('.')}. Correct it; {_FLEET_HELP}."] if wrong else []


def check_required(host: str, variables: Mapping[str, Any], *, roles: list[Role]) -> list[str]:
    """Return a sentence for each option without a default that the host does not set.

    :param roles: those that will run on the host.
    """
    return [
        f"{host}: {name} is not set, and the role {role.name} has no default for it. Set it for the host or its group; "
        f"roles/{role.name}/README.md describes the option."
        for role in roles
        for name, option in role.options.items()
        if option.get("required") and name not in variables
    ]


def owner(name: str, roles: list[Role]) -> Role | None:
    """Return the role whose prefix the variable carries; of two, the one with the longer name."""
    bare = name[2:] if name.startswith("__") else name
    matching = [role for role in roles if bare.startswith(role.prefix)]
    return max(matching, key=lambda role: len(role.name)) if matching else None


def _nearly(name: str, options: set[str]) -> list[str]:
    meant = closest(name, sorted(options), _ALL_BUT_EQUAL)
    return [f"{name} is no option of any role, but is all but equal to {meant}. If that was meant, correct the name."] if meant else []


def _judge(name: str, value: Any, *, role: Role, judge: Judge) -> list[str]:
    if name.startswith("__"):
        return [f"{name} is internal to the role {role.name} and is set by it alone. Remove it from the inventory."]
    if name not in role.options:
        meant = closest(name, list(role.options))
        remedy = f"Did you mean {meant}?" if meant else f"Remove it; roles/{role.name}/README.md lists the options."
        return [f"{name} is not an option of the role {role.name}. {remedy}"]
    if isinstance(value, Undecided):
        return []
    if isinstance(value, Broken):
        return [f"{name} cannot be rendered: {value.reason}. Correct the template."]
    option = role.options[name]
    wrong = _wrong_kind(option, value) or judge(name, option, value)
    if not wrong:
        return []
    return [f"{name} {_without_secret(option, wrong)}. Correct it; roles/{role.name}/README.md describes the option."]


def _wrong_kind(option: Mapping[str, Any], value: Any) -> str:
    """Catch what Ansible's own check converts in silence: a mapping to a string, a comma separated string to a list."""
    wanted = option.get("type", "str")
    kinds = _KINDS.get(wanted)
    if value is None or kinds is None or isinstance(value, kinds):
        return ""
    return f"must be of type {wanted}, and is of type {type_name(value)}"


def type_name(value: Any) -> str:
    """Return the name of a value's type as Ansible's documentation spells it."""
    for kind, name in ((bool, "bool"), (int, "int"), (float, "float"), (str, "str"), (dict, "dict"), ((list, tuple), "list")):
        if isinstance(value, kind):
            return name
    return type(value).__name__


def _without_secret(option: Mapping[str, Any], text: str) -> str:
    """Return the text, or its outcome alone where it could quote a secret."""
    if not holds_secret(option) or text.startswith("must be of type"):
        return text.rstrip(".")
    return f"does not match its declaration (type {option.get('type', 'str')}; details are withheld, as it holds a secret)"


def holds_secret(option: Mapping[str, Any]) -> bool:
    """Whether the option or a part of it is declared as secret."""
    return bool(option.get("no_log")) or any(holds_secret(part) for part in (option.get("options") or {}).values())
