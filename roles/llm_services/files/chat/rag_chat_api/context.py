# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the routes share, and how they say no."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from flask import Response, current_app, jsonify, request

from .embed import Lazily
from .engines import Engines
from .events import Failed
from .settings import Settings
from .store import Store
from .usage import Usage
from .widget_cap import DailyCap


@dataclass
class Services:
    """Everything a request may need."""

    settings: Settings
    engines: Engines
    store: Store
    usage: Usage
    cap: DailyCap
    health: Health


@dataclass
class Health:
    """Whether engines and documents are there, looked at no more than every two seconds."""

    engines: Engines
    store: Store
    lock: threading.Lock = field(default_factory=threading.Lock)
    looked: float = -10.0
    found: tuple[bool, bool] = (False, False)

    def look(self) -> tuple[bool, bool]:
        """Whether an engine and Chroma answer."""
        with self.lock:
            if time.monotonic() - self.looked > 2:
                self.found = (self.engines.alive(), self.store.alive())
                self.looked = time.monotonic()
            return self.found


def services_of(settings: Settings) -> Services:
    """Everything, connected to nothing yet."""
    engines = Engines(settings)
    store = Store(settings.chroma_url, Lazily(settings.embeddings, settings.llm_url))
    return Services(settings, engines, store, Usage(settings), DailyCap(settings.widget_daily), Health(engines, store))


def services() -> Services:
    """The running application's services."""
    return cast(Services, current_app.extensions["services"])


def key_name() -> str:
    """Name of the API key, as the edge found it; it overwrites what a client sends."""
    return request.headers.get("X-LLM-Key", "")[:100] or "-"


def client() -> socket.socket | None:
    """The connection of the request's client, where the server tells it, as gunicorn does."""
    return cast("socket.socket | None", request.environ.get("gunicorn.socket"))


def refused(failed: Failed) -> Response:
    """The HTTP answer for a failure."""
    answer = jsonify(failed.body)
    answer.status_code = failed.status
    if failed.retry_after:
        answer.headers["Retry-After"] = str(failed.retry_after)
    return answer


def invalid(status: int, message: str, code: str = "") -> Response:
    """The HTTP answer for a request that cannot be met."""
    return refused(Failed(status, message, "invalid_request_error", code))


def plain(one: Any) -> dict[str, Any]:
    """A dataclass as JSON."""
    return asdict(one)
