# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known about iSCSI targets: the kernel's state, the saved file, and what is wanted."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping

DEFAULT_PORT = 3260
TPG_TAG = 1

# A dump is what rtslib's own dump() returns and saveconfig.json holds.
Dump = Dict[str, Any]


@dataclass(frozen=True)
class Portal:
    """An address a target listens on. IPv6 addresses carry brackets, as in configfs."""

    address: str
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"

    @property
    def is_wildcard(self) -> bool:
        """Whether it listens on every address of the host."""
        return ipaddress.ip_address(self.address.strip("[]")).is_unspecified


@dataclass(frozen=True)
class Chap:
    """Credentials of an initiator, and of the target towards it. Passwords never show in a repr."""

    userid: str = ""
    password: str = field(default="", repr=False)
    mutual_userid: str = ""
    mutual_password: str = field(default="", repr=False)


@dataclass(frozen=True)
class MappedLun:
    """A LUN of the target as one initiator sees it."""

    index: int
    lun: int
    write_protect: bool = False


@dataclass(frozen=True)
class Acl:
    """An initiator that may log in."""

    initiator: str
    chap: Chap = Chap()
    mapped: tuple[MappedLun, ...] = ()


@dataclass(frozen=True)
class Backstore:
    """A storage object of the kernel."""

    plugin: str
    name: str
    device: str
    serial: str


@dataclass(frozen=True)
class Tpg:
    """A portal group as the kernel has it.

    :param luns: index to plugin and name of the backstore behind it.
    """

    tag: int
    enabled: bool
    attributes: Mapping[str, Any]
    luns: Mapping[int, tuple[str, str]]
    portals: tuple[Portal, ...]
    acls: tuple[Acl, ...]


@dataclass(frozen=True)
class Device:
    """A path a LUN is to serve.

    :param real: the path with links resolved: two names of one device have the same.
    :param busy: something else holds it open exclusively (a mount, a pool, a target).
    """

    path: str
    exists: bool
    is_block: bool = True
    real: str = ""
    busy: bool = False


@dataclass(frozen=True)
class State:
    """The kernel's iSCSI configuration, the saved file, and the devices the wanted LUNs name.

    :param real: real paths of the devices that backstores serve, by the path the kernel was given.
    """

    backstores: tuple[Backstore, ...] = ()
    targets: Mapping[str, tuple[Tpg, ...]] = field(default_factory=dict)
    devices: Mapping[str, Device] = field(default_factory=dict)
    real: Mapping[str, str] = field(default_factory=dict)
    dump: Dump = field(default_factory=dict)
    saved: Dump | None = None


@dataclass(frozen=True)
class WantedLun:
    """A LUN and the block device behind it.

    :param serial: pinned serial number, or empty: an existing one is kept, a new one is derived.
    """

    index: int
    name: str
    device: str
    serial: str = ""


@dataclass(frozen=True)
class WantedTarget:
    """A target as declared."""

    wwn: str
    portals: tuple[Portal, ...]
    luns: tuple[WantedLun, ...]
    acls: tuple[Acl, ...]
    authentication: bool = True

    @property
    def attributes(self) -> dict[str, int]:
        """Attributes that keep strangers out: CHAP where declared, and no access without an ACL."""
        return {
            "authentication": int(self.authentication),
            "generate_node_acls": 0,
            "cache_dynamic_acls": 0,
            "demo_mode_write_protect": 1,
        }


@dataclass(frozen=True)
class Guards:
    """What the planner may accept.

    :param check_mode: nothing will be done, so a volume an earlier task would create may be missing.
    :param pending: devices an earlier task of this run will create; None when nothing is known about them.
    :param save_file: where the configuration is saved.
    """

    check_mode: bool = False
    pending: tuple[str, ...] | None = None
    save_file: str = ""
