# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the module to wanted targets; each fault is a sentence that names the option."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Iterable, Mapping

from .._errors import BadInput
from .model import DEFAULT_PORT, Acl, Chap, MappedLun, Portal, WantedLun, WantedTarget

_WWN = re.compile(r"^(iqn\.[0-9]{4}-(0[1-9]|1[0-2])\.[^\s_/]+\.[^\s_/]+|eui\.[0-9a-f]{16}|naa\.[125][0-9a-f]{15})$")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$")
_SERIAL = re.compile(r"^[0-9A-Fa-f-]{16,64}$")
# RFC 7143, 12.1.3: a CHAP secret shorter than 96 bits must not be used on a network that others can read.
_SHORTEST_PASSWORD = 12
_LONGEST_SECRET = 255


def parse_targets(options: Iterable[Mapping[str, Any]]) -> tuple[WantedTarget, ...]:
    """Check the option ``targets`` and return what it declares.

    :raises BadInput: at the first fault.
    """
    targets = tuple(_target(option) for option in options)
    _unique("targets", "wwn", [target.wwn for target in targets])
    _unique("targets", "LUN name", [lun.name for target in targets for lun in target.luns])
    _unique("targets", "device", [lun.device for target in targets for lun in target.luns])
    return targets


def _target(option: Mapping[str, Any]) -> WantedTarget:
    wwn = _wwn(option["wwn"], "wwn")
    luns = tuple(_lun(lun, wwn) for lun in option["luns"])
    acls = tuple(_acl(acl, wwn, luns, only=len(option["acls"]) == 1) for acl in option["acls"])
    portals = tuple(parse_portal(text, wwn) for text in option["portals"])
    _unique(wwn, "lun", [lun.index for lun in luns])
    _unique(wwn, "initiator", [acl.initiator for acl in acls])
    _unique(wwn, "portal", [str(portal) for portal in portals])
    _check_mappings(wwn, luns, acls)
    authentication = _authentication(wwn, acls, portals, allowed=bool(option.get("allow_unauthenticated")))
    return WantedTarget(wwn=wwn, portals=portals, luns=luns, acls=acls, authentication=authentication)


def _wwn(text: str, option: str) -> str:
    wwn = text.strip().lower()
    if not _WWN.match(wwn):
        raise BadInput(
            f"The {option} {text!r} is no iSCSI name. Write it as iqn.YYYY-MM.reversed.domain:name, without underscores or spaces."
        )
    return wwn


def parse_portal(text: str, wwn: str) -> Portal:
    """Read ``10.0.0.1``, ``10.0.0.1:3260``, ``[fd00::1]:3260`` or ``fd00::1``.

    :raises BadInput: when it is no numeric address with an optional port.
    """
    found = re.match(r"^(?:\[(?P<v6>[^\]]+)\]|(?P<v4>[^:]+))(?::(?P<port>[0-9]{1,5}))?$", text)
    host, port = (found["v6"] or found["v4"], int(found["port"] or DEFAULT_PORT)) if found else (text, DEFAULT_PORT)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise BadInput(
            f"The portal {text!r} of target {wwn} is no address. Write a numeric address of this host, such as 10.0.0.1:3260."
        ) from None
    if not 0 < port < 65536:
        raise BadInput(f"The portal {text!r} of target {wwn} has a port outside 1 to 65535.")
    return Portal(f"[{address}]" if address.version == 6 else str(address), port)


def _lun(option: Mapping[str, Any], wwn: str) -> WantedLun:
    index, name, device, serial = option["lun"], option["name"], option["device"], option.get("serial") or ""
    if not 0 <= index <= 255:
        raise BadInput(f"LUN {index} of target {wwn} is outside 0 to 255.")
    if not _NAME.match(name):
        raise BadInput(f"The LUN name {name!r} of target {wwn} may hold letters, digits and . _ : - only, at most 64 of them.")
    if not device.startswith("/dev/"):
        raise BadInput(f"The device {device!r} of LUN {index} of target {wwn} is no path below /dev. Name a block device.")
    if serial and not _SERIAL.match(serial):
        raise BadInput(f"The serial {serial!r} of LUN {index} of target {wwn} is no UUID. Leave it out to have one derived from the names.")
    return WantedLun(index, name, device, serial)


def _acl(option: Mapping[str, Any], wwn: str, luns: tuple[WantedLun, ...], *, only: bool) -> Acl:
    initiator = _wwn(option["initiator"], "initiator")
    secrets = (option.get(key) or "" for key in ("userid", "password", "mutual_userid", "mutual_password"))
    chap = Chap(*secrets)
    _check_pair(chap.userid, chap.password, f"initiator {initiator} of target {wwn}", "")
    _check_pair(chap.mutual_userid, chap.mutual_password, f"initiator {initiator} of target {wwn}", "mutual_")
    if chap.mutual_userid and not chap.userid:
        raise BadInput(f"The initiator {initiator} of target {wwn} has mutual_userid but no userid. Mutual CHAP needs both.")
    if chap.password and chap.password == chap.mutual_password:
        raise BadInput(f"The initiator {initiator} of target {wwn} has one password in both directions. Choose two.")
    return Acl(initiator, chap, _mapped(option.get("mapped_luns"), initiator, wwn, luns if only else None))


def _mapped(entries: Any, initiator: str, wwn: str, luns: tuple[WantedLun, ...] | None) -> tuple[MappedLun, ...]:
    """Return the LUNs an initiator sees; only an initiator alone at its target sees them all unasked."""
    if entries is None and luns is None:
        raise BadInput(
            f"The initiator {initiator} of target {wwn} has no mapped_luns, and the target has other initiators. List the LUNs of "
            "each: two hosts that write to one disk destroy what is on it."
        )
    if entries is None:
        return tuple(MappedLun(lun.index, lun.index) for lun in luns or ())
    return tuple(
        MappedLun(entry["lun"] if entry.get("index") is None else entry["index"], entry["lun"], bool(entry.get("write_protect")))
        for entry in entries
    )


def _check_pair(userid: str, password: str, whose: str, prefix: str) -> None:
    if bool(userid) != bool(password):
        raise BadInput(f"The {whose} has only one of {prefix}userid and {prefix}password. Give both or neither.")
    if password and len(password) < _SHORTEST_PASSWORD:
        raise BadInput(f"The {prefix}password of {whose} is shorter than {_SHORTEST_PASSWORD} characters. Choose a longer one.")
    for value, name in ((userid, "userid"), (password, "password")):
        if value != value.strip() or value == "NULL" or len(value) > _LONGEST_SECRET:
            raise BadInput(
                f"The {prefix}{name} of {whose} cannot be used: the kernel takes at most {_LONGEST_SECRET} characters, "
                "no blanks at the ends, and not the word NULL."
            )


def _check_mappings(wwn: str, luns: tuple[WantedLun, ...], acls: tuple[Acl, ...]) -> None:
    declared = {lun.index for lun in luns}
    for acl in acls:
        _unique(f"initiator {acl.initiator} of target {wwn}", "mapped LUN", [entry.index for entry in acl.mapped])
        for entry in acl.mapped:
            if entry.lun not in declared:
                raise BadInput(f"The initiator {acl.initiator} maps LUN {entry.lun}, which target {wwn} does not declare under luns.")


def _authentication(wwn: str, acls: tuple[Acl, ...], portals: tuple[Portal, ...], *, allowed: bool) -> bool:
    """Whether the target asks for CHAP; refuses what would let strangers in."""
    bare = [acl.initiator for acl in acls if not acl.chap.userid]
    if not bare:
        return True
    if not allowed:
        raise BadInput(
            f"The initiator {bare[0]} of target {wwn} has no userid and password. Give both, or set allow_unauthenticated "
            "for this target if its portals are on an isolated network."
        )
    if len(bare) < len(acls):
        raise BadInput(f"Target {wwn} mixes initiators with and without credentials. Give all of them credentials, or none.")
    for portal in portals:
        if portal.is_wildcard:
            raise BadInput(
                f"Refusing target {wwn} without authentication on {portal}: every network of the host would reach it. "
                "Name the address on the isolated network."
            )
    return False


def _unique(where: str, what: str, values: list[Any]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise BadInput(f"The {what} {value} is declared {values.count(value)} times in {where}. Declare it once.")
