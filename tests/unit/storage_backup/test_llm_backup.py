# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups and drills: replication on a stand-in of ZFS, archives with the real borg and borgmatic, and what can be wrong with them."""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.one_core

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = ROOT / "roles" / "storage_backup" / "files" / "llm-backup"
STANDIN = Path(__file__).with_name("standin_zfs.py")
TAG, PROVEN = "llm-backup:data", "llm-drill:data"
JOB: dict[str, Any] = {"name": "data", "source": "llm/data", "target": "backup/data", "max_age_hours": 2}


def load_program() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("llm_backup", str(PROGRAM))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("llm_backup", loader))
    # Annotations of a NamedTuple are looked up in the module.
    sys.modules["llm_backup"] = module
    loader.exec_module(module)
    return module


class Place:
    """A host: the program with its folders below a temporary one, and datasets that are directories."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.program = home, load_program()
        for name in ("JOBS", "STATE", "TEXTFILES", "SCRATCH_MOUNTS"):
            monkeypatch.setattr(self.program, name, home / name.lower())
            (home / name.lower()).mkdir()
        monkeypatch.setattr(self.program, "DRILL", home / "drill.json")
        self.now = 3600.0
        clock = SimpleNamespace(time=lambda: self.now, strftime=time.strftime, gmtime=time.gmtime)
        monkeypatch.setattr(self.program, "time", clock)
        (home / "drill.json").write_text(json.dumps({"max_age_days": 8, "scratch": "llm/drill"}))
        for name in ("zfs", "syncoid"):
            (home / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STANDIN}" {name} "$@"\n')
            (home / name).chmod(0o755)
        # A STAND-IN of ssh, which reaches this host: what follows -- is a line for its shell.
        (home / "ssh").write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec sh -c "$*"\n')
        (home / "ssh").chmod(0o755)
        monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
        monkeypatch.setenv("ZFS_HOME", str(home))
        self.state: dict[str, Any] = {}

    def job(self, **changes: Any) -> None:
        job = {**JOB, **changes}
        (self.home / "jobs" / f"{job['name']}.json").write_text(json.dumps(job))

    def dataset(self, name: str, **snapshots: tuple[int, dict[str, bytes]]) -> None:
        """Make a dataset with snapshots, each with its time and its files."""
        state = self.read()
        found = state.setdefault(name, {"properties": {}, "snapshots": {}})
        (self.home / "data" / name / ".zfs" / "snapshot").mkdir(parents=True, exist_ok=True)
        for snapshot, (created, files) in snapshots.items():
            found["snapshots"][snapshot] = {"guid": f"{name}-{snapshot}", "created": created, "holds": []}
            for file, content in files.items():
                path = self.home / "data" / name / ".zfs" / "snapshot" / snapshot / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        (self.home / "state.json").write_text(json.dumps(state))

    def read(self) -> dict[str, Any]:
        """What there is, without the place that drills make for themselves."""
        path = self.home / "state.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        found.pop("llm/drill", None)
        return found

    def bare(self) -> dict[str, Any]:
        """What there is, without the holds that drills make."""
        found = self.read()
        for one in found.values():
            for each in one["snapshots"].values():
                each["holds"] = [tag for tag in each["holds"] if tag != PROVEN]
        return found

    def held(self, tag: str = "llm-backup:data") -> set[str]:
        found = self.read()
        return {f"{name}@{snap}" for name, one in found.items() for snap, each in one["snapshots"].items() if tag in each["holds"]}

    def log(self) -> list[str]:
        return (self.home / "log").read_text().splitlines()

    def metrics(self) -> dict[str, float]:
        lines = [line for path in (self.home / "textfiles").glob("*.prom") for line in path.read_text().splitlines() if line[0] != "#"]
        return {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(tmp_path, monkeypatch)
    made.dataset("llm/data", a=(1000, {"x": b"old"}), b=(2000, {"x": b"new", "deep/y": database()}))
    return made


def database() -> bytes:
    """A small SQLite database as bytes."""
    held = sqlite3.connect(":memory:")
    held.execute("create table t (a)")
    held.executemany("insert into t values (?)", [("x" * 100,)] * 500)
    held.commit()
    return held.serialize()


# --- what is asked of syncoid -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("job", "last"),
    [
        ({}, ["llm/data", "backup/data"]),
        ({"host": "b@h"}, ["llm/data", "b@h:backup/data"]),
        ({"host": "b@h", "direction": "pull"}, ["b@h:llm/data", "backup/data"]),
    ],
)
def test_source_and_target_are_where_they_should_be(job: dict[str, Any], last: list[str]) -> None:
    assert load_program().syncoid_argv({**JOB, **job})[-2:] == last


def test_the_target_is_never_rolled_back_and_encrypted_blocks_stay_so() -> None:
    program = load_program()
    argv = program.syncoid_argv({**JOB, "host": "h", "key": "/k", "recursive": True, "bandwidth": "50m"})
    assert "--no-rollback" in argv and "--force-delete" not in argv
    assert "--sendoptions=w L" in argv and "--source-bwlimit=50m" in argv and "--sshkey=/k" in argv and "--recursive" in argv
    assert "--sendoptions=L c e" in program.syncoid_argv({**JOB, "raw": False})


@pytest.mark.parametrize("job", [{}, {"raw": False, "recursive": True, "bandwidth": "1m"}])
def test_the_real_syncoid_knows_these_options(tmp_path: Path, job: dict[str, Any]) -> None:
    argv = load_program().syncoid_argv({**JOB, **job})
    (tmp_path / "zfs").write_text('#!/bin/sh\necho "zfs $*" >>$ZFS_HOME/log\nexit 1\n')
    (tmp_path / "zpool").write_text("#!/bin/sh\necho 'llm  feature@extensible_dataset  active  local'\n")
    for name in ("zfs", "zpool"):
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}:/usr/sbin", "ZFS_HOME": str(tmp_path)}
    ended = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=60)
    said = ended.stdout + ended.stderr
    assert "Unknown option" not in said and "invalid" not in said.lower(), said
    # It got as far as asking for the source.
    assert "llm/data" in (tmp_path / "log").read_text(), said
    wrong = subprocess.run(
        [argv[0], "--no-such-option", *argv[1:]], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert "Unknown option: no-such-option" in wrong.stdout + wrong.stderr


# --- replication ------------------------------------------------------------------------------------------------------------------
def test_the_newest_common_snapshot_is_known_by_its_guid() -> None:
    program = load_program()
    one = [program.Snapshot("a@1", "g1", 1), program.Snapshot("a@2", "g2", 2), program.Snapshot("a@3", "g3", 3)]
    other = [program.Snapshot("b@renamed", "g2", 2), program.Snapshot("b@3", "another", 3), program.Snapshot("b@1", "g1", 1)]
    assert program.newest_common(one, other) == (one[1], other[0])
    assert program.newest_common(one, []) is None
    assert program.newest_common([], other) is None


def test_a_run_sends_holds_and_tells(place: Place) -> None:
    place.job()
    assert place.program.main(["run", "data"]) == 0
    assert place.held() == {"llm/data@b", "backup/data@b"}
    assert place.metrics() == {
        "llm_backup_success": 1,
        "llm_backup_last_success_timestamp_seconds": 2000,
        "llm_backup_max_age_seconds": 7200,
        "llm_backup_first_try_timestamp_seconds": 3600,
    }
    place.dataset("llm/data", c=(3000, {"x": b"newer"}))
    assert place.program.main(["run", "data"]) == 0
    assert place.held() == {"llm/data@c", "backup/data@c"}, "the hold moves on"
    held, released = (
        next(i for i, line in enumerate(place.log()) if line == f"zfs {what}")
        for what in (f"hold {TAG} llm/data@c", f"release {TAG} llm/data@b")
    )
    assert held < released, "one is always held"


def test_children_count_and_the_oldest_of_them_tells_the_age(place: Place) -> None:
    place.dataset("llm/data/child", a=(1500, {"z": b"1"}))
    place.job(recursive=True)
    assert place.program.main(["run", "data"]) == 0
    assert place.held() == {"llm/data@b", "backup/data@b", "llm/data/child@a", "backup/data/child@a"}
    assert place.metrics()["llm_backup_last_success_timestamp_seconds"] == 1500


def test_holds_can_be_off(place: Place) -> None:
    place.job(hold=False)
    assert place.program.main(["run", "data"]) == 0
    assert place.held() == set()


@pytest.mark.parametrize("step", ["syncoid", "zfs list", "zfs holds", "zfs hold "])
def test_a_run_that_breaks_off_anywhere_releases_nothing_and_says_so(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any, step: str
) -> None:
    place.job()
    assert place.program.main(["run", "data"]) == 0
    place.dataset("llm/data", c=(3000, {"x": b"newer"}))
    monkeypatch.setenv("ZFS_FAIL", step)
    assert place.program.main(["run", "data"]) == 1
    assert "the test says so" in capsys.readouterr().err
    assert {"llm/data@b", "backup/data@b"} <= place.held()
    assert place.metrics()["llm_backup_success"] == 0
    assert place.metrics()["llm_backup_last_success_timestamp_seconds"] == 2000, "the last good one is not forgotten"
    monkeypatch.setenv("ZFS_FAIL", "")
    assert place.program.main(["run", "data"]) == 0
    assert place.held() == {"llm/data@c", "backup/data@c"}


def test_a_target_with_nothing_in_common_is_told(place: Place, capsys: Any) -> None:
    place.dataset("llm/empty")
    place.job(source="llm/empty")
    assert place.program.main(["run", "data"]) == 1
    assert "llm/empty and backup/data have no snapshot in common. Take one" in capsys.readouterr().err


def test_a_job_that_is_not_there_is_told(place: Place, capsys: Any) -> None:
    place.job()
    assert place.program.main(["run", "other"]) == 1
    assert "There is no backup other" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        place.program.main(["walk"])


def test_a_first_run_that_never_ends_is_known_of(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.job()
    seen: list[dict[str, float]] = []

    def hang(_job: dict[str, Any]) -> int:
        seen.append(place.metrics())
        return 2000

    monkeypatch.setattr(place.program, "replicate", hang)
    assert place.program.main(["run", "data"]) == 0
    # What is told before it ends: it is not called a failure yet.
    assert seen == [{"llm_backup_first_try_timestamp_seconds": 3600, "llm_backup_max_age_seconds": 7200}]
    place.now = 5000.0
    assert place.program.main(["run", "data"]) == 0
    assert place.metrics()["llm_backup_first_try_timestamp_seconds"] == 3600, "the first try stays the first"


# --- drills of replications -------------------------------------------------------------------------------------------------------
def test_a_drill_restores_compares_opens_and_cleans_up(place: Place, capsys: Any) -> None:
    place.job()
    place.program.main(["run", "data"])
    before = place.read()
    assert place.program.main(["drill"]) == 0, capsys.readouterr().err
    assert "data: backup/data@b was restored: 2 files as in the source, 1 databases opened" in capsys.readouterr().out
    assert place.metrics()["llm_restore_drill_success"] == 1
    assert place.metrics()["llm_restore_drill_max_age_seconds"] == 8 * 86400
    assert place.bare() == before
    assert list((place.home / "scratch_mounts").iterdir()) == []


def spoil(place: Place, name: str, content: bytes | None) -> None:
    """Change a file of the newest copy behind ZFS's back."""
    path = place.home / "data" / "backup" / "data" / ".zfs" / "snapshot" / "b" / name
    path.unlink() if content is None else path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x", b"other", "1 of 2 files differ from"),
        ("x", None, "1 of 2 files differ from"),
        ("more", b"", "1 of 2 files differ from"),
        ("deep/y", database()[:9000] + b"\xff" * 4096 + database()[13096:], "The database deep/y cannot be opened after the restore"),
    ],
)
def test_a_damaged_copy_is_noticed_and_nothing_is_removed(place: Place, capsys: Any, name: str, content: bytes | None, said: str) -> None:
    place.job()
    place.program.main(["run", "data"])
    spoil(place, name, content)
    before = place.read()
    assert place.program.main(["drill"]) == 1
    assert said in capsys.readouterr().err
    assert place.metrics()["llm_restore_drill_success"] == 0
    assert "llm_restore_drill_last_success_timestamp_seconds" not in place.metrics()
    assert place.read() == before, "holds and snapshots stay, and the scratch place is gone"


def test_a_copy_that_is_older_than_it_may_be_is_no_success(place: Place, capsys: Any) -> None:
    """The last run ended well, and its timer has not run since."""
    place.job()
    place.program.main(["run", "data"])
    place.now = 2000.0 + 2 * 3600
    assert place.program.main(["drill"]) == 0
    place.now += 360
    assert place.program.main(["drill"]) == 1
    assert "1 databases opened, but the copy is 2.1 h old and may be 2: its timer does not run" in capsys.readouterr().err
    assert place.metrics()["llm_restore_drill_success"] == 0


def test_the_last_copy_that_was_found_good_is_held_until_another_is(place: Place) -> None:
    place.job()
    place.program.main(["run", "data"])
    assert place.held(PROVEN) == set()
    assert place.program.main(["drill"]) == 0
    assert place.held(PROVEN) == {"backup/data@b"}
    place.dataset("llm/data", c=(3000, {"x": b"newer"}))
    place.program.main(["run", "data"])
    damaged = place.home / "data" / "backup" / "data" / ".zfs" / "snapshot" / "c" / "x"
    damaged.write_bytes(b"other")
    assert place.program.main(["drill"]) == 1
    place.program.main(["run", "data"])
    assert place.held() == {"llm/data@c", "backup/data@c"}
    assert place.held(PROVEN) == {"backup/data@b"}, "the newest is damaged, so a pruning must not take the one before it"
    damaged.write_bytes(b"newer")
    assert place.program.main(["drill"]) == 0
    assert place.held(PROVEN) == {"backup/data@c"}


@pytest.mark.parametrize(("pruned", "held"), [("a", {"backup/data@b"}), ("b", set())])
def test_what_is_pruned_while_a_drill_looks_does_not_make_the_copy_a_bad_one(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any, pruned: str, held: set[str]
) -> None:
    place.job()
    place.program.main(["run", "data"])
    look_into = place.program.look_into

    def looks(*words: Any) -> Any:
        found = look_into(*words)
        state = place.read()
        del state["backup/data"]["snapshots"][pruned]
        (place.home / "state.json").write_text(json.dumps(state))
        return found

    monkeypatch.setattr(place.program, "look_into", looks)
    assert place.program.main(["drill"]) == 0, capsys.readouterr().err
    assert place.held(PROVEN) == held


def test_a_job_that_is_retired_during_a_drill_is_told_of_no_more(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.job()
    place.job(name="later")
    place.program.main(["run", "data"])
    drill_job = place.program.drill_job

    def tries(*words: Any) -> None:
        (place.home / "jobs" / "later.json").unlink(missing_ok=True)
        drill_job(*words)

    monkeypatch.setattr(place.program, "drill_job", tries)
    assert place.program.main(["drill"]) == 0
    assert [path.name for path in (place.home / "textfiles").glob("llm-drill-*")] == ["llm-drill-data.prom"]
    assert not (place.home / "state" / "later.drill.json").exists()


def test_a_pulled_copy_is_compared_with_the_source_on_its_host(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    odd = "it's a $name\n"
    place.dataset("llm/data", c=(3000, {odd: b"1", "deep/x": b"2"}))
    source = place.home / "data" / "llm" / "data" / ".zfs" / "snapshot" / "c"
    (source / "link").symlink_to("deep/x")
    place.job(host="backup@192.0.2.12", direction="pull")
    assert place.program.main(["run", "data"]) == 0, capsys.readouterr().err
    (place.home / "data" / "backup" / "data" / ".zfs" / "snapshot" / "c" / "link").unlink()
    (place.home / "data" / "backup" / "data" / ".zfs" / "snapshot" / "c" / "link").symlink_to("deep/x")
    assert place.program.main(["drill"]) == 0, capsys.readouterr().err
    assert "backup/data@c was restored: 3 files as in the source" in capsys.readouterr().out
    copy = place.home / "data" / "backup" / "data" / ".zfs" / "snapshot" / "c" / "deep" / "x"
    copy.write_bytes(b"other")
    assert place.program.main(["drill"]) == 1
    assert "1 of 3 files differ from" in capsys.readouterr().err
    copy.write_bytes(b"2")
    # An account that may send and not read.
    (place.home / "find").write_text("#!/bin/sh\necho 'Permission denied' >&2\nexit 1\n")
    (place.home / "find").chmod(0o755)
    assert place.program.main(["drill"]) == 0
    assert "it was not compared: " in capsys.readouterr().out


def test_a_source_without_a_mount_point_is_told(place: Place, capsys: Any) -> None:
    place.job()
    place.program.main(["run", "data"])
    state = place.read()
    state["llm/data"]["properties"]["mountpoint"] = "legacy"
    (place.home / "state.json").write_text(json.dumps(state))
    assert place.program.main(["drill"]) == 1
    assert "llm/data has no mount point, so its files are not reached. Give it one" in capsys.readouterr().err
    # One that only holds others has none, and no files.
    place.dataset("llm/data", c=(3000, {}))
    (place.home / "data" / "llm" / "data" / ".zfs" / "snapshot" / "c").mkdir()
    place.program.main(["run", "data"])
    assert place.program.main(["drill"]) == 0, capsys.readouterr().err
    assert "it has no files, and its source no mount point" in capsys.readouterr().out


def test_a_copy_that_was_not_opened_is_not_held_as_a_good_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.job()
    place.program.main(["run", "data"])
    place.program.main(["drill"])
    assert place.metrics()["llm_restore_drill_opened"] == 1
    monkeypatch.setenv("ZFS_RECEIVED", json.dumps({"keystatus": "unavailable"}))
    place.dataset("llm/data", c=(3000, {"x": b"newer"}))
    place.program.main(["run", "data"])
    assert place.program.main(["drill"]) == 0
    assert place.held(PROVEN) == {"backup/data@b"}
    assert place.metrics()["llm_restore_drill_opened"] == 0, "nobody knows whether it opens"


def test_a_job_that_cannot_be_read_is_a_failure_and_the_others_are_tried(place: Place, capsys: Any) -> None:
    place.job()
    place.program.main(["run", "data"])
    (place.home / "jobs" / "broken.json").write_text("{")
    assert place.program.main(["drill"]) == 1
    assert "broken: " in capsys.readouterr().err
    told = {path.name: json.loads(path.read_text())["llm_restore_drill_success"] for path in (place.home / "state").glob("*.drill.json")}
    assert told == {"broken.drill.json": 0, "data.drill.json": 1}


def unfinished_write(home: Path) -> dict[str, bytes]:
    """A database and its journal in the middle of a transaction that has reached the disk in part."""
    path = home / "busy.sqlite"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.executescript("create table t (a, b); create index i on t (a);")
        writer.executemany("insert into t values (?, ?)", [(n, "x" * 200) for n in range(3000)])
        writer.executescript("pragma cache_size=5; begin; update t set a = a + 100000;")
        return {name: (home / name).read_bytes() for name in ("busy.sqlite", "busy.sqlite-journal")}


def test_a_database_that_was_being_written_to_is_opened_with_its_journal(place: Place, tmp_path: Path, capsys: Any) -> None:
    files = unfinished_write(tmp_path)
    place.dataset("llm/data", c=(3000, files))
    place.job()
    place.program.main(["run", "data"])
    assert place.program.main(["drill"]) == 0, capsys.readouterr().err
    assert "2 files as in the source, 1 databases opened" in capsys.readouterr().out
    # Without its journal the same database is not whole, and that is noticed.
    place.dataset("llm/data", d=(3100, {"busy.sqlite": files["busy.sqlite"]}))
    place.program.main(["run", "data"])
    assert place.program.main(["drill"]) == 1
    assert "The database busy.sqlite cannot be opened after the restore" in capsys.readouterr().err


@pytest.mark.parametrize("step", ["zfs send", "zfs receive", "zfs mount"])
def test_a_drill_that_breaks_off_cleans_up_and_is_no_success(place: Place, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    place.job()
    place.program.main(["run", "data"])
    before = place.read()
    monkeypatch.setenv("ZFS_FAIL", step)
    assert place.program.main(["drill"]) == 1
    assert place.metrics()["llm_restore_drill_success"] == 0
    assert place.read() == before


def test_what_no_drill_made_is_never_destroyed(place: Place, capsys: Any) -> None:
    place.job()
    place.program.main(["run", "data"])
    place.dataset("llm/drill/data", a=(1, {"precious": b"1"}))
    assert place.program.main(["drill"]) == 1
    assert "llm/drill/data was not made by a restore drill, so it is left alone" in capsys.readouterr().err
    assert "llm/drill/data" in place.read()
    assert not any(line.startswith("zfs destroy") for line in place.log())


def test_what_a_killed_drill_left_is_cleared_by_the_next(place: Place) -> None:
    place.job()
    place.program.main(["run", "data"])
    place.dataset("llm/drill/data", a=(1, {}))
    state = place.read()
    state["llm/drill/data"]["properties"] = {"llm-stack:drill": "data"}
    (place.home / "state.json").write_text(json.dumps(state))
    assert place.program.main(["drill"]) == 0
    assert "llm/drill/data" not in place.read()


def test_one_job_that_fails_does_not_keep_the_others_from_being_tried(place: Place) -> None:
    place.job(name="a", source="llm/none", target="backup/none")
    place.job()
    place.program.main(["run", "data"])
    assert place.program.main(["drill"]) == 1
    told = {path.name: json.loads(path.read_text())["llm_restore_drill_success"] for path in (place.home / "state").glob("*.drill.json")}
    assert told == {"a.drill.json": 0, "data.drill.json": 1}


def test_an_encrypted_copy_without_its_key_is_received_and_not_opened(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    place.job()
    place.program.main(["run", "data"])
    monkeypatch.setenv("ZFS_RECEIVED", json.dumps({"keystatus": "unavailable"}))
    assert place.program.main(["drill"]) == 0
    assert "its key is not here, so it was not opened" in capsys.readouterr().out
    assert not any(line.startswith("zfs mount") for line in place.log())


@pytest.mark.parametrize(("key", "status"), [("the right key", 0), ("another key", 1), ("", 1)])
def test_a_copy_opens_with_its_key_and_a_wrong_one_is_noticed(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any, key: str, status: int
) -> None:
    place.job(key_file=str(place.home / "key"))
    place.program.main(["run", "data"])
    before = place.read()
    monkeypatch.setenv("ZFS_RECEIVED", json.dumps({"keystatus": "unavailable", "the key": "the right key"}))
    (place.home / "key").write_text(key)
    assert place.program.main(["drill"]) == status
    said = capsys.readouterr()
    if status:
        assert f"backup/data@b does not open with the key in {place.home}/key: " in said.err and "Incorrect key provided" in said.err
    else:
        assert "2 files as in the source, 1 databases opened" in said.out
    assert place.metrics()["llm_restore_drill_success"] == 1 - status
    assert place.bare() == before, "nothing is pruned, no hold released, and the scratch place is gone"


def test_a_key_that_is_not_there_is_told(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    place.job(key_file="/nowhere/key")
    place.program.main(["run", "data"])
    monkeypatch.setenv("ZFS_RECEIVED", json.dumps({"keystatus": "unavailable", "the key": "x"}))
    assert place.program.main(["drill"]) == 1
    assert "does not open with the key in /nowhere/key" in capsys.readouterr().err


def test_a_send_that_broke_off_is_noticed_until_it_is_gone_on_with(place: Place, capsys: Any) -> None:
    place.job()
    place.program.main(["run", "data"])
    state = place.read()
    state["backup/data"]["properties"]["receive_resume_token"] = "1-c740b4779"
    (place.home / "state.json").write_text(json.dumps(state))
    assert place.program.main(["drill"]) == 1
    said = capsys.readouterr().err
    assert "backup/data@b was restored: 2 files as in the source, 1 databases opened, but a send to backup/data broke off" in said
    assert place.metrics()["llm_restore_drill_success"] == 0
    assert place.bare() == state, "what arrived of it is kept, and the held copy too"
    with place.program.alone("data"):
        assert place.program.main(["drill"]) == 0, "a run that is under way is no run that broke off"
    state["backup/data"]["properties"]["receive_resume_token"] = "-"
    (place.home / "state.json").write_text(json.dumps(state))
    assert place.program.main(["drill"]) == 0


def test_a_run_that_a_full_target_failed_is_noticed_by_the_drill_too(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    place.job()
    place.program.main(["run", "data"])
    place.dataset("llm/data", c=(3000, {"x": b"newer"}))
    before = place.read()
    monkeypatch.setenv("ZFS_FAIL", "syncoid")
    assert place.program.main(["run", "data"]) == 1
    monkeypatch.setenv("ZFS_FAIL", "")
    assert place.program.main(["drill"]) == 1
    assert "but the last run of data failed, and newer data has no copy" in capsys.readouterr().err
    assert place.bare() == before and place.held() == {"llm/data@b", "backup/data@b"}
    assert place.program.main(["run", "data"]) == 0
    assert place.program.main(["drill"]) == 0


def test_every_dataset_of_a_recursive_job_is_tried(place: Place, capsys: Any) -> None:
    place.dataset("llm/data/child", a=(1500, {"z": b"1"}))
    place.dataset("llm/data/other", a=(1500, {"z": b"1"}))
    place.job(recursive=True)
    place.program.main(["run", "data"])
    assert place.program.main(["drill"]) == 0
    assert "backup/data/child@a was restored: 1 files as in the source" in capsys.readouterr().out
    (place.home / "data" / "backup" / "data" / "child" / ".zfs" / "snapshot" / "a" / "z").write_bytes(b"2")
    before = place.bare()
    assert place.program.main(["drill"]) == 1
    assert "1 of 1 files differ" in capsys.readouterr().err
    assert sum(line.startswith("zfs mount") for line in place.log()) == 6, "the one after it was tried all the same"
    assert place.bare() == before


@pytest.mark.parametrize(("name", "argv"), [("data", ["run", "data"]), (".drill", ["drill"]), ("data", ["restore", "data"])])
def test_two_at_once_are_refused_and_the_second_tells_nothing(place: Place, capsys: Any, name: str, argv: list[str]) -> None:
    place.job()
    place.program.main(["run", "data"])
    before, known = place.read(), place.metrics()
    with place.program.alone(name):
        assert place.program.main(argv) == 1
        assert f"Another run is at work on {name}. Wait for its end; nothing was done." in capsys.readouterr().err
        assert (place.read(), place.metrics()) == (before, known)
        assert place.program.main(["restore", "data", "--plan"]) == 0, "a plan may be seen at any time"
    assert place.program.main(argv) == 0


@pytest.mark.parametrize("name", ["../jobs/data", "a b", "", "/etc/passwd"])
def test_what_is_no_name_of_a_job_makes_no_file(place: Place, name: str) -> None:
    for verb in ("run", "restore"):
        with pytest.raises(SystemExit, match="2"):
            place.program.main([verb, name])
    assert not list(place.home.rglob("*.lock"))


# --- archives, with the real borg -------------------------------------------------------------------------------------------------
def borg_place(place: Place, monkeypatch: pytest.MonkeyPatch, *, passphrase: str = "a-passphrase-of-the-tests") -> Path:
    """A directory with a database in use, and a repository; returns the configuration."""
    for name in ("BORG_BASE_DIR", "HOME"):
        monkeypatch.setenv(name, str(place.home / "borg-home"))
    source = place.home / "manager"
    source.mkdir()
    (source / "file").write_text("content")
    (source / "state.sqlite3").write_bytes(database())
    configuration = place.home / "state.yaml"
    configuration.write_text(
        json.dumps(
            {
                "location": {
                    "source_directories": [
                        str(source),
                        *(str(place.home / "state" / kind / "state") for kind in ("databases", "manifests")),
                    ],
                    "repositories": [str(place.home / "repository")],
                    "exclude_patterns": [str(source / "state.sqlite3")],
                },
                "storage": {"encryption_passphrase": passphrase, "archive_name_format": "state@here@{now:%Y-%m-%dT%H:%M:%S.%f}"},
                "retention": {"keep_daily": 2, "prefix": "state@here@"},
            }
        )
    )
    configuration.chmod(0o600)
    subprocess.run(["borgmatic", "--config", str(configuration), "init", "--encryption", "repokey-blake2"], check=True, capture_output=True)
    job = {"name": "state", "configuration": str(configuration), "databases": [str(source / "state.sqlite3")], "max_age_hours": 26}
    # Half an hour lies between two runs.
    place.now = float(int(time.time()))
    (place.home / "jobs" / "state.json").write_text(json.dumps({**job, "prefix": "state@here@"}))
    return configuration


def test_archives_are_made_restored_and_damage_is_noticed(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    configuration = borg_place(place, monkeypatch)
    # Somebody writes while the copy is made.
    writer = sqlite3.connect(place.home / "manager" / "state.sqlite3", isolation_level=None)
    writer.execute("pragma journal_mode=wal")
    writer.execute("insert into t values ('in the log')")
    assert place.program.main(["run", "state"]) == 0, capsys.readouterr().err
    writer.close()
    assert place.metrics()["llm_backup_success"] == 1
    assert place.program.main(["drill"]) == 0, capsys.readouterr().err
    assert "1 databases opened" in capsys.readouterr().out
    assert list((place.home / "scratch_mounts").iterdir()) == []

    # A target that is full: borg is told to leave more room than there is.
    listing = ["borgmatic", "--config", str(configuration), "list"]
    listed = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
    leave = ["borg", "config", str(place.home / "repository"), "additional_free_space"]
    subprocess.run([*leave, "999T"], check=True, capture_output=True)
    assert place.program.main(["run", "state"]) == 1
    assert "--verbosity 0 create` failed: " in capsys.readouterr().err
    assert place.program.main(["drill"]) == 1
    assert "1 databases opened, but the last run of state failed" in capsys.readouterr().err
    assert subprocess.run(listing, check=True, capture_output=True, text=True).stdout == listed, "nothing was pruned"
    subprocess.run([*leave, "0"], check=True, capture_output=True)
    assert place.program.main(["run", "state"]) == 0
    assert place.program.main(["drill"]) == 0
    capsys.readouterr()

    # A wrong passphrase.
    text = configuration.read_text()
    configuration.write_text(text.replace("a-passphrase-of-the-tests", "another-passphrase"))
    assert place.program.main(["drill"]) == 1
    assert place.program.main(["run", "state"]) == 1
    assert place.metrics()["llm_restore_drill_success"] == place.metrics()["llm_backup_success"] == 0
    assert "a-passphrase" not in capsys.readouterr().err
    configuration.write_text(text)

    # A damaged repository: bits of the largest segment are other ones now.
    segment = max((place.home / "repository" / "data").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else -1)
    content = bytearray(segment.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64 * [0x55])
    segment.write_bytes(bytes(content))
    assert place.program.main(["drill"]) == 1
    assert place.metrics()["llm_restore_drill_success"] == 0
    assert segment.exists(), "nothing is pruned by a drill"


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def names_in(configuration: Path) -> list[str]:
    said = subprocess.run(["borgmatic", "--config", str(configuration), "rlist", "--json"], check=True, capture_output=True).stdout
    return [one["name"] for one in json.loads(said)[0]["archives"]]


def test_hosts_that_share_a_repository_keep_and_restore_their_own(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    configuration = borg_place(place, monkeypatch)
    configuration.write_text(configuration.read_text().replace('keep_daily": 2', 'keep_secondly": 1'))
    other = place.home / "other.yaml"
    other.write_text(configuration.read_text().replace("state@here@", "state@there@"))
    other.chmod(0o600)
    subprocess.run(["borgmatic", "--config", str(other), "create"], check=True, capture_output=True)
    (place.home / "manager" / "noise").write_bytes(os.urandom(3 << 20))
    assert place.program.main(["run", "state"]) == 0, capsys.readouterr().err
    (place.home / "manager" / "noise").write_bytes(os.urandom(3 << 20))
    assert place.program.main(["run", "state"]) == 0, capsys.readouterr().err
    names = names_in(configuration)
    assert [name.split("@")[1] for name in names] == ["there", "here"], "a pruning took what is another host's"
    assert size_of(place.home / "repository") < 5 << 20, "what was pruned still takes its room"

    # The other one's is the newest now, and none of this host's business.
    (place.home / "manager" / "file").write_text("of the other host")
    subprocess.run(["borgmatic", "--config", str(other), "create"], check=True, capture_output=True)
    assert place.program.main(["restore", "state", "--path", str(place.home / "manager" / "file")]) == 0, capsys.readouterr().err
    assert (place.home / "manager" / "file.restored").read_text() == "content"
    assert place.program.newest_archive(place.program.read_job(place.home / "jobs" / "state.json")) == names[-1]


def test_a_drill_of_an_archive_wants_all_of_it_and_room_for_it(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    configuration = borg_place(place, monkeypatch)
    job = place.home / "jobs" / "state.json"
    assert place.program.main(["drill"]) == 1
    assert "The repository of state has no archive state@here@*." in capsys.readouterr().err
    assert place.program.main(["run", "state"]) == 0
    good = json.loads(job.read_text())
    for more, lacks in (
        ({"paths": [str(place.home / "manager"), "/nowhere/documents"]}, "/nowhere/documents"),
        ({"databases": [*good["databases"], "/nowhere/second.sqlite"]}, "/nowhere/second.sqlite"),
    ):
        job.write_text(json.dumps({**good, **more}))
        assert place.program.main(["drill"]) == 1
        assert f" has no {lacks}. Look at exclude and paths" in capsys.readouterr().err
    job.write_text(json.dumps({**good, "paths": [str(place.home / "manager")]}))

    # After a drill that failed a good copy may be among the older ones.
    assert place.program.main(["run", "state"]) == 0
    assert "The last drill of state found a copy bad, so nothing is pruned until one is good." in capsys.readouterr().out
    assert len(names_in(configuration)) == 2
    assert place.program.main(["drill"]) == 0, capsys.readouterr().err
    monkeypatch.setattr(place.program.shutil, "disk_usage", lambda _place: SimpleNamespace(free=1000))
    assert place.program.main(["drill"]) == 1
    assert f"{place.home}/state/drill/state has 0 MiB left, so it was not tried. Make room there." in capsys.readouterr().err
    # Nothing is known against the copies: a disk that is too small for drills does not let the repository grow for ever.
    assert place.program.main(["run", "state"]) == 0
    assert "pruned" not in capsys.readouterr().out
    monkeypatch.undo()


def test_a_drill_keeps_what_it_extracts_on_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below /run it would be in memory, and a full /run stops the engine."""
    program, seen = load_program(), []
    monkeypatch.setattr(program, "STATE", tmp_path)
    monkeypatch.setattr(program, "newest_archive", lambda _job: "a")
    monkeypatch.setattr(program, "room_for", lambda _job, _name, place: seen.append(place))
    monkeypatch.setattr(program, "borgmatic", lambda _job, *words: Path(words[-1], "file").write_text("x"))
    monkeypatch.setattr(program, "compare_archive", lambda _job, _name, place: ({place / "file"}, 0))
    assert "1 files as in the source, 0 databases" in program.drill_archive({"name": "state"})
    assert seen == [tmp_path / "drill" / "state"] and not seen[0].exists()
    assert Path("/var/lib/llm-stack/backup") == load_program().STATE


# --- archives, compared with what their source was --------------------------------------------------------------------------------
FILES = {"grafana/grafana.db": "dashboards", "chroma/segment/data.bin": "vectors", "analytics/day": "counts"}


class Archived:
    """A host with one job, whose archive is a copy of directories: as borg makes it, and as it must not be."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.program, self.source, self.extracted = load_program(), home / "source", home / "extracted"
        monkeypatch.setattr(self.program, "STATE", home / "state")
        self.job = {"name": "state", "paths": [str(self.source)], "exclude": ["*.tmp"]}
        for name, content in FILES.items():
            self.put(name, content)
        self.put("left.tmp", "out")
        (self.source / "link").symlink_to("grafana")

    def put(self, name: str, content: str) -> Path:
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def make(self, begun: int, meanwhile: Any = None) -> None:
        """Make an archive and extract it."""
        self.program.write_manifest(self.job, begun)
        shutil.rmtree(self.extracted, ignore_errors=True)
        for top in (self.source, self.program.manifest_of(self.job).parent):
            shutil.copytree(top, self.extracted / str(top).lstrip("/"), symlinks=True, ignore=shutil.ignore_patterns("*.tmp"))
        if meanwhile:
            meanwhile()
        self.program.note_moved(self.job, begun)

    def copy(self, name: str) -> Path:
        return self.extracted / str(self.source / name).lstrip("/")

    def compare(self) -> tuple[int, int]:
        alike, moved = self.program.compare_archive(self.job, "newest", self.extracted)
        return len(alike), moved


@pytest.fixture
def archived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archived:
    return Archived(tmp_path, monkeypatch)


def test_an_archive_is_compared_with_what_its_source_was_and_not_with_what_became_of_it(archived: Archived) -> None:
    archived.make(1000)
    assert archived.compare() == (4, 0), "three files and a link; what exclude leaves out is not missed"
    archived.put("grafana/grafana.db", "more dashboards")
    (archived.source / "analytics" / "day").unlink()
    archived.put("new", "content")
    assert archived.compare() == (4, 0)


WRONG = {
    "volume is missing": ("chroma/segment/data.bin", lambda path: path.unlink()),
    "volume is another": ("analytics/day", lambda path: path.write_text("counted")),
    "file is cut short": ("grafana/grafana.db", lambda path: path.write_text("")),
    "link leads elsewhere": ("link", lambda path: (path.unlink(), path.symlink_to("chroma"))),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_an_archive_lacks_or_has_otherwise_is_noticed(archived: Archived, name: str) -> None:
    archived.make(1000)
    file, spoil_it = WRONG[name]
    spoil_it(archived.copy(file))
    with pytest.raises(archived.program.Failed, match=f"1 of 4 files in newest are missing or differ .* among them .*{file}"):
        archived.compare()


def test_what_was_written_to_while_the_archive_was_made_is_counted_and_not_compared(archived: Archived) -> None:
    def meanwhile() -> None:
        archived.put("grafana/grafana.db", "written since")
        (archived.source / "analytics" / "day").unlink()

    archived.make(1000, meanwhile)
    archived.copy("grafana/grafana.db").write_text("half of it")
    archived.copy("analytics/day").unlink()
    assert archived.compare() == (2, 2)
    # What stood still is compared all the same.
    archived.copy("chroma/segment/data.bin").unlink()
    with pytest.raises(archived.program.Failed, match="1 of 2 files in newest are missing or differ"):
        archived.compare()


def test_a_drill_between_two_runs_knows_what_moved_during_each(archived: Archived) -> None:
    archived.make(1000, lambda: archived.put("analytics/day", "more"))
    for begun in (2800, 4600):
        archived.program.note_moved(archived.job, begun)
    assert archived.compare() == (3, 1)
    archived.program.note_moved(archived.job, 6400)
    with pytest.raises(archived.program.Untried, match="It is not known here what the source of newest was"):
        archived.compare()


def test_an_archive_without_checksums_is_no_damaged_one(archived: Archived) -> None:
    archived.make(1000)
    (archived.extracted / str(archived.program.manifest_of(archived.job)).lstrip("/")).unlink()
    with pytest.raises(archived.program.Untried, match="`systemctl start llm-backup@state` makes one that can be"):
        archived.compare()


def test_a_file_that_cannot_be_read_is_noticed_by_the_drill(archived: Archived, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    digest = archived.program.digest

    def broken(path: Path) -> str:
        if path == archived.source / "analytics" / "day":
            raise OSError(5, "Input/output error")
        return str(digest(path))

    monkeypatch.setattr(archived.program, "digest", broken)
    archived.make(1000)
    assert "analytics/day cannot be read, so no archive has it" in capsys.readouterr().err
    monkeypatch.setattr(archived.program, "digest", digest)
    archived.copy("analytics/day").unlink()
    with pytest.raises(archived.program.Failed, match="among them .*analytics/day"):
        archived.compare()


@pytest.mark.parametrize("at_fault", ["os.scandir", "state_of"])
def test_a_directory_that_cannot_be_looked_at_keeps_nothing_else_out_and_is_noticed(
    archived: Archived, monkeypatch: pytest.MonkeyPatch, capsys: Any, at_fault: str
) -> None:
    """As of a mount that is dead: what cannot be listed, and what is listed and no more."""
    held, name = (os, "scandir") if at_fault == "os.scandir" else (archived.program, "state_of")
    before, shut = getattr(held, name), str(archived.source / "analytics")

    def closed(path: Any) -> Any:
        if str(path).startswith(shut):
            raise OSError(116, "Stale file handle", str(path))
        return before(path)

    monkeypatch.setattr(held, name, closed)
    archived.program.write_manifest(archived.job, 1000)
    assert "analytics" in (said := capsys.readouterr().err) and "cannot be read, so no archive has it" in said
    archived.program.note_moved(archived.job, 1000)
    monkeypatch.undo()
    monkeypatch.setattr(archived.program, "STATE", archived.source.parent / "state")
    for top in (archived.source, archived.program.manifest_of(archived.job).parent):
        shutil.copytree(top, archived.extracted / str(top).lstrip("/"), symlinks=True)
    shutil.rmtree(archived.copy("analytics"))
    archived.copy("analytics").mkdir()
    with pytest.raises(archived.program.Failed, match=r"1 of 4 files in newest are missing or differ .* among them .*analytics"):
        archived.compare()
    # It is looked at anew as soon as it can be.
    archived.make(2000)
    assert archived.compare() == (4, 0)


def test_an_archive_that_lacks_what_cannot_be_read_is_no_copy_and_prunes_none(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    borg_place(place, monkeypatch)
    path = place.home / "jobs" / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "paths": [str(place.home / "manager")]}))
    assert place.program.main(["run", "state"]) == 0, capsys.readouterr().err
    last, scandir, borgmatic = place.metrics()["llm_backup_last_success_timestamp_seconds"], os.scandir, place.program.borgmatic
    words: list[str] = []
    (place.home / "manager" / "shut").mkdir()

    def closed(folder: Any) -> Any:
        if str(folder).endswith("manager/shut"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", closed)
    monkeypatch.setattr(place.program, "borgmatic", lambda job, *said: (words.append(said[0]), borgmatic(job, *said))[1])
    place.now += 1800
    assert place.program.main(["run", "state"]) == 1
    said = capsys.readouterr().err
    assert "lacks 1 of its files and directories, which could not be read, among them" in said and "manager/shut. It has all" in said
    assert words == ["create"]
    told = place.metrics()
    assert (told["llm_backup_success"], told["llm_backup_last_success_timestamp_seconds"]) == (0, last)


def test_what_was_not_touched_is_not_read_again(archived: Archived, monkeypatch: pytest.MonkeyPatch) -> None:
    read, digest = [], archived.program.digest
    monkeypatch.setattr(archived.program, "digest", lambda path: (read.append(path.name), digest(path))[1])
    now = int(time.time())
    archived.make(now)
    assert sorted(read) == ["data.bin", "day", "grafana.db"]
    # Touched so shortly before the last run that its times may hide a change.
    archived.make(now + 1800)
    assert len(read) == 6
    archived.put("analytics/day", "more")
    read.clear()
    archived.program.write_manifest(archived.job, now + 3600)
    assert read == ["day"]
    assert archived.program.manifest_of(archived.job).parent.parent.stat().st_mode & 0o777 == 0o700


PATTERNS = [
    ["*.tmp"],
    ["{source}/deep"],
    ["{source}/deep/"],
    ["*/cache"],
    ["{source}/deep/[ab].bin"],
    ["{source}/?.bin", "*.tmp"],
    ["deep"],
    [],
]


@pytest.mark.parametrize("patterns", PATTERNS, ids=str)
def test_what_is_left_out_is_what_the_real_borg_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patterns: list[str]) -> None:
    program, source = load_program(), tmp_path / "source"
    monkeypatch.setattr(program, "STATE", tmp_path / "state")
    for name in (
        "a.bin",
        "x.tmp",
        "deep/a.bin",
        "deep/c.bin",
        "deep/er/x.tmp",
        "deep/cache/y",
        "cache/z",
        "deeper/b.bin",
        "db.sqlite",
        "db.sqlite-wal",
    ):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    (source / "link.tmp").symlink_to("deep")
    given = [one.format(source=source) for one in patterns]
    job = {"name": "state", "paths": [str(source)], "exclude": given, "databases": [str(source / "db.sqlite")]}
    # As the role's template has it.
    whole = [*given, *(f"{source}/db.sqlite{end}" for end in ("", "-wal", "-shm", "-journal"))]
    borg = {**os.environ, "BORG_BASE_DIR": str(tmp_path / "borg"), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
    words = [word for one in whole for word in ("--exclude", one)]
    for argv in (["init", "--encryption", "none", "repository"], ["create", *words, "repository::a", str(source)]):
        subprocess.run(["borg", *argv], cwd=tmp_path, env=borg, check=True, capture_output=True)
    listing = ["borg", "list", "--format", "{type}/{path}{NL}", "repository::a"]
    said = subprocess.run(listing, cwd=tmp_path, env=borg, check=True, capture_output=True, text=True).stdout.splitlines()
    taken = {line[1:] for line in said if not line.startswith("d")}
    assert taken == {str(path) for path in program.files_of(job)}


def test_borg_s_own_cache_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, home = load_program(), tmp_path / "home"
    monkeypatch.setattr(program, "STATE", tmp_path / "state")
    monkeypatch.setenv("BORG_BASE_DIR", str(home))
    monkeypatch.setenv("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes")
    (home / ".cache" / "other").mkdir(parents=True)
    (home / ".cache" / "other" / "file").write_text("x")
    for argv in (["init", "--encryption", "none", "repository"], ["create", "repository::a", str(home)]):
        subprocess.run(["borg", *argv], cwd=tmp_path, check=True, capture_output=True)
    said = subprocess.run(["borg", "list", "--short", "repository::a"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    cache = [line for line in said.splitlines() if "/.cache/" in line and not (Path("/") / line).is_dir()]
    assert [f"/{line}" for line in cache] == [str(path) for path in program.files_of({"name": "a", "paths": [str(home / ".cache")]})]
    assert (home / ".cache" / "borg" / "CACHEDIR.TAG").exists() or list((home / ".cache" / "borg").iterdir())


@pytest.mark.parametrize("name", ["a#b.db", "a?mode=rwc.db", "50%20.db"])
def test_a_database_of_any_name_is_copied_and_opened(place: Place, name: str) -> None:
    (place.home / name).write_bytes(database())
    files = sorted(path.name for path in place.home.iterdir())
    staging = place.home / "state" / "copies"
    place.program.copy_databases({"name": "state", "databases": [str(place.home / name)]}, staging)
    (copy,) = staging.iterdir()
    with contextlib.closing(sqlite3.connect(copy)) as held:
        assert held.execute("select count(*) from t").fetchone() == (500,)
    assert place.program.integrity(place.home / name) == "ok"
    assert sorted(path.name for path in place.home.iterdir()) == files


def test_a_database_that_nobody_named_is_opened_where_it_stood_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, top = load_program(), tmp_path / "top"
    monkeypatch.setattr(program, "STATE", tmp_path)
    top.mkdir()
    damaged = bytearray(database())
    damaged[4096:8192] = bytes(4096)
    (top / "whole.db").write_bytes(database())
    (top / "damaged.db").write_bytes(bytes(damaged))
    (top / "written.db").write_bytes(bytes(damaged))
    (top / "written.db-wal").write_bytes(b"log")
    assert program.open_databases(top, {top / "whole.db", top / "written.db"}) == 1, "its journal was written to"
    with pytest.raises(program.Failed, match=r"The database damaged\.db cannot be opened after the restore"):
        program.open_databases(top, {top / "whole.db", top / "damaged.db"})


def test_a_drill_of_a_real_archive_notices_what_borg_was_not_given(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    configuration, source = borg_place(place, monkeypatch), place.home / "manager"
    path = place.home / "jobs" / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "paths": [str(source)]}))
    (source / "volume").mkdir()
    (source / "volume" / "segment").write_text("vectors")
    assert place.program.main(["run", "state"]) == 0, capsys.readouterr().err
    (source / "file").write_text("moved on")
    assert place.program.main(["drill"]) == 0, capsys.readouterr().err
    # The file, the segment, and SQLite's copy of the database.
    assert "the newest archive was restored: 3 files as in the source, 1 databases opened" in capsys.readouterr().out

    text = configuration.read_text()
    configuration.write_text(text.replace('"exclude_patterns": [', f'"exclude_patterns": ["{source}/volume", '))
    place.now += 1800
    assert place.program.main(["run", "state"]) == 0
    assert place.program.main(["drill"]) == 1
    assert "1 of 3 files in state@here@" in (said := capsys.readouterr().err) and "manager/volume/segment" in said
    assert place.metrics()["llm_restore_drill_success"] == 0
    assert not (place.home / "state" / "drill" / "state").exists(), "what was extracted is cleaned up"


def test_nothing_is_written_below_a_mount_point_that_is_empty(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    borg_place(place, monkeypatch)
    path, bucket = place.home / "jobs" / "state.json", place.home
    path.write_text(json.dumps({**json.loads(path.read_text()), "mount": str(bucket)}))
    for words in (["run", "state"], ["drill"]):
        assert place.program.main(words) == 1
        assert f"Nothing is mounted at {bucket}, where the repository of state lies. Mount it" in capsys.readouterr().err
    assert place.metrics()["llm_backup_success"] == place.metrics()["llm_restore_drill_success"] == 0
    monkeypatch.setattr(place.program.os.path, "ismount", lambda at: at == str(bucket))
    assert place.program.main(["run", "state"]) == 0


def test_a_link_is_no_directory_to_keep(place: Place, capsys: Any) -> None:
    (place.home / "real").mkdir()
    (place.home / "link").symlink_to(place.home / "real")
    job = {"name": "state", "configuration": "/nowhere", "paths": [str(place.home / "link")], "max_age_hours": 26, "prefix": "state@"}
    (place.home / "jobs" / "state.json").write_text(json.dumps(job))
    assert place.program.main(["run", "state"]) == 1
    assert f"{place.home}/link of the backup state is a link, and an archive would hold no more than that." in capsys.readouterr().err


def test_a_database_that_is_missing_or_damaged_stops_the_archive(place: Place, capsys: Any) -> None:
    source = place.home / "manager.sqlite3"
    job = {"name": "state", "configuration": "/nowhere", "databases": [str(source)], "max_age_hours": 26}
    (place.home / "jobs" / "state.json").write_text(json.dumps(job))
    assert place.program.main(["run", "state"]) == 1
    assert f"The database {source} of the backup state is not there." in capsys.readouterr().err
    source.write_bytes(b"no database at all" * 1000)
    assert place.program.main(["run", "state"]) == 1
    assert f"The database {source} cannot be copied" in capsys.readouterr().err


def test_a_job_that_has_never_run_is_told_of(place: Place, capsys: Any) -> None:
    place.job()
    assert place.program.main(["announce"]) == 0
    assert capsys.readouterr().out == "data is told of.\n"
    assert place.metrics() == {"llm_backup_max_age_seconds": 7200.0, "llm_backup_first_try_timestamp_seconds": 3600.0}
    place.now += 1000
    assert place.program.main(["announce"]) == 0
    assert capsys.readouterr().out == "", "a second time changes nothing"
    # What had no folder to be told in is told with what is known of it.
    assert place.program.main(["run", "data"]) == 0
    known = place.metrics()
    assert known["llm_backup_first_try_timestamp_seconds"] == 3600.0
    (place.home / "textfiles" / "llm-backup-data.prom").unlink()
    assert place.program.main(["announce"]) == 0
    assert place.metrics() == known


# --- restores ---------------------------------------------------------------------------------------------------------------------
def test_a_dataset_is_received_beside_its_source_once_the_plan_was_shown(place: Place, capsys: Any) -> None:
    place.job()
    place.program.main(["run", "data"])
    before = place.read()
    assert place.program.main(["restore", "data", "--plan"]) == 0
    assert capsys.readouterr().out == "Restore backup/data@b to llm/data-restored.\n"
    assert place.read() == before, "a plan changes nothing"
    assert place.program.main(["restore", "data"]) == 0, capsys.readouterr().err
    assert set(place.read()) - set(before) == {"llm/data-restored"}
    assert (place.home / "data" / "llm" / "data-restored" / "x").read_bytes() == b"new"


def test_what_is_in_the_way_is_kept(place: Place, capsys: Any) -> None:
    place.job()
    place.program.main(["run", "data"])
    before = place.read()
    assert place.program.main(["restore", "data", "--to", "llm/data"]) == 1
    assert "llm/data is there already, and nothing is overwritten." in capsys.readouterr().err
    assert place.read() == before
    assert place.program.main(["restore", "data", "--to", "llm/data", "--aside"]) == 0, capsys.readouterr().err
    kept = [name for name in place.read() if name.startswith("llm/data-before-restore-")]
    assert len(kept) == 1 and place.read()[kept[0]] == before["llm/data"]


def test_children_are_restored_with_their_parent(place: Place, capsys: Any) -> None:
    place.dataset("llm/data/child", c=(1500, {"z": b"child"}))
    place.job(recursive=True)
    place.program.main(["run", "data"])
    assert place.program.main(["restore", "data", "--to", "llm/back"]) == 0, capsys.readouterr().err
    assert {"llm/back", "llm/back/child"} <= set(place.read())


def test_a_file_of_a_dataset_is_copied_beside_the_present_one(place: Place, capsys: Any) -> None:
    place.job()
    place.program.main(["run", "data"])
    to = place.home / "out" / "x"
    with place.program.alone(".drill"):
        assert place.program.main(["restore", "data", "--path", "x", "--to", str(to)]) == 1, "a drill would clear its place"
    assert "Another run is at work on .drill." in capsys.readouterr().err and not to.exists()
    assert place.program.main(["restore", "data", "--path", "x", "--to", str(to)]) == 0, capsys.readouterr().err
    assert to.read_bytes() == b"new"
    assert "llm/drill/data" not in place.read(), "what was received for it is gone again"
    assert place.program.main(["restore", "data", "--path", "x", "--to", str(to)]) == 1
    assert place.program.main(["restore", "data", "--path", "none", "--to", f"{to}2"]) == 1
    assert "backup/data@b has no none." in capsys.readouterr().err
    assert place.program.main(["restore", "data", "--path", "../x", "--to", f"{to}2"]) == 1
    assert not Path(f"{to}2").exists()


def test_an_archive_goes_back_to_where_it_came_from(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    borg_place(place, monkeypatch)
    path, source = place.home / "jobs" / "state.json", place.home / "manager"
    path.write_text(json.dumps({**json.loads(path.read_text()), "paths": [str(source)]}))
    assert place.program.main(["run", "state"]) == 0, capsys.readouterr().err
    one = ["restore", "state", "--path", str(source / "file")]
    assert place.program.main(one) == 0, capsys.readouterr().err
    assert (source / "file.restored").read_text() == "content"
    assert place.program.main(one) == 1, "the restored one would be overwritten"
    assert place.program.main(["restore", "state", "--path", "relative"]) == 1
    assert place.program.main(["restore", "state", "--path", "/not/there", "--to", str(place.home / "x")]) == 1

    (source / "file").write_text("changed since")
    assert place.program.main(["restore", "state"]) == 1
    assert f"{source} is there already" in capsys.readouterr().err
    assert place.program.main(["restore", "state", "--aside"]) == 0, capsys.readouterr().err
    assert (source / "file").read_text() == "content"
    with contextlib.closing(sqlite3.connect(source / "state.sqlite3")) as back:
        assert back.execute("select count(*) from t").fetchone() == (500,)
    (kept,) = place.home.glob("manager.before-restore-*")
    assert (kept / "file").read_text() == "changed since"

    for lost in (source, kept):
        shutil.rmtree(lost)
    assert place.program.main(["run", "state"]) == 1, "an archive of nothing would be the newest"
    assert f"{source} of the backup state is not there." in capsys.readouterr().err
    assert place.program.main(["restore", "state"]) == 0, capsys.readouterr().err
    assert (source / "file").read_text() == "content"


def state_place(place: Place, monkeypatch: pytest.MonkeyPatch, *paths: str, database: str = "") -> None:
    """A job of archives whose copy is a file in each path, and perhaps a database; STAND-IN of borgmatic."""
    home = place.home
    databases = [str(home / database)] if database else []
    job = {"name": "state", "configuration": "/nowhere", "paths": [str(home / one) for one in paths], "databases": databases, "prefix": "a"}
    (home / "jobs" / "state.json").write_text(json.dumps(job))

    def borgmatic(_job: Any, verb: str, *_words: str) -> str:
        if verb == "extract":
            for one in paths:
                (home / one).mkdir(exist_ok=True)
                (home / one / "file").write_text("content")
            staging = home / "state" / "databases" / "state"
            staging.mkdir(parents=True)
            for one in databases:
                (staging / place.program.copy_name(one)).write_text("copy")
        return json.dumps([{"archives": [{"name": "a1"}]}])

    monkeypatch.setattr(place.program, "borgmatic", borgmatic)


def test_a_disk_that_was_just_formatted_is_not_in_the_way(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    state_place(place, monkeypatch, "chat", database="elsewhere/deep/x.sqlite")
    (place.home / "chat" / "lost+found").mkdir(parents=True)
    assert place.program.main(["restore", "state"]) == 0, capsys.readouterr().err
    assert (place.home / "chat" / "file").read_text() == "content"
    assert (place.home / "elsewhere" / "deep" / "x.sqlite").read_text() == "copy", "nothing else makes its directory"


@pytest.mark.parametrize("below", ["", "/a disk"])
def test_what_is_mounted_is_refused_before_anything_is_renamed(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any, below: str
) -> None:
    state_place(place, monkeypatch, "manager", "chat")
    for name in ("manager", "chat"):
        (place.home / name).mkdir()
        (place.home / name / "file").write_text("old")
    at = f"{place.home}/chat{below}"
    monkeypatch.setattr(place.program, "mount_points", lambda: ["/", str(place.home), f"{place.home}/chatter", at])
    for more in ([], ["--plan"]):
        assert place.program.main(["restore", "state", "--aside", *more]) == 1
        assert f"{place.home}/chat cannot be renamed, for a file system is mounted at {at}, where" in capsys.readouterr().err
    assert [(place.home / name / "file").read_text() for name in ("manager", "chat")] == ["old", "old"]


def test_where_file_systems_are_mounted_is_read_from_the_kernel(place: Place) -> None:
    found = place.program.mount_points()
    assert "/" in found and "/proc" in found
    assert all(os.path.ismount(one) for one in found if one in ("/", "/proc"))


def test_a_restore_that_breaks_off_names_what_it_has_renamed(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    state_place(place, monkeypatch, "manager", "chat")
    for name in ("manager", "chat"):
        (place.home / name).mkdir()
        (place.home / name / "file").write_text("old")
    real = place.program.Path.rename

    def rename(path: Path, to: str) -> Path:
        if path.name == "chat":
            raise OSError(16, "Device or resource busy", str(path))
        return real(path, to)

    monkeypatch.setattr(place.program.Path, "rename", rename)
    assert place.program.main(["restore", "state", "--aside"]) == 1
    (kept,) = place.home.glob("manager.before-restore-*")
    said = capsys.readouterr().err
    assert "The restore broke off: [Errno 16] Device or resource busy" in said
    assert said.endswith(f"What was in the way was renamed and kept: {kept}.\n")
    assert (place.home / "chat" / "file").read_text() == "old"


def test_a_restore_that_cannot_be_made_leaves_what_is_there(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    place.job()
    place.program.main(["run", "data"])
    before = place.read()
    monkeypatch.setenv("ZFS_FAIL", "zfs send")
    assert place.program.main(["restore", "data"]) == 1
    assert place.read() == before
