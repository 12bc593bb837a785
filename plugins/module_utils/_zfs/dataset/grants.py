# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan who may do what to a dataset: missing permissions are added, others stay unless named."""

from __future__ import annotations

from typing import Mapping

from .draft import Draft, Phase, command
from .model import BOTH, Dataset, Grant

_FLAGS = {"user": "-u", "group": "-g", "everyone": "-e", "creator": "-c", "set": "-s"}


def plan_grants(draft: Draft, want: Dataset) -> None:
    """Plan the delegations of one dataset."""
    granted = draft.current.grants.get(want.name, {})
    for grant in want.grants:
        number = draft.host.number(grant.kind, grant.name) if grant.kind in {"user", "group"} else None
        if grant.kind in {"user", "group"} and number is None and not draft.rehearsal:
            draft.refuse(
                want.name,
                f"Dataset {want.name}: the {grant.kind} {grant.name} in delegations does not exist on this host: create it first, or give"
                " its number.",
            )
            continue
        principal = grant.name if number is None else str(number)
        now = {permission: where for (kind, name, permission), where in granted.items() if (kind, name) == (grant.kind, principal)}
        _plan_grant(draft, want.name, grant, now)


def _plan_grant(draft: Draft, dataset: str, grant: Grant, now: Mapping[str, frozenset[str]]) -> None:
    """One command for all permissions that are missing, or too many, in the same places."""
    differing: dict[frozenset[str], list[str]] = {}
    for permission in dict.fromkeys(grant.permissions):
        have = now.get(permission)
        if grant.present and (have is None or grant.scope - have):
            differing.setdefault(grant.scope - (have or frozenset()), []).append(permission)
        elif not grant.present and have is not None and (have & grant.scope or not grant.scope):
            differing.setdefault(have & grant.scope, []).append(permission)
    for where, permissions in differing.items():
        flags = {frozenset({"local"}): ["-l"], frozenset({"descendent"}): ["-d"]}.get(where, [])
        principal = [grant.name] if grant.name else []
        verb, told = ("allow", "Allow") if grant.present else ("unallow", "No longer allow")
        place = {"-l": " itself", "-d": " below it"}.get(flags[0], "") if flags else ""
        sentence = f"{told} {grant.label}: {', '.join(permissions)} on {dataset}{place}"
        argv = ("zfs", verb, *flags, _FLAGS[grant.kind], *principal, ",".join(permissions), dataset)
        draft.add(Phase.DELEGATE, command(verb, dataset, sentence, *argv))
        _differ(draft, dataset, grant, now, permissions)


def _differ(draft: Draft, dataset: str, grant: Grant, now: Mapping[str, frozenset[str]], permissions: list[str]) -> None:
    for each in permissions:
        have = now.get(each)
        after = (have or frozenset()) | grant.scope if grant.present else (have or frozenset()) - grant.scope
        draft.differ(dataset, f"{grant.label} may {each}", _told(have), _told(after if after or grant.present else None))


def _told(where: frozenset[str] | None) -> str:
    if where is None:
        return "no"
    return "yes" if where in (BOTH, frozenset()) else {"local": "itself", "descendent": "below it"}[next(iter(where))]
