# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells the analytics who asked how much. An answer never waits for it, and is never lost with it."""

from __future__ import annotations

import collections
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import httpx
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from .settings import Settings

# Records kept while the analytics are away; the oldest go first. About 5 MB, and as much as PROMPT lets it be where questions are kept.
HELD = 10_000
BATCH = 500
# Characters of a question that are kept where that is switched on, and of an engine's error code.
PROMPT = 10_000
ERROR = 60


@dataclass
class Record:
    """One request, from its arrival to its end.

    :param key: name of the API key, or ``widget:SITE``.
    :param first_token: seconds to the first token; none without a token.
    :param tokens: tokens sent, counted where no engine did.
    :param status: how it ended; 0 until then.
    """

    key: str
    model: str
    route: str
    prompt: str = ""
    begun: float = field(default_factory=time.monotonic)
    first_token: float | None = None
    prompt_tokens: int = 0
    tokens: int = 0
    continued: int = 0
    status: int = 0

    def heard(self) -> None:
        """A token came."""
        if self.first_token is None:
            self.first_token = time.monotonic() - self.begun
        self.tokens += 1

    def counted(self, usage: dict[str, Any] | None) -> None:
        """An engine counted the tokens itself."""
        if usage:
            self.prompt_tokens = int(usage.get("prompt_tokens") or 0)
            self.tokens = int(usage.get("completion_tokens") or self.tokens)


def told(text: str, limit: int) -> str:
    """A text as it can be sent and kept: half of a surrogate pair is no text, and nothing has any length."""
    return text[:limit].encode("utf-8", "replace").decode()


class Metrics:
    """What Prometheus is told."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("route", "status")
        self.requests = Counter("llm_chat_requests", "Requests by route and status", labels, registry=self.registry)
        self.tokens = Counter("llm_chat_tokens", "Tokens sent", registry=self.registry)
        self.continued = Counter("llm_chat_continued", "Cut streams that went on on another engine", registry=self.registry)
        self.cut = Counter("llm_chat_cut", "Cut streams that ended in an error", registry=self.registry)
        self.dropped = Counter(
            "llm_chat_usage_dropped", "Usage records lost: the analytics were away too long, or refused them", registry=self.registry
        )
        self.open = Gauge("llm_chat_open", "Requests being answered", registry=self.registry)
        buckets = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
        self.first = Histogram("llm_chat_first_token_seconds", "Time to the first token", buckets=buckets, registry=self.registry)


class Usage:
    """Collects records and sends them in batches, again until they are taken: each has an identity, so twice is once."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.held: collections.deque[dict[str, Any]] = collections.deque()
        self.wake = threading.Event()
        self.many = BATCH
        if settings.analytics_url:
            threading.Thread(target=self._send_forever, name="usage", daemon=True).start()

    def begin(self, key: str, model: str, route: str, prompt: str = "") -> Record:
        """A request came."""
        self.metrics.open.inc()
        return Record(told(key, 120), told(model, 200), route, told(prompt, PROMPT) if self.settings.log_prompts else "")

    def end(self, record: Record, status: int, error: str = "") -> None:
        """A request ended."""
        seconds, record.status = time.monotonic() - record.begun, status
        self.metrics.open.dec()
        self.metrics.requests.labels(record.route, str(status)).inc()
        self.metrics.tokens.inc(record.tokens)
        self.metrics.continued.inc(record.continued)
        self.metrics.cut.inc(error == "stream_cut")
        if record.first_token is not None:
            self.metrics.first.observe(record.first_token)
        if self.settings.analytics_url:
            self._hold(
                {
                    "id": uuid.uuid4().hex,
                    "at": time.time() - seconds,
                    "key": record.key,
                    "model": record.model,
                    "route": record.route,
                    "status": status,
                    "error": told(error, ERROR),
                    "first_token_s": record.first_token,
                    "seconds": seconds,
                    "prompt_tokens": record.prompt_tokens,
                    "completion_tokens": record.tokens,
                    "continued": record.continued,
                    "prompt": record.prompt,
                }
            )

    def _hold(self, row: dict[str, Any]) -> None:
        if len(self.held) >= HELD:
            self.held.popleft()
            self.metrics.dropped.inc()
        self.held.append(row)
        self.wake.set()

    def _send_forever(self) -> None:
        headers = {"Authorization": f"Bearer {self.settings.analytics_token}"}
        with httpx.Client(base_url=self.settings.analytics_url, headers=headers, timeout=10.0, trust_env=False) as client:
            pause = 1.0
            while True:
                self.wake.wait()
                self.wake.clear()
                while self.held:
                    pause = 0.2 if self._send(client) else min(30.0, pause * 2)
                    time.sleep(pause)

    def _send(self, client: httpx.Client) -> bool:
        """Send the oldest records; they are let go only when they were taken. False when it has to be tried again later."""
        rows = [self.held[at] for at in range(min(self.many, len(self.held)))]
        try:
            status = client.post("/events", json=rows).status_code
        except httpx.HTTPError:
            return False
        if status in (413, 422):
            return self._part(rows)
        if status == 204:
            self.many = min(BATCH, self.many * 2)
            self._let_go(rows)
        return status == 204

    def _part(self, rows: list[dict[str, Any]]) -> bool:
        """The analytics refuse something in these records: find it by halves, so that it does not keep the others waiting for ever."""
        if len(rows) == 1:
            self._let_go(rows)
            self.metrics.dropped.inc()
        self.many = max(1, len(rows) // 2)
        return True

    def _let_go(self, rows: list[dict[str, Any]]) -> None:
        sent = {row["id"] for row in rows}
        while self.held and self.held[0]["id"] in sent:
            self.held.popleft()
