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
    "a validation of nothing": (
        option("/a", validate=["nft", "-c"]),
        "The command in validate of /a lacks %s, which stands for the file it must look at.",
    ),
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


def test_a_block_leaves_the_rest_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "zed.rc"
    path.write_text("OWN=1", encoding="utf-8")
    path.chmod(0o600)
    for content in ("A=1\n", "A=2\n"):
        made = planned(option(path, content=content, block=True))
        made.carry_out(files.apply)
        written = path.read_text(encoding="utf-8")
        assert written == f"OWN=1\n# BEGIN selfhosted.llm_stack\n{content}# END selfhosted.llm_stack\n"
        assert path.stat().st_mode & 0o777 == 0o600
        path.write_text(written + "LATER=1\n", encoding="utf-8")
        assert planned(option(path, content=content, block=True)).steps == ()
        path.write_text(written, encoding="utf-8")


def test_a_block_makes_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "zed.rc"
    planned(option(path, content="A=1\n", block=True)).carry_out(files.apply)
    assert path.read_text(encoding="utf-8").splitlines() == ["# BEGIN selfhosted.llm_stack", "A=1", "# END selfhosted.llm_stack"]
    assert planned(option(path, content="A=1\n", block=True)).steps == ()


def test_a_file_of_another_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sanoid.conf"
    path.write_text("[tank]\n", encoding="utf-8")
    made = planned(option(path, marker="Written by us"))
    assert made.steps == ()
    assert [refusal.reason for refusal in made.refusals] == [
        f"Refusing to replace {path}: it does not say 'Written by us', so somebody else wrote it. "
        "Move what it says into the variables, and the file away."
    ]
    left = planned(option(path, marker="Written by us", leave_others=True))
    assert left.steps == left.refusals == ()
    assert left.warnings == (f"{path} does not say 'Written by us', so somebody else wrote it. It is left as it is.",)
    path.write_text("# Written by us\n", encoding="utf-8")
    for leave in (False, True):
        assert [step.action for step in planned(option(path, marker="Written by us", leave_others=leave)).steps] == ["write"]


def test_a_file_that_its_command_refuses_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "rules"
    path.write_text("old\n", encoding="utf-8")
    (step,) = planned(option(path, validate=["grep", "-q", "good", "%s"])).steps
    with pytest.raises(StackError, match=r"`grep -q good .*` failed with exit status 1"):
        files.apply(step)
    assert path.read_text(encoding="utf-8") == "old\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["rules"]
    (step,) = planned(option(path, content="good\n", validate=["grep", "-q", "good", "%s"])).steps
    files.apply(step)
    assert path.read_text(encoding="utf-8") == "good\n"
