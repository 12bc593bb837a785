# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long causes took to be alerts: said by the tests that make the causes, and written down for `make bench`."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Callable, Collection, Mapping, Sequence

VARIABLE = "ALERT_FIGURES"


def note(alert: str, seconds: float, *, over: bool = False) -> None:
    """Print a time, and add it to the file that ALERT_FIGURES names.

    :param seconds: from the cause to the alert with the rules' lengths of time at a tenth, or from its end to the alert's.
    :param over: whether it is the latter.
    """
    what = "alert_cleared_s" if over else "alert_detection_s"
    print(f"{what} {alert} {seconds:.0f} (durations at a tenth)")
    if VARIABLE in os.environ:
        with Path(os.environ[VARIABLE]).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"what": what, "alert": alert, "seconds": round(seconds, 1)}) + "\n")


def fires(firing: Sequence[Mapping[str, Any]], alert: str, **labels: str) -> bool:
    """Whether an alert is among those that fire.

    :param firing: what Prometheus answers when it is asked for ALERTS.
    :param labels: those the alert must have, for others of its name may fire.
    """
    wanted = {"alertname": alert, "alertstate": "firing", **labels}
    return any(wanted.items() <= one["metric"].items() for one in firing)


def wait(look: Callable[[], Collection[str]], begun: Mapping[str, float], *, seconds: float) -> dict[str, float]:
    """Return after how many seconds each thing was so.

    :param look: what tells the names of those that are so now.
    :param begun: by name, when each began, by the monotonic clock.
    :param seconds: how long to wait for all of them.
    :raises AssertionError: they are not in time; with the names of those that are not.
    """
    found: dict[str, float] = {}
    end = time.monotonic() + seconds
    while True:
        seen = look()
        found.update({name: time.monotonic() - since for name, since in begun.items() if name in seen and name not in found})
        missing = sorted(set(begun) - set(found))
        if not missing:
            return found
        assert time.monotonic() < end, f"after {seconds:.0f} s there is still to wait for {', '.join(missing)}"
        time.sleep(1)


def read(path: Path) -> dict[str, dict[str, float]]:
    """Return the times by what they are and by alert.

    :raises ValueError: an alert was timed twice.
    """
    found: dict[str, dict[str, float]] = {"alert_detection_s": {}, "alert_cleared_s": {}}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        row = json.loads(line)
        if row["alert"] in found[row["what"]]:
            raise ValueError(f"{row['alert']} was timed twice")
        found[row["what"]][row["alert"]] = float(row["seconds"])
    return found
