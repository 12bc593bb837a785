# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a look shows, for Prometheus: nodes, GPUs, services, the state that runs over the fleet share, recoveries.

The engine's own metrics count tasks and nodes of the whole swarm and name none of them.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Iterable, Mapping

from exposition import Metric, NotAnswered, render

from .history import Account, is_up, name_of
from .look import STATE, Look

# Labels that tell what a server of a fleet is; a server that carries none is nobody's business here.
PREEMPTIBLE, ENDS = "llm-stack.preemptible", "llm-stack.ends"


def node_metrics(nodes: Iterable[Mapping[str, Any]]) -> list[Metric]:
    """Return what is known of the nodes."""
    up = Metric("swarm_node_up", "Whether a node is ready")
    active = Metric("swarm_node_active", "Whether a node takes tasks: it is neither drained nor paused")
    stale = Metric("swarm_node_stale", "Whether a node that is down has the host name of one that is up: its former self")
    gpus = Metric("swarm_node_gpus", "GPUs a node offers to the swarm")
    reachable = Metric("swarm_manager_reachable", "Whether a manager is reached by the others")
    preemptible = Metric("llm_fleet_server_preemptible", "Whether a server of the fleet is a preemptible one")
    ends = Metric("llm_fleet_server_ends_timestamp_seconds", "When the cloud takes a preemptible server back at the latest")
    nodes = list(nodes)
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


def history_metrics(account: Account) -> list[Metric]:
    """Return what was counted over time."""
    preempted = Metric("llm_fleet_preemptions_total", "Servers that the cloud has interrupted, by placement", "counter")
    for placement, times in account.preemptions.items():
        preempted.add(times, placement=placement)
    back = Metric("llm_fleet_recoveries_total", "Workers that were lost and serve again", "counter")
    back.add(account.recoveries)
    seconds = Metric(
        "llm_fleet_recovery_seconds_total", "Time that all recoveries took, from the loss of a worker until it served again", "counter"
    )
    seconds.add(account.seconds)
    lost = Metric("llm_fleet_workers_lost", "Workers that were lost and do not serve yet")
    lost.add(account.lost_now)
    last = Metric("llm_fleet_recovery_last_seconds", "Time that the last recovery took")
    if account.last is not None:
        last.add(account.last)
    return [preempted, back, seconds, lost, last]


def text_of(seen: Look, account: Account, *, now: float) -> str:
    """Return all metrics.

    :raises NotAnswered: the state of the fleet cannot be understood.
    """
    looked = Metric("swarm_monitor_looked_timestamp_seconds", "When the swarm was looked at last")
    looked.add(seen.at)
    fleet = fleet_metrics(seen.labels, now) if seen.labels is not None else []
    swarm = [*node_metrics(seen.nodes), *service_metrics(seen.services)]
    return render([looked, *swarm, *fleet, *history_metrics(account)])
