# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Container machines: the same root tree booted natively by systemd-nspawn, in seconds."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path

from . import network
from .config import Machine, Paths
from .image import Image
from .process import Daemon, run


def _unified() -> bool:
    """Whether the host has control groups v2."""
    return Path("/sys/fs/cgroup/cgroup.controllers").exists()


class ContainerMachine:
    """A machine that shares the host's kernel: no ZFS, LIO, NFS client or IPVS unless the host has them."""

    kind = "container"

    def __init__(self, spec: Machine, paths: Paths, image: Image) -> None:
        self.spec = spec
        self.paths = paths
        self.image = image
        self.home = paths.of(spec.name)
        self.daemon = Daemon(self.home / "process.json")

    @property
    def root(self) -> Path:
        return self.home / "root"

    @property
    def running(self) -> bool:
        return self.daemon.pid is not None

    @property
    def created(self) -> bool:
        return (self.home / "upper").is_dir()

    def snapshots(self) -> dict[str, str]:
        """Names of the kept layers; memory is never kept."""
        return {path.name.partition("-")[2]: "cold" for path in self.home.glob("snapshot-*")}

    def create(self) -> None:
        """A fresh layer over the image's tree, and an empty Docker data directory."""
        self._unmount()
        for name in ("upper", "work", "docker"):
            shutil.rmtree(self.home / name, ignore_errors=True)
            (self.home / name).mkdir(parents=True)
        self.root.mkdir(exist_ok=True)
        etc = self.home / "upper" / "etc"
        etc.mkdir(parents=True)
        (etc / "hostname").write_text(f"{self.spec.name}\n")

    def load(self, name: str) -> None:
        """Go back to a kept layer and boot it."""
        self._restore(name)
        self.boot()

    def boot(self) -> None:
        """Boot from the layer as it is."""
        self._mount()
        namespace = network.add_namespace(self.paths, self.spec.name, self.spec.address)
        argv = ["systemd-nspawn", "-D", str(self.root), f"--network-namespace-path={namespace}", "--register=no", "--keep-unit", "-b"]
        argv += ["--kill-signal=SIGRTMIN+3", "--capability=all", "--system-call-filter=add_key keyctl bpf", "--console=read-only"]
        argv += [f"--machine={self.spec.name}", f"--hostname={self.spec.name}", f"--bind={self.home / 'docker'}:/var/lib/docker"]
        # For the tunnels of wireguard-go.
        argv += ["--bind=/dev/net/tun"]
        environment = {}
        if not _unified():
            # systemd in the guest refuses to start on control groups v1 unless it is told twice.
            environment["SYSTEMD_NSPAWN_UNIFIED_HIERARCHY"] = "0"
            argv += ["-E", "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"]
        self.daemon.start(argv, log=self.home / "console.log", environment=environment)

    def _mount(self) -> None:
        self._unmount()
        layers = f"lowerdir={self.image.tree},upperdir={self.home / 'upper'},workdir={self.home / 'work'}"
        run(["mount", "-t", "overlay", "overlay", "-o", layers, str(self.root)])

    def _unmount(self) -> None:
        while self.root.is_mount():
            run(["umount", "-l", str(self.root)])

    def save_cold(self, name: str) -> None:
        """Keep the layer and the Docker data under a name; the machine must be stopped."""
        kept = self.home / f"snapshot-{name}"
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir()
        for part in ("upper", "docker"):
            run(["cp", "-a", str(self.home / part), str(kept / part)])

    def _restore(self, name: str) -> None:
        self._unmount()
        for part in ("upper", "docker"):
            shutil.rmtree(self.home / part, ignore_errors=True)
            run(["cp", "-a", str(self.home / f"snapshot-{name}" / part), str(self.home / part)])

    def stop(self) -> None:
        """Shut it down in order."""
        self.daemon.signal(signal.SIGTERM)
        self.daemon.wait(15)
        self.cut()

    def cut(self) -> None:
        """A power cut."""
        pid = self.daemon.pid
        # The machine's init outlives a killed nspawn, with all it runs and locks; killing it ends the whole machine at once.
        for init in Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if pid else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(init), signal.SIGKILL)
        self.daemon.kill()
        self._unmount()
        network.remove_namespace(self.paths, self.spec.name)

    def discard(self) -> None:
        """Forget its layer."""
        self._unmount()
        shutil.rmtree(self.home, ignore_errors=True)
