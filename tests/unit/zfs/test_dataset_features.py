# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What zfs_dataset keeps, carried out on a simulated ZFS: the documented examples, one after another, and each part by itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import Refused
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.dataset import apply, declare, model, read, snapshots
from ansible_collections.selfhosted.llm_stack.plugins.modules import zfs_dataset

sys.path.insert(0, str(Path(__file__).parent))
from simulated_zfs import SimulatedZfs

SECRET = "correct horse battery"
OTHER = "another long passphrase"
RAW = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHv8="
HOST = model.Host(users={"bob": 1000, "root": 0, "www-data": 33, "backup": 34}, groups={"users": 100}, files=frozenset({"/k"}))


@pytest.fixture(autouse=True)
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with these users and key files, whose volumes have their links at once and whose file systems are mounted nowhere."""
    files = frozenset({"/k", "/k2", "/etc/zfs/keys/llm-backup"})
    monkeypatch.setattr(read, "_number", lambda kind, name: str(HOST.number(kind, name) or name))
    monkeypatch.setattr(apply, "read_host", lambda wanted: model.Host(HOST.users, HOST.groups, files))
    monkeypatch.setattr(apply, "await_link", lambda path: None)
    monkeypatch.setattr(apply.DatasetKeeper, "_own", lambda self, data: None)


def run(zfs: SimulatedZfs, *raws: dict[str, Any]) -> Any:
    """Plan and carry out; returns the plan."""
    zfs.count = 0
    zfs.changes.clear()
    keeper = apply.DatasetKeeper(zfs, declare.declare_datasets(list(raws)), rehearsal=False)
    made = keeper.plan()
    made.raise_if_refused()
    made.carry_out(keeper.do)
    return made


def settled(zfs: SimulatedZfs, *raws: dict[str, Any]) -> list[str]:
    """Carry out, see that a second run has nothing to do, and return the commands of the first."""
    run(zfs, *raws)
    changes = list(zfs.changes)
    again = run(zfs, *raws)
    assert (again.sentences, again.diff) == ([], {"before": {}, "after": {}})
    return changes


def refused(zfs: SimulatedZfs, *raws: dict[str, Any]) -> str:
    """The reason why nothing was done."""
    with pytest.raises(Refused) as caught:
        run(zfs, *raws)
    assert zfs.changes == []
    return str(caught.value)


def zfs_with(*raws: dict[str, Any], files: dict[str, str] | None = None) -> SimulatedZfs:
    zfs = SimulatedZfs(files=files)
    run(zfs, *raws)
    return zfs


def test_the_documented_examples_one_after_another() -> None:
    text = zfs_dataset.EXAMPLES.replace('"{{ vault_llm_private }}"', SECRET).replace('"{{ vault_llm_private_new }}"', OTHER)
    zfs = SimulatedZfs("llm", files={"/etc/zfs/keys/llm-backup": "k" * 32})
    for task in yaml.safe_load(text):
        entries = task["selfhosted.llm_stack.zfs_dataset"]["datasets"]
        if "Go back" in task["name"]:
            zfs.run(["zfs", "snapshot", "llm/models@v2"])
            zfs.run(["zfs", "snapshot", "llm/models@v3"])
        if "only snapshot" in task["name"]:
            zfs.run(["zfs", "snapshot", "llm/models-old@v0"])
            zfs.run(["zfs", "hold", "release", "llm/models-old@v0"])
        made = run(zfs, *entries)
        assert made.changed, task["name"]
        if not any("mountpoint_mode" in each for each in entries):  # nothing is mounted here
            assert not run(zfs, *entries).changed, task["name"]
    assert sorted(zfs.snaps) == ["llm/models-next@v1"]
    assert "llm/models-old" not in zfs.datasets


# -- properties --


def test_fifty_datasets_with_twelve_properties() -> None:
    values = {"atime": False, "compression": "lz4", "recordsize": "1M", "quota": "10G", "refquota": "9G", "sync": "always", "copies": 2}
    values.update({"snapdir": "visible", "logbias": "throughput", "readonly": False, "xattr": "sa", "org.x:note": "n"})
    raws = [{"name": f"p/d{number}", "properties": values} for number in range(50)]
    zfs = SimulatedZfs()
    run(zfs, *raws)
    assert zfs.count == 51
    run(zfs, *raws)
    assert zfs.count == 1


def test_inherit_removes_local_and_received_values_of_many_with_one_command() -> None:
    zfs = zfs_with({"name": "p/a", "properties": {"atime": False}}, {"name": "p/b", "properties": {"atime": False, "org.x:y": "1"}})
    entries = [{"name": f"p/{name}", "properties": {"atime": "inherit", "org.x:y": "inherit"}} for name in "ab"]
    assert settled(zfs, *entries) == ["zfs inherit atime p/a p/b", "zfs inherit org.x:y p/b"]


def test_a_child_of_what_inherits_keeps_its_declared_value() -> None:
    zfs = zfs_with({"name": "p/a", "properties": {"atime": False}}, {"name": "p/a/b"})
    entries = [{"name": "p/a", "properties": {"atime": "inherit"}}, {"name": "p/a/b", "properties": {"atime": False}}]
    assert settled(zfs, *entries) == ["zfs set atime=off p/a/b", "zfs inherit atime p/a"]


def test_match_local_wants_a_value_of_its_own() -> None:
    zfs = zfs_with({"name": "p/a", "properties": {"atime": False}}, {"name": "p/a/b"})
    entry = {"name": "p/a/b", "properties": {"atime": False, "recordsize": "128K", "quota": "none", "encryption": False}}
    assert settled(zfs, entry) == []
    made = run(zfs, {**entry, "match": "local"})
    assert made.diff == {
        "before": {"p/a/b": {"atime": "off (inherited from p/a)", "recordsize": "131072 (default)"}},
        "after": {"p/a/b": {"atime": "off", "recordsize": "128K"}},
    }
    assert settled(zfs, {**entry, "match": "local"}) == []


def test_purge_lets_go_of_what_is_not_declared_but_for_properties_of_users_and_keys() -> None:
    zfs = zfs_with(
        {
            "name": "p/a",
            "properties": {"atime": False, "sync": "always", "quota": "1G", "canmount": "off", "org.x:y": "1"},
            "encryption": {"key": SECRET},
        },
        {"name": "p/v", "type": "volume", "volsize": "1G", "properties": {"compression": "lz4"}},
    )
    entries = [
        {"name": "p/a", "properties": {"sync": "always"}, "purge": True},
        {"name": "p/v", "type": "volume", "volsize": "1G", "purge": True},
    ]
    assert settled(zfs, *entries) == [
        "zfs set quota=none canmount=on p/a",
        "zfs inherit atime p/a",
        "zfs inherit compression p/v",
        "zfs mount p/a",
    ]
    assert zfs.datasets["p/a"].local["org.x:y"] == "1"
    assert zfs.datasets["p/a"].local["keylocation"] == "prompt"
    assert "refreservation" in zfs.datasets["p/v"].local


def test_purge_with_quotas_by_name_takes_a_second_process() -> None:
    entry = {"name": "p/a", "purge": True, "properties": {"userquota@bob": "1G"}}
    zfs = zfs_with(entry)
    run(zfs, entry)
    assert zfs.count == 2


def test_quotas_by_name() -> None:
    values = {"userquota@bob": "10G", "groupquota@users": "1T", "userobjquota@1000": "1000", "projectquota@7": "5G"}
    zfs = zfs_with({"name": "p/a", "properties": values})
    assert settled(zfs, {"name": "p/a", "properties": {**values, "userquota@bob": "none", "groupquota@users": "2T"}}) == [
        "zfs set userquota@bob=none groupquota@users=2T p/a"
    ]
    assert "the user eve of userquota@eve does not exist" in refused(zfs, {"name": "p/new", "properties": {"userquota@eve": "1G"}})


def test_what_a_new_mountpoint_has_mounted_already_is_no_error() -> None:
    zfs = zfs_with({"name": "p/a", "properties": {"mountpoint": "none", "canmount": "noauto"}})
    settled(zfs, {"name": "p/a", "properties": {"mountpoint": "/srv", "canmount": "on"}})
    assert zfs.datasets["p/a"].mounted


# -- keys --


def test_a_key_from_the_playbook_travels_on_standard_input_alone() -> None:
    zfs = SimulatedZfs()
    entries = [{"name": "p/e", "encryption": {"key": SECRET}}, {"name": "p/e/below"}]
    made = run(zfs, *entries)
    assert zfs.changes == ["zfs create -o encryption=on -o keyformat=passphrase -o keylocation=prompt p/e", "zfs create p/e/below"]
    assert zfs.secrets == [SECRET + "\n"]
    assert SECRET not in repr((made, zfs.changes))
    assert not run(zfs, *entries).changed
    assert zfs.count == 1


def test_a_raw_key_reaches_zfs_byte_for_byte() -> None:
    zfs = zfs_with({"name": "p/e", "encryption": {"key": RAW, "format": "raw"}})
    assert zfs.secrets[0].encode("utf-8", "surrogateescape") == bytes([*range(31), 255])


def test_a_key_that_was_unloaded_is_loaded_and_all_below_is_mounted() -> None:
    entries = [{"name": "p/e", "encryption": {"key": SECRET}}, {"name": "p/e/below"}]
    zfs = zfs_with(*entries)
    unload = [{"name": "p/e", "encryption": {"loaded": False}}, {"name": "p/e/below"}]
    assert settled(zfs, *unload) == ["zfs unmount p/e/below", "zfs unmount p/e", "zfs unload-key p/e"]
    assert settled(zfs, *entries) == ["zfs load-key -L prompt p/e", "zfs mount p/e", "zfs mount p/e/below"]


def test_a_new_dataset_may_be_left_without_its_key() -> None:
    zfs = SimulatedZfs()
    entry = {"name": "p/e", "encryption": {"key": SECRET, "loaded": False}}
    assert [change.split()[1] for change in settled(zfs, entry)] == ["create", "unmount", "unload-key"]


def test_a_key_is_changed_only_when_asked_and_only_when_it_does_not_fit() -> None:
    zfs = zfs_with({"name": "p/e", "encryption": {"key": SECRET}})
    assert settled(zfs, {"name": "p/e", "encryption": {"key": SECRET, "change": True}}) == []
    assert settled(zfs, {"name": "p/e", "encryption": {"key": OTHER, "change": True}}) == [
        "zfs change-key -o keyformat=passphrase -o keylocation=prompt p/e"
    ]
    raw = {"key": RAW, "format": "raw"}
    assert "the declared raw key does not open it. Correct encryption, or set change: true" in refused(
        zfs, {"name": "p/e", "encryption": raw}
    )
    assert settled(zfs, {"name": "p/e", "encryption": {**raw, "change": True}}) == [
        "zfs change-key -o keyformat=raw -o keylocation=prompt p/e"
    ]


def test_a_key_moves_to_a_file_only_when_the_file_holds_it() -> None:
    zfs = zfs_with({"name": "p/e", "encryption": {"key": SECRET}}, files={"/k": SECRET + "\n", "/k2": OTHER + "\n"})
    assert "the declared passphrase key does not open it" in refused(zfs, {"name": "p/e", "encryption": {"file": "/k2"}})
    assert settled(zfs, {"name": "p/e", "encryption": {"file": "/k"}}) == ["zfs set keylocation=file:///k p/e"]
    assert settled(zfs, {"name": "p/e", "encryption": {"file": "/k2", "change": True}}) == [
        "zfs change-key -o keyformat=passphrase -o keylocation=file:///k2 p/e"
    ]


def test_a_dataset_below_gets_a_key_of_its_own_only_when_asked() -> None:
    zfs = zfs_with({"name": "p/e", "encryption": {"key": SECRET}}, {"name": "p/e/below"})
    entry = {"name": "p/e/below", "encryption": {"key": OTHER}}
    assert "Refusing the key declared for p/e/below: it takes its key from p/e." in refused(zfs, entry)
    assert settled(zfs, {"name": "p/e/below", "encryption": {"key": OTHER, "change": True}}) == [
        "zfs change-key -o keyformat=passphrase -o keylocation=prompt p/e/below"
    ]


KEY_REFUSALS = [
    ({"name": "p/a", "encryption": {"key": SECRET}}, "Refusing to encrypt p/a: ZFS encrypts a dataset only when it is created."),
    (
        {"name": "p/new", "encryption": {"file": "/nowhere"}},
        "Dataset p/new: its key file /nowhere does not exist on this host: put it there",
    ),
    ({"name": "p/new", "properties": {"encryption": True}}, "Refusing to create p/new encrypted: it has no key, and no parent to take one"),
    (
        {"name": "p/new", "encryption": {"loaded": False}},
        "Refusing to create p/new encrypted without a key: give encryption a key or file.",
    ),
    ({"name": "p/e/below", "encryption": {"loaded": False}}, "Refusing to unload the key of p/e/below: it is the key of p/e. Declare that"),
    (
        {"name": "p/gone", "encryption": {"key": OTHER, "change": True}},
        "Refusing to change the key of p/gone: its present key is not loaded. Load it first with `zfs load-key p/gone`.",
    ),
]


@pytest.mark.parametrize(("entry", "text"), KEY_REFUSALS)
def test_refusals_of_keys(entry: dict[str, Any], text: str) -> None:
    zfs = zfs_with(
        {"name": "p/a"},
        {"name": "p/e", "encryption": {"key": SECRET}},
        {"name": "p/e/below"},
        {"name": "p/gone", "encryption": {"key": SECRET, "loaded": False}},
    )
    reason = refused(zfs, entry)
    assert text in reason
    assert SECRET not in reason
    assert OTHER not in reason


# -- delegation --


def test_delegations_add_what_is_missing_and_take_away_what_is_named() -> None:
    zfs = zfs_with({"name": "p/a"})
    zfs.run(["zfs", "allow", "-u", "eve", "mount", "p/a"])
    first = [
        {"who": "user:bob", "permissions": ["send", "snapshot"]},
        {"who": "group:users", "permissions": ["mount"], "scope": "descendent"},
        {"who": "everyone", "permissions": ["diff"], "scope": "local"},
        {"who": "@backup", "permissions": ["hold", "release"]},
        {"who": "creator", "permissions": ["destroy"]},
    ]
    assert settled(zfs, {"name": "p/a", "delegations": first}) == [
        "zfs allow -u bob send,snapshot p/a",
        "zfs allow -d -g users mount p/a",
        "zfs allow -l -e diff p/a",
        "zfs allow -s @backup hold,release p/a",
        "zfs allow -c destroy p/a",
    ]
    second = [
        {"who": "user:bob", "permissions": ["send"], "scope": "local", "state": "absent"},
        {"who": "group:users", "permissions": ["mount"]},
        {"who": "@backup", "permissions": ["hold", "rollback"], "state": "absent"},
        {"who": "creator", "permissions": ["destroy"], "state": "absent"},
    ]
    assert settled(zfs, {"name": "p/a", "delegations": second}) == [
        "zfs unallow -l -u bob send p/a",
        "zfs allow -l -g users mount p/a",
        "zfs unallow -s @backup hold p/a",
        "zfs unallow -c destroy p/a",
    ]
    assert zfs.datasets["p/a"].grants["user eve", "mount"] == {"l", "d"}


def test_delegations_cost_a_process_for_each_dataset_without_one_below() -> None:
    grant = [{"who": "user:bob", "permissions": ["send"]}]
    entries = [{"name": name, "delegations": grant} for name in ("p/a", "p/a/x", "p/b")]
    zfs = zfs_with(*entries)
    assert not run(zfs, *entries).changed
    assert zfs.count == 3


def test_a_delegation_to_nobody_is_refused() -> None:
    entry = {"name": "p/a", "delegations": [{"who": "user:eve", "permissions": ["send"]}]}
    assert refused(SimulatedZfs(), entry) == (
        "Dataset p/a: the user eve in delegations does not exist on this host: create it first, or give its number."
    )


# -- snapshots, holds, bookmarks --


def test_snapshots_of_many_datasets_are_taken_at_once_and_held_with_a_command_a_tag() -> None:
    entries = [
        {"name": f"p/{name}", "snapshots": [{"name": "s", "holds": ["keep"]}, {"name": "t"}], "bookmarks": [{"name": "b", "snapshot": "s"}]}
        for name in "ab"
    ]
    assert settled(SimulatedZfs(), *entries) == [
        "zfs create p/a",
        "zfs create p/b",
        "zfs snapshot p/a@s p/b@s",
        "zfs snapshot p/a@t p/b@t",
        "zfs hold keep p/a@s p/b@s",
        "zfs bookmark p/a@s p/a#b",
        "zfs bookmark p/b@s p/b#b",
    ]


def test_a_noop_with_holds_costs_two_processes() -> None:
    entries = [{"name": f"p/d{number}", "snapshots": [{"name": "s", "holds": ["keep"]}]} for number in range(9)]
    zfs = zfs_with(*entries)
    assert not run(zfs, *entries).changed
    assert zfs.count == 2


def test_a_held_snapshot_goes_only_with_its_holds_named() -> None:
    zfs = zfs_with({"name": "p/a", "snapshots": [{"name": "s", "holds": ["one", "two"]}]})
    entry = {"name": "p/a", "snapshots": [{"name": "s", "state": "absent", "release": ["one"]}]}
    assert "Refusing to destroy the snapshots of p/a that are declared absent: there is the hold two of p/a@s." in refused(zfs, entry)
    entry["snapshots"][0]["release"].append("two")
    assert settled(zfs, entry) == ["zfs release one p/a@s", "zfs release two p/a@s", "zfs destroy p/a@s"]


def test_a_hold_is_released_and_the_snapshot_stays() -> None:
    zfs = zfs_with({"name": "p/a", "snapshots": [{"name": "s", "holds": ["one", "two"]}]})
    assert settled(zfs, {"name": "p/a", "snapshots": [{"name": "s", "release": ["one"]}]}) == ["zfs release one p/a@s"]


def test_bookmarks_that_cannot_be() -> None:
    zfs = zfs_with({"name": "p/a", "snapshots": [{"name": "s"}], "bookmarks": [{"name": "b", "snapshot": "s"}]})
    run(zfs, {"name": "p/a", "snapshots": [{"name": "t"}]})
    other = {"name": "p/a", "bookmarks": [{"name": "b", "snapshot": "t"}]}
    assert "Refusing to bookmark p/a@t as p/a#b: it marks another snapshot." in refused(zfs, other)
    missing = {"name": "p/a", "bookmarks": [{"name": "c", "snapshot": "none"}]}
    assert "Refusing to bookmark p/a@none: it does not exist. Declare none in snapshots" in refused(zfs, missing)
    assert settled(zfs, {"name": "p/a", "bookmarks": [{"name": "b", "state": "absent"}]}) == ["zfs destroy p/a#b"]


# -- clones, promotion, renames --


def test_a_clone_waits_for_its_origin_and_is_promoted_once() -> None:
    entries = [
        {"name": "p/c", "origin": "p/z@s", "properties": {"atime": False}, "snapshots": [{"name": "own"}]},
        {"name": "p/z", "snapshots": [{"name": "s"}]},
    ]
    zfs = SimulatedZfs()
    assert settled(zfs, *entries) == [
        "zfs create p/z",
        "zfs snapshot p/z@s",
        "zfs clone -o atime=off p/z@s p/c",
        "zfs snapshot p/c@own",
    ]
    promoted = {"name": "p/c", "origin": "p/z@s", "promote": True, "snapshots": [{"name": "s"}]}
    assert settled(zfs, promoted) == ["zfs promote p/c"]
    assert zfs.datasets["p/z"].origin == "p/c@s"


def test_a_clone_of_a_volume_may_grow_but_not_shrink() -> None:
    zfs = zfs_with({"name": "p/v", "type": "volume", "volsize": "1G", "snapshots": [{"name": "s"}]})
    small = {"name": "p/w", "type": "volume", "origin": "p/v@s", "volsize": "512M"}
    assert "Refusing to clone p/w with 512 MiB: its origin p/v@s has 1 GiB." in refused(zfs, small)
    assert settled(zfs, {**small, "volsize": "2G", "sparse": True}) == [
        "zfs clone -o refreservation=none p/v@s p/w",
        "zfs set volsize=2147483648 p/w",
    ]


CLONE_REFUSALS = [
    (
        {"name": "p/new", "origin": "p/a@none"},
        "Refusing to clone p/new: its origin p/a@none does not exist. Declare none in the snapshots of",
    ),
    ({"name": "p/b", "origin": "p/a@s"}, "Refusing to make p/b a clone of p/a@s: it exists and is no clone."),
    ({"name": "p/c", "origin": "p/b@s"}, "Refusing to make p/c a clone of p/b@s: it exists and is a clone of p/a@s."),
    ({"name": "p/b", "renamed_from": "p/a"}, "Refusing to rename p/a to p/b: both exist. Remove renamed_from"),
    ({"name": "p/x/new", "renamed_from": "p/a"}, "Refusing to rename p/a to p/x/new: p/x does not exist. Create it in a run before"),
]


@pytest.mark.parametrize(("entry", "text"), CLONE_REFUSALS)
def test_refusals_of_clones_and_renames(entry: dict[str, Any], text: str) -> None:
    zfs = zfs_with({"name": "p/a", "snapshots": [{"name": "s"}]}, {"name": "p/b"}, {"name": "p/c", "origin": "p/a@s"})
    assert text in refused(zfs, entry)


def test_a_rename_brings_all_below_and_takes_what_it_inherits_from_its_new_parent() -> None:
    zfs = zfs_with(
        {"name": "p/old", "snapshots": [{"name": "s", "holds": ["keep"]}], "delegations": [{"who": "user:bob", "permissions": ["send"]}]},
        {"name": "p/old/x", "properties": {"atime": True}},
        {"name": "p/home", "properties": {"recordsize": "1M", "mountpoint": "/srv"}},
    )
    zfs.write("p/old/x", "precious")
    entries = [
        {
            "name": "p/home/new",
            "renamed_from": "p/old",
            "properties": {"recordsize": "1M", "mountpoint": "/srv/new"},
            "snapshots": [{"name": "s", "holds": ["keep"]}],
            "delegations": [{"who": "user:bob", "permissions": ["send"]}],
        },
        {"name": "p/home/new/x", "properties": {"atime": False}},
    ]
    assert settled(zfs, *entries) == ["zfs rename p/old p/home/new", "zfs set atime=off p/home/new/x"]
    assert zfs.datasets["p/home/new/x"].data == {"precious"}


def test_where_there_is_nothing_to_rename_the_dataset_is_created() -> None:
    assert settled(SimulatedZfs(), {"name": "p/new", "renamed_from": "p/old"}) == ["zfs create p/new"]


# -- rollback --


def test_a_rollback_loses_nothing_newer_unasked_and_is_done_once() -> None:
    zfs = zfs_with({"name": "p/a"})
    zfs.write("p/a", "old")
    run(zfs, {"name": "p/a", "snapshots": [{"name": "s"}]})
    zfs.write("p/a", "new")
    run(zfs, {"name": "p/a", "snapshots": [{"name": "t"}], "bookmarks": [{"name": "b", "snapshot": "t"}]})
    entry = {"name": "p/a", "rollback": {"snapshot": "s", "discard": ["t"]}}
    assert refused(zfs, entry).startswith(
        "Refusing to roll p/a back to p/a@s: #b would be lost, being newer. List it in discard of rollback"
    )
    entry["rollback"]["discard"].append("#b")
    guid = zfs.snaps["p/a@s"].guid
    assert settled(zfs, entry) == [
        "zfs destroy p/a@t",
        "zfs destroy p/a#b",
        "zfs rollback p/a@s",
        f"zfs set {snapshots.ROLLED_BACK}={guid} p/a",
    ]
    assert zfs.datasets["p/a"].data == {"old"}
    zfs.write("p/a", "written after the rollback")
    assert settled(zfs, entry) == []
    assert "written after the rollback" in zfs.datasets["p/a"].data


def test_rollbacks_that_cannot_be() -> None:
    zfs = zfs_with({"name": "p/a", "snapshots": [{"name": "s"}]})
    assert "Refusing to roll p/a back: the snapshot p/a@none does not exist." in refused(
        zfs, {"name": "p/a", "rollback": {"snapshot": "none"}}
    )
    assert "Refusing to roll p/new back: there is no such dataset." in refused(zfs, {"name": "p/new", "rollback": {"snapshot": "s"}})
    run(zfs, {"name": "p/a", "snapshots": [{"name": "t", "holds": ["keep"]}]})
    entry = {"name": "p/a", "rollback": {"snapshot": "s", "discard": ["t"]}}
    assert "p/a@t (keep) is newer and held. Release the holds" in refused(zfs, entry)
    run(zfs, {"name": "p/c", "origin": "p/a@t"})
    assert "p/c is a clone of what is newer. Promote or remove it first." in refused(zfs, entry)


# -- absent --


def test_absent_names_all_that_would_go_with_it() -> None:
    zfs = zfs_with(
        {"name": "p/a", "snapshots": [{"name": "s"}, {"name": "t", "holds": ["keep"]}]},
        {"name": "p/a/below"},
        {"name": "p/c", "origin": "p/a@s"},
    )
    assert refused(zfs, {"name": "p/a", "state": "absent"}) == (
        "Refusing to destroy p/a: there is the filesystem p/a/below; the snapshot p/a@s; p/c, a clone of p/a@s; the snapshot p/a@t."
        " List each as absent (a hold under release of its snapshot), or promote the clones, then p/a can be destroyed."
    )
    entry = {"name": "p/a", "state": "absent", "snapshots": [{"name": each, "state": "absent"} for each in "st"]}
    assert "there is the filesystem p/a/below; p/c, a clone of p/a@s; the hold keep of p/a@t." in refused(zfs, entry)


def test_absent_destroys_what_is_listed_each_by_its_name_after_all_else() -> None:
    zfs = zfs_with(
        {"name": "p/a", "snapshots": [{"name": "s"}, {"name": "t", "holds": ["keep"]}]},
        {"name": "p/a/below"},
        {"name": "p/c", "origin": "p/a@s", "snapshots": [{"name": "u"}]},
    )
    entries = [
        {
            "name": "p/a",
            "state": "absent",
            "snapshots": [{"name": "s", "state": "absent"}, {"name": "t", "state": "absent", "release": ["keep"]}],
        },
        {"name": "p/a/below", "state": "absent"},
        {"name": "p/c", "state": "absent", "snapshots": [{"name": "u", "state": "absent"}]},
        {"name": "p/z"},
    ]
    assert settled(zfs, *entries) == [
        "zfs create p/z",
        "zfs release keep p/a@t",
        "zfs destroy p/a/below",
        "zfs destroy p/c@u",
        "zfs destroy p/c",
        "zfs destroy p/a@s,t",
        "zfs destroy p/a",
    ]


def test_the_diff_shows_what_goes() -> None:
    zfs = zfs_with({"name": "p/a", "snapshots": [{"name": "s"}], "bookmarks": [{"name": "b", "snapshot": "s"}]})
    made = run(zfs, {"name": "p/a", "state": "absent", "snapshots": [{"name": "s", "state": "absent"}]})
    assert made.diff == {
        "before": {"p/a": {"@s": "present", "type": "filesystem", "#b": "present"}},
        "after": {"p/a": {"@s": None, "type": None, "#b": None}},
    }


def test_absent_is_one_process_where_nothing_is_left() -> None:
    zfs = SimulatedZfs()
    assert (
        settled(
            zfs, {"name": "p/a", "state": "absent", "snapshots": [{"name": "s", "state": "absent"}]}, {"name": "gone/b", "state": "absent"}
        )
        == []
    )
    assert zfs.count == 1
