# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""50 datasets with 12 properties: zfs_dataset against community.general.zfs in a loop, both run on the storage host without SSH."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

import yaml
from labkit.artifacts import python
from labkit.config import REPO
from labkit.lab import Lab
from labkit.say import LabError, say
from measure import Figure, NotTaken, against

PEER = Path(__file__).with_name("peers") / "zfs_dataset.yml"
DATASETS = 50
MACHINE = "storage1"
FOLDER = "/var/tmp/zfs-dataset-bench"
POOL = "wbench"
OURS = "selfhosted.llm_stack.plugins.modules.zfs_dataset"
THEIRS = "community.general.plugins.modules.zfs"
# A run of the peer starts 1400 programs, which takes minutes where the machine is emulated.
PATIENCE = 7200.0


def zfs_dataset_noop() -> Figure:
    """Time runs that have nothing to do; ours must not start more than one program."""
    bench = Bench(_lab())
    bench.pool()
    bench.run(OURS, bench.ours)
    figure = against(
        "zfs_dataset_noop",
        "s",
        lambda: bench.unchanged(OURS, bench.ours),
        lambda: bench.unchanged(THEIRS, bench.theirs),
    )
    figure.goal = "ratio at least 20, 1 process"
    bench.clean()
    return figure


def zfs_dataset_first() -> Figure:
    """Time runs that create everything, each in a pool of its own."""
    bench = Bench(_lab())
    figure = against("zfs_dataset_first", "s", lambda: bench.first(OURS, bench.ours), lambda: bench.first(THEIRS, bench.theirs))
    figure.goal = "ratio at least 5, at most 52 processes"
    bench.clean()
    return figure


def _lab() -> Lab:
    lab = Lab()
    try:
        lab.up([MACHINE])
    except LabError as error:
        raise NotTaken(str(error)) from error
    return lab


@dataclass(frozen=True)
class Run:
    """What the runs of a module together did on the machine."""

    seconds: float
    changed: int
    processes: int | None


class Bench:
    """Both modules on the storage host, and what each is given."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        task = yaml.safe_load(PEER.read_text())[0]["tasks"][0]["community.general.zfs"]
        names = [task["name"].replace("{{ item }}", str(number)) for number in range(DATASETS)]
        self.theirs = [{**task, "name": name} for name in names]
        self.ours = [{"datasets": [{"name": name, "properties": task["extra_zfs_properties"]} for name in names]}]
        self._send()

    def _send(self) -> None:
        """Bring what Ansible would bring for each run, once and unpacked, to both."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for path, name in sorted(_files()):
                archive.add(path, name)
            archive.add(Path(__file__).with_name("run_modules.py"), "run_modules.py")
            archive.addfile(tarfile.TarInfo("ansible/__init__.py"))  # empty, as Ansible sends it
        text = base64.b64encode(packed.getvalue()).decode()
        self._ssh(f"rm -rf {FOLDER} && mkdir -p {FOLDER} && base64 -d | tar -xzC {FOLDER}", stdin=text)

    def _ssh(self, command: str, stdin: str = "") -> str:
        try:
            return self.lab.ssh(MACHINE, command, stdin=stdin, seconds=PATIENCE)
        except LabError as error:
            raise NotTaken(str(error)) from error

    def pool(self) -> None:
        """An empty pool on a file."""
        self.clean()
        self._ssh(f"truncate -s 512M {FOLDER}/disk && zpool create -m none {POOL} {FOLDER}/disk")

    def clean(self) -> None:
        """No pool."""
        self._ssh(f"zpool destroy {POOL} 2>/dev/null; rm -f {FOLDER}/disk")

    def run(self, module: str, options: list[dict[str, Any]]) -> Run:
        """Run a module once for each of the options."""
        lines = "".join(json.dumps(each) + "\n" for each in options)
        said = json.loads(self._ssh(f"python3 {FOLDER}/run_modules.py {FOLDER} ansible_collections.{module}", stdin=lines))
        if said["failed"]:
            raise NotTaken(f"{module} failed: {said['failed'][0]}")
        say(f"{module}: {said['seconds']:.1f} s, {said['changed']} changed")
        return Run(said["seconds"], said["changed"], said["processes"])

    def unchanged(self, module: str, options: list[dict[str, Any]]) -> float:
        """Seconds of a run that has nothing to do."""
        done = self.run(module, options)
        if done.changed:
            raise NotTaken(f"a run of {module} that had nothing to do changed {done.changed} things")
        if done.processes not in (None, 1):
            raise NotTaken(f"a run of {module} that had nothing to do started {done.processes} programs")
        return done.seconds

    def first(self, module: str, options: list[dict[str, Any]]) -> float:
        """Seconds of a run that creates everything."""
        self.pool()
        done = self.run(module, options)
        if done.processes is not None and done.processes > 52:
            raise NotTaken(f"a first run of {module} started {done.processes} programs")
        return done.seconds


def _files() -> Iterator[tuple[Path, str]]:
    """What the two modules import, and where: the module side of ansible-core, the peer and this collection."""
    site = next(python().parent.parent.glob("lib/python3*/site-packages"))
    general = site / "ansible_collections" / "community" / "general" / "plugins"
    for path in (site / "ansible" / "module_utils").rglob("*.py"):
        yield path, str(path.relative_to(site))
    yield general / "modules" / "zfs.py", str((general / "modules" / "zfs.py").relative_to(site))
    ours = REPO / "plugins"
    for path in [*(ours / "module_utils").rglob("*.py"), ours / "modules" / "zfs_dataset.py"]:
        yield path, f"ansible_collections/selfhosted/llm_stack/{path.relative_to(REPO)}"
