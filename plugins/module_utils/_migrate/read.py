# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what a single machine has: model files, Ollama's store, folders of documents, and what an export or a folder holds already."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping

from .._errors import BadInput, StackError
from .model import (
    DOCUMENT,
    DOCUMENT_BYTES,
    FILE,
    KINDS,
    MANIFEST,
    MODEL,
    Entry,
    Manifest,
    check_collection,
    is_document_name,
    parse_manifest,
)

_BLOCK = 1 << 20
_OLLAMA_MODEL = "application/vnd.ollama.image.model"
_OLLAMA_PART = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


@dataclass(frozen=True)
class Found:
    """A file that is there."""

    size: int
    sha256: str


def digest(path: Path) -> Found:
    """Return size and checksum of a file.

    :raises StackError: when it cannot be read.
    """
    made, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            for block in iter(lambda: file.read(_BLOCK), b""):
                made.update(block)
                size += len(block)
    except OSError as error:
        raise StackError(f"{path} cannot be read: {error.strerror}. Correct its path, or look at the disk (dmesg).") from error
    return Found(size, made.hexdigest())


def found_at(top: Path, places: Iterable[str]) -> dict[str, Found]:
    """Return what is there of these files; what is not there is left out.

    :raises StackError: something else than a file has the name, or it cannot be read.
    """
    found = {}
    for place in places:
        path = top / place
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise StackError(f"{path} is no plain file, so nothing is put there. Move it away.")
        if path.exists():
            found[place] = digest(path)
    return found


def read_manifest(top: Path) -> Manifest | None:
    """Return the manifest of an export; none where there is no file of that name.

    :raises StackError: when it is there and cannot be read.
    """
    path = top / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StackError(f"{path} cannot be read: {error}. Export anew.") from error
    return parse_manifest(text, str(path))


def models(options: Iterable[Mapping[str, Any]]) -> list[Entry]:
    """Return the models of the option ``models``.

    :raises BadInput: a model has neither a file nor a name in Ollama's store, or both, or a name that cannot be kept.
    :raises StackError: a file cannot be read, or is not what Ollama's store says it is.
    """
    found = []
    for option in options:
        if bool(option.get("file")) == bool(option.get("ollama")):
            raise BadInput("A model in models has exactly one of file (a path) and ollama (a name as `ollama list` shows it).")
        path, claimed = (Path(option["file"]), "") if option.get("file") else blob(Path(option["store"]), option["ollama"])
        name = option.get("name") or (path.name if option.get("file") else re.sub(r"[^A-Za-z0-9._+-]", "-", option["ollama"]) + ".gguf")
        if not FILE.match(name):
            raise BadInput(f"The model file {name!r} has characters other than letters, digits and . _ + -. Give it a name in models.")
        there = digest(path)
        if claimed and there.sha256 != claimed:
            raise StackError(f"{path} is damaged: it should be {claimed} and is {there.sha256}. Run `ollama pull {option['ollama']}`.")
        found.append(Entry(MODEL, f"models/{name}", there.size, there.sha256, str(path)))
    return found


def blob(store: Path, name: str) -> tuple[Path, str]:
    """Return the file of a model in Ollama's store and its checksum.

    :param name: as ``ollama list`` shows it: ``qwen3:8b``, ``someone/model``, ``host/someone/model:tag``.
    :raises StackError: when there is no such model.
    """
    rest, _colon, tag = name.partition(":")
    parts = rest.split("/")
    parts = [*["registry.ollama.ai", "library"][: max(3 - len(parts), 0)], *parts, tag or "latest"]
    if len(parts) != 4 or not all(_OLLAMA_PART.match(part) for part in parts):
        raise BadInput(f"{name!r} is no name of a model as `ollama list` shows it.")
    path = store.joinpath("manifests", *parts)
    try:
        layers = json.loads(path.read_text(encoding="utf-8"))["layers"]
        (digest_of,) = [str(layer["digest"]) for layer in layers if layer["mediaType"] == _OLLAMA_MODEL]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StackError(f"Ollama's store {store} has no model {name} of one file ({path}: {error}). `ollama list` names them.") from error
    checksum = digest_of.partition(":")[2]
    if not re.match(r"^[0-9a-f]{64}$", checksum):
        raise StackError(f"{path} names the blob {digest_of!r}, which is no checksum. Run `ollama pull {name}`.")
    return store / "blobs" / f"sha256-{checksum}", checksum


def documents(options: Iterable[Mapping[str, Any]]) -> tuple[list[Entry], list[str]]:
    """Return the documents of the option ``documents``, and sentences about the files that the chat service would not take.

    :raises BadInput: a folder is not there, or a collection cannot have its name.
    """
    found: list[Entry] = []
    left_out = []
    for option in options:
        collection, top = check_collection(option["collection"]), Path(option["path"])
        if not top.is_dir():
            raise BadInput(f"{top} in documents is no folder on this machine. Correct its path.")
        for path in _files(top):
            # The service knows no folders: what was in one says so in its name.
            name = str(path.relative_to(top)).replace(os.sep, "_")
            reason = _unfit(path, name)
            if reason:
                left_out.append(f"{path} {reason}.")
                continue
            there = digest(path)
            found.append(Entry(DOCUMENT, f"documents/{collection}/{name}", there.size, there.sha256, str(path)))
    return found, left_out


def _files(top: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(top):
        folders.sort()
        yield from (Path(folder) / name for name in sorted(names))


def _unfit(path: Path, name: str) -> str:
    """Why the chat service does not take a file; empty when it does."""
    if path.is_symlink() or not path.is_file():
        return "is a link or no file"
    if name.lower().rpartition(".")[2] not in KINDS or "." not in name:
        return f"is none of {', '.join(KINDS)}"
    if not is_document_name(name):
        return "has a name that is hidden, longer than 200 characters, or has quotation marks or unprintable characters in it"
    size = path.stat().st_size
    if size > DOCUMENT_BYTES:
        return f"is larger than {DOCUMENT_BYTES >> 20} MiB"
    return "" if size else "is empty"
