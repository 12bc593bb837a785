# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads who a node is from its certificate: the only place where a worker's engine tells its cluster's ID."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from .._errors import StackError

_ORGANIZATION = bytes.fromhex("55040a")
_UNIT = bytes.fromhex("55040b")
_COMMON_NAME = bytes.fromhex("550403")
_VERSION_TAG = 0xA0


@dataclass(frozen=True)
class Identity:
    """The subject of a node's certificate."""

    node_id: str
    cluster_id: str
    is_manager: bool


def parse_identity(pem: str) -> Identity:
    """Read the first certificate of a PEM text.

    :raises StackError: the text holds no certificate.
    """
    try:
        body = pem.split("-----BEGIN CERTIFICATE-----", maxsplit=1)[1].split("-----END CERTIFICATE-----", maxsplit=1)[0]
        names = _subject(base64.b64decode("".join(body.split()), validate=True))
    except (IndexError, binascii.Error) as error:
        raise StackError("The node's certificate in Docker's swarm directory cannot be read: it is not a PEM certificate.") from error
    return Identity(
        node_id=names.get(_COMMON_NAME, ""),
        cluster_id=names.get(_ORGANIZATION, ""),
        is_manager=names.get(_UNIT, "") == "swarm-manager",
    )


def _element(data: bytes, at: int) -> tuple[int, int, int]:
    """Return tag, start and end of the DER element at `at`."""
    length, start = data[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(data[start : start + size], "big"), start + size
    if start + length > len(data):
        raise IndexError(at)
    return data[at], start, start + length


def _children(data: bytes, start: int, end: int) -> list[tuple[int, int, int]]:
    found = []
    while start < end:
        found.append(_element(data, start))
        start = found[-1][2]
    return found


def _subject(der: bytes) -> dict[bytes, str]:
    """Return the subject's names by object identifier."""
    _tag, start, end = _element(der, 0)
    _tag, start, end = _element(der, start)
    fields = _children(der, start, end)
    if fields[0][0] == _VERSION_TAG:
        fields = fields[1:]
    # serial, signature algorithm, issuer, validity, subject
    _tag, start, end = fields[4]
    names = {}
    for _set_tag, set_start, set_end in _children(der, start, end):
        for _pair_tag, pair_start, pair_end in _children(der, set_start, set_end):
            key, value = _children(der, pair_start, pair_end)[:2]
            names[der[key[1] : key[2]]] = der[value[1] : value[2]].decode("utf-8", "replace")
    return names
