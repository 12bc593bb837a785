# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What moves: files by their place in an export, and the manifest that names them all with their checksums."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Mapping

from .._errors import BadInput, StackError

MANIFEST = "llm-migration.json"
FORMAT = 1
MODEL, DOCUMENT = "model", "document"
FOLDERS = {MODEL: "models", DOCUMENT: "documents"}
# What the chat service reads, and how large a document may be; what is beyond is told and not moved.
KINDS = ("txt", "text", "md", "markdown", "html", "htm", "pdf", "docx")
DOCUMENT_BYTES = 20 * 1024 * 1024
# A model's file as the model store takes it, and a collection as the chat service names it.
FILE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")
COLLECTION = re.compile(r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$")
_SHA256 = re.compile(r"^[0-9a-f]{64}$")


@dataclass(frozen=True)
class Entry:
    """A file that moves.

    :param place: its path in the export: ``models/NAME`` or ``documents/COLLECTION/NAME``.
    :param size: in bytes.
    :param source: where it is on the old machine; the manifest does not have it.
    :param ids: rows of Chroma's database whose texts it is made of, where it is no file there.
    """

    kind: str
    place: str
    size: int
    sha256: str
    source: str = ""
    ids: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Its name without any folder."""
        return self.place.rpartition("/")[2]

    @property
    def collection(self) -> str:
        """The collection of a document."""
        return self.place.split("/")[1] if self.kind == DOCUMENT else ""


@dataclass(frozen=True)
class Manifest:
    """All that moves.

    :param passages: of Chroma's collections, how many passages with a text there were, by the new collection's name.
    :param left_out: sentences about what does not move.
    """

    entries: tuple[Entry, ...] = ()
    passages: Mapping[str, int] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def of(self, kind: str) -> tuple[Entry, ...]:
        """The files of one kind."""
        return tuple(entry for entry in self.entries if entry.kind == kind)

    def as_data(self) -> dict[str, Any]:
        """As it is written, and returned."""
        files = [{"kind": one.kind, "place": one.place, "size": one.size, "sha256": one.sha256} for one in self.entries]
        return {"format": FORMAT, "files": files, "passages": dict(self.passages), "left_out": list(self.left_out)}


def parse_manifest(text: str, path: str) -> Manifest:
    """Read a manifest.

    :param path: where it was, for the error.
    :raises StackError: when it is none; names that lead out of the export are none.
    """
    try:
        told = json.loads(text)
        if told["format"] != FORMAT:
            raise ValueError(f"its format is {told['format']}, and this reads {FORMAT}")
        entries = tuple(Entry(str(row["kind"]), str(row["place"]), int(row["size"]), str(row["sha256"])) for row in told["files"])
        passages = {str(name): int(count) for name, count in told["passages"].items()}
        left_out = tuple(str(line) for line in told["left_out"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StackError(f"{path} is no manifest of an export: {error}. Export anew, or bring the whole folder over.") from error
    for entry in entries:
        if not _proper(entry):
            raise StackError(f"{path} names {entry.place!r}, which no export has. Export anew; nothing was changed.")
    if len({entry.place for entry in entries}) != len(entries):
        raise StackError(f"{path} names a file twice. Export anew; nothing was changed.")
    return Manifest(entries, passages, left_out)


def _proper(entry: Entry) -> bool:
    parts = entry.place.split("/")
    if entry.size < 0 or not _SHA256.match(entry.sha256) or entry.kind not in FOLDERS or parts[0] != FOLDERS[entry.kind]:
        return False
    if entry.kind == MODEL:
        return len(parts) == 2 and bool(FILE.match(parts[1]))
    return len(parts) == 3 and bool(COLLECTION.match(parts[1])) and is_document_name(parts[2])


def is_document_name(name: str) -> bool:
    """Whether a document can have this name: it is one of a file, and can be sent as it is."""
    return 0 < len(name) <= 200 and not name.startswith(".") and name.isprintable() and not set(name) & set('/\\"')


def check_collection(name: str) -> str:
    """Return the name of a collection.

    :raises BadInput: when it cannot be one.
    """
    if not COLLECTION.match(name):
        raise BadInput(f"The collection {name!r} cannot be: use small letters, digits and - inside, 63 characters at most.")
    return name
