# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Python environments beside the development's: each exactly what its lock in requirements/ names, made once and kept in the cache."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

from labkit.process import run
from labkit.say import LabError

from .config import REPO, Paths
from .say import step

OLDEST = (3, 11)


def venv(paths: Paths, name: str = "cloud") -> Path:
    """Return where the environment of the present lock of that name is, made or not."""
    version = "{}.{}".format(*sys.version_info[:2])
    return paths.cache / f"venv-{name}-{version}-{hashlib.sha256(_lock(name).read_bytes()).hexdigest()[:12]}"


def _lock(name: str) -> Path:
    return REPO / "requirements" / f"{name}.txt"


def build(paths: Paths, name: str = "cloud") -> Path:
    """Make the environment of a lock where it is missing.

    :raises LabError: when this Python is too old for these releases of OpenStack, or a package cannot be had.
    """
    wanted = venv(paths, name)
    if (wanted / "complete").exists():
        return wanted
    if sys.version_info[:2] < OLDEST:
        raise LabError(f"Python {sys.version.split()[0]} is too old for the cloud: run it with {OLDEST[0]}.{OLDEST[1]} or newer.")
    shutil.rmtree(wanted, ignore_errors=True)
    with step(f"installing from PyPI what requirements/{name}.txt names (once)"):
        # Not the development environment's: its packages are others.
        run([str(Path(sys.base_prefix) / "bin" / "python3"), "-m", "venv", str(wanted)])
        run([str(wanted / "bin" / "python"), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(_lock(name))])
    (wanted / "complete").touch()
    return wanted
