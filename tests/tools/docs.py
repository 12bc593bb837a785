# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make docs`: the manual in build/docs, with what ansible-doc knows of the modules and roles, and what each alert means."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import package

OUT = package.BUILD / "docs"
MANUAL = package.ROOT / "docs" / "manual"
RULES = package.ROOT / "roles" / "monitoring" / "templates" / "rules.yml.j2"
_ALERT = re.compile(
    r"- alert: (?P<name>\w+)\n.*?severity: (?P<severity>\w+).*?"
    r"summary: (?P<summary>[^\n]+)\n\s+means: (?P<means>[^\n]+)\n\s+do: (?P<do>[^\n]+)\n",
    re.DOTALL,
)


def alerts_page(rules: str) -> str:
    """Return the page that says of each alert what it means and what to do.

    :param rules: the template of the rules.
    """
    lines = ["# Alerts", "", "What each means and what to do. Words in capitals stand for what the alert names.", ""]
    for found in _ALERT.finditer(rules):
        summary, means, do = (_prose(found[part]) for part in ("summary", "means", "do"))
        lines += [f"### {found['name']}", "", f"*{summary}* ({found['severity']})", "", means, "", f"**What to do:** {do}", ""]
    return "\n".join(lines)


def _prose(text: str) -> str:
    """A value of the rules without its quotes, and with the names of labels in place of their templates."""
    bare = text[1:-1] if text.startswith('"') else text
    return re.sub(r"\{\{ \$(?:labels\.)?(\w+)[^}]*\}\}", lambda found: found[1].upper(), bare)


def main() -> int:
    """Write one file for each page, each module and each role."""
    OUT.mkdir(parents=True, exist_ok=True)
    pages = sorted(MANUAL.glob("*.md"))
    for page in pages:
        shutil.copy(page, OUT / page.name)
    subjects = [("module", path.stem) for path in sorted((package.ROOT / "plugins" / "modules").glob("*.py"))]
    subjects += [("role", path.name) for path in sorted((package.ROOT / "roles").iterdir()) if (path / "meta").is_dir()]
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "COLUMNS": "120"}
    for kind, name in subjects:
        argv = [package.tool("ansible-doc"), "-t", kind, f"selfhosted.llm_stack.{name}"]
        text = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
        (OUT / f"{kind}_{name}.txt").write_text(text, encoding="utf-8")
    (OUT / "alerts.md").write_text(alerts_page(RULES.read_text(encoding="utf-8")), encoding="utf-8")
    lists = [f"[{kind} {name}]({kind}_{name}.txt)" for kind, name in subjects]
    with (OUT / "index.md").open("a", encoding="utf-8") as index:
        index.write("\n## Alerts and options\n\n- [what each alert means](alerts.md)\n" + "".join(f"- {line}\n" for line in lists))
    print(f"docs: {len(pages) + len(subjects) + 1} files in {OUT.relative_to(package.ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
