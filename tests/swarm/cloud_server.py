# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stand-in cloud over HTTP, for the real SDK in a container: ``cloud_server.py ADDRESS PORT FILE SECRET``.

It logs in by an application credential, and has the documents by which the SDK finds the versions of the services. The cloud is the one in
FILE, which tests change too. Each request that changes something is written to FILE.calls with its time.
"""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

sys.path[:0] = [
    str(Path(__file__).resolve().parents[1] / "unit" / "selectel"),
    str(Path(__file__).resolve().parents[2] / "build" / "collections"),
]

from standin_cloud import shared  # noqa: E402 - importable after the line above

REGION = "r1"
# By service: its type in the catalogue, its root, and what stands before the paths of its API.
SERVICES = {
    "compute": ("compute", "/compute/v2.1", "/compute/v2.1"),
    "network": ("network", "/network", "/network/v2.0"),
    "block_storage": ("block-storage", "/volume/v3", "/volume/v3"),
    "image": ("image", "/image", "/image/v2"),
}
VERSIONS = {
    "compute": {"id": "v2.1", "status": "CURRENT", "version": "2.90", "min_version": "2.1"},
    "network": {"id": "v2.0", "status": "CURRENT"},
    "block_storage": {"id": "v3.0", "status": "CURRENT", "version": "3.70", "min_version": "3.0"},
    "image": {"id": "v2.9", "status": "CURRENT"},
}


class Server(ThreadingHTTPServer):
    """The cloud's front."""

    def __init__(self, address: str, port: int, file: Path, secret: str) -> None:
        self.file, self.secret = file, secret
        super().__init__((address, port), Request)

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def ask(self, service: str, method: str, path: str, options: dict[str, Any]) -> tuple[int, Any]:
        """Ask the cloud in the file, on the clock of this machine."""
        with shared(self.file) as cloud:
            cloud.now = time.time()
            if method != "GET":
                with Path(f"{self.file}.calls").open("a", encoding="utf-8") as calls:
                    calls.write(json.dumps({"at": time.time(), "method": method, "path": path, "body": options.get("json")}) + "\n")
            answer = cloud.request(service, path, method, options)
        return answer.status_code, answer._body

    def token(self) -> dict[str, Any]:
        """Return what a login is answered with."""
        catalogue = []
        for name, (kind, root, _api) in SERVICES.items():
            endpoint = {"id": name, "interface": "public", "region": REGION, "region_id": REGION, "url": self.url + root}
            catalogue.append({"id": name, "name": name, "type": kind, "endpoints": [endpoint]})
        domain = {"id": "default", "name": "Default"}
        return {
            "token": {
                "methods": ["application_credential"],
                "issued_at": "2026-01-01T00:00:00.000000Z",
                "expires_at": "2099-01-01T00:00:00.000000Z",
                "user": {"id": "u", "name": "autoscaler", "domain": domain},
                "project": {"id": "p", "name": "llm", "domain": domain},
                "roles": [{"id": "m", "name": "member"}],
                "catalog": catalogue,
            }
        }


class Request(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        """Answer it."""
        place = urlsplit(self.path)
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(text) if text else None
        if place.path.startswith("/identity"):
            self._identity(place.path, body)
            return
        for name, (_kind, root, api) in SERVICES.items():
            if place.path.rstrip("/") in (root, api):
                version = {**VERSIONS[name], "links": [{"rel": "self", "href": f"{self.server.url}{api}/"}]}
                self._answer(200, {"version": version} if name == "compute" else {"versions": [version]})
                return
            if place.path.startswith(f"{api}/"):
                microversion = (self.headers.get("OpenStack-API-Version") or "").removeprefix("compute ")
                options = {"params": dict(parse_qsl(place.query)), "json": body, "microversion": microversion}
                self._answer(*self.server.ask(name, self.command, place.path.removeprefix(api), options))
                return
        self._answer(404, {"error": {"message": f"{place.path} is no service"}})

    do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815 - the base class asks for these names

    def _identity(self, path: str, body: Any) -> None:
        if path != "/identity/v3/auth/tokens":
            version = {"id": "v3.14", "status": "stable", "links": [{"rel": "self", "href": f"{self.server.url}/identity/v3/"}]}
            self._answer(200, {"version": version} if path.rstrip("/").endswith("v3") else {"versions": {"values": [version]}})
            return
        given = body["auth"]["identity"].get("application_credential") or {}
        if given.get("secret") != self.server.secret:
            self._answer(401, {"error": {"code": 401, "message": "The request you have made requires authentication."}})
            return
        self._answer(201, self.server.token(), {"X-Subject-Token": "a-token"})

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        text = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(text)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        return


def main() -> None:
    """Answer until told to end."""
    address, port, file, secret = sys.argv[1:]
    Server(address, int(port), Path(file), secret).serve_forever()


if __name__ == "__main__":
    main()
