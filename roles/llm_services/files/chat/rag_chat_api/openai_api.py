# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""OpenAI's chat completions. A stream stays one stream, whichever engines it took."""

from __future__ import annotations

from typing import Any, Generator, Iterator

from flask import Response, jsonify
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from . import sse
from .context import client, key_name, refused, services
from .events import Chunk, Continued, Done, Event, Failed, Json, Lost
from .models import Completion, CompletionAnswer, ErrorAnswer
from .usage import Record
from .wire import Line, waited_for

ERRORS: Any = {400: ErrorAnswer, 404: ErrorAnswer, 422: ErrorAnswer, 502: ErrorAnswer, 503: ErrorAnswer}
api = APIBlueprint("openai", __name__, abp_tags=[Tag(name="OpenAI")])


@api.post("/v1/chat/completions", summary="Complete a conversation", responses={200: CompletionAnswer, **ERRORS})
def completions(body: Completion) -> Response:
    """As OpenAI's API. Comments in a stream say that another engine took over; clients ignore them."""
    request = body.model_dump(exclude_unset=True)
    request["model"] = request.get("model") or services().settings.model
    record = services().usage.begin(key_name(), str(request["model"]), "/v1/chat/completions", last_question(request["messages"]))
    return stream(request, record) if request.pop("stream", False) else whole(request, record)


def last_question(messages: list[Json]) -> str:
    """The text that was asked last."""
    content = messages[-1].get("content")
    return content if isinstance(content, str) else ""


def whole(request: Json, record: Record) -> Response:
    """The answer in one piece."""
    line = Line()
    with waited_for(line, client()):
        answer = services().engines.whole(request, line)
    if isinstance(answer, Failed):
        services().usage.end(record, answer.status, answer.code or answer.kind)
        return refused(answer)
    body, engine = answer
    record.heard()
    record.counted(body.get("usage"))
    services().usage.end(record, 200)
    told = jsonify(body)
    told.headers["X-LLM-Engine"] = engine
    return told


def stream(request: Json, record: Record) -> Response:
    """The answer piece by piece. As long as nothing was sent, a failure is an HTTP status."""
    wanted = bool((request.get("stream_options") or {}).get("include_usage"))
    asked = {**request, "stream_options": {**(request.get("stream_options") or {}), "include_usage": True}}
    events = services().engines.stream(asked)
    first = next(events)
    if isinstance(first, Failed):
        services().usage.end(record, first.status, first.code or first.kind)
        return refused(first)
    sending = Sending(first, events, record)
    return sending.response(sending.lines(openai_line, show_usage=wanted))


def openai_line(happened: Event, show_usage: bool) -> str:
    """One event, as clients of OpenAI's API understand it, or as a comment that they ignore."""
    if isinstance(happened, Chunk):
        if happened.usage and not happened.body.get("choices") and not show_usage:
            return ""
        return sse.data(happened.body)
    if isinstance(happened, Lost):
        return sse.comment(f"replacing {happened.engine}")
    if isinstance(happened, Continued):
        return sse.comment(f"continued on {happened.engine} after {happened.after_tokens} tokens of {happened.lost}")
    if isinstance(happened, Failed):
        return sse.data(happened.body)
    return sse.data_done() if isinstance(happened, Done) else sse.HEARTBEAT


class Sending:
    """A stream on its way to a client: counts what passes, and ends the engine's work when the client leaves."""

    def __init__(self, first: Event, events: Iterator[Event], record: Record) -> None:
        self.first, self.events, self.record = first, events, record
        # 499 is nginx's number for a client that left.
        self.status, self.error = 499, "client_left"
        self.usage = services().usage

    def all(self) -> Iterator[Event]:
        """Every event, the first one too."""
        yield self.first
        yield from self.events

    def count(self, happened: Event) -> None:
        """Note what passes."""
        if isinstance(happened, Chunk):
            if happened.text:
                self.record.heard()
            self.record.counted(happened.usage)
        elif isinstance(happened, Continued):
            self.record.continued += 1
        elif isinstance(happened, Done):
            self.status, self.error = 200, ""
        elif isinstance(happened, Failed):
            self.status, self.error = happened.status, happened.code or happened.kind

    def lines(self, line: Any, **more: Any) -> Iterator[str]:
        """Every event in the words of a protocol."""
        for happened in self.all():
            self.count(happened)
            said = line(happened, **more)
            if said:
                yield said

    def response(self, lines: Iterator[str]) -> Response:
        """The HTTP answer."""
        answer = Response(lines, mimetype="text/event-stream", headers=sse.HEADERS)
        answer.call_on_close(self.end)
        return answer

    def end(self) -> None:
        """The stream is over, by its end or by the client's leaving."""
        if isinstance(self.events, Generator):
            self.events.close()
        self.usage.end(self.record, self.status, self.error)
