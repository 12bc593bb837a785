# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes the lab starts, remembered by process ID and start time so that only they are ever ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Sequence

from .say import LabError


def run(argv: Sequence[str], *, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a short command and return what it printed.

    :raises LabError: when it fails and ``check`` is set.
    """
    ended = subprocess.run(list(argv), input=stdin, capture_output=True, text=True, check=False)
    if check and ended.returncode:
        raise LabError(f"`{' '.join(argv)}` failed with exit status {ended.returncode}: {(ended.stderr or ended.stdout).strip()}")
    return ended


def kill_tree(pid: int) -> None:
    """End a process and all it started, without notice. Ansible's workers are sessions of their own, so no group holds them all."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    for one in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def _start_time(pid: int) -> str | None:
    """When the process started, in ticks since boot; None when it is gone or a zombie (proc(5), stat fields 3 and 22)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


class Daemon:
    """One long-running process and the file that remembers it."""

    def __init__(self, record: Path) -> None:
        self.record = record

    @property
    def pid(self) -> int | None:
        """Its process ID while it runs."""
        try:
            known = json.loads(self.record.read_text())
        except (OSError, ValueError):
            return None
        return known["pid"] if _start_time(known["pid"]) == known["start"] else None

    def start(self, argv: Sequence[str], *, log: Path, environment: dict[str, str] | None = None) -> None:
        """Start it in a session of its own, writing to ``log``."""
        self.record.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as sink:
            started = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        self.record.write_text(json.dumps({"pid": started.pid, "start": _start_time(started.pid)}))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if it runs."""
        pid = self.pid
        if pid is not None:
            os.kill(pid, number)

    def wait(self, seconds: float) -> bool:
        """Whether it ended within that time."""
        deadline = time.monotonic() + seconds
        while self.pid is not None:
            # Where this process is the parent it must collect the child, or a zombie stays.
            with contextlib.suppress(OSError):
                os.waitpid(self.pid or 0, os.WNOHANG)
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def stop(self, *, patience: float = 20.0) -> None:
        """Ask it to end, then make it end, then forget it."""
        self.signal(signal.SIGTERM)
        if not self.wait(patience):
            self.kill()
        self.record.unlink(missing_ok=True)

    def kill(self) -> None:
        """End it without notice: a power cut."""
        self.signal(signal.SIGKILL)
        self.wait(10)
        self.record.unlink(missing_ok=True)
