# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection as others get it: a copy under its own name for ansible-test, the built artifact, an installation of that."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build"
NAME = Path("ansible_collections") / "selfhosted" / "llm_stack"


def tool(name: str) -> str:
    """Return a program of the virtual environment this runs in."""
    return str(Path(sys.executable).with_name(name))


def sources() -> list[str]:
    """Return the files of the checkout, with those not committed yet, without those that git ignores."""
    argv = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout.split("\0")
    return sorted({name for name in listed if name and (ROOT / name).is_file()})


def copy(target: Path, *, without: tuple[str, ...] = ()) -> Path:
    """Make the target a git checkout with the same files; what is equal is left alone, for the sake of caches.

    :param without: leading parts of the paths to leave out.
    """
    wanted = {name for name in sources() if not name.startswith(without)}
    for name in wanted:
        source, copied = ROOT / name, target / name
        if not (copied.exists() and filecmp.cmp(source, copied, shallow=False)):
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copied)
    for path in [path for path in target.rglob("*") if path.is_file() and ".git" not in path.parts]:
        if str(path.relative_to(target)) not in wanted:
            path.unlink()
    if not (target / ".git").exists():
        subprocess.run(["git", "init", "--quiet", str(target)], check=True)
    subprocess.run(["git", "-C", str(target), "add", "--all"], check=True)
    return target


def build(into: Path = BUILD / "artifact") -> Path:
    """Build the artifact from a clean copy and return its path."""
    source = copy(BUILD / "package" / NAME)
    into.mkdir(parents=True, exist_ok=True)
    argv = [tool("ansible-galaxy"), "collection", "build", "--force", "--output-path", str(into), str(source)]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return max(into.glob("selfhosted-llm_stack-*.tar.gz"), key=lambda path: path.stat().st_mtime)


def install(into: Path) -> Path:
    """Build the artifact and install it, alone, below an empty path; return what ANSIBLE_COLLECTIONS_PATH must be.

    Its dependencies come with the `ansible` package of the virtual environment, which Ansible finds by itself.
    """
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    argv = [tool("ansible-galaxy"), "collection", "install", "--no-deps", "--force", "-p", str(into), str(build())]
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(into)}
    subprocess.run(argv, check=True, env=environment, stdout=subprocess.DEVNULL)
    return into
