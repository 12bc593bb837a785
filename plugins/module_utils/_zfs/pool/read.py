# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask ZFS about pools. Nothing here changes anything."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Mapping

from ..._errors import CommandFailed
from ..._run import Runner
from ..read import ask
from .model import FoundPool, Group, Importable
from .status_json import parse_status_json
from .status_text import parse_importable, parse_status

_VERSION = "/sys/module/zfs/version"
_JSON_SINCE = (2, 3)
_COMPATIBILITY = ("/etc/zfs/compatibility.d", "/usr/share/zfs/compatibility.d")


@dataclass(frozen=True)
class Geometry:
    """What a top-level vdev demands of a device.

    :param ashift: its sector size, as a power of two.
    :param room: bytes that a device must have for data; 0 when it is not known.
    """

    ashift: int
    room: int = 0


def zfs_version(path: str = _VERSION) -> tuple[int, int]:
    """Version of the loaded kernel module; (0, 0) when none is."""
    try:
        found = re.match(r"(\d+)\.(\d+)", Path(path).read_text(encoding="ascii"))
    except OSError:
        return 0, 0
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)


def read_pools(runner: Runner, *, progress: bool = False, version: tuple[int, int] | None = None) -> dict[str, FoundPool]:
    """Every imported pool, with one process.

    :param progress: also tell what was trimmed and initialised.
    :param version: of ZFS; the loaded module's by default.
    """
    more = ["-t", "-i"] if progress else []
    if (zfs_version() if version is None else version) >= _JSON_SINCE:
        return parse_status_json(ask(runner, ["zpool", "status", "-P", "-j", "--json-int", *more]).stdout)
    return parse_status(ask(runner, ["zpool", "status", "-P", *more]).stdout)


def read_properties(runner: Runner, name: str) -> dict[str, str]:
    """All properties of one pool."""
    text = ask(runner, ["zpool", "get", "-H", "-p", "-o", "property,value", "all", name]).stdout
    return dict(line.split("\t", 1) for line in text.splitlines() if "\t" in line)


def search_places(files: Iterable[str]) -> list[str]:
    """Where ``zpool import`` must look when some devices are files; empty for its own search of disks."""
    named = list(files)
    if not named:
        return []
    disks = [folder for folder in ("/dev/disk/by-id", "/dev") if Path(folder).is_dir()]
    return [argument for place in (*named, *disks) for argument in ("-d", place)]


def read_importable(runner: Runner, files: Iterable[str]) -> list[Importable]:
    """Pools that attached devices, or the given files, hold but that are not imported."""
    # The listing has no -P; this is what the library behind it reads instead.
    argv = ["env", "ZPOOL_VDEV_NAME_PATH=1", "zpool", "import", *search_places(files)]
    return parse_importable(ask(runner, argv, ok=(0, 1)).stdout)


def read_geometry(runner: Runner, pool: str) -> dict[str, Geometry]:
    """What each top-level vdev demands of a device, by number, GUID and path; empty where zdb cannot tell."""
    if not runner.has("zdb"):
        return {}
    try:
        return parse_geometry(runner.run(["zdb", "-C", pool], ok=(0, 1, 2)).stdout)
    except CommandFailed:
        return {}


def parse_geometry(text: str) -> dict[str, Geometry]:
    """Read the configuration that ``zdb -C`` prints: the children of the root only."""
    found: dict[str, Geometry] = {}
    for block in re.split(r"(?m)^ {12}children\[\d+\]:", text)[1:]:
        values = dict(re.findall(r"(?m)^ {16}(\w+): '?(.+?)'?$", block))
        if "ashift" in values:
            names = [values.get("guid", ""), values.get("path", ""), f"#{values.get('id', '')}"]
            children = len(re.findall(r"(?m)^ {16}children\[\d+\]:", block))
            geometry = Geometry(int(values["ashift"]), _room(values, children))
            found.update({name: geometry for name in names if name})
    return found


def _room(values: Mapping[str, str], children: int) -> int:
    """Bytes that ZFS wants to find on each device: whole metaslabs, so a little less than what the smallest one has."""
    asize, shift = values.get("asize", "0"), values.get("metaslab_shift", "0")
    whole = int(asize) >> int(shift) << int(shift)
    if values.get("type") == "raidz":
        return whole // max(children, 1)
    return 0 if values.get("type") == "draid" else whole


def geometry_of(group: Group, known: Mapping[str, Geometry]) -> Geometry | None:
    """The one of a group that was found; None when it is not known."""
    numbered = re.search(r"-(\d+)$", group.name) if group.kind != "stripe" else None
    names = [group.guid, f"#{numbered.group(1)}" if numbered else "", *(name for leaf in group.leaves for name in leaf.names)]
    return next((known[name] for name in names if name in known), None)


def allowed_features(compatibility: str, folders: Iterable[str] = _COMPATIBILITY) -> frozenset[str] | None:
    """The features that the pool property C(compatibility) allows; None for all of them."""
    if compatibility in {"off", "-", ""}:
        return None
    if compatibility == "legacy":
        return frozenset()
    sets = [_features(name, list(folders)) for name in compatibility.split(",")]
    return frozenset.intersection(*sets)


def _features(name: str, folders: list[str]) -> frozenset[str]:
    for path in [Path(name)] if name.startswith("/") else [Path(folder, name) for folder in folders]:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        return frozenset(word for line in lines for word in line.split("#")[0].replace(",", " ").split())
    return frozenset()
