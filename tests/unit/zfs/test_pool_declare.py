# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is declared has one form; what is wrong with it is in test_pool_bad_input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.pool import declare


def pool(**vdev: Any) -> Any:
    return declare.declare_pool({"name": "llm", "vdevs": [{"type": "mirror", "devices": ["/dev/a", "/dev/b"], **vdev}]})


@pytest.mark.parametrize(("kind", "plain"), [("raidz", "raidz1"), ("draid:2d:5c", "draid1:2d:5c"), ("raidz2", "raidz2")])
def test_kinds_have_one_form(kind: str, plain: str) -> None:
    assert pool(type=kind, devices=[f"/dev/{letter}" for letter in "abcde"]).vdevs[0].kind == plain


def test_a_slash_at_the_end_is_no_part_of_a_path() -> None:
    assert pool(type="mirror", devices=["/dev/a/", "/dev/b"]).vdevs[0].devices == ("/dev/a", "/dev/b")


def test_a_stripe_is_a_group_a_device() -> None:
    assert [vdev.devices for vdev in pool(type="stripe").vdevs] == [("/dev/a",), ("/dev/b",)]


def test_activities_come_in_the_order_that_works() -> None:
    assert declare.declare_pool({"name": "llm", "run": ["scrub", "initialize"]}).activities == ("initialize", "scrub")


def test_wipe_means_what_the_paths_lead_to_and_pending_counts_in_check_mode_only(tmp_path: Path) -> None:
    (tmp_path / "disk").touch()
    (tmp_path / "by-id").symlink_to("disk")
    given = {"name": "llm", "wipe": [str(tmp_path / "by-id")], "pending": ["/dev/x"], "allow_remove": [7]}
    guards = declare.declare_guards(given, rehearsal=True)
    assert (guards.wipe, guards.pending, guards.allow_remove) == ({str(tmp_path / "disk")}, {"/dev/x"}, ("7",))
    assert declare.declare_guards(given, rehearsal=False).pending == frozenset()
