# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read what ``zpool status -P`` and ``zpool import`` print, by indentation: the form of every version from 2.1 on."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Iterator

from .model import FoundPool, Group, Importable, Leaf, Member, Scan

_HEADINGS = {"special": "special", "dedup": "dedup", "logs": "log", "cache": "cache", "spares": "spare"}
_STATES = "ONLINE|DEGRADED|FAULTED|OFFLINE|UNAVAIL|REMOVED|SPLIT|AVAIL|INUSE|SUSPENDED"
_ROW = re.compile(rf"^\t(?P<indent> *)(?P<name>\S.*?)(?:\s+(?P<state>{_STATES})\b(?P<rest>.*))?\s*$")
KIND = re.compile(r"^(?P<kind>mirror|raidz[123]|draid[123](?::\d+[dcs])*|raidz|indirect)-\d+$")
STANDING_IN = re.compile(r"^(replacing|spare)-\d+$")
VIRTUAL_SPARE = re.compile(r"^draid[123]-\d+-\d+$")


@dataclass(frozen=True)
class _Row:
    depth: int
    name: str
    state: str
    rest: str


def parse_status(text: str) -> dict[str, FoundPool]:
    """Read ``zpool status -P``, of any number of pools."""
    found = {}
    for block in _blocks(text):
        pool = _pool(block)
        scan = re.search(r"^\s*scan: (.*(?:\n\t.*)*)", block, re.MULTILINE)
        removing = re.search(r"^\s*remove: Evacuation of (.+?) in progress", block, re.MULTILINE)
        expanding = re.search(r"^\s*expand: expansion of (\S+) in progress", block, re.MULTILINE)
        errors = re.search(r"^\s*errors: (.+?)\s*$", block, re.MULTILINE)
        found[pool.name] = replace(
            pool,
            scan=parse_scan(scan.group(1) if scan else ""),
            removing=removing.group(1) if removing else "",
            expanding=expanding.group(1) if expanding else "",
            errors=errors.group(1) if errors and not errors.group(1).startswith("No known") else "",
        )
    return found


def parse_importable(text: str) -> list[Importable]:
    """Read what ``zpool import`` lists, a pool that two searches found once."""
    found: dict[str, Importable] = {}
    for block in _blocks(text):
        guid = re.search(r"^\s*id: (\d+)", block, re.MULTILINE)
        if guid:
            found[guid.group(1)] = Importable(
                replace(_pool(block), guid=guid.group(1)),
                other_host="was last accessed by another system" in block,
                in_use="is currently imported by another system" in block,
            )
    return list(found.values())


def parse_scan(text: str) -> Scan:
    """Read the entry ``scan``."""
    done = re.search(r"([\d.]+)% done", text)
    for state, words in (
        ("running", r"(scrub|resilver) in progress"),
        ("paused", r"(scrub) paused"),
        ("canceled", r"(scrub|resilver) canceled"),
    ):
        found = re.match(words, text)
        if found:
            return Scan(found.group(1), state, float(done.group(1)) if done else 0.0)
    if text.startswith("scrub repaired"):
        return Scan("scrub", "finished", 100.0)
    return Scan("resilver", "finished", 100.0) if text.startswith("resilvered") else Scan()


def _blocks(text: str) -> Iterator[str]:
    return (block for block in re.split(r"(?m)^(?=\s*pool: )", text) if re.match(r"\s*pool: ", block))


def _pool(block: str) -> FoundPool:
    name = re.match(r"\s*pool: (.+?)\s*$", block, re.MULTILINE)
    state = re.search(r"^\s*state: (\S+)", block, re.MULTILINE)
    return FoundPool(name.group(1) if name else "", state.group(1) if state else "UNKNOWN", tuple(_groups(_rows(block))))


def _rows(block: str) -> list[_Row]:
    """The rows of the table, the first of which is the pool itself."""
    table = re.search(r"^ ?config:\s*\n\s*\n((?:\t.*\n?)*)", block, re.MULTILINE)
    found = [_ROW.match(line) for line in (table.group(1).splitlines() if table else ())]
    rows = [_Row(len(row["indent"]) // 2, row["name"], row["state"] or "", row["rest"] or "") for row in found if row]
    return [row for row in rows if not row.name.startswith("NAME ") and row.name != "NAME"]


def _groups(rows: list[_Row]) -> Iterator[Group]:
    """The top-level groups: rows indented by one step under the pool's name or under a heading."""
    use = "data"
    position = 1
    while position < len(rows):
        row = rows[position]
        below = _below(rows, position)
        position += 1 + len(below)
        if row.depth == 0:
            use = _HEADINGS.get(row.name, "data")
            position -= len(below)
            continue
        group = _group(use, row, below)
        if group:
            yield group


def _below(rows: list[_Row], position: int) -> list[_Row]:
    end = position + 1
    while end < len(rows) and rows[end].depth > rows[position].depth:
        end += 1
    return rows[position + 1 : end]


def _group(use: str, row: _Row, below: list[_Row]) -> Group | None:
    kind = KIND.match(row.name)
    if kind and kind["kind"] == "indirect":  # what is left of a removed vdev: no device any more
        return None
    if VIRTUAL_SPARE.match(row.name):  # a share of a draid vdev, not a device
        return None
    if kind:
        word = "raidz1" if kind["kind"] == "raidz" else kind["kind"]
        return Group(use, word, row.name, row.state, tuple(_members(below)))
    member = _member(row, below)
    return Group(use, "stripe", member.leaves[-1].path, row.state, (member,))


def _members(rows: list[_Row]) -> Iterator[Member]:
    top = min((row.depth for row in rows), default=0)
    for position, row in enumerate(rows):
        if row.depth == top:
            yield _member(row, _below(rows, position))


def _member(row: _Row, below: list[_Row]) -> Member:
    standing = STANDING_IN.match(row.name)
    if not standing:
        return Member((_leaf(row),), row.state)
    return Member(tuple(_leaf(each) for each in below if not STANDING_IN.match(each.name)), row.state, standing.group(1))


def _leaf(row: _Row) -> Leaf:
    last_seen = re.search(r"\bwas (/\S.*?)(?:\s+\(.*)?\s*$", row.rest)
    return Leaf(
        name=row.name,
        state=row.state,
        guid=row.name if row.name.isdigit() else "",
        was=last_seen.group(1) if last_seen else "",
        initialized=_progress(row.rest, "initialized", "uninitialized"),
        trimmed="unsupported" if "(trim unsupported)" in row.rest else _progress(row.rest, "trimmed", "untrimmed"),
    )


def _progress(rest: str, word: str, never: str) -> str:
    """What ``zpool status -i`` and ``-t`` say of one device."""
    if f"({never})" in rest:
        return "no"
    found = re.search(rf"\(\d+% {word}(, completed)?", rest)
    if not found:
        return ""
    return "done" if found.group(1) else "running" if "started at" in rest else "no"
