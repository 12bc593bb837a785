# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The application: records in, a page out."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
import threading
import time
from datetime import datetime, timezone
from typing import Annotated, Any

from flask import Flask, Response, jsonify, render_template, request
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from sqlalchemy.exc import OperationalError

from . import plots
from .database import DAY, Database
from .report import quantile, report
from .settings import Settings, from_environment

SPANS = (7, 30, 90)
BATCH = 1_000


class Record(BaseModel):
    """One request, as the chat service tells it."""

    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    at: float = Field(ge=0, le=1e11, allow_inf_nan=False)
    key: str = Field(max_length=120)
    model: str = Field(max_length=200)
    route: str = Field(max_length=60)
    status: int = Field(ge=100, le=599)
    error: str = Field(default="", max_length=60)
    first_token_s: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    seconds: float = Field(ge=0, allow_inf_nan=False)
    prompt_tokens: int = Field(ge=0, le=2**31 - 1)
    completion_tokens: int = Field(ge=0, le=2**31 - 1)
    continued: int = Field(ge=0, le=1000)
    prompt: str = Field(default="", max_length=200_000)


RECORDS: TypeAdapter[list[Record]] = TypeAdapter(Annotated[list[Record], Field(max_length=BATCH)])


def create_app(settings: Settings | None = None) -> Flask:
    """Make the application."""
    told = settings or from_environment()
    database = Database(told.database)
    app = Flask("analytics", static_url_path="/analytics/static", root_path=__file__.rpartition("/")[0])
    app.config["MAX_CONTENT_LENGTH"] = 32 * 1024 * 1024
    app.jinja_env.filters["short"] = plots.short
    app.add_url_rule("/health", "health", lambda: ("ok\n", 200) if database.alive() else ("the database is away\n", 503))
    app.add_url_rule("/events", "events", lambda: take(told, database), methods=["POST"])
    app.add_url_rule("/analytics/", "page", lambda: page(told, database))
    threading.Thread(target=_forget_forever, args=(database, told.keep_days), name="forget", daemon=True).start()
    return app


def _forget_forever(database: Database, days: int) -> None:
    while True:
        with contextlib.suppress(OperationalError):
            database.forget(days)
        time.sleep(DAY / 4)


def take(settings: Settings, database: Database) -> Response:
    """Take records from the chat service."""
    shown = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if not settings.token or not hmac.compare_digest(shown.encode(), settings.token.encode()):
        return Response("The token is missing or wrong.\n", 401)
    try:
        rows = RECORDS.validate_json(request.get_data())
    except ValidationError as error:
        return Response(f"{error.errors(include_url=False, include_input=False)[:3]}\n", 422)
    if rows:
        # PostgreSQL keeps no NUL in a text.
        database.add([{name: _clean(value) for name, value in row.model_dump().items()} for row in rows])
    return Response(status=204)


def _clean(value: Any) -> Any:
    return value.replace("\x00", "") if isinstance(value, str) else value


def admitted(settings: Settings) -> bool:
    """Whether the page's password was given; compared by its hash, in constant time."""
    given = request.authorization.password if request.authorization else None
    hashed = hashlib.sha256((given or "").encode()).hexdigest()
    return hmac.compare_digest(hashed, settings.password_hash or "-") and bool(given)


def page(settings: Settings, database: Database) -> Response:
    """The page."""
    if not admitted(settings):
        return Response("The password is missing or wrong.\n", 401, {"WWW-Authenticate": 'Basic realm="analytics", charset="UTF-8"'})
    asked = request.args.get("days", "30")
    days = int(asked) if asked in {str(span) for span in SPANS} else 30
    now = datetime.now(timezone.utc)
    made = report(database.since((int(now.timestamp()) // DAY - days + 1) * DAY), now.date(), days)
    if request.args.get("as") == "json":
        return jsonify(requests=made.total.requests, errors=made.errors, keys={name: one.requests for name, one in made.by_key.items()})
    nonce = secrets.token_urlsafe(16)
    drawn = {name: getattr(plots, name)(made, nonce) for name in ("requests", "latency", "tokens", "troubles")}
    prompts = [{**row, "when": f"{datetime.fromtimestamp(row['at'], timezone.utc):%Y-%m-%d %H:%M}"} for row in database.prompts(50)]
    shown = {"report": made, "plots": drawn, "days": days, "spans": SPANS, "quantile": quantile, "prompts": prompts, "now": now}
    answer = Response(render_template("page.html", nonce=nonce, **shown), mimetype="text/html")
    policy = f"default-src 'none'; style-src 'self' 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    headers = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
    answer.headers.update({"Content-Security-Policy": policy, **headers})
    return answer
