# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The widget for other sites: they need no key, so they are listed, and get so many answers a day."""

from __future__ import annotations

from typing import Any

from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from .chat_api import answer, question
from .context import invalid, refused, services
from .events import Failed
from .models import ErrorAnswer, WidgetRequest
from .widget_cap import allowed

ERRORS: Any = {403: ErrorAnswer, 422: ErrorAnswer, 429: ErrorAnswer, 503: ErrorAnswer}
TOKENS = 1_000
api = APIBlueprint("widget", __name__, abp_tags=[Tag(name="Widget")])


@api.post(
    "/widget/chat",
    provide_automatic_options=False,
    summary="Ask in the widget",
    responses={200: {"description": "Server-sent events", "content": {"text/event-stream": {}}}, **ERRORS},
)
def chat(body: WidgetRequest) -> Response:
    """Answer a visitor of a listed site, as server-sent events."""
    origin, settings = request.headers.get("Origin", ""), services().settings
    if not allowed(origin, settings.widget_domains):
        return invalid(403, "This site is not listed. Its address belongs into the widget's list of domains.", "domain_not_listed")
    wait = services().cap.take()
    if wait:
        told = refused(
            Failed(429, "The widget has given all its answers for today. It goes on tomorrow.", code="daily_cap", retry_after=wait)
        )
        return _shared(told, origin)
    told = _answered(body, origin)
    if told.status_code != 200:
        services().cap.give_back()
    return _shared(told, origin)


def _answered(body: WidgetRequest, origin: str) -> Response:
    settings, cap = services().settings, services().cap
    made = question(body.message, [turn.model_dump() for turn in body.history], settings.widget_collection or None)
    if isinstance(made, Response):
        return made
    made.request.update(model=settings.model, max_tokens=TOKENS)
    record = services().usage.begin(f"widget:{origin.partition('://')[2][:90]}", settings.model, "/widget/chat", body.message)
    told = answer(made, record, stream=True)
    if told.status_code == 200:
        # A stream may end in an error before its first token. A visitor who left is counted: the engine had begun.
        told.call_on_close(lambda: cap.give_back() if record.status >= 500 and not record.tokens else None)
    return told


@api.route("/widget/chat", methods=["OPTIONS"])
def preflight() -> Response:
    """The browser's question whether the site may ask."""
    origin = request.headers.get("Origin", "")
    if not allowed(origin, services().settings.widget_domains):
        return invalid(403, "This site is not listed.", "domain_not_listed")
    answered = _shared(Response(status=204), origin)
    answered.headers.update({"Access-Control-Allow-Headers": "Content-Type", "Access-Control-Allow-Methods": "POST"})
    answered.headers["Access-Control-Max-Age"] = "600"
    return answered


def _shared(told: Response, origin: str) -> Response:
    told.headers["Access-Control-Allow-Origin"] = origin
    told.headers["Vary"] = "Origin"
    return told
