# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a device is and carries, on recorded output and a made-up sysfs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._disk import identity, probe
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import StackError

sys.path.insert(0, str(Path(__file__).parent.parent / "zfs"))
from zfs_answers import Answers


def node(name: str, parent: str | None = None, kind: str = "disk", mounts: Any = (None,), **more: Any) -> Any:
    return {
        "kname": name,
        "pkname": parent,
        "type": kind,
        "size": 4 << 30,
        "ro": False,
        "phy-sec": 512,
        "mountpoints": list(mounts),
        **more,
    }


LSBLK = json.dumps(
    {
        "blockdevices": [
            node("sda"),
            node("sda1", "sda", "part", ["/boot"]),
            node("sda2", "sda", "part"),
            node("md0", "sda2", "raid1", ["/srv"]),
            node("sdb"),
            node("sdb1", "sdb", "part"),
            node("md0", "sdb1", "raid1", ["/srv"]),
            node("sdc", **{"phy-sec": 4096, "ro": True}),
            node("sdd", mounts=["[SWAP]"]),
            node("cciss!c0d0"),
        ]
    }
)


def described(real: str, *, is_held: bool = False) -> Any:
    rows = probe.parse_lsblk(LSBLK)
    return probe.describe_row("/dev/disk/by-id/x", rows[real], rows, is_held=is_held)


def test_a_disk_knows_what_stands_on_it() -> None:
    disk = described("/dev/sda")
    assert disk.partitions == ("/dev/sda1", "/dev/sda2")
    assert disk.holders == ("/dev/md0",)
    assert disk.mountpoints == ("/boot", "/srv")
    assert described("/dev/sdb").holders == ("/dev/md0",)


def test_a_partition_knows_its_disk() -> None:
    part = described("/dev/sdb1")
    assert (part.kind, part.parent, part.partitions, part.holders) == ("part", "/dev/sdb", (), ("/dev/md0",))


def test_a_raid_is_no_partition() -> None:
    raid = described("/dev/md0")
    assert (raid.kind, raid.parent, raid.mountpoints) == ("raid1", "", ("/srv",))


def test_sector_and_read_only() -> None:
    disk = described("/dev/sdc")
    assert (disk.sector, disk.read_only, described("/dev/sda").read_only) == (4096, True, False)


def test_names_with_a_slash() -> None:
    assert "/dev/cciss/c0d0" in probe.parse_lsblk(LSBLK)


@pytest.mark.parametrize(
    ("real", "is_held", "phrases"),
    [
        ("/dev/sdc", False, []),
        ("/dev/sda", False, ["it is mounted on /boot, /srv", "it is held by /dev/md0"]),
        ("/dev/sdd", True, ["it is mounted on [SWAP]"]),
        ("/dev/sdc", True, ["it is in use (an imported pool, a mount, RAID, LVM or an iSCSI target holds it)"]),
    ],
)
def test_uses(real: str, is_held: bool, phrases: list[str]) -> None:
    assert probe.uses(described(real, is_held=is_held)) == phrases


def test_missing_file_and_other(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100)
    (tmp_path / "link").symlink_to("file")
    runner = Answers({"lsblk": (0, LSBLK, "")})
    paths = [str(tmp_path / name) for name in ("gone", "link", ".")]
    gone, link, folder = probe.probe(runner, paths).values()
    assert (gone.kind, gone.exists) == ("missing", False)
    assert (link.kind, link.size, link.real) == ("file", 100, str(tmp_path / "file"))
    assert folder.kind == "other"
    assert runner.count == 1
    assert probe.probe(runner, []) == {}


def wipefs(*kinds: Any) -> Any:
    return (0, json.dumps({"signatures": [{"type": kind, "label": label} for kind, label in kinds]}), "")


CONTENTS = [
    ([], []),
    ([("gpt", None), ("PMBR", None), ("gpt", None)], ["it has a partition table (gpt)"]),
    ([("zfs_member", "llm")] * 3, ["it carries a ZFS pool named llm"]),
    ([("ext4", "data"), ("ext4", "data")], ["it carries ext4 named data"]),
    ([("LVM2_member", None)], ["it is an LVM physical volume"]),
    ([("strange", None)], ["it carries strange"]),
]


@pytest.mark.parametrize(("kinds", "phrases"), CONTENTS)
def test_contents(kinds: Any, phrases: list[str]) -> None:
    device = described("/dev/sdc")
    assert probe.contents(Answers({"wipefs --json": wipefs(*kinds)}), device) == phrases


def test_partitions_count_as_contents() -> None:
    answers = {"wipefs --json": (0, "", ""), "wipefs --json /dev/sdb1": wipefs(("zfs_member", "old"), ("zfs_member", "old"))}
    assert probe.contents(Answers(answers), described("/dev/sdb")) == ["it has partitions (sdb1)", "sdb1 carries a ZFS pool named old"]


def test_what_is_in_use_is_never_erased() -> None:
    runner = Answers()
    with pytest.raises(StackError, match="Refusing to erase /dev/disk/by-id/x: it is mounted on /boot, /srv; it is held by /dev/md0"):
        probe.clear(runner, described("/dev/sda"))
    assert runner.ran == []


def test_erasing_takes_partitions_first() -> None:
    rows = probe.parse_lsblk(json.dumps({"blockdevices": [node("sdb"), node("sdb1", "sdb", "part")]}))
    runner = Answers(missing=["udevadm"])
    probe.clear(runner, probe.describe_row("/dev/sdb", rows["/dev/sdb"], rows, is_held=False))
    assert runner.ran == [
        "zpool labelclear -f /dev/sdb1",
        "wipefs --all --force /dev/sdb1",
        "zpool labelclear -f /dev/sdb",
        "wipefs --all --force /dev/sdb",
    ]


def test_a_disk_that_is_partly_erased_is_said_to_be() -> None:
    rows = probe.parse_lsblk(json.dumps({"blockdevices": [node("sdb"), node("sdb1", "sdb", "part")]}))
    runner = Answers({"wipefs --all --force /dev/sdb": (1, "", "I/O error"), "wipefs --all --force /dev/sdb1": (0, "", "")})
    with pytest.raises(StackError, match=r"I/O error\. /dev/sdb1 of it are erased already"):
        probe.clear(runner, probe.describe_row("/dev/sdb", rows["/dev/sdb"], rows, is_held=False))


@pytest.fixture
def sysfs(tmp_path: Path) -> Any:
    """Disks as ZFS partitions them (vda, nvme0n1), and one partitioned by hand (vdb)."""
    block = tmp_path / "class" / "block"
    block.mkdir(parents=True)
    for disk, parts in {"vda": {"vda1": 1, "vda9": 9}, "nvme0n1": {"nvme0n1p1": 1, "nvme0n1p9": 9}, "vdb": {"vdb1": 1, "vdb2": 2}}.items():
        for part, number in parts.items():
            folder = tmp_path / "devices" / disk / part
            folder.mkdir(parents=True)
            (folder / "partition").write_text(f"{number}\n")
            (block / part).symlink_to(folder)
        (block / disk).symlink_to(tmp_path / "devices" / disk)
    return str(block)


@pytest.mark.parametrize(
    ("member", "alias", "answers"),
    [
        ("/dev/vda1", "/dev/vda", True),
        ("/dev/nvme0n1p1", "/dev/nvme0n1", True),
        ("/dev/vda9", "/dev/vda", False),
        ("/dev/vdb2", "/dev/vdb2", True),
        ("/nowhere/ata-X-part1", "/nowhere/ata-X", True),
        ("/nowhere/sdz1", "/nowhere/sdz", True),
        ("/nowhere/nvme7n1p1", "/nowhere/nvme7n1", True),
        ("/nowhere/file", "/nowhere/file", True),
        ("8650879329510384377", "8650879329510384377", True),
    ],
)
def test_a_member_answers_to_the_whole_disk_only_if_zfs_was_given_it(sysfs: str, member: str, alias: str, answers: Any) -> None:
    assert (alias in identity.member_aliases(member, sysfs=sysfs)) is answers


def test_a_disk_partitioned_by_hand_is_not_its_first_partition(sysfs: str) -> None:
    assert identity.whole_disk("/dev/vdb1", sysfs=sysfs) == ""


def test_links_lead_to_one_identity(tmp_path: Path) -> None:
    (tmp_path / "disk").touch()
    (tmp_path / "by-id").symlink_to("disk")
    assert identity.declared_aliases(str(tmp_path / "by-id")) & identity.declared_aliases(str(tmp_path / "disk"))


def test_parent_disk(sysfs: str) -> None:
    assert [identity.parent_disk(real, sysfs=sysfs) for real in ("/dev/vdb2", "/dev/vdb", "/srv/file")] == ["/dev/vdb", "", ""]


@pytest.fixture
def multipath(tmp_path: Path) -> str:
    """Two paths (sdx, sdy) below one multipath device (dm-3) that ZFS was given whole: dm-4 is its first partition."""
    block = tmp_path / "class" / "block"
    uuids = {"dm-3": "mpath-3600", "dm-4": "part1-mpath-3600", "dm-5": "part9-mpath-3600", "dm-6": "LVM-x", "dm-7": "part2-mpath-3600"}
    below = {"dm-3": ["sdx", "sdy"], "dm-4": ["dm-3"], "dm-5": ["dm-3"], "dm-6": ["sdz"], "dm-7": ["dm-3"]}
    for name, slaves in below.items():
        (block / name / "dm").mkdir(parents=True)
        (block / name / "dm" / "uuid").write_text(uuids[name] + "\n")
        for slave in slaves:
            (block / slave / "holders" / name).mkdir(parents=True)
            (block / name / "slaves" / slave).mkdir(parents=True)
    return str(block)


def test_a_path_means_the_multipath_device_above_it(multipath: str) -> None:
    assert "/dev/dm-3" in identity.declared_aliases("/dev/sdx", sysfs=multipath)
    assert identity.declared_aliases("/dev/sdz", sysfs=multipath) == {"/dev/sdz"}
    assert "/dev/dm-3" in identity.member_aliases("/dev/sdy", sysfs=multipath)


def test_the_first_partition_of_a_multipath_device_is_the_device_if_zfs_was_given_it(multipath: str) -> None:
    assert "/dev/dm-3" in identity.member_aliases("/dev/dm-4", sysfs=multipath)
    assert "/dev/dm-3" not in identity.member_aliases("/dev/dm-7", sysfs=multipath)
    assert identity.parent_disk("/dev/dm-4", sysfs=multipath) == "/dev/dm-3"
    assert identity.parent_disk("/dev/dm-6", sysfs=multipath) == ""
