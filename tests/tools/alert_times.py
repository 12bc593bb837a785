# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long causes took to be alerts: said by the tests that make the causes, and written down for `make bench`."""

from __future__ import annotations

import json
import os
from pathlib import Path

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
