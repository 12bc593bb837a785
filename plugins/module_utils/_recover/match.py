# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which node of the swarm is which server of the cloud. Pure."""

from __future__ import annotations

from typing import Iterable

from .._selectel.model import Server
from .model import SERVER_LABEL, WorkerNode


def node_of(server: Server, nodes: Iterable[WorkerNode], *, alone: bool) -> WorkerNode | None:
    """Return a server's node: by the label that names the server, by its address, or by its name.

    :param alone: whether the name is this server's alone; beside a predecessor it is not.
    """
    known = list(nodes)
    addresses = {one.address for one in server.addresses}
    labelled = [one for one in known if one.labels.get(SERVER_LABEL) == server.id]
    free = [one for one in known if not one.labels.get(SERVER_LABEL)]
    found = labelled or [one for one in free if one.address in addresses]
    if not found and alone:
        found = [one for one in free if one.hostname == server.name]
    # A machine that joined anew leaves its former self behind, down.
    return next(iter(sorted(found, key=lambda one: (not one.ready, one.id))), None)


def stale_nodes(nodes: Iterable[WorkerNode], *, servers: Iterable[Server]) -> tuple[WorkerNode, ...]:
    """Return the nodes that are down and whose server is gone for good: they were labelled with its ID."""
    alive = {server.id for server in servers}
    return tuple(one for one in nodes if not one.ready and one.labels.get(SERVER_LABEL) and one.labels[SERVER_LABEL] not in alive)
