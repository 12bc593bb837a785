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
        lines = [json.dumps({"at": time.time(), "status": one["status"], "labels": one["labels"]}) + "\n" for one in told["alerts"]]
        # Unbuffered, in one piece: a test may be reading, and another thread writing.
        with Path(sys.argv[3]).open("ab", buffering=0) as file:
            file.write("".join(lines).encode())
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Nothing is logged."""


if __name__ == "__main__":
    ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
