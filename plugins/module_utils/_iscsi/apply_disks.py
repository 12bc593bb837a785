# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps on backstores, LUNs, initiators and what they see."""

from __future__ import annotations

import os
from typing import Mapping

from .kernel import Kernel
from .model import Backstore, Chap, Group, MappedLun, StoreKey


def create_backstore(kernel: Kernel, store: Backstore) -> None:
    """Put a backstore on a device, or on a file that is made where there is none."""
    given = {"dev": store.device, "wwn": store.serial}
    if store.plugin == "fileio":
        _lengthen(store.device, store.size)
        made = kernel.store_class(store.plugin)(store.name, size=store.size, **given)
    else:
        made = kernel.store_class(store.plugin)(store.name, **given)
    kernel.undoing(made.delete)
    known = set(made.list_attributes(writable=True))
    for name, value in store.attributes.items():
        if name in known and str(made.get_attribute(name)) != str(value):
            made.set_attribute(name, value)


def _lengthen(path: str, size: int) -> None:
    """Make a file as long as it is offered, without writing to it; it is never made shorter, and stays when the run fails."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(handle).st_size < size:
            os.ftruncate(handle, size)
            os.fsync(handle)
    finally:
        os.close(handle)


def delete_backstore(kernel: Kernel, key: StoreKey) -> None:
    """Let go of a device or file."""
    store = kernel.store(key)
    dump = store.dump()
    store.delete()
    kernel.undoing(lambda: kernel.restore_store(dump))


def set_store_attribute(kernel: Kernel, data: tuple[StoreKey, str, str]) -> None:
    """Set an attribute of a backstore."""
    key, name, value = data
    kernel.change(
        lambda: kernel.store(key).get_attribute(name),
        lambda value: kernel.store(key).set_attribute(name, value),
        value,
    )


def create_lun(kernel: Kernel, data: tuple[Group, int, StoreKey]) -> None:
    """Offer a backstore."""
    group, index, key = data
    made = kernel.rtslib.LUN(kernel.group(group), lun=index, storage_object=kernel.store(key))
    kernel.undoing(made.delete)


def delete_lun(kernel: Kernel, data: tuple[Group, int]) -> None:
    """Withdraw a LUN that nobody sees any more."""
    group, index = data
    lun = kernel.rtslib.LUN(kernel.group(group), index)
    dump = lun.dump()
    lun.delete()
    kernel.undoing(lambda: kernel.restored(kernel.rtslib.LUN.setup, kernel.group(group), dump=dump))


def create_acl(kernel: Kernel, data: tuple[Group, str, Mapping[str, str]]) -> None:
    """Admit an initiator, which sees nothing yet."""
    group, initiator, attributes = data
    made = kernel.acl(group, initiator, mode="create")
    kernel.undoing(made.delete)
    for name, value in attributes.items():
        made.set_attribute(name, value)


def delete_acl(kernel: Kernel, data: tuple[Group, str]) -> None:
    """Admit an initiator no more."""
    group, initiator = data
    acl = kernel.acl(group, initiator)
    dump = acl.dump()
    acl.delete()
    kernel.undoing(lambda: kernel.restored(kernel.rtslib.NodeACL.setup, kernel.group(group), dump=dump))


def set_node_attribute(kernel: Kernel, data: tuple[tuple[Group, str], str, str]) -> None:
    """Set an attribute of an initiator's entry."""
    (group, initiator), name, value = data
    kernel.change(
        lambda: kernel.acl(group, initiator).get_attribute(name),
        lambda value: kernel.acl(group, initiator).set_attribute(name, value),
        value,
    )


def set_chap(kernel: Kernel, data: tuple[Group, str, Chap]) -> None:
    """Set what an initiator, and the target towards it, has to prove."""
    group, initiator, chap = data

    def read() -> Chap:
        acl = kernel.acl(group, initiator)
        return Chap(acl.chap_userid, acl.chap_password, acl.chap_mutual_userid, acl.chap_mutual_password)

    def write(chap: Chap) -> None:
        acl = kernel.acl(group, initiator)
        acl.chap_userid = chap.userid
        acl.chap_password = chap.password
        acl.chap_mutual_userid = chap.mutual_userid
        acl.chap_mutual_password = chap.mutual_password

    kernel.change(read, write, chap)


def map_lun(kernel: Kernel, data: tuple[Group, str, MappedLun]) -> None:
    """Show a LUN to an initiator."""
    group, initiator, entry = data
    acl = kernel.acl(group, initiator)
    made = kernel.rtslib.MappedLUN(acl, entry.index, tpg_lun=entry.lun, write_protect=entry.write_protect)
    kernel.undoing(made.delete)


def unmap_lun(kernel: Kernel, data: tuple[Group, str, MappedLun]) -> None:
    """Take a LUN away from an initiator."""
    group, initiator, entry = data
    mapped = kernel.rtslib.MappedLUN(kernel.acl(group, initiator), entry.index)
    dump = mapped.dump()
    mapped.delete()

    def back() -> None:
        kernel.restored(kernel.rtslib.MappedLUN.setup, kernel.group(group), kernel.acl(group, initiator), dump=dump)

    kernel.undoing(back)


def set_write_protect(kernel: Kernel, data: tuple[Group, str, MappedLun]) -> None:
    """Let an initiator write, or only read."""
    group, initiator, entry = data
    mapped = kernel.rtslib.MappedLUN(kernel.acl(group, initiator), entry.index)

    def write(value: bool) -> None:
        mapped.write_protect = value

    kernel.change(lambda: mapped.write_protect, write, entry.write_protect)
