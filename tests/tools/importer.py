# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs galaxy-importer over the built artifact; whatever it complains about is a failure."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import package

COMPLAINT = re.compile(r"^(WARNING|ERROR|CRITICAL): ")
# The importer gives ansible-lint three minutes, which is short on two busy cores.
PATIENT = """
import subprocess, sys
from galaxy_importer import main
from galaxy_importer.loaders import collection

class Patient(subprocess.Popen):
    def communicate(self, input=None, timeout=None):
        return super().communicate(input, timeout and 1200)

collection.Popen = Patient
sys.exit(main.main())
"""


def main() -> int:
    """Build, import, and count the complaints."""
    artifact = package.build()
    place = package.BUILD / "importer"
    place.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "GALAXY_IMPORTER_CONFIG": str(Path(__file__).with_name("galaxy-importer.cfg")), "ANSIBLE_NOCOLOR": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    argv = [sys.executable, "-c", PATIENT, str(artifact)]
    ended = subprocess.run(argv, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(ended.stdout)
    complaints = [line for line in ended.stdout.splitlines() if COMPLAINT.match(line)]
    for line in complaints:
        print(f"importer: not accepted: {line}", file=sys.stderr)
    return 1 if ended.returncode or complaints else 0


if __name__ == "__main__":
    sys.exit(main())
