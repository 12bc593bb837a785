# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known about iSCSI targets: the kernel's state, the saved file, and the devices behind the disks."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, NamedTuple

DEFAULT_PORT = 3260
# What a diff shows instead of a password.
SECRET = "(secret)"  # noqa: S105

# A dump is what rtslib's own dump() returns and saveconfig.json holds.
Dump = Dict[str, Any]


class Group(NamedTuple):
    """A portal group by its target and tag."""

    wwn: str
    tag: int

    def __str__(self) -> str:
        return f"target {self.wwn}" if self.tag == 1 else f"target {self.wwn}, portal group {self.tag}"


class StoreKey(NamedTuple):
    """A backstore by the two names that the kernel knows it by."""

    plugin: str
    name: str

    @property
    def path(self) -> str:
        """How a dump refers to it."""
        return f"/backstores/{self.plugin}/{self.name}"


@dataclass(frozen=True)
class Portal:
    """An address a target listens on. IPv6 addresses carry brackets, as in configfs.

    :param iser: whether it also speaks iSCSI over RDMA; not part of its identity.
    """

    address: str
    port: int = DEFAULT_PORT
    iser: bool = field(default=False, compare=False)

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
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Backstore:
    """A storage object of the kernel.

    :param size: bytes of a file; 0 for a device, which has the size it has.
    """

    plugin: str
    name: str
    device: str
    serial: str
    size: int = 0
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> StoreKey:
        """What identifies it."""
        return StoreKey(self.plugin, self.name)


@dataclass(frozen=True)
class Tpg:
    """A portal group as the kernel has it.

    :param luns: index to the backstore behind it.
    """

    tag: int
    enabled: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    luns: Mapping[int, StoreKey] = field(default_factory=dict)
    portals: tuple[Portal, ...] = ()
    acls: tuple[Acl, ...] = ()

    def acl(self, initiator: str) -> Acl | None:
        """The entry of an initiator, if it has one."""
        return next((acl for acl in self.acls if acl.initiator == initiator), None)


@dataclass(frozen=True)
class Discovery:
    """Whether a host asks for credentials before it lists its targets, and which."""

    enforced: bool = False
    chap: Chap = Chap()


@dataclass(frozen=True)
class Device:
    """A path a LUN is to serve.

    :param real: the path with links resolved: two names of one device have the same.
    :param busy: something else holds it open exclusively (a mount, a pool, a target).
    :param size: bytes of a regular file.
    :param folder: whether the folder it lies in exists.
    """

    path: str
    exists: bool
    is_block: bool = True
    is_file: bool = False
    real: str = ""
    busy: bool = False
    size: int = 0
    folder: bool = True


@dataclass(frozen=True)
class State:
    """The kernel's iSCSI configuration, the saved file, and the devices the wanted LUNs name.

    :param real: real paths of the devices that backstores serve, by the path the kernel was given.
    :param uses: places where each backstore is offered, on any fabric; those of iSCSI as :class:`Group` and LUN index.
    :param sessions: initiators that are logged in.
    """

    backstores: tuple[Backstore, ...] = ()
    targets: Mapping[str, tuple[Tpg, ...]] = field(default_factory=dict)
    devices: Mapping[str, Device] = field(default_factory=dict)
    real: Mapping[str, str] = field(default_factory=dict)
    uses: Mapping[StoreKey, tuple[tuple[Group, int], ...]] = field(default_factory=dict)
    sessions: Mapping[Group, tuple[str, ...]] = field(default_factory=dict)
    discovery: Discovery = Discovery()
    dump: Dump = field(default_factory=dict)
    saved: Dump | None = None

    def group(self, group: Group) -> Tpg | None:
        """The portal group, if the kernel has it."""
        return next((tpg for tpg in self.targets.get(group.wwn, ()) if tpg.tag == group.tag), None)

    def store(self, name: str) -> Backstore | None:
        """The backstore of a name, whatever its kind."""
        return next((store for store in self.backstores if store.name == name), None)


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
