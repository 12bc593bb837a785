# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask ZFS. Its text output is the same on 2.1 to 2.4."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Sequence

from .._errors import CommandFailed, StackError
from .._run import Completed, Runner
from .model import Value

_NO_MODULE = re.compile(r"modules? (?:are not loaded|cannot be auto-loaded)|Failed to (?:load|initialize)", re.IGNORECASE)


class NoZfsError(StackError):
    """ZFS cannot be used on this host: a program or the kernel module is missing."""


def ask(runner: Runner, argv: Sequence[str], *, ok: Sequence[int] = (0,)) -> Completed:
    """Run a ZFS command that changes nothing and return what it printed.

    :raises NoZfsError: when the program or the kernel module is missing.
    """
    if not runner.has(argv[0]):
        raise NoZfsError(f"{argv[0]} is not installed on this host: install zfsutils-linux and the ZFS kernel module (zfs-dkms on Debian).")
    ended = runner.run(argv, ok=(*ok, 1))
    if _NO_MODULE.search(ended.stderr):
        raise NoZfsError(
            "The ZFS kernel module cannot be loaded on this host: install it for the running kernel (zfs-dkms and"
            " linux-headers on Debian, linux-modules-extra on Ubuntu), then `modprobe zfs` shows what is wrong."
        )
    if ended.rc not in ok:
        raise CommandFailed(tuple(argv), ended.rc, ended.stderr or ended.stdout)
    return ended


def xattr_style(path: str = "/sys/module/zfs/version") -> str:
    """What C(xattr=on) stands for in the output: ``dir`` before ZFS 2.3, ``sa`` since (openzfs #17171)."""
    try:
        version = re.match(r"(\d+)\.(\d+)", Path(path).read_text(encoding="ascii"))
    except OSError:
        return "sa"
    return "dir" if version and (int(version.group(1)), int(version.group(2))) < (2, 3) else "sa"


def parse_get(text: str, *, xattr: str = "sa") -> dict[str, dict[str, Value]]:
    """Read ``zfs get -H -o name,property,value,source``; the value of a user's property may span lines.

    :param xattr: what C(xattr=on) stands for on this version.
    """
    found: dict[str, dict[str, Value]] = {}
    for line in re.split(r"\n(?=[^\t\n]+\t[^\t\n]+\t)", text.rstrip("\n")):
        parts = line.split("\t")
        if len(parts) >= 4:
            value = "\t".join(parts[2:-1])
            plain = xattr if (parts[1], value) == ("xattr", "on") else value
            found.setdefault(parts[0], {})[parts[1]] = Value(plain, parts[-1])
    return found
