# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a dump, of the kernel or of a saved file, to what the planner compares."""

from __future__ import annotations

import os
from typing import Any, Iterable, Mapping

from .model import Acl, Backstore, Chap, Device, Discovery, Dump, Group, MappedLun, Portal, State, StoreKey, Tpg

_CHAP = ("userid", "password", "mutual_userid", "mutual_password")


def read_state(
    dump: Dump,
    *,
    saved: Dump | None,
    devices: Iterable[Device],
    sessions: Mapping[Group, tuple[str, ...]] | None = None,
) -> State:
    """Turn a dump into the planner's state."""
    backstores = read_backstores(dump)
    return State(
        backstores=backstores,
        targets=read_targets(dump),
        devices={device.path: device for device in devices},
        real={item.device: os.path.realpath(item.device) for item in backstores if item.device.startswith("/")},
        uses=_uses(dump),
        sessions=sessions or {},
        discovery=read_discovery(dump),
        dump=dump,
        saved=saved,
    )


def read_backstores(dump: Dump) -> tuple[Backstore, ...]:
    """The storage objects of a dump."""
    return tuple(_backstore(item) for item in dump.get("storage_objects", ()))


def read_targets(dump: Dump) -> dict[str, tuple[Tpg, ...]]:
    """The iSCSI targets of a dump, by name."""
    return {item["wwn"]: tuple(_tpg(tpg) for tpg in item["tpgs"]) for item in dump.get("targets", ()) if item.get("fabric") == "iscsi"}


def read_discovery(dump: Dump) -> Discovery:
    """Discovery as a dump has it; a saved file lists it only where it is enforced."""
    found: Dump = next((item for item in dump.get("fabric_modules", ()) if item.get("name") == "iscsi"), {})
    return Discovery(bool(found.get("discovery_enable_auth")), _chap(found, "discovery_"))


def store_key(path: str) -> StoreKey:
    """Split ``/backstores/block/disk0``."""
    plugin, name = path.split("/", 3)[2:4]
    return StoreKey(plugin, name)


def _uses(dump: Dump) -> dict[StoreKey, tuple[tuple[Group, int], ...]]:
    uses: dict[StoreKey, tuple[tuple[Group, int], ...]] = {}
    for target in dump["targets"]:
        for tpg in target["tpgs"]:
            for lun in tpg["luns"]:
                key = store_key(lun["storage_object"])
                uses[key] = (*uses.get(key, ()), (Group(target["wwn"], tpg["tag"]), lun["index"]))
    return uses


def _backstore(item: Mapping[str, Any]) -> Backstore:
    size = int(item.get("size") or 0) if item["plugin"] == "fileio" else 0
    return Backstore(item["plugin"], item["name"], str(item.get("dev") or ""), str(item.get("wwn") or ""), size, item.get("attributes", {}))


def _tpg(item: Mapping[str, Any]) -> Tpg:
    return Tpg(
        tag=item["tag"],
        enabled=item["enable"],
        attributes=item.get("attributes", {}),
        parameters=item.get("parameters", {}),
        luns={lun["index"]: store_key(lun["storage_object"]) for lun in item["luns"]},
        portals=tuple(Portal(portal["ip_address"], portal["port"], iser=bool(portal.get("iser"))) for portal in item["portals"]),
        acls=tuple(_acl(acl) for acl in item["node_acls"]),
    )


def _acl(item: Mapping[str, Any]) -> Acl:
    mapped = tuple(MappedLun(lun["index"], lun["tpg_lun"], bool(lun["write_protect"])) for lun in item["mapped_luns"])
    return Acl(item["node_wwn"], _chap(item, "chap_"), mapped, item.get("attributes", {}))


def _chap(item: Mapping[str, Any], prefix: str) -> Chap:
    return Chap(*(item.get(prefix + key) or "" for key in _CHAP))
