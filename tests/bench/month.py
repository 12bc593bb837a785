# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of simulated months: what the planner of recovery costs, and how much of the time an engine answers."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from typing import Any

from measure import ROOT, Figure, NotTaken


@functools.lru_cache(maxsize=1)
def months() -> list[dict[str, Any]]:
    """Return the simulated months of all models; run in a process of its own, for it needs the collection on its path."""
    program = (
        "import json, sys; sys.path.insert(0, 'tests/sim'); import write_docs; "
        "print(json.dumps([{'model': one.model.name, 'ours': [vars(o) for o in one.ours], 'naive': [vars(o) for o in one.naive]}"
        " for one in write_docs.simulate()]))"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        raise NotTaken("the simulation failed; what it said is above")
    found: list[dict[str, Any]] = json.loads(ended.stdout)
    return found


def _worst(key: str, policy: str, *, most: bool) -> float:
    values: list[float] = [one[key] for model in months() for one in model[policy]]
    return (max(values) if most else min(values)) * 100


def month_cost() -> Figure:
    """The dearest month of all models, in % of the same regular fleet; the peer starts again what stopped, and is away much longer."""
    ours, naive = _worst("cost", "ours", most=True), _worst("cost", "naive", most=True)
    return Figure("month_cost", "% of regular", ours, naive, n=len(months()[0]["ours"]), goal="at most 45")


def month_availability() -> Figure:
    """The worst month of all models, in % of the time with at least one engine; the peer starts again what stopped."""
    ours, naive = _worst("availability", "ours", most=False), _worst("availability", "naive", most=False)
    return Figure("month_availability", "% of time", ours, naive, n=len(months()[0]["ours"]), goal="at least 99.9")
