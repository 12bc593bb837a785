# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for Grafana, whose image cannot be pulled in the lab: health, the provisioned dashboards, one user with a password.

Like Grafana it sets the password when it first starts and keeps it in its database afterwards, speaks TLS when told so, and shows nothing
but its health and its metrics without the password. It draws nothing.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import signal
import sqlite3
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

DATA, BOARDS, PROVISIONED = Path("/var/lib/grafana"), Path("/etc/grafana/dashboards"), Path("/etc/grafana/provisioning")


def kept_password() -> str:
    """Return the hash of the password: that of the first start."""
    with contextlib.closing(sqlite3.connect(DATA / "grafana.db")) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS user (login TEXT PRIMARY KEY, password TEXT)")
        first = Path(os.environ["GF_SECURITY_ADMIN_PASSWORD__FILE"]).read_text(encoding="utf-8")
        database.execute("INSERT OR IGNORE INTO user VALUES ('admin', ?)", (hashlib.sha256(first.encode()).hexdigest(),))
        return str(database.execute("SELECT password FROM user").fetchone()[0])


def boards() -> list[dict[str, str]]:
    """Return what Grafana lists of the dashboards it found."""
    if not list(PROVISIONED.glob("dashboards/*.yml")):
        return []
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(BOARDS.glob("*.json"))]
    return [{"uid": board["uid"], "title": board["title"], "type": "dash-db"} for board in found]


class Handler(BaseHTTPRequestHandler):
    """Answers as Grafana's API does, as far as it is asked here."""

    def do_GET(self) -> None:
        if self.path == "/api/health":
            self._say(200, json.dumps({"database": "ok", "version": "standin"}))
        elif self.path == "/metrics":
            self._say(200, '# TYPE grafana_build_info gauge\ngrafana_build_info{version="standin"} 1\n', kind="text/plain; version=0.0.4")
        elif not self._known():
            self._say(401, json.dumps({"message": "Unauthorized"}))
        elif self.path.startswith("/api/search"):
            self._say(200, json.dumps(boards()))
        else:
            self._say(404, json.dumps({"message": "Not found"}))

    def _known(self) -> bool:
        kind, _space, given = self.headers.get("Authorization", "").partition(" ")
        name, _colon, password = base64.b64decode(given).decode().partition(":") if kind == "Basic" else ("", "", "")
        return name == "admin" and hmac.compare_digest(hashlib.sha256(password.encode()).hexdigest(), PASSWORD)

    def _say(self, status: int, text: str, *, kind: str = "application/json") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Nothing is logged."""


if __name__ == "__main__":
    PASSWORD = kept_password()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = ThreadingHTTPServer(("", 3000), Handler)
    if os.environ.get("GF_SERVER_PROTOCOL") == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(os.environ["GF_SERVER_CERT_FILE"], os.environ["GF_SERVER_CERT_KEY"])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()
