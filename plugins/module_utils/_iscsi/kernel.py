# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""rtslib's objects by the names the plan uses, and the way back from every change."""

from __future__ import annotations

from typing import Any, Callable, Mapping

from .._errors import StackError
from .model import Dump, Group, StoreKey

_FABRIC = "iscsi"


class Kernel:
    """The running configuration.

    :param rtslib: the library.
    :param root: its RTSRoot.
    """

    def __init__(self, rtslib: Any, root: Any) -> None:
        self.rtslib = rtslib
        self.root = root
        self._back: list[Callable[[], None]] = []

    def undoing(self, back: Callable[[], None]) -> None:
        """Note how to take back the change that was just made."""
        self._back.append(back)

    def roll_back(self) -> None:
        """Take back every change, the last one first.

        :raises StackError: with what could not be taken back; the rest is.
        """
        faults = []
        while self._back:
            try:
                self._back.pop()()
            except Exception as error:  # whatever one step back meets, the others are still to be taken
                faults.append(str(error))
        if faults:
            raise StackError("; ".join(faults))

    def fabric(self) -> Any:
        """The iSCSI part of the kernel."""
        return self.rtslib.FabricModule(_FABRIC)

    def target(self, wwn: str, mode: str = "lookup") -> Any:
        """A target."""
        return self.rtslib.Target(self.fabric(), wwn, mode=mode)

    def group(self, group: Group, mode: str = "lookup") -> Any:
        """A portal group."""
        return self.rtslib.TPG(self.target(group.wwn), group.tag, mode=mode)

    def acl(self, group: Group, initiator: str, mode: str = "lookup") -> Any:
        """The entry of an initiator."""
        return self.rtslib.NodeACL(self.group(group), initiator, mode=mode)

    def store(self, key: StoreKey) -> Any:
        """A backstore that exists."""
        return self.store_class(key.plugin)(key.name)

    def store_class(self, plugin: str) -> Any:
        """The class of a kind of backstore."""
        return self.rtslib.FileIOStorageObject if plugin == "fileio" else self.rtslib.BlockStorageObject

    def restored(self, restore: Callable[..., Any], *parents: Any, dump: Mapping[str, Any]) -> None:
        """Create a node again from its own dump, by the library's own way of restoring.

        :raises StackError: with everything that could not be restored.
        """
        faults: list[str] = []
        restore(*parents, dict(dump), faults.append)
        if faults:
            raise StackError("; ".join(faults))

    def restore_store(self, dump: Dump) -> None:
        """Create a backstore again, with the serial and the attributes that it had."""
        left_out = ("exists", "attributes", "plugin", "buffered_mode", "alua_tpgs", "parameters")
        given = {key: value for key, value in dump.items() if key not in left_out}
        store = self.store_class(dump["plugin"])(**given)
        for name, value in dump.get("attributes", {}).items():
            if str(store.get_attribute(name)) != str(value):
                store.set_attribute(name, value)

    def change(self, read: Callable[[], Any], write: Callable[[Any], None], value: Any) -> None:
        """Set a value, and note the one it had; noted first, because a write may fail half way."""
        had = read()
        self.undoing(lambda: write(had))
        write(value)
