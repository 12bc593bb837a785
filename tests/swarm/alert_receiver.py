# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes Alertmanager's calls: ``alert_receiver.py ADDRESS PORT FILE`` adds a line of JSON to the file for each alert it is told of."""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    """Takes what Alertmanager posts."""

    def do_POST(self) -> None:
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with Path(sys.argv[3]).open("a", encoding="utf-8") as file:
            for alert in told["alerts"]:
                file.write(json.dumps({"at": time.time(), "status": alert["status"], "labels": alert["labels"]}) + "\n")
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Nothing is logged."""


if __name__ == "__main__":
    ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
