# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Readers of datasets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import BadInput, CommandFailed
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs import read

sys.path.insert(0, str(Path(__file__).parent))
from zfs_answers import Answers


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


def test_missing_datasets_are_no_error() -> None:
    runner = Answers({"zfs get": (1, "a\ttype\tfilesystem\t-\n", "cannot open 'a/b': dataset does not exist\n")})
    assert list(read.read_datasets(runner, ["a", "a/b"], ["atime"])) == ["a"]
    assert runner.count == 1


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (
            (2, "", "bad property list: invalid property 'recordsiz'\nusage: ..."),
            BadInput,
            "ZFS on this host knows no property 'recordsiz': correct its name under properties.",
        ),
        ((1, "", "cannot open 'a': I/O error\n"), CommandFailed, "I/O error"),
        ((1, "", "The ZFS modules cannot be auto-loaded.\n"), read.NoZfsError, "The ZFS kernel module cannot be loaded"),
    ],
)
def test_what_zfs_get_may_say(answer: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text.replace("(", r"\(")):
        read.read_datasets(Answers({"zfs get": answer}), ["a"], ["recordsiz"])
