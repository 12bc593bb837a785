# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kill the module after each change of each of these plans: the next run does the rest, and nothing is lost."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.dataset import apply, declare, model, read

sys.path.insert(0, str(Path(__file__).parent))
from simulated_zfs import Killed, SimulatedZfs

SECRET, OTHER = "correct horse battery", "another long passphrase"
GRANT = {"who": "user:bob", "permissions": ["send", "hold"]}


@pytest.fixture(autouse=True)
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that knows bob, whose volumes have their links at once."""
    monkeypatch.setattr(read, "_number", lambda kind, name: "1000" if name == "bob" else name)
    monkeypatch.setattr(apply, "read_host", lambda wanted: model.Host(users={"bob": 1000}, files=frozenset({"/k"})))
    monkeypatch.setattr(apply, "await_link", lambda path: None)


def run(zfs: SimulatedZfs, raws: list[dict[str, Any]]) -> Any:
    zfs.changes.clear()
    keeper = apply.DatasetKeeper(zfs, declare.declare_datasets(raws), rehearsal=False)
    made = keeper.plan()
    made.raise_if_refused()
    made.carry_out(keeper.do)
    return made


def before() -> SimulatedZfs:
    """What is there before each plan; what each dataset holds is named after it."""
    zfs = SimulatedZfs(files={"/k": SECRET + "\n"})
    run(
        zfs,
        [
            {"name": "p/a", "properties": {"atime": False}, "snapshots": [{"name": "s"}], "delegations": [GRANT]},
            {"name": "p/a/x"},
            {"name": "p/e", "encryption": {"key": SECRET}},
            {"name": "p/e/below"},
            {"name": "p/v", "type": "volume", "volsize": "1G"},
        ],
    )
    for name in zfs.datasets:
        zfs.write(name, f"first of {name}")
    run(zfs, [{"name": "p/a", "snapshots": [{"name": "t", "holds": ["keep", "too"]}]}, {"name": "p/a/x", "snapshots": [{"name": "t"}]}])
    run(zfs, [{"name": "p/c", "origin": "p/a@t", "snapshots": [{"name": "own"}]}])
    for name in zfs.datasets:
        zfs.write(name, f"second of {name}")
    return zfs


def snaps(*names: str, **more: Any) -> list[dict[str, Any]]:
    return [{"name": name, **more} for name in names]


def gone(*names: str, release: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    return snaps(*names, state="absent", release=list(release))


# What the plan is about, the list, and the data that it may lose.
PLANS: list[tuple[str, list[dict[str, Any]], set[str]]] = [
    ("create with parents", [{"name": f"p/n/{name}", "properties": {"quota": "1G"}} for name in "abc"], set()),
    (
        "set and inherit",
        [{"name": "p/a", "properties": {"atime": "inherit", "sync": "always"}}, {"name": "p/c", "properties": {"quota": "1G"}}],
        set(),
    ),
    ("match and purge", [{"name": "p/a", "purge": True, "match": "local", "properties": {"recordsize": "128K"}}], set()),
    (
        "volumes",
        [{"name": "p/v", "type": "volume", "volsize": "2G", "sparse": True}, {"name": "p/w", "type": "volume", "volsize": "1G"}],
        set(),
    ),
    (
        "create encrypted",
        [{"name": "p/f", "encryption": {"key": SECRET}}, {"name": "p/f/below"}, {"name": "p/g", "encryption": {"file": "/k"}}],
        set(),
    ),
    ("create encrypted without the key", [{"name": "p/h", "encryption": {"key": SECRET, "loaded": False}}], set()),
    ("unload", [{"name": "p/e", "encryption": {"loaded": False}}, {"name": "p/e/below"}], set()),
    (
        "change the key",
        [
            {"name": "p/e", "encryption": {"key": OTHER, "change": True}},
            {"name": "p/e/below", "encryption": {"key": SECRET, "change": True}},
        ],
        set(),
    ),
    ("move the key to a file", [{"name": "p/e", "encryption": {"file": "/k"}, "properties": {"atime": False}}], set()),
    (
        "delegate",
        [
            {
                "name": "p/a",
                "delegations": [
                    {**GRANT, "scope": "local", "state": "absent"},
                    {"who": "everyone", "permissions": ["diff"], "scope": "local"},
                ],
            }
        ],
        set(),
    ),
    (
        "snapshots, holds and bookmarks",
        [
            {"name": name, "snapshots": snaps("u", holds=["k1", "k2"]), "bookmarks": [{"name": "b", "snapshot": "u"}]}
            for name in ("p/a", "p/c")
        ],
        set(),
    ),
    ("release", [{"name": "p/a", "snapshots": snaps("t", release=["keep", "too"])}], set()),
    ("clone and promote", [{"name": "p/d", "origin": "p/a/x@t", "promote": True, "snapshots": snaps("t", "u")}], set()),
    (
        "clone of a new snapshot",
        [{"name": "p/a/x", "snapshots": snaps("u")}, {"name": "p/d", "origin": "p/a/x@u", "properties": {"quota": "1G"}}],
        set(),
    ),
    ("promote", [{"name": "p/c", "origin": "p/a@t", "promote": True, "properties": {"sync": "always"}}], set()),
    (
        "rename",
        [{"name": "p/b", "renamed_from": "p/a", "properties": {"atime": True}}, {"name": "p/b/x", "properties": {"sync": "always"}}],
        set(),
    ),
    ("roll back", [{"name": "p/a/x", "rollback": {"snapshot": "t"}, "snapshots": snaps("u")}], {"second of p/a/x"}),
    (
        "destroy a tree with its clone",
        [
            {"name": "p/a", "state": "absent", "snapshots": [*gone("s"), *gone("t", release=("keep", "too"))]},
            {"name": "p/a/x", "state": "absent", "snapshots": gone("t")},
            {"name": "p/c", "state": "absent", "snapshots": gone("own")},
        ],
        {"first of p/a", "first of p/a/x", "second of p/a", "second of p/a/x", "second of p/c"},
    ),
    ("destroy a snapshot", [{"name": "p/a", "snapshots": gone("s")}, {"name": "p/n"}], set()),
]


def state(zfs: SimulatedZfs) -> Any:
    """All there is, but for when it was made."""
    datasets = {name: {**vars(each), "txg": 0} for name, each in zfs.datasets.items()}
    marks = {name: (each.data, each.holds) for name, each in zfs.snaps.items()}
    return copy.deepcopy((datasets, marks))


@pytest.mark.parametrize(("what", "raws", "lost"), PLANS, ids=[row[0] for row in PLANS])
def test_killed_after_each_change_the_next_run_does_the_rest(what: str, raws: list[dict[str, Any]], lost: set[str]) -> None:
    whole = before()
    everything = whole.kept()
    count = len(run(whole, raws).steps)
    assert count == len(whole.changes) > 0
    assert everything - whole.kept() == lost
    for cut in range(1, count + 1):
        zfs = before()
        zfs.changes.clear()
        zfs.kill_after = cut
        with pytest.raises(Killed):
            run(zfs, raws)
        zfs.kill_after = 0
        assert everything - zfs.kept() <= lost
        run(zfs, raws)
        assert state(zfs) == state(whole), f"killed after change {cut} of {count}"
        assert not run(zfs, raws).changed


def test_a_snapshot_taken_meanwhile_is_not_lost() -> None:
    """Neither a rollback nor a destruction takes with it what came after it was planned."""
    for raws in ([{"name": "p/a/x", "rollback": {"snapshot": "t"}}], [{"name": "p/a/x", "state": "absent", "snapshots": gone("t")}]):
        zfs = before()
        keeper = apply.DatasetKeeper(zfs, declare.declare_datasets(raws), rehearsal=False)
        made = keeper.plan()
        zfs.run(["zfs", "snapshot", "p/a/x@meanwhile"])
        with pytest.raises(Exception, match="more recent snapshots or bookmarks exist|filesystem has children"):
            made.carry_out(keeper.do)
        assert "second of p/a/x" in zfs.snaps["p/a/x@meanwhile"].data
