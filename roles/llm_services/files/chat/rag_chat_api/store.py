# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documents, as passages with their vectors, in Chroma. A collection is one of Chroma's; nothing is shared between two."""

from __future__ import annotations

import functools
import re
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Callable, TypeVar
from urllib.parse import urlsplit

import chromadb
import httpx
from chromadb.api import ClientAPI
from chromadb.api.models.Collection import Collection
from chromadb.config import Settings as ChromaSettings
from chromadb.errors import ChromaError, NotFoundError

from .embed import Embedder

NAME = r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$"
# Chroma wants names of three characters or more, and other programs may use the same Chroma.
PREFIX = "llm-"
PASSAGES = 5_000
BATCH = 200
# What an upload wrote goes after so long, unless it came to its end: no upload takes that long, in any of the replicas.
ABANDONED_S = 2 * 3600
# Its client would wait for ever: for a machine that is gone without a word, and for a disk that hangs.
PATIENCE = httpx.Timeout(30.0, connect=3.0)
# A Chroma that did not answer is not asked again for so long: each look at one that hangs holds a thread for a second.
AWAY_S = 2.0
SILENT = "The document store cannot be reached (it does not answer). Try again in a few seconds."
T = TypeVar("T")


class Missing(Exception):
    """What was asked for is not there."""


class Conflict(Exception):
    """What was asked for cannot be done with what is there."""


class Away(Exception):
    """Chroma cannot be reached."""


@dataclass(frozen=True)
class Document:
    """A document as it is listed. :param uploaded: in UTC, ISO 8601."""

    id: str
    name: str
    kind: str
    bytes: int
    passages: int
    uploaded: str


@dataclass(frozen=True)
class Source:
    """A passage found. :param score: from 0 to 1, higher is nearer in meaning."""

    document: str
    name: str
    passage: int
    score: float
    text: str


def _reached(method: Callable[..., T]) -> Callable[..., T]:
    """Turn what Chroma's client raises into the exceptions above."""

    @functools.wraps(method)
    def call(self: Store, *args: Any, **more: Any) -> T:
        try:
            return method(self, *args, **more)
        except NotFoundError as error:
            raise Missing(f"There is no collection {args[0] if args else ''!r}.") from error
        except (httpx.HTTPError, ChromaError, OSError, ValueError) as error:
            self.forget(away=isinstance(error, (httpx.TransportError, OSError)))
            raise Away(f"The document store cannot be reached ({type(error).__name__}). Try again in a few seconds.") from error

    return call


class Store:
    """The collections.

    :param url: where Chroma is.
    :param embedder: what turns texts into vectors.
    """

    def __init__(self, url: str, embedder: Embedder) -> None:
        self.url, self.embedder = urlsplit(url), embedder
        self.lock = threading.Lock()
        self.client: ClientAPI | None = None
        self.away_until = 0.0

    def forget(self, *, away: bool) -> None:
        """Connect anew next time: a Chroma that was moved has another address. :param away: it did not answer."""
        self.client = None
        if away:
            self.away_until = time.monotonic() + AWAY_S

    def _connected(self) -> ClientAPI:
        client = self.client
        if client is None:
            if time.monotonic() < self.away_until:
                raise Away(SILENT)
            # Outside the lock: nobody waits for another's look.
            client = self._new() if self.alive() else None
        if client is None:
            self.forget(away=True)
            raise Away(SILENT)
        return client

    def _new(self) -> ClientAPI | None:
        """A new client, or the one that another thread made meanwhile; none when that takes long: making one asks Chroma without limit."""
        if not self.lock.acquire(timeout=1.0):
            return None
        try:
            made = self.client
            if made is None:
                settings = ChromaSettings(anonymized_telemetry=False)
                made = chromadb.HttpClient(self.url.hostname or "chroma", self.url.port or 8000, settings=settings)
                made._server._session.timeout = PATIENCE  # type: ignore[attr-defined]
                self.client = made
            return made
        finally:
            self.lock.release()

    def alive(self) -> bool:
        """Whether Chroma answers."""
        try:
            return httpx.get(f"{self.url.geturl()}/api/v2/heartbeat", timeout=1.0, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def _collection(self, name: str) -> Collection:
        if not re.match(NAME, name):
            raise Missing(f"There is no collection {name!r}.")
        found = self._connected().get_collection(PREFIX + name, embedding_function=None)
        space = (found.metadata or {}).get("embeddings")
        if space != self.embedder.name:
            raise Conflict(f"Collection {name!r} was made with {space}, and {self.embedder.name} is in use. Delete it and upload anew.")
        return found

    @_reached
    def collections(self) -> list[str]:
        """Names of all collections, sorted."""
        listed = self._connected().list_collections(limit=10_000)
        return sorted(one.name.removeprefix(PREFIX) for one in listed if one.name.startswith(PREFIX))

    @_reached
    def create(self, name: str) -> bool:
        """Make a collection; false when it is there."""
        there = PREFIX + name in {one.name for one in self._connected().list_collections(limit=10_000)}
        metadata = {"embeddings": self.embedder.name, "hnsw:space": "cosine"}
        if not there:
            self._connected().get_or_create_collection(PREFIX + name, metadata=metadata, embedding_function=None)
        return not there

    @_reached
    def drop(self, name: str) -> None:
        """Delete a collection with all its documents.

        :raises Missing: when there is none.
        """
        if not re.match(NAME, name):
            raise Missing(f"There is no collection {name!r}.")
        self._connected().delete_collection(PREFIX + name)

    @_reached
    def add(self, name: str, document: Document, texts: list[str]) -> None:
        """Add a document's passages. It is listed and found when the last batch is written, which is the one with passage 0.

        :raises Conflict: when it was deleted meanwhile.
        """
        collection = self._collection(name)
        self._sweep(collection)
        about: dict[str, str | int | float | bool | None] = {
            "document": document.id,
            "name": document.name,
            "kind": document.kind,
            "bytes": document.bytes,
        }
        about.update(passages=document.passages, uploaded=document.uploaded)
        try:
            for begin in (*range(BATCH, len(texts), BATCH), 0):
                part = texts[begin : begin + BATCH]
                collection.add(
                    ids=[f"{document.id}:{begin + at}" for at in range(len(part))],
                    documents=part,
                    embeddings=self.embedder.embed(part),
                    metadatas=[{**about, "passage": begin + at} for at in range(len(part))],
                )
            if len(self._ids(collection, document.id)) < len(texts):
                raise Conflict(f"{document.name!r} was deleted while it was uploaded.")
        except Exception:
            self._clear(collection, document.id)
            raise

    @staticmethod
    def _ids(collection: Collection, document: str) -> list[str]:
        """A document's passages, in the order in which they are deleted: the one that makes it listed first, then backwards."""
        ids = collection.get(where={"document": document}, include=[])["ids"]
        batches = sorted(ids, key=lambda one: int(one.rpartition(":")[2]) // BATCH, reverse=True)
        return sorted(batches, key=lambda one: not one.endswith(":0"))

    def _clear(self, collection: Collection, document: str) -> int:
        """Delete what there is of a document; return how many passages that were."""
        ids = self._ids(collection, document)
        for begin in range(0, len(ids), BATCH):
            collection.delete(ids=ids[begin : begin + BATCH])
        return len(ids)

    @staticmethod
    def _whole(collection: Collection, documents: set[str]) -> set[str]:
        """Those of the documents that were written to their end, and not deleted."""
        there = collection.get(ids=[f"{document}:0" for document in documents], include=[])["ids"] if documents else []
        return {one.rpartition(":")[0] for one in there}

    def _sweep(self, collection: Collection) -> None:
        """Delete what is left of uploads that did not come to their end. Each was begun with its second batch, which is deleted last."""
        began = collection.get(where={"passage": BATCH}, include=["metadatas"])["metadatas"] or []
        before = _now(-ABANDONED_S)
        old = {str(about["document"]) for about in began if str(about["uploaded"]) < before}
        for document in old - self._whole(collection, old):
            self._clear(collection, document)

    @_reached
    def documents(self, name: str) -> list[Document]:
        """Documents of a collection, newest first."""
        found = self._collection(name).get(where={"passage": 0}, include=["metadatas"])
        listed = [_document(metadata) for metadata in found["metadatas"] or []]
        return sorted(listed, key=lambda one: (one.uploaded, one.id), reverse=True)

    @_reached
    def remove(self, name: str, document: str) -> int:
        """Delete a document and return how many passages that were.

        :raises Missing: when there is none.
        """
        collection = self._collection(name)
        deleted = self._clear(collection, document)
        if not deleted:
            raise Missing(f"There is no document {document!r} in collection {name!r}.")
        return deleted

    @_reached
    def search(self, name: str, question: str, count: int = 5) -> list[Source]:
        """The passages nearest in meaning to a question, nearest first. Those of documents that are not listed are passed over."""
        collection = self._collection(name)
        vector = self.embedder.embed([question])
        unlisted: set[str] = set()
        while True:
            rows = _nearest(collection, vector, count, unlisted)
            documents = {str(about["document"]) for _text, about, _distance in rows}
            partial = documents - self._whole(collection, documents)
            if not partial:
                break
            unlisted |= partial
        return [
            Source(str(about["document"]), str(about["name"]), int(str(about["passage"])), round(1 - distance / 2, 4), text)
            for text, about, distance in rows
        ]


def _nearest(collection: Collection, vector: Any, count: int, unlisted: set[str]) -> list[tuple[str, Any, float]]:
    """Passages as text, what is known about them, and distance. :param unlisted: documents that are left out."""
    where: Any = {"document": {"$nin": sorted(unlisted)}} if unlisted else None
    found = collection.query(query_embeddings=vector, n_results=count, where=where, include=["documents", "metadatas", "distances"])
    return list(zip((found["documents"] or [[]])[0], (found["metadatas"] or [[]])[0], (found["distances"] or [[]])[0]))


def new_document(name: str, kind: str, size: int, passages: int) -> Document:
    """A document that is about to be added, with an identity of its own."""
    return Document(uuid.uuid4().hex, name, kind, size, passages, _now())


def _now(more: float = 0) -> str:
    """The time in so many seconds."""
    return datetime.fromtimestamp(time.time() + more, timezone.utc).isoformat(timespec="seconds")


def _document(about: Any) -> Document:
    fields = {field: about[field] for field in ("name", "kind", "bytes", "passages", "uploaded")}
    return Document(id=about["document"], **fields)
