# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The images machines start from: a root tree each, built once and cached by a hash of its recipe."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .config import EXTRA, GIB, MACHINES, RECIPE, RELEASES, SUITE, UBUNTU_KEYRING, Paths
from .process import run
from .say import LabError, step

ROOT_SIZE = 8 * GIB


@dataclass(frozen=True)
class Image:
    """A built image: the tree container machines overlay, and the disk virtual machines overlay."""

    directory: Path

    @property
    def tree(self) -> Path:
        return self.directory / "root"

    @property
    def disk(self) -> Path:
        return self.directory / "base.qcow2"

    @property
    def key(self) -> Path:
        return self.directory / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.directory / "known_hosts"

    @property
    def complete(self) -> bool:
        return (self.directory / "complete").exists()


def recipe_hash(suite: str) -> str:
    """A hash of all that decides the image's content."""
    digest = hashlib.sha256(suite.encode())
    for path in (RECIPE / "customize.sh", _package_list(suite)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    digest.update(_hosts().encode())
    return digest.hexdigest()[:12]


def _package_list(suite: str) -> Path:
    return RECIPE / ("packages.txt" if suite == SUITE else f"packages-{suite}.txt")


def _hosts() -> str:
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost"]
    lines += [f"{machine.address} {machine.name}" for machine in (*MACHINES, *EXTRA)]
    return "\n".join(lines) + "\n"


def image(paths: Paths, suite: str = SUITE) -> Image:
    """The image of the present recipe for that release, built or not."""
    return Image(paths.cache / f"image-{recipe_hash(suite)}")


def build(paths: Paths, suite: str = SUITE) -> None:
    """Build the image where it is missing; while another lab builds it, wait for that."""
    wanted = image(paths, suite)
    if wanted.complete:
        return
    paths.cache.mkdir(parents=True, exist_ok=True)
    with wanted.directory.with_suffix(".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not wanted.complete:
            _build(wanted, suite)


def _build(wanted: Image, suite: str) -> None:
    release, _components = RELEASES[suite]
    if release.startswith("Ubuntu") and not UBUNTU_KEYRING.exists():
        raise LabError(
            f"{UBUNTU_KEYRING} is missing, and a root tree of {release} is verified with it: install ubuntu-keyring"
            " (Debian 12: apt-get install -t bookworm-backports ubuntu-keyring)."
        )
    if wanted.directory.exists():
        shutil.rmtree(wanted.directory)
    wanted.directory.mkdir(parents=True, mode=0o700)
    _keys(wanted)
    with step(f"building the root tree of {release} (with ZFS, LIO, NFS and more; about 10 minutes, once)"):
        _tree(wanted, suite)
    with step("packing the root tree as a disk"):
        _disk(wanted)
    (wanted.directory / "complete").touch()


def _keys(wanted: Image) -> None:
    """SSH keys of the lab; the host key is known beforehand, so nobody accepts one blindly."""
    for name in ("id_ed25519", "host_key"):
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"lab {name}", "-f", str(wanted.directory / name)])
    public = (wanted.directory / "host_key.pub").read_text().split()
    names = ",".join(address for machine in (*MACHINES, *EXTRA) for address in (machine.name, machine.address))
    wanted.known_hosts.write_text(f"{names} {public[0]} {public[1]}\n")
    (wanted.directory / "hosts").write_text(_hosts())


def _packages(suite: str) -> str:
    lines = _package_list(suite).read_text().splitlines()
    return ",".join(line for line in lines if line and not line.startswith("#"))


def _tree(wanted: Image, suite: str) -> None:
    argv = ["mmdebstrap", "--variant=minbase", f"--components={RELEASES[suite][1]}", f"--include={_packages(suite)}"]
    argv.append('--aptopt=APT::Install-Recommends "false"')
    argv += [f"--dpkgopt=path-exclude=/usr/share/{place}/*" for place in ("doc", "man", "locale")]
    argv += [f"--customize-hook={RECIPE / 'customize.sh'}", suite, str(wanted.tree)]
    environment = {
        **os.environ,
        "LAB_PUBLIC_KEY": str(wanted.directory / "id_ed25519.pub"),
        "LAB_HOST_KEY": str(wanted.directory / "host_key"),
        "LAB_HOSTS": str(wanted.directory / "hosts"),
    }
    log = wanted.directory / "build.log"
    with log.open("wb") as sink:
        ended = subprocess.run(argv, env=environment, stdout=sink, stderr=subprocess.STDOUT, check=False)
    if ended.returncode:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise LabError(f"mmdebstrap could not build the root tree; the end of {log}:\n{last}")


def _disk(wanted: Image) -> None:
    raw = wanted.directory / "base.raw"
    with raw.open("wb") as empty:
        empty.truncate(ROOT_SIZE)
    mkfs = ["mke2fs", "-q", "-t", "ext4", "-L", "labroot", "-O", "^metadata_csum_seed", "-d", str(wanted.tree), str(raw)]
    run(mkfs)
    run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(wanted.disk)])
    raw.unlink()
    for name in ("vmlinuz", "initrd.img"):
        shutil.copy(wanted.tree / "boot" / name, wanted.directory / name)
