# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pool as the module returns it."""

from __future__ import annotations

from typing import Any

from .model import FoundPool, Group, Member

_NUMBERS = ("size", "allocated", "free", "capacity")


def describe(pool: FoundPool) -> dict[str, Any]:
    """Health, figures, vdevs and what runs on the pool, as plain data."""
    return {
        "name": pool.name,
        "guid": pool.properties.get("guid", pool.guid),
        "health": pool.state,
        "errors": pool.errors,
        "vdevs": [_group(group) for group in pool.groups],
        "activity": _activity(pool),
        **{name: int(pool.properties[name]) for name in _NUMBERS if pool.properties.get(name, "").isdigit()},
    }


def _group(group: Group) -> dict[str, Any]:
    return {
        "class": group.use,
        "type": group.kind,
        "name": group.name,
        "state": group.state,
        "devices": [_member(member) for member in group.members],
    }


def _member(member: Member) -> dict[str, Any]:
    """One place: the device that will have it, and what it stands beside."""
    shown: dict[str, Any] = {"path": member.paths[-1], "state": member.state}
    last = member.leaves[-1]
    if last.guid:
        shown["guid"] = last.guid
    if member.standing:
        shown["standing"] = member.standing
    return shown


def _activity(pool: FoundPool) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    if pool.scan.kind:
        shown[pool.scan.kind] = {"state": pool.scan.state, "percent": pool.scan.percent}
    if pool.removing:
        shown["remove"] = {"state": "running", "vdev": pool.removing}
    if pool.expanding:
        shown["expand"] = {"state": "running", "vdev": pool.expanding}
    for word, attribute in (("initialize", "initialized"), ("trim", "trimmed")):
        leaves = [getattr(leaf, attribute) for group in pool.groups if group.use not in {"cache", "spare"} for leaf in group.leaves]
        states = [state for state in leaves if state and state != "unsupported"]
        if states:
            state = "running" if "running" in states else "finished" if set(states) == {"done"} else "never"
            shown[word] = {"state": state, "devices_done": states.count("done"), "devices": len(states)}
    return shown
