# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks the engines, through the balancer, and lets no client see that one was lost.

Before the first token a lost request is asked again. After it, what has been sent is resent as the assistant's turn and another
engine goes on. A reader thread does the waiting, so the stream to the client can show that it lives meanwhile.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from typing import Iterator

import httpx

from .events import Continued, Done, Event, Failed, Json, Lost, Quiet
from .partial import Partial, can_continue
from .settings import Settings
from .sse import lines, payloads
from .wire import Line, listening, transport

CHAT = "/v1/chat/completions"
# Engines that one answer may lose. A request that makes engines crash must not go through the whole fleet.
TRIES = 6
# Tries while the balancer is away or has no engine; the time allowed ends them earlier.
ATTEMPTS = 64
# The balancer says so when it lost an engine and did not ask another: what is larger than its buffer it cannot ask again. Its 503 is no
# loss: nobody took the request.
_LOST = (502, 504)
# What is smaller fits that buffer in any case. 502 means then that the balancer itself lost as many engines as a request may.
BUFFERED = 100_000
# 499 is nginx's number for a client that left; nobody reads the words.
CLIENT_LEFT = Failed(499, "The client left.", code="client_left")


class Cut(Exception):
    """The engine vanished, or stopped sending.

    :param engine: its name.
    :param losses: how many engines the request reached, and may have harmed.
    """

    def __init__(self, engine: str, why: str, *, losses: int = 1) -> None:
        super().__init__(why)
        self.engine, self.losses = engine, losses


class Refusal(Exception):
    """The balancer or an engine refused the request."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message)
        self.failed = failed


def refusal(status: int, raw: bytes, retry_after: str = "") -> Failed:
    """What an engine or the balancer answered instead of an answer; both OpenAI's and Ollama's wording are read."""
    try:
        error = json.loads(raw)["error"]
    except (ValueError, KeyError, TypeError):
        error = raw.decode("utf-8", "replace")[:500] or f"The engine answered with status {status}."
    told = error if isinstance(error, dict) else {"message": error}
    seconds = int(retry_after) if retry_after.isdigit() else (5 if status == 503 else 0)
    return Failed(status, str(told.get("message") or error), str(told.get("type") or "api_error"), str(told.get("code") or ""), seconds)


def _reached(error: Exception) -> int:
    """How many engines a request reached that ended in this error."""
    return int(not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)))


def _taken(got: httpx.Response) -> None:
    """Return when an engine took the request.

    :raises Cut: when the balancer lost it.
    :raises Refusal: when it was refused.
    """
    if got.status_code in _LOST:
        alone = got.status_code == 502 and len(got.request.content) < BUFFERED
        raise Cut(got.headers.get("X-LLM-Engine", ""), f"the balancer answered {got.status_code}", losses=TRIES if alone else 1)
    if got.status_code != 200:
        raise Refusal(refusal(got.status_code, got.read(), got.headers.get("Retry-After", "")))


class Engines:
    """The engines behind one address."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        # One for each open answer: none waits for a connection.
        limits = httpx.Limits(max_connections=settings.threads, max_keepalive_connections=32)
        first = settings.first_token_s
        timeout = httpx.Timeout(first, connect=3.0)
        self.client = httpx.Client(base_url=settings.llm_url, transport=transport(limits), timeout=timeout, trust_env=False)

    # --- streams -----------------------------------------------------------------------------------------------------------
    def stream(self, body: Json) -> Iterator[Event]:
        """Answer a request piece by piece. The last event is Done or Failed; Quiet comes when nothing else does."""
        events: queue.Queue[Event] = queue.Queue(maxsize=256)
        attempt = _Attempt(self, body, events)
        reader = threading.Thread(target=attempt.run, name="engine-reader", daemon=True)
        reader.start()
        slices, pause = 0, min(self.settings.heartbeat_s, self.settings.silence_s) / 3
        try:
            while True:
                try:
                    happened = events.get(timeout=pause)
                except queue.Empty:
                    attempt.watch()
                    slices += 1
                    if slices * pause >= self.settings.heartbeat_s:
                        slices = 0
                        yield Quiet()
                    continue
                slices = 0
                yield happened
                if isinstance(happened, (Done, Failed)):
                    return
        finally:
            attempt.stop()

    # --- whole answers -----------------------------------------------------------------------------------------------------
    def whole(self, body: Json, line: Line) -> tuple[Json, str] | Failed:
        """Answer a request at once: the engine's own object and its name. Nothing was shown, so a lost answer is asked for again.

        :param line: what hangs up when the client leaves.
        """
        deadline, losses = 0.0, 0
        failed = Failed(503, "The engine was lost before it answered, and no other took over. Try again.", retry_after=5)
        for attempt in range(ATTEMPTS):
            try:
                return self._once(body, line)
            except Refusal as refused:
                if not deadline or refused.failed.status != 503:
                    return refused.failed
            except Cut as cut:
                # From the loss on: an answer in one piece may have taken minutes until then.
                if cut.losses or not deadline:
                    deadline = time.monotonic() + self.settings.patience_s
                losses += cut.losses
            if losses >= TRIES or time.monotonic() > deadline or line.dead:
                break
            time.sleep(min(2.0, 0.05 * 2**attempt))
        return CLIENT_LEFT if line.dead else failed

    def _once(self, body: Json, line: Line) -> tuple[Json, str]:
        """Ask one engine.

        :raises Cut: when it vanished.
        :raises Refusal: when it refused.
        """
        try:
            with listening(line):
                got = self.client.post(CHAT, json={**body, "stream": False}, timeout=httpx.Timeout(600.0, connect=3.0))
        except (httpx.TransportError, httpx.StreamError) as error:
            raise Cut("", str(error), losses=_reached(error)) from error
        _taken(got)
        try:
            return got.json(), got.headers.get("X-LLM-Engine", "")
        except ValueError:
            raise Refusal(Failed(502, "The engine's answer was no JSON.")) from None

    def alive(self) -> bool:
        """Whether at least one engine serves, as the balancer sees it."""
        try:
            return self.client.get("/health", timeout=1.0).status_code == 200
        except httpx.HTTPError:
            return False


class _Attempt:
    """One request, on as many engines as it takes."""

    def __init__(self, engines: Engines, body: Json, events: queue.Queue[Event]) -> None:
        self.engines, self.settings, self.events = engines, engines.settings, events
        self.body = {**body, "stream": True}
        self.partial = Partial()
        self.stopped = threading.Event()
        self.line = Line()
        self.heard, self.speaks = time.monotonic(), False

    def stop(self) -> None:
        """The client is gone or satisfied: wake the reader and free the engine."""
        self.stopped.set()
        self.line.hang_up(for_good=True)

    def watch(self) -> None:
        """Leave an engine that fell silent after its first token; before it, an engine may take its time."""
        if self.speaks and time.monotonic() - self.heard > self.settings.silence_s:
            self.line.hang_up(for_good=False)

    def run(self) -> None:
        """Ask until the answer is whole, cannot be had, or nobody wants it."""
        try:
            with listening(self.line):
                self._put(self._answer())
        except Exception as error:  # The client must hear of an end, whatever it was.
            self._put(Failed(500, f"The answer broke off: {type(error).__name__}."))
            raise

    def _put(self, happened: Event) -> None:
        while not self.stopped.is_set():
            try:
                self.events.put(happened, timeout=0.5)
                return
            except queue.Full:
                continue

    def _answer(self) -> Event:
        """Ask engine after engine until one of them brought the answer to its end."""
        deadline, lost, losses = 0.0, "", 0
        failed = Failed(503, "The engine was lost, and no other took over. Try again.", code="engine_lost", retry_after=5)
        for attempt in range(ATTEMPTS):
            if self.stopped.is_set():
                break
            try:
                return Done(self._once(lost))
            except Refusal as refused:
                if not deadline or refused.failed.status != 503:
                    return self._given_up(refused.failed)
            except Cut as cut:
                ended = self._after(cut)
                if ended is not None:
                    return ended
                if cut.losses or not deadline:
                    deadline = time.monotonic() + self.settings.patience_s
                losses += cut.losses
                lost = cut.engine or lost if self.partial.begun else ""
            if losses >= TRIES or (deadline and time.monotonic() > deadline):
                return failed
            self.stopped.wait(min(2.0, 0.05 * 2**attempt))
        return failed

    def _given_up(self, failed: Failed) -> Failed:
        """A refusal after the first token ends the stream: say that the answer is not whole."""
        if not self.partial.begun:
            return failed
        return Failed(failed.status, f"The engine was lost, and the rest of the answer was refused: {failed.message}", code="stream_cut")

    def _after(self, cut: Cut) -> Event | None:
        """Decide about a cut. None means: ask another engine."""
        if self.partial.finished:
            return Done(cut.engine)
        if not self.partial.begun:
            return None
        why = ""
        if not self.settings.continue_cut:
            why = "continuing on another engine is switched off"
        elif self.partial.calls or not can_continue(self.body):
            why = "tool calls and structured output cannot be continued"
        if why:
            return Failed(502, f"The engine was lost in the middle of its answer; {why}. Ask again.", code="stream_cut")
        if self.partial.exhausted(self.body):
            self._put(self.partial.end("length"))
            return Done(cut.engine)
        if cut.losses:
            self.partial.next_round()
            self._put(Lost(cut.engine))
        return None

    def _once(self, lost: str) -> str:
        """Ask one engine and pass on what it sends; return its name.

        :raises Cut: when it vanished.
        :raises Refusal: when it refused.
        """
        engine: str = ""
        self.speaks = False
        request = self.engines.client.build_request("POST", CHAT, json=self.partial.request(self.body))
        response: httpx.Response | None = None
        try:
            response = self.engines.client.send(request, stream=True)
            engine = response.headers.get("X-LLM-Engine", "")
            _taken(response)
            self._read(response, lost, engine)
        except (httpx.TransportError, httpx.StreamError, OSError) as error:
            raise Cut(engine, str(error), losses=_reached(error)) from error
        finally:
            self.line.hold(None)
            if response is not None:
                response.close()
        return str(engine)

    def _read(self, response: httpx.Response, lost: str, engine: str) -> None:
        announce = lost
        for raw in payloads(lines(response.iter_bytes())):
            if raw.strip() == "[DONE]":
                self.partial.finished = True
                return
            body = _parsed(raw, engine)
            chunk = self.partial.take(body)
            self.heard, self.speaks = time.monotonic(), self.speaks or bool(chunk.text)
            if announce and (chunk.text or self.partial.finished):
                self._put(Continued(announce, engine, self.partial.tokens - bool(chunk.text)))
                announce = ""
            if chunk.visible:
                self._put(chunk)
                self.heard = time.monotonic()
            if self.stopped.is_set():
                return
        if not self.partial.finished:
            raise Cut(engine, "the stream ended before the answer did")


def _parsed(raw: str, engine: str) -> Json:
    """One event of an engine.

    :raises Refusal: when it is an error of the request.
    :raises Cut: when it is an error of the engine, or nonsense.
    """
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise Cut(engine, "the engine sent no JSON") from error
    if not isinstance(body, dict):
        raise Cut(engine, "the engine sent no object")
    told = body.get("error", body if str(body.get("type", "")).endswith("_error") else None)
    if told is None:
        return body
    code = told.get("code") if isinstance(told, dict) else None
    if isinstance(code, int) and 400 <= code < 500:
        raise Refusal(refusal(code, json.dumps({"error": told}).encode()))
    raise Cut(engine, "the engine reported an error of its own")
