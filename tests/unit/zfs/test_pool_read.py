# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Readers of pools on recorded output; recorded/README.md tells where it is from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.pool import facts, model, read, status_json, status_text
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.read import NoZfsError

sys.path.insert(0, str(Path(__file__).parent))
from zfs_answers import Answers

RECORDED = Path(__file__).parent / "recorded"


def text(name: str) -> str:
    return (RECORDED / name).read_text()


def status(name: str) -> Any:
    """Pools of a recording in either form."""
    if name.endswith(".json"):
        return status_json.parse_status_json(text(name))
    return status_text.parse_status(text(name))


def shape(pool: Any) -> list[Any]:
    return [(group.use, group.kind, [member.paths for member in group.members]) for group in pool.groups]


def test_all_classes_are_told_apart() -> None:
    pool = status("all_classes-2.3.9.txt")["llm"]
    assert pool.state == "ONLINE"
    assert shape(pool) == [
        ("data", "mirror", [("/dev/disk/by-id/virtio-SPARE0-part1",), ("/dev/disk/by-id/virtio-SPARE1-part1",)]),
        ("special", "mirror", [("/var/tmp/h1/a",), ("/var/tmp/h1/b",)]),
        ("log", "stripe", [("/var/tmp/h1/c",)]),
        ("cache", "stripe", [("/dev/loop0",)]),
        ("spare", "stripe", [("/var/tmp/h1/d",)]),
    ]


def test_all_classes_in_json_with_guids_and_figures() -> None:
    pool = status("all_classes-2.3.9.json")["wpoola"]
    assert shape(pool) == [
        ("data", "mirror", [("/var/tmp/pool/a",), ("/var/tmp/pool/b",)]),
        ("special", "mirror", [("/var/tmp/pool/c",), ("/var/tmp/pool/d",)]),
        ("log", "stripe", [("/var/tmp/pool/e",)]),
        ("spare", "stripe", [("/var/tmp/pool/f",)]),
    ]
    special = pool.of("special")[0]
    assert (pool.guid, special.guid, special.size, special.allocated) == ("12380502985473302969", "16844793269772895269", 117440512, 512000)
    assert pool.groups[0].leaves[0].guid == "9836822576054342715"


@pytest.mark.parametrize("name", ["replacing_below_spare-2.3.9", "removing-2.3.9", "expanding-2.3.9", "initializing-2.3.9"])
def test_both_forms_tell_the_same(name: str) -> None:
    (plain,), (rich,) = status(f"{name}.txt").values(), status(f"{name}.json").values()

    def told(pool: Any) -> Any:
        leaves = [(leaf.name, leaf.was, leaf.state, leaf.initialized, leaf.trimmed) for group in pool.groups for leaf in group.leaves]
        standing = [member.standing for group in pool.groups for member in group.members]
        return pool.name, pool.state, shape(pool), leaves, standing, pool.removing, pool.expanding, pool.scan.kind, pool.scan.state

    assert told(plain) == told(rich)


@pytest.mark.parametrize(
    ("recording", "members"),
    [
        ("offline-2.3.9.txt", [("/var/tmp/h1/e",), ("/var/tmp/h1/f",)]),
        ("spare_in_use-2.3.9.txt", [("/var/tmp/h1/e", "/var/tmp/h1/g"), ("/var/tmp/h1/f",)]),
        ("lost_disk-2.3.9.txt", [("/var/tmp/h1/e",), ("8650879329510384377", "/var/tmp/h1/f")]),
        ("replacing-2.3.9.txt", [("/var/tmp/h1/e",), ("8650879329510384377", "/var/tmp/h1/f/old", "/var/tmp/h1/f")]),
    ],
)
def test_a_place_keeps_all_devices_it_answers_to(recording: str, members: list[Any]) -> None:
    groups = status(recording)["tank"].groups
    assert [member.paths for member in groups[0].members] == members
    assert (groups[1].use, groups[1].members[0].paths) == ("spare", ("/var/tmp/h1/g",))


def test_a_lost_disk_in_json_has_its_guid_and_the_usual_state() -> None:
    leaf = status("lost_disk-2.3.9.json")["wpoola"].groups[0].leaves[0]
    assert (leaf.name, leaf.guid, leaf.was, leaf.state) == ("588390236153521678", "588390236153521678", "/var/tmp/pool/a", "UNAVAIL")


def test_a_path_whose_disk_is_gone_is_used_by_no_pool() -> None:
    names = facts.names_in_use(status("lost_disk-2.3.9.json").values())
    assert "/var/tmp/pool/a" not in names
    assert set(names.values()) == {"wpoola"}


def test_raidz_draid_and_removed_vdevs() -> None:
    pools = status("raidz_draid_removed-2.3.9.txt")
    assert [(group.use, group.kind, len(group.members)) for group in pools["h1rz"].groups] == [
        ("data", "raidz2", 4),
        ("dedup", "mirror", 2),
        ("special", "mirror", 2),
        ("log", "mirror", 2),
        ("cache", "stripe", 1),
    ]
    assert [(group.use, group.kind, len(group.members)) for group in pools["h1dr"].groups] == [("data", "draid1:2d:5c:1s", 5)]
    assert [group.members[0].paths for group in pools["h1st"].groups] == [("/var/tmp/h1/r1",), ("/var/tmp/h1/r3",)]


def test_a_distributed_spare_in_use_is_no_device_of_its_own() -> None:
    pool = status("draid_spared-2.3.9.json")["wpoold"]
    assert [group.use for group in pool.groups] == ["data"]
    assert pool.groups[0].members[0].paths == ("/var/tmp/pool/c", "draid1-0-0")
    assert (pool.scan.kind, pool.scan.state) == ("resilver", "running")


@pytest.mark.parametrize("version", ["2.1.11", "2.2.2", "2.4.4"])
def test_other_versions_as_recorded(version: str) -> None:
    whole = status(f"all_classes-{version}.txt")["wpoola"]
    assert {(group.use, group.kind, group.name) for group in whole.groups} == {
        ("data", "mirror", "mirror-0"),
        ("dedup", "mirror", "mirror-2"),
        ("special", "mirror", "mirror-1"),
        ("log", "mirror", "mirror-3"),
        ("cache", "stripe", "/var/tmp/pool/i"),
        ("spare", "stripe", "/var/tmp/pool/j"),
    }
    assert status(f"scrub-{version}.txt")["wpoola"].scan == model.Scan("scrub", "finished", 100.0)
    assert [leaf.state for leaf in status(f"offline-{version}.txt")["wpoola"].groups[0].leaves] == ["ONLINE", "OFFLINE"]
    assert [leaf.initialized for leaf in status(f"initializing-{version}.txt")["wpoola"].groups[0].leaves] == ["done", "no"]
    lost = status(f"lost_disk-{version}.txt")["wpoola"].groups[0].leaves[1]
    assert (lost.guid.isdecimal(), lost.was, lost.state) == (True, "/var/tmp/pool/b", "UNAVAIL")
    standing_in = status(f"spare_in_use-{version}.txt")["wpoola"].groups[0].members[1]
    assert standing_in.paths == (lost.guid, "/var/tmp/pool/b", "/var/tmp/pool/j")
    (found,) = status_text.parse_importable(text(f"import-{version}.txt"))
    assert {group.use for group in found.pool.groups} == {"data", "cache", "spare", "dedup", "special", "log"}
    known = read.parse_geometry(text(f"zdb-{version}.txt"))
    assert {found.ashift for group in whole.groups if group.use in model.VITAL and (found := read.geometry_of(group, known))} == {12}


@pytest.mark.parametrize(("version", "done"), [("2.1.11", 6.85), ("2.2.2", 0.0), ("2.4.4", 0.0)])
def test_other_versions_with_a_replacement_a_distributed_spare_and_a_pool_of_another_host(version: str, done: float) -> None:
    replacing = status(f"replacing-{version}.txt")["wpoola"]
    assert replacing.groups[0].members[0].paths == ("/var/tmp/pool/a", "/var/tmp/pool/g")
    assert (replacing.groups[0].members[0].standing, replacing.scan) == ("replacing", model.Scan("resilver", "running", done))
    draid = status(f"draid_spared-{version}.txt")["wpoold"]
    assert [(group.use, group.kind, len(group.members)) for group in draid.groups] == [("data", "draid1:2d:5c:1s", 5)]
    assert draid.groups[0].members[0].paths == ("/var/tmp/pool/r1", "draid1-0-0")
    (other,) = status_text.parse_importable(text(f"import_other_host-{version}.txt"))
    assert (other.name, other.other_host, other.in_use) == ("wpoolh", True, False)


STATES = ["all_classes", "scrub", "offline", "initializing", "lost_disk", "spare_in_use", "replacing", "paused", "draid_spared"]


@pytest.mark.parametrize("name", STATES)
def test_both_forms_of_2_4_are_read_alike(name: str) -> None:
    (as_text,), (as_json,) = (list(status(f"{name}-2.4.4.{form}").values()) for form in ("txt", "json"))
    assert sorted(shape(as_text)) == sorted(shape(as_json))
    assert (as_text.state, as_text.scan, as_text.errors) == (as_json.state, as_json.scan, as_json.errors)
    states = [
        sorted((leaf.name, leaf.state, leaf.was, leaf.initialized) for group in pool.groups for leaf in group.leaves)
        for pool in (as_text, as_json)
    ]
    assert states[0] == states[1]


@pytest.mark.parametrize("version", ["2.2.2", "2.4.4"])
def test_a_scrub_that_is_paused_as_recorded(version: str) -> None:
    assert status(f"paused-{version}.txt")["wpoola"].scan == model.Scan("scrub", "paused", 0.0)


def test_2_1_with_notes_an_indirect_vdev_and_a_second_pool() -> None:
    pools = status("form_of_2.1.txt")
    assert [(group.use, group.kind, group.state) for group in pools["tank"].groups] == [
        ("data", "raidz1", "ONLINE"),
        ("log", "mirror", "ONLINE"),
    ]
    assert [member.state for member in pools["tank"].groups[0].members] == ["ONLINE", "ONLINE", "FAULTED"]
    assert pools["tank"].removing == ""
    assert pools["tank"].scan == model.Scan("scrub", "finished", 100.0)
    assert shape(pools["other"]) == [("data", "stripe", [("/dev/sdq",)])]


def test_2_2_with_a_replacement_errors_and_a_paused_scrub() -> None:
    pools = status("form_of_2.2.txt")
    tank = pools["tank"]
    assert tank.groups[0].members[0].paths == (
        "11577372893711371456",
        "/dev/disk/by-id/ata-OLD-part1",
        "/dev/disk/by-id/ata-NEW-part1",
    )
    assert (tank.scan, tank.errors) == (model.Scan("resilver", "running", 12.01), "2 data errors, use '-v' for a list")
    assert tank.of("special")[0].leaves[1].name == "/dev/nvme1n1p1"
    assert pools["paused"].scan == model.Scan("scrub", "paused", 25.0)


def test_2_4_with_numbers_as_text_and_a_draid_without_type_and_state() -> None:
    tank = status("form_of_2.4.json")["tank"]
    assert [(group.use, group.kind, len(group.members)) for group in tank.groups] == [
        ("data", "draid1:2d:5c:1s", 5),
        ("cache", "stripe", 1),
    ]
    assert (tank.scan, tank.errors, tank.state) == (model.Scan("scrub", "paused", 25.0), "3 data errors, use '-v' for a list", "DEGRADED")
    assert tank.groups[0].size == 251642880


def test_what_runs_by_itself() -> None:
    assert status("removing-2.3.9.json")["wpoolb"].removing == "/var/tmp/pool/q"
    assert status("expanding-2.3.9.json")["wpoolc"].expanding == "raidz1-0"
    leaves = status("initializing-2.3.9.json")["wpoola"].groups[0].leaves
    assert [(leaf.initialized, leaf.trimmed) for leaf in leaves] == [("running", "no"), ("no", "no")]
    assert status("scrub-2.3.9.txt")["wpoola"].scan == model.Scan("scrub", "running", 100.0)
    assert {leaf.trimmed for leaf in status("trimmed-2.3.9.txt")["wpoola"].groups[0].leaves} == {"done"}


def test_no_pools() -> None:
    assert status_text.parse_status("no pools available\n") == {}
    assert status_json.parse_status_json('{"output_version": {}, "pools": {}}') == {}


def test_importable() -> None:
    (tank,) = status_text.parse_importable(text("import-2.3.9.txt"))
    assert (tank.name, tank.guid, tank.pool.state, tank.other_host) == ("tank", "629312032337736098", "DEGRADED", False)
    assert [leaf.path for leaf in tank.pool.groups[0].leaves] == ["/var/tmp/h1/e", "/var/tmp/h1/f"]
    (every,) = status_text.parse_importable(text("import_all_classes-2.3.9.txt") * 2)
    assert [group.use for group in every.pool.groups] == ["data", "cache", "spare", "special", "log"]
    (other,) = status_text.parse_importable(text("import_other_host-2.3.9.txt"))
    assert (other.other_host, other.in_use) == (True, False)
    (whole,) = status_text.parse_importable(text("import_whole_disk-2.3.9.txt"))
    assert whole.pool.groups[0].leaves[0].path == "/dev/disk/by-id/virtio-SPARE0-part1"
    assert status_text.parse_importable("no pools available to import\n") == []


def test_sector_sizes_of_vdevs_are_found_by_number_guid_and_path() -> None:
    found = read.parse_geometry(text("zdb-2.3.9.txt"))
    # Of 129499136 bytes, seven metaslabs of 16 MiB.
    assert {found["#0"], found["16844793269772895269"], found["/var/tmp/pool/e"]} == {read.Geometry(12, 7 << 24)}
    groups = status("all_classes-2.3.9.json")["wpoola"].groups
    assert [read.geometry_of(group, found) for group in groups] == [*[read.Geometry(12, 7 << 24)] * 3, None]


def test_a_raidz_wants_its_share_of_each_device() -> None:
    values = {"type": "'raidz'", "guid": 5, "ashift": 12, "asize": 100 << 20, "metaslab_shift": 24}
    lines = ["            children[0]:", *(f"                {name}: {value}" for name, value in values.items())]
    lines += [f"                children[{number}]:" for number in range(3)]
    assert read.parse_geometry("\n".join(lines))["5"] == read.Geometry(12, (96 << 20) // 3)


def test_usage_where_the_status_does_not_tell() -> None:
    found = facts.parse_usage("wpoola\t234881024\t512000\n\tmirror-1\t117440512\t512000\nspecial  -  -\n\t/var/tmp/pool/e\t134217728\t-\n")
    assert found["mirror-1"] == (117440512, 512000)
    assert found["/var/tmp/pool/e"] == (134217728, 0)


def test_datasets_for_the_advice() -> None:
    lines = [f"tank\t{name}\t{value}" for name, value in {"recordsize": 131072, "volblocksize": "-", "sync": "disabled"}.items()]
    lines += ["tank/vm\tvolblocksize\t16384", "tank/vm\trecordsize\t-", "tank/vm\tsecondarycache\tmetadata"]
    tank, volume = facts.parse_datasets("\n".join(lines))
    assert (tank.block, tank.sync, volume.block, volume.secondarycache) == (131072, "disabled", 16384, "metadata")


@pytest.mark.parametrize(("version", "flags"), [((2, 1), "-P"), ((2, 2), "-P"), ((2, 3), "-P -j --json-int"), ((2, 4), "-P -j --json-int")])
def test_json_is_asked_for_where_there_is_any(version: Any, flags: str) -> None:
    answers = Answers({"zpool status -P": (0, "no pools available\n", ""), "zpool status -P -j": (0, '{"pools": {}}', "")})
    assert read.read_pools(answers, version=version) == {}
    assert answers.ran == [f"zpool status {flags}"]


@pytest.mark.parametrize(("text", "version"), [("2.3.9-0+deb13u1\n", (2, 3)), ("2.1.11-1\n", (2, 1)), ("strange", (0, 0))])
def test_the_version_of_the_module(tmp_path: Path, text: str, version: Any) -> None:
    (tmp_path / "version").write_text(text)
    assert read.zfs_version(str(tmp_path / "version")) == version
    assert read.zfs_version(str(tmp_path / "none")) == (0, 0)


def test_compatibility_allows_what_all_its_files_name(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("# comment\nlz4_compress, draid\nzstd_compress # more\n")
    (tmp_path / "b").write_text("draid\nzstd_compress\n")
    folders = [str(tmp_path / "nowhere"), str(tmp_path)]
    assert read.allowed_features("a,b", folders) == {"draid", "zstd_compress"}
    assert read.allowed_features(str(tmp_path / "b"), folders) == {"draid", "zstd_compress"}
    assert read.allowed_features("off", folders) is None
    assert read.allowed_features("legacy", folders) == frozenset()
    assert read.allowed_features("unknown", folders) == frozenset()


def test_what_the_machine_tells_without_a_process(tmp_path: Path) -> None:
    proc, sys_ = tmp_path / "proc", tmp_path / "sys"
    (proc / "spl/kstat/zfs").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:       16000000 kB\n")
    (proc / "spl/kstat/zfs/arcstats").write_text("name type data\nc_max                           4    11000000000\n")
    (sys_ / "module/zfs/parameters").mkdir(parents=True)
    (sys_ / "module/zfs/parameters/zfs_dirty_data_max").write_text("1600000000\n")
    host = facts.read_host(proc=str(proc), sys=str(sys_))
    assert (host.memory, host.arc, host.dirty) == (16384000000, 11000000000, 1600000000)
    bare = facts.read_host(proc=str(tmp_path / "none"), sys=str(sys_))
    assert (bare.memory, bare.arc) == (0, 0)


def test_sizes_and_sectors_of_devices_without_a_process(tmp_path: Path) -> None:
    disk = tmp_path / "sys/class/block/sdzz"
    (disk / "queue").mkdir(parents=True)
    (disk / "size").write_text("2048\n")
    (disk / "queue/physical_block_size").write_text("4096\n")
    (tmp_path / "file").write_bytes(b"x" * 100)
    leaves = (model.Leaf("/dev/sdzz"), model.Leaf(str(tmp_path / "file")), model.Leaf("123"))
    group = model.Group("data", "mirror", "mirror-0", "ONLINE", tuple(model.Member((leaf,), "ONLINE") for leaf in leaves))
    host = facts.read_devices(facts.Host(), model.FoundPool("tank", "ONLINE", (group,)), sys=str(tmp_path / "sys"))
    assert (host.sizes, host.sectors) == ({"/dev/sdzz": 1 << 20, str(tmp_path / "file"): 100}, {"/dev/sdzz": 4096})


def test_zfs_not_installed() -> None:
    with pytest.raises(NoZfsError, match="zpool is not installed on this host: install zfsutils-linux"):
        read.read_pools(Answers(missing=["zpool"]))
