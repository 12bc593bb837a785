# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a test does to the cloud from the provider's side: interrupt, crash, take capacity away, lock, delete."""

from __future__ import annotations

import contextlib
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Callable, Iterable, Iterator

import openstack

from .cloud import account
from .config import PASSWORD, REGION, Paths, known_ports
from .settings import TOKEN_CACHE

# Generous: a busy machine is no failure.
PATIENCE = 600
MICROVERSION = "2.90"


@dataclass(frozen=True)
class Project:
    """A project of its own for one test; its user has its name."""

    name: str
    id: str
    user_id: str


@dataclass(frozen=True)
class Holdings:
    """What a project has and pays for."""

    servers: dict[str, Any]
    ports: dict[str, Any]
    volumes: dict[str, Any]
    addresses: dict[str, Any]

    @property
    def orphans(self) -> list[str]:
        """What belongs to no server that is there."""
        lost = [f"port {key}" for key, port in self.ports.items() if port.device_id not in self.servers]
        lost += [f"address {key}" for key, address in self.addresses.items() if address.port_id not in self.ports]
        for key, volume in self.volumes.items():
            if not {attachment["server_id"] for attachment in volume.attachments} & set(self.servers):
                lost.append(f"volume {key}")
        return lost

    def young_ports(self, seconds: float) -> list[str]:
        """Which of them are ports that were made less than so many seconds ago."""
        since = datetime.now(timezone.utc) - timedelta(seconds=seconds)
        return [lost for lost in self.orphans if lost.startswith("port ") and _made(self.ports[lost.removeprefix("port ")]) > since]


def _made(port: Any) -> datetime:
    return datetime.fromisoformat(port.created_at.replace("Z", "+00:00"))


class Control:
    """The provider's side of the cloud."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.ports = known_ports(paths)
        self.admin = self.connect("admin")

    def connect(self, user: str) -> Any:
        """Sign in as a user."""
        options: dict[str, Any] = {**account(user, self.ports), "compute_default_microversion": MICROVERSION}
        return openstack.connect(region_name=REGION, **options)

    # -- projects --

    def project(self) -> Project:
        """Make a project with a user."""
        keystone = self.admin.identity
        name = f"test-{uuid.uuid4().hex[:8]}"
        made = keystone.create_project(name=name, domain_id="default")
        user = keystone.create_user(name=name, password=PASSWORD, domain_id="default", default_project_id=made.id)
        keystone.assign_project_role_to_user(made, user, keystone.find_role("member"))
        return Project(name, made.id, user.id)

    def servers(self, project: Project) -> dict[str, Any]:
        """Return a project's servers by id."""
        return {found.id: found for found in self.admin.compute.servers(all_projects=True, project_id=project.id)}

    def holdings(self, project: Project) -> Holdings:
        """Return what a project has."""
        cloud = self.admin
        return Holdings(
            self.servers(project),
            {found.id: found for found in cloud.network.ports(project_id=project.id)},
            {found.id: found for found in cloud.block_storage.volumes(all_projects=True, project_id=project.id)},
            {found.id: found for found in cloud.network.ips(project_id=project.id)},
        )

    def empty(self, project: Project) -> None:
        """Remove all a project has."""
        held = self.holdings(project)
        self.each(held.servers, self.delete)
        for address in held.addresses:
            self.admin.network.delete_ip(address)
        for port in self.holdings(project).ports:
            self.admin.network.delete_port(port)
        for key, volume in held.volumes.items():
            if not volume.attachments:
                self.admin.block_storage.delete_volume(key)
        self._until(lambda: not self.holdings(project).volumes, "the volumes of a finished test do not go away")

    def tidy(self, project: Project) -> None:
        """Remove the ports that no server has any more."""
        held = self.holdings(project)
        for key, port in held.ports.items():
            if port.device_id not in held.servers:
                self.admin.network.delete_port(key)

    # -- what the provider does to servers --

    def each(self, servers: Iterable[str], act: Callable[[str], object]) -> None:
        """Do the same to several servers at once."""
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(act, servers))

    def interrupt(self, server: str, *, offload: bool = True) -> None:
        """Take a server's machine away as the provider does: SHELVED, and SHELVED_OFFLOADED where asked.

        A server that boots from a volume is offloaded at once, as Nova does.
        """
        self.admin.compute.shelve_server(server)
        found = self.await_status(server, "SHELVED", "SHELVED_OFFLOADED")
        if offload and found.status == "SHELVED":
            self.admin.compute.shelve_offload_server(server)
            self.await_status(server, "SHELVED_OFFLOADED")

    def crash(self, server: str) -> None:
        """Kill the guest; Nova learns of it from the hypervisor and says SHUTOFF."""
        (self.paths.controls / f"crash@{server}").touch()
        self.await_status(server, "SHUTOFF")

    def delete(self, server: str) -> None:
        """Delete a server, whatever locks it."""
        with contextlib.suppress(openstack.exceptions.NotFoundException):
            self.admin.compute.delete_server(server, force=True)
        self._until(lambda: self._gone(server), f"server {server} does not go away")

    def lock(self, server: str) -> None:
        """Lock it: its owner's actions get 409 from now on."""
        self.admin.compute.lock_server(server)

    def unlock(self, server: str) -> None:
        """Unlock it, if it is still there."""
        with contextlib.suppress(openstack.exceptions.NotFoundException):
            self.admin.compute.unlock_server(server)

    def tag(self, server: str, *tags: str) -> None:
        """Give it these tags and no other, as a careless tool does."""
        self.admin.compute.put(f"/servers/{server}/tags", json={"tags": list(tags)}, microversion="2.26")

    def wake(self, server: str) -> None:
        """Bring a server that is in any state a test brings it into back to ACTIVE."""
        compute = self.admin.compute
        found = self._settled(server)
        ways: dict[str, Callable[[str], object]] = {
            "SHUTOFF": compute.start_server,
            "PAUSED": compute.unpause_server,
            "SUSPENDED": compute.resume_server,
            "RESCUE": compute.unrescue_server,
            "VERIFY_RESIZE": compute.revert_server_resize,
            "SHELVED": compute.unshelve_server,
            "SHELVED_OFFLOADED": compute.unshelve_server,
            "ERROR": lambda one: compute.reset_server_state(one, "active"),
        }
        if found.status in ways:
            ways[found.status](server)
        self.await_status(server, "ACTIVE")

    def resize(self, server: str, flavor: str) -> None:
        """Resize it and leave the choice open: VERIFY_RESIZE."""
        self.admin.compute.resize_server(server, flavor)
        self.await_status(server, "VERIFY_RESIZE")

    def enter(self, server: str, status: str) -> None:
        """Bring a running server into a state.

        :raises KeyError: no way there is known.
        """
        compute = self.admin.compute
        ways: dict[str, Callable[[], object]] = {
            "ACTIVE": lambda: None,
            "SHUTOFF": lambda: compute.stop_server(server),
            "PAUSED": lambda: compute.pause_server(server),
            "SUSPENDED": lambda: compute.suspend_server(server),
            "RESCUE": lambda: compute.rescue_server(server),
            "ERROR": lambda: compute.reset_server_state(server, "error"),
            "SHELVED": lambda: self.interrupt(server, offload=False),
            "SHELVED_OFFLOADED": lambda: self.interrupt(server),
        }
        ways[status]()
        self.await_status(server, status)

    # -- what the provider does to everybody --

    @contextlib.contextmanager
    def no_capacity(self, *zones: str) -> Iterator[None]:
        """Let no host of these zones, or of all, take servers."""
        hosts = [found for found in self.admin.compute.services(binary="nova-compute") if not zones or found.availability_zone in zones]
        for host in hosts:
            self.admin.compute.disable_service(host)
        try:
            yield
        finally:
            for host in hosts:
                self.admin.compute.enable_service(host)

    @contextlib.contextmanager
    def _ordered(self, order: str, text: str = "") -> Iterator[None]:
        file = self.paths.controls / order
        file.write_text(text)
        try:
            yield
        finally:
            file.unlink(missing_ok=True)

    def slow(self, name: str, seconds: float) -> contextlib.AbstractContextManager[None]:
        """Let servers of that name boot slowly."""
        return self._ordered(f"slow@{name}", str(seconds))

    def unbootable(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Let servers of that name fail to boot."""
        return self._ordered(f"fail@{name}")

    def quota(self, project: Project, **limits: int) -> None:
        """Limit what Nova gives a project, such as ``instances``."""
        # Forced: the limit may be below what the project has.
        self.admin.compute.update_quota_set(project.id, force=True, **limits)

    def revoke(self, token: str) -> None:
        """End a token before its time, as its expiry would, and return when no service takes it any more."""
        self.admin.identity.delete("/auth/tokens", headers={"X-Subject-Token": token})
        time.sleep(TOKEN_CACHE + 0.5)

    # -- waiting --

    def await_status(self, server: str, *statuses: str) -> Any:
        """Wait until a server is in one of these states with nothing under way, and return it."""
        found = None

        def there() -> bool:
            nonlocal found
            found = self.admin.compute.get_server(server)
            return found.status in statuses and found.task_state is None

        self._until(there, f"server {server} does not become {' or '.join(statuses)}")
        return found

    def await_task(self, server: str, task: str) -> None:
        """Wait until Nova is busy with this for a server."""
        self._until(lambda: self.admin.compute.get_server(server).task_state == task, f"server {server} does not come to {task}")

    def await_action(self, server: str, action: str, message: str) -> None:
        """Wait until Nova's record of what was asked of a server says this about the newest action."""

        def said() -> bool:
            newest = next(iter(self.admin.compute.server_actions(server)))
            return (newest.action, newest.message) == (action, message)

        self._until(said, f"{action} of server {server} does not say {message}")

    def _settled(self, server: str) -> Any:
        found = None

        def idle() -> bool:
            nonlocal found
            found = self.admin.compute.get_server(server)
            return found.task_state is None and found.status != "BUILD"

        self._until(idle, f"server {server} does not settle")
        return found

    def _gone(self, server: str) -> bool:
        try:
            self.admin.compute.get_server(server)
        except openstack.exceptions.NotFoundException:
            return True
        return False

    @staticmethod
    def _until(done: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + PATIENCE
        pause = 0.1
        while not done():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{otherwise} within {PATIENCE} s")
            time.sleep(pause)
            # Each look costs the cloud the very time it needs.
            pause = min(pause * 1.4, 1.0)
