# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One look at everything: the swarm through a proxy that lets nothing pass that could change it, and what backups say of themselves."""

from __future__ import annotations

import http.client
import json
import socket
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Iterator, Mapping, Sequence
from urllib.parse import quote

from backups import jobs_of, told_by
from exposition import NotAnswered

from .settings import Settings

SECONDS = 10.0
# Hosts that tell of backups: a silent one must not make the look at the swarm old. So many are asked at once, each for so long, and all of
# them together for no longer than the last; what has told nothing by then is unknown.
HOST_SECONDS, ALL_SECONDS, AT_ONCE = 3.0, 9.0, 16
# Services with their counts of tasks need 1.41, which Docker has since 20.10.
API = "/v1.41"
STATE, ENGINE = "llm-stack-state", "llm_engine"
_LONGEST = 16 << 20


@dataclass(frozen=True)
class Copies:
    """What one host says of its backups.

    :param jobs: by job, its metrics by name.
    :param error: why the host did not tell; its jobs are not known then.
    """

    host: str
    jobs: dict[str, dict[str, float]] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Look:
    """What was seen at one moment.

    :param at: seconds since 1970.
    :param engines: IDs of the nodes on which an engine runs; None when there is no such service.
    :param labels: those of the state that runs over a fleet share; None when there is none.
    """

    at: float
    nodes: list[Mapping[str, Any]]
    services: list[Mapping[str, Any]]
    engines: frozenset[str] | None
    labels: Mapping[str, str] | None
    copies: tuple[Copies, ...] = ()


def get(address: str, path: str, seconds: float = SECONDS) -> bytes:
    """Return what ``HOST:PORT`` answers.

    :param seconds: how long each step of it may take.
    :raises OSError: it was not reached, or said no.
    :raises ValueError: the address has no port.
    """
    host, _colon, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=seconds)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(_LONGEST)
    except http.client.HTTPException as error:
        raise OSError(str(error) or type(error).__name__) from error
    finally:
        connection.close()
    if answer.status != 200:
        raise OSError(f"it said {answer.status}")
    return body


def read(proxy: str, path: str) -> Any:
    """Return what the engine answers.

    :raises NotAnswered: the proxy or the engine behind it does not answer.
    """
    try:
        return json.loads(get(proxy, API + path))
    except (OSError, ValueError) as error:
        raise NotAnswered(f"{path} cannot be read from {proxy}: {error}. Look at the log of the service socket_proxy.") from error


def _filtered(path: str, **filters: list[str]) -> str:
    return f"{path}?filters={quote(json.dumps(filters))}"


def look(settings: Settings, now: float) -> Look:
    """Look at everything.

    :raises NotAnswered: the swarm cannot be read. Backups that are not told of are a part of the look.
    """
    nodes, services = read(settings.proxy, "/nodes"), read(settings.proxy, "/services?status=true")
    configs = read(settings.proxy, _filtered("/configs", name=[STATE]))
    labels = next((one["Spec"].get("Labels") or {} for one in configs if one["Spec"]["Name"] == STATE), None)
    engines = None
    if any(service["Spec"]["Name"] == ENGINE for service in services):
        tasks = read(settings.proxy, _filtered("/tasks", service=[ENGINE], **{"desired-state": ["running"]}))
        engines = frozenset(str(task.get("NodeID")) for task in tasks if (task.get("Status") or {}).get("State") == "running")
    return Look(now, nodes, services, engines, labels, tuple(copies(settings)))


def copies(settings: Settings) -> Iterator[Copies]:
    """Yield what each host says of its backups; a manager that says nothing has none."""
    managers: list[str] = []
    if settings.backups:
        try:
            managers = addresses_of(settings.backups)
        except OSError as error:
            yield Copies("managers", error=f"{settings.backups} is not found: {error.strerror or error}")
    told = _all_told([("", address) for address in managers] + sorted(settings.storage.items()))
    yield from sorted((one for one in told[: len(managers)] if one.host), key=lambda one: one.host)
    yield from told[len(managers) :]


def _all_told(hosts: Sequence[tuple[str, str]]) -> list[Copies]:
    """Ask hosts, by their name and address, at the same time."""
    pool = ThreadPoolExecutor(AT_ONCE)
    asked = [pool.submit(_told, host, address) for host, address in hosts]
    wait(asked, timeout=ALL_SECONDS)
    # An answer that comes in drops may go on for long, and nobody waits for it.
    pool.shutdown(wait=False, cancel_futures=True)
    return [_of(task, host or address) for task, (host, address) in zip(asked, hosts)]


def _of(task: Future[Copies], host: str) -> Copies:
    if task.done() and not task.cancelled():
        return task.result()
    return Copies(host, error=f"it has told nothing after {ALL_SECONDS:.0f} s")


def addresses_of(service: str) -> list[str]:
    """Return where the tasks of a service answer.

    :param service: its name and port.
    :raises OSError: the name is not known.
    """
    name, _colon, port = service.rpartition(":")
    found = socket.getaddrinfo(name, int(port), socket.AF_INET, socket.SOCK_STREAM)
    return sorted({f"{one[4][0]}:{port}" for one in found})


def _told(host: str, address: str) -> Copies:
    """Return what an exporter says of backups.

    :param host: empty when the exporter knows that itself.
    """
    try:
        text = get(address, "/metrics", HOST_SECONDS).decode("utf-8", "replace")
    except OSError as error:
        return Copies(host or address, error=error.strerror or str(error))
    except ValueError as error:
        return Copies(host or address, error=f"{address} is no address with a port: {error}")
    return Copies(host or told_by(text), jobs_of(text))
