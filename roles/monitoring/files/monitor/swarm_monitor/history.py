# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was seen over time, in a file: workers that were lost and came back, servers that a cloud interrupted. It outlives restarts.

A worker is lost when the managers do not hear it, and back when it serves: its node is up and, where there are engines, one runs on it. One
that was drained is not lost. Times are those of the looks, so they are as exact as these are frequent.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from dataclasses import dataclass
from typing import Any, Iterator, Mapping

from .look import Look

# A worker whose node is gone for this long was given up; before, its successor may still join under its name.
GIVEN_UP = 3600.0
KEPT = 400 * 86400.0
_TABLES = """
CREATE TABLE IF NOT EXISTS worker (name TEXT PRIMARY KEY, served REAL NOT NULL);
CREATE TABLE IF NOT EXISTS outage (
  name TEXT NOT NULL, lost REAL NOT NULL, back REAL, gone INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (name, lost)
);
CREATE TABLE IF NOT EXISTS preemption (life TEXT PRIMARY KEY, placement TEXT NOT NULL, at REAL NOT NULL);
"""


@dataclass(frozen=True)
class Outage:
    """A time in which a worker did not serve.

    :param back: None while it lasts, and when the worker was given up.
    :param gone: whether it was given up.
    """

    name: str
    lost: float
    back: float | None
    gone: bool


@dataclass(frozen=True)
class Account:
    """The sums of everything seen so far.

    :param preemptions: by placement.
    :param seconds: that all recoveries took together.
    :param recent: outages, the newest first.
    """

    preemptions: dict[str, int]
    recoveries: int
    seconds: float
    last: float | None
    lost_now: int
    recent: tuple[Outage, ...]


class History:
    """The file."""

    def __init__(self, path: str) -> None:
        self._path = path
        with self._open() as database:
            database.executescript(_TABLES)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self._path, timeout=10)
        try:
            # This ends the transaction, and leaves the database open.
            with database:
                yield database
        finally:
            database.close()

    def take(self, seen: Look) -> None:
        """Add what a look shows."""
        serving, present, down = standing(seen)
        with self._open() as database:
            known = {name for (name,) in database.execute("SELECT name FROM worker")}
            lost = {name for (name,) in database.execute("SELECT name FROM outage WHERE back IS NULL AND NOT gone")}
            # A worker that was removed on purpose was drained before, and is forgotten; one that vanishes while it serves is lost.
            for name in sorted((known & (down | (known - present))) - serving - lost):
                database.execute("INSERT OR IGNORE INTO outage (name, lost) VALUES (?, ?)", (name, seen.at))
            for name in sorted(lost & serving):
                database.execute("UPDATE outage SET back = ? WHERE name = ? AND back IS NULL AND NOT gone", (seen.at, name))
            database.execute(
                "UPDATE outage SET gone = 1 WHERE back IS NULL AND NOT gone AND lost < ? AND name NOT IN (SELECT value FROM json_each(?))",
                (seen.at - GIVEN_UP, json.dumps(sorted(present))),
            )
            # Drained workers are not known any more: what becomes of them is somebody's wish.
            database.execute("DELETE FROM worker")
            database.executemany("INSERT INTO worker (name, served) VALUES (?, ?)", [(name, seen.at) for name in sorted(serving)])
            for placement, life, at in interruptions(seen.labels or {}):
                database.execute("INSERT OR IGNORE INTO preemption (life, placement, at) VALUES (?, ?, ?)", (life, placement, at))
            database.execute("DELETE FROM outage WHERE lost < ? AND (back IS NOT NULL OR gone)", (seen.at - KEPT,))

    def account(self) -> Account:
        """Return the sums."""
        with self._open() as database:
            preempted = dict(database.execute("SELECT placement, count(*) FROM preemption GROUP BY placement ORDER BY placement"))
            count, seconds = database.execute(
                "SELECT count(*), coalesce(sum(back - lost), 0) FROM outage WHERE back IS NOT NULL"
            ).fetchone()
            last = database.execute("SELECT back - lost FROM outage WHERE back IS NOT NULL ORDER BY back DESC LIMIT 1").fetchone()
            (now,) = database.execute("SELECT count(*) FROM outage WHERE back IS NULL AND NOT gone").fetchone()
            rows = database.execute("SELECT name, lost, back, gone FROM outage ORDER BY lost DESC, name LIMIT 12").fetchall()
        recent = tuple(Outage(name, lost, back, bool(gone)) for name, lost, back, gone in rows)
        return Account(preempted, int(count), float(seconds), float(last[0]) if last else None, int(now), recent)


def standing(seen: Look) -> tuple[set[str], set[str], set[str]]:
    """Return the host names of the workers with GPUs that serve, of all that are there, and of those that are down and not drained."""
    serving, present, down = set(), set(), set()
    for node in seen.nodes:
        spec = node.get("Spec") or {}
        if spec.get("Role") != "worker" or (spec.get("Labels") or {}).get("gpu") != "true":
            continue
        name, active = name_of(node), spec.get("Availability") == "active"
        present.add(name)
        if is_up(node) and active and (seen.engines is None or node.get("ID") in seen.engines):
            serving.add(name)
        if not is_up(node) and active:
            down.add(name)
    return serving, present, down


def name_of(node: Mapping[str, Any]) -> str:
    """Return a node's host name."""
    return str((node.get("Description") or {}).get("Hostname", ""))


def is_up(node: Mapping[str, Any]) -> bool:
    """Whether the manager hears a node."""
    return bool((node.get("Status") or {}).get("State") == "ready")


def interruptions(labels: Mapping[str, str]) -> Iterator[tuple[str, str, float]]:
    """Yield placement, life and time of the interruptions that the runs over the fleet have noted; none when they cannot be understood."""
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        for placement, life, at in json.loads(labels.get("llm-stack.breaker", "{}")).get("seen", []):
            yield str(placement), str(life), float(at)
