# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans of zfs_dataset and iscsi_target, killed after every step on real ZFS and LIO: the next run does the rest, no data changes.

The plans of zfs_pool are in test_storage_pool.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Iterator

import pytest
from labkit.lab import Lab
from labkit.modules import MODULES, program

pytestmark = pytest.mark.long

FOLDER = "/var/tmp/kill"
POOL = "wkill"
WWN = "iqn.2026-01.lab.wkill:test"
HOST = "iqn.2026-01.lab.wkill:host"
# More than any of these plans has steps.
MOST = 40

# Runs a module that is killed as soon as the first step of its plan was taken.
DRIVER = f"""
import os, runpy, signal, sys
from ansible_collections.selfhosted.llm_stack.plugins.module_utils import _plan

module, sys.argv = sys.argv[1], sys.argv[:1]
carry_out = _plan.Plan.carry_out

def cut(plan, do, undo=None):
    def one(step):
        do(step)
        with open("{FOLDER}/killed", "a") as log:
            log.write(step.sentence + "\\n")
        os.kill(os.getpid(), signal.SIGKILL)
    carry_out(plan, one, undo)

_plan.Plan.carry_out = cut
runpy.run_module(module, run_name="__main__")
"""


@dataclass
class Machine:
    """The storage host, with the modules on it."""

    lab: Lab
    name: str

    def on(self, command: str, *, stdin: str = "", check: bool = True) -> str:
        """Run a command line there."""
        return self.lab.ssh(self.name, command, stdin=stdin, check=check, seconds=600).strip()

    def run(self, module: str, options: dict[str, Any], *, killed: bool = False) -> dict[str, Any]:
        """Run a module; nothing comes back when it was killed."""
        start = f"python3 -W ignore driver.py {MODULES}.{module}" if killed else f"python3 -W ignore -m {MODULES}.{module}"
        # It ends well, with a failure that it tells, or by the kill.
        ended = "status=$?; test $status -le 1 || test $status = 137"
        said = self.on(f"cd {FOLDER}/program && {start}; {ended}", stdin=json.dumps({"ANSIBLE_MODULE_ARGS": options}))
        result = dict(json.loads(said)) if said else {}
        assert not result.get("failed"), result.get("msg")
        return result

    def converge(self, module: str, options: dict[str, Any]) -> list[str]:
        """Run until there is nothing to do, each run killed after its first step; the steps in order."""
        self.on(f"rm -f {FOLDER}/killed")
        for _attempt in range(MOST):
            result = self.run(module, options, killed=True)
            if result:
                assert (result["changed"], result["plan"]) == (False, [])
                return self.on(f"cat {FOLDER}/killed").splitlines()
        pytest.fail(f"{module} has not come to an end after {MOST} runs")


@pytest.fixture(scope="module")
def machine(lab: Lab, zfs_host: str) -> Iterator[Machine]:
    """A pool on a file, and nothing of it afterwards."""
    there = Machine(lab, zfs_host)
    there.on(
        f"zpool destroy -f {POOL} 2>/dev/null; rm -rf {FOLDER} && mkdir -p {FOLDER}/program && base64 -d | tar xz -C {FOLDER}/program",
        stdin=program(),
    )
    there.on(f"cat > {FOLDER}/program/driver.py", stdin=DRIVER)
    there.on(f"truncate -s 512M {FOLDER}/disk && zpool create -m /{POOL} {POOL} {FOLDER}/disk")
    yield there
    there.run("iscsi_target", offered({"wwn": WWN, "state": "absent", "confirm": WWN}))
    there.on(f"zpool destroy -f {POOL}; rm -rf {FOLDER}", check=False)


# --- datasets, one after another: each begins with what the one before left ---------------------------------------------------

SECRET, OTHER = "lab-only-passphrase", "lab-only-other-passphrase"
CREATED = [
    {"name": f"{POOL}/a", "properties": {"recordsize": "1M", "quota": "100M"}, "mountpoint_mode": "0750"},
    {"name": f"{POOL}/a/b", "properties": {"atime": False}},
    {"name": f"{POOL}/v", "type": "volume", "volsize": "16M", "sparse": True},
    {"name": f"{POOL}/e", "encryption": {"key": SECRET}},
]
DATASETS = {
    "create": CREATED,
    "set, inherit, purge and grow": [
        {"name": f"{POOL}/a", "purge": True, "properties": {"compression": "zstd-3", "userquota@root": "50M"}},
        {"name": f"{POOL}/a/b", "properties": {"atime": "inherit"}},
        {"name": f"{POOL}/v", "type": "volume", "volsize": "32M"},
    ],
    "snapshots, holds, bookmarks, clones, delegation": [
        {"name": f"{POOL}/a", "snapshots": [{"name": "s", "holds": ["keep"]}], "bookmarks": [{"name": "m", "snapshot": "s"}]},
        {"name": f"{POOL}/a/b", "delegations": [{"who": "user:nobody", "permissions": ["send"]}]},
        {"name": f"{POOL}/c", "origin": f"{POOL}/a@s"},
    ],
    "a new key, a new name": [
        {"name": f"{POOL}/e", "encryption": {"key": OTHER, "change": True}},
        {"name": f"{POOL}/n", "renamed_from": f"{POOL}/a/b", "properties": {"atime": False}},
    ],
}


@pytest.fixture(scope="module")
def data(machine: Machine) -> str:
    """Every dataset written to, once all were made; the checksums."""
    if machine.on(f"zfs list -H -o name {POOL}/v", check=False) == "":
        machine.run("zfs_dataset", {"datasets": CREATED})
    machine.on(f"for name in a a/b e; do head -c 1000000 /dev/urandom > /{POOL}/$name/data; done")
    machine.on(f"head -c 1000000 /dev/urandom | dd of=/dev/zvol/{POOL}/v conv=fsync status=none; sync")
    return checksums(machine)


def checksums(machine: Machine) -> str:
    """Of the files by their names alone, a dataset may have got another, and of what was written to the volume."""
    files = machine.on(f"find /{POOL} -name data -exec sha256sum {{}} + | cut -d' ' -f1 | sort -u")
    return files + machine.on(f"head -c 1000000 /dev/zvol/{POOL}/v | sha256sum")


def test_datasets_are_created_although_the_module_is_killed(machine: Machine) -> None:
    steps = machine.converge("zfs_dataset", {"datasets": DATASETS["create"]})
    assert len(steps) >= 4, steps


@pytest.mark.parametrize("what", list(DATASETS)[1:])
def test_datasets_are_changed_although_the_module_is_killed(machine: Machine, data: str, what: str) -> None:
    steps = machine.converge("zfs_dataset", {"datasets": DATASETS[what]})
    assert len(steps) >= 2, steps
    assert checksums(machine) == data
    assert [secret for secret in (SECRET, OTHER) if secret in " ".join(steps)] == []


# --- a target, likewise ---------------------------------------------------------------------------------------------------------


def lun(index: int, **changes: Any) -> dict[str, Any]:
    return {"lun": index, "name": f"wkill{index}", "plugin": "fileio", "device": f"{FOLDER}/{index}.img", "size": "16MiB", **changes}


def acl(host: str, **changes: Any) -> dict[str, Any]:
    return {"initiator": host, "userid": "host", "password": "lab-only-chap-secret", "mapped_luns": [{"lun": 0}], **changes}


def offered(target: dict[str, Any]) -> dict[str, Any]:
    return {"targets": [target], "save_file": f"{FOLDER}/saveconfig.json"}


FIRST = {"wwn": WWN, "portals": ["127.0.0.1:3267"], "luns": [lun(0), lun(1)], "acls": [acl(HOST)]}
SECOND = {
    **FIRST,
    "luns": [lun(0, attributes={"emulate_tpu": 1}), lun(1, size="24MiB"), lun(2)],
    "acls": [acl(HOST, password="lab-only-chap-other-1"), acl(f"{HOST}2", mapped_luns=[{"lun": 2}])],
    "attributes": {"login_timeout": 20},
}
GONE = {"wwn": WWN, "state": "absent", "confirm": WWN}


def test_a_target_is_made_changed_and_taken_away_although_the_module_is_killed(machine: Machine) -> None:
    serials = None
    for target in (FIRST, SECOND):
        steps = machine.converge("iscsi_target", offered(target))
        assert len(steps) >= 5, steps
        now = machine.run("iscsi_target", offered(target))["serials"]
        if serials is None:
            serials = now
            machine.on(f"echo kept | dd of={FOLDER}/0.img conv=notrunc status=none")
        assert {name: now[name] for name in serials} == serials, "initiators would see new disks"
    assert len(machine.converge("iscsi_target", offered(GONE))) >= 3
    assert machine.on(f"head -c 4 {FOLDER}/0.img") == "kept"
