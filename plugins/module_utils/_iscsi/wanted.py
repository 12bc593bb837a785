# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""iSCSI targets as declared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping

from .model import Acl, Discovery, Group, Portal, StoreKey


@dataclass(frozen=True)
class WantedLun:
    """A LUN and the device or file behind it.

    :param serial: pinned serial number, or empty: an existing one is kept, a new one is derived.
    :param size: bytes of a file; 0 for a device.
    :param attributes: of the backstore; only these are kept as declared.
    """

    index: int
    name: str
    device: str
    serial: str = ""
    plugin: str = "block"
    size: int = 0
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> StoreKey:
        """The backstore it wants."""
        return StoreKey(self.plugin, self.name)


@dataclass(frozen=True)
class WantedTarget:
    """One portal group of a target, as declared.

    :param allow_disconnect: LUN names, initiators and portals that may change although somebody is logged in.
    :param allow_remove: LUN names, initiators, portals and ``INITIATOR/INDEX`` that may be taken away.
    :param confirm: the name of the target again, without which it is not taken away.
    """

    wwn: str
    portals: tuple[Portal, ...] = ()
    luns: tuple[WantedLun, ...] = ()
    acls: tuple[Acl, ...] = ()
    authentication: bool = True
    tag: int = 1
    absent: bool = False
    extra_attributes: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    allow_disconnect: tuple[str, ...] = ()
    allow_remove: tuple[str, ...] = ()
    confirm: str = ""

    @property
    def group(self) -> Group:
        """What identifies it."""
        return Group(self.wwn, self.tag)

    @property
    def attributes(self) -> dict[str, str]:
        """Declared attributes, and those that keep strangers out: CHAP where declared, and no access without an ACL."""
        return {
            "authentication": str(int(self.authentication)),
            "generate_node_acls": "0",
            "cache_dynamic_acls": "0",
            "demo_mode_write_protect": "1",
            **self.extra_attributes,
        }


@dataclass(frozen=True)
class Wanted:
    """All that is declared.

    :param discovery: None leaves discovery as it is.
    """

    targets: tuple[WantedTarget, ...] = ()
    discovery: Discovery | None = None

    def group(self, group: Group) -> WantedTarget | None:
        """The declaration of a portal group."""
        return next((target for target in self.targets if target.group == group and not target.absent), None)
