# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backstores and LUNs of a target: created, compared, and their attributes kept."""

from __future__ import annotations

from .._zfs.values import show_size
from .draft import Draft
from .model import Backstore, Device, Tpg
from .settings import same_setting
from .wanted import WantedLun, WantedTarget


def plan_disk(draft: Draft, want: WantedTarget, lun: WantedLun) -> None:
    """Plan one LUN and what is behind it."""
    have = draft.store(lun.name)
    if have is not None and have.key in draft.stuck:
        return
    if have is None:
        _create(draft, want, lun)
    else:
        _compare(draft, want, lun, have)
    _offer(draft, want, lun, draft.current[want.group])


def _create(draft: Draft, want: WantedTarget, lun: WantedLun) -> None:
    if not _usable(draft, want, lun):
        return
    known = draft.previous(lun.key)
    # What was set by hand stays; the limits of another device would not fit.
    kept = known.attributes if known and known.device == lun.device else {}
    store = Backstore(lun.plugin, lun.name, lun.device, draft.serial(want, lun), lun.size, {**kept, **lun.attributes})
    draft.made[store.key] = store
    what = f"{lun.device} ({show_size(lun.size)})" if lun.size else lun.device
    draft.add("create_backstore", lun.name, f"Create backstore {lun.name} on {what} with serial {store.serial}", store)


def _compare(draft: Draft, want: WantedTarget, lun: WantedLun, have: Backstore) -> None:
    """Refuse what a removal would have had to be confirmed for, and keep the attributes."""
    where = f"LUN {lun.index} of {want.group}"
    if have.plugin != lun.plugin:
        draft.refuse(
            lun.name,
            f"Refusing to use backstore {lun.name} for {where}: it is a {have.plugin} backstore, not a {lun.plugin} one. "
            "Give the LUN another name.",
        )
        return
    if not same_device(draft, lun, have):
        draft.refuse(
            lun.name,
            f"Refusing to put {lun.device} behind {where}: backstore {lun.name} serves {have.device}, and exchanging a disk under an "
            f"initiator destroys its data. Declare that device, give the LUN another index and name, or, when {lun.device} holds the same "
            f"data, name {lun.name} in allow_remove.",
        )
    if lun.serial and lun.serial.lower() != have.serial.lower():
        draft.refuse(
            lun.name,
            f"Refusing to change the serial of {where} from {have.serial} to {lun.serial}: initiators would see another disk. "
            f"Declare the present serial, leave serial out, or name {lun.name} in allow_remove.",
        )
    if lun.size < have.size:
        draft.refuse(
            lun.name,
            f"Refusing to shrink {where} from {show_size(have.size)} to {show_size(lun.size)}: what is at its end would be cut off. "
            "Declare at least the present size.",
        )
    _attributes(draft, want, lun, have)


def same_device(draft: Draft, lun: WantedLun, have: Backstore) -> bool:
    """Whether a backstore serves the declared device, by whichever of its names."""
    device = draft.state.devices.get(lun.device)
    return have.device == lun.device or bool(device and device.real and draft.state.real.get(have.device) == device.real)


def _attributes(draft: Draft, want: WantedTarget, lun: WantedLun, have: Backstore) -> None:
    for name, value in lun.attributes.items():
        found = have.attributes.get(name)
        if found is None:
            draft.refuse(
                lun.name,
                f"Backstore {lun.name} of {want.group} has no attribute {name} that can be set: this kernel does not know it. Correct the "
                "name, or take it out.",
            )
        elif not same_setting(found, value) and not _disturbs(draft, want, lun, f"set {name} of LUN {lun.index} ({lun.name})"):
            sentence = f"Set {name} of backstore {lun.name} to {value}: it is {found}"
            draft.add("set_store_attribute", lun.name, sentence, (have.key, name, value))
            draft.differs(want.group, f"{name} of {lun.name}", found, value)


def _disturbs(draft: Draft, want: WantedTarget, lun: WantedLun, what: str) -> bool:
    if lun.key in draft.made:
        return False
    sessions = [name for group, index in draft.users(lun.key) for name in draft.logged_in(group, index)]
    return draft.disturbs(want, what, lun.name, set(sessions))


def _offer(draft: Draft, want: WantedTarget, lun: WantedLun, have: Tpg) -> None:
    store = have.luns.get(lun.index)
    if store is None:
        sentence = f"Offer {lun.name} as LUN {lun.index} of {want.group}"
        draft.add("create_lun", want.wwn, sentence, (want.group, lun.index, lun.key))
        draft.differs(want.group, f"LUN {lun.index}", None, f"{lun.name} on {lun.device}")
    elif store.name != lun.name:
        draft.refuse(
            want.wwn,
            f"Refusing to put {lun.name} at LUN {lun.index} of {want.group}: {store.name} is there, and initiators would find "
            f"another disk under it. Choose a free LUN, or name {store.name} in allow_remove.",
        )


def _usable(draft: Draft, want: WantedTarget, lun: WantedLun) -> bool:
    """Whether a new backstore can be put on what is declared."""
    device = draft.state.devices.get(lun.device, Device(lun.device, exists=False))
    where = f"LUN {lun.index} of {want.group}"
    twin = next((store for store in draft.made.values() if device.real and _real(draft, store.device) == device.real), None)
    if twin:
        same = f"is the same as {twin.device} behind {twin.name}: two disks for initiators that overwrite each other. Declare it once."
        draft.refuse(lun.device, f"{lun.device}, declared for {where}, {same}")
        return False
    if not device.exists:
        return _may_be_missing(draft, lun, device, where)
    holder = next((store.name for store in draft.state.backstores if _serves(draft, store, device)), None)
    reason = ""
    if holder:
        reason = f"is served by backstore {holder} already. Use that name for the LUN."
    elif lun.plugin == "fileio":
        reason = _unfit_file(lun, device)
    elif not device.is_block:
        reason = "is no block device. Name a volume or a disk."
    elif device.busy and lun.key not in draft.gone:
        reason = "is in use on this host: mounted, or part of a pool or another device. Free it, or name another device."
    if reason:
        draft.refuse(lun.device, f"{lun.device}, declared for {where}, {reason}")
    return not reason


def _unfit_file(lun: WantedLun, device: Device) -> str:
    if not device.is_file:
        return "is no regular file. Name a file, or a path where there is nothing yet."
    if device.size > lun.size:
        return (
            f"has {show_size(device.size)}, more than the declared {show_size(lun.size)}: what is at its end could not be reached. "
            "Declare at least its size."
        )
    return ""


def _real(draft: Draft, path: str) -> str:
    return draft.state.devices.get(path, Device(path, exists=False)).real


def _serves(draft: Draft, store: Backstore, device: Device) -> bool:
    return store.key not in draft.gone and bool(device.real) and draft.state.real.get(store.device) == device.real


def _may_be_missing(draft: Draft, lun: WantedLun, device: Device, where: str) -> bool:
    """A file is created in a folder that exists; a device has to exist, unless an earlier task would create it."""
    guards = draft.guards
    if lun.plugin == "fileio" and device.folder:
        return True
    if guards.check_mode and lun.device in (guards.pending or ()):
        return True
    if guards.check_mode and guards.pending is None and lun.device.startswith("/dev/zvol/"):
        draft.warn(f"{lun.device}, declared for {where}, does not exist yet; an earlier task has to create it.")
        return True
    lacks = "lies in a folder that does not exist. Create the folder" if lun.plugin == "fileio" else "does not exist. Create the volume"
    draft.refuse(lun.device, f"{lun.device}, declared for {where}, {lacks} first, or correct the path.")
    return False
