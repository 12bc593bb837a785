# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for Loki and for Alloy, whose images cannot be pulled in the lab: ``logs.py`` is one or the other by what it is started with.

As Alloy (``run ...``) it reads the engine's files where the role mounts them and sends each line with its node and its service; as Loki it
counts what it gets by service. Neither reads its configuration: that is checked in tests/unit/monitoring.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CONTAINERS = Path("/var/lib/docker/containers")
LABEL = "com.docker.swarm.service.name"
SEEN: Counter[str] = Counter()


class Handler(BaseHTTPRequestHandler):
    """Answers as both: readiness and metrics; takes lines as Loki."""

    def do_GET(self) -> None:
        values = sorted({key.partition("/")[0] for key in SEEN})
        body = json.dumps({"status": "success", "data": values}) if self.path.endswith("/values") else "standin_up 1\n"
        self._say(200, body)

    def do_POST(self) -> None:
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for stream in told["streams"]:
            SEEN[f"{stream['stream'].get('service', '')}/{stream['stream']['node']}"] += len(stream["values"])
        self._say(204, "")

    def _say(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_arguments: object) -> None:
        """Nothing is logged."""


def ship() -> None:
    """Send what is new, for ever."""
    places: dict[Path, int] = {}
    while True:
        for path in CONTAINERS.glob("*/*-json.log"):
            try:
                with path.open("rb") as file:
                    file.seek(places.get(path, 0))
                    send([json.loads(line) for line in file.readlines() if line.endswith(b"\n")])
                    places[path] = file.tell()
            except (OSError, ValueError):
                continue
        time.sleep(2)


def send(lines: list[dict[str, object]]) -> None:
    """Send lines of one file to Loki."""
    streams = []
    for line in lines:
        attributes = line.get("attrs")
        service = str(attributes.get(LABEL, "")) if isinstance(attributes, dict) else ""
        streams.append({"stream": {"service": service, "node": os.environ["NODE"]}, "values": [["0", str(line["log"])]]})
    if streams:
        body = json.dumps({"streams": streams}).encode()
        asked = urllib.request.Request("http://loki:3100/loki/api/v1/push", body, {"Content-Type": "application/json"})
        urllib.request.urlopen(asked, timeout=5).close()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    alloy = sys.argv[1] == "run"
    if alloy:
        threading.Thread(target=ship, daemon=True).start()
    else:
        Path("/loki/standin").write_text("the place can be written")
    ThreadingHTTPServer(("", 12345 if alloy else 3100), Handler).serve_forever()
