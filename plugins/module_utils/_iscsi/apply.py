# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes the planner's steps through rtslib, in this process, and takes them back when one fails."""

from __future__ import annotations

from typing import Any, Callable, Mapping

from .._errors import StackError
from .._plan import Step
from . import apply_disks, apply_doors
from .kernel import Kernel
from .read import read_dump, read_saved
from .saved import Scope, merge_saved, write_saved

# One function a verb of the plan.
_VERBS: Mapping[str, Callable[[Kernel, Any], None]] = {
    "create_target": apply_doors.create_target,
    "create_tpg": apply_doors.create_tpg,
    "set_attribute": apply_doors.set_attribute,
    "set_parameter": apply_doors.set_parameter,
    "create_portal": apply_doors.create_portal,
    "set_iser": apply_doors.set_iser,
    "enable": apply_doors.enable,
    "close": apply_doors.close,
    "delete_portal": apply_doors.delete_portal,
    "delete_tpg": apply_doors.delete_tpg,
    "delete_target": apply_doors.delete_target,
    "set_discovery": apply_doors.set_discovery,
    "create_backstore": apply_disks.create_backstore,
    "set_store_attribute": apply_disks.set_store_attribute,
    "create_lun": apply_disks.create_lun,
    "create_acl": apply_disks.create_acl,
    "set_node_attribute": apply_disks.set_node_attribute,
    "set_chap": apply_disks.set_chap,
    "map_lun": apply_disks.map_lun,
    "set_write_protect": apply_disks.set_write_protect,
    "unmap_lun": apply_disks.unmap_lun,
    "delete_acl": apply_disks.delete_acl,
    "delete_lun": apply_disks.delete_lun,
    "delete_backstore": apply_disks.delete_backstore,
}


class Applier:
    """Takes steps, and remembers the way back.

    :param rtslib: the library, whose errors become :class:`StackError`.
    :param root: its RTSRoot.
    """

    def __init__(self, rtslib: Any, root: Any, *, save_file: str) -> None:
        self.kernel = Kernel(rtslib, root)
        self.save_file = save_file

    def do(self, step: Step) -> None:
        """Take one step.

        :raises StackError: when the library or the kernel refuses it.
        """
        try:
            if step.action == "save":
                self._save(step.data)
            else:
                _VERBS[step.action](self.kernel, step.data)
        except StackError:
            raise
        except Exception as error:  # rtslib lets errors of the kernel, of pyudev and of its own through, and all want the way back
            raise StackError(str(error) or type(error).__name__) from error

    def undo(self) -> None:
        """Take every step back that this applier took.

        :raises StackError: with what could not be taken back.
        """
        self.kernel.roll_back()

    def _save(self, scope: Scope) -> None:
        """Save our part of what runs now; read again, because the steps before changed it."""
        self.kernel.root.invalidate_caches()
        dump = read_dump(self.kernel.rtslib, self.kernel.root)
        write_saved(self.save_file, merge_saved(read_saved(self.save_file), dump, scope))
