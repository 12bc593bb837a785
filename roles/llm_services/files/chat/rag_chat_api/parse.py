# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Turns an uploaded file into text, in a process of its own that may take only so much memory and time.

``python -m rag_chat_api.parse KIND`` reads the file from standard input and writes the text. What a library does with a hostile file
stays in that process.
"""

from __future__ import annotations

import io
import os
import resource
import subprocess
import sys
import threading
import zipfile
from pathlib import Path, PurePosixPath

# Kinds of documents by the end of their name.
KINDS = {"txt": "txt", "text": "txt", "md": "md", "markdown": "md", "html": "html", "htm": "html", "pdf": "pdf", "docx": "docx"}
CPU_S = 20
WALL_S = 40
MEMORY = 1024 * 1024 * 1024
# Files read at a time: what they may take together fits the service's own limit, or the kernel would end it, with every answer it has.
AT_ONCE = 2
TURN_S = 60
_TURNS = threading.BoundedSemaphore(AT_ONCE)
TEXT_CHARACTERS = 4_000_000
PDF_PAGES = 2_000
# A .docx file is an archive: what it unpacks to, and how many parts it may have.
DOCX_BYTES = 100 * 1024 * 1024
DOCX_PARTS = 5_000


class Unreadable(Exception):
    """A document cannot be taken in. The sentence says why, and what to do."""


class Busy(Exception):
    """Other documents are being read, and none came to its end in time."""


def kind_of(name: str) -> str:
    """The kind of document a file's name promises.

    :raises Unreadable: when it is none that can be read.
    """
    end = PurePosixPath(name.lower()).suffix.lstrip(".")
    if end not in KINDS:
        raise Unreadable(f"{name!r} is not a kind of document that can be read. Upload txt, md, html, pdf or docx.")
    return KINDS[end]


def text_of(name: str, content: bytes) -> str:
    """Return a document's text.

    :raises Unreadable: when the file is broken, of another kind than its name says, or takes too much to read.
    :raises Busy: when others are being read.
    """
    kind = kind_of(name)
    try:
        # Plain text is only decoded: no library, so no process of its own.
        text = _plain(content) if kind == "txt" else _apart(kind, content)
    except Unreadable as error:
        raise Unreadable(f"{name!r}: {error}") from error
    if not text.strip():
        raise Unreadable(f"{name!r} holds no text. If it is scanned, run a text recognition over it first.")
    if len(text) > TEXT_CHARACTERS:
        raise Unreadable(f"{name!r} holds {len(text)} characters, more than the {TEXT_CHARACTERS} that are taken. Split it.")
    return text


def _apart(kind: str, content: bytes) -> str:
    """Read a file in a process of its own, when it is its turn."""
    if not _TURNS.acquire(timeout=TURN_S):
        raise Busy("Other documents are being read. Try again in a few seconds.")
    try:
        return _read(kind, content)
    finally:
        _TURNS.release()


def _read(kind: str, content: bytes) -> str:
    command = [sys.executable, "-I", "-c", _START.format(home=str(Path(__file__).resolve().parent.parent)), kind]
    try:
        ended = subprocess.run(command, input=content, capture_output=True, timeout=WALL_S, check=False, env={"PATH": os.defpath})
    except subprocess.TimeoutExpired:
        raise Unreadable(f"it took longer than {WALL_S} s to read. Split it, or save it as plain text.") from None
    if ended.returncode == 3:
        raise Unreadable(ended.stderr.decode("utf-8", "replace").strip())
    if ended.returncode:
        raise Unreadable(f"it could not be read as {kind}: it is damaged, or takes too much memory or time. Save it as plain text.")
    return ended.stdout.decode("utf-8", "replace").strip()


# Isolated mode ignores PYTHONPATH, so that nothing beside the file's name decides what runs.
_START = "import sys; sys.path.insert(0, {home!r}); from rag_chat_api.parse import main; sys.exit(main(sys.argv[1]))"


def main(kind: str) -> int:
    """Read standard input, write the text; 3 and a sentence when the file is refused."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        text = _READERS[kind](sys.stdin.buffer.read())
    except Unreadable as error:
        sys.stderr.write(str(error))
        return 3
    # Half of a surrogate pair is no text. One character more than is taken tells that there is more.
    sys.stdout.buffer.write(text[: TEXT_CHARACTERS + 1].encode("utf-8", "replace"))
    return 0


def _plain(content: bytes) -> str:
    if content.count(b"\x00") > len(content) // 100 and not content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Unreadable("it is no text file. Give it the name its kind has.")
    for encoding in ("utf-8-sig", "utf-16") if content.startswith((b"\xff\xfe", b"\xfe\xff")) else ("utf-8-sig", "cp1252"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    return content.decode("utf-8", "replace")


def _markdown(content: bytes) -> str:
    from markdown_it import MarkdownIt

    return _html(MarkdownIt("commonmark").enable("table").render(_plain(content)).encode())


def _html(content: bytes) -> str:
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(content, "lxml")
    for unseen in soup(["script", "style", "noscript", "template", "svg", "iframe", "object"]):
        unseen.decompose()
    for block in soup(["p", "div", "section", "article", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "table", "blockquote"]):
        block.append("\n\n" if block.name not in ("li", "tr") else "\n")
    for cell in soup(["td", "th"]):
        cell.append(" ")
    return soup.get_text()


def _pdf(content: bytes) -> str:
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(io.BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable("it is protected by a password. Save it without.")
        if len(reader.pages) > PDF_PAGES:
            raise Unreadable(f"it has {len(reader.pages)} pages, more than the {PDF_PAGES} that are taken. Split it.")
        return "\n\n".join(page.extract_text() for page in reader.pages)
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, NotImplementedError) as error:
        raise Unreadable(f"it is no PDF that can be read ({type(error).__name__}).") from error


def _docx(content: bytes) -> str:
    import docx
    from docx.opc.exceptions import OpcError
    from lxml.etree import LxmlError  # type: ignore[import-untyped]

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts = archive.infolist()
        if len(parts) > DOCX_PARTS or sum(part.file_size for part in parts) > DOCX_BYTES:
            raise Unreadable(f"it unpacks to more than {DOCX_BYTES // (1024 * 1024)} MiB or {DOCX_PARTS} parts. Save it as plain text.")
        document = docx.Document(io.BytesIO(content))
        lines = [paragraph.text for paragraph in document.paragraphs]
        lines += [" | ".join(cell.text for cell in row.cells) for table in document.tables for row in table.rows]
        return "\n\n".join(line for line in lines if line.strip())
    except (zipfile.BadZipFile, OpcError, LxmlError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise Unreadable(f"it is no Word document that can be read ({type(error).__name__}).") from error


_READERS = {"txt": _plain, "md": _markdown, "html": _html, "pdf": _pdf, "docx": _docx}
