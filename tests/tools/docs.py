# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make docs`: what ansible-doc knows of the modules and roles, as text in build/docs."""

from __future__ import annotations

import os
import subprocess
import sys

import package

OUT = package.BUILD / "docs"


def main() -> int:
    """Write one file for each module and each role."""
    OUT.mkdir(parents=True, exist_ok=True)
    subjects = [("module", path.stem) for path in sorted((package.ROOT / "plugins" / "modules").glob("*.py"))]
    subjects += [("role", path.name) for path in sorted((package.ROOT / "roles").iterdir()) if (path / "meta").is_dir()]
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "COLUMNS": "120"}
    for kind, name in subjects:
        argv = [package.tool("ansible-doc"), "-t", kind, f"selfhosted.llm_stack.{name}"]
        text = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
        (OUT / f"{kind}_{name}.txt").write_text(text, encoding="utf-8")
    print(f"docs: {len(subjects)} files in {OUT.relative_to(package.ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
