# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What recovery costs on real engines: tests/swarm/test_recover_figures.py takes it, with a model of 256 MiB, once for all lines but that
of the autoscaler, which tests/swarm/test_autoscaler.py takes."""

from __future__ import annotations

import functools
import json
import math
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from labkit.artifacts import python
from labkit.config import REPO
from measure import Figure, NotTaken

MODEL_BYTES = 256 * 1024**2
EACH = 10


@functools.cache
def _taken() -> dict[str, Any]:
    """Run the test; what it wrote down."""
    with tempfile.TemporaryDirectory() as place:
        figures = Path(place) / "figures.json"
        environment = {**os.environ, "RECOVER_FIGURES": str(figures), "LLM_LAB_MODEL_BYTES": str(MODEL_BYTES)}
        argv = [str(python()), "-m", "pytest", "-q", "-m", "long", "tests/swarm/test_recover_figures.py"]
        ended = subprocess.run(argv, cwd=REPO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if not figures.exists():
            raise NotTaken(f"tests/swarm/test_recover_figures.py wrote nothing: {' '.join(ended.stdout.split()[-60:])}")
        found: dict[str, Any] = json.loads(figures.read_text(encoding="utf-8"))
    for how in ("restored", "replaced"):
        if len(found.get(how, [])) != EACH or any(math.isnan(one["first_token"]) for one in found[how]):
            raise NotTaken(f"not all of {EACH} workers were {how}: {' '.join(ended.stdout.split()[-60:])}")
    return found


def _overhead(name: str, how: str, goal: str) -> Figure:
    """The worst time from an interruption to the first token of the engine that came back, less the boot of its machine."""
    found = _taken()[how]
    names = sorted({key for one in found for key in one} - {"failures"})
    phases = {phase: [float(one.get(phase, 0.0)) for one in found] for phase in names}
    worst = max(one["first_token"] - one["boot"] for one in found)
    return Figure(name, "s", worst, n=len(found), goal=goal, seconds=phases)


def recover_overhead_s() -> Figure:
    """Of servers that were restored."""
    return _overhead("recover_overhead_s", "restored", "at most 15")


def recover_overhead_replaced_s() -> Figure:
    """Of servers that were made anew."""
    return _overhead("recover_overhead_replaced_s", "replaced", "at most 60")


def recover_failed_requests() -> Figure:
    """Requests that failed before their first token, over all interruptions."""
    found = [one for how in ("restored", "replaced") for one in _taken()[how]]
    return Figure("recover_failed_requests", "requests", float(sum(len(one["failures"]) for one in found)), n=len(found), goal="0")


def recover_noop() -> Figure:
    """A run without anything to do, in pings: the worst of three."""
    times = _taken()["noop"]
    worst = max(run / ping for run, ping in zip(times["recover"], times["ping"]))
    return Figure("recover_noop", "pings", worst, n=len(times["recover"]), goal="at most 15", seconds=times)


def recover_detect_s() -> Figure:
    """The longest time from an interruption until the autoscaler asks the cloud to restore the server."""
    with tempfile.TemporaryDirectory() as place:
        seconds = Path(place) / "seconds.json"
        argv = [str(python()), "-m", "pytest", "-q", "-m", "long", "tests/swarm/test_autoscaler.py", "-k", "within_seconds"]
        environment = {**os.environ, "RECOVER_DETECT": str(seconds)}
        ended = subprocess.run(argv, cwd=REPO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if not seconds.exists():
            raise NotTaken(f"tests/swarm/test_autoscaler.py wrote nothing: {' '.join(ended.stdout.split()[-60:])}")
        found = [float(one) for one in json.loads(seconds.read_text(encoding="utf-8"))]
    return Figure("recover_detect_s", "s", max(found), n=len(found), goal="at most 3", seconds={"detect": found})
