# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wheels for the lab's images, fetched on this machine with the hashes of a lock: nothing leaves the lab to fetch any."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from .config import REPO
from .say import LabError

# The Python of the images, and what its wheels may be built for.
PYTHON = "3.13"
_ARCHITECTURE = os.uname().machine
_PLATFORMS = ("any", *(f"manylinux_2_{minor}_{_ARCHITECTURE}" for minor in (34, 31, 28, 27, 26, 17)), f"manylinux2014_{_ARCHITECTURE}")


def key(lock: Path, only: str) -> str:
    """A hash of what decides which wheels there are."""
    return hashlib.sha256(_locked(lock, only).encode() + Path(__file__).read_bytes()).hexdigest()[:12]


def fetched(cache: Path, lock: Path, only: str = "") -> Path:
    """The directory with the wheels of a lock, fetching them where they are missing.

    :param only: the one package of the lock that is wanted; empty for all.
    :raises LabError: when the index lacks one.
    """
    place = cache / f"wheels-{key(lock, only)}"
    if place.exists():
        return place
    part = cache / f"wheels-part-{os.getpid()}"
    part.mkdir(parents=True)
    wanted = part / "wanted.txt"
    wanted.write_text(_for_images(_locked(lock, only)))
    own = REPO / ".venv" / "bin" / "python"
    argv = [str(own if own.exists() else sys.executable), "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    argv += ["--require-hashes", "--python-version", PYTHON, "--implementation", "cp", "--dest", str(part), "--requirement", str(wanted)]
    argv += [f"--abi={abi}" for abi in ("cp313", "abi3", "none")] + [f"--platform={platform}" for platform in _PLATFORMS]
    ended = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if ended.returncode:
        shutil.rmtree(part)
        raise LabError(f"the wheels of {lock.relative_to(REPO)} could not be fetched: {' '.join(ended.stdout.split()[-60:])}")
    wanted.unlink()
    part.replace(place)
    return place


def unpacked(cache: Path, lock: Path, only: str) -> Path:
    """The directory with the files of one package of a lock."""
    place = cache / f"files-{key(lock, only)}"
    if not place.exists():
        part = cache / f"files-part-{os.getpid()}"
        for wheel in fetched(cache, lock, only).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(part)
        part.replace(place)
    return place


def _for_images(text: str) -> str:
    """The lock without what the images' Python does not need: pip asks the markers of its own Python, whatever it fetches for."""
    from packaging.markers import Marker

    place = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.0", "sys_platform": "linux", "os_name": "posix"}
    kept = []
    for entry in re.findall(r"^[a-zA-Z0-9].*(?:\n    .*)*", text, re.MULTILINE):
        head, _semicolon, marker = entry.partition("\n")[0].rstrip(" \\").partition(";")
        if not marker or Marker(marker).evaluate(place):
            kept.append(f"{head.strip()} \\\n" + entry.partition("\n")[2])
    return "\n".join(kept) + "\n"


def _locked(lock: Path, only: str) -> str:
    """The lock, or the entry of one package."""
    text = lock.read_text()
    if not only:
        return text
    found = re.search(rf"^{re.escape(only)}==.*\\\n(?:    .*\n)+", text, re.MULTILINE)
    if found is None:
        raise LabError(f"{lock.relative_to(REPO)} does not lock {only}")
    return found[0]
