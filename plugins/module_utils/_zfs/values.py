# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Property values of ZFS: when two spellings mean the same."""

from __future__ import annotations

import re
from typing import Any

from .._errors import BadInput

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(?:([KMGTPEZ])(?:I?B)?|B)?")
_POWERS = {unit: 1024**power for power, unit in enumerate(["", "K", "M", "G", "T", "P", "E", "Z"])}
_NOTHING = frozenset({"", "-", "none"})
# Read back, these mean "no limit": quotas are 0 with -p, limits on a count are the largest number on some versions.
_UNLIMITED = frozenset({"0", str(2**64 - 1)})
# (property, declared) -> what `zfs get` shows for it, on any version.
_SPELLINGS: dict[tuple[str, str], frozenset[str]] = {
    ("acltype", "noacl"): frozenset({"off"}),
    ("acltype", "posixacl"): frozenset({"posix"}),
    ("compression", "gzip-6"): frozenset({"gzip"}),
    ("compression", "zstd-3"): frozenset({"zstd"}),
    ("compression", "zstd-fast-1"): frozenset({"zstd-fast"}),
    ("encryption", "on"): frozenset({"aes-256-gcm", "aes-256-ccm"}),
    ("volmode", "full"): frozenset({"geom"}),
    ("volmode", "geom"): frozenset({"full"}),
    ("xattr", "on"): frozenset({"dir", "sa"}),
}


def as_text(name: str, value: Any) -> str:
    """A value from YAML as ZFS spells it: C(true) is C(on), numbers are their digits."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (int, float, str)):
        text = str(value).strip()
        if "\n" not in text and "\t" not in text:
            return text
    raise BadInput(f"The property {name} has the value {value!r}: give it one line of text, a number, or true or false.")


def as_size(text: str) -> int | None:
    """Bytes of C(32K), C(1M), C(8GiB) or C(1048576); None for what is not a size."""
    found = _SIZE.fullmatch(text.strip().upper())
    if not found:
        return None
    number, power = found.group(1), _POWERS[found.group(2) or ""]
    # As libzfs does it: a fraction of a byte is dropped, and whole numbers are never made into a float.
    return int(float(number) * power) if "." in number else int(number) * power


def show_size(size: int) -> str:
    """Bytes for a person: exact, in the largest unit that keeps it whole."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        power = _POWERS[unit[0]]
        if size and size % power == 0:
            return f"{size // power} {unit}"
    return f"{size} bytes"


def same(name: str, want: str, have: str) -> bool:
    """Whether a declared value is the one read back with C(-p)."""
    if want == have or have in _SPELLINGS.get((name, want), ()):
        return True
    if ":" in name:  # a user's own property means exactly what it says
        return False
    if name == "mountpoint":
        return want.rstrip("/") == have.rstrip("/") and want != "/"
    if name.startswith("feature@"):
        return want == "enabled" and have == "active"
    return _same_number(want, have)


def _same_number(want: str, have: str) -> bool:
    if want.lower() in _NOTHING:
        return have in _NOTHING or have in _UNLIMITED
    if have in _NOTHING:
        return want == "0"
    return have.isdigit() and as_size(want) == int(have)
