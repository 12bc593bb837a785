# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A swarm whose workers are the servers of the stand-in cloud, and an edge before it; both as far as recovery uses them."""

from __future__ import annotations

import itertools
import json
import pickle
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Iterator

from engine import Engine
from standin_cloud import StandinCloud


class Swarm(Engine):
    """A manager. A server is a node while it runs, from when its name is in `joined` on; gone or interrupted, its node is down.

    :param place: holds the cloud as the file ``cloud``, and the folder ``joined`` with a file for each server that has joined.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "joined").mkdir()
        self.specs: dict[str, dict[str, Any]] = {}
        self.names: dict[str, str] = {}
        self.replicas = 2
        self.without_engine: set[str] = set()
        # Servers whose loss nobody has noticed, and which do not come back by themselves.
        self.unnoticed: set[str] = set()
        self._seen: dict[str, tuple[bool, int]] = {}
        self.seen_labels: list[dict[str, str]] = []
        super().__init__(place / "docker.sock")

    @property
    def cloud(self) -> StandinCloud:
        found: StandinCloud = pickle.loads((self.place / "cloud").read_bytes())
        return found

    def kept(self) -> bytes:
        """Return its nodes and configs."""
        return pickle.dumps((self.specs, self.names, self.configs, self._seen))

    def take_over(self, kept: bytes) -> None:
        """Begin with the nodes and configs of another one."""
        self.specs, self.names, self.configs, self._seen = pickle.loads(kept)

    def nodes(self) -> list[dict[str, Any]]:
        servers = self.cloud.servers
        for joined in (self.place / "joined").iterdir():
            server = joined.name
            self.specs.setdefault(server, {"Role": "worker", "Availability": "active", "Labels": {"llm-stack.server": server}})
            self.names.setdefault(server, servers[server]["name"] if server in servers else joined.read_text())
        up = {server for server in self.specs if server in self.unnoticed or servers.get(server, {}).get("status") == "ACTIVE"}
        return [self._node(server, server in up) for server in sorted(self.specs)]

    def _version(self, server: str, up: bool) -> int:
        """A node has another one whenever it is lost, or heard of again."""
        before, version = self._seen.get(server, (not up, 0))
        self._seen[server] = (up, version + (up != before))
        return self._seen[server][1]

    def _node(self, server: str, up: bool) -> dict[str, Any]:
        gpu = [{"NamedResourceSpec": {"Kind": "GPU", "Value": f"GPU-{server}"}}]
        return {
            "ID": node_of(server),
            "Version": {"Index": self._version(server, up)},
            "Spec": self.specs[server],
            "Description": {"Hostname": self.names[server], "Resources": {"GenericResources": gpu}},
            "Status": {"State": "ready" if up else "down", "Addr": "0.0.0.0"},
        }

    def tasks(self) -> list[dict[str, Any]]:
        """One engine on each node that may have one."""
        serving = [node for node in self.nodes() if node["Status"]["State"] == "ready" and node["Spec"]["Availability"] == "active"]
        return [
            {
                "ID": f"task-{node['ID']}",
                "NodeID": node["ID"],
                "ServiceID": "engine",
                "DesiredState": "running",
                "Status": {"State": "running"},
                "NetworksAttachments": [{"Addresses": [f"{address_of(node['ID'])}/24"]}],
            }
            for node in serving
            if node["ID"] not in self.without_engine
        ]

    def read(self, path: str, query: dict[str, list[str]]) -> Any:
        self.seen_labels += [dict(one["Spec"]["Labels"]) for one in self.configs.values()]
        if path == "/nodes":
            return self.nodes()
        if path.startswith("/nodes/"):
            return next((node for node in self.nodes() if node["ID"] == path.rpartition("/")[2]), None)
        if path == "/services/llm_engine":
            return {"ID": "engine", "Spec": {"Name": "llm_engine", "Mode": {"Replicated": {"Replicas": self.replicas}}}}
        if path == "/tasks":
            wanted = json.loads(query["filters"][0])["node"]
            return [task for task in self.tasks() if task["NodeID"] in wanted]
        return super().read(path, query)

    def write(self, path: str, body: Any) -> tuple[int, Any]:
        self.specs[self._server(path.split("/")[2])] = body
        return 200, {}

    def remove(self, path: str) -> tuple[int, Any]:
        server = self._server(path.rpartition("/")[2])
        if self.read(path, {})["Status"]["State"] != "down":
            return 400, {"message": "rpc error: code = FailedPrecondition desc = node is not down and can't be removed"}
        self.specs.pop(server)
        (self.place / "joined" / server).unlink()
        return 200, {}

    def _server(self, node: str) -> str:
        (found,) = [server for server in self.specs if node_of(server) == node]
        return found


def node_of(server: str) -> str:
    """The ID of a server's node: 25 small letters and digits, as Docker's are."""
    return f"node{server.replace('-', '')}".ljust(25, "x")


def address_of(node: str) -> str:
    """The address of a node's engine in the overlay network."""
    return f"10.0.1.{int(node.strip('nodesrvx')) + 100}"


class Edge(ThreadingHTTPServer):
    """Answers questions by the engines in turn; without any, with 503."""

    def __init__(self, swarm: Swarm, certificate: Path, key: Path) -> None:
        self.swarm = swarm
        self.turn = itertools.count()
        self.questions = 0
        super().__init__(("127.0.0.1", 0), _Question)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Question(BaseHTTPRequestHandler):
    server: Edge

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.questions += 1
        with self.server.swarm.lock:
            engines = [address_of(task["NodeID"]) for task in self.server.swarm.tasks()]
        if self.headers["Authorization"] != "Bearer hunter3" or not engines:
            self.send_response(503 if not engines else 401)
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("X-LLM-Engine", f"engine1 ({engines[next(self.server.turn) % len(engines)]})")
        self.end_headers()
        self.wfile.write(json.dumps({"choices": [{"message": {"content": "Yes"}}]}).encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        return


def answering(edge: Edge) -> Iterator[Edge]:
    """Run an edge."""
    thread = threading.Thread(target=edge.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield edge
    finally:
        edge.shutdown()
        thread.join()
        edge.server_close()
