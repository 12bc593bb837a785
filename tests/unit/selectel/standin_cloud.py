# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for an OpenStack region, in memory: Nova, Neutron, Cinder and Glance as far as the fleets use them.

It answers requests as the real services do (statuses, error bodies, what is allowed in which state), on a clock of its own that only
sleeping moves. It can lack capacity, fill a quota, strip tags, and fail any request in the ways a real cloud does.
"""

from __future__ import annotations

import copy
import fcntl
import pickle
import threading
import time
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Iterator

from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.client import Connection

# Not a fixed day: playbooks look at these servers by the real clock, and must find them young.
START = float(int(time.time()) - 3600)
TASK_TIME = 4.0
WRITABLE = ("ACTIVE", "PAUSED", "SUSPENDED", "SHUTOFF")


class Cut(Exception):
    """The connection was cut before the answer came."""


class LoginRefused(Exception):
    """The SDK could not log in again."""

    http_status = 401


class EndpointNotFound(Exception):
    """The catalogue has no such service."""


class Killed(BaseException):
    """The process ends here, as by SIGKILL: nothing below may catch it."""


class Response:
    """An answer."""

    def __init__(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        self.status_code = status
        self._body = body
        self.headers = headers or {}

    def json(self) -> Any:
        if self._body is None:
            raise ValueError("no JSON")
        return copy.deepcopy(self._body)


def refusal(status: int, text: str, **headers: str) -> Response:
    return Response(status, {"error": {"code": status, "message": text}}, headers)


Fault = Callable[["StandinCloud", str, str, str, Callable[[], Response]], "Response | None"]


def stamp(moment: float) -> str:
    """Write a moment in seconds as Nova does."""
    return datetime.fromtimestamp(int(moment), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def shared(place: Path) -> Iterator[StandinCloud]:
    """Change the cloud in a file that threads and processes share: one after another, and nobody reads half of it."""
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cloud: StandinCloud = pickle.loads(place.read_bytes())
        yield cloud
        draft = place.with_suffix(".new")
        draft.write_bytes(pickle.dumps(cloud))
        draft.replace(place)


class StandinCloud:
    """One region of a project."""

    def __init__(self, region: str = "r1") -> None:
        self.region = region
        self.now = START
        self.lock = threading.RLock()
        self.servers: dict[str, dict[str, Any]] = {}
        self.ports: dict[str, dict[str, Any]] = {}
        self.volumes: dict[str, dict[str, Any]] = {}
        self.addresses: dict[str, dict[str, Any]] = {}
        self.log: list[tuple[str, str, str]] = []
        self.bodies: list[Any] = []
        # zone -> servers that still fit; a zone that is not named has room without end
        self.room: dict[str, int] = {}
        self.quota: int | None = None
        self.volume_fails = False
        self.strips_tags = False
        self.tells_actions = True
        self.restore_breaks = False
        self.has_revisions = True
        self.fault: Fault | None = None
        self.flavors = [
            {"id": "f-gpu", "name": "GL10", "vcpus": 4, "ram": 16384, "disk": 0, "extra_specs": {"pci_passthrough:alias": "T4:1"}},
            {"id": "f-big", "name": "GL20", "vcpus": 8, "ram": 32768, "disk": 0, "extra_specs": {"pci_passthrough:alias": "T4:2"}},
            {"id": "f-local", "name": "LOC", "vcpus": 4, "ram": 16384, "disk": 60, "extra_specs": {}},
        ]
        self.images = [
            {"id": "i-old", "name": "golden-1", "created_at": "2026-01-01T00:00:00Z", "min_disk": 5, "status": "active"},
            {"id": "i-new", "name": "golden-2", "created_at": "2026-02-01T00:00:00Z", "min_disk": 5, "status": "active"},
        ]
        self.networks = [{"id": "n-lan", "name": "lan"}, {"id": "n-ext", "name": "ext"}]
        self.groups = [{"id": "g-ssh", "name": "ssh"}, {"id": "g-def", "name": "default"}]
        # What slow requests have yet to do, and when.
        self.pending: list[tuple[float, Callable[[], object]]] = []
        self._ids = 0
        self._ips = 9

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, lock=threading.RLock())

    # -- what tests see ---------------------------------------------------------------------------------------------------
    def alive(self, slot: str | None = None) -> list[dict[str, Any]]:
        """Return servers that are not interrupted."""
        return [
            one
            for one in self.servers.values()
            if not one["status"].startswith("SHELVED") and slot in (None, one["metadata"].get("llm_stack_slot"))
        ]

    def writes(self) -> list[tuple[str, str]]:
        return [(method, path) for method, _service, path in self.log if method != "GET"]

    def orphans(self) -> list[str]:
        """Return what exists and belongs to no server."""
        used = {port for server in self.servers.values() for port in server["_ports"]}
        disks = {disk for server in self.servers.values() for disk in server["_volumes"]}
        found = [f"port {name}" for name in self.ports if name not in used]
        found += [f"volume {name}" for name in self.volumes if name not in disks]
        return found + [f"address {name}" for name, one in self.addresses.items() if not one["port_id"]]

    def interrupt(self, server: str, status: str = "SHELVED_OFFLOADED") -> None:
        """Do what the provider does to a preemptible server."""
        self.servers[server].update({"status": status, "OS-EXT-STS:task_state": None, "_until": None})

    def set_status(self, server: str, status: str, task: str | None = None) -> None:
        self.servers[server].update({"status": status, "OS-EXT-STS:task_state": task, "_until": None})

    def change_port(self, port: str, **changes: Any) -> None:
        """Change a port as anybody may."""
        self.ports[port].update(changes)
        if "revision_number" in self.ports[port]:
            self.ports[port]["revision_number"] += 1

    # -- plumbing ---------------------------------------------------------------------------------------------------------
    def connection(self) -> Connection:
        return Connection(self.region, lambda service: Adapter(self, service), (Cut, LoginRefused, EndpointNotFound), (Cut,), ("hunter2",))

    def sleep(self, seconds: float) -> None:
        with self.lock:
            self.now += seconds

    def request(self, service: str, path: str, method: str, options: dict[str, Any]) -> Response:
        with self.lock:
            self.log.append((method, service, path))
            self.bodies.append(options.get("json"))
            self.now += 0.05
            self._tick()

            def answer() -> Response:
                return self._answer(service, path, method, options)

            changed = self.fault(self, service, method, path, answer) if self.fault else None
            return changed if changed is not None else answer()

    def _answer(self, service: str, path: str, method: str, options: dict[str, Any]) -> Response:
        parts = path.strip("/").split("/")
        handler = getattr(self, f"_{service}_{parts[0].replace('-', '_')}")
        answer: Response = handler(method, parts[1:], options)
        return answer

    def _stamp(self) -> str:
        return stamp(self.now)

    def _id(self, kind: str) -> str:
        self._ids += 1
        return f"{kind}-{self._ids:04d}"

    def _ip(self) -> int:
        self._ips += 1
        return self._ips

    def _tick(self) -> None:
        """Let requests and tasks end whose time has come."""
        due = [act for at, act in self.pending if self.now >= at]
        self.pending = [(at, act) for at, act in self.pending if self.now < at]
        for act in due:
            act()
        for server in list(self.servers.values()):
            until = server["_until"]
            if until is not None and self.now >= until[0]:
                server["_until"] = None
                until[1](server)

    @staticmethod
    def _page(found: list[dict[str, Any]], collection: str, options: dict[str, Any]) -> Response:
        params = options.get("params") or {}
        limit, marker = int(params.get("limit", 1000)), params.get("marker")
        begin = next((place + 1 for place, one in enumerate(found) if one["id"] == marker), 0)
        page = found[begin : begin + limit]
        shown = [{key: value for key, value in one.items() if not key.startswith("_")} for one in page]
        body: dict[str, Any] = {collection: shown}
        if begin + limit < len(found):
            body[f"{collection}_links"] = [{"rel": "next", "href": "http://cloud/next"}]
        return Response(200, body)

    # -- Nova -------------------------------------------------------------------------------------------------------------
    def _compute_flavors(self, _method: str, _parts: list[str], options: dict[str, Any]) -> Response:
        return self._page(self.flavors, "flavors", options)

    def _compute_servers(self, method: str, parts: list[str], options: dict[str, Any]) -> Response:
        assert options["microversion"] == "2.72"
        if parts == ["detail"]:
            return self._page(sorted(self.servers.values(), key=lambda one: one["id"]), "servers", options)
        if not parts:
            return self._create_server(options["json"]["server"])
        server = self.servers.get(parts[0])
        if server is None:
            return refusal(404, f"Instance {parts[0]} could not be found.")
        if len(parts) == 1:
            return self._delete_server(server) if method == "DELETE" else Response(200, {"server": self._shown(server)})
        return self._on_server(server, method, parts[1:], options)

    def _shown(self, server: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in server.items() if not key.startswith("_")}

    def _on_server(self, server: dict[str, Any], method: str, parts: list[str], options: dict[str, Any]) -> Response:
        if parts == ["os-instance-actions"]:
            return Response(200, {"instanceActions": server["_actions"] if self.tells_actions else []})
        if server["locked"]:
            return refusal(409, f"Instance {server['id']} is locked")
        if parts == ["action"]:
            (name,) = options["json"]
            return self._action(server, name)
        if server["status"] not in WRITABLE or server["OS-EXT-STS:task_state"]:
            return refusal(409, f"Cannot '{parts[0]}' instance {server['id']} while it is in vm_state {server['status'].lower()}")
        if parts[0] == "metadata":
            server["metadata"].update(options["json"]["metadata"])
            return Response(200, {"metadata": server["metadata"]})
        return self._tag(server, method, parts[1])

    @staticmethod
    def _tag(server: dict[str, Any], method: str, tag: str) -> Response:
        if method == "PUT":
            if tag not in server["tags"]:
                server["tags"].append(tag)
            return Response(201)
        if tag not in server["tags"]:
            return refusal(404, f"Server {server['id']} has no tag '{tag}'")
        server["tags"].remove(tag)
        return Response(204)

    def _create_server(self, body: dict[str, Any]) -> Response:
        if self.quota is not None and len(self.servers) >= self.quota:
            return refusal(403, "Quota exceeded for instances: Requested 1, but already used all instances")
        held = {port for one in self.servers.values() for port in one["_ports"]}
        ports = [net["port"] for net in body["networks"]] if isinstance(body["networks"], list) else [self._new_port({})["id"]]
        if set(ports) & held:
            return refusal(409, f"Port {ports[0]} is still in use.")
        disks = [disk["uuid"] for disk in body.get("block_device_mapping_v2", [])]
        name = self._id("srv")
        server: dict[str, Any] = {
            "id": name,
            "name": body["name"],
            "status": "BUILD",
            "OS-EXT-STS:task_state": "scheduling",
            "created": self._stamp(),
            "OS-SRV-USG:launched_at": None,
            "OS-EXT-AZ:availability_zone": body.get("availability_zone", "z1"),
            "tags": [] if self.strips_tags else list(body.get("tags", [])),
            "metadata": dict(body["metadata"]),
            "locked": False,
            "flavor": self._flavor(body["flavorRef"]),
            "os-extended-volumes:volumes_attached": [{"id": disk, "delete_on_termination": True} for disk in disks],
            "addresses": {"lan": [{"addr": self.ports[port]["fixed_ips"][0]["ip_address"], "OS-EXT-IPS:type": "fixed"} for port in ports]},
            "_ports": ports,
            "_own_ports": not isinstance(body["networks"], list),
            "_volumes": disks,
            "_actions": [],
            "_until": (self.now + TASK_TIME, self._built),
        }
        self.servers[name] = server
        for port in ports:
            self.ports[port]["device_id"] = name
        for disk in disks:
            self.volumes[disk].update({"status": "in-use", "attachments": [{"server_id": name}]})
        return Response(202, {"server": {"id": name}})

    def _flavor(self, name: str) -> dict[str, Any]:
        (found,) = [one for one in self.flavors if one["id"] == name]
        return {"original_name": found["name"], "extra_specs": found["extra_specs"], "vcpus": found["vcpus"]}

    def _take_room(self, server: dict[str, Any]) -> bool:
        zone = server["OS-EXT-AZ:availability_zone"]
        if self.room.get(zone, 1) <= 0:
            return False
        if zone in self.room:
            self.room[zone] -= 1
        return True

    def _built(self, server: dict[str, Any]) -> None:
        server["OS-EXT-STS:task_state"] = None
        if self._take_room(server):
            server.update({"status": "ACTIVE", "OS-SRV-USG:launched_at": self._stamp().rstrip("Z") + ".000000"})
        else:
            server.update({"status": "ERROR", "fault": {"code": 500, "message": "No valid host was found. "}})

    def _delete_server(self, server: dict[str, Any]) -> Response:
        if server["locked"]:
            return refusal(409, f"Instance {server['id']} is locked")
        server["OS-EXT-STS:task_state"] = "deleting"
        server["_until"] = (self.now + 1.0, self._deleted)
        return Response(204)

    def _deleted(self, server: dict[str, Any]) -> None:
        del self.servers[server["id"]]
        for port in server["_ports"]:
            if port in self.ports:
                self.ports[port]["device_id"] = ""
                if server["_own_ports"]:
                    self.ports.pop(port)
        for disk in server["_volumes"]:
            self.volumes.pop(disk, None)

    def _action(self, server: dict[str, Any], name: str) -> Response:
        allowed = {
            "unshelve": ("SHELVED", "SHELVED_OFFLOADED", "EXPIRED"),
            "os-start": ("SHUTOFF",),
            "unpause": ("PAUSED",),
            "resume": ("SUSPENDED",),
            "shelve": ("ACTIVE", "SHUTOFF", "PAUSED", "SUSPENDED"),
        }
        if server["status"] not in allowed[name] or server["OS-EXT-STS:task_state"]:
            return refusal(409, f"Cannot '{name}' instance {server['id']} while it is in vm_state {server['status'].lower()}")
        task = {"unshelve": "unshelving", "os-start": "powering-on", "shelve": "shelving"}.get(name, "resuming")
        server["OS-EXT-STS:task_state"] = task
        server["_actions"].insert(0, {"action": name, "request_id": self._id("req"), "start_time": self._stamp(), "message": None})
        ends = {"unshelve": self._restored, "shelve": self._shelved}
        server["_until"] = (self.now + TASK_TIME, ends.get(name, self._run))
        return Response(202)

    def _run(self, server: dict[str, Any]) -> None:
        server.update({"status": "ACTIVE", "OS-EXT-STS:task_state": None})

    @staticmethod
    def _shelved(server: dict[str, Any]) -> None:
        server.update({"status": "SHELVED_OFFLOADED", "OS-EXT-STS:task_state": None})

    def _restored(self, server: dict[str, Any]) -> None:
        server["OS-EXT-STS:task_state"] = None
        if self.restore_breaks:
            server.update({"status": "ERROR", "fault": {"message": "Build of instance aborted"}})
        elif self._take_room(server):
            server.update({"status": "ACTIVE", "OS-SRV-USG:launched_at": self._stamp().rstrip("Z") + ".000000"})
        else:
            # Nova's silent failure: the state is as before, and only the action tells.
            server["_actions"][0]["message"] = "Error"

    # -- Neutron ----------------------------------------------------------------------------------------------------------
    def _network_networks(self, _method: str, _parts: list[str], options: dict[str, Any]) -> Response:
        return self._page(self.networks, "networks", options)

    def _network_security_groups(self, _method: str, _parts: list[str], options: dict[str, Any]) -> Response:
        return self._page(self.groups, "security_groups", options)

    def _network_ports(self, method: str, parts: list[str], options: dict[str, Any]) -> Response:
        params = options.get("params") or {}
        if method == "GET" and not parts:
            found = [
                one
                for one in self.ports.values()
                if all(params.get(key) in (None, one[key]) for key in ("device_id", "network_id"))
            ]  # fmt: skip
            return self._page(found, "ports", options)
        if method == "POST":
            body = options["json"]["port"]
            wanted = [fixed["ip_address"] for fixed in body.get("fixed_ips", [])]
            taken = {fixed["ip_address"] for one in self.ports.values() for fixed in one["fixed_ips"]}
            if taken & set(wanted):
                return refusal(409, f"IP address {wanted[0]} already allocated in subnet")
            return Response(201, {"port": self._new_port(body)})
        if parts[0] not in self.ports:
            return refusal(404, f"Port {parts[0]} could not be found.")
        return self._on_port(parts[0], method, options)

    def _on_port(self, port: str, method: str, options: dict[str, Any]) -> Response:
        if method == "DELETE":
            del self.ports[port]
            return Response(204)
        wanted, number = (options.get("headers") or {}).get("If-Match"), self.ports[port].get("revision_number")
        if wanted not in (None, f"revision_number={number}"):
            return refusal(412, f"Constrained to {wanted.split('=')[1]}, but current revision is {number}")
        if method == "PUT":
            self.change_port(port, **options["json"]["port"])
        return Response(200, {"port": self.ports[port]})

    def _new_port(self, body: dict[str, Any]) -> dict[str, Any]:
        name = self._id("port")
        address = body.get("fixed_ips") or [{"ip_address": f"10.0.0.{self._ip()}"}]
        port = {
            "id": name,
            "network_id": body.get("network_id", "n-lan"),
            "name": body.get("name", ""),
            "description": body.get("description", ""),
            "device_id": "",
            "security_groups": body.get("security_groups", ["g-def"]),
            "fixed_ips": address,
            "created_at": self._stamp(),
            **({"revision_number": 1} if self.has_revisions else {}),
        }
        self.ports[name] = port
        return port

    def _network_floatingips(self, method: str, parts: list[str], options: dict[str, Any]) -> Response:
        if method == "GET":
            return self._page(list(self.addresses.values()), "floatingips", options)
        if method == "POST":
            body = options["json"]["floatingip"]
            if any(one["port_id"] == body["port_id"] for one in self.addresses.values()):
                return refusal(409, "Cannot associate floating IP: the fixed IP already has one")
            name = self._id("fip")
            address = f"203.0.113.{self._ip()}"
            self.addresses[name] = {"id": name, "floating_ip_address": address, **body}
            return Response(201, {"floatingip": self.addresses[name]})
        if parts[0] not in self.addresses:
            return refusal(404, f"Floating IP {parts[0]} could not be found")
        if method == "PUT":
            self.addresses[parts[0]].update(options["json"]["floatingip"])
            return Response(200, {"floatingip": self.addresses[parts[0]]})
        del self.addresses[parts[0]]
        return Response(204)

    # -- Cinder -----------------------------------------------------------------------------------------------------------
    def _block_storage_volumes(self, method: str, parts: list[str], options: dict[str, Any]) -> Response:
        if parts == ["detail"]:
            return self._page(list(self.volumes.values()), "volumes", options)
        if method == "POST" and not parts:
            return self._create_volume(options["json"]["volume"])
        volume = self.volumes.get(parts[0], {})
        if not volume:
            return refusal(404, f"Volume {parts[0]} could not be found.")
        if method == "DELETE":
            return self._delete_volume(volume)
        if parts[1:] == ["metadata"]:
            volume["metadata"].update(options["json"]["metadata"])
        return Response(200, {"volume": volume})

    def _create_volume(self, body: dict[str, Any]) -> Response:
        name = self._id("vol")
        status = "error" if self.volume_fails else "available"
        volume = {"id": name, "status": status, "size": body["size"], "metadata": dict(body["metadata"]), "attachments": []}
        self.volumes[name] = {**volume, "created_at": self._stamp().rstrip("Z") + ".000000", "_zone": body.get("availability_zone")}
        return Response(202, {"volume": {"id": name}})

    def _delete_volume(self, volume: dict[str, Any]) -> Response:
        if volume["status"] == "in-use":
            return refusal(400, "Invalid volume: Volume status must be available or error")
        del self.volumes[volume["id"]]
        return Response(202)

    # -- Glance -----------------------------------------------------------------------------------------------------------
    def _image_images(self, _method: str, _parts: list[str], options: dict[str, Any]) -> Response:
        return self._page(self.images, "images", options)


class Adapter:
    """One service, as the SDK's proxies are called."""

    def __init__(self, cloud: StandinCloud, service: str) -> None:
        self._cloud = cloud
        self._service = service

    def request(self, url: str, method: str, **options: Any) -> Response:
        return self._cloud.request(self._service, url, method, options)
