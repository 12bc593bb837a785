# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What requests and answers look like. The OpenAPI document is made of these, and requests are checked by them."""

from __future__ import annotations

import json
from typing import Any, Literal

from flask import request
from flask_openapi3.models.file import FileStorage
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from werkzeug.datastructures import FileStorage as Uploaded

from .store import NAME

COLLECTION = Field(pattern=NAME, description="Lower-case letters, digits and dashes; 63 at most.")


class Strict(BaseModel):
    """A request in which a misspelt field is an error."""

    model_config = ConfigDict(extra="forbid")


class Turn(Strict):
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    content: str = Field(max_length=200_000)


class ChatRequest(Strict):
    """A question, with what was said before."""

    message: str = Field(min_length=1, max_length=200_000)
    history: list[Turn] = Field(default_factory=list, max_length=200)
    collection: str | None = Field(default=None, pattern=NAME, description="Answer from the documents of this collection.")
    model: str | None = Field(default=None, max_length=200, description="A model other than the site's.")
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    stream: bool = Field(default=False, description="Answer as server-sent events: sources, token, notice, continued, done or error.")


class WidgetRequest(Strict):
    """A question asked in the widget."""

    message: str = Field(min_length=1, max_length=2_000)
    history: list[Turn] = Field(default_factory=list, max_length=20)


class Completion(BaseModel):
    """A request of OpenAI's API; what is not named here goes to the engine as it is."""

    model_config = ConfigDict(extra="allow")
    messages: list[dict[str, Any]] = Field(min_length=1)
    model: str | None = Field(default=None, max_length=200)
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _can_be_sent_on(self) -> Completion:
        try:
            json.dumps(self.model_dump(exclude_unset=True), ensure_ascii=False, allow_nan=False).encode()
        except ValueError as error:
            raise ValueError("it holds a number that is none, or half of a character, and no engine could read it") from error
        return self


class ErrorBody(BaseModel):
    """Why it did not work, and what to do."""

    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """An error, worded as OpenAI's API words them."""

    error: ErrorBody


class SourceAnswer(BaseModel):
    """A passage that an answer stands on."""

    document: str
    name: str
    passage: int
    score: float
    text: str


class ChatAnswer(BaseModel):
    """An answer and its sources, numbered from 1 as the answer cites them."""

    answer: str
    model: str
    sources: list[SourceAnswer]
    tokens: int
    continued: int = Field(description="How often another engine took the answer over.")


class CompletionAnswer(BaseModel):
    """The engine's answer as it is."""

    model_config = ConfigDict(extra="allow")
    choices: list[dict[str, Any]]


class CollectionRequest(Strict):
    """A collection to be made."""

    name: str = COLLECTION


class CollectionPath(BaseModel):
    """A collection in a path."""

    name: str = COLLECTION


class CollectionsAnswer(BaseModel):
    """Names of the collections."""

    collections: list[str]


class SearchQuery(Strict):
    """What to look for."""

    # It travels in the request line, for which gunicorn takes 8190 bytes; a character may need twelve.
    q: str = Field(min_length=1, max_length=600)
    k: int = Field(default=5, ge=1, le=50)


class SearchAnswer(BaseModel):
    """Passages, nearest in meaning first."""

    sources: list[SourceAnswer]


class DocumentForm(Strict):
    """A file for a collection: txt, md, html, pdf or docx."""

    file: FileStorage
    collection: str = COLLECTION

    @field_validator("file", mode="before")
    @classmethod
    def _is_a_file(cls, given: Any) -> Any:
        if not isinstance(given, Uploaded):
            raise ValueError("a file is wanted, as multipart/form-data")
        return given

    @field_validator("collection", mode="before")
    @classmethod
    def _as_written(cls, given: Any) -> Any:
        """The framework reads a form's fields as JSON; a collection may be called 2024 or true."""
        return request.form.get("collection", given)


class DocumentsQuery(Strict):
    """Whose documents."""

    collection: str = COLLECTION


class DocumentPath(BaseModel):
    """A document in a path."""

    id: str = Field(pattern=r"^[0-9a-f]{32}$")


class DocumentAnswer(BaseModel):
    """A document of a collection."""

    id: str
    name: str
    kind: str
    bytes: int
    passages: int
    uploaded: str


class DocumentsAnswer(BaseModel):
    """Documents of a collection, newest first."""

    documents: list[DocumentAnswer]


class DeletedAnswer(BaseModel):
    """How many passages are gone."""

    passages: int


class StatusAnswer(BaseModel):
    """Whether questions can be answered now."""

    state: Literal["ok", "away"]
    model: str
    documents: bool
    version: str
