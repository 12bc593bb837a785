# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the virtual environments: .venv for the Python that is there, .venv-X.Y for the other cores whose Python is found.

Each holds exactly what its lock in requirements/ names, checked by hash. Nothing is done where that is so already.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# The oldest supported, the current, and the next ansible-core, each on the Python of a supported distribution.
CORES: dict[str, str] = {"3.11": "2.19", "3.12": "2.21", "3.13": "2.22"}
# What single rungs need beside it. tests/services runs in the image's versions; Chroma's server and its client are packages of one name.
EXTRA: dict[str, tuple[str, ...]] = {"services": ("services", "chroma"), "runner": ("runner",)}


def works(python: Path, version: str) -> bool:
    """Whether this is that Python, and can make virtual environments. A version manager's stand-in often is neither."""
    code = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    ended = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return ended.returncode == 0 and ended.stdout.strip() == version


def find(version: str) -> Path | None:
    """Find a Python of that version: this one, on the PATH, or kept by pyenv."""
    # Never one of the environments themselves: a Makefile puts .venv/bin on the PATH.
    candidates = [Path(sys.base_prefix) / "bin" / f"python{version}"]
    candidates += [Path(place) / f"python{version}" for place in os.get_exec_path() if not Path(place).parent.name.startswith(".venv")]
    roots = [os.environ.get("PYENV_ROOT", ""), str(Path.home() / ".pyenv")]
    for root in filter(None, roots):
        candidates += sorted(Path(root).glob(f"versions/{version}.*/bin/python"), reverse=True)
    return next((path for path in candidates if path.exists() and works(path, version)), None)


def plan() -> dict[str, Path]:
    """Return the core each virtual environment is for and its Python; the first one is .venv."""
    found = {core: python for version, core in CORES.items() for python in [find(version)] if python}
    if not found:
        versions = ", ".join(CORES)
        raise SystemExit(f"venvs: none of Python {versions} with its venv module was found; install one (apt-get install python3-venv).")
    own = CORES.get("{}.{}".format(*sys.version_info[:2]), next(iter(found)))
    main = own if own in found else next(iter(found))
    return {core: found[core] for core in [main, *(core for core in found if core != main)]}


def directory(core: str, *, first: bool) -> Path:
    """Return where the virtual environment of a core is."""
    return ROOT / (".venv" if first else f".venv-{core}")


def make(core: str, python: Path, target: Path) -> str:
    """Make one virtual environment, unless it is what its lock says; return a sentence about it."""
    lock = ROOT / "requirements" / f"{core if core not in CORES.values() else f'core-{core}'}.txt"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    stamp = target / "lock.sha256"
    if stamp.exists() and stamp.read_text() == wanted and (target / "bin" / "python").exists():
        return ""
    begin = time.monotonic()
    shutil.rmtree(target, ignore_errors=True)
    run = [[str(python), "-m", "venv", str(target)]]
    run += [[str(target / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-compile", "--require-hashes", "-r", str(lock)]]
    for command in run:
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if ended.returncode:
            raise SystemExit(f"venvs: `{' '.join(command)}` failed:\n{ended.stdout}")
    stamp.write_text(wanted)
    return f"{target.name}: {lock.stem}, {time.monotonic() - begin:.0f} s"


def main(argv: list[str]) -> int:
    """Make .venv, or with --all the others too, or list what there is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="also one for every other core whose Python is found")
    parser.add_argument("--services", action="store_const", const="services", dest="extra", help="instead, those that tests/services needs")
    parser.add_argument("--runner", action="store_const", const="runner", dest="extra", help="instead, the one with ansible-runner")
    parser.add_argument("--list", action="store_true", help="print the core and the directory of each, and make none")
    arguments = parser.parse_args(argv)
    cores = plan()
    targets = {core: directory(core, first=position == 0) for position, core in enumerate(cores)}
    if arguments.extra:
        cores = {name: next(iter(cores.values())) for name in EXTRA[arguments.extra]}
        targets = {name: directory(name, first=False) for name in cores}
    if arguments.list:
        print("\n".join(f"{core}\t{target}" for core, target in targets.items()))
        return 0
    (ROOT / "build").mkdir(exist_ok=True)
    # Two makes at a time, or a person and a test: one of them makes the environments, the other waits.
    with (ROOT / "build" / "venvs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return make_all(cores, targets, list(cores) if arguments.all or arguments.extra else list(cores)[:1])


def make_all(cores: dict[str, Path], targets: dict[str, Path], chosen: list[str]) -> int:
    """Make the chosen ones, two at a time: most of it is waiting for the network."""
    with ThreadPoolExecutor(2) as pool:
        for sentence in pool.map(lambda core: make(core, cores[core], targets[core]), chosen):
            if sentence:
                print(f"venvs: {sentence}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
