# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs rungs of the test ladder, each a target of the Makefile, and tells how they ended.

A rung goes on after another failed. What each did is kept in build/rungs/NAME.json; counts come from build/junit/NAME*.xml where
the rung writes such files, otherwise the rung is one check. A test that was skipped makes its rung fail, with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Iterator

ROOT = Path(__file__).resolve().parent.parent.parent
RECORDS = ROOT / "build" / "rungs"
JUNIT = ROOT / "build" / "junit"
# The one skip there is; a person sets it.
LAB_RUNGS = ("test-swarm", "test-lab", "test-long")


@dataclass
class Rung:
    """How a rung ended."""

    name: str
    passed: int = 0
    failed: int = 0
    seconds: float = 0.0
    reason: str = ""
    skipped_by_person: bool = False


def _reports(name: str) -> Iterator[Path]:
    yield from (path for path in sorted(JUNIT.glob(f"{name}*.xml")) if path.stem == name or path.stem.startswith(f"{name}@"))


def count(rung: Rung, status: int) -> None:
    """Fill in the counts from the rung's reports and its exit status."""
    for path in _reports(rung.name):
        for case in ET.parse(path).iter("testcase"):
            skipped = case.find("skipped")
            bad = case.find("failure") is not None or case.find("error") is not None or skipped is not None
            rung.failed += bad
            rung.passed += not bad
            if skipped is not None and not rung.reason:
                rung.reason = f"{case.get('name')} was skipped: {skipped.get('message')}"
    if rung.passed + rung.failed == 0:
        rung.passed, rung.failed = (0, 1) if status else (1, 0)
    if status and not rung.failed:
        rung.failed = 1
    if status and not rung.reason:
        rung.reason = f"`make {rung.name}` ended with status {status}; its output is above"


def run(name: str) -> Rung:
    """Run one rung and keep a record."""
    rung = Rung(name)
    begin = time.monotonic()
    if name in LAB_RUNGS and os.environ.get("SKIP_LAB") == "1":
        rung.skipped_by_person = True
        rung.reason = "SKIP_LAB=1: skipped by whoever set it; nothing about machines was tested"
    else:
        for path in _reports(name):
            path.unlink()
        print(f"\n=== {name}", flush=True)
        status = subprocess.run(["make", "--no-print-directory", name], cwd=ROOT, check=False).returncode
        count(rung, status)
    rung.seconds = time.monotonic() - begin
    RECORDS.mkdir(parents=True, exist_ok=True)
    (RECORDS / f"{name}.json").write_text(json.dumps(asdict(rung), indent=1) + "\n")
    return rung


def recorded(name: str) -> Rung:
    """Return the record of a rung; one that never ran has failed."""
    path = RECORDS / f"{name}.json"
    return Rung(**json.loads(path.read_text())) if path.exists() else Rung(name, failed=1, reason="it did not run")


def table(rungs: list[Rung]) -> int:
    """Print the table and the last line; return the exit status."""
    width = max(len(rung.name) for rung in rungs)
    print(f"\n{'rung'.ljust(width)}  passed  failed  seconds")
    for rung in rungs:
        note = f"  {rung.reason}" if rung.reason else ""
        counts = "     -       -" if rung.skipped_by_person else f"{rung.passed:6d}  {rung.failed:6d}"
        print(f"{rung.name.ljust(width)}  {counts}  {rung.seconds:7.0f}{note}")
    if any(rung.skipped_by_person for rung in rungs):
        print("SKIP_LAB=1 was set: the rungs marked '-' were NOT run.")
    failed = sum(rung.failed for rung in rungs)
    print(f"{sum(rung.passed for rung in rungs)} passed, {failed} failed", flush=True)
    return 1 if failed else 0


def main(argv: list[str]) -> int:
    """Run rungs, or print the table of what is recorded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=("run", "table", "forget"))
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args(argv)
    if arguments.verb == "run":
        return table([run(name) for name in arguments.names])
    if arguments.verb == "table":
        return table([recorded(name) for name in arguments.names])
    for path in RECORDS.glob("*.json"):
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
