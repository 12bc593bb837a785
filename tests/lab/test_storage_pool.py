# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""zfs_pool on real ZFS: its life from creation to destruction, what it refuses, and what a killed run leaves for the next."""

from __future__ import annotations

import json
import re
from typing import Any, Iterator

import pytest
from labkit.lab import Lab
from labkit.modules import program

pytestmark = pytest.mark.long

POOL = "wpool"
FOLDER = "/var/tmp/pool"
MODULE = "ansible_collections.selfhosted.llm_stack.plugins.modules.zfs_pool"
# Kills the module that started it as soon as the command it was told to has taken effect; anybody else's zpool is left alone.
KILLER = """#!/bin/sh
/usr/sbin/zpool "$@"; status=$?
case "$1" in create|add|attach|detach|replace|remove|set|online|offline|checkpoint)
  if [ -n "$LLM_KILL_AFTER" ]; then
    echo "$1" >> "$LLM_KILL_COUNT"
    [ "$(wc -l < "$LLM_KILL_COUNT")" -lt "$LLM_KILL_AFTER" ] || kill -9 "$PPID"
  fi
esac
exit $status
"""


def disk(letter: str) -> str:
    """A file that serves as a disk."""
    return f"{FOLDER}/{letter}"


def mirror(*letters: str, **more: Any) -> dict[str, Any]:
    """A mirror of files."""
    return {"type": "mirror", "devices": [disk(letter) for letter in letters], **more}


def single(use: str, letter: str) -> dict[str, Any]:
    """A vdev of one file."""
    return {"class": use, "devices": [disk(letter)]}


class Storage:
    """The module, run on the machine itself: what a connection costs is no matter here."""

    def __init__(self, lab: Lab, machine: str) -> None:
        self.lab = lab
        self.machine = machine

    def on(self, command: str, *, stdin: str = "", check: bool = True) -> str:
        """Run a command line on the machine."""
        return self.lab.ssh(self.machine, command, stdin=stdin, check=check, seconds=600).strip()

    def answer(self, *, kill_after: int = 0, name: str = POOL, **options: Any) -> str:
        """What the module prints; nothing when it is killed."""
        arguments = json.dumps({"ANSIBLE_MODULE_ARGS": {"name": name, **options}})
        environment = f"rm -f {FOLDER}/count; export LLM_KILL_AFTER={kill_after} LLM_KILL_COUNT={FOLDER}/count; " if kill_after else ""
        return self.on(f"{environment}cd {FOLDER}/program && python3 -m {MODULE}", stdin=arguments, check=False)

    def keep(self, **options: Any) -> dict[str, Any]:
        """Run the module; its result."""
        return dict(json.loads(self.answer(**options)))

    def settle(self, **options: Any) -> list[str]:
        """Run twice, the second time without a change and within three processes; the plan of the first run."""
        first = self.keep(wait=True, **options)
        assert not first.get("failed"), first["msg"]
        second = self.keep(**options)
        assert (second.get("msg", ""), second["changed"], second["plan"]) == ("", False, [])
        assert second["processes"] <= 3
        return list(first["plan"])

    def refuse(self, **options: Any) -> str:
        """The reason of a refusal, which changed nothing."""
        before = self.history()
        result = self.keep(**options)
        assert (result["failed"], result["changed"]) == (True, False)
        assert self.history() == before
        return str(result["msg"])

    def history(self) -> str:
        """Every command that ever changed the pool."""
        return self.on(f"zpool history {POOL} 2>&1 || true")

    def data(self) -> str:
        """Checksum of what was written to the pool."""
        return self.on(f"sha256sum /{POOL}/data").split()[0]


@pytest.fixture(scope="module")
def storage(lab: Lab, zfs_host: str) -> Iterator[Storage]:
    """Blank files for disks, the module beside them, and nothing of it afterwards."""
    machine = Storage(lab, zfs_host)
    machine.on(f"rm -rf {FOLDER} && mkdir -p {FOLDER}/program && base64 -d | tar xz -C {FOLDER}/program", stdin=program())
    machine.on("cat > /usr/local/sbin/zpool && chmod 755 /usr/local/sbin/zpool", stdin=KILLER)
    # ZFS keeps 128 MiB free when it removes a vdev: what stays must have more than that.
    machine.on(f"for letter in a b c d e f g h i j k l; do truncate -s 512M {FOLDER}/$letter; done")
    yield machine
    machine.on(f"rm -f /usr/local/sbin/zpool; zpool destroy -f {POOL} 2>/dev/null; rm -rf {FOLDER}", check=False)


@pytest.fixture
def pool(storage: Storage) -> Iterator[str]:
    """A pool of one mirror, a special mirror and a log, with data on it that no test may change."""
    result = storage.keep(vdevs=FIRST, properties={"ashift": 12}, wipe=[disk(letter) for letter in "abcde"])
    assert not result.get("failed"), result["msg"]
    storage.on(f"head -c 20000000 /dev/urandom > /{POOL}/data")
    before = storage.data()
    yield str(result["pool"]["guid"])
    assert storage.data() == before
    storage.on(
        f"zpool destroy -f {POOL}; for letter in a b c d e f g h i j k l; do rm {FOLDER}/$letter; truncate -s 512M {FOLDER}/$letter; done"
    )


FIRST = [mirror("a", "b"), mirror("c", "d", **{"class": "special"}), single("log", "e")]


def test_each_difference_is_one_command_and_then_none(storage: Storage, pool: str) -> None:
    assert storage.settle(vdevs=FIRST, properties={"ashift": 12}) == []
    third = [mirror("a", "b", "f"), *FIRST[1:]]
    assert storage.settle(vdevs=third) == [f"Attach {disk('f')} to data mirror-0 ({disk('a')}, {disk('b')}) of pool {POOL}"]
    assert "List it under vdevs, or name it in allow_remove" in storage.refuse(vdevs=FIRST)
    assert len(storage.settle(vdevs=FIRST, allow_remove=[disk("f")])) == 1
    swapped = [mirror("a", "g"), *FIRST[1:]]
    assert storage.settle(vdevs=swapped) == [f"Replace {disk('b')} by {disk('g')} in mirror-0 of pool {POOL}"]
    wider = [*swapped[:2], mirror("e", "h", **{"class": "log"}), single("spare", "i"), mirror("j", "k")]
    assert len(storage.settle(vdevs=wider, properties={"autotrim": True})) == 4
    fewer = [*swapped[:2], single("spare", "i")]
    removed = storage.settle(vdevs=fewer, allow_remove=["mirror-2", "mirror-3"])
    assert [sentence.split(" ")[0] for sentence in removed] == ["Remove", "Remove"]


def test_a_disk_that_carries_anything_is_taken_only_when_named(storage: Storage, pool: str) -> None:
    storage.on(f"mkswap {disk('f')}")
    for vdevs in ([mirror("a", "b", "f"), *FIRST[1:]], [mirror("a", "f"), *FIRST[1:]], [*FIRST, mirror("f", "g")]):
        assert re.search(rf"Refusing to take {disk('f')} into pool {POOL}: it (carries swap|is swap space)", storage.refuse(vdevs=vdevs))
    assert len(storage.settle(vdevs=[mirror("a", "b", "f"), *FIRST[1:]], wipe=[disk("f")])) == 2


def test_an_exported_pool_is_imported_and_never_created_over(storage: Storage, pool: str) -> None:
    storage.on(f"zpool export {POOL}")
    other = storage.keep(name="wpoolother", vdevs=FIRST, wipe=[disk(letter) for letter in "abcde"])
    assert (other["failed"], other["changed"]) == (True, False)
    assert f"hold the exported pool {POOL} (GUID {pool}), which would be lost" in other["msg"]
    assert storage.settle(vdevs=FIRST) == [f"Import pool {POOL} (GUID {pool})"]


def test_poor_health_is_told_and_is_no_difference(storage: Storage, pool: str) -> None:
    assert len(storage.settle(vdevs=FIRST, offline=[disk("b")])) == 1
    result = storage.keep(vdevs=FIRST)
    assert (result["changed"], result["pool"]["health"]) == (False, "DEGRADED")
    assert "survives the loss of 1, and 2 would be missing" in storage.refuse(vdevs=FIRST, offline=[disk("a"), disk("b")])
    assert len(storage.settle(vdevs=FIRST, online=[disk("b")])) == 1
    scrubbed = storage.keep(run=["scrub"], wait=True)
    assert scrubbed["pool"]["activity"]["scrub"] == {"state": "finished", "percent": 100.0}


def test_a_blank_disk_in_the_place_of_a_lost_one_replaces_it(storage: Storage, pool: str) -> None:
    lost = disk("b")
    storage.on(f"zpool export {POOL} && rm {lost} && zpool import -d {FOLDER} {POOL}")
    assert (storage.keep(vdevs=FIRST)["changed"], storage.keep(vdevs=FIRST)["pool"]["health"]) == (False, "DEGRADED")
    storage.on(f"truncate -s 512M {lost}")
    (sentence,) = storage.settle(vdevs=FIRST)
    assert sentence.endswith(f"/{lost} by {lost} in mirror-0 of pool {POOL}")


KILLED = [
    {"vdevs": [mirror("a", "b", "f"), mirror("c", "d", "g", **{"class": "special"}), mirror("e", "h", **{"class": "log"})]},
    {"vdevs": [mirror("a", "f"), mirror("c", "g", **{"class": "special"}), single("log", "e")], "properties": {"autotrim": True}},
    {"vdevs": [*FIRST[:2], single("spare", "f"), mirror("g", "h")], "allow_remove": [disk("e")], "properties": {"comment": "models"}},
]


@pytest.mark.parametrize("options", KILLED)
def test_a_run_that_is_killed_after_any_step_is_finished_by_the_next(storage: Storage, pool: str, options: dict[str, Any]) -> None:
    """One step of the plan in each run; what each leaves is what the next goes on from."""
    steps = len(storage.keep(**options, _ansible_check_mode=True)["plan"])
    assert steps >= 3
    for left in range(steps, 0, -1):
        foreseen = storage.keep(**options, _ansible_check_mode=True)
        assert len(foreseen["plan"]) == left, foreseen
        assert storage.answer(kill_after=1, **options) == ""
        storage.on(f"zpool wait {POOL}")
    assert storage.settle(**options) == []


def test_a_pool_is_destroyed_only_when_its_guid_is_given(storage: Storage) -> None:
    guid = storage.keep(vdevs=FIRST)["pool"]["guid"]
    assert f"set confirm: {guid}, which is the GUID of this very pool." in storage.refuse(state="absent")
    assert "confirm is 1," in storage.refuse(state="absent", confirm="1")
    assert storage.keep(state="absent", confirm=guid)["changed"]
    again = storage.keep(state="absent", confirm=guid)
    assert (again["changed"], again["pool"]) == (False, None)
