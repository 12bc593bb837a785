# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A target that is to go, with its backstores; never the data behind them."""

from __future__ import annotations

from .draft import Draft
from .model import Group, StoreKey, Tpg
from .parse import read_targets
from .plan_removals import drop_store, unmap
from .wanted import WantedTarget


def plan_absent(draft: Draft, want: WantedTarget) -> None:
    """Plan that a target goes: confirmed by its name, and with nobody logged in."""
    groups = draft.state.targets.get(want.wwn)
    saved = read_targets(draft.state.saved or {}).get(want.wwn)
    if groups is None and saved is None:
        return
    disks = _disks(groups, saved)
    if want.confirm != want.wwn:
        offers = f"it offers {', '.join(sorted(key.name for key in disks))}" if disks else "it is there"
        draft.refuse(want.wwn, f"Refusing to remove target {want.wwn}: {offers}. Set confirm to {want.wwn}; the data on its disks stays.")
        return
    for tpg in groups or ():
        _group(draft, want, tpg)
    if groups is not None:
        draft.add("delete_target", want.wwn, f"Remove target {want.wwn}", want.wwn)
        draft.differs(want.wwn, "state", "present", "absent")
    for key in sorted(disks):
        if draft.state.store(key.name) and not _wanted_elsewhere(draft, want, key):
            drop_store(draft, key)


def _group(draft: Draft, want: WantedTarget, tpg: Tpg) -> None:
    group = Group(want.wwn, tpg.tag)
    here = WantedTarget(want.wwn, tag=tpg.tag)
    live = draft.state.sessions.get(group, ())
    if live:
        draft.refuse(want.wwn, f"Refusing to remove {group}: {', '.join(live)} is logged in. Log it out first.")
        return
    if tpg.enabled:
        draft.add("close", want.wwn, f"Close {group}", group)
    for acl in tpg.acls:
        for entry in acl.mapped:
            unmap(draft, here, acl, entry)
        draft.add("delete_acl", acl.initiator, f"Admit {acl.initiator} to {group} no more", (group, acl.initiator))
    for index, key in sorted(tpg.luns.items()):
        draft.add("delete_lun", want.wwn, f"Withdraw LUN {index} ({key.name}) of {group}", (group, index))
    for portal in tpg.portals:
        draft.add("delete_portal", want.wwn, f"Stop listening on {portal} for {group}", (group, portal))
    draft.add("delete_tpg", want.wwn, f"Remove portal group {tpg.tag} of target {want.wwn}", group)


def _disks(groups: tuple[Tpg, ...] | None, saved: tuple[Tpg, ...] | None) -> set[StoreKey]:
    """Backstores behind the target; the saved ones too, because an interrupted run may have got as far as the target itself."""
    return {key for tpg in (*(groups or ()), *(saved or ())) for key in tpg.luns.values()}


def _wanted_elsewhere(draft: Draft, want: WantedTarget, key: StoreKey) -> bool:
    others = [group for group, _index in draft.users(key) if group.wwn != want.wwn]
    return bool(others) or any(lun.key == key for target in draft.wanted.targets for lun in target.luns)
