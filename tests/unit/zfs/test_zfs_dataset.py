# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dataset planner as tables, and its steps with a runner that fails at each."""

from __future__ import annotations

import os
import stat
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import StackError, StepFailed
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._plan import Step
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.dataset import apply, declare, draft, model, plan, read
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.model import Value
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.read import NoZfsError

sys.path.insert(0, str(Path(__file__).parent))
from zfs_answers import Answers

HOST = model.Host(users={"root": 0, "nobody": 65534}, groups={"users": 100})
FILESYSTEM = {
    "type": ("filesystem", "-"),
    "mounted": ("yes", "-"),
    "mountpoint": ("/{name}", "default"),
    "canmount": ("on", "default"),
    "keystatus": ("none", "-"),
    "atime": ("on", "default"),
    "recordsize": ("131072", "default"),
    "compression": ("on", "default"),
    "quota": ("0", "default"),
    "refquota": ("0", "default"),
    "encryption": ("off", "default"),
    "refreservation": ("0", "default"),
}
VOLUME = {
    "type": ("volume", "-"),
    "mounted": ("-", "-"),
    "mountpoint": ("-", "-"),
    "canmount": ("-", "-"),
    "keystatus": ("none", "-"),
    "atime": ("-", "-"),
    "recordsize": ("-", "-"),
    "compression": ("on", "default"),
    "volsize": (str(1 << 30), "local"),
    "volblocksize": ("16384", "-"),
    "refreservation": (str((1 << 30) + 4096), "local"),
}


def found(*names: str, directory: Any = None, **changes: Any) -> Any:
    """Datasets as they are after a plain creation; ``vol*`` are volumes; changes are {name: {property: (value, source)}}."""
    made = {}
    for name in names:
        base = VOLUME if name.rsplit("/", 1)[-1].startswith("vol") else FILESYSTEM
        raw = {**base, **changes.get(name.replace("/", "_"), {})}
        values = {what: Value(text.format(name=name), source) for what, (text, source) in raw.items()}
        made[name] = model.FoundDataset(name, values, directory)
    return made


def planned(raws: list[dict[str, Any]], have: Any, *, rehearsal: bool = False) -> Any:
    return plan.plan_datasets(declare.declare_datasets(raws), model.Current(have), HOST, rehearsal=rehearsal)


def commands(made: Any) -> Any:
    return [" ".join(step.data.argv) if isinstance(step.data, draft.Run) else f"{step.action} {step.target}" for step in made.steps]


def vol(**more: Any) -> Any:
    return {"name": "p/vol", "type": "volume", "volsize": "1G", **more}


NO_CHANGE = [
    ("nothing declared", [{"name": "p/a"}], {}),
    ("defaults by another spelling", [{"name": "p/a", "properties": {"atime": True, "recordsize": "128K", "quota": "none"}}], {}),
    ("volume", [vol(properties={"volblocksize": "16K"})], {}),
    ("volume size not in whole blocks", [vol(volsize="1073741820")], {}),
    ("thick volume", [vol(sparse=False)], {}),
    ("sparse volume", [vol(sparse=True)], {"p_vol": {"refreservation": ("0", "default")}}),
    ("refreservation=auto", [vol(properties={"refreservation": "auto"})], {}),
    ("encryption=on", [{"name": "p/a", "properties": {"encryption": True}}], {"p_a": {"encryption": ("aes-256-gcm", "-")}}),
    ("inherited", [{"name": "p/a", "properties": {"atime": False}}], {"p_a": {"atime": ("off", "inherited from p")}}),
    (
        "a volume of small blocks that was rounded for larger ones",
        [vol(volsize="1073750016")],
        {"p_vol": {"volsize": ("1073758208", "local"), "volblocksize": ("8192", "default"), "refreservation": ("1073758208", "local")}},
    ),
    (
        "key not loaded is a warning",
        [{"name": "p/a"}],
        {"p_a": {"mounted": ("no", "-"), "keystatus": ("unavailable", "-")}},
    ),
    (
        "noauto stays unmounted",
        [{"name": "p/a", "mountpoint_mode": "0750"}],
        {"p_a": {"mounted": ("no", "-"), "canmount": ("noauto", "local")}},
    ),
]


@pytest.mark.parametrize(("what", "raws", "changes"), NO_CHANGE, ids=[row[0] for row in NO_CHANGE])
def test_unchanged(what: str, raws: list[dict[str, Any]], changes: dict[str, Any]) -> None:
    made = planned(raws, found("p", "p/a", "p/vol", **changes))
    assert (made.sentences, made.refusals, made.diff) == ([], (), {"before": {}, "after": {}})


CHANGES = [
    (
        "equal changes are one command, parents first",
        [{"name": f"p/{name}", "properties": {"refquota": "2G", "quota": "1G"}} for name in ("b", "a/x", "a")],
        {},
        ["zfs set refquota=2G quota=1G p/a p/b p/a/x"],
    ),
    (
        "unlike changes are their own",
        [{"name": "p/a", "properties": {"atime": False}}, {"name": "p/b", "properties": {"quota": "1G"}}],
        {},
        ["zfs set atime=off p/a", "zfs set quota=1G p/b"],
    ),
    (
        "a child that would inherit the change of its parent keeps its declared value",
        [{"name": "p", "properties": {"atime": False}}, {"name": "p/a", "properties": {"atime": True}}],
        {},
        ["zfs set atime=off p", "zfs set atime=on p/a"],
    ),
    (
        "a child that inherits what is declared is not set too",
        [{"name": "p", "properties": {"compression": "lz4"}}, {"name": "p/a", "properties": {"compression": "lz4"}}],
        {},
        ["zfs set compression=lz4 p"],
    ),
    (
        "a quota is never inherited",
        [{"name": "p", "properties": {"quota": "1G"}}, {"name": "p/a", "properties": {"quota": "1G"}}],
        {},
        ["zfs set quota=1G p p/a"],
    ),
    (
        "a mountpoint follows its parent",
        [{"name": "p", "properties": {"mountpoint": "/srv"}}, {"name": "p/a", "properties": {"mountpoint": "/srv/a"}}],
        {},
        ["zfs set mountpoint=/srv p"],
    ),
    ("a volume grows", [vol(volsize="2G")], {}, ["zfs set volsize=2147483648 p/vol"]),
    ("a volume grows by whole blocks", [vol(volsize="1073741825")], {}, ["zfs set volsize=1073758208 p/vol"]),
    ("a volume becomes sparse", [vol(sparse=True)], {}, ["zfs set refreservation=none p/vol"]),
    ("a volume becomes thick", [vol(sparse=False)], {"p_vol": {"refreservation": ("0", "default")}}, ["zfs set refreservation=auto p/vol"]),
    ("what should be mounted is", [{"name": "p/a"}], {"p_a": {"mounted": ("no", "-")}}, ["zfs mount p/a"]),
    (
        "creation, with parents that are not declared",
        [{"name": "p/x/y", "properties": {"recordsize": "1M"}}, {"name": "p/x/volz", "type": "volume", "volsize": "100M", "sparse": True}],
        {},
        ["zfs create p/x", "zfs create -s -V 104857600 p/x/volz", "zfs create -o recordsize=1M p/x/y"],
    ),
    (
        "a new volume has whole blocks",
        [{"name": "p/v", "type": "volume", "volsize": "65537K", "properties": {"volblocksize": "8K"}}],
        {},
        ["zfs create -o volblocksize=8K -V 67117056 p/v"],
    ),
    (
        "owners come last",
        [{"name": "p/new", "mountpoint_owner": "nobody", "mountpoint_group": "users", "mountpoint_mode": "0750"}],
        {},
        ["zfs create p/new", "own p/new"],
    ),
]


@pytest.mark.parametrize(("what", "raws", "changes", "expected"), CHANGES, ids=[row[0] for row in CHANGES])
def test_changes(what: str, raws: list[dict[str, Any]], changes: dict[str, Any], expected: list[str]) -> None:
    made = planned(raws, found("p", "p/a", "p/b", "p/a/x", "p/vol", **changes))
    assert made.refusals == ()
    assert commands(made) == expected
    assert made.before.keys() == made.after.keys() != set()


def test_only_what_differs_of_a_directory_is_changed() -> None:
    have = found("p", "p/a", directory=model.Directory("/p/a", 0, 100, 0o777))
    made = planned([{"name": "p/a", "mountpoint_owner": "root", "mountpoint_group": "users", "mountpoint_mode": "0750"}], have)
    assert made.sentences == ["Give the mountpoint of p/a the mode 0750"]
    assert made.steps[0].data == draft.Own("p/a", None, None, 0o750)
    assert made.diff == {"before": {"p/a": {"mountpoint_mode": "0777"}}, "after": {"p/a": {"mountpoint_mode": "0750"}}}


REFUSALS = [
    (
        {"name": "p/vol"},
        "Refusing to turn the volume p/vol into a filesystem: ZFS never changes the type of a dataset. Declare it with type volume",
    ),
    (
        vol(properties={"volblocksize": "32K"}),
        (
            "Refusing to change volblocksize of p/vol from 16384 to 32K: ZFS fixes it when a dataset is created. Declare 16384, or create a"
            " new dataset and copy the data."
        ),
    ),
    ({"name": "p/a", "properties": {"encryption": True}}, "Refusing to change encryption of p/a from off to on: ZFS fixes it"),
    (
        vol(volsize="512M"),
        "Refusing to shrink volume p/vol from 1 GiB to 512 MiB: what lies beyond would be lost. Declare volsize: 1073741824, or create a",
    ),
    ({"name": "p/a", "properties": {"longname": True}}, "Refusing to set longname on p/a: a filesystem has no such property."),
    (
        {"name": "p/a", "properties": {"userquota@bob": "1G"}},
        "Dataset p/a: the user bob of userquota@bob does not exist on this host: create it first, or give its number.",
    ),
    (
        {"name": "p/a", "properties": {"projectquota@7": "1G"}},
        "Refusing to set projectquota@7 on p/a: its pool has no quotas of that kind, upgrade the pool or remove it from properties.",
    ),
    ({"name": "q/a"}, "Pool q does not exist: create it with zfs_pool, or import it with `zpool import q`, before its datasets."),
    (
        {"name": "p/a", "mountpoint_owner": "bob"},
        "Dataset p/a: the user bob does not exist on this host: create it first, or give its number.",
    ),
    ({"name": "p/a", "mountpoint_group": "bobs"}, "the group bobs does not exist on this host"),
    (
        {"name": "p/a", "properties": {"mountpoint": "none"}, "mountpoint_mode": "0750"},
        "Refusing to set the owner or mode of the mountpoint of p/a: it is not mounted (mountpoint=none, canmount=on).",
    ),
]


@pytest.mark.parametrize(("raw", "text"), REFUSALS)
def test_refusals(raw: dict[str, Any], text: str) -> None:
    made = planned([raw, {"name": "p/b", "properties": {"atime": False}}], found("p", "p/a", "p/b", "p/vol"))
    assert [text in refusal.reason for refusal in made.refusals] == [True]
    assert (made.changed, made.diff) == (False, {"before": {}, "after": {}})


def test_in_check_mode_the_pool_and_users_may_still_be_missing() -> None:
    made = planned([{"name": "q", "properties": {"atime": False}}, {"name": "q/a", "mountpoint_owner": "bob"}], {}, rehearsal=True)
    assert made.refusals == ()
    assert commands(made) == ["zfs set atime=off q", "zfs create q/a", "own q/a"]


def test_a_key_that_is_not_loaded_is_a_warning() -> None:
    made = planned([{"name": "p/a"}], found("p", "p/a", p_a={"mounted": ("no", "-"), "keystatus": ("unavailable", "-")}))
    assert made.warnings == ("p/a is not mounted because its key is not loaded: give it in encryption, or run `zfs load-key`.",)


def test_noop_of_any_number_is_one_process() -> None:
    names = [f"p/d{number}" for number in range(50)]
    rows = "".join(
        f"{name}\t{what}\t{text.format(name=name)}\t{source}\n" for name in ["p", *names] for what, (text, source) in FILESYSTEM.items()
    )
    runner = Answers({"zfs get": (0, rows, "")})
    wanted = declare.declare_datasets([{"name": name, "properties": {"atime": True, "recordsize": "128K"}} for name in names])
    keeper = apply.DatasetKeeper(runner, wanted, rehearsal=False)
    assert not keeper.plan().changed
    assert len(keeper.report()["datasets"]) == 50
    assert runner.count == 1


def test_a_thousand_datasets_with_many_snapshots_are_refused_in_seconds() -> None:
    names = [f"p/a{number % 10}/d{number}" for number in range(1000)]
    below = [model.Below(name, "filesystem", 1) for name in names]
    below += [model.Below(f"{name}@s{number}", "snapshot", 2) for name in names for number in range(20)]
    wanted = declare.declare_datasets([{"name": name, "state": "absent"} for name in names])
    began = time.process_time()
    made = plan.plan_datasets(wanted, model.Current(found("p", *names), below=tuple(below)), HOST, rehearsal=False)
    assert time.process_time() - began < 15
    assert [refusal.reason.count("the snapshot") for refusal in made.refusals] == [20] * 1000


def test_check_mode_works_before_zfs_is_installed() -> None:
    keeper = apply.DatasetKeeper(Answers(missing=["zfs"]), declare.declare_datasets([{"name": "p/a"}]), rehearsal=True)
    made = keeper.plan()
    assert (made.changed, made.warnings[0][:20]) == (True, "zfs is not installed")
    with pytest.raises(NoZfsError):
        apply.DatasetKeeper(Answers(missing=["zfs"]), declare.declare_datasets([{"name": "p/a"}]), rehearsal=False).plan()


def test_owners_of_any_number_cost_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: True)
    names = [f"p/d{number}" for number in range(5)]
    runner = Answers(
        {
            "zfs get -H -p": (1, "p\ttype\tfilesystem\t-\n", "".join(f"cannot open '{name}': dataset does not exist\n" for name in names)),
            "zfs get -H -o name,value mountpoint": (0, "".join(f"{name}\t{tmp_path}\n" for name in names), ""),
        }
    )
    keeper = apply.DatasetKeeper(
        runner, declare.declare_datasets([{"name": name, "mountpoint_mode": "0750"} for name in names]), rehearsal=False
    )
    keeper.plan().carry_out(keeper.do)
    assert [command.split()[1] for command in runner.ran] == ["get", "create", "create", "create", "create", "create", "get"]


STEPS = ["zfs set", "zfs create p/new", "zfs mount"]


@pytest.mark.parametrize("failing", STEPS)
def test_each_step_may_fail_and_the_rest_is_named(failing: str) -> None:
    """The next run, planned from what is there then, has exactly the steps that are left."""
    rows = {"p": FILESYSTEM, "p/a": FILESYSTEM, "p/b": {**FILESYSTEM, "mounted": ("no", "-")}}
    text = "".join(
        f"{name}\t{what}\t{value.format(name=name)}\t{source}\n" for name, row in rows.items() for what, (value, source) in row.items()
    )
    runner = Answers({"zfs get": (1, text, "cannot open 'p/new': dataset does not exist\n"), failing: (1, "", "out of space")})
    wanted = declare.declare_datasets([{"name": "p/a", "properties": {"atime": False}}, {"name": "p/new"}, {"name": "p/b"}])
    keeper = apply.DatasetKeeper(runner, wanted, rehearsal=False)
    made = keeper.plan()
    assert [step.action for step in made.steps] == ["set", "create", "mount"]
    with pytest.raises(StepFailed) as caught:
        made.carry_out(keeper.do)
    position = STEPS.index(failing)
    assert (len(caught.value.done), len(caught.value.left)) == (position, 2 - position)
    assert "out of space" in str(caught.value)


def test_a_directory_gets_its_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = apply.DatasetKeeper(Answers({"zfs get": (0, f"p/a\t{tmp_path}\n", "")}), [], rehearsal=False)
    step = Step("own", "p/a", "", draft.Own("p/a", None, None, 0o750))
    with pytest.raises(StackError, match=f"p/a is not mounted on {tmp_path}"):
        keeper.do(step)
    monkeypatch.setattr(os.path, "ismount", lambda path: True)
    keeper.do(step)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750


def test_a_volume_whose_device_does_not_come(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="did not appear within 0 s: try `udevadm trigger`"):
        apply.await_link(str(tmp_path / "missing"), patience=0)


def test_owners_are_looked_up_by_name_or_number() -> None:
    names = {"userquota@root": "1G", "groupquota@4712": "1G", "userquota@no-such-user": "1G"}
    wanted = [{"name": "p/a", "mountpoint_owner": "no-such-user", "mountpoint_group": "4711", "properties": names}]
    host = read.read_host(declare.declare_datasets(wanted))
    assert (host.users, host.groups) == ({"root": 0}, {"4711": 4711, "4712": 4712})
