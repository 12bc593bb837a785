# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the passages of a Chroma database: their texts move, their vectors do not, for those are of the old machine's model.

Tables and keys: chromadb 0.4 to 1.5, ``chroma.sqlite3``. The database is only read, and may be in use.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import sqlite3
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping

from .._errors import BadInput, StackError
from .model import DOCUMENT, Entry, check_collection

FILE = "chroma.sqlite3"
_TEXT = "chroma:document"
# A text of nothing else is none; the chat service would refuse it.
_BLANK = " \t\r\n\f\v\u00a0"
# Where programs keep the name of the document a passage is from: this collection's, LangChain's, LlamaIndex'; best first.
_SOURCES = ("name", "source", "file_name", "filename", "file_path", "title")
# Where passages are cut: a document is not larger than the chat service takes, even as four bytes a character.
_CHARACTERS = 1_000_000
_ROWS = """
SELECT c.name, e.id, m.key, CASE WHEN m.key = ? THEN length(m.string_value) * (trim(m.string_value, ?) != '') ELSE m.string_value END
FROM embeddings e JOIN segments s ON s.id = e.segment_id JOIN collections c ON c.id = s.collection
LEFT JOIN embedding_metadata m ON m.id = e.id AND m.key IN ({keys})
ORDER BY c.name, e.id
"""
# By collection: by row, the length of its text, or none, and what else is known of it.
Rows = Mapping[str, Mapping[int, Mapping[str, Any]]]


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open the database of a folder for reading; all that is read is of one moment.

    :raises BadInput: there is no database.
    :raises StackError: it cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        raise BadInput(f"There is no {FILE} in {folder}. Name the folder that Chroma keeps its data in.")
    try:
        with contextlib.closing(sqlite3.connect(f"file:{_quoted(path)}?mode=ro", uri=True, isolation_level=None)) as database:
            database.execute("BEGIN")
            yield database
    except sqlite3.Error as error:
        raise StackError(f"{path} cannot be read: {error}. Is it Chroma's, 0.4 or newer, and whole (PRAGMA integrity_check)?") from error


def _quoted(path: Path) -> str:
    """A path as it is written in a URI of SQLite's."""
    return re.sub(r"[%?#]", lambda found: f"%{ord(found[0]):02x}", str(path.resolve()))


def rows(database: sqlite3.Connection) -> Rows:
    """Return all passages, without their texts."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    keys = (_TEXT, *_SOURCES)
    for name, number, key, value in database.execute(_ROWS.format(keys=",".join("?" * len(keys))), (_TEXT, _BLANK, *keys)):
        known = found.setdefault(name, {}).setdefault(number, {})
        if key is not None and value is not None:
            known[key] = value
    return found


def text_of(database: sqlite3.Connection, ids: Iterable[int]) -> str:
    """Return the texts of passages as one document."""
    asked = "SELECT string_value FROM embedding_metadata WHERE id = ? AND key = ?"
    return "\n\n".join(str(database.execute(asked, (number, _TEXT)).fetchone()[0]) for number in ids) + "\n"


def documents(folder: Path, names: Mapping[str, str]) -> tuple[list[Entry], dict[str, int], list[str]]:
    """Return the documents that passages make, how many passages each collection has, and what is left out.

    :param names: the new name of a collection by its old one, where it is not to be guessed.
    :raises BadInput: a collection that is named is not there, or two would have one name.
    """
    with opened(folder) as database:
        known = rows(database)
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise BadInput(f"The Chroma database has no collection {', '.join(unknown)}. It has {', '.join(sorted(known)) or 'none'}.")
        entries: list[Entry] = []
        counts: dict[str, int] = {}
        left_out = []
        for old, passages in known.items():
            new = check_collection(names.get(old) or _collection(old))
            if new in counts:
                raise BadInput(f"Two collections of the Chroma database would be called {new}. Name them in chroma[].collections.")
            readable = {number: about for number, about in passages.items() if about.get(_TEXT)}
            counts[new] = len(readable)
            if len(readable) < len(passages):
                left_out.append(f"{len(passages) - len(readable)} entries of the collection {old} in {folder} have no text.")
            for name, ids in _parts(readable):
                data = text_of(database, ids).encode("utf-8")
                place = f"documents/{new}/{name}"
                entries.append(Entry(DOCUMENT, place, len(data), hashlib.sha256(data).hexdigest(), str(folder), ids))
    return entries, counts, left_out


def _collection(old: str) -> str:
    """The name of a collection of the chat service, whose own have a prefix in Chroma."""
    plain = old[4:] if old.startswith("llm-") else old
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[:63].strip("-")


def _parts(passages: Mapping[int, Mapping[str, Any]]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield names of documents with the passages each is made of, in the order in which they were added."""
    sources: dict[str, list[int]] = {}
    for number, about in passages.items():
        sources.setdefault(next((str(about[key]) for key in _SOURCES if about.get(key)), ""), []).append(number)
    for source, numbers in sources.items():
        parts: list[list[int]] = [[]]
        length = 0
        for number in numbers:
            if parts[-1] and length + int(passages[number][_TEXT]) > _CHARACTERS:
                parts.append([])
                length = 0
            parts[-1].append(number)
            length += int(passages[number][_TEXT]) + 2
        for at, part in enumerate(parts, 1):
            yield _name(source, at if len(parts) > 1 else 0), tuple(part)


def _name(source: str, part: int) -> str:
    """A file name for a source; a short checksum of the whole source tells apart what is called alike."""
    plain = re.sub(r"[^\w.+-]+", "_", source.replace("\\", "/").rpartition("/")[2]).strip("._")[:120] or "passages"
    mark = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{plain}-{mark}{f'-{part}' if part else ''}.txt"
