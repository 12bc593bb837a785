# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for ZFS that keeps pools in memory: what a plan's commands do to them can be seen, and cut off at any point.

It speaks the text form of ``zpool`` and refuses what real ZFS 2.3.9 refuses of that which the tests do; a device that
carries anything and is taken into a pool fails the test at once, since real ZFS would have destroyed it.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from typing import Any, Callable, Iterable, Sequence

from ansible_collections.selfhosted.llm_stack.plugins.module_utils._disk.probe import BlockDevice
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import CommandFailed
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._run import Completed, Runner

FEATURES = ("allocation_classes", "device_removal", "draid", "raidz_expansion", "zpool_checkpoint", "zstd_compress")
_KIND = re.compile(r"^(mirror|raidz[123]|draid[123](:\d+[dcs])*)$")
_CLASSES = {"special": "special", "dedup": "dedup", "log": "logs", "cache": "cache", "spare": "spares"}


class KilledError(BaseException):
    """The process is gone: nothing may catch this."""


@dataclass
class SimLeaf:
    """One device of a pool; ``shown`` is its path as the pool knows it."""

    shown: str
    guid: str
    state: str = "ONLINE"
    initialized: bool = False

    @property
    def path(self) -> str:
        return self.shown


@dataclass
class SimGroup:
    """A top-level vdev; a member is a list of leaves, two while a spare stands in."""

    use: str
    kind: str
    number: int
    members: list[list[SimLeaf]]

    @property
    def name(self) -> str:
        return self.members[0][0].shown if self.kind == "stripe" else f"{self.kind}-{self.number}"

    @property
    def leaves(self) -> list[SimLeaf]:
        return [leaf for member in self.members for leaf in member]


@dataclass
class SimPool:
    """One pool."""

    name: str
    guid: str
    properties: dict[str, str]
    groups: list[SimGroup] = field(default_factory=list)
    exported: bool = False
    other_host: bool = False
    scan: str = "none requested"
    remove: str = ""
    ashift: int = 12


class SimulatedZfs(Runner):
    """Pools and the devices they may be made of.

    :param links: a path to the kernel's name of the same device; other paths are their own.
    :param carried: what is written on a device, by its kernel name.
    :param features: those that this version of ZFS has.
    """

    def __init__(self, *, links: dict[str, str] | None = None, features: Sequence[str] = FEATURES) -> None:
        super().__init__()
        self.links = dict(links or {})
        self.features = tuple(features)
        self.pools: dict[str, SimPool] = {}
        self.carried: dict[str, str] = {}
        self.missing: set[str] = set()
        self.sectors: dict[str, int] = {}
        self.changes: list[str] = []
        self.kill_after: int | None = None
        self._guids = itertools.count(1000)

    # --- what the code under test asks of devices -------------------------------------------------------------------------
    def real(self, path: str) -> str:
        """What a path leads to; a partition of a link is one of its disk."""
        if path.endswith("-part1") and path[: -len("-part1")] in self.links:
            return self.links[path[: -len("-part1")]] + "1"
        return self.links.get(path, path)

    def declared(self, path: str) -> frozenset[str]:
        return frozenset({path, self.real(path)})

    def member(self, path: str) -> frozenset[str]:
        whole = self.real(path)
        disk = whole[:-1] if path.endswith("-part1") else whole
        return frozenset({path, whole, disk, path[: -len("-part1")] if path.endswith("-part1") else path})

    def probe(self, _runner: Runner, paths: Iterable[str]) -> dict[str, BlockDevice]:
        found = {}
        for path in paths:
            real = self.real(path)
            kind = "missing" if path in self.missing else "disk"
            sector = self.sectors.get(path, 512)
            found[path] = BlockDevice(path=path, real=real, kind=kind, size=1 << 32, sector=sector, logical=min(sector, 512))
        return found

    def contents(self, _runner: Runner, device: BlockDevice) -> list[str]:
        return [self.carried[device.real]] if device.real in self.carried else []

    def clear(self, _runner: Runner, device: BlockDevice) -> None:
        self.carried.pop(device.real, None)
        self._changed(f"wipe {device.path}")

    # --- commands -----------------------------------------------------------------------------------------------------
    def has(self, program: str) -> bool:
        return bool(program)

    def run(self, argv: Sequence[str], *, stdin: str | None = None, ok: Sequence[int] = (0,)) -> Completed:
        self.count += 1
        words = list(argv)
        if words[:2] == ["env", "ZPOOL_VDEV_NAME_PATH=1"]:
            words = words[2:]
        if words[0] == "zpool" and words[1] in {"status", "get", "list", "wait"}:
            return Completed(0, self._ask(words), "")
        if words[0] == "zfs":
            return Completed(0, f"{words[-1]}\trecordsize\t131072\n{words[-1]}\tsync\tstandard\n", "")
        if words[0] == "zdb":
            return Completed(0, self._zdb(self.pools[words[-1]]), "")
        if words[1] == "import" and not words[-1].isdigit():
            return Completed(0, "".join(self._importable(pool) for pool in self.pools.values() if pool.exported), "")
        try:
            self._change(words)
        except ValueError as error:
            raise CommandFailed(tuple(argv), 1, str(error)) from error
        self._changed(" ".join(argv))
        return Completed(0, "", "")

    def _changed(self, what: str) -> None:
        self.changes.append(what)
        if self.kill_after is not None and len(self.changes) >= self.kill_after:
            raise KilledError(what)

    def _ask(self, words: list[str]) -> str:
        if words[1] == "status":
            live = [pool for pool in self.pools.values() if not pool.exported]
            return "\n".join(self._status(pool, progress="-i" in words) for pool in live) or "no pools available\n"
        if words[1] == "get":
            pool = self.pools[words[-1]]
            return "\n".join(f"{name}\t{value}" for name, value in {**pool.properties, "guid": pool.guid}.items()) + "\n"
        return ""

    def _status(self, pool: SimPool, *, progress: bool) -> str:
        state = "ONLINE" if all(leaf.state == "ONLINE" for group in pool.groups for leaf in group.leaves) else "DEGRADED"
        head = f"  pool: {pool.name}\n state: {state}\n  scan: {pool.scan}\n"
        head += f"remove: Evacuation of {pool.remove} in progress since Sun Oct 11 04:13:26 2026\n" if pool.remove else ""
        rows = ["NAME  STATE  READ WRITE CKSUM", f"{pool.name}  {state}  0  0  0", *self._rows(pool, progress=progress)]
        return head + "config:\n\n" + "".join(f"\t{row}\n" for row in rows) + "\nerrors: No known data errors\n"

    def _rows(self, pool: SimPool, *, progress: bool) -> list[str]:
        rows: list[str] = []
        for use in ("data", "dedup", "special", "log", "cache", "spare"):
            groups = [group for group in pool.groups if group.use == use]
            rows += [_CLASSES[use]] if groups and use != "data" else []
            for group in groups:
                depth = 1
                if group.kind != "stripe":
                    rows.append(f"  {group.name}  ONLINE  0  0  0")
                    depth = 2
                for member in group.members:
                    rows += self._member_rows(member, depth, spare=use == "spare", progress=progress)
        return rows

    def _member_rows(self, member: list[SimLeaf], depth: int, *, spare: bool, progress: bool) -> list[str]:
        rows = []
        if len(member) > 1:
            rows.append("  " * depth + "spare-0  DEGRADED  0  0  0")
            depth += 1
        for leaf in member:
            state = "AVAIL" if spare and leaf.state == "ONLINE" else leaf.state
            name, tail = (leaf.guid, f"  was {leaf.shown}") if leaf.state == "UNAVAIL" else (leaf.shown, "")
            if progress:
                tail += "  (100% initialized, completed at Sat Nov 28 03:04:51 2026)" if leaf.initialized else "  (uninitialized)"
                tail += "  (untrimmed)"
            rows.append("  " * depth + f"{name}  {state}  0  0  0{tail}")
        return rows

    def _importable(self, pool: SimPool) -> str:
        status = "status: The pool was last accessed by another system.\n" if pool.other_host else ""
        rows = [f"{pool.name}  ONLINE", *self._rows(pool, progress=False)]
        return (
            f"  pool: {pool.name}\n    id: {pool.guid}\n state: ONLINE\n{status}config:\n\n" + "".join(f"\t{row}\n" for row in rows) + "\n"
        )

    def _zdb(self, pool: SimPool) -> str:
        text = "        vdev_tree:\n            type: 'root'\n            id: 0\n"
        for group in pool.groups:
            text += f"            children[{group.number}]:\n                type: '{group.kind}'\n                id: {group.number}\n"
            text += f"                guid: {group.number + 1}\n                ashift: {pool.ashift}\n"
        return text

    def _change(self, words: list[str]) -> None:
        verb, rest = words[1], words[2:]
        options: dict[str, str] = {}
        while rest and rest[0] in {"-f", "-o", "-O", "-d"}:
            if rest[0] == "-f":
                rest = rest[1:]
                continue
            options[rest[1].split("=")[0]] = rest[1].partition("=")[2]
            rest = rest[2:]
        handlers: dict[str, Callable[..., Any]] = {
            name: getattr(self, f"_do_{name}")
            for name in ("create", "add", "attach", "detach", "replace", "remove", "online", "offline", "set", "upgrade", "checkpoint")
        }
        handlers.update(scrub=self._do_scrub, initialize=self._do_initialize, trim=lambda *_: None, destroy=self._do_destroy)
        handlers.update({"import": self._do_import, "export": self._do_export})
        handlers[verb](rest, options)

    # --- changes ------------------------------------------------------------------------------------------------------
    def _take(self, path: str) -> SimLeaf:
        real = self.real(path)
        assert real not in self.carried, f"{path} carries {self.carried.get(real)}: real ZFS would have destroyed it"
        self.carried[real] = "it carries a ZFS pool"
        shown = f"{path}-part1" if path in self.links else path
        return SimLeaf(shown, str(next(self._guids)))

    def _vdevs(self, pool: SimPool, words: list[str]) -> None:
        use, kind = "data", "stripe"
        devices: list[str] = []
        for word in [*words, "end"]:
            heading = word in {*_CLASSES, "end"} or _KIND.match(word)
            if heading and devices:
                self._put(pool, use, kind, devices)
                devices, kind = [], "stripe"
            if word in _CLASSES:
                use, kind = word, "stripe"
            elif _KIND.match(word):
                kind = word
            elif word != "end":
                devices.append(word)

    def _put(self, pool: SimPool, use: str, kind: str, devices: list[str]) -> None:
        leaves = [self._take(device) for device in devices]
        members = [[[leaf]] for leaf in leaves] if kind == "stripe" else [[[leaf] for leaf in leaves]]
        for each in members:
            number = max((group.number for group in pool.groups), default=-1) + 1
            pool.groups.append(SimGroup(use, kind, number, each))

    def _do_create(self, words: list[str], options: dict[str, str]) -> None:
        features = {f"feature@{name}": "enabled" for name in self.features}
        given = {name: value for name, value in options.items() if name in features or not name.startswith("feature@")}
        defaults = {"ashift": "0", "autotrim": "off", "autoexpand": "off", "comment": "-", "compatibility": "off", "checkpoint": "-"}
        defaults.update(version="-", capacity="1", free="1000", altroot="-")
        pool = SimPool(words[0], str(next(self._guids)), {**defaults, **features, **given})
        if options.get("ashift", "0") != "0":
            pool.ashift = int(options["ashift"])
        self._vdevs(pool, words[1:])
        self.pools[pool.name] = pool

    def _do_add(self, words: list[str], _options: dict[str, str]) -> None:
        self._vdevs(self.pools[words[0]], words[1:])

    def _find(self, pool: SimPool, name: str) -> tuple[SimGroup, list[SimLeaf], SimLeaf]:
        for group in sorted(pool.groups, key=lambda group: group.use == "spare"):
            for member in group.members:
                for leaf in member:
                    if name in {leaf.shown, leaf.guid}:
                        return group, member, leaf
        raise ValueError(f"cannot find {name}: no such device in pool")

    def _free(self, pool: SimPool) -> None:
        if pool.properties["checkpoint"] != "-":
            raise ValueError("checkpoint exists")

    def _do_attach(self, words: list[str], _options: dict[str, str]) -> None:
        pool = self.pools[words[0]]
        self._free(pool)
        raidz = [group for group in pool.groups if group.name == words[1] and group.kind.startswith("raidz")]
        group = raidz[0] if raidz else self._find(pool, words[1])[0]
        group.members.append([self._take(words[2])])
        group.kind = "mirror" if group.kind == "stripe" else group.kind

    def _do_detach(self, words: list[str], _options: dict[str, str]) -> None:
        pool = self.pools[words[0]]
        self._free(pool)
        group, member, leaf = self._find(pool, words[1])
        member.remove(leaf)
        if member:  # the spare keeps the place
            pool.groups = [each for each in pool.groups if each.use != "spare" or each.leaves[0].shown != member[0].shown]
        else:
            group.members.remove(member)
        if group.kind == "mirror" and len(group.members) == 1:
            group.kind = "stripe"
        self.carried.pop(self._disk(leaf.shown), None)

    def _disk(self, shown: str) -> str:
        return self.real(shown[: -len("-part1")] if shown.endswith("-part1") else shown)

    def _do_replace(self, words: list[str], _options: dict[str, str]) -> None:
        pool = self.pools[words[0]]
        self._free(pool)
        _group, member, leaf = self._find(pool, words[1])
        member[:] = [self._take(words[2])]
        self.carried.pop(self._disk(leaf.shown), None)

    def _do_remove(self, words: list[str], _options: dict[str, str]) -> None:
        pool = self.pools[words[0]]
        self._free(pool)
        groups = [
            group for group in pool.groups if group.name == words[1] or (group.kind == "stripe" and group.leaves[0].shown == words[1])
        ]
        if not groups:
            raise ValueError(f"cannot remove {words[1]}: no such device in pool")
        if groups[0].use in {"data", "special", "dedup"} and any(group.kind.startswith(("raidz", "draid")) for group in pool.groups):
            raise ValueError("operation not supported on this type of pool")
        pool.groups.remove(groups[0])

    def _do_online(self, words: list[str], _options: dict[str, str]) -> None:
        self._find(self.pools[words[0]], words[1])[2].state = "ONLINE"

    def _do_offline(self, words: list[str], _options: dict[str, str]) -> None:
        self._find(self.pools[words[0]], words[1])[2].state = "OFFLINE"

    def _do_set(self, words: list[str], _options: dict[str, str]) -> None:
        name, _equals, value = words[0].partition("=")
        self.pools[words[1]].properties[name] = value

    def _do_upgrade(self, words: list[str], _options: dict[str, str]) -> None:
        properties = self.pools[words[0]].properties
        properties.update({name: "enabled" for name, value in properties.items() if name.startswith("feature@") and value == "disabled"})

    def _do_checkpoint(self, words: list[str], _options: dict[str, str]) -> None:
        self._free(self.pools[words[0]])
        self.pools[words[0]].properties["checkpoint"] = "4096"

    def _do_scrub(self, words: list[str], _options: dict[str, str]) -> None:
        self.pools[words[0]].scan = "scrub in progress since Sat Nov 28 03:04:53 2026\n\t0B repaired, 50.00% done, 00:01:00 to go"

    def _do_initialize(self, words: list[str], _options: dict[str, str]) -> None:
        for group in self.pools[words[0]].groups:
            for leaf in group.leaves:
                leaf.initialized = leaf.initialized or not words[1:] or leaf.shown in words[1:]

    def _do_destroy(self, words: list[str], _options: dict[str, str]) -> None:
        pool = self.pools.pop(words[0])
        for group in pool.groups:
            for leaf in group.leaves:
                self.carried.pop(self._disk(leaf.shown), None)

    def _do_import(self, words: list[str], _options: dict[str, str]) -> None:
        pool = next(pool for pool in self.pools.values() if pool.guid == words[-1] and pool.exported)
        pool.exported = pool.other_host = False

    def _do_export(self, words: list[str], _options: dict[str, str]) -> None:
        self.pools[words[0]].exported = True
