# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""zfs_dataset on real ZFS: first runs and runs without a change, quotas, keys, delegation, snapshots, clones, and what it refuses."""

from __future__ import annotations

import json
import subprocess
from typing import Any, Callable, Iterator

import pytest
from labkit import config
from labkit.artifacts import python
from labkit.config import REPO
from labkit.lab import Lab
from labkit.network import inside
from labkit.play import INVENTORY

pytestmark = pytest.mark.long

POOL = "wdata"
FOLDER = "/var/tmp/dataset"
PASSPHRASE = "lab-only-passphrase"
CHANGED = "lab-only-other-passphrase"
RAW = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHv8="


class Storage:
    """The module, run on one machine in a pool of its own."""

    def __init__(self, lab: Lab, machine: str) -> None:
        self.lab = lab
        self.machine = machine
        self.text = ""
        # What the lab's inventory does not declare is declared here; its variables hold for both.
        self.inventory = lab.paths.state / machine / "modules.json"
        host = {machine: {"ansible_host": config.machine(machine).address}}
        self.inventory.parent.mkdir(exist_ok=True)
        self.inventory.write_text(json.dumps({"storage_hosts": {"hosts": host}}))

    def keep(self, *datasets: dict[str, Any], options: tuple[str, ...] = ()) -> dict[str, Any]:
        """Run the module and return its result."""
        argv = [
            *inside(self.lab.paths),
            str(python().with_name("ansible")),
            "-i",
            str(INVENTORY),
            "-i",
            str(self.inventory),
            self.machine,
            *options,
        ]
        argv += ["-m", "selfhosted.llm_stack.zfs_dataset", "-a", json.dumps({"datasets": datasets})]
        environment = {**self.lab.environment(), "ANSIBLE_NOCOLOR": "1"}
        ended = subprocess.run(argv, cwd=REPO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        self.text = ended.stdout
        result = self.text.partition(f"{self.machine} | ")[2].partition("=> ")[2]
        assert result, self.text
        # The command says so before the result, and leaves it out there.
        return {**json.JSONDecoder().raw_decode(result)[0], "failed": f"{self.machine} | FAILED!" in self.text}

    def settle(self, *datasets: dict[str, Any], processes: int = 1) -> list[str]:
        """Run twice, the second time without a change and with so many commands; return the plan of the first run."""
        first = self.keep(*datasets)
        assert not first["failed"], first["msg"]
        second = self.keep(*datasets)
        assert not second["failed"], second["msg"]
        assert (second["changed"], second["plan"], second["processes"]) == (False, [], processes)
        return list(first["plan"])

    def refuse(self, *datasets: dict[str, Any]) -> str:
        """Return the reason of a refusal, which changed nothing."""
        before = self.zfs("list -H -t all -o name,used,guid -r", POOL)
        result = self.keep(*datasets)
        assert (result["failed"], result["changed"]) == (True, False)
        assert self.zfs("list -H -t all -o name,used,guid -r", POOL) == before
        return str(result["msg"])

    def zfs(self, *words: str) -> str:
        """Ask ZFS."""
        return self.lab.ssh(self.machine, "zfs " + " ".join(words)).strip()


@pytest.fixture(scope="module")
def storage(lab: Lab, zfs_host: str) -> Iterator[Storage]:
    """A pool on a file, with a key in another."""
    files = f"mkdir -p {FOLDER} && truncate -s 256M {FOLDER}/disk && printf %s {PASSPHRASE} > {FOLDER}/key"
    lab.ssh(zfs_host, f"{files} && zpool create -m /{POOL} {POOL} {FOLDER}/disk")
    yield Storage(lab, zfs_host)
    lab.ssh(zfs_host, f"zpool destroy -f {POOL} && rm -r {FOLDER}")


def test_a_first_run_and_a_run_without_a_change(storage: Storage) -> None:
    plain = [
        {"name": f"{POOL}/n/{number}", "properties": {"atime": False, "recordsize": "1M", "quota": "10M", "refquota": "none", "copies": 1}}
        for number in range(4)
    ]
    special: list[dict[str, Any]] = [
        {"name": f"{POOL}/v/thick", "type": "volume", "volsize": "8M", "properties": {"volblocksize": "16K", "org.x:note": "a b"}},
        {"name": f"{POOL}/v/thin", "type": "volume", "volsize": "16M", "sparse": True},
        {"name": f"{POOL}/owned", "mountpoint_owner": "nobody", "mountpoint_group": "4711", "mountpoint_mode": "0750"},
        {"name": f"{POOL}/cased", "properties": {"casesensitivity": "mixed", "normalization": "formD", "utf8only": True}},
    ]
    first = storage.keep(*plain, *special)
    assert first["processes"] == 1 + 10 + 1  # reading, eight datasets with two parents, and where those with an owner are mounted
    assert storage.settle(*plain, *special) == []


def test_values_are_changed_inherited_and_purged(storage: Storage) -> None:
    plan = storage.settle(
        {"name": f"{POOL}/n", "properties": {"compression": "zstd-3", "mountpoint": "/wdata-n"}},
        {"name": f"{POOL}/n/0", "properties": {"atime": "inherit", "compression": "zstd-3"}},
        {"name": f"{POOL}/n/1", "match": "local", "properties": {"compression": "zstd-3"}},
        {"name": f"{POOL}/n/2", "purge": True, "properties": {"quota": "20M"}},
        {"name": f"{POOL}/v/thick", "type": "volume", "volsize": "16M"},
    )
    # refquota is not among what is purged: set to none, it is at its default.
    assert [sentence.partition(" ")[0] for sentence in plan] == ["Set", "Set", "Set", "Inherit", "Inherit", "Inherit", "Grow"]
    assert storage.zfs("get -H -o source compression", f"{POOL}/n/1") == "local"
    assert storage.zfs("get -H -o value recordsize", f"{POOL}/n/2") == "128K"
    assert "Refusing to shrink volume wdata/v/thick from 16 MiB to 8 MiB" in storage.refuse(
        {"name": f"{POOL}/v/thick", "type": "volume", "volsize": "8M"}
    )
    assert "ZFS fixes it when a dataset is created" in storage.refuse(
        {"name": f"{POOL}/cased", "properties": {"casesensitivity": "insensitive", "atime": False}}
    )


def test_a_file_system_without_a_mountpoint_gets_one(storage: Storage) -> None:
    hidden = {"name": f"{POOL}/hidden", "properties": {"mountpoint": "none"}}
    storage.settle(hidden)
    storage.settle({**hidden, "properties": {"mountpoint": "/wdata-shown"}})
    assert storage.zfs("get -H -o value mounted", f"{POOL}/hidden") == "yes"


def test_quotas_by_name(storage: Storage) -> None:
    values = {"userquota@nobody": "10M", "groupquota@4711": "20M", "userobjquota@root": 1000, "projectquota@7": "none"}
    storage.settle({"name": f"{POOL}/quotas", "properties": values})
    storage.settle({"name": f"{POOL}/quotas", "properties": {**values, "userquota@nobody": "none"}})
    assert storage.zfs("get -Hp -o value userquota@nobody,groupquota@4711", f"{POOL}/quotas").split() == ["0", "20971520"]
    assert "the user nosuch of userquota@nosuch does not exist" in storage.refuse(
        {"name": f"{POOL}/quotas", "properties": {"userquota@nosuch": "1G"}}
    )


def test_keys_are_used_without_a_prompt_and_shown_nowhere(storage: Storage) -> None:
    secret = {"name": f"{POOL}/secret", "encryption": {"key": PASSPHRASE}}
    below = {"name": f"{POOL}/secret/below"}
    raw = {"name": f"{POOL}/raw", "encryption": {"key": RAW, "format": "raw"}}
    file = {"name": f"{POOL}/file", "encryption": {"file": f"{FOLDER}/key"}}
    created = storage.keep(secret, below, raw, file, options=("-vvv", "--diff"))
    assert created["changed"]
    assert "ESTABLISH SSH CONNECTION" in storage.text, "the run was not talkative enough for this test to mean anything"
    assert [word for word in (PASSPHRASE, RAW) if word in storage.text] == []
    assert storage.settle(secret, below, raw, file) == []
    away = [{"name": each, "encryption": {"loaded": False}} for each in (f"{POOL}/secret", f"{POOL}/raw", f"{POOL}/file")]
    storage.settle(*away, below)
    assert storage.zfs("get -H -o value keystatus", f"{POOL}/secret", f"{POOL}/raw", f"{POOL}/file").split() == ["unavailable"] * 3
    wrong = storage.keep({**secret, "encryption": {"key": CHANGED}})
    assert wrong["failed"]
    assert "Incorrect key" in wrong["msg"]
    storage.settle(secret, below, raw, file)
    assert storage.zfs("get -H -o value mounted", f"{POOL}/secret", f"{POOL}/secret/below").split() == ["yes", "yes"]


def test_keys_are_changed_when_asked(storage: Storage) -> None:
    name = f"{POOL}/secret"
    assert storage.settle({"name": name, "encryption": {"key": CHANGED, "change": True}}, processes=2) == [
        f"Change the key of {name} to the declared one"
    ]
    assert "the declared passphrase key does not open it" in storage.refuse({"name": name, "encryption": {"file": f"{FOLDER}/key"}})
    storage.settle({"name": name, "encryption": {"file": f"{FOLDER}/key", "change": True}}, processes=2)
    assert storage.zfs("get -H -o value keylocation", name) == f"file://{FOLDER}/key"
    storage.settle({"name": name, "encryption": {"key": RAW, "format": "raw", "change": True}}, processes=2)
    assert storage.zfs("get -H -o value keyformat", name) == "raw"


def test_delegations(storage: Storage) -> None:
    grants: list[dict[str, Any]] = [
        {"who": "user:nobody", "permissions": ["send", "snapshot"]},
        {"who": "user:4711", "permissions": ["hold"], "scope": "descendent"},
        {"who": "everyone", "permissions": ["diff"], "scope": "local"},
        {"who": "@set", "permissions": ["create", "mount"]},
        {"who": "creator", "permissions": ["destroy"]},
    ]
    storage.settle({"name": f"{POOL}/granted", "delegations": grants}, processes=2)
    storage.settle({"name": f"{POOL}/granted", "delegations": [{**grant, "state": "absent"} for grant in grants[:3]]}, processes=2)
    assert "nobody" not in storage.zfs("allow", f"{POOL}/granted")
    assert "@set create,mount" in storage.zfs("allow", f"{POOL}/granted")


def test_snapshots_holds_bookmarks_clones_promotion_and_a_new_name(storage: Storage, on: Callable[..., str]) -> None:
    source: dict[str, Any] = {
        "name": f"{POOL}/source",
        "snapshots": [{"name": "s", "holds": ["keep"]}, {"name": "t"}],
        "bookmarks": [{"name": "b", "snapshot": "s"}],
    }
    clone = {"name": f"{POOL}/clone", "origin": f"{POOL}/source@t", "properties": {"atime": False}}
    assert len(storage.settle(source, clone, processes=2)) == 6
    on(storage.machine, f"echo precious > /{POOL}/clone/file")
    promoted = {**clone, "promote": True, "snapshots": [{"name": "t"}]}
    storage.settle(promoted)
    assert storage.zfs("get -H -o value origin", f"{POOL}/source") == f"{POOL}/clone@t"
    renamed = {"name": f"{POOL}/n/renamed", "renamed_from": f"{POOL}/clone", "properties": {"atime": False, "compression": "zstd-3"}}
    assert storage.settle(renamed) == [f"Rename {POOL}/clone to {POOL}/n/renamed, with all below it"]
    assert "precious" in on(storage.machine, "cat /wdata-n/renamed/file")


def test_a_rollback_loses_nothing_newer_unasked_and_is_done_once(storage: Storage, on: Callable[..., str]) -> None:
    dataset: dict[str, Any] = {"name": f"{POOL}/back", "snapshots": [{"name": "one"}]}
    storage.settle(dataset)
    on(storage.machine, f"echo new > /{POOL}/back/file && sync")
    storage.settle({**dataset, "snapshots": [{"name": "two"}], "bookmarks": [{"name": "mark", "snapshot": "two"}]})
    back: dict[str, Any] = {"name": f"{POOL}/back", "rollback": {"snapshot": "one"}}
    assert "two, #mark would be lost, being newer. List them in discard" in storage.refuse(back)
    assert len(storage.keep({**back, "rollback": {"snapshot": "one", "discard": ["two", "#mark"]}})["plan"]) == 4
    assert on(storage.machine, f"ls /{POOL}/back").split() == []
    on(storage.machine, f"echo later > /{POOL}/back/later && sync")
    again = storage.keep({**back, "rollback": {"snapshot": "one", "discard": ["two", "#mark"]}})
    assert not again["changed"]
    assert on(storage.machine, f"cat /{POOL}/back/later").strip() == "later"


def test_absent_is_refused_until_all_that_would_go_is_listed(storage: Storage) -> None:
    top, child, clone = f"{POOL}/gone", f"{POOL}/gone/child", f"{POOL}/heir"
    snapshots: list[dict[str, Any]] = [{"name": "s", "holds": ["keep"]}]
    storage.keep({"name": top, "snapshots": snapshots}, {"name": child}, {"name": clone, "origin": f"{top}@s"})
    reason = storage.refuse({"name": top, "state": "absent"})
    for each in (f"the filesystem {child}", f"the snapshot {top}@s", f"{clone}, a clone of {top}@s"):
        assert each in reason
    listed = {"name": top, "state": "absent", "snapshots": [{"name": "s", "state": "absent"}]}
    children = [{"name": each, "state": "absent"} for each in (child, clone)]
    assert f"there is the hold keep of {top}@s" in storage.refuse(listed, *children)
    listed["snapshots"] = [{"name": "s", "state": "absent", "release": ["keep"]}]
    result = storage.keep(listed, *children, options=("--diff", "--check"))
    assert [sentence.split()[0] for sentence in result["plan"]] == ["Release", "Destroy", "Destroy", "Destroy", "Destroy"]
    assert storage.settle(listed, *children)[-1].startswith(f"Destroy the file system {top}, which holds")
