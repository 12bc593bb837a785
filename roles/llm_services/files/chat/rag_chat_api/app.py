# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The application: routes, headers, errors."""

from __future__ import annotations

import errno
from pathlib import Path

from flask import Response, current_app, jsonify, request
from flask_openapi3.models.info import Info
from flask_openapi3.openapi import OpenAPI
from prometheus_client import generate_latest
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException

from . import chat_api, documents_api, openai_api, widget_api
from .capacity import Bounded
from .context import Services, invalid, refused, services_of
from .events import Failed
from .models import StatusAnswer
from .settings import MIB, Settings, from_environment

STATIC = Path(__file__).resolve().parent / "static"
# What a page may load comes from here, nothing runs that is written in it: HTML in an answer or a document stays text.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
REQUEST_BYTES = 32 * MIB


def create_app(settings: Settings | None = None) -> OpenAPI:
    """Make the application. Nothing is connected to before the first request needs it."""
    app = OpenAPI(
        "rag_chat_api",
        info=Info(title="LLM chat", version=_version(), description="Chat with documents. Keys are checked at the edge."),
        security_schemes={"key": {"type": "http", "scheme": "bearer"}},
        doc_ui=False,
        static_folder=str(STATIC),
        static_url_path="/static",
        validation_error_callback=_wrong,
    )
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.config["MAX_CONTENT_LENGTH"] = REQUEST_BYTES
    made = services_of(settings or from_environment())
    app.extensions["services"] = made
    for blueprint in (openai_api.api, chat_api.api, documents_api.api, widget_api.api):
        app.register_api(blueprint)
    _pages(app)
    _status(app, made)
    app.after_request(_headed)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(RecursionError, lambda _error: invalid(422, "The request is nested too deeply.", "invalid"))
    app.register_error_handler(OSError, _os_error)
    app.register_error_handler(Exception, _error)
    app.wsgi_app = Bounded(app.wsgi_app, made.settings.threads)  # type: ignore[method-assign]
    return app


def _version() -> str:
    named = Path(__file__).resolve().parent.parent / "VERSION"
    return named.read_text(encoding="utf-8").strip() if named.exists() else "unversioned"


def _pages(app: OpenAPI) -> None:
    app.add_url_rule("/", "page", lambda: app.send_static_file("index.html"))
    app.add_url_rule("/widget.js", "widget_js", lambda: app.send_static_file("widget.js"))
    app.add_url_rule("/openapi.json", "openapi_json", lambda: jsonify(app.api_doc))


def _status(app: OpenAPI, made: Services) -> None:
    @app.get("/api/status", summary="Whether questions can be answered", responses={200: StatusAnswer})
    def status() -> Response:
        """Cheap: looks at most every two seconds, needs no key."""
        engines, documents = made.health.look()
        state = "ok" if engines else "away"
        return jsonify(state=state, model=made.settings.model, documents=documents, version=app.info.version)

    def metrics() -> Response:
        if request.environ.get("SERVER_PORT") != str(made.settings.status_port):
            return invalid(404, "There is nothing here.")
        return Response(generate_latest(made.usage.metrics.registry), mimetype="text/plain; version=0.0.4")

    app.add_url_rule("/metrics", "metrics", metrics)


def _headed(answer: Response) -> Response:
    for name, value in HEADERS.items():
        answer.headers.setdefault(name, value)
    if request.path == "/widget.js":
        answer.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    return answer


def _wrong(error: ValidationError) -> Response:
    """A request that is not what the OpenAPI document asks for."""
    told = [f"{'.'.join(str(part) for part in one['loc']) or 'body'}: {one['msg']}" for one in error.errors(include_url=False)[:5]]
    return invalid(422, f"The request is wrong. {'; '.join(told)}.", "invalid")


def _http_error(error: HTTPException) -> Response:
    if isinstance(error.response, Response):
        return error.response
    told = invalid(error.code or 500, error.description or error.name)
    told.headers.extend([pair for pair in error.get_headers() if pair[0] == "Allow"])
    return told


def _os_error(error: OSError) -> Response:
    """A full /tmp is the uploads' of others, and soon empty."""
    if error.errno != errno.ENOSPC:
        return _error(error)
    return refused(Failed(503, "There is no room for the upload now. Try again in a few seconds.", code="overloaded", retry_after=5))


def _error(error: Exception) -> Response:
    """What was not foreseen: logged whole, told in a sentence."""
    current_app.logger.exception("unexpected", exc_info=error)
    return invalid(500, f"Something went wrong inside the service ({type(error).__name__}). Its log says more.", "internal")
