# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs `ansible-test sanity`, all its tests, with the ansible-core of every virtual environment there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Iterator

import junit
import package
import venvs

# ansible-test downloads get-pip.py for the virtual environments it makes.
# The pip that comes with Python does as well, and needs no network.
BOOTSTRAP = "import ensurepip\nensurepip.bootstrap(upgrade=True, default_pip=True)\n"
# The Pythons that modules are compiled, imported and linted with, where they are found: the oldest promised, and those of the supported
# distributions. Each costs minutes.
PYTHONS = ("3.8", "3.11", "3.12", "3.13")
# A directory on the PATH may hold any of these.
ALL_PYTHONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15")
# Programs that never reach a user: ruff and mypy check them; ansible-test's rules are those for plugins (no `_`, no shebang).
OURS = (
    *(f"tests/{name}/" for name in ("lab", "standins", "tools", "bench", "swarm", "cloud", "services", "installed")),
    "tests/unit/selectel/standin_sdk/",
    ".ci/",
)
STARTED = re.compile(r'^Running sanity test "([^"]+)"', re.MULTILINE)
FAILED = re.compile(r"^(?:FATAL|ERROR): The \d+ sanity test\(s\) listed below .*?$\n((?:^[a-z0-9:.\-]+.*$\n?)+)", re.MULTILINE)
MISSING = re.compile(r'^WARNING: Required program "([^"]+)" not found', re.MULTILINE)
NOISE = (
    "━",
    "WARNING: Location ",
    "Looking in ",
    "Processing ",
    "Collecting ",
    "Downloading ",
    "Installing collected ",
    "Successfully installed ",
    "Using cached ",
)


def bootstrap(virtual: Path) -> None:
    """Put a stand-in where this ansible-test would keep its download."""
    (source,) = virtual.glob("lib/python3*/site-packages/ansible_test/_internal/python_requirements.py")
    cache = Path.home() / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    for version in re.findall(r"pip='([\d.]+)'", source.read_text(encoding="utf-8")):
        script = cache / f"get_pip_{version.replace('.', '_')}.py"
        if not script.exists():
            script.write_text(BOOTSTRAP)


def released_only(virtual: Path) -> None:
    """Take released packages where a candidate of ansible-core names a commit on a code host, which a test machine may not reach.

    2.22.0rc1 does so for pylint's dill, for the sake of Python 3.15, which is not in the matrix.
    """
    for path in virtual.glob("lib/python3*/site-packages/ansible_test/_data/requirements/sanity.*.txt"):
        text = path.read_text(encoding="utf-8")
        released = re.sub(r"^(\S+) @ https?://\S+$", r"\1", text, flags=re.MULTILINE)
        if released != text:
            path.write_text(released, encoding="utf-8")


def pythons() -> Path:
    """Link every Python that works into one directory: ansible-test takes a version manager's stand-ins for the real thing."""
    links = package.BUILD / "pythons"
    links.mkdir(parents=True, exist_ok=True)
    for old in links.iterdir():
        old.unlink()
    for version in PYTHONS:
        link = links / f"python{version}"
        found = venvs.find(version)
        if found:
            link.symlink_to(found)
    return links


def environment(virtual: Path, links: Path) -> dict[str, str]:
    """Return the environment: real Pythons first, no directory with a Python that does not run."""
    places = [str(links), str(virtual / "bin")]
    places += [place for place in os.get_exec_path() if all(_sound(Path(place), version) for version in ALL_PYTHONS)]
    return {**os.environ, "PATH": ":".join(places), "LC_ALL": "C.UTF-8"}


def _sound(place: Path, version: str) -> bool:
    python = place / f"python{version}"
    return not python.exists() or venvs.works(python, version)


def check(core: str, virtual: Path, links: Path) -> tuple[int, str]:
    """Run every sanity test with one core; return the exit status and the output."""
    bootstrap(virtual)
    released_only(virtual)
    source = package.copy(package.BUILD / "sanity" / core / package.NAME, without=OURS)
    argv = [str(virtual / "bin" / "ansible-test"), "sanity", "--venv", "--color", "no", *sys.argv[1:]]
    ended = subprocess.run(
        argv, cwd=source, env=environment(virtual, links), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return ended.returncode, ended.stdout


def cases(status: int, output: str) -> Iterator[tuple[str, str]]:
    """Yield each test and why it failed, if it did."""
    failed = {name for block in FAILED.findall(output) for name in block.split()}
    started = list(dict.fromkeys(STARTED.findall(output)))
    for name in started:
        yield name, f"see the output of {name} above" if name in failed else ""
    for program in dict.fromkeys(MISSING.findall(output)):
        yield f"needs {program}", f"{program} is not installed, so its test could not run"
    if status and not failed:
        yield "ansible-test", "it ended before all tests had run; see the output above"


def main() -> int:
    """Check with all cores, two at a time; print what matters and write the report."""
    links = pythons()
    listed = subprocess.run([sys.executable, venvs.__file__, "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout
    cores: list[tuple[str, Path]] = [(core, Path(place)) for core, place in (line.split("\t") for line in listed.splitlines())]
    cores = [(core, place) for core, place in cores if (place / "lock.sha256").exists()]
    failures = 0
    with ThreadPoolExecutor(2) as pool:
        runs = pool.map(lambda pair: check(pair[0], pair[1], links), cores)
        for (core, _place), (status, output) in zip(cores, runs):
            print(f"--- ansible-test sanity, ansible-core {core}")
            print("\n".join(line for line in output.splitlines() if not line.strip().startswith(NOISE)))
            results = list(cases(status, output))
            failures += sum(bool(reason) for _name, reason in results)
            junit.write(f"lint-sanity@{core}", results)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
