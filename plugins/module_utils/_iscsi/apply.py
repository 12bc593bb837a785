# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes the planner's steps through rtslib, in this process."""

from __future__ import annotations

from typing import Any, Callable, Mapping

from .._errors import StackError
from .._plan import Step
from .model import TPG_TAG, Backstore, Chap, MappedLun, Portal
from .read import read_dump, read_saved
from .saved import merge_saved, write_saved


class Applier:
    """One method a verb of the plan.

    :param rtslib: the library, whose errors become :class:`StackError`.
    :param root: its RTSRoot.
    """

    def __init__(self, rtslib: Any, root: Any, *, save_file: str) -> None:
        self.rtslib = rtslib
        self.root = root
        self.save_file = save_file

    def do(self, step: Step) -> None:
        """Take one step.

        :raises StackError: when the library or the kernel refuses it.
        """
        verbs: dict[str, Callable[[Any], None]] = {
            "create_target": self.create_target,
            "create_tpg": self.create_tpg,
            "set_attribute": self.set_attribute,
            "create_backstore": self.create_backstore,
            "create_lun": self.create_lun,
            "create_acl": self.create_acl,
            "set_chap": self.set_chap,
            "map_lun": self.map_lun,
            "set_write_protect": self.set_write_protect,
            "create_portal": self.create_portal,
            "enable": self.enable,
            "save": self.save,
        }
        try:
            verbs[step.action](step.data)
        except (self.rtslib.RTSLibError, OSError) as error:
            raise StackError(str(error)) from error

    def tpg(self, wwn: str, mode: str = "lookup") -> Any:
        target = self.rtslib.Target(self.rtslib.FabricModule("iscsi"), wwn, mode="lookup")
        return self.rtslib.TPG(target, TPG_TAG, mode=mode)

    def acl(self, wwn: str, initiator: str) -> Any:
        return self.rtslib.NodeACL(self.tpg(wwn), initiator, mode="lookup")

    def create_target(self, wwn: str) -> None:
        self.rtslib.Target(self.rtslib.FabricModule("iscsi"), wwn, mode="create")

    def create_tpg(self, data: tuple[str, Mapping[str, int]]) -> None:
        """Create a portal group; the kernel leaves it disabled."""
        wwn, attributes = data
        group = self.tpg(wwn, mode="create")
        present = set(group.list_attributes(writable=True))
        for name, value in attributes.items():
            if name in present:
                group.set_attribute(name, value)

    def set_attribute(self, data: tuple[str, str, int]) -> None:
        wwn, name, value = data
        self.tpg(wwn).set_attribute(name, value)

    def create_backstore(self, store: Backstore) -> None:
        self.rtslib.BlockStorageObject(store.name, dev=store.device, wwn=store.serial)

    def create_lun(self, data: tuple[str, int, str]) -> None:
        wwn, index, name = data
        store = self.rtslib.BlockStorageObject(name)
        self.rtslib.LUN(self.tpg(wwn), lun=index, storage_object=store)

    def create_acl(self, data: tuple[str, str]) -> None:
        wwn, initiator = data
        self.rtslib.NodeACL(self.tpg(wwn), initiator, mode="create")

    def set_chap(self, data: tuple[str, str, Chap]) -> None:
        wwn, initiator, chap = data
        acl = self.acl(wwn, initiator)
        acl.chap_userid = chap.userid
        acl.chap_password = chap.password
        acl.chap_mutual_userid = chap.mutual_userid
        acl.chap_mutual_password = chap.mutual_password

    def map_lun(self, data: tuple[str, str, MappedLun]) -> None:
        wwn, initiator, entry = data
        self.rtslib.MappedLUN(self.acl(wwn, initiator), entry.index, tpg_lun=entry.lun, write_protect=entry.write_protect)

    def set_write_protect(self, data: tuple[str, str, MappedLun]) -> None:
        wwn, initiator, entry = data
        self.rtslib.MappedLUN(self.acl(wwn, initiator), entry.index).write_protect = entry.write_protect

    def create_portal(self, data: tuple[str, Portal]) -> None:
        wwn, portal = data
        try:
            self.rtslib.NetworkPortal(self.tpg(wwn), portal.address, portal.port, mode="create")
        except self.rtslib.RTSLibError as error:
            raise StackError(f"{error}; the address must be one of this host's, and the port free") from error

    def enable(self, wwn: str) -> None:
        self.tpg(wwn).enable = True

    def save(self, wwns: tuple[str, ...]) -> None:
        """Save our part of what runs now; read again, because the steps before changed it."""
        self.root.invalidate_caches()
        config = merge_saved(read_saved(self.save_file), read_dump(self.rtslib, self.root), wwns)
        write_saved(self.save_file, config)
