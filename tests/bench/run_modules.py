# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a module of Ansible on this machine, once for each line of standard input, and print what that took as JSON.

Each line holds the options of one run. The module is started as Ansible starts it on its target, a fresh Python with the options on its
standard input, but without a controller, a connection or a payload to unpack: whatever is compared this way is spared the same.

    python3 run_modules.py FOLDER ansible_collections.NAMESPACE.NAME.plugins.modules.MODULE < LINES
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time


def main() -> int:
    """Run them one after another."""
    folder, module = sys.argv[1:]
    lines = sys.stdin.read().splitlines()
    environment = {**os.environ, "PYTHONPATH": folder}
    results = []
    begin = time.monotonic()
    for line in lines:
        ended = subprocess.run(
            [sys.executable, "-m", module],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": json.loads(line)}),
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        results.append(json.loads(ended.stdout) if ended.stdout else {"failed": True, "msg": ended.stderr})
    seconds = time.monotonic() - begin
    failed = [result["msg"] for result in results if result.get("failed")]
    changed = sum(bool(result.get("changed")) for result in results)
    print(json.dumps({"seconds": seconds, "failed": failed[:1], "changed": changed, "processes": results[-1].get("processes")}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
