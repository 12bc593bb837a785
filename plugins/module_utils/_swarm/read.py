# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads engines, GPUs and nodes. No decision is made here."""

from __future__ import annotations

import csv
import json
import re
import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .._errors import CommandFailed, StackError
from .._run import Runner
from .certificate import parse_identity
from .client import Api, Connect
from .model import GPU_KIND, Engine, Gpu, Membership, Node, Service, Task, Toolkit

# What a task goes through on its node before it ends.
_ALIVE = frozenset(("assigned", "accepted", "preparing", "ready", "starting", "running"))
GPU_QUERY = ("nvidia-smi", "--query-gpu=uuid,name,memory.total,driver_version", "--format=csv,noheader,nounits")
SERVICE_QUERY = (
    "systemctl", "show", "docker.service", "--property=LoadState", "--property=ActiveState", "--property=UnitFileState",
    "--property=ActiveEnterTimestampMonotonic",
)  # fmt: skip


@dataclass(frozen=True)
class Paths:
    """Where an engine's configuration lives."""

    daemon: Path = Path("/etc/docker/daemon.json")
    runtime: Path = Path("/etc/nvidia-container-runtime/config.toml")
    data_root: Path = Path("/var/lib/docker")


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """Read the CSV of ``nvidia-smi --query-gpu``.

    :raises StackError: a line is not what was asked for.
    """
    found = []
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if not row:
            continue
        if len(row) != len(("uuid", "name", "memory", "driver")) or not row[0].startswith("GPU-"):
            raise StackError(f"nvidia-smi answered with something else than GPUs: {', '.join(row)}. Check the driver with `nvidia-smi -L`.")
        memory = row[2].strip()
        found.append(Gpu(row[0].strip(), row[1].strip(), int(memory) if memory.isdigit() else 0, row[3].strip()))
    return tuple(found)


def read_gpus(runner: Runner) -> tuple[Gpu, ...]:
    """Ask the driver for its GPUs; a host without nvidia-smi has none.

    :raises StackError: nvidia-smi is there and fails.
    """
    if not runner.has("nvidia-smi"):
        return ()
    try:
        answer = runner.run(GPU_QUERY).stdout
    except CommandFailed as error:
        if "No devices were found" in str(error):
            return ()
        remedy = "Reload or reinstall the driver, then check `nvidia-smi -L`."
        raise StackError(f"The NVIDIA driver does not answer: {error}. {remedy}") from error
    return () if "No devices were found" in answer else parse_gpus(answer)


def parse_service(text: str, *, configured_at: float | None, now: float, uptime: float) -> Service:
    """Read the answer of :data:`SERVICE_QUERY`.

    :param configured_at: when the configuration file was last changed, None where there is none.
    :param now: the wall clock.
    :param uptime: the monotonic clock at the same moment.
    """
    shown = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    active = shown.get("ActiveState") in {"active", "reloading"}
    started_at = now - uptime + int(shown.get("ActiveEnterTimestampMonotonic") or 0) / 1e6
    # A file from the future says that the clock was set back, not that it is newer than the start.
    stale = active and configured_at is not None and started_at < configured_at <= now
    return Service(
        installed=shown.get("LoadState") == "loaded",
        active=active,
        enabled=shown.get("UnitFileState") in {"enabled", "enabled-runtime", "static", "alias"},
        stale=stale,
    )


def read_service(runner: Runner, daemon_file: Path) -> Service:
    """Ask systemd about the engine."""
    configured_at = daemon_file.stat().st_mtime if daemon_file.exists() else None
    text = runner.run(SERVICE_QUERY).stdout
    return parse_service(text, configured_at=configured_at, now=time.time(), uptime=time.monotonic())


def read_settings(path: Path) -> dict[str, Any]:
    """Read the engine's configuration file; a missing or empty one holds nothing.

    :raises StackError: it is no JSON object.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if not text.strip():
        return {}
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise StackError(f"{path} is not valid JSON ({error}), so nothing can be merged into it. Correct it, or move it away.") from error
    if not isinstance(settings, dict):
        raise StackError(f"{path} does not hold a JSON object, so nothing can be merged into it. Correct it, or move it away.")
    return settings


def parse_toolkit(config: str, version: str) -> Toolkit:
    """Read the NVIDIA runtime's configuration and the answer of ``nvidia-container-runtime --version``."""
    number = re.search(r"version (\d+)\.(\d+)\.(\d+)", version)
    resource = re.search(r'^\s*swarm-resource\s*=\s*"([^"]*)"', config, re.MULTILINE)
    mode = re.search(r'^\s*mode\s*=\s*"([^"]*)"', config, re.MULTILINE)
    return Toolkit(
        version=tuple(int(part) for part in number.groups()) if number else (),
        swarm_resource=resource.group(1) if resource else "",
        mode=mode.group(1) if mode else "",
    )


def read_toolkit(runner: Runner, path: Path) -> Toolkit | None:
    """Read the NVIDIA container toolkit; None where it is not installed."""
    if not path.exists():
        return None
    has_runtime = runner.has("nvidia-container-runtime")
    version = runner.run(("nvidia-container-runtime", "--version"), ok=(0, 1)).stdout if has_runtime else ""
    return parse_toolkit(path.read_text(encoding="utf-8"), version)


def parse_membership(info: dict[str, Any]) -> Membership:
    """Read the swarm part of the engine's own description; a worker's lacks the cluster."""
    swarm = info.get("Swarm") or {}
    cluster = swarm.get("Cluster") or {}
    spec = cluster.get("Spec") or {}
    dispatcher = spec.get("Dispatcher") or {}
    return Membership(
        state=swarm.get("LocalNodeState") or "inactive",
        node_id=swarm.get("NodeID") or "",
        cluster_id=cluster.get("ID") or "",
        is_manager=bool(swarm.get("ControlAvailable")),
        error=swarm.get("Error") or "",
        heartbeat_ns=int(dispatcher.get("HeartbeatPeriod") or 0),
        autolock=bool((spec.get("EncryptionConfig") or {}).get("AutoLockManagers")),
    )


def read_identity(membership: Membership, data_root: Path) -> Membership:
    """Complete a membership from the node's certificate on disk, if there is one."""
    path = data_root / "swarm" / "certificates" / "swarm-node.crt"
    if membership.state == "inactive" or not path.exists():
        return membership
    found = parse_identity(path.read_text(encoding="utf-8"))
    return replace(
        membership,
        node_id=membership.node_id or found.node_id,
        cluster_id=membership.cluster_id or found.cluster_id,
        is_manager=membership.is_manager or found.is_manager,
    )


def read_engine(runner: Runner, connect: Connect, paths: Paths, *, look_for_gpus: bool) -> Engine:
    """Read one engine: three commands and, where it runs, at most three API calls; the connection makes the first."""
    service = read_service(runner, paths.daemon)
    settings = read_settings(paths.daemon)
    engine = Engine(
        hostname=socket.gethostname(),
        service=service,
        settings=settings,
        gpus=read_gpus(runner) if look_for_gpus else (),
        toolkit=read_toolkit(runner, paths.runtime) if look_for_gpus else None,
    )
    if service.active:
        api = connect()
        info = api.info()
        root = Path(info.get("DockerRootDir") or paths.data_root)
        return replace(
            engine,
            hostname=info.get("Name") or engine.hostname,
            version=info.get("ServerVersion") or "",
            membership=read_identity(parse_membership(info), root),
            tasks=parse_tasks_here(api.tasks_here()) if info.get("ContainersRunning") else (),
        )
    root = Path(settings.get("data-root") or paths.data_root)
    stopped = (root / "swarm" / "docker-state.json").exists()
    membership = read_identity(Membership(state="stopped" if stopped else "inactive"), root)
    return replace(engine, version=_installed_version(runner), membership=membership)


def parse_tasks_here(containers: list[dict[str, Any]]) -> tuple[str, ...]:
    """Read the names of the tasks whose containers run here."""
    return tuple(sorted((found.get("Labels") or {}).get("com.docker.swarm.task.name") or found["Id"][:12] for found in containers))


def _installed_version(runner: Runner) -> str:
    if not runner.has("dockerd"):
        return ""
    found = re.search(r"version (\d+\.\d+\.\d+)", runner.run(("dockerd", "--version")).stdout)
    return found.group(1) if found else ""


def parse_node(found: dict[str, Any]) -> Node:
    """Read one node of the engine's list."""
    spec = found.get("Spec") or {}
    description = found.get("Description") or {}
    resources = (description.get("Resources") or {}).get("GenericResources") or []
    return Node(
        id=found["ID"],
        hostname=description.get("Hostname") or "",
        version=int((found.get("Version") or {}).get("Index") or 0),
        role=spec.get("Role") or "worker",
        availability=spec.get("Availability") or "active",
        state=(found.get("Status") or {}).get("State") or "unknown",
        gpus=sum(_gpu_count(entry) for entry in resources),
        labels=dict(spec.get("Labels") or {}),
    )


def _gpu_count(entry: dict[str, Any]) -> int:
    named = entry.get("NamedResourceSpec") or {}
    counted = entry.get("DiscreteResourceSpec") or {}
    return int(named.get("Kind") == GPU_KIND) + (int(counted.get("Value") or 0) if counted.get("Kind") == GPU_KIND else 0)


def read_nodes(api: Api) -> tuple[Node, ...]:
    """Ask a manager for all nodes: one API call."""
    return tuple(parse_node(found) for found in api.nodes())


def read_tasks(api: Api, node_ids: list[str]) -> tuple[Task, ...]:
    """Ask a manager for the tasks that have not ended on these nodes: one API call, none without nodes."""
    found = api.tasks(node_ids) if node_ids else []
    return tuple(
        Task(task["ID"], task.get("NodeID") or "", task.get("ServiceID") or "")
        for task in found
        if (task.get("Status") or {}).get("State") in _ALIVE
    )
