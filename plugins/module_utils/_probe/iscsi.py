# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An iSCSI login up to the point where a session would begin: who may log in is proved, no disk appears and no session is disturbed.

Formats and keys: RFC 7143, sections 11.12 and 11.13 (Login Request and Response), 12.1.3 (CHAP).
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
from dataclasses import dataclass, field
from typing import Mapping

from .._errors import StackError
from .._iscsi.fields import parse_portal

_LOGIN_REQUEST, _LOGIN_RESPONSE = 0x43, 0x23
_TRANSIT, _SECURITY, _OPERATIONAL = 0x80, 0, 1
_HEADER = 48
_MD5 = "5"
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound
# Status classes and details a person can act on (RFC 7143, 11.13.5).
_STATUSES = {
    0x0201: "the user name or password is wrong",
    0x0202: "this initiator may not log in",
    0x0203: "there is no such target at this portal",
    0x0301: "the target is not available",
}


@dataclass(frozen=True)
class Login:
    """Who logs in where.

    :param portal: address, with the port where it is not 3260.
    :param userid: CHAP user; empty where the target asks for none.
    :param mutual_password: with which the target proves itself; empty where it need not.
    """

    wwn: str
    portal: str
    initiator: str
    userid: str = ""
    password: str = field(default="", repr=False)
    mutual_password: str = field(default="", repr=False)


@dataclass(frozen=True)
class _Answer:
    status: int
    transit: bool
    keys: Mapping[str, str]


def address_of(portal: str) -> tuple[str, int]:
    """Where to connect to: a portal that listens everywhere is asked on the loopback address."""
    found = parse_portal(portal, "that was asked")
    host = found.address.strip("[]")
    return _LOOPBACK.get(host, host), found.port


def log_in(login: Login, *, timeout: float = 30.0) -> str:
    """Log in up to the end of the security stage.

    :param timeout: seconds each answer may take.
    :return: what is wrong, or an empty string.
    """
    try:
        with socket.create_connection(address_of(login.portal), timeout=timeout) as line:
            return _Talk(line, login).authenticate()
    except (OSError, StackError, ValueError, KeyError, struct.error) as error:
        return str(error) or type(error).__name__


class _Talk:
    """One connection in its login phase."""

    def __init__(self, line: socket.socket, login: Login) -> None:
        self.line = line
        self.login = login
        # A random session identifier: one that a real initiator uses would end that initiator's session.
        self.isid = b"\x80" + os.urandom(5)

    def authenticate(self) -> str:
        who = {"InitiatorName": self.login.initiator, "TargetName": self.login.wwn, "SessionType": "Normal"}
        first = self._ask({**who, "AuthMethod": "CHAP,None" if self.login.userid else "None"}, transit=True)
        if first.status or first.transit:
            return _wrong(first)
        if first.keys.get("AuthMethod") != "CHAP":
            return f"the target wants {first.keys.get('AuthMethod', 'something')} for authentication"
        challenge = self._ask({"CHAP_A": _MD5})
        if challenge.status:
            return _wrong(challenge)
        return self._prove(challenge.keys)

    def _prove(self, asked: Mapping[str, str]) -> str:
        answer = _response(int(asked["CHAP_I"]), self.login.password, _binary(asked["CHAP_C"]))
        keys = {"CHAP_N": self.login.userid, "CHAP_R": "0x" + answer.hex()}
        number, own = os.urandom(1)[0], os.urandom(16)
        if self.login.mutual_password:
            keys.update(CHAP_I=str(number), CHAP_C="0x" + own.hex())
        last = self._ask(keys, transit=True)
        if last.status:
            return _wrong(last)
        wanted = _response(number, self.login.mutual_password, own)
        if self.login.mutual_password and _binary(last.keys.get("CHAP_R", "0x")) != wanted:
            return "the target proved itself with another password than mutual_password"
        return ""

    def _ask(self, keys: Mapping[str, str], *, transit: bool = False) -> _Answer:
        data = b"".join(f"{name}={value}\0".encode() for name, value in keys.items())
        stages = _SECURITY << 2 | (_OPERATIONAL | _TRANSIT if transit else 0)
        head = struct.pack(">BBBBI6sHIHHI", _LOGIN_REQUEST, stages, 0, 0, len(data), self.isid, 0, 1, 0, 0, 0)
        self.line.sendall(head.ljust(_HEADER, b"\0") + data + b"\0" * (-len(data) % 4))
        found = self._read(_HEADER)
        if found[0] & 0x3F != _LOGIN_RESPONSE:
            raise StackError("it does not speak iSCSI")
        length = int.from_bytes(found[5:8], "big")
        text = self._read(length + -length % 4)[:length].decode(errors="replace")
        pairs = dict(pair.split("=", 1) for pair in text.split("\0") if "=" in pair)
        return _Answer(int.from_bytes(found[36:38], "big"), bool(found[1] & _TRANSIT), pairs)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.line.recv(size - len(data))
            if not piece:
                raise StackError("the target closed the connection")
            data += piece
        return data


def _response(number: int, secret: str, challenge: bytes) -> bytes:
    # The protocol knows no other digest that LIO offers everywhere.
    return hashlib.md5(bytes([number]) + secret.encode() + challenge).digest()  # noqa: S324


def _binary(value: str) -> bytes:
    """A binary value of a login key: only the hexadecimal form is in use."""
    return bytes.fromhex(value[2:]) if value[:2] in ("0x", "0X") else b""


def _wrong(answer: _Answer) -> str:
    if not answer.status:
        return ""
    return _STATUSES.get(answer.status, f"the target answered with status {answer.status:#06x}")
