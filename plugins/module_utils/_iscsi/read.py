# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's configuration, the saved file and the devices, as they are. No decision here."""

from __future__ import annotations

import importlib
import json
import os
import stat
from pathlib import Path
from typing import Any, Iterable, Mapping

from .._disk.probe import is_busy
from .._errors import StackError
from .model import Acl, Backstore, Chap, Device, Dump, MappedLun, Portal, State, Tpg

CONFIGFS = "/sys/kernel/config/target"
# Debian and Ubuntu; used where rtslib is not installed yet and cannot be asked.
DEFAULT_SAVE_FILE = "/etc/rtslib-fb-target/saveconfig.json"


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


def read_dump(rtslib: Any, root: Any) -> Dump:
    """Return storage objects and targets. Not RTSRoot.dump(): that one loads fabric modules to look at discovery.

    :raises StackError: when the configuration changes under the reader.
    """
    if root is None:
        return {"storage_objects": [], "targets": []}
    try:
        return {
            "storage_objects": [item.dump() for item in root.storage_objects],
            "targets": [target.dump() for target in root.targets],
        }
    except (rtslib.RTSLibError, OSError) as error:
        raise StackError(f"The kernel's iSCSI configuration cannot be read: {error}. Run again when nobody else changes it.") from error


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
    return saved


def read_device(path: str) -> Device:
    """Look at one device without touching what is on it."""
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return Device(path, exists=False)
    if not stat.S_ISBLK(mode):
        return Device(path, exists=True, is_block=False, real=os.path.realpath(path))
    return Device(path, exists=True, real=os.path.realpath(path), busy=is_busy(os.path.realpath(path)))


def read_state(dump: Dump, *, saved: Dump | None, devices: Iterable[Device]) -> State:
    """Turn a dump into the planner's state."""
    backstores = tuple(_backstore(item) for item in dump["storage_objects"])
    targets = {item["wwn"]: tuple(_tpg(tpg) for tpg in item["tpgs"]) for item in dump["targets"] if item["fabric"] == "iscsi"}
    return State(
        backstores=backstores,
        targets=targets,
        devices={device.path: device for device in devices},
        real={item.device: os.path.realpath(item.device) for item in backstores if item.device.startswith("/")},
        dump=dump,
        saved=saved,
    )


def _backstore(item: Mapping[str, Any]) -> Backstore:
    return Backstore(item["plugin"], item["name"], str(item.get("dev") or ""), str(item.get("wwn") or ""))


def _tpg(item: Mapping[str, Any]) -> Tpg:
    return Tpg(
        tag=item["tag"],
        enabled=item["enable"],
        attributes=item.get("attributes", {}),
        luns={lun["index"]: _store_of(lun["storage_object"]) for lun in item["luns"]},
        portals=tuple(Portal(portal["ip_address"], portal["port"]) for portal in item["portals"]),
        acls=tuple(_acl(acl) for acl in item["node_acls"]),
    )


def _store_of(path: str) -> tuple[str, str]:
    """Split ``/backstores/block/disk0``."""
    plugin, name = path.split("/", 3)[2:4]
    return plugin, name


def _acl(item: Mapping[str, Any]) -> Acl:
    chap = Chap(*(item.get("chap_" + key) or "" for key in ("userid", "password", "mutual_userid", "mutual_password")))
    mapped = tuple(MappedLun(lun["index"], lun["tpg_lun"], lun["write_protect"]) for lun in item["mapped_luns"])
    return Acl(item["node_wwn"], chap, mapped)
