# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Power cuts of a storage machine whose disks lose what was not flushed: no record that a client was told is safe may be missing.

storage2's disks have write caches that a cut empties. Two controls show that a cut loses data where it may: a disk written without a
flush, and a dataset with ``sync=disabled``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import pytest
from labkit.config import REPO
from labkit.lab import Lab
from labkit.load import Writer, missing
from labkit.play import play
from labkit.pools import make_pool

STORAGE = REPO / "playbooks" / "storage.yml"
ADDRESS = "10.77.0.12"
TARGET, PORTAL = "iqn.2026-01.lab.llm:storage2", f"{ADDRESS}:3260"
NODE = f"iscsiadm -m node -T {TARGET} -p {PORTAL}"
DISK = f"/dev/disk/by-path/ip-{PORTAL}-iscsi-{TARGET}-lun-0"
# A disk of its own for the control of the disks themselves.
SCRATCH = "/dev/disk/by-id/virtio-CACHED2"
PASSWORD = "lab-only-chap-secret-2"
# Records of one round on the block device, more than any round gets to write.
ROUND = 10_000
CUTS = 20


@pytest.fixture(scope="module")
def machine(lab: Lab) -> Iterator[Lab]:
    """storage2, new, and gpu1 without its mounts; storage2 is taken down again."""
    lab.forget("storage2")
    lab.up(["storage2"])
    yield lab
    lab.ssh("gpu1", "umount -f -l /mnt/safe /mnt/unsafe; true", check=False)
    lab.forget("storage2")


def cut_and_boot(lab: Lab) -> None:
    """Lose the power while clients write, and boot again."""
    lab.cut("storage2")
    lab.ssh("gpu1", f"umount -f -l /mnt/safe /mnt/unsafe; {NODE} --logout; true", check=False)
    lab.up(["storage2"])
    assert lab.ssh("storage2", "zpool list -H -o name,health").split() == ["tank", "ONLINE"]


def mount(lab: Lab) -> None:
    """Mount both datasets on gpu1; no Ansible run helps the rebooted server."""
    for name in ("safe", "unsafe"):
        lab.ssh("gpu1", f"mkdir -p /mnt/{name} && mount -t nfs4 -o vers=4.2,hard,retry=10 {ADDRESS}:/tank/{name} /mnt/{name}", seconds=600)


def written_unflushed_and_flushed(lab: Lab) -> None:
    """Two blocks on a disk of their own, far apart: only the first is flushed."""
    write = f"yes kept | dd of={SCRATCH} bs=4096 count=1 iflag=fullblock oflag=direct status=none"
    lab.ssh("storage2", f"{write} seek=0 conv=fsync && {write} seek=1000")


def blocks(lab: Lab) -> list[str]:
    """How the two blocks begin."""
    look = f"for at in 0 1000; do dd if={SCRATCH} bs=4096 count=1 skip=$at iflag=direct status=none | head -c 4 | tr '\\0' .; echo; done"
    return lab.ssh("storage2", look).split()


def test_a_power_cut_loses_no_acknowledged_write(machine: Lab) -> None:
    disks = "/dev/disk/by-id/virtio-CACHED"
    make_pool(machine, "storage2", f"-O mountpoint=/tank tank {disks}0 log {disks}1")
    machine.ssh("storage2", "zfs create tank/safe && zfs create -o sync=disabled tank/unsafe && chmod 0777 /tank/safe /tank/unsafe")
    lines = "".join(f"/tank/{name} 10.77.0.0/24(rw,sync,no_subtree_check)\n" for name in ("safe", "unsafe"))
    # The system disk is no part of this test: what was configured is on it before anything is cut.
    machine.ssh("storage2", "mkdir -p /etc/exports.d && cat > /etc/exports.d/test.exports", stdin=lines)
    machine.ssh("storage2", "systemctl enable --now nfs-server && sync")
    mount(machine)
    safe, unsafe = (Writer(machine, "gpu1", f"/mnt/{name}/records") for name in ("safe", "unsafe"))
    try:
        for writer in (safe, unsafe):
            writer.wait(20)
        written_unflushed_and_flushed(machine)
        assert blocks(machine) == ["kept", "kept"]
        cut_and_boot(machine)
    finally:
        for writer in (safe, unsafe):
            writer.stop()
    assert blocks(machine) == ["kept", "...."], "the disk kept what was not flushed: the cut proves nothing"
    assert missing(machine, "storage2", "/tank/safe/records", safe) == []
    assert missing(machine, "storage2", "/tank/unsafe/records", unsafe) != [], "the cut lost nothing where it may: it proves nothing"


# --- the same by the role, with a block device, again and again ------------------------------------------------------------

VARIABLES = {
    "storage_host_pools": [
        {
            "name": "tank",
            "filesystem_properties": {"mountpoint": "/tank"},
            "vdevs": [
                {"type": "stripe", "devices": ["/dev/disk/by-id/virtio-CACHED0"]},
                {"class": "log", "type": "stripe", "devices": ["/dev/disk/by-id/virtio-CACHED1"]},
            ],
        }
    ],
    "storage_host_datasets": [
        {"name": "tank/safe", "mountpoint_mode": "0777"},
        {"name": "tank/unsafe", "mountpoint_mode": "0777", "properties": {"sync": "disabled"}},
        {"name": "tank/disk0", "type": "volume", "volsize": "1G", "sparse": True},
    ],
    "storage_host_nfs_exports": [
        {"path": path, "clients": ["10.77.0.0/24"], "options": "rw,sync,no_subtree_check,root_squash"}
        for path in ("/tank/safe", "/tank/unsafe")
    ],
    "storage_host_iscsi_targets": [
        {
            "wwn": TARGET,
            "portals": [PORTAL],
            "luns": [{"lun": 0, "name": "cut0", "device": "/dev/zvol/tank/disk0"}],
            "acls": [{"initiator": "iqn.2026-01.lab.llm:gpu1", "userid": "gpu1", "password": PASSWORD}],
        }
    ],
}


@dataclass
class Losses:
    """What was acknowledged and what was missing afterwards, over all rounds."""

    acknowledged: int = 0
    nfs: int = 0
    iscsi: int = 0
    unsafe: int = 0


@pytest.fixture
def by_the_role(lab: Lab, tmp_path: Path) -> Iterator[Lab]:
    """storage2, new, built by the role; gpu1 knows its target."""
    lab.forget("storage2")
    lab.up(["storage2"])
    connection = {
        "ansible_host": ADDRESS,
        "ansible_user": "root",
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_ssh_common_args": f"-F {lab.paths.ssh_config()}",
        "ansible_pipelining": True,
    }
    inventory = tmp_path / "hosts.json"
    inventory.write_text(json.dumps({"all": {"children": {"storage_hosts": {"hosts": {"storage2": {**connection, **VARIABLES}}}}}}))
    assert play(lab, STORAGE, inventory=(inventory,)).status == 0
    lab.ssh("storage2", "sync")
    lab.ssh("gpu1", "printf 'InitiatorName=iqn.2026-01.lab.llm:gpu1\\n' > /etc/iscsi/initiatorname.iscsi && systemctl restart iscsid")
    lab.ssh("gpu1", f"iscsiadm -m discovery -t sendtargets -p {PORTAL}")
    settings = {
        "node.session.auth.authmethod": "CHAP",
        "node.session.auth.username": "gpu1",
        "node.session.auth.password": PASSWORD,
        # The writer shall end when the power is cut, and not wait for the next round.
        "node.session.timeo.replacement_timeout": "1",
    }
    for name, value in settings.items():
        lab.ssh("gpu1", f"{NODE} -o update -n {name} -v {value}")
    yield lab
    lab.ssh("gpu1", f"umount -f -l /mnt/safe /mnt/unsafe; {NODE} --logout; {NODE} -o delete; true", check=False)
    lab.forget("storage2")


def one_round(lab: Lab, number: int, losses: Losses) -> None:
    """Mount, log in, write from three programs until each has so many records acknowledged, cut, boot, count."""
    mount(lab)
    # A session that outlived the cut comes back by itself, and --login then says that it is there.
    lab.ssh("gpu1", f"{NODE} --login; for i in $(seq 300); do test -e {DISK} && exit 0; sleep 1; done; exit 1", seconds=600)
    safe, unsafe = (Writer(lab, "gpu1", f"/mnt/{name}/round{number}", run=number) for name in ("safe", "unsafe"))
    device = Writer(lab, "gpu1", DISK, run=number, start=number * ROUND)
    writers = (safe, unsafe, device)
    try:
        for writer in writers:
            writer.wait(5 + number * 7 % 23)
        cut_and_boot(lab)
    finally:
        losses.acknowledged += sum(writer.stop() for writer in writers)
    losses.nfs += len(missing(lab, "storage2", f"/tank/safe/round{number}", safe))
    losses.iscsi += len(missing(lab, "storage2", "/dev/zvol/tank/disk0", device))
    losses.unsafe += len(missing(lab, "storage2", f"/tank/unsafe/round{number}", unsafe))


@pytest.mark.long
def test_twenty_power_cuts_lose_nothing_over_nfs_and_iscsi(by_the_role: Lab) -> None:
    losses = Losses()
    for number in range(CUTS):
        one_round(by_the_role, number, losses)
        print(f"after {number + 1} power cuts: {losses}", flush=True)
        assert (losses.nfs, losses.iscsi) == (0, 0), losses
    assert losses.unsafe > 0, "no cut lost anything where it may: they prove nothing"
