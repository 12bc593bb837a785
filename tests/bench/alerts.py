# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a cause takes to be an alert, a line for each. Tests on a swarm and on a storage host make the causes, once for all lines."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Callable

from labkit.artifacts import python
from labkit.config import REPO
from measure import Figure, NotTaken

sys.path.insert(0, str(REPO / "tests" / "tools"))

import alert_times

# By test file: the tests that make causes, and the alerts they wait for.
TESTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "tests/swarm/test_monitoring.py": (
        "causes_fire or cut_off",
        (
            "TargetDown",
            "GpuHot",
            "GpuUnseen",
            "OllamaDown",
            "ChromaAway",
            "ServiceBelowDesired",
            "BackupFailed",
            "ContainerMemoryFull",
            "CertificateExpiring",
            "NoEngine",
            "SwarmNodeDown",
        ),
    ),
    "tests/lab/test_storage_backup.py": (
        # A drill has something to try once the first of these has run.
        "a_run_sends or causes_fire or is_pulled or corrupted_copy",
        (
            "ZfsPoolFilling",
            "BackupOld",
            "ZfsSnapshotsOld",
            "DiskFilling",
            "NfsServerDown",
            "IscsiTargetClosed",
            "IscsiSessionLost",
            "SmartFailing",
            "StorageTargetDown",
            "RestoreDrillFailed",
            "ZfsVdevUnhealthy",
        ),
    ),
}


@functools.cache
def _taken(test: str) -> dict[str, dict[str, float]]:
    """Run the tests of a file; the times they wrote down."""
    with tempfile.TemporaryDirectory() as place:
        figures = Path(place) / "alerts.jsonl"
        argv = [str(python()), "-m", "pytest", "-q", "-m", "long", "-k", TESTS[test][0], test]
        environment = {**os.environ, alert_times.VARIABLE: str(figures)}
        ended = subprocess.run(argv, cwd=REPO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if ended.returncode:
            raise NotTaken(f"{test} failed: {' '.join(ended.stdout.split()[-60:])}")
        return alert_times.read(figures)


def _of(test: str, alert: str) -> Callable[[], Figure]:
    """Return what takes the line of one cause."""

    def take() -> Figure:
        found = _taken(test)
        if alert not in found["alert_detection_s"]:
            raise NotTaken(f"{test} told no time of {alert}")
        seconds = {what: [times[alert]] for what, times in found.items() if alert in times}
        # A tenth of a rule's length is waited for, so this is not what a site waits: that adds nine tenths of the rule's `for`.
        return Figure(take.__name__, "s", found["alert_detection_s"][alert], n=1, goal="durations at a tenth", seconds=seconds)

    take.__name__ = f"alert_detection_s_{alert}"
    return take


ALERT_FIGURES: list[Callable[[], Figure]] = [_of(test, alert) for test, (_words, alerts) in TESTS.items() for alert in alerts]
