# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What several options have in common: names, addresses, tables of settings, and that nothing is declared twice."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Mapping

from .._errors import BadInput
from .model import DEFAULT_PORT, Portal

_WWN = re.compile(r"^(iqn\.[0-9]{4}-(0[1-9]|1[0-2])\.[^\s_/]+\.[^\s_/]+|eui\.[0-9a-f]{16}|naa\.[125][0-9a-f]{15})$")
# RFC 7143, 4.2.7.1.
_LONGEST_WWN = 223
_SETTING = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


def parse_wwn(text: str, option: str) -> str:
    """Return an iSCSI name in the form the kernel keeps it.

    :raises BadInput: when it is none.
    """
    wwn = text.strip().lower()
    if not _WWN.match(wwn) or len(wwn) > _LONGEST_WWN:
        raise BadInput(
            f"The {option} {text!r} is no iSCSI name. Write it as iqn.YYYY-MM.reversed.domain:name, without underscores or spaces, "
            f"at most {_LONGEST_WWN} characters."
        )
    return wwn


def parse_portal(text: str, wwn: str) -> Portal:
    """Read ``10.0.0.1``, ``10.0.0.1:3260``, ``[fd00::1]:3260`` or ``fd00::1``.

    :raises BadInput: when it is no numeric address with an optional port, or one that a target cannot listen on.
    """
    found = re.match(r"^(?:\[(?P<v6>[^\]]+)\]|(?P<v4>[^:]+))(?::(?P<port>[0-9]{1,5}))?$", text)
    host, port = (found["v6"] or found["v4"], int(found["port"] or DEFAULT_PORT)) if found else (text, DEFAULT_PORT)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise BadInput(
            f"The portal {text!r} of target {wwn} is no address. Write a numeric address of this host, such as 10.0.0.1:3260."
        ) from None
    if address.is_multicast or (address.is_reserved if address.version == 4 else address.is_link_local):
        raise BadInput(
            f"The portal {text!r} of target {wwn} is an address that a target cannot listen on. Name one that belongs to an interface of "
            "this host and needs no zone."
        )
    if not 0 < port < 65536:
        raise BadInput(f"The portal {text!r} of target {wwn} has a port outside 1 to 65535. Choose another; 3260 is usual.")
    return Portal(f"[{address}]" if address.version == 6 else str(address), port)


def parse_settings(
    given: Mapping[str, Any] | None, what: str, *, forbidden: Mapping[str, str] | None = None, flags: tuple[str, str] = ("0", "1")
) -> dict[str, str]:
    """Return a table of attributes or parameters as the kernel spells them.

    :param what: whose they are, such as ``attribute of LUN 0 of target X``.
    :param forbidden: settings that are not for this table, and what to do instead.
    :param flags: how the kernel writes false and true; YAML reads an unquoted Yes as true.
    :raises BadInput: for a name or value that cannot be one.
    """
    settings = {}
    for name, value in (given or {}).items():
        if not _SETTING.fullmatch(str(name)):
            raise BadInput(f"The {what} {name!r} is no name the kernel knows. Use letters, digits and underscores only.")
        if forbidden and name in forbidden:
            raise BadInput(f"The {what} {name} cannot be set here. {forbidden[name]}")
        settings[str(name)] = flags[value] if isinstance(value, bool) else _setting(value, f"{what} {name}")
    return settings


def _setting(value: Any, whose: str) -> str:
    text = str(value).strip() if isinstance(value, (str, int)) else ""
    if not text or not text.isprintable():
        raise BadInput(f"The {whose} has the value {value!r}. Give it one line of text or a whole number.")
    return text


def check_unique(where: str, what: str, values: list[Any]) -> None:
    """Refuse what is declared more than once.

    :raises BadInput: naming it.
    """
    for value in values:
        if values.count(value) > 1:
            raise BadInput(f"The {what} {value} is declared {values.count(value)} times in {where}. Declare it once.")
