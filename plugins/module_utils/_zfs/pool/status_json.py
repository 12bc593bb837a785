# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read ``zpool status -j``, which ZFS has since 2.3: it also tells GUIDs and how full each vdev is."""

from __future__ import annotations

import json
from typing import Any, Iterator, Mapping

from .model import FoundPool, Group, Leaf, Member, Scan
from .status_text import KIND, STANDING_IN, VIRTUAL_SPARE

_PLACES = {"special": "special", "dedup": "dedup", "logs": "log", "l2cache": "cache", "spares": "spare"}
# The names of the text output, which are the ones that the manual and people use.
_STATES = {"CANT_OPEN": "UNAVAIL", "HEALTHY": "ONLINE"}
_SCANS = {"SCANNING": "running", "FINISHED": "finished", "CANCELED": "canceled"}
_PROGRESS = {"COMPLETE": "done", "ACTIVE": "running"}


def parse_status_json(text: str) -> dict[str, FoundPool]:
    """Read the output of ``zpool status -P -j``, with or without ``--json-int``."""
    return {name: _pool(name, raw) for name, raw in (json.loads(text or "{}").get("pools") or {}).items()}


def _pool(name: str, raw: Mapping[str, Any]) -> FoundPool:
    root: Mapping[str, Any] = next(iter((raw.get("vdevs") or {}).values()), {})
    groups = list(_groups("data", root.get("vdevs") or {}))
    for place, use in _PLACES.items():
        groups.extend(_groups(use, raw.get(place) or {}))
    errors = _number(raw.get("error_count")) or 0
    return FoundPool(
        name=name,
        state=_STATES.get(str(raw.get("state")), str(raw.get("state"))),
        groups=tuple(groups),
        guid=str(raw.get("pool_guid", "")),
        scan=_scan(raw.get("scan_stats") or {}),
        removing=_running(raw.get("removal_stats") or {}, groups),
        expanding=_running(raw.get("raidz_expand_stats") or {}, groups),
        errors=f"{errors} data errors, use '-v' for a list" if errors else "",
    )


def _running(stats: Mapping[str, Any], groups: list[Group]) -> str:
    """Name of the group that is being removed or expanded; its entry names a raidz without its number."""
    if stats.get("state") != "SCANNING":
        return ""
    number = stats.get("expanding_vdev", stats.get("removing_vdev"))
    name = str(stats.get("name", ""))
    by_number = [group.name for group in groups if group.name == f"{group.kind}-{number}"]
    return name if any(group.name == name for group in groups) else (by_number or [name])[0]


def _scan(stats: Mapping[str, Any]) -> Scan:
    kind = {"SCRUB": "scrub", "RESILVER": "resilver"}.get(str(stats.get("function")), "")
    state = _SCANS.get(str(stats.get("state")), "")
    if not kind or not state:
        return Scan()
    if state == "finished":
        return Scan(kind, state, 100.0)
    total = (_number(stats.get("to_examine")) or 0) - (_number(stats.get("skipped")) or 0)
    percent = 100.0 * (_number(stats.get("issued")) or 0) / total if total > 0 else 0.0
    paused = state == "running" and bool(_number(stats.get("scrub_pause")))
    return Scan(kind, "paused" if paused else state, round(min(percent, 100.0), 2))


def _groups(use: str, rows: Mapping[str, Any]) -> Iterator[Group]:
    for name, raw in rows.items():
        kind = KIND.match(name)
        if VIRTUAL_SPARE.match(name) or (kind and kind["kind"] == "indirect"):
            continue
        members = tuple(_member(below, each) for below, each in (raw.get("vdevs") or {}).items()) if kind else (_member(name, raw),)
        yield Group(
            use=use,
            kind=kind["kind"] if kind else "stripe",
            name=name if kind else members[0].leaves[-1].path,
            state=_state(raw),
            members=members,
            guid=str(raw.get("guid", "")),
            size=_number(raw.get("total_space")),
            allocated=_number(raw.get("alloc_space", 0)),
        )


def _member(name: str, raw: Mapping[str, Any]) -> Member:
    standing = STANDING_IN.match(name)
    leaves = tuple(_leaves(raw.get("vdevs") or {})) if standing else (_leaf(name, raw),)
    return Member(leaves, _state(raw), standing.group(1) if standing else "")


def _leaves(rows: Mapping[str, Any]) -> Iterator[Leaf]:
    for name, raw in rows.items():
        if STANDING_IN.match(name):
            yield from _leaves(raw.get("vdevs") or {})
        else:
            yield _leaf(name, raw)


def _leaf(name: str, raw: Mapping[str, Any]) -> Leaf:
    trimmed = "unsupported" if _number(raw.get("trim_notsup")) else _progress(raw.get("trim_state"))
    return Leaf(
        name=str(raw.get("name") or name),
        state=_state(raw),
        guid=str(raw.get("guid", "")),
        was=str(raw.get("was", "")),
        initialized=_progress(raw.get("init_state")),
        trimmed=trimmed,
    )


def _progress(state: Any) -> str:
    return _PROGRESS.get(str(state), "no") if state else ""


def _state(raw: Mapping[str, Any]) -> str:
    """Rows of a draid may come without one (openzfs #18431)."""
    state = str(raw.get("state", ""))
    return _STATES.get(state, state)


def _number(value: Any) -> int | None:
    return int(value) if str(value).isdigit() else None
