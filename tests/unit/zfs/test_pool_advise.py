# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Advice with figures: said where it is due, and nowhere else."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.pool import advise, declare, model

sys.path.insert(0, str(Path(__file__).parent))
from test_pool_plan import blank

GIB = 1 << 30
MODELS = advise.DatasetFacts("tank/models", 1 << 20)
VM = advise.DatasetFacts("tank/vm", 16 << 10)
# 16 GB of RAM, 11 of them for the ARC.
HOST = advise.Host(memory=16 * GIB, arc=11 * GIB, dirty=1717986918)


def group(use: str, name: str = "/dev/x", **more: Any) -> Any:
    return model.Group(use, "stripe", name, "ONLINE", (model.Member((model.Leaf(name, "ONLINE"),), "ONLINE"),), **more)


def pool(*groups: Any, **properties: str) -> Any:
    return model.FoundPool("tank", "ONLINE", (group("data"), *groups), {"capacity": "50", "free": "1000", **properties})


ADVICE = [
    ("nothing to say", pool(), replace(HOST, datasets=(MODELS,)), []),
    ("nothing known", pool(group("cache"), group("log"), group("special")), advise.Host(), []),
    (
        "a full pool",
        pool(capacity="85", free=str(100 * GIB)),
        HOST,
        ["Pool tank is 85 % full (100 GiB free): over 80 % writing gets slow. Delete data, or add a vdev."],
    ),
    ("a pool at the limit", pool(capacity="80"), HOST, []),
    (
        "a special vdev that fills",
        pool(group("special", "/dev/s", size=200 * GIB, allocated=160 * GIB)),
        HOST,
        [
            "Pool tank: special disk /dev/s is 80 % full (160 GiB of 200 GiB); when it is full, its blocks go to the data vdevs. Add"
            " another, or lower special_small_blocks."
        ],
    ),
    ("a special vdev with room", pool(group("special", size=200 * GIB, allocated=150 * GIB)), HOST, []),
    (
        "a cache whose index needs more than there is",
        pool(group("cache", "/dev/c", size=2400 * GIB)),
        replace(HOST, datasets=(MODELS, VM)),
        [
            "Pool tank: a full cache of 2.3 TiB in blocks of 16 KiB (tank/vm) takes 14.1 GiB of the 11.0 GiB that the ARC may have, 96"
            " bytes a block. Make the cache smaller, or set secondarycache=metadata there."
        ],
    ),
    ("the same cache for large blocks", pool(group("cache", size=2400 * GIB)), replace(HOST, datasets=(MODELS,)), []),
    (
        "the same cache without the small blocks",
        pool(group("cache", size=2400 * GIB)),
        replace(HOST, datasets=(MODELS, replace(VM, secondarycache="metadata"))),
        [],
    ),
    (
        "a log that is too small",
        pool(group("log", size=GIB)),
        HOST,
        [
            "Pool tank: the log has 1.0 GiB, and at most 1.6 GiB of data wait to be written (zfs_dirty_data_max, a tenth of RAM):"
            " synchronous writes will wait for the data vdevs. Make it at least 4.8 GiB."
        ],
    ),
    ("a log of the right size", pool(group("log", size=8 * GIB)), HOST, []),
    (
        "a log that is too large, its size known from the disk only",
        pool(group("log", "/dev/l")),
        replace(HOST, dirty=0, sizes={"/dev/l": 32 * GIB}),
        [
            "Pool tank: the log has 32.0 GiB, and at most 1.6 GiB of data wait to be written (zfs_dirty_data_max, a tenth of RAM): more"
            " than 16.0 GiB is never used. Give the rest to a special vdev."
        ],
    ),
    (
        "unlike sectors",
        pool(group("data", "/dev/y")),
        replace(HOST, sectors={"/dev/x": 512, "/dev/y": 4096}),
        [
            "Pool tank has devices of unlike physical sectors (512 bytes: /dev/x; 4096 bytes: /dev/y): with ashift below the largest, each"
            " small write is read first."
        ],
    ),
    ("a cache of other sectors", pool(group("cache", "/dev/y")), replace(HOST, sectors={"/dev/x": 512, "/dev/y": 4096}), []),
    (
        "a dataset that loses what it acknowledged",
        pool(),
        replace(HOST, datasets=(MODELS, advise.DatasetFacts("tank/scratch", 1 << 17, sync="disabled"))),
        [
            "Pool tank: sync=disabled on tank/scratch: what was acknowledged in the last seconds is lost at a power cut, also to NFS"
            " clients and virtual machines. Set sync=standard unless all of it can be made again."
        ],
    ),
]


@pytest.mark.parametrize(("what", "found", "host", "advice"), ADVICE, ids=[what for what, *_rest in ADVICE])
def test_advice(what: str, found: Any, host: Any, advice: list[str]) -> None:
    assert advise.advise_pool(found, host) == advice


def test_advice_before_a_pool_is_created() -> None:
    vdevs = [
        {"type": "mirror", "devices": ["/dev/a", "/dev/b"]},
        {"class": "log", "devices": ["/dev/l"]},
        {"class": "cache", "devices": ["/dev/c"]},
    ]
    want = declare.declare_pool({"name": "tank", "vdevs": vdevs})
    candidates = {"/dev/l": blank("/dev/l", size=64 * GIB), "/dev/c": blank("/dev/c", size=4000 * GIB)}
    single, cache, log = advise.advise_layout(want, candidates, HOST)
    assert "the log disk /dev/l has no mirror" in single
    assert "a full cache of 3.9 TiB in blocks of 128 KiB (datasets with the default recordsize) takes 2.9 GiB" in cache
    assert "more than 16.0 GiB is never used" in log
