# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a manager knows of its swarm, for Prometheus: nodes, GPUs, services, and the state that runs over the fleet share.

The engine's own metrics count tasks and nodes of the whole swarm and name none of them. Everything is read through a proxy that lets
nothing pass that could change anything.
"""

from __future__ import annotations

import http.client
import json
import os
import time
from datetime import datetime
from typing import Any, Iterable, Mapping
from urllib.parse import quote

from exposition import Metric, NotAnswered, Query, make_server, render

SECONDS = 10.0
# Services with their counts of tasks need 1.41, which Docker has since 20.10.
API = "/v1.41"
STATE = "llm-stack-state"
# Labels that tell what a server of a fleet is; a server that carries none is nobody's business here.
PREEMPTIBLE, ENDS = "llm-stack.preemptible", "llm-stack.ends"


def read(host: str, port: int, path: str) -> Any:
    """Return what the engine answers.

    :raises NotAnswered: the proxy or the engine behind it does not answer.
    """
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    try:
        connection.request("GET", API + path)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status == 200:
            return json.loads(body)
        why = f"it said {answer.status}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = str(error) or type(error).__name__
    finally:
        connection.close()
    raise NotAnswered(f"{path} cannot be read from {host}:{port}: {why}. Look at the log of the service socket_proxy.")


def node_metrics(nodes: list[Mapping[str, Any]]) -> list[Metric]:
    """Return what is known of the nodes."""
    up = Metric("swarm_node_up", "Whether a node is ready")
    active = Metric("swarm_node_active", "Whether a node takes tasks: it is neither drained nor paused")
    stale = Metric("swarm_node_stale", "Whether a node that is down has the host name of one that is up: its former self")
    gpus = Metric("swarm_node_gpus", "GPUs a node offers to the swarm")
    reachable = Metric("swarm_manager_reachable", "Whether a manager is reached by the others")
    preemptible = Metric("llm_fleet_server_preemptible", "Whether a server of the fleet is a preemptible one")
    ends = Metric("llm_fleet_server_ends_timestamp_seconds", "When the cloud takes a preemptible server back at the latest")
    ready = {name_of(node) for node in nodes if is_up(node)}
    for node in nodes:
        who = {"node_id": str(node.get("ID")), "node": name_of(node), "role": str(node.get("Spec", {}).get("Role"))}
        up.add(is_up(node), **who)
        active.add(node.get("Spec", {}).get("Availability") == "active", **who)
        stale.add(not is_up(node) and name_of(node) in ready, **who)
        gpus.add(gpus_of(node), **who)
        if node.get("ManagerStatus"):
            reachable.add(node["ManagerStatus"].get("Reachability") == "reachable", **who)
        labels = node.get("Spec", {}).get("Labels") or {}
        if labels.get(PREEMPTIBLE) in ("true", "false"):
            preemptible.add(labels[PREEMPTIBLE] == "true", **who)
        until = moment(labels.get(ENDS))
        if until is not None:
            ends.add(until, **who)
    return [up, active, stale, gpus, reachable, preemptible, ends]


def name_of(node: Mapping[str, Any]) -> str:
    """Return a node's host name."""
    return str((node.get("Description") or {}).get("Hostname", ""))


def is_up(node: Mapping[str, Any]) -> bool:
    """Whether the manager hears a node."""
    return bool((node.get("Status") or {}).get("State") == "ready")


def gpus_of(node: Mapping[str, Any]) -> int:
    """Return how many GPUs a node offers, by name or by number."""
    found = ((node.get("Description") or {}).get("Resources") or {}).get("GenericResources") or []
    named = [one["NamedResourceSpec"] for one in found if one.get("NamedResourceSpec", {}).get("Kind") == "GPU"]
    counted = [one["DiscreteResourceSpec"] for one in found if one.get("DiscreteResourceSpec", {}).get("Kind") == "GPU"]
    return len(named) + sum(int(one.get("Value", 0)) for one in counted)


def moment(text: Any) -> float | None:
    """Return the seconds since 1970 of a time such as ``2026-11-28T08:00:00Z``, or nothing."""
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None


def service_metrics(services: Iterable[Mapping[str, Any]]) -> list[Metric]:
    """Return how many tasks of each service run, and how many should."""
    running = Metric("swarm_service_tasks_running", "Tasks of a service that run")
    desired = Metric("swarm_service_tasks_desired", "Tasks of a service that should run")
    for service in services:
        name, status = str(service["Spec"]["Name"]), service.get("ServiceStatus") or {}
        running.add(int(status.get("RunningTasks", 0)), service=name)
        desired.add(int(status.get("DesiredTasks", 0)), service=name)
    return [running, desired]


def fleet_metrics(labels: Mapping[str, str], now: float) -> list[Metric]:
    """Return what the runs over the fleet left for each other; a part that is not there is left out.

    :raises NotAnswered: a label is not what those runs write.
    """
    try:
        found: dict[str, Any] = {key: json.loads(text) for key, text in labels.items() if key.startswith("llm-stack.")}
        return list(_fleet(found, now))
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise NotAnswered(
            f"The labels of the config {STATE} cannot be understood: {error!r}. See `docker config inspect {STATE}`."
        ) from error


def _fleet(found: Mapping[str, Any], now: float) -> Iterable[Metric]:
    lock = Metric("llm_fleet_lock_held", "Whether a run holds the lock of the fleet")
    lock.add(float((found.get("llm-stack.lock") or {"until": 0})["until"]) > now)
    ledger = found.get("llm-stack.ledger")
    spent, rate = (
        Metric("llm_fleet_cost_today", "What the fleet has cost today (UTC)"),
        Metric("llm_fleet_cost_hourly", "What runs now costs an hour"),
    )
    if ledger:
        rate.add(ledger["rate"])
        if int(ledger["day"]) == int(now // 86400):
            spent.add(float(ledger["closed"]) + float(ledger["bill"]))
    failed = Metric("llm_fleet_placement_failed", "Placements at which no server could be had a while ago, which are tried last")
    for key, entry in (found.get("llm-stack.memory") or {}).items():
        failed.add(float(entry["until"]) > now, placement=key)
    breaker = found.get("llm-stack.breaker") or {}
    opened = Metric("llm_fleet_breaker_open", "Placements that are left alone because servers there are interrupted too often")
    for key, until in (breaker.get("opened") or {}).items():
        opened.add(float(until) > now, placement=key)
    interrupted = Metric("llm_fleet_interruptions", "Interruptions of the last day that are remembered, by placement")
    places = [str(one[0]) for one in breaker.get("seen") or []]
    for place in sorted(set(places)):
        interrupted.add(places.count(place), placement=place)
    return [lock, spent, rate, failed, opened, interrupted]


def swarm(host: str, port: int, now: float) -> str:
    """Return all metrics.

    :raises NotAnswered: the swarm cannot be read.
    """
    nodes, services = read(host, port, "/nodes"), read(host, port, "/services?status=true")
    configs = read(host, port, "/configs?filters=" + quote(json.dumps({"name": [STATE]})))
    labels = next((one["Spec"].get("Labels") or {} for one in configs if one["Spec"]["Name"] == STATE), None)
    fleet = fleet_metrics(labels, now) if labels is not None else []
    return render([*node_metrics(nodes), *service_metrics(services), *fleet])


def _answer(_query: Query) -> str:
    host, _colon, port = os.environ.get("DOCKER_PROXY", "socket_proxy:2375").rpartition(":")
    return swarm(host, int(port), time.time())


if __name__ == "__main__":
    make_server(int(os.environ.get("PORT", "9779")), {"/metrics": _answer}).serve_forever()
