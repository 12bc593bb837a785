# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the exporters of this project share: Prometheus' text format, and a server for it. Nothing but Python's own library."""

from __future__ import annotations

import sys
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Callable, Iterable, List, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Query = Mapping[str, List[str]]
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class NotAnswered(Exception):
    """What was to be measured cannot be; the text says what, why and what next."""


@dataclass
class Metric:
    """One metric with all its samples; without any it is left out.

    :param kind: ``gauge`` or ``counter``.
    """

    name: str
    help: str
    kind: str = "gauge"
    samples: list[tuple[dict[str, str], float]] = field(default_factory=list)

    def add(self, value: float, **labels: str) -> None:
        """Add a sample."""
        self.samples.append((labels, float(value)))

    def text(self) -> str:
        """Return the metric in the text format."""
        lines = [f"# HELP {self.name} {self.help}", f"# TYPE {self.name} {self.kind}"]
        for labels, value in self.samples:
            pairs = ",".join(f'{key}="{str(text).translate(_ESCAPES)}"' for key, text in labels.items())
            lines.append(f"{self.name}{{{pairs}}} {value!r}" if pairs else f"{self.name} {value!r}")
        return "\n".join(lines) + "\n"


def render(metrics: Iterable[Metric]) -> str:
    """Return all metrics that have samples in the text format."""
    return "".join(metric.text() for metric in metrics if metric.samples)


def make_server(port: int, answers: Mapping[str, Callable[[Query], str]], *, address: str = "") -> ThreadingHTTPServer:
    """Return a server that answers each path by its function: 503 with the reason when there is no answer.

    :param port: 0 takes any that is free.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = 30

        def do_GET(self) -> None:
            path, _mark, query = self.path.partition("?")
            status, text = 404, "There is nothing here.\n"
            if path == "/healthy":
                status, text = 200, "ok\n"
            elif path in answers:
                try:
                    status, text = 200, answers[path](urllib.parse.parse_qs(query))
                except NotAnswered as error:
                    status, text = 503, f"{error}\n"
                    print(error, file=sys.stderr, flush=True)  # noqa: T201 - the log of the container
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """A line for each scrape would tell nothing."""

    return ThreadingHTTPServer((address, port), Handler)
