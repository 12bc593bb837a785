# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan the properties of a pool."""

from __future__ import annotations

import difflib
from typing import Iterable, Mapping

from ..values import same
from .draft import Command, Draft
from .model import VITAL
from .scene import Scene

FIXED = frozenset(
    {"allocated", "available", "bcloneratio", "bclonesaved", "bcloneused", "capacity", "checkpoint", "dedup_table_size", "dedupratio"}
    | {"expandsize", "fragmentation", "free", "freeing", "guid", "health", "last_scrubbed_txg", "leaked", "load_guid", "readonly"}
    | {"size", "tname"}
)
_AT_IMPORT = frozenset({"altroot"})
KNOWN = frozenset(
    {"altroot", "ashift", "autoexpand", "autoreplace", "autotrim", "bootfs", "cachefile", "comment", "compatibility", "delegation"}
    | {"dedup_table_quota", "failmode", "listsnapshots", "multihost", "version"}
)


def plan_properties(draft: Draft, scene: Scene) -> None:
    """One step for each property that differs, or why it cannot be set."""
    pool, known = scene.want.name, scene.have.properties
    for name, value in scene.want.properties.items():
        found = known.get(name, "-" if ":" in name else None)
        if found is None:
            draft.refuse(unknown(pool, name, known))
        elif not same(name, value, found):
            reason = why_not(pool, name, value, found) or (_ashift(scene, value) if name == "ashift" else "")
            if reason:
                draft.refuse(reason)
                continue
            draft.step("set", pool, f"Set {name}={value} (was {found}) on pool {pool}", Command(("zpool", "set", f"{name}={value}", pool)))
            draft.differ(name, found, value)


def unknown(pool: str, name: str, known: Iterable[str]) -> str:
    """What to say of a property that ZFS does not have."""
    near = difflib.get_close_matches(name, list(known), n=1)
    remedy = f"did you mean {near[0]}?" if near else "correct its name under properties."
    return f"ZFS on this host knows no pool property {name!r} (pool {pool}): {remedy}"


def why_not(pool: str, name: str, value: str, found: str) -> str:
    """Why a pool property cannot be set; empty when it can."""
    if name in FIXED:
        return f"Refusing to set {name}={value} on pool {pool}: ZFS only reports {name}, which is {found} now. Remove it from properties."
    if name in _AT_IMPORT:
        return (
            f"Refusing to set {name}={value} on pool {pool}, which has {found}: ZFS takes {name} only when it imports a pool."
            f" Run `zpool export {pool}` and `zpool import -o {name}={value} {pool}`, or declare {name}: {found}."
        )
    if name.startswith("feature@") and value == "disabled":
        return f"Refusing to disable {name} on pool {pool}: it is {found}, and ZFS never disables a feature. Remove it from properties."
    if name == "version" and value != "-":
        return f"Refusing to set version={value} on pool {pool}: set upgrade: true to move it to feature flags, and remove version."
    return ""


def _ashift(scene: Scene, value: str) -> str:
    """The property decides about vdevs to come; it is set when it says what those that exist have."""
    found = sorted({scene.ashift(group) for group in scene.groups if group.use in VITAL} - {None}, key=str)
    now = scene.have.properties.get("ashift", "0")
    actual = [str(each) for each in found] or ([] if now == "0" else [now])
    if not actual or actual == [value]:
        return ""
    pool = scene.want.name
    return (
        f"Refusing to set ashift={value} on pool {pool}: its vdevs have ashift={', '.join(actual)}, which ZFS fixes when a vdev is created."
        f" Declare ashift: {actual[0]}; another needs a new pool, and the data sent over."
    )


def cannot_create(pool: str, properties: Mapping[str, str]) -> list[str]:
    """What of the declared properties no new pool takes."""
    reasons = []
    for name, value in properties.items():
        if name in FIXED:
            reasons.append(f"Pool {pool}: {name}={value} cannot be set, ZFS only reports it. Remove it from properties.")
        elif name not in KNOWN and ":" not in name and difflib.get_close_matches(name, list(KNOWN), n=1, cutoff=0.8):
            reasons.append(unknown(pool, name, KNOWN))
    return reasons
