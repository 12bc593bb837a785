# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Readers of datasets on recorded output.

How they were made is told in recorded/README.md.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import BadInput, CommandFailed
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.dataset import declare, model, plan, read
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.read import NoZfsError

sys.path.insert(0, str(Path(__file__).parent))
from zfs_answers import Answers

RECORDED = Path(__file__).parent / "recorded"
VERSIONS = ["2.1.11", "2.2.2", "2.3.9", "2.4.4"]
MISSING = (
    "cannot open 'wdata/nope': dataset does not exist\ncannot open 'wdata/a@nope': dataset does not exist\n"
    "cannot open 'wdata/a#nope': no such pool or dataset\n"
)


def recorded(name: str) -> str:
    return (RECORDED / f"{name}.txt").read_text()


def current(*raws: dict[str, Any], answers: Any) -> Any:
    return read.read_current(Answers(answers), declare.declare_datasets(list(raws)))


@pytest.mark.parametrize("version", VERSIONS)
def test_datasets_snapshots_and_bookmarks_are_read_together(version: str) -> None:
    found = read.read_datasets(Answers({"zfs get": (1, recorded(f"datasets-{version}"), MISSING)}), ["wdata"], ["type"])
    kinds = {name: each.kind for name, each in found.items()}
    assert kinds == {
        "wdata": "filesystem",
        "wdata/a": "filesystem",
        "wdata/a@s1": "snapshot",
        "wdata/a#b1": "bookmark",
        "wdata/c": "filesystem",
        "wdata/enc": "filesystem",
    }
    assert (found["wdata/a@s1"].text("clones"), found["wdata/a@s1"].text("userrefs")) == ("wdata/c", "2")
    assert found["wdata/a@s1"].text("guid") == found["wdata/a#b1"].text("guid")
    assert found["wdata/c"].text("origin") == "wdata/a@s1"
    assert (found["wdata/enc"].text("encryptionroot"), found["wdata/enc"].text("keylocation")) == ("wdata/enc", "prompt")
    assert found["wdata/a"].text("userquota@nobody") == "10485760"


@pytest.mark.parametrize("version", VERSIONS)
def test_defaults_are_no_difference_on_any_version(version: str) -> None:
    limits = {"quota": "none", "refquota": 0, "snapshot_limit": "none", "filesystem_limit": "none", "reservation": "none"}
    values = {"atime": True, "recordsize": "128K", "copies": 1, "casesensitivity": "sensitive", "utf8only": False, "normalization": "none"}
    entry = {"name": "wdata/a", "properties": {**limits, **values, "mountpoint": "/wdata/a", "acltype": "noacl", "xattr": True}}
    parent = recorded(f"all_properties-{version}").replace("wdata/a", "wdata")
    made = current(entry, answers={"zfs get": (0, parent + recorded(f"all_properties-{version}"), "")})
    planned = plan.plan_datasets(declare.declare_datasets([entry]), made, model.Host(), rehearsal=False)
    assert (planned.sentences, planned.refusals) == ([], ())


@pytest.mark.parametrize("version", VERSIONS)
def test_purge_of_a_plain_dataset_has_nothing_to_do_on_any_version(version: str) -> None:
    entry = {"name": "wdata/a", "purge": True}
    parent = recorded(f"all_properties-{version}").replace("wdata/a", "wdata")
    made = current(entry, answers={"zfs get": (0, parent + recorded(f"all_properties-{version}"), "")})
    planned = plan.plan_datasets(declare.declare_datasets([entry]), made, model.Host(), rehearsal=False)
    assert planned.sentences == []


@pytest.mark.parametrize("version", VERSIONS)
def test_permissions_of_a_dataset_and_its_parents(version: str) -> None:
    numbers = {"nobody": "65534", "users": "100"}
    grants = read.parse_allow(recorded(f"allow-{version}"), number=lambda kind, name: numbers[name])
    assert grants == {
        "wdata/a": {
            ("set", "@set1", "create"): frozenset(),
            ("set", "@set1", "mount"): frozenset(),
            ("creator", "", "destroy"): frozenset(),
            ("user", "4711", "create"): frozenset({"local"}),
            ("group", "100", "destroy"): frozenset({"descendent"}),
            ("group", "100", "mount"): frozenset({"descendent"}),
            ("user", "65534", "send"): model.BOTH,
            ("user", "65534", "snapshot"): model.BOTH,
            ("everyone", "", "mount"): model.BOTH,
        },
        "wdata": {("user", "65534", "@set1"): model.BOTH},
    }


@pytest.mark.parametrize(("version", "made"), list(zip(VERSIONS, [(8, 10, 14), (7, 9, 13), (13, 15, 19), (9, 10, 14)])))
def test_what_lies_below(version: str, made: tuple[int, int, int]) -> None:
    dataset, snapshot, clone = made
    assert read.parse_below(recorded(f"below-{version}")) == [
        model.Below("wdata/a", "filesystem", dataset),
        model.Below("wdata/a@s1", "snapshot", snapshot, ("wdata/c",), held=True),
        model.Below("wdata/a#b1", "bookmark", snapshot),
        model.Below("wdata/c", "filesystem", clone),
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_holds(version: str) -> None:
    assert read.parse_holds(recorded(f"holds-{version}")) == {"wdata/a@s1": frozenset({"keep", "keep2"})}


def test_a_mountpoint_is_compared_without_the_altroot_of_its_pool() -> None:
    rows = "p\ttype\tfilesystem\t-\np\tmountpoint\t/mnt/p\tdefault\np/a\ttype\tfilesystem\t-\np/a\tmountpoint\t/mnt/srv\tlocal\n"
    answers = {"zfs get": (0, rows, ""), "zpool get": (0, "p\t/mnt\n", "")}
    made = current({"name": "p/a", "properties": {"mountpoint": "/srv"}}, answers=answers)
    assert (made.found["p/a"].text("mountpoint"), made.found["p"].text("mountpoint")) == ("/srv", "/p")


def test_a_mountpoint_that_only_looks_like_one_below_an_altroot() -> None:
    rows = "p/a\ttype\tfilesystem\t-\np/a\tmountpoint\t/mnt/srv\tlocal\n"
    made = current(
        {"name": "p/a", "properties": {"mountpoint": "/srv"}}, answers={"zfs get": (0, rows, ""), "zpool get": (0, "p\t-\n", "")}
    )
    assert made.found["p/a"].text("mountpoint") == "/mnt/srv"


def test_names_of_a_list_are_asked_for_once_with_what_they_were_called_before() -> None:
    wanted = declare.declare_datasets(
        [
            {"name": "p/new", "renamed_from": "p/o/old", "snapshots": [{"name": "s"}]},
            {"name": "p/new/x", "bookmarks": [{"name": "b", "snapshot": "t"}]},
            {"name": "p/c", "origin": "p/z@u", "rollback": {"snapshot": "v"}},
        ]
    )
    names = read.names_of(wanted)
    assert len(names) == len(set(names))
    assert set(names) == {
        *("p", "p/c", "p/new", "p/new/x", "p/z", "p/o", "p/o/old", "p/o/old/x", "p/new@s", "p/o/old@s"),
        *("p/new/x#b", "p/new/x@t", "p/o/old/x#b", "p/o/old/x@t", "p/z@u", "p/c@v"),
    }


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (
            (2, "", "bad property list: invalid property 'recordsiz'\nusage: ..."),
            BadInput,
            "ZFS on this host knows no property 'recordsiz': correct its name under properties.",
        ),
        ((1, "", "cannot open 'a': I/O error\n"), CommandFailed, "I/O error"),
        ((1, "", "The ZFS modules cannot be auto-loaded.\n"), NoZfsError, "The ZFS kernel module cannot be loaded"),
    ],
)
def test_what_zfs_get_may_say(answer: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        read.read_datasets(Answers({"zfs get": answer}), ["a"], ["recordsiz"])


def test_a_key_that_cannot_be_read_is_no_key_that_does_not_fit() -> None:
    row = "p/e\t{}\t{}\t-\n"
    values = {"type": "filesystem", "encryptionroot": "p/e", "keyformat": "passphrase", "keylocation": "prompt", "keystatus": "available"}
    rows = "".join(row.format(*pair) for pair in values.items())
    entry = {"name": "p/e", "encryption": {"file": "/k"}}
    wrong = "Key load error: Incorrect key provided for 'p/e'.\n0 / 1 key(s) successfully verified\n"
    assert current(entry, answers={"zfs get": (0, rows, ""), "zfs load-key": (255, "", wrong)}).fitting == {"p/e": False}
    assert current(entry, answers={"zfs get": (0, rows, ""), "zfs load-key": (0, "", "")}).fitting == {"p/e": True}
    missing = "Key load error: Failed to open key material file: No such file or directory\n"
    assert current(entry, answers={"zfs get": (0, rows, ""), "zfs load-key": (255, "", missing)}).fitting == {}
    with pytest.raises(CommandFailed, match="Permission denied"):
        current(
            entry,
            answers={
                "zfs get": (0, rows, ""),
                "zfs load-key": (255, "", missing.replace("No such file or directory", "Permission denied")),
            },
        )
