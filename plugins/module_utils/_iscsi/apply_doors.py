# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps on targets, portal groups, portals and discovery."""

from __future__ import annotations

from typing import Any, Mapping

from .._errors import StackError
from .kernel import Kernel
from .model import Chap, Discovery, Group, Portal


def create_target(kernel: Kernel, wwn: str) -> None:
    """Create a target without portal groups."""
    kernel.undoing(kernel.target(wwn, mode="create").delete)


def delete_target(kernel: Kernel, wwn: str) -> None:
    """Remove a target that has no portal group any more."""
    kernel.target(wwn).delete()

    def back() -> None:
        kernel.target(wwn, mode="create")

    kernel.undoing(back)


def create_tpg(kernel: Kernel, data: tuple[Group, Mapping[str, str], Mapping[str, str], frozenset[str]]) -> None:
    """Create a portal group; the kernel leaves it disabled. An attribute nobody asked for may be missing in an older kernel."""
    group, attributes, parameters, required = data
    made = kernel.group(group, mode="create")
    kernel.undoing(made.delete)
    present = set(made.list_attributes(writable=True))
    for name, value in attributes.items():
        if name in present or name in required:
            made.set_attribute(name, value)
    for name, value in parameters.items():
        made.set_parameter(name, value)


def delete_tpg(kernel: Kernel, group: Group) -> None:
    """Remove a closed portal group that holds nothing any more."""
    tpg = kernel.group(group)
    dump = tpg.dump()
    tpg.delete()
    kernel.undoing(lambda: kernel.restored(kernel.rtslib.TPG.setup, kernel.target(group.wwn), dump=dump))


def set_attribute(kernel: Kernel, data: tuple[Group, str, str]) -> None:
    """Set an attribute of a portal group."""
    group, name, value = data
    kernel.change(lambda: kernel.group(group).get_attribute(name), lambda value: kernel.group(group).set_attribute(name, value), value)


def set_parameter(kernel: Kernel, data: tuple[Group, str, str]) -> None:
    """Set what a portal group offers in negotiations; sessions keep what they agreed on."""
    group, name, value = data
    kernel.change(lambda: kernel.group(group).get_parameter(name), lambda value: kernel.group(group).set_parameter(name, value), value)


def create_portal(kernel: Kernel, data: tuple[Group, Portal]) -> None:
    """Listen on an address."""
    group, portal = data
    try:
        made = kernel.rtslib.NetworkPortal(kernel.group(group), portal.address, portal.port, mode="create")
    except kernel.rtslib.RTSLibError as error:
        raise StackError(f"{error}; the port has to be free on that address") from error
    kernel.undoing(made.delete)
    if portal.iser:
        made.iser = True


def delete_portal(kernel: Kernel, data: tuple[Group, Portal]) -> None:
    """Stop listening on an address."""
    group, portal = data
    made = kernel.rtslib.NetworkPortal(kernel.group(group), portal.address, portal.port, mode="lookup")
    dump = made.dump()
    made.delete()
    kernel.undoing(lambda: kernel.restored(kernel.rtslib.NetworkPortal.setup, kernel.group(group), dump=dump))


def set_iser(kernel: Kernel, data: tuple[Group, Portal]) -> None:
    """Offer iSER at a portal, or take it away."""
    group, portal = data
    node = kernel.rtslib.NetworkPortal(kernel.group(group), portal.address, portal.port, mode="lookup")
    _assign(kernel, node, "iser", portal.iser)


def enable(kernel: Kernel, group: Group) -> None:
    """Open a portal group."""
    _assign(kernel, kernel.group(group), "enable", True)


def close(kernel: Kernel, group: Group) -> None:
    """Close a portal group, before anything in it goes."""
    _assign(kernel, kernel.group(group), "enable", False)


def set_discovery(kernel: Kernel, want: Discovery) -> None:
    """Set who may ask for the list of targets: the credentials before they are enforced."""
    fabric = kernel.fabric()

    def read() -> Discovery:
        chap = (fabric.discovery_userid, fabric.discovery_password, fabric.discovery_mutual_userid, fabric.discovery_mutual_password)
        return Discovery(bool(fabric.discovery_enable_auth), Chap(*chap))

    def write(value: Discovery) -> None:
        if not value.enforced:
            fabric.discovery_enable_auth = False
        fabric.discovery_userid = value.chap.userid
        fabric.discovery_password = value.chap.password
        fabric.discovery_mutual_userid = value.chap.mutual_userid
        fabric.discovery_mutual_password = value.chap.mutual_password
        if value.enforced:
            fabric.discovery_enable_auth = True

    kernel.change(read, write, want)


def _assign(kernel: Kernel, node: Any, name: str, value: bool) -> None:
    kernel.change(lambda: getattr(node, name), lambda value: setattr(node, name, value), value)
