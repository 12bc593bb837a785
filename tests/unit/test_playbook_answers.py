# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A form hands an answer that was left empty over as an empty string: to a playbook it must be none, and not `no` or 0."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PLAYBOOKS = Path(__file__).resolve().parents[2] / "playbooks"
# Names of what a person gives; a default that is neither empty nor false; and no word that it also stands for an empty value.
ANSWER = r"\b(?!__)(?:gpu_fleet(?: \| default\({}\)\))?\.\w+|(?:llm_stack|gpu_workers?|storage_host|llm_services|registry)_\w+)"
KEEPS_EMPTY = re.compile(ANSWER + r" \| default\((?!''|none|false|omit|\[\]|{}|0\b)[^()]*(?<!, true)\)")
# Set by tasks and never by a person, or an empty list says something.
OTHERS = re.compile(r"rsync\.rc|llm_stack_(inhabited_)?groups|llm_stack_recover_(why|unseen|failed)")
# The module refuses what is neither true nor false.
REFUSED = "gpu_fleet.ssh_host_key | default(true)"


@pytest.mark.parametrize("path", sorted(PLAYBOOKS.rglob("*.yml")), ids=lambda path: str(path.relative_to(PLAYBOOKS)))
def test_an_empty_answer_is_none(path: Path) -> None:
    found = [hit.group() for hit in KEEPS_EMPTY.finditer(path.read_text(encoding="utf-8"))]
    assert [text for text in found if text != REFUSED and not OTHERS.search(text)] == []
