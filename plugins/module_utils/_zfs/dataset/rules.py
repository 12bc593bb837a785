# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ZFS allows each property: when it may be set, on what, and to what. The source of all of it is zfsprops(7)."""

from __future__ import annotations

import re

from ..values import as_size
from .model import INHERIT

# ZFS fixes these when it creates a dataset.
FIXED = frozenset({"casesensitivity", "encryption", "keyformat", "normalization", "pbkdf2iters", "type", "utf8only", "volblocksize"})
# Sizes and counts that are "none" unless set: never inherited.
LIMITS = frozenset({"quota", "refquota", "reservation", "refreservation", "filesystem_limit", "snapshot_limit"})
NOT_INHERITED = LIMITS | {"canmount", "keylocation", "volsize"}
_REPORTED = frozenset(
    {
        *("available", "clones", "compressratio", "createtxg", "creation", "defer_destroy", "encryptionroot", "filesystem_count", "guid"),
        *("keystatus", "mounted", "objsetid", "origin", "receive_resume_token", "refcompressratio", "referenced", "snapshot_count"),
        *("snapshots_changed", "userrefs"),
    }
)
_REPORTED_PREFIXES = ("used", "logical", "written", "userused@", "groupused@", "userobjused@", "groupobjused@", "projectused@")
_FILESYSTEM_ONLY = frozenset(
    {
        *("aclinherit", "aclmode", "acltype", "atime", "canmount", "casesensitivity", "devices", "dnodesize", "exec", "filesystem_limit"),
        *("mountpoint", "nbmand", "normalization", "overlay", "quota", "recordsize", "refquota", "relatime", "setuid", "sharenfs"),
        *("sharesmb", "snapdir", "utf8only", "version", "vscan", "xattr", "zoned"),
    }
)
_VOLUME_ONLY = frozenset({"volblocksize", "volsize", "volthreading"})
_ON_OFF = ("off", "on")
_CHOICES = {
    **dict.fromkeys(("atime", "devices", "exec", "nbmand", "overlay", "readonly"), _ON_OFF),
    **dict.fromkeys(("relatime", "setuid", "utf8only", "vscan", "zoned"), _ON_OFF),
    "canmount": ("off", "on", "noauto"),
    "casesensitivity": ("sensitive", "insensitive", "mixed"),
    "copies": ("1", "2", "3"),
    "logbias": ("latency", "throughput"),
    "normalization": ("none", "formC", "formD", "formKC", "formKD"),
    "sync": ("standard", "always", "disabled"),
}
_BLOCK_SIZES = ("recordsize", "volblocksize")
_QUOTA = re.compile(r"^(user|group|project)(?:obj)?quota@(.*)$")


def quota_owner(what: str) -> tuple[str, str] | None:
    """Whose quota a property such as ``userquota@bob`` is: the kind and the name."""
    found = _QUOTA.match(what)
    return (found.group(1), found.group(2)) if found else None


def fault(kind: str, what: str, value: str) -> str:
    """What is wrong with a declared property, and what to do about it; empty when ZFS may take it.

    :param kind: ``filesystem`` or ``volume``.
    """
    if ":" in what:  # a property of the users': ZFS does not look at it
        return ""
    if what in {"keyformat", "keylocation"}:
        return "describes the key: declare it under encryption, with format, and with key or file"
    if what in _REPORTED or what.startswith(_REPORTED_PREFIXES):
        return "is only reported by ZFS: remove it from properties"
    other = {"filesystem": _VOLUME_ONLY, "volume": _FILESYSTEM_ONLY}[kind]
    if what in other or (kind == "volume" and quota_owner(what)):
        return f"is no property of a {kind}: remove it from properties"
    if "@" in what:
        return _quota_fault(what, value)
    return _inherit_fault(what) if value == INHERIT else _value_fault(kind, what, value)


def _quota_fault(what: str, value: str) -> str:
    owner = quota_owner(what)
    if not owner:
        return "is no property ZFS lets one set: correct it to one like userquota@NAME, groupquota@NAME or projectquota@NUMBER"
    if not owner[1]:
        return f"names no {owner[0]}: write it after the @"
    if owner[0] == "project" and not owner[1].isdecimal():
        return f"names the project {owner[1]!r}: give its number"
    return "" if _is_limit(value) else f"has the value {value!r}: give a size or count like 10G, or none"


def _inherit_fault(what: str) -> str:
    if what in LIMITS:
        return "is never inherited: declare none to remove the limit"
    if what in NOT_INHERITED or what in FIXED:
        return "is never inherited: declare its value, or leave it out"
    return ""


def _value_fault(kind: str, what: str, value: str) -> str:
    if value in {"", "-"}:
        return "has no value: declare inherit to take it from the parent, or leave it out"
    if what in _CHOICES and value not in _CHOICES[what]:
        return f"has the value {value!r}: choose one of {', '.join(_CHOICES[what])}"
    if what == "mountpoint" and not (value in {"none", "legacy"} or value.startswith("/")):
        return f"has the value {value!r}: give an absolute path, none or legacy"
    if what in LIMITS and not (_is_limit(value) or (kind, what, value) == ("volume", "refreservation", "auto")):
        return f"has the value {value!r}: give a size or count like 10G, or none"
    if what in _BLOCK_SIZES:
        size = _as_given(value) or 0
        if size & (size - 1) or not 512 <= size <= 16 << 20:
            return f"has the value {value!r}: give a power of two from 512 to 16M"
    return ""


def _is_limit(value: str) -> bool:
    return value == "none" or _as_given(value) is not None


def _as_given(value: str) -> int | None:
    """Bytes of a size that reaches ZFS as it was declared: ZFS takes none with a blank before the unit."""
    return None if " " in value else as_size(value)
