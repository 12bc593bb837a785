# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a manager knows of workers and engines, as plain data that travels between hosts."""

from __future__ import annotations

from typing import Any, Iterable, Mapping, Protocol

from .._swarm.client import EngineError, SdkApi, sdk
from .._swarm.read import parse_node
from .model import SERVER_LABEL, WorkerNode

ENGINE = "llm_engine"
_NOT_FOUND = 404


class Swarm(Protocol):
    """What is needed of a manager's engine."""

    def nodes(self) -> list[dict[str, Any]]: ...

    def service(self, service_id: str) -> dict[str, Any]: ...

    def tasks(self, node_ids: list[str]) -> list[dict[str, Any]]: ...


def connect() -> Swarm:
    """Connect to the engine of this host, a manager."""
    return SdkApi(*sdk())


def look(api: Swarm) -> dict[str, Any]:
    """Return the workers with the engines on them, and how many engines there should be.

    :raises EngineError: this is no manager, or its swarm has no quorum.
    """
    raw = [found for found in api.nodes() if (found.get("Spec") or {}).get("Role") != "manager" or _gpus(found)]
    service, tasks = None, []
    try:
        service = api.service(ENGINE)
    except EngineError as error:
        if error.status != _NOT_FOUND:
            raise
    if service and raw:
        tasks = [one for one in api.tasks([node["ID"] for node in raw]) if one.get("ServiceID") == service["ID"] and is_running(one)]
    replicas = (((service or {}).get("Spec") or {}).get("Mode") or {}).get("Replicated") or {}
    return {
        "nodes": [_plain(node, tasks) for node in raw],
        "replicas": replicas.get("Replicas") if service else None,
        "gpus": sum(_gpus(node) for node in raw if _serves(node)),
    }


def _gpus(found: Mapping[str, Any]) -> int:
    return parse_node(dict(found)).gpus


def _serves(found: Mapping[str, Any]) -> bool:
    node = parse_node(dict(found))
    return node.state == "ready" and node.availability == "active"


def is_running(task: Mapping[str, Any]) -> bool:
    """Whether a task runs, and is to go on; one with a health check runs once it was found healthy."""
    return (task.get("Status") or {}).get("State") == "running" and task.get("DesiredState") == "running"


def addresses_of(task: Mapping[str, Any]) -> list[str]:
    """Return a task's addresses in its overlay networks."""
    attached = task.get("NetworksAttachments") or []
    return [str(address).partition("/")[0] for one in attached for address in one.get("Addresses") or []]


def _plain(found: dict[str, Any], tasks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    node = parse_node(found)
    mine = [task for task in tasks if task.get("NodeID") == node.id]
    return {
        "id": node.id,
        "hostname": node.hostname,
        "address": str((found.get("Status") or {}).get("Addr") or ""),
        "ready": node.state == "ready",
        "version": node.version,
        "availability": node.availability,
        "gpus": node.gpus,
        "labels": node.labels,
        "server": node.labels.get(SERVER_LABEL, ""),
        "engines": len(mine),
        "engine_addresses": [address for task in mine for address in addresses_of(task)],
    }


def worker_node(found: Mapping[str, Any]) -> WorkerNode:
    """Read a worker from plain data."""
    return WorkerNode(
        id=str(found["id"]),
        hostname=str(found["hostname"]),
        address=str(found["address"]),
        ready=bool(found["ready"]),
        availability=str(found["availability"]),
        gpus=int(found["gpus"]),
        engines=int(found["engines"]),
        labels={str(key): str(value) for key, value in (found.get("labels") or {}).items()},
    )
