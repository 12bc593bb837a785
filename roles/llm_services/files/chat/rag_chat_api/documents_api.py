# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Collections and their documents. Files are uploaded; the service fetches no address for anybody."""

from __future__ import annotations

from typing import Any, Callable

from flask import Response, jsonify
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from .context import invalid, plain, refused, services
from .embed import EmbeddingError
from .events import Failed
from .models import (
    CollectionPath,
    CollectionRequest,
    CollectionsAnswer,
    DeletedAnswer,
    DocumentAnswer,
    DocumentForm,
    DocumentPath,
    DocumentsAnswer,
    DocumentsQuery,
    ErrorAnswer,
    SearchAnswer,
    SearchQuery,
)
from .parse import Busy, Unreadable, kind_of, text_of
from .split import passages
from .store import PASSAGES, Away, Conflict, Missing, new_document

ERRORS: Any = {404: ErrorAnswer, 409: ErrorAnswer, 422: ErrorAnswer, 503: ErrorAnswer}
api = APIBlueprint("documents", __name__, abp_tags=[Tag(name="Documents")])


def tried(act: Callable[[], Response]) -> Response:
    """Do something with the store, and say in HTTP what went wrong."""
    try:
        return act()
    except Missing as error:
        return invalid(404, str(error), "not_found")
    except Conflict as error:
        return invalid(409, str(error))
    except (Away, EmbeddingError) as error:
        return refused(Failed(503, str(error), retry_after=5))


@api.get("/api/collections", summary="List collections", responses={200: CollectionsAnswer, **ERRORS})
def collections() -> Response:
    """Names of all collections, sorted."""
    return tried(lambda: jsonify(collections=services().store.collections()))


@api.post("/api/collections", summary="Make a collection", responses={200: CollectionsAnswer, 201: CollectionsAnswer, **ERRORS})
def create(body: CollectionRequest) -> Response:
    """201 when it was made, 200 when it was there."""

    def act() -> Response:
        made = services().store.create(body.name)
        answer = jsonify(collections=services().store.collections())
        answer.status_code = 201 if made else 200
        return answer

    return tried(act)


@api.delete("/api/collections/<name>", summary="Delete a collection with all its documents", responses={200: CollectionsAnswer, **ERRORS})
def drop(path: CollectionPath) -> Response:
    """What is left afterwards is listed."""

    def act() -> Response:
        services().store.drop(path.name)
        return jsonify(collections=services().store.collections())

    return tried(act)


@api.get("/api/collections/<name>/search", summary="Find passages", responses={200: SearchAnswer, **ERRORS})
def search(path: CollectionPath, query: SearchQuery) -> Response:
    """The passages nearest in meaning, without asking a model."""
    return tried(lambda: jsonify(sources=[plain(source) for source in services().store.search(path.name, query.q, query.k)]))


@api.get("/api/documents", summary="List documents", responses={200: DocumentsAnswer, **ERRORS})
def documents(query: DocumentsQuery) -> Response:
    """Documents of a collection, newest first."""
    return tried(lambda: jsonify(documents=[plain(one) for one in services().store.documents(query.collection)]))


@api.post("/api/documents", summary="Upload a document", responses={201: DocumentAnswer, 413: ErrorAnswer, **ERRORS})
def upload(form: DocumentForm) -> Response:
    """The file is read at once; a collection that is not there is made."""
    limit = services().settings.upload_bytes
    name = (form.file.filename or "").replace("\\", "/").rpartition("/")[2][:200]
    content = form.file.stream.read(limit + 1)
    if len(content) > limit:
        return invalid(413, f"{name!r} is larger than the {limit // (1024 * 1024)} MiB that are taken. Split it.", "too_large")
    try:
        kind = kind_of(name)
        texts = passages(text_of(name, content))
        if len(texts) > PASSAGES:
            raise Unreadable(f"{name!r} makes {len(texts)} passages, more than the {PASSAGES} that are taken. Split it.")
    except Unreadable as error:
        return invalid(422, str(error), "unreadable")
    except Busy as error:
        return refused(Failed(503, str(error), code="overloaded", retry_after=5))

    def act() -> Response:
        services().store.create(form.collection)
        document = new_document(name, kind, len(content), len(texts))
        services().store.add(form.collection, document, texts)
        answer = jsonify(plain(document))
        answer.status_code = 201
        return answer

    return tried(act)


@api.delete("/api/documents/<id>", summary="Delete a document", responses={200: DeletedAnswer, **ERRORS})
def remove(path: DocumentPath, query: DocumentsQuery) -> Response:
    """It is gone from the next answer on."""
    return tried(lambda: jsonify(passages=services().store.remove(query.collection, path.id)))
