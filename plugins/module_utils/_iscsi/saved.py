# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The saved file: which part of it is ours, and writing it so that a power cut leaves the old or the new one."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Iterable

from .model import Dump


def merge_saved(saved: Dump | None, dump: Dump, wwns: Iterable[str]) -> Dump:
    """Return the saved configuration with the named targets, and the backstores behind them, as the kernel has them.

    Everything else in the file stays: a target the boot service could not restore, or one that somebody else saved.
    """
    names = set(wwns)
    base: Dump = dict(saved) if saved else {"fabric_modules": [], "storage_objects": [], "targets": []}
    ours = [target for target in dump["targets"] if target["wwn"] in names]
    stores = {lun["storage_object"] for target in ours for tpg in target["tpgs"] for lun in tpg["luns"]}
    live = [item for item in dump["storage_objects"] if _path(item) in stores]
    base["targets"] = [item for item in base.get("targets", []) if item.get("wwn") not in names] + ours
    base["storage_objects"] = [item for item in base.get("storage_objects", []) if _path(item) not in stores] + live
    return base


def same(left: Dump | None, right: Dump) -> bool:
    """Whether two configurations mean the same: the kernel lists its directories in no particular order."""
    return left is not None and _canonical(left) == _canonical(right)


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


def _path(item: Dump) -> str:
    return f"/backstores/{item.get('plugin')}/{item.get('name')}"


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return sorted((_canonical(entry) for entry in value), key=lambda entry: json.dumps(entry, sort_keys=True))
    return value
