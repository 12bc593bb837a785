# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options ``luns`` and ``acls`` of a target; each fault is a sentence that names the option."""

from __future__ import annotations

import re
from typing import Any, Mapping, Sequence

from .._errors import BadInput
from .._zfs.values import as_size
from .chap import parse_chap
from .fields import check_unique, parse_settings, parse_wwn
from .model import Acl, MappedLun
from .wanted import WantedLun

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_SERIAL = re.compile(r"[0-9A-Fa-f-]{16,64}")
_SECTOR = 512


def parse_luns(options: Sequence[Mapping[str, Any]], wwn: str) -> tuple[WantedLun, ...]:
    """Check the option ``luns`` of a target.

    :raises BadInput: at the first fault.
    """
    luns = tuple(_lun(option, wwn) for option in options)
    check_unique(wwn, "lun", [lun.index for lun in luns])
    check_unique(wwn, "LUN name", [lun.name for lun in luns])
    return luns


def _lun(option: Mapping[str, Any], wwn: str) -> WantedLun:
    index, name, serial = option["lun"], option["name"], option.get("serial") or ""
    where = f"LUN {index} of target {wwn}"
    if not 0 <= index <= 255:
        raise BadInput(f"LUN {index} of target {wwn} is outside 0 to 255. Choose a free index in that range.")
    if not _NAME.fullmatch(name):
        raise BadInput(f"The LUN name {name!r} of target {wwn} may hold letters, digits and . _ : - only, at most 64 of them.")
    if serial and not _SERIAL.fullmatch(serial):
        raise BadInput(f"The serial {serial!r} of {where} is no UUID. Leave it out to have one derived from the names.")
    plugin = option.get("plugin") or "block"
    device = _device(option["device"], plugin, where)
    attributes = parse_settings(option.get("attributes"), f"attribute of {where}")
    return WantedLun(index, name, device, serial, plugin, _size(option.get("size"), plugin, where), attributes)


def _device(path: str, plugin: str, where: str) -> str:
    if any(sign in path for sign in ",= \t\n"):
        raise BadInput(
            f"The device {path!r} of {where} holds a blank, a comma or an equals sign, which the kernel would cut off. Rename it."
        )
    if plugin == "block" and not path.startswith("/dev/"):
        raise BadInput(f"The device {path!r} of {where} is no path below /dev. Name a block device, or set plugin to fileio for a file.")
    if plugin == "fileio" and (not path.startswith("/") or path.startswith("/dev/")):
        raise BadInput(f"The file {path!r} of {where} has to be an absolute path outside /dev. Set plugin to block for a device.")
    return path


def _size(text: str | None, plugin: str, where: str) -> int:
    if plugin == "block":
        if text:
            raise BadInput(
                f"The size of {where} is only for files: a block device has the size it has. Leave it out, and resize the volume."
            )
        return 0
    size = as_size(text or "")
    if not size or size % _SECTOR:
        raise BadInput(f"The size {text or ''!r} of {where} is not understood. Write a multiple of {_SECTOR} bytes, such as 10GiB.")
    return size


def parse_acls(options: Sequence[Mapping[str, Any]], wwn: str, luns: tuple[WantedLun, ...]) -> tuple[Acl, ...]:
    """Check the option ``acls`` of a target against its LUNs.

    :raises BadInput: at the first fault.
    """
    acls = tuple(_acl(option, wwn, luns if len(options) == 1 else None) for option in options)
    check_unique(wwn, "initiator", [acl.initiator for acl in acls])
    declared = {lun.index for lun in luns}
    for acl in acls:
        check_unique(f"initiator {acl.initiator} of target {wwn}", "mapped LUN", [entry.index for entry in acl.mapped])
        check_unique(f"mapped_luns of initiator {acl.initiator} of target {wwn}", "LUN", [entry.lun for entry in acl.mapped])
        for entry in acl.mapped:
            if entry.lun not in declared:
                raise BadInput(
                    f"The initiator {acl.initiator} maps LUN {entry.lun}, which target {wwn} does not declare under luns. "
                    "Declare it, or take the mapping out."
                )
            if not 0 <= entry.index <= 255:
                raise BadInput(
                    f"The mapped LUN {entry.index} of initiator {acl.initiator} is outside 0 to 255. Choose an index in that range."
                )
    return acls


def _acl(option: Mapping[str, Any], wwn: str, luns: tuple[WantedLun, ...] | None) -> Acl:
    initiator = parse_wwn(option["initiator"], "initiator")
    whose = f"initiator {initiator} of target {wwn}"
    forbidden = {"authentication": "Give all initiators credentials, or set allow_unauthenticated for the target."}
    attributes = parse_settings(option.get("attributes"), f"attribute of {whose}", forbidden=forbidden)
    return Acl(initiator, parse_chap(option, whose), _mapped(option.get("mapped_luns"), whose, luns), attributes)


def _mapped(entries: Sequence[Mapping[str, Any]] | None, whose: str, luns: tuple[WantedLun, ...] | None) -> tuple[MappedLun, ...]:
    """Read the mappings; without any, an only initiator sees all LUNs."""
    if entries is None and luns is None:
        raise BadInput(
            f"The {whose} has no mapped_luns, and the target has other initiators. List the LUNs of "
            "each: two hosts that write to one disk destroy what is on it."
        )
    if entries is None:
        return tuple(MappedLun(lun.index, lun.index) for lun in luns or ())
    return tuple(
        MappedLun(entry["lun"] if entry.get("index") is None else entry["index"], entry["lun"], bool(entry.get("write_protect")))
        for entry in entries
    )
