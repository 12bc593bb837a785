# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page: plain HTML, of which only names and numbers come from elsewhere, and these are escaped."""

from __future__ import annotations

import time
from dataclasses import dataclass
from html import escape
from typing import Any, Iterable, Mapping

from exposition import NotAnswered

from .history import Account, Outage, is_up, name_of
from .look import Copies, Look
from .metrics import ENDS, PREEMPTIBLE, fleet_metrics, gpus_of, moment
from .watcher import View

NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    :param tone: ``bad``, ``warn`` or nothing.
    """

    text: str
    tone: str = ""


def span(seconds: float) -> str:
    """Return a length of time as a person says it, in its two largest units."""
    parts: list[str] = []
    left = max(0, round(seconds))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if left >= size and len(parts) < 2:
            parts.append(f"{left // size} {unit}")
            left %= size
        elif parts:
            break
    return " ".join(parts) or "0 s"


def clock(at: float) -> str:
    """Return a time in UTC."""
    return time.strftime("%m-%d %H:%M", time.gmtime(at))


def document(view: View, *, now: float, fresh: float, currency: str) -> str:
    """Return the whole page.

    :param fresh: seconds for which a view stands for the present; the script tells when it is older, whatever the reason.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Status</title>
<link rel="stylesheet" href="/status/page.css">
<script src="/status/page.js" defer></script>
<noscript><meta http-equiv="refresh" content="20"></noscript>
</head>
<body data-fresh="{fresh:g}">
<header><h1>Status</h1><p id="seen" role="status"></p></header>
<div id="old" role="alert" hidden></div>
<main id="view">{fragment(view, now=now, currency=currency)}</main>
</body>
</html>
"""


def fragment(view: View, *, now: float, currency: str) -> str:
    """Return what the script puts in place of the former view: with its age, and marked when it is not the present."""
    if view.seen is None or view.account is None:
        return f'<article data-age="" class="old"><p class="notice">{escape(view.error)}</p></article>'
    age = max(0.0, now - view.seen.at)
    parts: list[str] = []
    if not view.fresh:
        parts.append(
            f'<p class="notice"><strong>This is not the present.</strong> It was seen {span(age)} ago ({clock(view.seen.at)} UTC). '
            f"{escape(view.error)}</p>"
        )
    parts += [
        tiles(view.seen, view.account, now, currency),
        fleet(view.seen, now),
        recoveries(view.account, now),
        backups(view.seen.copies, now),
    ]
    return f'<article data-age="{age:.1f}" class="{"present" if view.fresh else "old"}">{"".join(parts)}</article>'


def tiles(seen: Look, account: Account, now: float, currency: str) -> str:
    """Return the figures at the top."""
    nodes = list(seen.nodes)
    up = [node for node in nodes if is_up(node)]
    missing = [
        str(service["Spec"]["Name"])
        for service in seen.services
        if int((service.get("ServiceStatus") or {}).get("RunningTasks", 0))
        < int((service.get("ServiceStatus") or {}).get("DesiredTasks", 0))
    ]
    figures = [
        ("Nodes up", f"{len(up)} of {len(nodes)}", "" if len(up) == len(nodes) else "bad"),
        ("GPUs", str(sum(gpus_of(node) for node in up)), ""),
        (
            "Engines",
            NONE if seen.engines is None else str(len(seen.engines)),
            "bad" if seen.engines is not None and not seen.engines else "",
        ),
        ("Short of tasks", ", ".join(missing) or "none", "bad" if missing else ""),
        *costs(seen, now, currency),
    ]
    shown = "".join(f'<div class="{tone}"><span>{escape(name)}</span><strong>{escape(text)}</strong></div>' for name, text, tone in figures)
    return f'<section class="tiles" aria-label="In all">{shown}</section>'


def costs(seen: Look, now: float, currency: str) -> list[tuple[str, str, str]]:
    """Return what the fleet costs; nothing where no fleet is."""
    if seen.labels is None:
        return []
    try:
        values = {metric.name: metric.samples[0][1] for metric in fleet_metrics(seen.labels, now) if metric.samples}
    except NotAnswered as error:
        return [("Cost", str(error), "bad")]
    names = (("Cost today", "llm_fleet_cost_today"), ("Cost an hour", "llm_fleet_cost_hourly"))
    return [(title, f"{values[name]:.2f} {currency}".strip() if name in values else NONE, "") for title, name in names]


def fleet(seen: Look, now: float) -> str:
    """Return the table of nodes."""
    rows = [
        node_row(node, seen, now)
        for node in sorted(seen.nodes, key=lambda node: (str((node.get("Spec") or {}).get("Role")), name_of(node)))
    ]
    return table("Fleet", ("Node", "State", "GPUs", "Engine", "Kind", "Life left"), rows, none="The swarm has no nodes.")


def node_row(node: Mapping[str, Any], seen: Look, now: float) -> list[Cell]:
    """Return the row of one node."""
    spec = node.get("Spec") or {}
    labels, gpus, active = spec.get("Labels") or {}, gpus_of(node), spec.get("Availability") == "active"
    state = "down" if not is_up(node) else "up" if active else str(spec.get("Availability"))
    serves = seen.engines is not None and node.get("ID") in seen.engines
    kind = {"true": "preemptible", "false": "regular"}.get(str(labels.get(PREEMPTIBLE)), str(spec.get("Role", "")))
    ends = moment(labels.get(ENDS))
    left = Cell(NONE) if ends is None else Cell(span(ends - now) if ends > now else "over", "warn" if ends - now < 7200 else "")
    engine = Cell("serves") if serves and is_up(node) else Cell(NONE, "bad" if gpus and active and seen.engines is not None else "")
    return [
        Cell(name_of(node)),
        Cell(state, "bad" if state == "down" else "warn" if state != "up" else ""),
        Cell(str(gpus)),
        engine,
        Cell(kind),
        left,
    ]


def recoveries(account: Account, now: float) -> str:
    """Return the outages of workers, and how often the cloud interrupted servers."""
    rows = [outage_row(one, now) for one in account.recent]
    mean = (
        f"Recoveries: {account.recoveries}, each in {span(account.seconds / account.recoveries)} on average." if account.recoveries else ""
    )
    cloud = ", ".join(f"{count} at {placement}" for placement, count in account.preemptions.items())
    words = " ".join(part for part in (mean, f"Interrupted by the cloud: {cloud}." if cloud else "") if part)
    below = f'<p class="foot">{escape(words)}</p>' if words else ""
    return table("Recoveries", ("Worker", "Lost (UTC)", "Back after"), rows, none="No worker was lost yet.", below=below)


def outage_row(one: Outage, now: float) -> list[Cell]:
    """Return the row of one outage."""
    if one.gone:
        ended = Cell("given up", "warn")
    elif one.back is None:
        ended = Cell(f"away for {span(now - one.lost)}", "bad")
    else:
        ended = Cell(span(one.back - one.lost))
    return [Cell(one.name), Cell(clock(one.lost)), ended]


def backups(told: Iterable[Copies], now: float) -> str:
    """Return the table of backups; a host that does not tell has a row that says so."""
    rows = []
    for copies in told:
        if copies.error:
            rows.append([Cell(copies.host), Cell("not known", "bad"), Cell(copies.error, "bad"), Cell(NONE)])
        rows += [job_row(copies.host, job, values, now) for job, values in sorted(copies.jobs.items())]
    return table("Backups", ("Host", "Job", "Newest copy", "Restored last"), rows, none="No host tells of a backup.")


def job_row(host: str, job: str, values: Mapping[str, float], now: float) -> list[Cell]:
    """Return the row of one backup."""
    copy = aged(values, "llm_backup", now)
    drill = aged(values, "llm_restore_drill", now)
    return [Cell(host), Cell(job), copy, drill]


def aged(values: Mapping[str, float], kind: str, now: float) -> Cell:
    """Return how old the last success is: bad when it is older than it may be, or when the last try failed."""
    at, most = values.get(f"{kind}_last_success_timestamp_seconds"), values.get(f"{kind}_max_age_seconds")
    failed = values.get(f"{kind}_success") == 0
    if at is None:
        return Cell("failed" if failed else "never", "bad" if failed else "warn")
    old = most is not None and now - at > most
    return Cell(f"{span(now - at)} ago" + (", then failed" if failed else ""), "bad" if old or failed else "")


def table(caption: str, names: tuple[str, ...], rows: list[list[Cell]], *, none: str, below: str = "") -> str:
    """Return a table with its heading."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    lines = "".join(
        f'<tr><th scope="row">{escape(cells[0].text)}</th>'
        + "".join(
            f'<td data-name="{escape(name)}" class="{cell.tone}">{escape(cell.text)}</td>' for name, cell in zip(names[1:], cells[1:])
        )
        + "</tr>"
        for cells in rows
    )
    body = f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>" if rows else f'<p class="foot">{escape(none)}</p>'
    return f'<section class="card"><h2>{escape(caption)}</h2>{body}{below}</section>'
