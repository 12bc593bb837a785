# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A folder of model files: each verified by its checksum, listed in a manifest that workers copy by."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterable, Mapping

from ._errors import BadInput, StackError
from ._plan import Plan, Refusal, Step

MANIFEST = "manifest.json"
_FILE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")
_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_BLOCK = 1 << 20
# Checksums by path, each with what the file looked like when it was read.
Memory = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Model:
    """A model as declared."""

    name: str
    file: str
    sha256: str


@dataclass(frozen=True)
class Found:
    """A model file as it is.

    :param look: size, times and inode; a checksum is remembered as long as they stay.
    """

    size: int = 0
    sha256: str = ""
    look: tuple[int, ...] = ()


@dataclass(frozen=True)
class State:
    """The folder as it is.

    :param filesystem: type of the file system it is on.
    """

    files: Mapping[str, Found] = field(default_factory=dict)
    manifest: Any = None
    memory: Memory = field(default_factory=dict)
    filesystem: str = ""


@dataclass(frozen=True)
class Guards:
    """What the planner may accept.

    :param filesystem: type of the file system the folder has to be on; empty accepts any.
    :param complete: every model has to be there; otherwise those missing are only reported.
    """

    path: str
    filesystem: str = ""
    complete: bool = False
    check_mode: bool = False


def parse_models(options: Iterable[Mapping[str, Any]]) -> tuple[Model, ...]:
    """Check the option ``models``.

    :raises BadInput: at the first fault.
    """
    models = tuple(Model(option["name"], option["file"], option["sha256"].lower()) for option in options)
    for model in models:
        if not _FILE.match(model.file) or model.file == MANIFEST:
            raise BadInput(f"The file {model.file!r} of model {model.name} is no plain file name. Use letters, digits and . _ + - only.")
        if not _SHA256.match(model.sha256):
            raise BadInput(f"The sha256 of model {model.name} is not 64 hexadecimal digits. Take it from sha256sum {model.file}.")
    for what, values in (("name", [model.name for model in models]), ("file", [model.file for model in models])):
        for value in values:
            if values.count(value) > 1:
                raise BadInput(f"The {what} {value} is declared {values.count(value)} times in models. Declare it once.")
    return models


def read_state(path: str, *, models: Iterable[Model], memory: Memory, mounts: str) -> State:
    """Look at the files; only one that is new or was touched since it was last read is read whole."""
    folder = Path(path)
    files = {model.file: read_model(folder / model.file, memory) for model in models}
    return State(files=files, manifest=_read_json(folder / MANIFEST), memory=memory, filesystem=filesystem_of(folder, mounts))


def read_model(path: Path, memory: Memory) -> Found:
    """Return what is known of one file; its checksum from memory where the file looks as it did."""
    try:
        found = path.stat()
    except OSError:
        return Found()
    look = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    known = memory.get(str(path), {})
    if tuple(known.get("look", ())) == look:
        return Found(found.st_size, str(known["sha256"]), look)
    return Found(found.st_size, _checksum(path), look)


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            for block in iter(lambda: file.read(_BLOCK), b""):
                digest.update(block)
    except OSError as error:
        raise StackError(f"The model file {path} cannot be read: {error.strerror}. Check the pool's health (zpool status).") from error
    return digest.hexdigest()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_memory(path: str) -> Memory:
    """Return the remembered checksums; none at all costs time and nothing else."""
    found = _read_json(Path(path))
    return found if isinstance(found, dict) else {}


def filesystem_of(path: Path, mounts: str) -> str:
    """Return the type of the file system that holds a path, or empty when the path does not exist.

    :param mounts: the text of /proc/self/mounts.
    """
    if not path.is_dir():
        return ""
    real = f"{path.resolve()}".rstrip("/") + "/"
    best, kind = "", ""
    for line in mounts.splitlines():
        point, found = line.split()[1:3]
        point = point.replace("\\040", " ").rstrip("/") + "/"
        if real.startswith(point) and len(point) >= len(best):
            best, kind = point, found
    return kind


def missing(state: State, models: Iterable[Model]) -> list[str]:
    """Return the names of the models whose file is absent or another one."""
    return [model.name for model in models if state.files[model.file].sha256 != model.sha256]


def manifest(state: State, models: Iterable[Model]) -> dict[str, Any]:
    """Return what the workers are told; sizes are those of the verified files."""
    rows = [{"name": m.name, "file": m.file, "size": state.files[m.file].size, "sha256": m.sha256} for m in models]
    return {"models": rows}


def remember(state: State, path: str) -> dict[str, Any]:
    """Return the checksums to remember, with those of other folders kept."""
    folder = Path(path)
    kept = {file: dict(entry) for file, entry in state.memory.items() if Path(file).parent != folder}
    for name, found in state.files.items():
        if found.sha256:
            kept[str(folder / name)] = {"sha256": found.sha256, "look": list(found.look)}
    return kept


def plan(state: State, models: Iterable[Model], guards: Guards) -> Plan:
    """Plan the manifest, which names a model only once its file is verified."""
    declared = tuple(models)
    if guards.filesystem and state.filesystem not in ("", guards.filesystem):
        return Plan(refusals=(Refusal(guards.path, _wrong_filesystem(state, guards)),))
    absent = missing(state, declared)
    if absent and guards.complete:
        return Plan(refusals=tuple(_incomplete(state, model, guards.path) for model in declared if model.name in absent))
    if absent and not guards.check_mode:
        return Plan()
    steps = [Step("bring", name, f"Copy model {name} to {guards.path} and verify it") for name in absent]
    wanted = manifest(state, declared)
    differs = _without_sizes(state.manifest, absent) != _without_sizes(wanted, absent)
    if differs:
        steps.append(Step("list", MANIFEST, f"Write {guards.path}/{MANIFEST}", wanted))
    if not absent and remember(state, guards.path) != {file: dict(entry) for file, entry in state.memory.items()}:
        steps.append(Step("remember", guards.path, "Remember the checksums of files that were read"))
    return Plan(
        steps=tuple(steps),
        before={MANIFEST: state.manifest} if differs else {},
        after={MANIFEST: _without_sizes(wanted, absent)} if differs else {},
    )


def _without_sizes(listed: Any, absent: list[str]) -> Any:
    """The manifest as far as it is known: not the sizes of files that are still to come."""
    if not isinstance(listed, dict) or not isinstance(listed.get("models"), list):
        return listed
    return {
        "models": [{**row, "size": "as copied"} if isinstance(row, dict) and row.get("name") in absent else row for row in listed["models"]]
    }


def _wrong_filesystem(state: State, guards: Guards) -> str:
    return (
        f"Refusing to put models into {guards.path}: it is on {state.filesystem} and not on {guards.filesystem}, so the dataset for it is "
        "missing or not mounted. Declare a dataset with that mountpoint, or mount it (zfs mount -a)."
    )


def _incomplete(state: State, model: Model, path: str) -> Refusal:
    found = state.files[model.file].sha256
    has = f"file has {found}" if found else "there is no file"
    return Refusal(model.name, f"wrong sha256 for model {model.name}: declared {model.sha256}, {has} at {path}/{model.file}.")


def write_json(path: Path, value: Any, *, mode: int) -> None:
    """Replace a file at once.

    :raises StackError: when the system refuses it.
    """
    temporary = None
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".llm-stack.")
        temporary = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2, sort_keys=True)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except OSError as error:
        if temporary:
            temporary.unlink(missing_ok=True)
        raise StackError(f"{path} cannot be written: {error.strerror}. Check that {path.parent} is writable and has space") from error
