# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A write and a read through NFS: mounted as a client mounts, in a mount namespace that ends with this process."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from .._errors import CommandFailed, StackError
from .._run import Runner

_CLONE_NEWNS = 0x00020000
_OPTIONS = "vers=4.2,soft,timeo=150,retrans=3"
_SAMPLE = 1 << 16
_STATE = Path("/proc/fs/nfsd")


@dataclass(frozen=True)
class Outcome:
    """What was seen of one export.

    :param note: why something was not tried; nothing is wrong then.
    :param problem: what is wrong.
    """

    path: str
    read: bool = False
    written: bool = False
    note: str = ""
    problem: str = ""


def settings(threads: int, *, state: Path = _STATE) -> str:
    """Compare the running server with what it should be.

    :return: what is wrong, or an empty string.
    """
    try:
        running = int((state / "threads").read_text(encoding="ascii"))
        versions = (state / "versions").read_text(encoding="ascii").split()
    except OSError:
        return "does not run"
    if running != threads:
        return f"runs {running} threads and not {threads}"
    return "" if "-3" in versions and "+4.2" in versions else f"speaks the versions {' '.join(versions)}, which should be 4.2 and not 3"


def own_mounts() -> None:
    """Give this process mounts of its own: what it mounts nobody else sees, and it is gone when the process ends.

    :raises StackError: when the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        raise StackError(f"the kernel gives no mount namespace: {os.strerror(ctypes.get_errno())}")
    Runner().run(["mount", "--make-rprivate", "/"])


def probe(address: str, path: str, *, at: Path, runner: Runner) -> Outcome:
    """Mount one export and use it; call :func:`own_mounts` first.

    :param at: a folder to mount over.
    """
    host = f"[{address}]" if ":" in address else address
    try:
        runner.run(["mount", "-t", "nfs4", "-o", _OPTIONS, f"{host}:{path}", str(at)])
    except CommandFailed as error:
        if "access denied" in error.stderr:
            return Outcome(path, note="this host is not among its clients, so it was not mounted here")
        return Outcome(path, problem=f"cannot be mounted: {error.stderr}")
    try:
        return use(path, through=at, local=Path(path))
    except OSError as error:
        return Outcome(path, problem=f"{error.strerror} at {error.filename}")
    finally:
        runner.run(["umount", str(at)])


def use(path: str, *, through: Path, local: Path) -> Outcome:
    """Write through the mount where that is allowed, and read there what is on the disk."""
    name = f".llm-stack-probe-{secrets.token_hex(8)}"
    content = secrets.token_bytes(_SAMPLE)
    try:
        with _allowed_to_write(through / name, owner=local.stat().st_uid) as file:
            os.write(file, content)
            os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        reason = "it is exported read-only" if error.errno == errno.EROFS else "only root may write there, and is squashed"
        return _read(path, through=through, local=local, note=f"nothing was written, because {reason}")
    try:
        same = (local / name).read_bytes() == content == (through / name).read_bytes()
    finally:
        (local / name).unlink()
    return Outcome(path, read=same, written=same, problem="" if same else "what was written through NFS is not what is on the disk")


@contextmanager
def _allowed_to_write(path: Path, *, owner: int) -> Iterator[int]:
    """A new file, made by root, or by the folder's owner where root is squashed."""
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    try:
        file = os.open(path, flags, 0o600)
    except PermissionError:
        if owner == 0:
            raise
        os.seteuid(owner)
        try:
            file = os.open(path, flags, 0o600)
        finally:
            os.seteuid(0)
    try:
        yield file
    finally:
        os.close(file)


def _read(path: str, *, through: Path, local: Path, note: str) -> Outcome:
    """Compare the first file that anybody may read."""
    for file in sorted(local.iterdir()):
        found = file.lstat()
        if stat.S_ISREG(found.st_mode) and found.st_mode & 0o004 and found.st_size:
            same = _head(through / file.name) == _head(file)
            return Outcome(path, read=same, note=note, problem="" if same else f"{file.name} reads differently through NFS")
    list(through.iterdir())
    return Outcome(path, note=note + ", and there is no file to read")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_SAMPLE)
