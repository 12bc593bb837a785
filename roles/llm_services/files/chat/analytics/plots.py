# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures as plots: SVG made by pygal, without scripts, styled by the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pygal  # type: ignore[import-untyped]
from markupsafe import Markup
from pygal.style import Style  # type: ignore[import-untyped]

from .report import Report, quantile

COLOURS = ("#2f6f5e", "#d98c2b", "#5b7bd5", "#b5527b", "#7aa63c", "#8a6fc8", "#c2573f", "#4aa3b5")
# Keys shown by name; the others are one.
SHOWN = 7
STYLE = Style(
    background="transparent",
    plot_background="transparent",
    foreground="currentcolor",
    foreground_strong="currentcolor",
    foreground_subtle="currentcolor",
    colors=COLOURS,
    opacity=".9",
    opacity_hover="1",
    font_family="inherit",
    label_font_size=13,
    major_label_font_size=13,
    legend_font_size=14,
    value_font_size=12,
    no_data_font_size=18,
    guide_stroke_dasharray="2,5",
)


def _chart(kind: Any, made: Report, **more: Any) -> Any:
    chart = kind(
        style=STYLE,
        width=720,
        height=280,
        js=[],
        pretty_print=False,
        explicit_size=False,
        disable_xml_declaration=True,
        # The page has the legend: it can break its lines.
        show_legend=False,
        margin=6,
        spacing=8,
        show_x_guides=False,
        truncate_label=-1,
        no_data_text="Nothing yet",
        **more,
    )
    chart.x_labels = [f"{day:%-d %b}" for day in made.days]
    step = max(1, len(made.days) // 8)
    chart.x_labels_major = chart.x_labels[::-1][::step]
    chart.show_minor_x_labels = False
    return chart


@dataclass(frozen=True)
class Plot:
    """A plot. :param names: what its colours stand for, in order."""

    svg: Markup
    names: list[str]


def _svg(chart: Any, nonce: str) -> Plot:
    """The chart as a node of the page: its scripts are left out, its style gets the page's nonce."""
    tree = chart.render_tree()
    for parent in list(tree.iter()):
        parent.attrib.pop("style", None)
        for child in list(parent):
            tag = str(child.tag).rpartition("}")[2]
            if tag == "script":
                parent.remove(child)
            elif tag == "style":
                child.set("nonce", nonce)
    from lxml import etree  # type: ignore[import-untyped]

    # pygal escapes every label; what it made is markup.
    return Plot(Markup(etree.tostring(tree, encoding="unicode")), [str(options.get("title")) for _values, options in chart.raw_series])  # noqa: S704


def requests(made: Report, nonce: str) -> Plot:
    """Requests by day, a colour for each key."""
    chart = _chart(pygal.StackedBar, made)
    names = sorted(made.by_key, key=lambda name: -made.by_key[name].requests)
    for name in names[:SHOWN]:
        chart.add(name, [made.by_day_and_key[day].get(name, 0) for day in made.days])
    if names[SHOWN:]:
        chart.add("others", [sum(made.by_day_and_key[day].get(name, 0) for name in names[SHOWN:]) for day in made.days])
    return _svg(chart, nonce)


def latency(made: Report, nonce: str) -> Plot:
    """Time to the first token by day: half of the answers began within the lower line, 19 of 20 within the upper."""
    chart = _chart(pygal.Line, made, dots_size=3, show_dots=True, allow_interruptions=True)
    chart.value_formatter = lambda value: f"{value:.2g} s"
    for name, share in (("half of all", 0.5), ("19 of 20", 0.95)):
        chart.add(name, [quantile(made.by_day[day].first, share) for day in made.days])
    return _svg(chart, nonce)


def tokens(made: Report, nonce: str) -> Plot:
    """Tokens by day, of questions and of answers."""
    chart = _chart(pygal.StackedBar, made)
    chart.value_formatter = short
    chart.add("in answers", [made.by_day[day].completion_tokens for day in made.days])
    chart.add("in questions", [made.by_day[day].prompt_tokens for day in made.days])
    return _svg(chart, nonce)


def troubles(made: Report, nonce: str) -> Plot:
    """What went wrong by day, and what would have without continuing cut answers elsewhere."""
    chart = _chart(pygal.Bar, made)
    chart.add("errors", [made.by_day[day].errors for day in made.days])
    chart.add("answers moved to another server", [made.by_day[day].continued for day in made.days])
    return _svg(chart, nonce)


def short(value: float | None) -> str:
    """A count in few characters."""
    if value is None:
        return ""
    for limit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {name}"
    return f"{value:.0f}"
