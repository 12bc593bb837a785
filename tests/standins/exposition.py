# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the stand-ins of exporters share: they answer Prometheus until they are stopped."""

from __future__ import annotations

import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Callable


def serve(port: int, metrics: Callable[[], str]) -> None:
    """Answer until the process is stopped.

    :param metrics: what ``/metrics`` says at the moment; it is asked for each time.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ThreadingHTTPServer(("", port), handler(metrics)).serve_forever()


def handler(metrics: Callable[[], str]) -> type[BaseHTTPRequestHandler]:
    """Return what answers a connection: a health check with ``ok``, everything else with the metrics."""

    class Handler(BaseHTTPRequestHandler):
        """One connection."""

        def do_GET(self) -> None:
            body = (metrics() if self.path != "/healthz" else "ok").encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Nothing is logged."""

    return Handler
