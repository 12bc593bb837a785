# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read pools and datasets. The text output is the same on ZFS 2.1 to 2.4; JSON begins only with 2.3."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Iterable, Sequence

from .._errors import CommandFailed, StackError
from .._run import Completed, Runner
from .model import FoundPool, Group, Importable, Member, Value

_HEADINGS = {"special": "special", "dedup": "dedup", "logs": "log", "cache": "cache", "spares": "spare"}
_STATES = "ONLINE|DEGRADED|FAULTED|OFFLINE|UNAVAIL|REMOVED|SPLIT|AVAIL|INUSE|SUSPENDED"
_ROW = re.compile(rf"^\t(?P<indent> *)(?P<name>\S.*?)(?:\s+(?P<state>{_STATES})\b(?P<rest>.*))?\s*$")
_KIND = re.compile(r"^(?P<kind>mirror|raidz[123]|draid[123](?::\d+[dcs])*|raidz|indirect)-\d+$")
_STANDING_IN = re.compile(r"^(replacing|spare)-\d+$")
_VIRTUAL_SPARE = re.compile(r"^draid[123]-\d+-\d+$")
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


def read_pools(runner: Runner) -> dict[str, FoundPool]:
    """Every imported pool, with one process."""
    return parse_status(ask(runner, ["zpool", "status", "-P"]).stdout)


def read_properties(runner: Runner, name: str) -> dict[str, str]:
    """All properties of one pool."""
    text = ask(runner, ["zpool", "get", "-H", "-p", "-o", "property,value", "all", name]).stdout
    return dict(line.split("\t", 1) for line in text.splitlines() if "\t" in line)


def read_importable(runner: Runner, files: Iterable[str]) -> list[Importable]:
    """Pools that attached devices, or the given files, hold but that are not imported."""
    text = ask(runner, ["zpool", "import"], ok=(0, 1)).stdout
    places = [argument for path in files for argument in ("-d", path)]
    if places:
        text += "\n" + ask(runner, ["zpool", "import", *places], ok=(0, 1)).stdout
    return parse_importable(text)


def parse_importable(text: str) -> list[Importable]:
    """Read what ``zpool import`` lists."""
    found = re.findall(r"^\s*pool: (.+?)\s*\n\s*id: (\d+)", text, re.MULTILINE)
    return [Importable(name, guid) for name, guid in dict.fromkeys(found)]


def parse_status(text: str) -> dict[str, FoundPool]:
    """Read ``zpool status -P``, of any number of pools, by its indentation."""
    pools: dict[str, FoundPool] = {}
    for block in re.split(r"(?m)^(?=\s*pool: )", text):
        name = re.match(r"\s*pool: (.+?)\s*$", block, re.MULTILINE)
        state = re.search(r"^\s*state: (\S+)", block, re.MULTILINE)
        if name:
            pools[name.group(1)] = FoundPool(name.group(1), state.group(1) if state else "UNKNOWN", tuple(_groups(block)))
    return pools


def _groups(block: str) -> list[Group]:
    """The top-level groups of one pool: rows indented by two under the pool's name or under a heading."""
    groups: list[Group] = []
    use = "data"
    rows = _rows(block)
    position = 1  # the first row is the pool itself
    while position < len(rows):
        depth, name, state = rows[position]
        below = _count_below(rows, position)
        if depth == 0:
            use = _HEADINGS.get(name, "data")
            position += 1
            continue
        group = _group(use, name, state, rows[position + 1 : position + 1 + below])
        if group:
            groups.append(group)
        position += 1 + below
    return groups


def _rows(block: str) -> list[tuple[int, str, str]]:
    """Depth, name with the place a lost device was last seen, and state, of each row of the table."""
    table = re.search(r"^\tNAME\s+STATE.*\n((?:\t.*\n?)*)", block, re.MULTILINE)
    rows = []
    for line in table.group(1).splitlines() if table else ():
        found = _ROW.match(line)
        if found:
            last_seen = re.search(r"\bwas (/\S.*?)\s*$", found["rest"] or "")
            name = f"{found['name']}\n{last_seen.group(1)}" if last_seen else found["name"]
            rows.append((len(found["indent"]) // 2, name, found["state"] or ""))
    return rows


def _count_below(rows: list[tuple[int, str, str]], position: int) -> int:
    depth = rows[position][0]
    count = 0
    while position + count + 1 < len(rows) and rows[position + count + 1][0] > depth:
        count += 1
    return count


def _group(use: str, name: str, state: str, below: list[tuple[int, str, str]]) -> Group | None:
    kind = _KIND.match(name)
    if kind and kind["kind"] == "indirect":  # what is left of a removed vdev: no device any more
        return None
    if _VIRTUAL_SPARE.match(name):  # a share of a draid vdev, not a device
        return None
    if kind:
        word = "raidz1" if kind["kind"] == "raidz" else kind["kind"]
        return Group(use, word, name, state, tuple(_members(below)))
    paths = tuple(name.split("\n"))
    if _STANDING_IN.match(name):
        paths = tuple(path for _depth, each, _state in below for path in each.split("\n") if not _STANDING_IN.match(each))
    return Group(use, "stripe", paths[-1], state, (Member(paths, state),))


def _members(rows: list[tuple[int, str, str]]) -> list[Member]:
    members = []
    top = min((depth for depth, _name, _state in rows), default=0)
    for position, (depth, name, state) in enumerate(rows):
        if depth != top:
            continue
        below = rows[position + 1 : position + 1 + _count_below(rows, position)]
        names = [each for _depth, each, _state in below] if _STANDING_IN.match(name) else [name]
        members.append(Member(tuple(path for each in names if not _STANDING_IN.match(each) for path in each.split("\n")), state))
    return members


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
