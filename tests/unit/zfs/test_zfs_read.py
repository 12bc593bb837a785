# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Readers on recorded output. The recordings named 2.3.9 are real; form_of_2.1 is written after its sources."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs import read

sys.path.insert(0, str(Path(__file__).parent))
from zfs_answers import Answers

RECORDED = Path(__file__).parent / "recorded"


def status(name: str) -> dict:
    return read.parse_status((RECORDED / f"{name}.txt").read_text())


def shape(pool: Any) -> list:
    return [(group.use, group.kind, [member.paths for member in group.members]) for group in pool.groups]


def test_all_classes_are_told_apart() -> None:
    pool = status("all_classes-2.3.9")["llm"]
    assert pool.state == "ONLINE"
    assert shape(pool) == [
        ("data", "mirror", [("/dev/disk/by-id/virtio-SPARE0-part1",), ("/dev/disk/by-id/virtio-SPARE1-part1",)]),
        ("special", "mirror", [("/var/tmp/h1/a",), ("/var/tmp/h1/b",)]),
        ("log", "stripe", [("/var/tmp/h1/c",)]),
        ("cache", "stripe", [("/dev/loop0",)]),
        ("spare", "stripe", [("/var/tmp/h1/d",)]),
    ]


@pytest.mark.parametrize(
    ("recording", "members"),
    [
        ("offline-2.3.9", [("/var/tmp/h1/e",), ("/var/tmp/h1/f",)]),
        ("spare_in_use-2.3.9", [("/var/tmp/h1/e", "/var/tmp/h1/g"), ("/var/tmp/h1/f",)]),
        ("lost_disk-2.3.9", [("/var/tmp/h1/e",), ("8650879329510384377", "/var/tmp/h1/f")]),
        ("replacing-2.3.9", [("/var/tmp/h1/e",), ("8650879329510384377", "/var/tmp/h1/f/old", "/var/tmp/h1/f")]),
    ],
)
def test_a_place_keeps_all_devices_it_answers_to(recording: str, members: list[Any]) -> None:
    groups = status(recording)["tank"].groups
    assert [member.paths for member in groups[0].members] == members
    assert (groups[1].use, groups[1].members[0].paths) == ("spare", ("/var/tmp/h1/g",))


def test_raidz_draid_and_removed_vdevs() -> None:
    pools = status("raidz_draid_removed-2.3.9")
    assert [(group.use, group.kind, len(group.members)) for group in pools["h1rz"].groups] == [
        ("data", "raidz2", 4),
        ("dedup", "mirror", 2),
        ("special", "mirror", 2),
        ("log", "mirror", 2),
        ("cache", "stripe", 1),
    ]
    assert [(group.use, group.kind, len(group.members)) for group in pools["h1dr"].groups] == [("data", "draid1:2d:5c:1s", 5)]
    assert [group.members[0].paths for group in pools["h1st"].groups] == [("/var/tmp/h1/r1",), ("/var/tmp/h1/r3",)]


def test_2_1_with_notes_an_indirect_vdev_and_a_second_pool() -> None:
    pools = status("form_of_2.1")
    assert [(group.use, group.kind, group.state) for group in pools["tank"].groups] == [
        ("data", "raidz1", "ONLINE"),
        ("log", "mirror", "ONLINE"),
    ]
    assert [member.state for member in pools["tank"].groups[0].members] == ["ONLINE", "ONLINE", "FAULTED"]
    assert shape(pools["other"]) == [("data", "stripe", [("/dev/sdq",)])]


def test_no_pools() -> None:
    assert read.parse_status("no pools available\n") == {}


def test_importable() -> None:
    text = (RECORDED / "import-2.3.9.txt").read_text()
    assert [(each.name, each.guid) for each in read.parse_importable(text)] == [("tank", "629312032337736098")]
    assert read.parse_importable("no pools available to import\n") == []


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


def test_zfs_not_installed() -> None:
    with pytest.raises(read.NoZfsError, match="zpool is not installed on this host: install zfsutils-linux"):
        read.read_pools(Answers(missing=["zpool"]))
