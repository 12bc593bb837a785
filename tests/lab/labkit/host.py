# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab needs of this host, each lack told in one sentence with its remedy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from .config import GIB, Machine, Paths
from .image import Image
from .process import run
from .say import LabError, say
from .vm import QEMU

# QEMU 7.2 panics Debian 13's kernel 6.12 under emulation; 10 runs it.
QEMU_OLDEST = 8
TOOLS = {
    "ip": "iproute2",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "qemu-img": "qemu-utils",
    QEMU: "qemu-system-x86",
    "systemd-nspawn": "systemd-container",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
}
DISK_TO_BUILD = 12 * GIB
DISK_TO_RUN = 4 * GIB
MEMORY_OVERHEAD = 1 * GIB


def check(paths: Paths, machines: list[Machine], *, built: bool) -> None:
    """Stop with one sentence when something is missing.

    :raises LabError: naming the cause and the package or action that removes it.
    """
    if os.geteuid() != 0:
        raise LabError("The lab makes network namespaces and mounts, which needs root: run it with sudo.")
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            raise LabError(f"{tool} is missing: install the package {package} (apt-get install {package}).")
    _check_qemu(run([QEMU, "--version"]).stdout)
    _check_disk(paths, DISK_TO_RUN if built else DISK_TO_BUILD)
    _check_memory(machines, Path("/proc/meminfo").read_text())


def _check_qemu(said: str) -> None:
    found = re.search(r"version (\d+)\.(\d+)", said)
    if not found or int(found.group(1)) < QEMU_OLDEST:
        version = ".".join(found.groups()) if found else "unknown"
        raise LabError(
            f"QEMU {version} is too old (at least {QEMU_OLDEST} is needed): install qemu-system-x86 and qemu-utils "
            "from your distribution's backports (Debian 12: apt-get install -t bookworm-backports qemu-system-x86 qemu-utils)."
        )


def _check_disk(paths: Paths, needed: int) -> None:
    for place in (paths.state, paths.cache):
        place.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(place).free
        if free < needed:
            raise LabError(
                f"{place} has {free / GIB:.1f} GiB free and the lab needs {needed / GIB:.0f}: free some, "
                "or point LLM_LAB_CACHE at a larger file system."
            )


def _check_memory(machines: list[Machine], meminfo: str) -> None:
    found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo)
    available = int(found.group(1)) * 1024 if found else 0
    needed = sum(machine.memory for machine in machines if machine.kind == "vm") * 1024**2 + MEMORY_OVERHEAD
    if available < needed:
        raise LabError(
            f"{available / GIB:.1f} GiB of memory is available and these machines need {needed / GIB:.1f}: "
            "stop other programs, or another checkout's lab (tests/lab/lab down)."
        )


def accelerator(image: Image) -> str:
    """``kvm`` where it really boots this kernel, else ``tcg``; LLM_LAB_ACCEL decides instead where it is set."""
    chosen = os.environ.get("LLM_LAB_ACCEL", "")
    if chosen:
        if chosen not in ("kvm", "tcg"):
            raise LabError(f"LLM_LAB_ACCEL is {chosen!r}: set it to kvm or tcg, or leave it unset.")
        return chosen
    remembered = image.directory / "accelerator"
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    if remembered.exists() and remembered.read_text().split()[0] == boot_id:
        return remembered.read_text().split()[1]
    found = "kvm" if os.access("/dev/kvm", os.R_OK | os.W_OK) and _kvm_boots(image) else "tcg"
    remembered.write_text(f"{boot_id} {found}\n")
    say(f"virtual machines run with {'KVM' if found == 'kvm' else 'software emulation (TCG): /dev/kvm does not boot this kernel'}")
    return found


def _kvm_boots(image: Image, *, seconds: float = 20.0) -> bool:
    """Boot the kernel without a disk and look for its first user-space words: some hosts offer a KVM that cannot."""
    with tempfile.NamedTemporaryFile("r", errors="replace") as serial:
        argv = [QEMU, "-machine", "pc", "-accel", "kvm", "-cpu", "max", "-m", "512", "-nodefaults", "-display", "none", "-no-reboot"]
        argv += ["-kernel", str(image.directory / "vmlinuz"), "-initrd", str(image.directory / "initrd.img")]
        argv += ["-append", "console=ttyS0 panic=-1 rootdelay=0", "-serial", f"file:{serial.name}"]
        probe = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + seconds
        booted = False
        while not booted and probe.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
            booted = "Run /init as init process" in Path(serial.name).read_text(errors="replace")
        probe.kill()
        probe.wait()
        return booted
