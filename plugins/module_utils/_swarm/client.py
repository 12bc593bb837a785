# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place that talks to the Docker Engine: its SDK, with errors as sentences and no secret in them."""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Iterator, Protocol

from .._errors import StackError
from .model import Init

SOCKET = "unix:///var/run/docker.sock"
# Seconds for one call. Joining waits up to 20 s by itself before the engine answers; a busy manager takes some for a mere look.
_LONGEST = 120.0
_SHORTEST = 10.0


class EngineError(StackError):
    """The engine refused a call or could not be reached.

    :param status: its HTTP status; 0 when there was no answer.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        self.status = status
        super().__init__(message)


class Api(Protocol):
    """What the readers and appliers need of an engine."""

    def within(self, seconds: float) -> None: ...

    def info(self) -> dict[str, Any]: ...

    def nodes(self) -> list[dict[str, Any]]: ...

    def node(self, node_id: str) -> dict[str, Any]: ...

    def update_node(self, node_id: str, version: int, spec: dict[str, Any]) -> None: ...

    def remove_node(self, node_id: str) -> None: ...

    def tasks_here(self) -> list[dict[str, Any]]: ...

    def tasks(self, node_ids: list[str]) -> list[dict[str, Any]]: ...

    def service(self, service_id: str) -> dict[str, Any]: ...

    def init_swarm(self, init: Init, *, advertise: str, data_path: str) -> None: ...

    def join_swarm(self, manager: str, token: str, *, advertise: str, data_path: str) -> None: ...

    def leave_swarm(self) -> None: ...

    def swarm(self) -> dict[str, Any]: ...

    def update_swarm(self, version: int, spec: dict[str, Any], *, rotate_worker_token: bool = False) -> None: ...

    def unlock_key(self) -> str: ...

    def unlock(self, key: str) -> None: ...


class SdkApi:
    """The Docker SDK for Python.

    :param client: a ``docker.APIClient``.
    :param errors: the exception types that mean the engine refused or was not reached.
    """

    def __init__(self, client: Any, errors: tuple[type[Exception], ...]) -> None:
        self._client = client
        self._errors = errors

    @contextlib.contextmanager
    def _call(self, what: str, secret: str = "") -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            text = str(getattr(error, "explanation", None) or error)
            text = text.replace(secret, "********") if secret else text
            status = getattr(getattr(error, "response", None), "status_code", 0) or 0
            raise EngineError(f"Docker could not {what}: {text.strip()}", status) from None

    def within(self, seconds: float) -> None:
        """Give each call from now on no longer than this, but for the little that any needs."""
        self._client.timeout = min(max(seconds, _SHORTEST), _LONGEST)

    def info(self) -> dict[str, Any]:
        """Return what `docker info` shows."""
        with self._call("describe itself"):
            return dict(self._client.info())

    def nodes(self) -> list[dict[str, Any]]:
        """Return all nodes; only a manager knows them."""
        with self._call("list the nodes of the swarm"):
            return list(self._client.nodes())

    def node(self, node_id: str) -> dict[str, Any]:
        """Return one node."""
        with self._call(f"inspect the node {node_id}"):
            return dict(self._client.inspect_node(node_id))

    def update_node(self, node_id: str, version: int, spec: dict[str, Any]) -> None:
        """Replace a node's specification if it still has this version."""
        with self._call(f"update the node {node_id}"):
            self._client.update_node(node_id, version, node_spec=spec)

    def remove_node(self, node_id: str) -> None:
        """Remove a node that is down; the engine refuses any other."""
        with self._call(f"remove the node {node_id}"):
            self._client.remove_node(node_id)

    def tasks_here(self) -> list[dict[str, Any]]:
        """Return this engine's running containers that belong to a swarm's task."""
        with self._call("list its containers"):
            return list(self._client.containers(filters={"label": "com.docker.swarm.task.id"}))

    def tasks(self, node_ids: list[str]) -> list[dict[str, Any]]:
        """Return the tasks of these nodes; only a manager knows them."""
        with self._call("list the tasks of the swarm"):
            return list(self._client.tasks(filters={"node": node_ids}))

    def service(self, service_id: str) -> dict[str, Any]:
        """Return one service."""
        with self._call(f"inspect the service {service_id}"):
            return dict(self._client.inspect_service(service_id))

    def update_service(self, service_id: str, version: int, spec: dict[str, Any]) -> None:
        """Replace a service's specification if it still has this version.

        The SDK's own call makes a specification of single arguments, and what it does not know is lost.
        """
        url = f"{self._client.base_url}/v{self._client.api_version}/services/{service_id}/update"
        with self._call(f"update the service {service_id}"):
            answer = self._client.post(url, params={"version": version}, json=spec, timeout=60)
        if answer.status_code >= 400:
            raise EngineError(f"Docker could not update the service {service_id}: {answer.text.strip()}", answer.status_code)

    def events(self, kinds: list[str]) -> Iterator[dict[str, Any]]:
        """Yield what happens to objects of these kinds, from now on; ends when the engine is silent for long."""
        with self._call("tell of events"):
            yield from self._client.events(filters={"type": kinds}, decode=True)

    def init_swarm(self, init: Init, *, advertise: str, data_path: str) -> None:
        """Make a swarm."""
        options: dict[str, Any] = {}
        wanted = {"dispatcher_heartbeat_period": init.heartbeat_ns, "autolock_managers": init.autolock}
        if wanted != dict.fromkeys(wanted):
            options["swarm_spec"] = self._client.create_swarm_spec(**wanted)
        for name, value in (
            ("default_addr_pool", list(init.address_pools)),
            ("subnet_size", init.subnet_size),
            ("data_path_addr", data_path),
            ("data_path_port", init.data_path_port),
            ("advertise_addr", advertise),
        ):
            if value:
                options[name] = value
        with self._call("make a swarm"):
            self._client.init_swarm(**options)

    def join_swarm(self, manager: str, token: str, *, advertise: str, data_path: str) -> None:
        """Join a swarm."""
        with self._call(f"join the swarm at {manager}", secret=token):
            self._client.join_swarm([manager], token, advertise_addr=advertise or None, data_path_addr=data_path or None)

    def leave_swarm(self) -> None:
        """Leave the swarm; the engine refuses on a manager."""
        with self._call("leave its swarm"):
            self._client.leave_swarm()

    def swarm(self) -> dict[str, Any]:
        """Return the swarm's own object."""
        with self._call("inspect the swarm"):
            return dict(self._client.inspect_swarm())

    def update_swarm(self, version: int, spec: dict[str, Any], *, rotate_worker_token: bool = False) -> None:
        """Replace the swarm's specification if it still has this version."""
        with self._call("update the swarm"):
            self._client.update_swarm(version, swarm_spec=spec, rotate_worker_token=rotate_worker_token)

    def unlock_key(self) -> str:
        """Return the key that a locked manager needs after its start."""
        with self._call("tell the swarm's unlock key"):
            return str(self._client.get_unlock_key()["UnlockKey"])

    def unlock(self, key: str) -> None:
        """Unlock this manager."""
        with self._call("unlock its swarm", secret=key):
            self._client.unlock_swarm(key)


def sdk(socket: str = SOCKET) -> tuple[Any, tuple[type[Exception], ...]]:
    """Return a ``docker.APIClient`` and the exceptions that mean the engine refused or was not reached.

    :raises EngineError: the SDK is missing or the engine does not answer.
    """
    try:
        import docker
        import requests
        import urllib3
    except ImportError as error:
        raise EngineError(f"The Docker SDK for Python is missing on this host ({error}). Install python3-docker.") from error
    # A stream that breaks is told of by what lies beneath the other two.
    errors = (docker.errors.DockerException, requests.exceptions.RequestException, urllib3.exceptions.HTTPError)
    try:
        return docker.APIClient(base_url=socket, version="auto", timeout=_LONGEST), errors
    except errors as error:
        raise EngineError(f"Docker does not answer on {socket}: {error}. See `journalctl -u docker`.") from error


def connect(socket: str = SOCKET) -> Api:
    """Connect to the engine of this host."""
    return SdkApi(*sdk(socket))


Connect = Callable[[], Api]
