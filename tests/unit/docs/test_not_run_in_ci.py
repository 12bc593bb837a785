# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What no test runs is said where a reader looks, and nothing is tied to the processor that the tests run on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
# As Debian, Docker and Python name processors.
PROCESSOR = re.compile(r"amd64|arm64|x86_64|aarch64", re.IGNORECASE)
SHIPPED = ("roles", "playbooks", "plugins", "inventories", "examples")
UNTRIED = {
    "roles/docker_engine/README.md": ["Docker's own repository", "Ubuntu"],
    "roles/gpu_worker/README.md": ["NVIDIA's packages", "Ubuntu"],
    "CONTRIBUTING.md": ["Docker's own repository", "NVIDIA's packages", "Ubuntu"],
}


def tied(text: str) -> list[str]:
    """The lines that name a processor; a comment decides nothing, and pip's markers name all there are."""
    lines = [line for line in text.splitlines() if PROCESSOR.search(line)]
    return [line for line in lines if not line.lstrip().startswith("#") and "platform_machine" not in line]


def test_nothing_is_tied_to_one_processor() -> None:
    files = [path for place in SHIPPED for path in (ROOT / place).rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert len(files) > 200
    found = {str(path.relative_to(ROOT)): lines for path in files if (lines := tied(path.read_text(errors="replace")))}
    assert found == {}


def test_a_tied_line_is_seen() -> None:
    assert tied("# amd64\nURIs: https://example.org/linux/amd64\nx == 1 ; platform_machine == 'x86_64'\n") == [
        "URIs: https://example.org/linux/amd64"
    ]


@pytest.mark.parametrize("page", UNTRIED)
def test_what_is_not_run_is_named(page: str) -> None:
    said = " ".join((ROOT / page).read_text().split())
    sentence = re.search(r"Not run in CI[^.]*\.", said)
    assert sentence, f"{page} does not say what is not run in CI"
    assert [name for name in UNTRIED[page] if name not in sentence[0]] == []
