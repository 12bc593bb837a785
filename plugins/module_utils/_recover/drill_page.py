# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of a drill as a page: one file, no script, nothing fetched. Pure."""

from __future__ import annotations

from html import escape
from typing import Any, Mapping, Sequence

_WIDTH, _LEFT, _ROW, _PLOT = 880, 120, 22, 120
_STYLE = "body{font-family:sans-serif;max-width:60em;margin:2em auto}td,th{padding:.2em .8em;text-align:left}svg{max-width:100%}"


def page(found: Mapping[str, Any]) -> str:
    """Return the page of a report."""
    worker, asked = escape(str(found["worker"])), found["requests"]
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{_told(value)}</td></tr>" for name, value in found["seconds"].items())
    errors = "".join(f"<li>{escape(error)}</li>" for error in asked["errors"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Drill: {worker}</title><style>{_STYLE}</style>'
        f"<h1>Drill: {worker} was interrupted</h1>"
        f"<p>{asked['sent']} requests were sent, {asked['failed']} failed before their first token, {asked['cut']} were cut after it. "
        f"The slowest first token took {_told(asked['slowest_first_token'])}.</p>"
        f"{timeline(found)}<table><tr><th>phase</th><th>time</th></tr>{rows}</table>{f'<ul>{errors}</ul>' if errors else ''}"
        f"<p>Cost: {escape(str(found['cost']))}</p></html>"
    )


def _told(seconds: float | None) -> str:
    return "not seen" if seconds is None else f"{seconds:g} s"


def timeline(found: Mapping[str, Any]) -> str:
    """Return the plot: a bar for each phase, and each request by when it was sent and how long its first token took."""
    points: Sequence[Sequence[Any]] = found["timeline"]
    seconds = {name: value for name, value in found["seconds"].items() if name != "total" and value is not None}
    begin = min([0.0, *(point[0] for point in points)])
    end = max([1.0, sum(seconds.values()), *(point[0] + (point[1] or 0.0) for point in points)])
    scale = (_WIDTH - _LEFT - 10) / (end - begin)
    bars, now = [], 0.0
    for number, (name, value) in enumerate(seconds.items()):
        top = number * _ROW
        bars.append(f'<text x="0" y="{top + 15}">{escape(name)}</text>')
        left, wide = _LEFT + (now - begin) * scale, max(1.0, value * scale)
        bars.append(f'<rect x="{left:.1f}" y="{top + 3}" width="{wide:.1f}" height="{_ROW - 6}" fill="#1f6f8b"/>')
        now += value
    base = len(seconds) * _ROW + _PLOT
    slowest = max([1.0, *(point[1] or 0.0 for point in points)])
    dots = [_dot(point, begin, scale, base=base, slowest=slowest) for point in points]
    zero = f'<line x1="{_LEFT - begin * scale:.1f}" x2="{_LEFT - begin * scale:.1f}" y1="0" y2="{base}" stroke="#b05a3c"/>'
    told = f'<text x="0" y="{base - _PLOT / 2:.0f}">first token, to {slowest:.1f} s</text>'
    told += f'<text x="{_LEFT}" y="{base + 16}">{begin:.0f} s</text>'
    last = f'<text x="{_WIDTH - 10}" y="{base + 16}" text-anchor="end">{end:.0f} s after the interruption</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {base + 24}" font-size="12" role="img"'
        f' aria-label="Timeline of the drill">{zero}{"".join(bars)}{"".join(dots)}{told}{last}</svg>'
    )


def _dot(point: Sequence[Any], begin: float, scale: float, *, base: float, slowest: float) -> str:
    at, first, _engine, cut = point
    high = base - 4 - (first or 0.0) / slowest * (_PLOT - 16)
    colour = "#c00" if first is None or cut else "#444"
    return f'<circle cx="{_LEFT + (at - begin) * scale:.1f}" cy="{high:.1f}" r="2.5" fill="{colour}"/>'
