# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab says when this host cannot run it: one sentence with the cause and the remedy."""

from __future__ import annotations

import sys
from collections import namedtuple
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "lab"))

from labkit import host
from labkit.config import GIB, Machine, Paths
from labkit.play import read
from labkit.say import LabError

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize("said", ["QEMU emulator version 7.2.18 (Debian 1:7.2)", "QEMU emulator version 6.1.0"])
def test_an_old_qemu_is_named_with_the_packages(said: str) -> None:
    with pytest.raises(LabError, match=r"QEMU \d\.\d is too old .* qemu-system-x86 and qemu-utils .*backports"):
        host._check_qemu(said)


@pytest.mark.parametrize("said", ["QEMU emulator version 8.2.2 (Debian 1:8.2.2+ds-0ubuntu1)", "QEMU emulator version 10.0.2"])
def test_a_new_enough_qemu_passes(said: str) -> None:
    host._check_qemu(said)


def test_a_missing_tool_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host.os, "geteuid", lambda: 0)
    monkeypatch.setattr(host.shutil, "which", lambda tool: None if tool == "mke2fs" else f"/bin/{tool}")
    with pytest.raises(LabError, match="mke2fs is missing: install the package e2fsprogs"):
        host.check(Paths(tmp_path), [], built=True)


def test_without_root_it_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host.os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="needs root: run it with sudo"):
        host.check(Paths(tmp_path), [], built=True)


def test_too_little_disk_is_told_with_both_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLM_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(host.shutil, "disk_usage", lambda _: Usage(9 * GIB, 8 * GIB, 1 * GIB))
    with pytest.raises(LabError, match=r"has 1\.0 GiB free and the lab needs 4: free some, or point LLM_LAB_CACHE"):
        host._check_disk(Paths(tmp_path), 4 * GIB)


def test_too_little_memory_is_told_with_both_figures() -> None:
    machines = [Machine("storage1", "10.77.0.11", "vm", memory=3072), Machine("gpu2", "10.77.0.32", "container")]
    host._check_memory(machines, f"MemAvailable: {5 * 1024 * 1024} kB\n")
    with pytest.raises(LabError, match=r"2\.0 GiB of memory is available and these machines need 4\.0"):
        host._check_memory(machines, f"MemAvailable: {2 * 1024 * 1024} kB\n")


def test_two_checkouts_have_labs_of_their_own(tmp_path: Path) -> None:
    one, other = Paths(tmp_path / "one"), Paths(tmp_path / "other")
    assert one.namespace != other.namespace
    assert one.run != other.run
    assert one.state != other.state


def test_two_commands_cannot_hold_one_lab(tmp_path: Path) -> None:
    with Paths(tmp_path).lock(), pytest.raises(LabError, match="Another command is starting or stopping"), Paths(tmp_path).lock():
        pass


def test_a_run_is_read_by_task_and_host() -> None:
    outcome = read(
        2,
        "TASK [selfhosted.llm_stack.storage_host : Create the pools] ****\nchanged: [storage1]\nok: [gpu1]\n"
        "TASK [Join] ***\nfatal: [gpu2]: FAILED! => {}\nPLAY RECAP ***\n"
        "storage1                   : ok=3    changed=1    unreachable=0    failed=0\ngpu2 : ok=1 changed=0 unreachable=0 failed=1\n",
    )
    assert outcome.changed == (("storage1", "selfhosted.llm_stack.storage_host : Create the pools"),)
    assert outcome.failed == (("gpu2", "Join"),)
    assert outcome.changes == 1
    assert outcome.recap["gpu2"]["failed"] == 1
