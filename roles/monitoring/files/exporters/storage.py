# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What node_exporter does not know of a storage host, as a file for its textfile collector: ``storage.py [CONFIGURATION]``.

Vdevs with their states and errors, scrubs, how full pools and their special vdevs are, the age of snapshots, and iSCSI. A pool's state,
the ARC and the L2ARC are node_exporter's own (``node_zfs_zpool_state``, ``node_zfs_arc_*``), as are NFS and units.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping

from exposition import Metric, render

CONFIGURATION = "/etc/llm-stack/monitoring/storage.json"
FABRIC = Path("/sys/kernel/config/target/iscsi")
SECONDS = 60
_STATES = "ONLINE|DEGRADED|FAULTED|OFFLINE|UNAVAIL|REMOVED|SPLIT|AVAIL|INUSE|SUSPENDED"
_ROW = re.compile(rf"^\t(?P<indent> *)(?P<name>\S+)\s+(?P<state>{_STATES})(?:\s+(?P<read>\d+)\s+(?P<write>\d+)\s+(?P<checksum>\d+))?")
_STANDING_IN = re.compile(r"(replacing|spare)-\d+$")
_HEALTHY = ("ONLINE", "AVAIL", "INUSE")
_SCRUBBED = "zfs_pool_scrub_last_timestamp_seconds"
# By period of a policy: its seconds, and how many the role storage_host keeps where the policy does not say.
PERIODS = {
    "frequently": (900, 0),
    "hourly": (3600, 24),
    "daily": (86400, 14),
    "weekly": (7 * 86400, 0),
    "monthly": (31 * 86400, 3),
    "yearly": (366 * 86400, 0),
}


class CannotRead(Exception):
    """A command failed; the text says which and why."""


def run(*argv: str) -> str:
    """Return what a command prints, with dates in English and in UTC.

    :raises CannotRead: it failed, or took too long.
    """
    environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    try:
        ended = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise CannotRead(f"`{' '.join(argv)}` cannot be run: {error}") from error
    if ended.returncode != 0 and not any(text in ended.stderr for text in ("no pools available", "no datasets available")):
        raise CannotRead(f"`{' '.join(argv)}` failed: {ended.stderr.strip()}")
    return ended.stdout


def status_metrics(text: str, before: Mapping[str, float]) -> list[Metric]:
    """Read ``zpool status -P -p``.

    :param before: by pool, when a scrub ended as far as it was known: a resilver takes the place of a scrub in the output.
    """
    healthy = Metric("zfs_vdev_healthy", "Whether a vdev, a disk or a spare is as it should be")
    errors = Metric("zfs_vdev_errors", "Errors since the last zpool clear")
    data = Metric("zfs_pool_data_errors", "Files and objects with errors that could not be repaired")
    scrubbed = Metric(_SCRUBBED, "When a scrub of the pool ended last")
    scanning = Metric("zfs_pool_scanning", "Whether a scrub or a resilver runs")
    for block in re.split(r"(?m)^(?=\s*pool: )", text):
        named = re.match(r"\s*pool: (\S+)", block)
        if not named:
            continue
        pool = named.group(1)
        for name, row in rows_of(block):
            healthy.add(row["state"] in _HEALTHY, pool=pool, vdev=name, state=row["state"])
            for kind in ("read", "write", "checksum"):
                if row[kind] is not None:
                    errors.add(int(row[kind]), pool=pool, vdev=name, kind=kind)
        data.add(data_errors(block), pool=pool)
        scanning.add(bool(re.search(r"^\s*scan: \w+ in progress", block, re.MULTILINE)), pool=pool)
        ended = max(scrub_end(block), before.get(pool, 0.0))
        if ended:
            scrubbed.add(ended, pool=pool)
    return [healthy, errors, data, scrubbed, scanning]


def rows_of(block: str) -> Iterator[tuple[str, re.Match[str]]]:
    """Return the rows of a pool's vdevs and disks, each with a name of its own: several vdevs may hold a ``spare-0``."""
    above: list[tuple[int, str]] = []
    for row in filter(None, map(_ROW.match, block.splitlines())):
        depth, name = len(row["indent"]), row["name"]
        above = [one for one in above if one[0] < depth]
        if depth:
            yield (f"{above[-1][1]}/{name}" if _STANDING_IN.match(name) and above else name), row
        above.append((depth, name))


def data_errors(block: str) -> int:
    """Return how many errors a pool could not repair; at least one when it does not say how many."""
    found = re.search(r"^errors: (?:(?P<none>No known)|(?P<count>\d+) )?", block, re.MULTILINE)
    if not found or found["none"]:
        return 0
    return int(found["count"] or 1)


def scrub_end(block: str) -> float:
    """Return when a scrub ended, in seconds since 1970, or 0 when that is not the last thing that happened."""
    found = re.search(r"scan: scrub repaired .* on \w{3} (\w{3} +\d+ \d\d:\d\d:\d\d \d{4})", block)
    return datetime.strptime(found.group(1), "%b %d %H:%M:%S %Y").replace(tzinfo=timezone.utc).timestamp() if found else 0.0


def space_metrics(text: str) -> list[Metric]:
    """Read ``zpool list -H -p -v -o name,size,allocated,fragmentation``: pools, and how full each of their classes is."""
    size = Metric("zfs_pool_size_bytes", "Size of a pool's class of vdevs: normal, special, dedup, logs or cache")
    used = Metric("zfs_pool_allocated_bytes", "What is taken of it")
    fragmented = Metric("zfs_pool_fragmentation_ratio", "How fragmented the free space of a pool is, from 0 to 1")
    sums: dict[tuple[str, str], list[int]] = {}
    pool, place = "", ""
    for line in text.splitlines():
        name, *columns = line.split()
        if not line.startswith("\t") and all(column == "-" for column in columns):
            place = name
        elif not line.startswith("\t"):
            pool, place = name, "normal"
            if columns[2].isdigit():
                fragmented.add(int(columns[2]) / 100, pool=pool)
        elif columns[0].isdigit() and columns[1].isdigit():
            total = sums.setdefault((pool, place), [0, 0])
            total[0] += int(columns[0])
            total[1] += int(columns[1])
    for (pool, place), (whole, part) in sums.items():
        size.add(whole, **{"pool": pool, "class": place})
        used.add(part, **{"pool": pool, "class": place})
    return [size, used, fragmented]


def pool_metrics(text: str, wanted: Iterable[str]) -> list[Metric]:
    """Read from ``zpool status`` which pools are there: of one that is not, nothing else tells.

    :param wanted: pools that should be.
    """
    imported = Metric("zfs_pool_imported", "Whether a pool that is declared is there")
    found = set(re.findall(r"(?m)^\s*pool: (\S+)", text))
    for pool in wanted:
        imported.add(pool in found, pool=pool)
    return [imported]


def creation_metrics(text: str) -> list[Metric]:
    """Read ``zfs list -H -p -d 0 -o name,creation``, which has the pools alone."""
    created = Metric("zfs_pool_created_timestamp_seconds", "When a pool was made")
    for line in text.splitlines():
        pool, _tab, at = line.partition("\t")
        created.add(int(at), pool=pool)
    return [created]


def interval_of(policy: Mapping[str, Any]) -> int:
    """Return after how many seconds a policy takes the next snapshot; 0 when it takes none."""
    # It only prunes: the snapshots of a replica are as old as its backup, of which other alerts tell.
    if str(policy.get("take", True)).lower() in ("false", "no", "off", "n", "f", "0"):
        return 0
    return next((seconds for period, (seconds, kept) in PERIODS.items() if int(policy.get(period, kept)) > 0), 0)


def snapshot_metrics(text: str, policies: Iterable[Mapping[str, Any]]) -> list[Metric]:
    """Read ``zfs list -H -p -t snapshot -o name,creation``.

    :param policies: those of datasets that should have snapshots; one without has an age since 1970.
    """
    newest = Metric("zfs_dataset_snapshot_newest_timestamp_seconds", "When the newest snapshot was taken, of datasets that a policy covers")
    count = Metric("zfs_dataset_snapshots", "Snapshots of a dataset that a policy covers")
    every = Metric("zfs_dataset_snapshot_interval_seconds", "After how long the policy of a dataset takes the next snapshot")
    intervals = {str(policy["dataset"]): interval_of(policy) for policy in policies}
    found: dict[str, list[int]] = {name: [] for name, seconds in intervals.items() if seconds}
    for line in text.splitlines():
        name, _tab, created = line.partition("\t")
        dataset = name.partition("@")[0]
        if dataset in found:
            found[dataset].append(int(created))
    for dataset, times in found.items():
        newest.add(max(times, default=0), dataset=dataset)
        count.add(len(times), dataset=dataset)
        every.add(intervals[dataset], dataset=dataset)
    return [newest, count, every]


def iscsi_metrics(fabric: Path, wanted: Iterable[str] = ()) -> list[Metric]:
    """Read what the kernel's target shows of itself below configfs.

    :param wanted: targets that should be there, as they are declared; one that is not takes no logins.
    """
    enabled = Metric("iscsi_portal_group_enabled", "Whether a portal group of a target takes logins")
    session = Metric("iscsi_initiator_logged_in", "Whether an initiator that may log in has a session")
    groups = sorted(fabric.glob("*/tpgt_*"))
    # The kernel keeps names in small letters, as the module that makes targets gives them.
    for target in sorted({name.strip().lower() for name in wanted} - {group.parent.name for group in groups}):
        enabled.add(False, target=target, group="")
    for group in groups:
        target = group.parent.name
        enabled.add(_first(group / "enable") == "1", target=target, group=group.name)
        for rule in sorted(group.glob("acls/*")):
            session.add("No active iSCSI Session" not in _whole(rule / "info"), target=target, initiator=rule.name)
    return [enabled, session]


def _whole(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return "No active iSCSI Session"


def _first(path: Path) -> str:
    return _whole(path).strip().partition("\n")[0]


def known_scrubs(path: Path) -> dict[str, float]:
    """Return what the file of the last run says of scrubs."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return {}
    return {pool: float(value) for pool, value in re.findall(rf'^{_SCRUBBED}{{pool="([^"]+)"}} (\S+)$', text, re.MULTILINE)}


def gather(configuration: Mapping[str, Any], before: Mapping[str, float]) -> Iterator[Metric]:
    """Return all metrics.

    :raises CannotRead: ZFS does not answer.
    """
    status = run("zpool", "status", "-P", "-p")
    yield from status_metrics(status, before)
    yield from pool_metrics(status, configuration.get("pools") or [])
    yield from creation_metrics(run("zfs", "list", "-H", "-p", "-d", "0", "-o", "name,creation"))
    yield from space_metrics(run("zpool", "list", "-H", "-p", "-v", "-o", "name,size,allocated,fragmentation"))
    wanted = configuration.get("snapshots") or []
    if wanted:
        yield from snapshot_metrics(run("zfs", "list", "-H", "-p", "-t", "snapshot", "-o", "name,creation"), wanted)
    exports = Metric("llm_storage_nfs_exports", "Exports of NFS that are declared")
    exports.add(int(configuration.get("exports") or 0))
    yield exports
    yield from iscsi_metrics(FABRIC, configuration.get("targets") or [])


def write(path: Path, text: str) -> None:
    """Put the file in place in one step: node_exporter never reads half of it."""
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.chmod(0o644)
    new.replace(path)


def main(argv: list[str]) -> int:
    """Write the file; when ZFS does not answer, the old one stays and grows old, which is what the alert watches."""
    configuration = json.loads(Path(argv[0] if argv else CONFIGURATION).read_text(encoding="utf-8"))
    path = Path(configuration["file"])
    try:
        metrics = list(gather(configuration, known_scrubs(path)))
    except CannotRead as error:
        print(f"{error}. {path} stays as it was.", file=sys.stderr)  # noqa: T201 - the journal
        return 1
    ended = Metric("llm_storage_collected_timestamp_seconds", "When this was written last")
    ended.add(time.time())
    write(path, render([*metrics, ended]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
