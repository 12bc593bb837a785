# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a host: what differs, what a diff may show, and writing that leaves the old file or the new one."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils import _host_files as files
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import BadInput, StackError
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._plan import Plan

ME = {"owner": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name}


def option(path: Path | str, **more: Any) -> dict[str, Any]:
    chosen = {"content": "new\n"} if "secret_content" not in more else {}
    return {"path": str(path), "mode": "0644", **ME, **chosen, **more}


def planned(*options: dict[str, Any]) -> Plan:
    wanted = files.parse_files(options)
    return files.plan({each.path: files.read_file(each.path) for each in wanted}, wanted)


def test_missing_files_are_written_with_their_folder(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.conf"
    made = planned(option(path, mode="0600"))
    assert made.sentences == [f"Write {path}"]
    assert made.diff == {"before": {str(path): []}, "after": {str(path): ["new"]}}
    made.carry_out(files.apply)
    assert path.read_text(encoding="utf-8") == "new\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert planned(option(path, mode="0600")).steps == ()
    assert [entry.name for entry in path.parent.iterdir()] == ["b.conf"]


def test_a_changed_mode_is_set_without_writing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("new\n", encoding="utf-8")
    path.chmod(0o666)
    made = planned(option(path))
    assert [step.action for step in made.steps] == ["protect"]
    assert "they are" in made.sentences[0] and "0666" in made.sentences[0]
    made.carry_out(files.apply)
    assert path.stat().st_mode & 0o777 == 0o644


def test_secrets_show_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("old token", encoding="utf-8")
    made = planned(option(path, secret_content="new token"))
    assert made.changed
    assert "token" not in (repr(made.steps) + repr(made.diff)).replace(str(path), "")


def test_parameters_are_written_in_place_and_only_where_they_exist(tmp_path: Path) -> None:
    path = tmp_path / "zfs_arc_max"
    absent = planned(option(path, content="5", in_place=True))
    assert absent.steps == ()
    assert absent.warnings == (f"{path} does not exist: the kernel module it belongs to is not loaded. Left out.",)
    path.write_text("0\n", encoding="utf-8")
    inode = path.stat().st_ino
    made = planned(option(path, content="5", in_place=True))
    made.carry_out(files.apply)
    assert path.read_text(encoding="utf-8") == "5"
    assert path.stat().st_ino == inode
    path.write_text("5\n", encoding="utf-8")
    assert planned(option(path, content="5", in_place=True)).steps == ()


BAD = {
    "relative": (option("a/b"), "The path 'a/b' in files is relative. Write it from the root."),
    "both contents": (option("/a", content="x", secret_content="y"), "The file /a needs exactly one of content and secret_content."),
    "a symbolic mode": (option("/a", mode="u=rw"), "The mode 'u=rw' of /a is not octal. Write it as '0644'."),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options_are_named(name: str) -> None:
    declared, sentence = BAD[name]
    with pytest.raises(BadInput) as caught:
        files.parse_files([declared])
    assert str(caught.value) == sentence


def test_a_file_declared_twice_is_named() -> None:
    with pytest.raises(BadInput, match="The file /a is declared 2 times in files"):
        files.parse_files([option("/a"), option("/a")])


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"is no regular file\. Move it away"):
        planned(option(tmp_path))


def test_an_unknown_owner_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old", encoding="utf-8")
    (step,) = planned(option(path, owner="nobody-of-that-name")).steps
    with pytest.raises(StackError, match="Check that its folder is writable and that nobody-of-that-name"):
        files.apply(step)
    assert path.read_text(encoding="utf-8") == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]
