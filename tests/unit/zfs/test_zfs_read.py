# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Readers of datasets."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs import read


def test_datasets_and_values_over_several_lines() -> None:
    text = "llm\tatime\toff\tlocal\nllm\torg.x:note\tone\ntwo\tlocal\nllm/a\tatime\toff\tinherited from llm\n"
    found = read.parse_get(text)
    assert found["llm"]["org.x:note"].text == "one\ntwo"
    assert found["llm/a"]["atime"].source == "inherited from llm"


@pytest.mark.parametrize(
    ("version", "style"), [("2.1.11-1", "dir"), ("2.2.2-0ubuntu9", "dir"), ("2.3.9-0+deb13u1", "sa"), ("2.4.0-1", "sa")]
)
def test_what_xattr_on_means_depends_on_the_version(tmp_path: Path, version: str, style: str) -> None:
    (tmp_path / "version").write_text(version + "\n")
    assert read.xattr_style(str(tmp_path / "version")) == style
    assert read.parse_get("a\txattr\ton\tdefault\n", xattr=style)["a"]["xattr"].text == style
