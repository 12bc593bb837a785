# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts files in their places, whole or not at all, and never over another."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import IO, Any, Callable, Iterator

from .._errors import StackError
from . import chroma
from .model import Entry

_BLOCK = 1 << 20
_PART = ".llm-migrate."


def free(path: Path) -> int:
    """Return how many bytes are free where a folder is, or will be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def alone(folder: Path) -> IO[str]:
    """Keep other runs out of a folder for as long as what is returned is open, then remove what a killed one left.

    :raises StackError: another run is at work there.
    """
    # What is exported may be nobody else's business.
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = (folder / ".llm-migrate-lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise StackError(f"Another run is at work in {folder}. Wait for its end, and run again; nothing was changed.") from error
    clear_parts(folder)
    return lock


def clear_parts(folder: Path) -> None:
    """Remove what a run that was killed has left half written."""
    for part in folder.rglob(f"{_PART}*"):
        with contextlib.suppress(OSError):
            part.unlink()


@contextlib.contextmanager
def part_of(target: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """Give a file beside the target to write into; it is gone afterwards, unless it was given another name.

    :raises StackError: the system refuses it.
    """
    name = ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=_PART)
        with os.fdopen(handle, "wb") as file:
            yield file, Path(name)
    except OSError as error:
        raise StackError(f"{target} cannot be written: {error.strerror or error}. Check that there is room, and run again.") from error
    finally:
        if name:
            with contextlib.suppress(FileNotFoundError):
                Path(name).unlink()


def write(target: Path, entry: Entry, fill: Callable[[IO[bytes]], None], *, replace: bool = False) -> None:
    """Write a file, compare it with what was planned, and give it its name.

    :param fill: writes the content.
    :param replace: whether a file of that name goes; otherwise it stays, and this fails.
    :raises StackError: it has changed since it was planned, or something is there by now.
    """
    with part_of(target) as (file, part):
        fill(file)
        file.flush()
        os.fsync(file.fileno())
        made = hashlib.sha256()
        with part.open("rb") as again:
            for block in iter(lambda: again.read(_BLOCK), b""):
                made.update(block)
        if made.hexdigest() != entry.sha256:
            raise StackError(f"{entry.source or entry.place} has changed while it was read. Stop what writes to it, and run again.")
        part.chmod(0o644)
        if replace:
            part.replace(target)
        else:
            give_name(part, target)


def give_name(part: Path, target: Path) -> None:
    """Give a file a further name, unless that is taken: by a link, which the system makes or refuses in one step.

    :raises StackError: it is taken.
    """
    try:
        os.link(part, target)
    except FileExistsError as error:
        raise StackError(f"{target} has come into being meanwhile, and nothing is overwritten. Look at it, and run again.") from error


def copy_from(source: Path) -> Callable[[IO[bytes]], None]:
    """Return what fills a file with the content of another."""

    def fill(file: IO[bytes]) -> None:
        with source.open("rb") as origin:
            shutil.copyfileobj(origin, file, _BLOCK)

    return fill


def content(text: bytes) -> Callable[[IO[bytes]], None]:
    """Return what fills a file with something that is at hand."""

    def fill(file: IO[bytes]) -> None:
        file.write(text)

    return fill


def export(top: Path, entry: Entry, *, replace: bool) -> None:
    """Put one file into an export.

    :raises StackError: it cannot be read or written, or has changed.
    """
    if entry.ids:
        with chroma.opened(Path(entry.source)) as database:
            text = chroma.text_of(database, entry.ids).encode("utf-8")
        write(top / entry.place, entry, content(text), replace=replace)
    else:
        write(top / entry.place, entry, copy_from(Path(entry.source)), replace=replace)


def place_model(staging: Path, folder: Path, entry: Entry) -> None:
    """Give a model its place: without copying where both are on one file system.

    :raises StackError: something is there by now, or there is no room.
    """
    staged, target = staging / entry.place, folder / entry.name
    try:
        os.link(staged, target)
        target.chmod(0o644)
    except FileExistsError as error:
        raise StackError(f"{target} has come into being meanwhile, and nothing is overwritten. Look at it, and run again.") from error
    except OSError:
        write(target, entry, copy_from(staged))


def write_json(path: Path, data: Any) -> None:
    """Write a file of data in one step.

    :raises StackError: the system refuses it.
    """
    with part_of(path) as (file, part):
        file.write((json.dumps(data, indent=2, sort_keys=True) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())
        part.chmod(0o644)
        part.replace(path)
