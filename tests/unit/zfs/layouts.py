# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pools as people have them, each with one change that is asked of it: data, to be declared to any module that keeps pools.

A layout is created, declared again unchanged (no command may follow), and declared with its change (exactly the commands
named must follow, in this order). Devices are blank but for those a change wipes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

BY_ID = "/dev/disk/by-id"
# Links to kernel names, as udev makes them. sdaa comes after sdz: no name may be taken for the beginning of another.
LINKS = {
    **{f"{BY_ID}/ata-HGST_{letter.upper()}": f"/dev/sd{letter}" for letter in "abcdefgh"},
    f"{BY_ID}/ata-HGST_AA": "/dev/sdaa",
    f"{BY_ID}/nvme-P4510": "/dev/nvme0n1",
    f"{BY_ID}/nvme-P4510_ns2": "/dev/nvme0n2",
    f"{BY_ID}/wwn-0x5000c500a1": "/dev/dm-3",
    f"{BY_ID}/wwn-0x5000c500a2": "/dev/dm-4",
    "/dev/disk/by-path/pci-0000:00:1f.2-ata-1": "/dev/sda",
    "/dev/disk/by-path/pci-0000:00:1f.2-ata-2": "/dev/sdb",
    "/dev/mapper/mpatha": "/dev/dm-3",
    "/dev/mapper/mpathb": "/dev/dm-4",
}


def disk(letter: str) -> str:
    """A disk by its id."""
    return f"{BY_ID}/ata-HGST_{letter.upper()}"


def mirror(*devices: str, **more: Any) -> dict[str, Any]:
    """A mirror."""
    return {"type": "mirror", "devices": list(devices), **more}


@dataclass(frozen=True)
class Layout:
    """One pool and what becomes of it.

    :param again: the same pool declared otherwise, such as by other links; ``vdevs`` by default.
    :param then: the options of the module that differ in the change.
    :param commands: what the change must run, with ``tank`` as the pool; devices as ``zpool`` shows them.
    """

    name: str
    vdevs: list[dict[str, Any]]
    then: dict[str, Any]
    commands: tuple[str, ...]
    properties: dict[str, Any] = field(default_factory=lambda: {"ashift": 12})
    again: list[dict[str, Any]] | None = None


A, B, C, D, E, F, G, H = (disk(letter) for letter in "abcdefgh")
AB, CD = mirror(A, B), mirror(C, D)
PART = "-part1"
NVME = "/dev/nvme1n1"
SPECIAL = mirror(f"{NVME}p1", "/dev/nvme2n1p1", **{"class": "special"})
LOGS = mirror(f"{NVME}p2", "/dev/nvme2n1p2", **{"class": "log"})
CACHE = {"class": "cache", "devices": [f"{NVME}p3"]}
SPARE = {"class": "spare", "devices": [H]}
RAIDZ2 = {"type": "raidz2", "devices": [A, B, C, D]}
DRAID = {"type": "draid1:2d:5c:1s", "devices": [A, B, C, D, E]}

LAYOUTS = (
    Layout(
        "two mirrors by id, a third is added",
        [AB, CD],
        {"vdevs": [AB, CD, mirror(E, F)]},
        (f"zpool add tank mirror {E} {F}",),
    ),
    Layout(
        "declared by kernel names later, a mirror grows to three",
        [AB],
        {"vdevs": [mirror(A, B, C)]},
        (f"zpool attach tank {A}{PART} {C}",),
        again=[mirror("/dev/sdb", "/dev/sda")],
    ),
    Layout(
        "declared by path later, a disk is exchanged",
        [AB],
        {"vdevs": [mirror(A, C)]},
        (f"zpool replace tank {B}{PART} {C}",),
        again=[mirror("/dev/disk/by-path/pci-0000:00:1f.2-ata-1", "/dev/disk/by-path/pci-0000:00:1f.2-ata-2")],
    ),
    Layout(
        "a mirror of three gives one disk back",
        [mirror(A, B, C)],
        {"vdevs": [AB], "allow_remove": [C]},
        (f"zpool detach tank {C}{PART}",),
    ),
    Layout(
        "a single disk becomes a mirror",
        [{"devices": [A]}],
        {"vdevs": [AB]},
        (f"zpool attach tank {A}{PART} {B}",),
    ),
    Layout(
        "a stripe of two disks, one is exchanged",
        [{"devices": [A, B]}],
        {"vdevs": [{"devices": [A, C]}]},
        (f"zpool replace tank {B}{PART} {C}",),
        again=[{"devices": [A]}, {"devices": [B]}],
    ),
    Layout(
        "sdaa beside sda, a spare comes",
        [mirror("/dev/sda", "/dev/sdaa")],
        {"vdevs": [mirror("/dev/sda", "/dev/sdaa"), SPARE]},
        (f"zpool add tank spare {H}",),
    ),
    Layout(
        "raidz2, a fifth disk",
        [RAIDZ2],
        {"vdevs": [{**RAIDZ2, "devices": [A, B, C, D, E]}]},
        (f"zpool attach tank raidz2-0 {E}",),
    ),
    Layout(
        "raidz2, a disk is exchanged",
        [RAIDZ2],
        {"vdevs": [{**RAIDZ2, "devices": [A, B, C, E]}]},
        (f"zpool replace tank {D}{PART} {E}",),
    ),
    Layout(
        "raidz1 declared as raidz, a log comes",
        [{"type": "raidz", "devices": [A, B, C]}],
        {"vdevs": [{"type": "raidz1", "devices": [C, B, A]}, LOGS]},
        (f"zpool add tank log mirror {NVME}p2 /dev/nvme2n1p2",),
        again=[{"type": "raidz1", "devices": [A, B, C]}],
    ),
    Layout(
        "raidz3, a property changes",
        [{"type": "raidz3", "devices": [A, B, C, D, E]}],
        {"properties": {"ashift": 12, "autotrim": True}},
        ("zpool set autotrim=on tank",),
    ),
    Layout(
        "draid declared without its figures, a disk is exchanged",
        [DRAID],
        {"vdevs": [{"type": "draid", "devices": [A, B, C, D, F]}]},
        (f"zpool replace tank {E}{PART} {F}",),
        again=[{"type": "draid", "devices": [A, B, C, D, E]}],
    ),
    Layout(
        "special mirror over partitions, a cache comes",
        [AB, CD, SPECIAL],
        {"vdevs": [AB, CD, SPECIAL, CACHE]},
        (f"zpool add tank cache {NVME}p3",),
        again=[SPECIAL, CD, AB],
    ),
    Layout(
        "every class at once, the cache goes",
        [AB, CD, SPECIAL, mirror(E, F, **{"class": "dedup"}), LOGS, CACHE, SPARE],
        {"vdevs": [AB, CD, SPECIAL, mirror(E, F, **{"class": "dedup"}), LOGS, SPARE], "allow_remove": [f"{NVME}p3"]},
        (f"zpool remove tank {NVME}p3",),
    ),
    Layout(
        "two caches, one is exchanged",
        [AB, {"class": "cache", "devices": ["/dev/nvme3n1", "/dev/nvme4n1"]}],
        {"vdevs": [AB, {"class": "cache", "devices": ["/dev/nvme3n1", "/dev/nvme5n1"]}], "allow_remove": ["/dev/nvme4n1"]},
        ("zpool add tank cache /dev/nvme5n1", "zpool remove tank /dev/nvme4n1"),
    ),
    Layout(
        "a mirrored log goes by its name",
        [AB, LOGS],
        {"vdevs": [AB], "allow_remove": ["mirror-1"]},
        ("zpool remove tank mirror-1",),
    ),
    Layout(
        "a single log becomes a mirror",
        [AB, {"class": "log", "devices": [f"{NVME}p2"]}],
        {"vdevs": [AB, LOGS]},
        (f"zpool attach tank {NVME}p2 /dev/nvme2n1p2",),
    ),
    Layout(
        "a data mirror is removed where it is allowed by name",
        [AB, CD],
        {"vdevs": [AB], "allow_remove": ["mirror-1"]},
        ("zpool remove tank mirror-1",),
    ),
    Layout(
        "multipath devices by their mapper names, a third",
        [mirror("/dev/mapper/mpatha", "/dev/mapper/mpathb")],
        {"vdevs": [mirror("/dev/mapper/mpatha", "/dev/mapper/mpathb", C)]},
        (f"zpool attach tank /dev/mapper/mpatha{PART} {C}",),
        again=[mirror(f"{BY_ID}/wwn-0x5000c500a1", f"{BY_ID}/wwn-0x5000c500a2")],
    ),
    Layout(
        "two namespaces of one nvme drive, an offline device",
        [mirror(f"{BY_ID}/nvme-P4510", f"{BY_ID}/nvme-P4510_ns2")],
        {"offline": ["/dev/nvme0n2"]},
        (f"zpool offline tank {BY_ID}/nvme-P4510_ns2{PART}",),
        again=[mirror("/dev/nvme0n1", "/dev/nvme0n2")],
    ),
    Layout(
        "files, with a checkpoint before the next vdev",
        [mirror("/srv/pool/a", "/srv/pool/b")],
        {"vdevs": [mirror("/srv/pool/a", "/srv/pool/b"), mirror("/srv/pool/c", "/srv/pool/d")], "checkpoint_before_add": True},
        ("zpool checkpoint tank", "zpool add tank mirror /srv/pool/c /srv/pool/d"),
    ),
    Layout(
        "a disk that carries something is wiped and attached",
        [AB],
        {"vdevs": [mirror(A, B, G)], "wipe": [G]},
        (f"wipe {G}", f"zpool attach tank {A}{PART} {G}"),
    ),
    Layout(
        "features: enabled is active, another is enabled",
        [AB],
        {"properties": {"feature@zstd_compress": "enabled", "feature@draid": "enabled"}},
        ("zpool set feature@draid=enabled tank",),
        properties={"feature@zstd_compress": "enabled", "feature@draid": "disabled"},
    ),
    Layout(
        "several differences in one run, in the order that works",
        [AB, CD, {"class": "log", "devices": [f"{NVME}p2"]}],
        {
            "vdevs": [mirror(A, E), mirror(C, D, F), LOGS, CACHE],
            "properties": {"ashift": 12, "autoexpand": True},
        },
        (
            "zpool set autoexpand=on tank",
            f"zpool replace tank {B}{PART} {E}",
            f"zpool attach tank {C}{PART} {F}",
            f"zpool attach tank {NVME}p2 /dev/nvme2n1p2",
            f"zpool add tank cache {NVME}p3",
        ),
    ),
)
