# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The library, the kernel's configuration, the saved file and the devices, as they are. No decision here."""

from __future__ import annotations

import importlib
import json
import os
import stat
import time
from pathlib import Path
from typing import Any, Iterable

from .._disk.probe import is_busy
from .._errors import StackError
from .debris import half_made, sweep
from .model import Device, Dump, Group
from .parse import read_backstores, read_targets

CONFIGFS = "/sys/kernel/config/target"
# Debian and Ubuntu; used where rtslib is not installed yet and cannot be asked.
DEFAULT_SAVE_FILE = "/etc/rtslib-fb-target/saveconfig.json"
# Seconds in which the library finishes what it has begun.
_SETTLED = 1.0


def load_rtslib() -> Any:
    """Return the library under whichever of its names it is installed, or None."""
    for name in ("rtslib_fb", "rtslib"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def default_save_file(rtslib: Any) -> str:
    """Return the file the boot service restores."""
    if rtslib is None:
        return DEFAULT_SAVE_FILE
    module = importlib.import_module(rtslib.__name__ + ".root")
    return str(getattr(module, "default_save_file", DEFAULT_SAVE_FILE))


def open_root(rtslib: Any, *, save_file: str, check_mode: bool) -> Any:
    """Return rtslib's root, or None in check mode where nothing is loaded: looking must not load kernel modules."""
    if check_mode and (rtslib is None or not Path(CONFIGFS).is_dir()):
        return None
    if rtslib is None:
        raise StackError(
            "The Python library rtslib is not installed on this host, so its iSCSI targets cannot be managed. "
            "Install python3-rtslib-fb there."
        )
    try:
        if not check_mode:
            Path(save_file).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        return rtslib.RTSRoot()
    except (rtslib.RTSLibError, OSError) as error:
        raise StackError(
            f"The kernel's target subsystem cannot be used: {error}. Check that the running kernel has the module target_core_mod "
            "(modprobe target_core_mod); a reboot helps when the kernel was upgraded."
        ) from error


def read_dump(rtslib: Any, root: Any, *, check_mode: bool = False) -> Dump:
    """Return storage objects, targets and discovery. Not RTSRoot.dump(): that one loads all fabric modules to look at discovery.

    What an interrupted call of the library left half made cannot be read; it holds nothing, and goes unless in check mode.

    :raises StackError: when the configuration cannot be read, such as when it changes under the reader.
    """
    if root is None:
        return {"storage_objects": [], "targets": [], "fabric_modules": []}
    try:
        try:
            return _dump(rtslib, root)
        except rtslib.RTSLibError:
            left = half_made(CONFIGFS)
            if not left or check_mode:
                raise
            # What somebody else is making at this moment is whole by then.
            time.sleep(_SETTLED)
            sweep([path for path in half_made(CONFIGFS) if path in left])
            root.invalidate_caches()
            return _dump(rtslib, root)
    except (rtslib.RTSLibError, OSError) as error:
        left = half_made(CONFIGFS)
        advice = f"Run without check mode, which removes {left[0]}, left half made" if left else "Run again when nobody else changes it"
        raise StackError(f"The kernel's iSCSI configuration cannot be read: {error}. {advice}.") from error


def _dump(rtslib: Any, root: Any) -> Dump:
    fabric = rtslib.FabricModule("iscsi")
    return {
        "storage_objects": [item.dump() for item in root.storage_objects],
        "targets": [target.dump() for target in root.targets],
        "fabric_modules": [fabric.dump()] if fabric.exists else [],
    }


def read_sessions(rtslib: Any, root: Any, wwns: Iterable[str]) -> dict[Group, tuple[str, ...]]:
    """Return who is logged in at the targets, those without an entry of their own included.

    :raises StackError: when the configuration changes under the reader.
    """
    if root is None:
        return {}
    names = set(wwns)
    try:
        fabric = rtslib.FabricModule("iscsi")
        targets = [target for target in fabric.targets if target.wwn in names] if fabric.exists else []
        return {Group(target.wwn, group.tag): _logged_in(group) for target in targets for group in target.tpgs}
    except (rtslib.RTSLibError, OSError) as error:
        raise StackError(f"The sessions of the iSCSI targets cannot be read: {error}. Run again when nobody else changes them.") from error


def _logged_in(group: Any) -> tuple[str, ...]:
    named = [acl.node_wwn for acl in group.node_acls if acl.session]
    try:
        # rtslib has no name for it: initiators admitted without an ACL, one a line.
        dynamic = Path(group.path, "dynamic_sessions").read_text(encoding="utf-8").replace("\0", "\n").split()
    except OSError:
        dynamic = []
    return tuple(sorted({*named, *dynamic}))


def read_saved(path: str) -> Dump | None:
    """Return what the boot service would restore, or None when nothing was ever saved."""
    try:
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StackError(f"The saved iSCSI configuration {path} cannot be read: {error}. Repair or remove it.") from error
    if not isinstance(saved, dict):
        raise StackError(f"The saved iSCSI configuration {path} holds no JSON object. Repair or remove it.")
    try:
        read_targets(saved)
        read_backstores(saved)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StackError(f"The saved iSCSI configuration {path} is none that rtslib wrote: {error!r}. Repair or remove it.") from error
    return saved


def read_device(path: str) -> Device:
    """Look at one device or file without touching what is on it."""
    folder = Path(path).parent.is_dir()
    try:
        status = Path(path).stat()
    except OSError:
        return Device(path, exists=False, real=os.path.realpath(path), folder=folder)
    real = os.path.realpath(path)
    if stat.S_ISBLK(status.st_mode):
        return Device(path, exists=True, real=real, busy=is_busy(real))
    return Device(path, exists=True, is_block=False, is_file=stat.S_ISREG(status.st_mode), real=real, size=status.st_size, folder=folder)
