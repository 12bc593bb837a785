# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""README.ru.md says the same as README.md, and the page of alerts has every alert."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "tools"))

import docs  # noqa: E402 - importable after the line above


def parts(text: str) -> dict[str, list[str]]:
    """What both languages share: how deep headings are, code, commands, links and the names in tables, in their order."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return {
        "headings": re.findall(r"^(#+) ", prose, re.MULTILINE),
        "code": re.findall(r"^```.*?^```$", text, re.MULTILINE | re.DOTALL),
        "commands": sorted(re.findall(r"`((?:ansible|make|docker)[^`]*)`", prose)),
        "links": sorted(set(re.findall(r"\]\(([^)]+)\)", prose)) - {"README.md", "README.ru.md"}),
        "tables": re.findall(r"^\| (`[^|]*|\[`[^|]*) \|", prose, re.MULTILINE),
        "values": sorted(set(re.findall(r"`([^`]+)`", prose))),
    }


def readme(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_both_readmes_have_the_same_headings_commands_and_names() -> None:
    english, russian = parts(readme("README.md")), parts(readme("README.ru.md"))
    assert len(english["headings"]) >= 6 and len(english["tables"]) >= 20
    for what, found in english.items():
        assert russian[what] == found, what


def test_a_command_that_only_one_has_is_noticed() -> None:
    english = readme("README.md")
    for changed in (
        english.replace("make demo", "make show"),
        english.replace("\n### Roles", "\n#### Roles"),
        english.replace("`teardown`", "`x`"),
    ):
        assert changed != english
        assert parts(changed) != parts(english)


def test_the_russian_one_is_in_russian() -> None:
    prose = re.sub(r"^```.*?^```$|`[^`]*`|\([^)]*\)|\[[^\]]*\]", "", readme("README.ru.md"), flags=re.MULTILINE | re.DOTALL)
    cells = [cell for line in prose.splitlines() if line.startswith("|") for cell in line.split("|")[2:] if cell.strip(" -")]
    assert all(any(letter.islower() and not letter.isascii() for letter in cell) or len(cell.strip()) < 25 for cell in cells), cells


def test_the_page_of_alerts_has_what_each_means_and_what_to_do() -> None:
    rules = (ROOT / "roles" / "monitoring" / "templates" / "rules.yml.j2").read_text(encoding="utf-8")
    names = re.findall(r"- alert: (\w+)", rules)
    page = docs.alerts_page(rules)
    assert len(names) >= 50
    assert re.findall(r"^## (\w+)$", page, re.MULTILINE) == names
    assert page.count("**What to do:**") == len(names)
    assert "<<" not in page and "{%" not in page
    assert "{{" not in page, "a label is shown as a word"
    told = re.findall(r"^\*\*What to do:\*\* (.*)$", page, re.MULTILINE)
    assert min(len(text) for text in told) >= 20, "a text of several lines is told as a whole"
    assert "run the playbook of that role." in page
