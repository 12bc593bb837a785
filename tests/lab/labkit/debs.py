# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packages that roles install and the machines' image has not: a machine gets a source of its own, for nothing leaves the lab."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from . import image
from .config import SUITE
from .lab import Lab
from .process import run
from .say import step

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# Where the packages lie on the machine.
PLACE = "/srv/debs"


def offer(lab: Lab, machine: str, *packages: str) -> None:
    """Let APT on a machine find packages, and what these need beyond the machine's image; nothing else is found any more.

    :raises LabError: when they cannot be had.
    """
    folder = _fetched(lab, packages)
    unpack = (
        f"mkdir -p {PLACE} && tar -x -C {PLACE} && rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* /var/lib/apt/lists/* && "
        # The lists were just emptied, which the role would take for just fetched.
        f"echo 'deb [trusted=yes] file:{PLACE} ./' > /etc/apt/sources.list && apt-get -q update >&2"
    )
    with subprocess.Popen(["tar", "-c", "-C", str(folder), "."], stdout=subprocess.PIPE) as pack:
        subprocess.run([*lab.ssh_argv(machine), unpack], stdin=pack.stdout, check=True, timeout=600)


def _fetched(lab: Lab, packages: tuple[str, ...]) -> Path:
    """Return a folder with the packages and APT's list of them."""
    base = image.image(lab.paths)
    name = hashlib.sha256(f"{base.directory.name} {' '.join(sorted(packages))}".encode()).hexdigest()[:12]
    folder = lab.paths.cache / f"debs-{name}"
    if (folder / "Packages").exists():
        return folder
    with step(f"fetching {', '.join(packages)} for the machines"):
        state = folder / "apt"
        for part in ("lists/partial", "archives/partial"):
            (state / part).mkdir(parents=True, exist_ok=True)
        (state / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {_mirror()} {SUITE} main contrib\n")
        # What the image has is known to its dpkg, so only what is missing is fetched.
        settings = {
            "Dir::State": state,
            "Dir::State::status": base.tree / "var/lib/dpkg/status",
            "Dir::State::lists": state / "lists",
            "Dir::Cache": state,
            "Dir::Cache::archives": state / "archives",
            "Dir::Etc::sourcelist": state / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
        }
        (state / "apt.conf").write_text("".join(f'{key} "{value}";\n' for key, value in settings.items()))
        environment = ["env", f"APT_CONFIG={state / 'apt.conf'}"]
        run([*environment, "apt-get", "-q", "update"])
        run([*environment, "apt-get", "-q", "-y", "--download-only", "install", *packages])
        _list(folder, sorted((state / "archives").glob("*.deb")))
        run(["rm", "-rf", str(state)])
    return folder


def _mirror() -> str:
    """Return the mirror of Debian that this host uses."""
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian", "Created-By: Packages"]
    found = [line for line in run(asked).stdout.splitlines() if "security" not in line]
    return found[0] if found else "http://deb.debian.org/debian"


def _list(folder: Path, packages: list[Path]) -> None:
    """Put the packages into the folder with the list that makes it a source; the list comes last."""
    entries = []
    for path in packages:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        told = run(["dpkg-deb", "--field", str(path)]).stdout.rstrip()
        # An epoch in the name, quoted as APT keeps it, would be looked for unquoted.
        name = path.name.replace("%3a", "+")
        entries.append(f"{told}\nFilename: ./{name}\nSize: {path.stat().st_size}\nSHA256: {digest}\n")
        path.replace(folder / name)
    (folder / "Packages").write_text("\n".join(entries))
