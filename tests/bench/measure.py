# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the bench measures: worst of the runs, median of alternating pairs, nothing left out of the record."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Callable

ROOT = Path(__file__).resolve().parent.parent.parent
RECORD = ROOT / "build" / "bench.json"
# Runs of a figure: many where one takes seconds, few where it takes minutes.
SHORT_RUNS = 10
LONG_RUNS = 3
PAIRS = 3


class NotTaken(Exception):
    """A figure could not be taken; the sentence says why."""


@dataclass
class Figure:
    """One line of the bench.

    :param ours: the worst of our runs, in ``unit``.
    :param peer: the worst of the peer's runs, where there is a peer.
    :param ratio: peer over ours, the median of the alternating pairs.
    :param seconds: every absolute time behind the figure, by what was run.
    """

    name: str
    unit: str
    ours: float
    peer: float | None = None
    ratio: float | None = None
    n: int = 0
    goal: str = ""
    seconds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """The figure as the bench prints it."""
        cells = (f"{value:.2f}" if value is not None else "-" for value in (self.ours, self.peer, self.ratio))
        return "\t".join((self.name, *cells, self.unit))


def timed(act: Callable[[], object]) -> float:
    """Return the seconds an action takes."""
    begin = time.monotonic()
    act()
    return time.monotonic() - begin


def alternating(ours: Callable[[], float], peer: Callable[[], float], pairs: int = PAIRS) -> tuple[list[float], list[float]]:
    """Measure both in turn, as often as asked, so that a busy moment hits both."""
    taken: list[tuple[float, float]] = [(ours(), peer()) for _pair in range(pairs)]
    return [own for own, _other in taken], [other for _own, other in taken]


def against(name: str, unit: str, ours: Callable[[], float], peer: Callable[[], float], *, pairs: int = PAIRS) -> Figure:
    """Return a figure with a peer: worst of each, median of the ratios."""
    own, other = alternating(ours, peer, pairs)
    ratio = statistics.median(theirs / mine for mine, theirs in zip(own, other))
    return Figure(name, unit, max(own), max(other), ratio, n=pairs, seconds={"ours": own, "peer": other})


def commit() -> str:
    """Return the commit that is measured, marked where the checkout differs from it."""
    argv = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def report(measurements: list[Callable[[], Figure]]) -> int:
    """Take all figures, print a line for each, write the record; non-zero if one could not be taken."""
    figures, lost = [], []
    for take in measurements:
        try:
            figures.append(take())
        except NotTaken as error:
            lost.append(f"{take.__name__}: {error}")
            continue
        print(figures[-1].line, flush=True)
    RECORD.parent.mkdir(exist_ok=True)
    record = {"commit": commit(), "figures": [asdict(figure) for figure in figures], "not_taken": lost}
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    for sentence in lost:
        print(f"bench: not taken: {sentence}", file=sys.stderr)
    return 1 if lost else 0
