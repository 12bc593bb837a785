# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the simulated months and writes docs/month.md and docs/month.svg: `.venv/bin/python tests/sim/write_docs.py`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "build" / "collections"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from models import MODELS, Model
from month import CHEAP, DAYS, ENGINES, LOOK, MAKE, NO_ROOM, POLICY, RESTORE, ZONES, Naive, Outcome, Recovered, month

ROOT = Path(__file__).resolve().parent.parent.parent
SEEDS = 5
WIDTH, HEIGHT, LEFT, TOP = 720, 280, 56, 28


@dataclass(frozen=True)
class Months:
    """The months of one model, with the planner and without."""

    model: Model
    ours: list[Outcome]
    naive: list[Outcome]


def simulate(seeds: int = SEEDS) -> list[Months]:
    """Return the months of all models."""
    return [
        Months(
            model,
            [month(Recovered(), model, seed=seed) for seed in range(1, seeds + 1)],
            [month(Naive(), model, seed=seed) for seed in range(1, seeds + 1)],
        )
        for model in MODELS
    ]


def row(name: str, policy: str, found: list[Outcome]) -> str:
    """Return a line of the table: the worst of all seeds."""
    cells = (
        f"{min(one.availability for one in found) * 100:.3f}",
        f"{min(one.engines for one in found):.2f}",
        f"{max(one.cost for one in found) * 100:.1f}",
        f"{max(one.cost_at_once for one in found) * 100:.1f}",
        str(max(one.interruptions for one in found)),
    )
    return f"| {name} | {policy} | {' | '.join(cells)} |"


def hasty(seeds: int = SEEDS) -> list[Outcome]:
    """Return the months of the worst model in which nothing waits for the next hour."""
    return [month(Recovered(replace(POLICY, patience=0.0)), MODELS[-1], seed=seed) for seed in range(1, seeds + 1)]


def text(months: list[Months], at_once: list[Outcome]) -> str:
    """Return the page.

    :param at_once: as `hasty` returns them.
    """
    rows = [row(one.model.name, *pair) for one in months for pair in (("recover", one.ours), ("restart", one.naive))]
    sources = [f"- **{one.model.name}**: {one.model.source}" for one in months]
    table = "\n".join(rows)
    return f"""# A month, simulated

The planner of `recover.yml`, as it is, against {DAYS} days of interruptions, with {ENGINES} servers, {ZONES} zones and at most one regular
server as a stand-in; beside it, what people do without it: whatever stopped is started again where it was (`restart`). Written by
`tests/sim/write_docs.py`; the worst of {SEEDS} random months each. `make bench BENCH=month_cost` and `BENCH=month_availability` take them
again.

| model | policy | at least one engine, % | engines on the average | cost, % | cost if billed by the most at once, % | interruptions |
|---|---|---|---|---|---|---|
{table}

With `gpu_workers_patience` at {POLICY.patience:.0f}: so many seconds before the end of an hour, what is lost waits for the next while
others are in two zones, because a started hour is billed in full. It costs engines. Without it, the worst month of the model
{MODELS[-1].name} costs {max(one.cost for one in at_once) * 100:.1f} % and has {min(one.engines for one in at_once):.2f} engines on the
average, {min(one.availability for one in at_once) * 100:.3f} % of the time at least one.

Cost is in % of {ENGINES} regular servers running all the time; a preemptible one costs {CHEAP * 100:.0f} % of a regular one. In the first
column of cost every server is billed for each hour it began, so a replacement within an hour is billed twice: the dear reading of what
Selectel documents. In the other an hour is billed by the most that ran at once.

![Cost a day in the scarce model, and the goal](month.svg)

## What is assumed

{chr(10).join(sources)}

Both look every {LOOK:.0f} s. From the request to the first token a restored server takes {RESTORE:.0f} s, a new one {MAKE:.0f} s (golden
image, model on the image), and finding out that there is no room {NO_ROOM:.0f} s. A regular server is not interrupted and can always be
had.
Disks and addresses are left out on both sides.
"""


def plot(months: list[Months]) -> str:
    """Return the cost of each day of one month of the scarce model."""
    scarce = months[-1]
    lines = (("recover", "#1f6f8b", scarce.ours[0].days), ("restart", "#b05a3c", scarce.naive[0].days))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="16">Cost of each day, % of as many regular servers (model: {scarce.model.name}, seed 1)</text>',
    ]
    for percent in (0, 30, 45, 60):
        y = height(percent / 100)
        dash, color = ('stroke-dasharray="6 4" ', "#333") if percent == 45 else ("", "#ddd")
        parts.append(f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH - 90}" y2="{y}" stroke="{color}" {dash}/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{"goal " * (percent == 45)}{percent}</text>')
    for name, color, days in lines:
        step = (WIDTH - 90 - LEFT) / (len(days) - 1)
        points = " ".join(f"{LEFT + number * step:.1f},{height(day)}" for number, day in enumerate(days))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts.append(f'<text x="{WIDTH - 84}" y="{height(days[-1]) + 4}" fill="{color}">{name}</text>')
    parts.append(f'<text x="{(WIDTH - 90 + LEFT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">day 1 to {len(lines[0][2])}</text></svg>')
    return "\n".join(parts) + "\n"


def height(cost: float) -> float:
    """Return where on the plot a cost is."""
    return round(HEIGHT - 32 - cost / 0.7 * (HEIGHT - 32 - TOP), 1)


if __name__ == "__main__":
    found = simulate()
    (ROOT / "docs" / "month.md").write_text(text(found, hasty()))
    (ROOT / "docs" / "month.svg").write_text(plot(found))
