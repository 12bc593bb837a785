# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Credentials as declared: complete, usable by the kernel, and long enough."""

from __future__ import annotations

from typing import Any, Mapping

from .._errors import BadInput
from .model import Chap, Discovery

# RFC 7143, 12.1.3: a CHAP secret shorter than 96 bits must not be used on a network that others can read.
_SHORTEST_PASSWORD = 12
# The kernel keeps 256 bytes, the end of the text included (MAX_USER_LEN, MAX_PASS_LEN).
_LONGEST_SECRET = 255


def parse_chap(option: Mapping[str, Any], whose: str) -> Chap:
    """Return the credentials in an entry; empty ones where it has none.

    :param whose: who has them, such as ``initiator X of target Y``.
    :raises BadInput: when they are incomplete, too short, or nothing the kernel keeps.
    """
    chap = Chap(*(option.get(key) or "" for key in ("userid", "password", "mutual_userid", "mutual_password")))
    _check_pair(chap.userid, chap.password, whose, "")
    _check_pair(chap.mutual_userid, chap.mutual_password, whose, "mutual_")
    if chap.mutual_userid and not chap.userid:
        raise BadInput(f"The {whose} has mutual_userid but no userid. Mutual CHAP needs both.")
    if chap.password and chap.password == chap.mutual_password:
        raise BadInput(f"The {whose} has one password in both directions. Choose two.")
    return chap


def parse_discovery(option: Mapping[str, Any] | None) -> Discovery | None:
    """Return what the option ``discovery_auth`` declares; None leaves discovery as it is.

    :raises BadInput: when the credentials do not fit.
    """
    if option is None:
        return None
    chap = parse_chap(option, "discovery_auth")
    enforced = bool(option.get("enforce", True))
    if enforced and not chap.userid:
        raise BadInput("The discovery_auth has no userid and password. Give both, or set enforce to false to list targets to everybody.")
    if not enforced and chap.userid:
        raise BadInput("The discovery_auth has credentials, but enforce is false. Leave the credentials out, or enforce them.")
    return Discovery(enforced, chap)


def _check_pair(userid: str, password: str, whose: str, prefix: str) -> None:
    if bool(userid) != bool(password):
        raise BadInput(f"The {whose} has only one of {prefix}userid and {prefix}password. Give both or neither.")
    if password and len(password) < _SHORTEST_PASSWORD:
        raise BadInput(f"The {prefix}password of {whose} is shorter than {_SHORTEST_PASSWORD} characters. Choose a longer one.")
    for value, name in ((userid, "userid"), (password, "password")):
        if not _keepable(value):
            raise BadInput(
                f"The {prefix}{name} of {whose} cannot be used: the kernel takes at most {_LONGEST_SECRET} printable ASCII characters, "
                "no blanks at the ends, and nothing that begins with NULL. Choose another."
            )


def _keepable(value: str) -> bool:
    """Whether the kernel keeps a text as it is; it takes whatever begins with NULL for "none", not only the word itself."""
    plain = value.isascii() and value.isprintable() and value == value.strip()
    return plain and not value.startswith("NULL") and len(value) <= _LONGEST_SECRET
