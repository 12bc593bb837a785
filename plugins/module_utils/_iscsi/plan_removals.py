# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is taken away: only what is named, and what has to be built anew. Data stays, always."""

from __future__ import annotations

from dataclasses import replace
from typing import Iterable

from .._zfs.values import show_size
from .draft import Draft
from .model import Acl, Backstore, MappedLun, StoreKey, Tpg
from .plan_disks import same_device
from .settings import same_setting
from .wanted import WantedLun, WantedTarget

# The kernel refuses to set these while a LUN offers the backstore (target_core_configfs.c, export_count).
_UNEXPORTED = frozenset({"block_size", "emulate_model_alias", "emulate_tas", "emulate_ua_intlck_ctrl", "pi_prot_type", "alua_support"})


def plan_removals(draft: Draft, want: WantedTarget) -> None:
    """Plan what goes before anything is added; ``draft.current`` holds the portal group as it will be."""
    draft.current[want.group] = draft.state.group(want.group) or Tpg(want.tag)
    _portals(draft, want)
    _initiators(draft, want)
    _mappings(draft, want)
    _luns(draft, want)
    for lun in want.luns:
        _rebuild(draft, want, lun)
    _orphans(draft, want)


def _portals(draft: Draft, want: WantedTarget) -> None:
    have = draft.current[want.group]
    for portal in have.portals:
        name = str(portal)
        if portal in want.portals or name not in want.allow_remove:
            continue
        if draft.disturbs(want, f"remove portal {name}", name, draft.state.sessions.get(want.group, ())):
            continue
        draft.add("delete_portal", want.wwn, f"Stop listening on {name} for {want.group}", (want.group, portal))
        draft.differs(want.group, f"portal {name}", "listening", None)
        here = draft.current[want.group]
        draft.current[want.group] = replace(here, portals=tuple(item for item in here.portals if item != portal))


def _initiators(draft: Draft, want: WantedTarget) -> None:
    declared = {acl.initiator for acl in want.acls}
    for acl in draft.current[want.group].acls:
        if acl.initiator in declared or acl.initiator not in want.allow_remove:
            continue
        live = {acl.initiator} & set(draft.state.sessions.get(want.group, ()))
        if draft.disturbs(want, f"remove initiator {acl.initiator}", acl.initiator, live):
            continue
        for entry in acl.mapped:
            unmap(draft, want, acl, entry)
        draft.add("delete_acl", acl.initiator, f"Admit {acl.initiator} to {want.group} no more", (want.group, acl.initiator))
        draft.differs(want.group, f"initiator {acl.initiator}", "admitted", None)
        here = draft.current[want.group]
        draft.current[want.group] = replace(here, acls=tuple(item for item in here.acls if item.initiator != acl.initiator))


def _mappings(draft: Draft, want: WantedTarget) -> None:
    for wanted in want.acls:
        acl = draft.current[want.group].acl(wanted.initiator)
        kept = {(entry.index, entry.lun) for entry in wanted.mapped}
        for entry in acl.mapped if acl else ():
            if acl is None or (entry.index, entry.lun) in kept or f"{acl.initiator}/{entry.index}" not in want.allow_remove:
                continue
            live = {acl.initiator} & set(draft.state.sessions.get(want.group, ()))
            if not draft.disturbs(want, f"remove mapped LUN {entry.index} of {acl.initiator}", acl.initiator, live):
                unmap(draft, want, acl, entry)


def unmap(draft: Draft, want: WantedTarget, acl: Acl, entry: MappedLun) -> None:
    """Plan that an initiator sees a LUN no more."""
    what = f"mapped LUN {entry.index} of {acl.initiator}"
    sentence = f"Take LUN {entry.index} away from {acl.initiator} at {want.group}"
    draft.add("unmap_lun", acl.initiator, sentence, (want.group, acl.initiator, entry))
    draft.differs(want.group, what, f"LUN {entry.lun}", None)
    here = draft.current.get(want.group)
    if here is not None:
        acls = (
            replace(item, mapped=tuple(found for found in item.mapped if found.index != entry.index))
            if item.initiator == acl.initiator
            else item
            for item in here.acls
        )
        draft.current[want.group] = replace(here, acls=tuple(acls))


def _luns(draft: Draft, want: WantedTarget) -> None:
    declared = {(lun.index, lun.name) for lun in want.luns}
    for index, key in sorted(draft.current[want.group].luns.items()):
        if (index, key.name) in declared or key.name not in want.allow_remove:
            continue
        if draft.disturbs(want, f"remove LUN {index} ({key.name})", key.name, draft.logged_in(want.group, index)):
            continue
        _withdraw(draft, want, index, key)
        elsewhere = [use for use in draft.users(key) if use != (want.group, index)]
        if not elsewhere and not _declared(draft, key):
            drop_store(draft, key)


def _withdraw(draft: Draft, want: WantedTarget, index: int, key: StoreKey) -> None:
    """Plan that a LUN goes, with all that shows it."""
    for acl in draft.current[want.group].acls:
        for entry in acl.mapped:
            if entry.lun == index:
                unmap(draft, want, acl, entry)
    draft.add("delete_lun", want.wwn, f"Withdraw LUN {index} ({key.name}) of {want.group}", (want.group, index))
    draft.differs(want.group, f"LUN {index}", key.name, None)
    here = draft.current[want.group]
    draft.current[want.group] = replace(here, luns={number: found for number, found in here.luns.items() if number != index})


def drop_store(draft: Draft, key: StoreKey) -> None:
    """Plan that a backstore goes; the device or file behind it stays as it is."""
    draft.gone.add(key)
    draft.add("delete_backstore", key.name, f"Let go of backstore {key.name}; its data stays", key)


def _declared(draft: Draft, key: StoreKey) -> bool:
    return any(lun.key == key for target in draft.wanted.targets for lun in target.luns)


def _orphans(draft: Draft, want: WantedTarget) -> None:
    """A backstore that an interrupted run, or somebody by hand, left without a LUN."""
    for store in draft.state.backstores:
        if (
            store.name in want.allow_remove
            and store.key not in draft.gone
            and not draft.users(store.key)
            and not _declared(draft, store.key)
        ):
            drop_store(draft, store.key)


def _rebuild(draft: Draft, want: WantedTarget, lun: WantedLun) -> None:
    """Plan the way to what can only be set while nobody sees the LUN: it goes here, and is created anew later in the plan."""
    have = draft.state.store(lun.name)
    if have is None or have.plugin != lun.plugin or have.key in draft.gone:
        return
    anew = _anew(draft, want, lun, have)
    hidden = [name for name in lun.attributes if name in _UNEXPORTED and not same_setting(have.attributes.get(name), lun.attributes[name])]
    if not anew and not (hidden and draft.users(have.key)):
        return
    if not _may_rebuild(draft, want, lun, have):
        draft.stuck.add(have.key)
        return
    for what, before, after in anew:
        draft.differs(want.group, f"{what} of {lun.name}", before, after)
    if draft.current[want.group].luns.get(lun.index) == have.key:
        _withdraw(draft, want, lun.index, have.key)
    if anew:
        drop_store(draft, have.key)


def _anew(draft: Draft, want: WantedTarget, lun: WantedLun, have: Backstore) -> list[tuple[str, str, str]]:
    """What differs that only a new backstore can have: what is allowed by name, and a file that grows."""
    found = []
    if not have.serial:
        found.append(("serial", "none", draft.serial(want, lun)))
    if lun.name in want.allow_remove and not same_device(draft, lun, have):
        found.append(("device", have.device, lun.device))
    if have.serial and lun.name in want.allow_remove and lun.serial and lun.serial.lower() != have.serial.lower():
        found.append(("serial", have.serial, lun.serial))
    if lun.size > have.size:
        found.append(("size", show_size(have.size), show_size(lun.size)))
    return found


def _may_rebuild(draft: Draft, want: WantedTarget, lun: WantedLun, have: Backstore) -> bool:
    where = f"LUN {lun.index} ({lun.name}) of {want.group}"
    for group, index in draft.users(have.key):
        if (group, index) != (want.group, lun.index):
            draft.refuse(
                lun.name,
                f"Refusing to build {where} anew: it is LUN {index} of {group} as well, and would be lost there. Withdraw it there first.",
            )
            return False
    declared = {(acl.initiator, entry.index) for acl in want.acls for entry in acl.mapped if entry.lun == lun.index}
    for name in _strangers(draft.current[want.group].acls, lun.index, declared):
        draft.refuse(
            lun.name,
            f"Refusing to build {where} anew: {name} sees it as well and is not declared, so it would lose it. Declare that, or name it in "
            "allow_remove.",
        )
        return False
    return not draft.disturbs(want, f"rebuild LUN {lun.index} ({lun.name})", lun.name, draft.logged_in(want.group, lun.index))


def _strangers(acls: Iterable[Acl], index: int, declared: set[tuple[str, int]]) -> list[str]:
    """Mappings of a LUN that are not declared, as allow_remove would name them."""
    seen = [(acl.initiator, entry.index) for acl in acls for entry in acl.mapped if entry.lun == index]
    return [f"{initiator}/{number}" for initiator, number in seen if (initiator, number) not in declared]
