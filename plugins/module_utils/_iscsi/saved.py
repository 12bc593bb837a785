# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The saved file: which part of it is ours, how it differs, and writing it so that a power cut leaves the old or the new one."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, Iterator

from .model import SECRET, Dump

# By what entries of a list are the same ones, whatever their order: the kernel lists its directories in none.
_IDENTITIES = (("plugin", "name"), ("fabric", "wwn"), ("node_wwn",), ("tag",), ("ip_address", "port"), ("index",), ("name",))


@dataclass(frozen=True)
class Scope:
    """The part of the saved file that a run answers for.

    :param targets: names of the targets, present or to go.
    :param stores: names of backstores that may be forgotten when the kernel has them no more.
    :param discovery: whether the credentials for discovery are ours.
    """

    targets: tuple[str, ...]
    stores: tuple[str, ...] = ()
    discovery: bool = False


def merge_saved(saved: Dump | None, dump: Dump, scope: Scope) -> Dump:
    """Return the saved configuration with our targets, and the backstores behind them, as the kernel has them.

    Everything else in the file stays: a target the boot service could not restore, or one that somebody else saved.
    """
    base: Dump = dict(saved) if saved else {"fabric_modules": [], "storage_objects": [], "targets": []}
    old = [target for target in base.get("targets", []) if target.get("wwn") in scope.targets]
    ours = [target for target in dump["targets"] if target["wwn"] in scope.targets]
    base["targets"] = [item for item in base.get("targets", []) if item not in old] + ours
    served = _served(ours)
    live = [item for item in dump["storage_objects"] if _path(item) in served]
    known = {_path(item) for item in dump["storage_objects"]} | _served(base["targets"])
    lost = {path for path in _served(old) if path not in known}
    base["storage_objects"] = [
        item
        for item in base.get("storage_objects", [])
        if _path(item) not in served | lost and not (item.get("name") in scope.stores and _path(item) not in known)
    ] + live
    if scope.discovery:
        base["fabric_modules"] = _fabrics(base.get("fabric_modules", []), dump)
    return base


def _fabrics(saved: list[Dump], dump: Dump) -> list[Dump]:
    """Discovery as rtslib saves it: only where it is enforced."""
    enforced = [item for item in dump.get("fabric_modules", []) if item.get("discovery_enable_auth")]
    return [item for item in saved if item.get("name") != "iscsi"] + enforced


def drift(saved: Dump, running: Dump) -> tuple[str, ...]:
    """What differs between a file and what it should be, a phrase each; passwords never show."""
    return tuple(_differences("", saved, running))


def write_saved(path: str, config: Dump) -> None:
    """Replace the file at once; it holds passwords, so only root may read it."""
    folder = Path(path).parent
    handle, name = tempfile.mkstemp(dir=folder, prefix=".saveconfig.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(config, file, sort_keys=True, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _served(targets: Iterable[Dump]) -> set[str]:
    return {lun["storage_object"] for target in targets for tpg in target.get("tpgs", ()) for lun in tpg.get("luns", ())}


def _path(item: Dump) -> str:
    return f"/backstores/{item.get('plugin')}/{item.get('name')}"


def _differences(where: str, saved: Any, running: Any) -> Iterator[str]:
    if isinstance(saved, dict) and isinstance(running, dict):
        for key in sorted({*saved, *running}):
            yield from _differences(f"{where} {key}".strip(), saved.get(key), running.get(key))
    elif isinstance(saved, list) and isinstance(running, list):
        left, right = _named(saved), _named(running)
        for name in sorted({*left, *right}):
            if name not in right:
                yield f"{where} {name} is in the file only"
            elif name not in left:
                yield f"{where} {name} is in the kernel only"
            else:
                yield from _differences(f"{where} {name}", left[name], right[name])
    elif saved != running:
        hidden = "password" in where
        shown = (SECRET, SECRET) if hidden else (_show(saved), _show(running))
        yield f"{where}: {shown[0]} in the file, {shown[1]} in the kernel"


def _show(value: Any) -> str:
    if value is None:
        return "nothing"
    return "entries" if isinstance(value, (dict, list)) else repr(value)


def _named(items: list[Any]) -> dict[str, Any]:
    return {_name(item): item for item in items}


def _name(item: Any) -> str:
    if isinstance(item, dict):
        for keys in _IDENTITIES:
            if all(key in item for key in keys):
                return " ".join(str(item[key]) for key in keys)
    return json.dumps(item, sort_keys=True)
