# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual machines: QEMU with direct kernel boot."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Iterator

from . import network
from .config import GATEWAY, NVIDIA, Disk, Machine, Paths
from .image import Image
from .process import Daemon, run
from .qmp import Qmp
from .say import LabError

QEMU = f"qemu-system-{platform.machine()}"
CLEAN = "clean"
CACHE_SECONDS = 60


class VirtualMachine:
    """A machine with a kernel of its own."""

    kind = "vm"

    def __init__(self, spec: Machine, paths: Paths, image: Image, accel: str) -> None:
        self.spec = spec
        self.paths = paths
        self.image = image
        self.accel = accel
        self.home = paths.of(spec.name)
        self.daemon = Daemon(self.home / "process.json")

    @property
    def monitor(self) -> Path:
        return self.paths.run / f"{self.spec.name}.qmp"

    @property
    def console(self) -> Path:
        return self.paths.run / f"{self.spec.name}.console"

    @property
    def running(self) -> bool:
        return self.daemon.pid is not None

    @property
    def created(self) -> bool:
        return (self.home / "root.qcow2").exists()

    @property
    def _late(self) -> list[Disk]:
        return [disk for disk in self.spec.disks if disk.late]

    @property
    def has_late(self) -> bool:
        """Whether some of its disks cannot be saved while it runs."""
        return bool(self._late)

    def snapshots(self) -> dict[str, str]:
        """Names of the snapshots, each ``live`` (memory too) or ``cold`` (disks only)."""
        known = self.home / "snapshots.json"
        return dict(json.loads(known.read_text())) if self.created and known.exists() else {}

    def _remember(self, name: str, how: str) -> None:
        (self.home / "snapshots.json").write_text(json.dumps({**self.snapshots(), name: how}))

    @property
    def kept(self) -> Path:
        """Where the disks with this machine's clean snapshot are kept beside the image; another QEMU or setup has another place."""
        qemu = run([QEMU, "--version"]).stdout
        setup = repr((self.spec, self.accel, qemu)).encode() + b"".join(path.read_bytes() for path in (Path(__file__), *NVIDIA))
        return self.image.directory / "booted" / f"{self.spec.name}-{hashlib.sha256(setup).hexdigest()[:12]}"

    def keep(self) -> None:
        """Give the disks of the ended machine, with its clean snapshot, to all labs to come."""
        kept = self.kept
        kept.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix="new-") as place:
            run(["cp", "-a", "--sparse=always", str(self.home), str(Path(place) / "disks")])
            # Another lab may have been faster; its disks are as good.
            with contextlib.suppress(OSError):
                (Path(place) / "disks").rename(kept)
        self.discard()

    def create(self) -> None:
        """The disks that were kept; :meth:`load` of the clean snapshot brings the machine up."""
        self.discard()
        self.home.parent.mkdir(parents=True, exist_ok=True)
        run(["cp", "-a", "--sparse=always", str(self.kept), str(self.home)])

    def create_blank(self) -> None:
        """New disks: the root an overlay on the image, the others empty."""
        self.discard()
        self.home.mkdir(parents=True)
        root = self.home / "root.qcow2"
        run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(self.image.disk), str(root)])
        for disk in self.spec.disks:
            self._blank(disk)

    def _blank(self, disk: Disk) -> None:
        path = self._path(disk)
        path.unlink(missing_ok=True)
        run(["qemu-img", "create", "-q", "-f", "raw" if disk.volatile else "qcow2", str(path), str(disk.size)])

    def _path(self, disk: Disk) -> Path:
        return self.home / f"{disk.serial}.{'raw' if disk.volatile else 'qcow2'}"

    def boot(self, *, late: bool = True) -> None:
        """Boot from the disks as they are."""
        self._launch([argument for disk in self._late for argument in self._plugged(disk)] if late else [])

    def load(self, name: str) -> None:
        """Go back to a snapshot: a live one resumes at once, a cold one boots."""
        if self.snapshots()[name] == "cold":
            for path in self._disks():
                run(["qemu-img", "snapshot", "-a", name, str(path)])
            self.boot()
            return
        for disk in self._late:
            self._blank(disk)
        self._launch(["-loadvm", name])

    def _launch(self, more: list[str]) -> None:
        self.paths.run.mkdir(parents=True, exist_ok=True)
        self._start_caches()
        network.add_tap(self.paths, self.spec.name)
        self.daemon.start([*network.inside(self.paths), *self._argv(), *more], log=self.home / "qemu.log")

    def _cache(self, disk: Disk) -> Daemon:
        return Daemon(self.home / f"{disk.serial}.json")

    def _socket(self, disk: Disk) -> Path:
        return self.paths.run / f"{self.spec.name}-{disk.serial}.nbd"

    def _start_caches(self) -> None:
        """The write cache of each volatile disk: a process that writes to the disk's file when it is told to flush, and not before."""
        volatile = [disk for disk in self.spec.disks if disk.volatile]
        if volatile and shutil.which("nbdkit") is None:
            raise LabError(f"nbdkit is missing, which {self.spec.name} needs: install the package nbdkit (apt-get install nbdkit).")
        for disk in volatile:
            self._cache(disk).stop()
            self._socket(disk).unlink(missing_ok=True)
            argv = ["nbdkit", "--foreground", "--unix", str(self._socket(disk)), "--filter=cache", "file", str(self._path(disk))]
            self._cache(disk).start([*argv, "cache=writeback"], log=self.home / "nbdkit.log")
        deadline = time.monotonic() + CACHE_SECONDS
        while not all(self._socket(disk).exists() for disk in volatile):
            if time.monotonic() > deadline:
                raise LabError(f"nbdkit did not start for {self.spec.name}; see {self.home / 'nbdkit.log'}.")
            time.sleep(0.05)

    def plug(self) -> None:
        """Plug in the disks that a loaded snapshot is without: QEMU saves neither NVMe controllers nor disks served by others."""
        with Qmp(self.monitor) as monitor:
            for disk in self._late:
                monitor.command("blockdev-add", **self._node(disk))
                monitor.command("device_add", **self._device(disk))

    def _node(self, disk: Disk) -> dict[str, Any]:
        if disk.volatile:
            return {"driver": "nbd", "node-name": disk.serial, "server": {"type": "unix", "path": str(self._socket(disk))}}
        # Flushes are left out where nothing is lost by it: the host itself does not lose power.
        file = {"driver": "file", "filename": str(self._path(disk))}
        return {"driver": "qcow2", "node-name": disk.serial, "file": file, "cache": {"no-flush": True}, "discard": "unmap"}

    @staticmethod
    def _device(disk: Disk) -> dict[str, Any]:
        kind = "nvme" if disk.nvme else "virtio-blk-pci"
        return {"driver": kind, "drive": disk.serial, "serial": disk.serial, "id": f"{kind}-{disk.serial}"}

    def _plugged(self, disk: Disk) -> list[str]:
        return ["-blockdev", json.dumps(self._node(disk)), "-device", json.dumps(self._device(disk))]

    def _argv(self) -> list[str]:
        spec = self.spec
        append = (
            "root=LABEL=labroot rw console=ttyS0 net.ifnames=0 quiet mitigations=off systemd.show_status=0 "
            f"ip={spec.address}::{GATEWAY}:255.255.255.0:{spec.name}:eth0:off systemd.hostname={spec.name}"
        )
        accel = "kvm" if self.accel == "kvm" else "tcg,thread=multi"
        mac = "52:54:00:77:00:{:02x}".format(int(spec.address.rpartition(".")[2]))
        argv = [QEMU, "-name", spec.name, "-machine", "pc", "-accel", accel, "-cpu", "max", "-smp", "2"]
        argv += ["-m", str(spec.memory), "-nodefaults", "-no-user-config", "-display", "none", "-rtc", "base=utc,clock=host"]
        argv += ["-kernel", str(self.image.directory / "vmlinuz"), "-initrd", str(self.image.directory / "initrd.img"), "-append", append]
        argv += ["-qmp", f"unix:{self.monitor},server=on,wait=off"]
        argv += ["-chardev", f"socket,id=console,path={self.console},server=on,wait=off,logfile={self.home / 'console.log'}"]
        argv += ["-serial", "chardev:console", "-device", "virtio-rng-pci"]
        argv += ["-netdev", f"tap,id=lan,ifname={spec.name},script=no,downscript=no", "-device", f"virtio-net-pci,netdev=lan,mac={mac}"]
        argv += self._drive("root", self.home / "root.qcow2", "")
        for disk in spec.disks:
            if not disk.late:
                argv += self._drive(disk.serial, self._path(disk), f",serial={disk.serial}")
        return argv

    @staticmethod
    def _drive(name: str, path: Path, more: str) -> list[str]:
        drive = f"file={path},if=none,id={name},format=qcow2,cache=unsafe,discard=unmap"
        return ["-drive", drive, "-device", f"virtio-blk-pci,drive={name}{more}"]

    def save_live(self, name: str) -> None:
        """Keep memory and disks under a name; the machine runs on. Late disks must not be plugged in yet."""
        with Qmp(self.monitor) as monitor:
            monitor.human(f"savevm {name}")
        self._remember(name, "live")

    def save_cold(self, name: str) -> None:
        """Keep the disks of the stopped machine under a name.

        :raises LabError: when it has volatile disks, whose format knows no snapshots.
        """
        if any(disk.volatile for disk in self.spec.disks):
            raise LabError(f"{self.spec.name} has volatile disks, which cannot be kept under a name: end it with `down --discard` first.")
        for path in self._disks():
            run(["qemu-img", "snapshot", "-c", name, str(path)])
        self._remember(name, "cold")

    def _disks(self) -> list[Path]:
        return [self.home / "root.qcow2", *(self._path(disk) for disk in self.spec.disks)]

    def stop(self) -> None:
        """Flush what the guest wrote and end QEMU."""
        self.daemon.stop(patience=10)
        for disk in self.spec.disks:
            self._cache(disk).stop()
        self.monitor.unlink(missing_ok=True)
        self.console.unlink(missing_ok=True)

    def cut(self) -> None:
        """A power cut; volatile disks lose what they have not flushed."""
        self.daemon.kill()
        for disk in self.spec.disks:
            self._cache(disk).kill()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Hold its processors: to others it is there and answers nothing, as a machine whose disks stall."""
        with Qmp(self.monitor) as monitor:
            monitor.command("stop")
        try:
            yield
        finally:
            with Qmp(self.monitor) as monitor:
                monitor.command("cont")

    def discard(self) -> None:
        """Forget its disks."""
        shutil.rmtree(self.home, ignore_errors=True)
