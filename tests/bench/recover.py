# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long after an interruption the autoscaler acts: on real engines, by the test that looks after all else as well."""

from __future__ import annotations

import json
import subprocess

from labkit.artifacts import python
from labkit.config import REPO
from measure import Figure, NotTaken

RECORD = REPO / "build" / "recover_detect.json"
TEST = "tests/swarm/test_autoscaler.py"


def recover_detect_s() -> Figure:
    """Take the power from workers of a real swarm in turn, and return the longest time until the cloud was asked to restore one."""
    RECORD.unlink(missing_ok=True)
    argv = [str(python()), "-m", "pytest", "-q", "-m", "long", TEST, "-k", "within_seconds"]
    ended = subprocess.run(argv, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if not RECORD.exists():
        raise NotTaken(f"`{' '.join(argv)}` ended with status {ended.returncode} and no figure: {' '.join(ended.stdout.split()[-60:])}")
    seconds = [float(one) for one in json.loads(RECORD.read_text())["seconds"]]
    return Figure("recover_detect_s", "s", max(seconds), n=len(seconds), goal="at most 3", seconds={"detect": seconds})
