# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run what the module zfs_pool runs, on pools that exist only in memory."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._plan import Plan
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.pool import apply
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.pool.advise import Host
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.pool.declare import declare_guards, declare_pool
from simulated_zpool import SimulatedZfs


def stand_in(monkeypatch: pytest.MonkeyPatch, zfs: SimulatedZfs) -> SimulatedZfs:
    """Let devices be those of the simulation; ``wipe`` then names kernel devices, as realpath would give them."""
    monkeypatch.setattr(apply, "probe", zfs.probe)
    monkeypatch.setattr(apply, "contents", zfs.contents)
    monkeypatch.setattr(apply, "clear", zfs.clear)
    monkeypatch.setattr(apply, "declared_aliases", zfs.declared)
    monkeypatch.setattr(apply, "member_aliases", zfs.member)
    monkeypatch.setattr(apply, "read_host", Host)
    monkeypatch.setattr(apply, "read_devices", lambda host, _pool: host)
    return zfs


def keeper(zfs: SimulatedZfs, options: dict[str, Any], *, rehearsal: bool = False) -> apply.PoolKeeper:
    """The module's keeper for these options."""
    given = {"name": "tank", **options, "wipe": [zfs.real(path) for path in options.get("wipe", ())]}
    manner = apply.Manner(rehearsal=rehearsal, absent=options.get("state") == "absent", wait=10 if options.get("wait") else 0)
    return apply.PoolKeeper(zfs, declare_pool(given), declare_guards(given, rehearsal=rehearsal), manner)


def run(zfs: SimulatedZfs, options: dict[str, Any]) -> list[str]:
    """Plan and carry out; the commands that changed something."""
    before = len(zfs.changes)
    keep = keeper(zfs, options)
    plan = keep.plan()
    plan.raise_if_refused()
    plan.carry_out(keep.do)
    keep.report()
    return zfs.changes[before:]


def plan(zfs: SimulatedZfs, options: dict[str, Any]) -> Plan:
    """Plan only."""
    return keeper(zfs, options, rehearsal=True).plan()
