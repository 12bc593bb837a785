# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes that tests start, and their ends."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "lab"))

from labkit.process import kill_tree


def running(pid: int) -> bool:
    """Whether it runs; one that ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_a_process_started_ends_with_it_even_in_a_session_of_its_own() -> None:
    # As Ansible's workers are: a child that left the group of its parent, with a child of its own.
    script = "setsid sh -c 'sleep 300 & echo $! $$; wait' & wait"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pids = [parent.pid, *map(int, parent.stdout.readline().split())]
        assert [running(pid) for pid in pids] == [True] * 3
        kill_tree(parent.pid)
    end = time.monotonic() + 10
    while any(running(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    assert [running(pid) for pid in pids] == [False] * 3
