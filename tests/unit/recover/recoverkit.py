# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fleets, swarms and plans for the tests of recovery."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.model import (
    SERVER_LABEL,
    Action,
    Observed,
    Policy,
    Recovery,
    WorkerNode,
)
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.plan import plan_recovery
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.state import Notes
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.model import (
    MEANT_KEY,
    REPLACES_KEY,
    SLOT_KEY,
    Catalogue,
    Flavor,
    Fleet,
    FleetSpec,
    Image,
    Named,
    Server,
)
from fleetkit import wanted

NOW = 20000 * 86400.0 + 10 * 3600
HOUR = 3600.0
T4 = {"pci_passthrough:alias": "T4:1"}
OFFER = Catalogue(
    flavors=(Flavor("f-gpu", "GL10", 4, 16384, 0, T4),),
    images=(Image("i-new", "golden-2", "2026-02-01T00:00:00Z", 5),),
    networks=(Named("n-lan", "lan"),),
)
Z1, Z2 = "r1/z1/GL10/preemptible", "r1/z2/GL10/preemptible"


def server(slot: str = "gpu1", status: str = "ACTIVE", *, age: float = HOUR, regular: bool = False, **changes: Any) -> Server:
    """Return a server; its ID is the slot's name unless told otherwise."""
    made = Server(
        id=changes.pop("id", slot),
        name=slot,
        region="r1",
        status=status,
        tags=() if regular else ("preemptible",),
        metadata={SLOT_KEY: slot, MEANT_KEY: "false" if regular else "true", REPLACES_KEY: changes.pop("replaces", "")},
        created_at=NOW - age,
        launched_at=NOW - age,
        zone=changes.pop("zone", "z1"),
        flavor="GL10",
        specs=T4,
        volumes=("disk",),
    )
    return replace(made, **changes)


def node(of: str = "gpu1", **changes: Any) -> WorkerNode:
    """Return the node of a server."""
    labels = changes.pop("labels", {SERVER_LABEL: of})
    made = WorkerNode(f"node-{of}", changes.pop("hostname", of), gpus=1, engines=1, labels=labels)
    return replace(made, **changes)


def seen(*servers: Server, nodes: tuple[WorkerNode, ...] | None = None, **changes: Any) -> Observed:
    """Return what is seen; every running server is a whole node unless nodes are given."""
    if nodes is None:
        nodes = tuple(node(one.id, hostname=one.name) for one in servers if one.status == "ACTIVE")
    return Observed(Fleet(servers=servers, catalogues={"r1": OFFER}), nodes, replicas=len(servers), **changes)


def fleet(*names: str, **options: Any) -> FleetSpec:
    """Return a fleet of these servers; all may lose their disks, which cost nothing, unless told otherwise."""
    names = names or ("gpu1",)
    prices = {"currency": "RUB", "servers": [{"flavor": "GL10", "preemptible": 30.0, "regular": 100.0}]}
    given: dict[str, Any] = {"servers": [{"name": name} for name in names], "allow_data_loss": list(names), "prices": prices, **options}
    return wanted(**given)


def decide(
    observed: Observed, desired: FleetSpec | None = None, *, notes: Notes | None = None, now: float = NOW, **policy: Any
) -> Recovery:
    """Plan."""
    return plan_recovery(observed, desired=desired or fleet(), policy=Policy(**policy), notes=notes or Notes(), now=now)


def only(recovery: Recovery) -> Action:
    """Return the one action of a fleet of one."""
    (action,) = recovery.actions
    return action


def done(recovery: Recovery) -> dict[str, str]:
    """Return what is decided, by slot."""
    return {action.slot: action.do for action in recovery.actions}
