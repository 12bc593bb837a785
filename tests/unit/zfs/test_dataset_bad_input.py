# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input to zfs_dataset: each refused with a sentence that names the thing and the remedy, before any command is run."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._run import Runner
from ansible_collections.selfhosted.llm_stack.plugins.modules import zfs_dataset
from results import shown

SECRET = "correct horse battery"
PLAIN = {"name": "p/a"}
VOLUME = {"name": "p/v", "type": "volume", "volsize": "1G"}


def properties(**values: Any) -> dict[str, Any]:
    return {"name": "p/a", "properties": values}


def key(**values: Any) -> dict[str, Any]:
    return {"name": "p/a", "encryption": values}


def grant(who: str, *permissions: str) -> dict[str, Any]:
    return {"name": "p/a", "delegations": [{"who": who, "permissions": list(permissions)}]}


def snap(**values: Any) -> dict[str, Any]:
    return {"name": "p/a", "snapshots": [{"name": "s", **values}]}


BAD: list[tuple[list[dict[str, Any]], str]] = [
    # names
    ([{"name": "/p/a"}], "The dataset name '/p/a' is not one ZFS accepts: pool/name/..., letters, digits and _ . : - only."),
    ([{"name": "p/a/"}], "The dataset name 'p/a/' is not one ZFS accepts"),
    ([{"name": "p/../a"}], "The dataset name 'p/../a' is not one ZFS accepts"),
    ([{"name": "p/a@s"}], "The dataset name 'p/a@s' is not one ZFS accepts"),
    ([{"name": "1p/a"}], "The dataset name '1p/a' is not one ZFS accepts"),
    ([{"name": "p/a\n"}], "The dataset name 'p/a\\n' is not one ZFS accepts"),
    ([{"name": "p/модели"}], "The dataset name 'p/модели' is not one ZFS accepts"),
    ([{"name": "p/" + "x" * 260}], "has 262 characters: ZFS takes 255 at most, choose a shorter one."),
    ([PLAIN, PLAIN], "datasets: p/a is listed twice: merge the two entries."),
    # types and sizes
    ([{"name": "p/a", "type": "zvol"}], "value of type must be one of: filesystem, volume, got: zvol"),
    ([{"name": "p/v", "type": "volume"}], "Volume p/v needs a volsize like 100G, not nothing."),
    ([{**VOLUME, "volsize": "big"}], "Volume p/v needs a volsize like 100G, not big."),
    ([{**VOLUME, "volsize": "-1G"}], "Volume p/v needs a volsize like 100G, not -1G."),
    (
        [{**VOLUME, "properties": {"volsize": "512M"}}],
        "Volume p/v has a volsize of its own and one in properties: leave one of the two out.",
    ),
    ([{**PLAIN, "volsize": "1G"}], "File system p/a has a volsize: give it type volume, or set a quota in its properties."),
    ([{**PLAIN, "sparse": True}], "File system p/a cannot be sparse: leave sparse out"),
    ([{**VOLUME, "sparse": True, "properties": {"refreservation": "none"}}], "Volume p/v has both sparse and refreservation"),
    ([{**VOLUME, "mountpoint_owner": "root"}], "Volume p/v has no mountpoint: leave out mountpoint_owner"),
    ([{**PLAIN, "mountpoint_mode": "rwx"}], "Dataset p/a: mountpoint_mode 'rwx' is not an octal mode: write it quoted, like '0750'."),
    ([{**PLAIN, "mountpoint_mode": "488"}], "mountpoint_mode '488' is not an octal mode"),
    # properties
    ([properties(**{"a b": "1"})], "'a b' is not the name of a ZFS property."),
    ([properties(**{"-u:x": "1"})], "'-u:x' is not the name of a ZFS property."),
    ([properties(compression="-")], "Dataset p/a: the property compression has no value: declare inherit to take it from the parent"),
    ([properties(compression="")], "Dataset p/a: the property compression has no value: declare inherit to take it from the parent"),
    ([properties(quota="10 GiB")], "the property quota has the value '10 GiB': give a size or count like 10G, or none."),
    ([properties(recordsize="128 K")], "the property recordsize has the value '128 K': give a power of two from 512 to 16M."),
    ([properties(recordsize="\u0661\u0662\u0668K")], "give a power of two from 512 to 16M."),
    ([properties(quota=[1])], "The property quota has the value [1]: give it one line of text, a number, or true or false."),
    ([properties(**{"org.x:y": "one\ntwo"})], "The property org.x:y has the value 'one\\ntwo': give it one line of text"),
    ([properties(used="1G")], "Dataset p/a: the property used is only reported by ZFS: remove it from properties."),
    ([properties(**{"userused@bob": "1G"})], "Dataset p/a: the property userused@bob is only reported by ZFS"),
    ([properties(volblocksize="16K")], "Dataset p/a: the property volblocksize is no property of a filesystem: remove it from properties."),
    ([{**VOLUME, "properties": {"recordsize": "1M"}}], "Dataset p/v: the property recordsize is no property of a volume"),
    ([{**VOLUME, "properties": {"userquota@bob": "1M"}}], "Dataset p/v: the property userquota@bob is no property of a volume"),
    ([properties(recordsize="100K")], "the property recordsize has the value '100K': give a power of two from 512 to 16M."),
    ([properties(recordsize="32M")], "the property recordsize has the value '32M': give a power of two from 512 to 16M."),
    ([properties(quota="lots")], "the property quota has the value 'lots': give a size or count like 10G, or none."),
    ([properties(refreservation="auto")], "the property refreservation has the value 'auto': give a size or count like 10G, or none."),
    ([properties(atime="sometimes")], "the property atime has the value 'sometimes': choose one of off, on."),
    ([properties(sync="never")], "the property sync has the value 'never': choose one of standard, always, disabled."),
    ([properties(copies=4)], "the property copies has the value '4': choose one of 1, 2, 3."),
    ([properties(mountpoint="srv")], "the property mountpoint has the value 'srv': give an absolute path, none or legacy."),
    ([properties(casesensitivity="no")], "choose one of sensitive, insensitive, mixed."),
    ([properties(quota="inherit")], "the property quota is never inherited: declare none to remove the limit."),
    ([properties(casesensitivity="inherit")], "the property casesensitivity is never inherited: declare its value, or leave it out."),
    ([properties(**{"userquota@": "1G"})], "the property userquota@ names no user: write it after the @."),
    (
        [properties(**{"userquota@bob": "inherit"})],
        "the property userquota@bob has the value 'inherit': give a size or count like 10G, or none.",
    ),
    ([properties(**{"projectquota@web": "1G"})], "the property projectquota@web names the project 'web': give its number."),
    ([properties(**{"quota@bob": "1G"})], "quota@bob is no property ZFS lets one set: correct it to one like userquota@NAME"),
    # keys
    ([properties(keylocation="prompt")], "the property keylocation describes the key: declare it under encryption"),
    ([key(format="passphrase")], "Dataset p/a: encryption has neither key nor file, and nobody is there to type one: give one of them."),
    ([key(key=SECRET, file="/k")], "Dataset p/a: encryption has both key and file: give one of them."),
    ([key(key="short")], "Dataset p/a: the passphrase under encryption must be one line of 8 to 512 bytes: choose another."),
    ([key(key=SECRET, format="hex")], "the hex key under encryption must be 64 hex digits: make one with openssl rand -hex 32."),
    ([key(key=SECRET, format="raw")], "the raw key under encryption must be 32 bytes in Base64: make one with openssl rand -base64 32."),
    ([key(file="key")], "Dataset p/a: the key file 'key' is not an absolute path: give its path on the host."),
    ([{**key(key=SECRET), "properties": {"encryption": False}}], "Dataset p/a has a key but encryption=off: remove one of the two."),
    ([{"name": "p", "encryption": {"key": SECRET}}], "p is the root of a pool, which only zfs_pool creates: remove origin and encryption."),
    # delegations
    ([grant("bob", "send")], "Dataset p/a: delegations names 'bob': write user:NAME, group:NAME, everyone, creator or @SET."),
    ([grant("user:", "send")], "Dataset p/a: delegations names 'user:'"),
    ([grant("user:bob")], "Dataset p/a: the delegation to user:bob has no permissions: list some, such as snapshot and send."),
    ([grant("user:bob", "send,hold")], "the delegation to user:bob has the permission 'send,hold': list one permission an element."),
    # snapshots, bookmarks, rollback
    ([{**PLAIN, "snapshots": [{"name": "p/a@s"}]}], "Dataset p/a: the snapshot name 'p/a@s' is not one ZFS accepts"),
    ([{**PLAIN, "snapshots": [{"name": "s"}, {"name": "s"}]}], "Dataset p/a: its snapshot s is listed twice: merge the two entries."),
    ([{**PLAIN, "snapshots": [{"name": "s" * 252}]}], "the name has 256 characters: ZFS takes 255 at most, choose a shorter one."),
    ([snap(holds=["a b"])], "Dataset p/a: the hold 'a b' of its snapshot s is no tag: use a word without spaces that does not begin with"),
    ([snap(release=["-r"])], "Dataset p/a: the hold '-r' of its snapshot s is no tag: use a word without spaces that does not begin with"),
    ([snap(holds=["k"], release=["k"])], "Dataset p/a: the hold k of its snapshot s is both in holds and in release: leave one out."),
    ([snap(state="absent", holds=["k"])], "its snapshot s is declared absent but with holds: list those to let go in release."),
    ([{**PLAIN, "bookmarks": [{"name": "b"}]}], "Dataset p/a: its bookmark b names no snapshot: give the snapshot it marks."),
    ([{**PLAIN, "bookmarks": [{"name": "b", "snapshot": "p/a@s"}]}], "its bookmark b marks 'p/a@s': give the name of a snapshot of p/a"),
    (
        [{**PLAIN, "rollback": {"snapshot": "p/a@s"}}],
        "Dataset p/a: rollback names the snapshot 'p/a@s': give the name of a snapshot of p/a",
    ),
    ([{**PLAIN, "rollback": {"snapshot": "s", "discard": ["s"]}}], "rollback goes back to s and discards it: remove it from discard."),
    (
        [{**snap(state="absent"), "rollback": {"snapshot": "s"}}],
        "rollback and snapshots do not agree about s: keep it in both, or in neither.",
    ),
    (
        [{**PLAIN, "rollback": {"snapshot": "s"}, "renamed_from": "p/b"}],
        "Dataset p/a has both rollback and renamed_from: rename it in a run before, then remove renamed_from.",
    ),
    # clones and renames
    ([{**PLAIN, "origin": "p/b"}], "Dataset p/a: the origin 'p/b' is no snapshot: write it like pool/name@snapshot."),
    ([{**PLAIN, "origin": "q/b@s"}], "Dataset p/a: the origin q/b@s is not another dataset of its pool: name a snapshot in p."),
    ([{**key(key=SECRET), "origin": "p/b@s"}], "Dataset p/a: a clone has the key of its origin p/b@s: remove encryption."),
    ([{**PLAIN, "promote": True}], "Dataset p/a cannot be promoted without an origin: name the snapshot it is a clone of."),
    (
        [{**PLAIN, "origin": "p/b@s", "promote": True}, {**snap(), "name": "p/b"}],
        "promoting it moves the snapshot p/b@s to p/a@s: list s in the",
    ),
    ([{**PLAIN, "renamed_from": "q/a"}], "Dataset p/a: renamed_from q/a must lie in the same pool"),
    ([{**PLAIN, "renamed_from": "p/a/b"}], "Dataset p/a cannot be renamed from p/a/b: neither may lie in the other"),
    (
        [{**PLAIN, "renamed_from": "p/b"}, {"name": "p/b"}],
        "Dataset p/a is renamed from p/b, which is declared too: remove the entry of the old",
    ),
    # absent
    ([{"name": "p", "state": "absent"}], "p is the root of a pool, which is never destroyed as a dataset: destroy the pool with zfs_pool."),
    ([{**properties(atime=True), "state": "absent"}], "Dataset p/a is declared absent: remove properties from its entry."),
    ([{**snap(), "state": "absent"}], "Dataset p/a is declared absent but its snapshot s present: a snapshot goes with its dataset"),
    (
        [{**PLAIN, "state": "absent"}, {"name": "p/a/b"}],
        "Dataset p/a/b is declared in p/a, which is declared absent: make both present or both",
    ),
]


def test_there_are_enough_of_them() -> None:
    assert len({text for _datasets, text in BAD}) >= 35


@pytest.mark.parametrize(("datasets", "text"), BAD, ids=[text[:60] for _datasets, text in BAD])
def test_bad_input_runs_nothing(
    datasets: list[dict[str, Any]], text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(Runner, "run", lambda self, argv, **more: ran.append(argv))
    monkeypatch.setattr(Runner, "has", lambda self, program: True)
    with patch_module_args({"datasets": datasets}), pytest.raises(SystemExit):
        zfs_dataset.main()
    result = shown(capsys.readouterr().out)
    assert text in result["msg"]
    assert (result["failed"], result.get("changed", False), ran) == (True, False, [])
    assert SECRET not in json.dumps(result)
