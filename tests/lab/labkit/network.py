# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's network: a namespace with a bridge and no way out."""

from __future__ import annotations

from pathlib import Path

from .config import GATEWAY, PREFIX, Paths
from .process import run


def _exists(namespace: str) -> bool:
    return Path("/run/netns", namespace).exists()


def inside(paths: Paths) -> list[str]:
    """The command prefix that runs something inside the lab's network."""
    return ["ip", "netns", "exec", paths.namespace]


def create(paths: Paths) -> None:
    """Make the namespace and its bridge, unless they are there; what an interrupted run left is made anew."""
    ip = ["ip", "-n", paths.namespace]
    if _exists(paths.namespace) and run([*ip, "-o", "link", "show", "br0", "up"], check=False).stdout:
        return
    destroy(paths)
    run(["ip", "netns", "add", paths.namespace])
    run([*ip, "link", "set", "lo", "up"])
    # An address of its own: a bridge takes the lowest of its ports, and when that port goes, whoever knew the bridge by it waits.
    run([*ip, "link", "add", "br0", "address", "02:4c:4c:4d:00:01", "type", "bridge", "forward_delay", "0"])
    run([*ip, "address", "add", f"{GATEWAY}/{PREFIX}", "dev", "br0"])
    run([*ip, "link", "set", "br0", "up"])


def destroy(paths: Paths) -> None:
    """Remove the namespace with all that is in it."""
    if _exists(paths.namespace):
        run(["ip", "netns", "delete", paths.namespace])


def add_tap(paths: Paths, name: str) -> None:
    """A tap device on the bridge for a virtual machine."""
    ip = ["ip", "-n", paths.namespace]
    run([*ip, "link", "delete", name], check=False)
    run([*ip, "tuntap", "add", "dev", name, "mode", "tap"])
    run([*ip, "link", "set", name, "master", "br0", "up"])


def machine_namespace(paths: Paths, name: str) -> str:
    """The network namespace of a container machine."""
    return f"{paths.namespace}-{name}"


def add_namespace(paths: Paths, name: str, address: str) -> str:
    """A namespace for a container machine, joined to the bridge by a veth pair; returns its path."""
    namespace = machine_namespace(paths, name)
    remove_namespace(paths, name)
    run(["ip", "netns", "add", namespace])
    # The kernel frees the pair of a deleted namespace a little later: a stale end would keep the name.
    run(["ip", "-n", paths.namespace, "link", "delete", name], check=False)
    run(["ip", "-n", paths.namespace, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", namespace])
    run(["ip", "-n", paths.namespace, "link", "set", name, "master", "br0", "up"])
    run(["ip", "-n", namespace, "link", "set", "lo", "up"])
    # A server keeps its port when it is made anew: with another address its neighbours would look for the old one for most of a minute.
    hardware = ":".join(("02", "00", *(f"{int(part):02x}" for part in address.split("."))))
    run(["ip", "-n", namespace, "address", "add", f"{address}/{PREFIX}", "dev", "eth0"])
    run(["ip", "-n", namespace, "link", "set", "eth0", "address", hardware, "up"])
    run(["ip", "-n", namespace, "route", "add", "default", "via", GATEWAY])
    return f"/run/netns/{namespace}"


def remove_namespace(paths: Paths, name: str) -> None:
    """Remove a container machine's namespace."""
    namespace = machine_namespace(paths, name)
    if _exists(namespace):
        run(["ip", "netns", "delete", namespace])
