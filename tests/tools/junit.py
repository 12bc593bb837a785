# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the counts of tools that have no report of their own."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

JUNIT = Path(__file__).resolve().parent.parent.parent / "build" / "junit"


def write(name: str, cases: list[tuple[str, str]]) -> None:
    """Write build/junit/NAME.xml.

    :param cases: each a check and why it failed; an empty reason is a pass.
    """
    suite = ET.Element("testsuite", name=name, tests=str(len(cases)), failures=str(sum(bool(reason) for _check, reason in cases)))
    for check, reason in cases:
        case = ET.SubElement(suite, "testcase", classname=name, name=check)
        if reason:
            ET.SubElement(case, "failure", message=reason)
    JUNIT.mkdir(parents=True, exist_ok=True)
    ET.ElementTree(suite).write(JUNIT / f"{name}.xml", encoding="unicode")
