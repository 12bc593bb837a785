# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gives documents to the chat service by its API, as any client does."""

from __future__ import annotations

import http.client
import json
import secrets
import time
from pathlib import Path
from typing import Any, Callable
from urllib.parse import quote

from .._errors import StackError
from .._recover.proof import connection_to
from .model import Entry

_TRIES, _PAUSE = 5, 5.0


class ChatService:
    """The service behind an edge.

    :param url: address of the edge. On this host its certificate is not looked at, elsewhere it is.
    :param key: an API key; it is in no error.
    :param timeout: seconds for one document, which has to be read and embedded.
    """

    def __init__(self, url: str, key: str, *, timeout: float, sleep: Callable[[float], None] = time.sleep) -> None:
        self.url, self.key, self.timeout, self.sleep = url, key, timeout, sleep

    def documents(self, collection: str) -> list[dict[str, Any]]:
        """Return what a collection has; one that is not there has nothing.

        :raises StackError: the service gives no list.
        """
        status, told = self._ask("GET", f"/api/documents?collection={quote(collection)}")
        if status == 404:
            return []
        if status != 200 or not isinstance(told.get("documents"), list):
            raise StackError(f"The chat service does not list the collection {collection}: {_why(status, told)}")
        return list(told["documents"])

    def upload(self, path: Path, entry: Entry) -> None:
        """Upload a document.

        :raises StackError: the service does not take it.
        """
        border = f"llm-{secrets.token_hex(16)}"
        head = f'--{border}\r\nContent-Disposition: form-data; name="collection"\r\n\r\n{entry.collection}\r\n--{border}\r\n'
        head += f'Content-Disposition: form-data; name="file"; filename="{entry.name}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        body = head.encode("utf-8") + path.read_bytes() + f"\r\n--{border}--\r\n".encode()
        status, told = self._ask("POST", "/api/documents", body, f"multipart/form-data; boundary={border}")
        if status != 201:
            raise StackError(f"The chat service does not take {entry.name}: {_why(status, told)}")
        if (told.get("name"), told.get("bytes")) != (entry.name, entry.size):
            raise StackError(f"The chat service took {entry.name} as {told.get('name')} of {told.get('bytes')} bytes. Delete it there.")

    def _ask(self, verb: str, path: str, body: bytes = b"", kind: str = "") -> tuple[int, dict[str, Any]]:
        """Ask, and again while the service says that it is busy, or does not answer a question that may be repeated."""
        headers = {"Authorization": f"Bearer {self.key}", **({"Content-Type": kind} if kind else {})}
        for left in reversed(range(_TRIES)):
            try:
                status, told = self._once(verb, path, body, headers)
            except (OSError, http.client.HTTPException) as error:
                # Whether an upload arrived is not known: the next run looks, and does not upload twice.
                if verb == "POST" or not left:
                    raise StackError(
                        f"The chat service at {self.url} gives no answer: {error}. See `docker service ps llm_chat`."
                    ) from error
                status, told = 503, {}
            if status not in (429, 503) or not left:
                break
            self.sleep(_PAUSE)
        return status, told

    def _once(self, verb: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        connection = connection_to(self.url, self.timeout)
        try:
            connection.request(verb, path, body or None, headers)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        try:
            told = json.loads(text)
        except ValueError:
            told = {}
        return response.status, told if isinstance(told, dict) else {}


def _why(status: int, told: dict[str, Any]) -> str:
    error = told.get("error")
    message = error.get("message") if isinstance(error, dict) else error
    return f"it answered {status}{f', {message}' if message else ''}. See `docker service logs llm_chat`."
