# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on the target: the commands in commands.json in turn, as often as asked; prints the seconds of each. Needs nothing but Python."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

commands: dict[str, list[str]] = json.loads(Path("commands.json").read_text(encoding="utf-8"))
seconds: dict[str, list[float]] = {name: [] for name in commands}
for _run in range(int(sys.argv[1])):
    for name, argv in commands.items():
        begin = time.monotonic()
        ended = subprocess.run(argv, capture_output=True, text=True, check=True)
        seconds[name].append(time.monotonic() - begin)
        if name == "ours" and json.loads(ended.stdout)["changed"]:
            sys.exit("the run that had nothing to do changed something: " + ended.stdout)
print(json.dumps(seconds))
