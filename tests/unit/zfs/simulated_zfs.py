# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A simulated ZFS: a runner that holds datasets, with what was written to them, and obeys as the real one was seen to obey (2.3.9).

It refuses what the real one refuses, so that a plan in the wrong order fails, and it can be killed after any command that changes
something.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Iterator, Sequence

from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import CommandFailed
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._run import Completed, Runner
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._zfs.values import as_size

_DEFAULTS = (
    "atime=on compression=on recordsize=131072 quota=0 refquota=0 reservation=0 refreservation=0 canmount=on sync=standard readonly=off"
    " copies=1 xattr=sa encryption=off keyformat=none keylocation=none volmode=default snapdir=hidden logbias=latency"
)
DEFAULTS = dict(pair.split("=") for pair in _DEFAULTS.split(" "))
ONLY_FILESYSTEM = {"atime", "recordsize", "quota", "refquota", "canmount", "mountpoint", "xattr", "snapdir"}
NEVER_INHERITED = {"quota", "refquota", "reservation", "refreservation", "canmount", "volsize", "keylocation", "keyformat", "volblocksize"}
FIXED = {"encryption", "keyformat", "volblocksize"}


class Killed(BaseException):
    """The program was killed: nothing of it runs any further."""


class Failed(Exception):
    """What a command says before it exits with status 1."""


@dataclass
class Snap:
    """A snapshot or bookmark."""

    txg: int
    guid: str
    data: frozenset[str] = frozenset()
    holds: set[str] = field(default_factory=set)


@dataclass
class Dataset:
    """A file system or volume; ``data`` is what was written to it."""

    kind: str
    txg: int
    local: dict[str, str] = field(default_factory=dict)
    data: frozenset[str] = frozenset()
    origin: str = ""
    key: str = ""
    loaded: bool = True
    mounted: bool = False
    grants: dict[tuple[str, str], set[str]] = field(default_factory=dict)


class SimulatedZfs(Runner):
    """A pool of a size nobody reaches.

    :param files: key files on the host, by path.
    """

    def __init__(self, pool: str = "p", *, files: dict[str, str] | None = None) -> None:
        super().__init__()
        self.files = dict(files or {})
        self.datasets = {pool: Dataset("filesystem", 1, mounted=True)}
        self.snaps: dict[str, Snap] = {}
        self.kill_after = 0
        self.changes: list[str] = []
        self.secrets: list[str] = []
        self._clock = itertools.count(2)

    # -- what a test looks at --

    def kept(self) -> set[str]:
        """All data that can still be reached."""
        return {each for holder in (*self.datasets.values(), *self.snaps.values()) for each in holder.data}

    def write(self, name: str, *data: str) -> None:
        """Write to a dataset."""
        self.datasets[name].data |= frozenset(data)

    # -- running --

    def has(self, program: str) -> bool:
        return True

    def run(self, argv: Sequence[str], *, stdin: str | None = None, ok: Sequence[int] = (0,)) -> Completed:
        self.count += 1
        assert argv[0] == "zfs", argv
        verb, arguments = argv[1], list(argv[2:])
        reads = verb in {"get", "list", "holds"} or (verb == "allow" and len(arguments) == 1) or (verb == "load-key" and "-n" in arguments)
        try:
            out, err, rc = getattr(self, f"_{verb.replace('-', '_')}")(arguments, stdin or "")
        except Failed as error:
            out, err, rc = "", f"{error}\n", 1
        if not reads and rc == 0:
            self.changes.append(" ".join(argv))
            if len(self.changes) == self.kill_after:
                raise Killed
        if rc not in ok:
            raise CommandFailed(tuple(argv), rc, err or out)
        return Completed(rc, out, err)

    # -- reading --

    def _get(self, arguments: list[str], _stdin: str) -> tuple[str, str, int]:
        positional = _positional(arguments, with_value={"-o"})
        columns = arguments[arguments.index("-o") + 1]
        rows, missing = [], []
        for name in positional[1:]:
            if name not in self.datasets and name not in self.snaps:
                missing.append(f"cannot open '{name}': dataset does not exist\n")
                continue
            for what in self._all(name) if positional[0] == "all" else positional[0].split(","):
                value, source = self._value(name, what)
                rows.append(f"{name}\t{value}\n" if columns == "name,value" else f"{name}\t{what}\t{value}\t{source}\n")
        return "".join(rows), "".join(missing), 1 if missing else 0

    def _all(self, name: str) -> list[str]:
        fixed = ["type", "guid", "mounted", "mountpoint", "origin", "clones", "userrefs", "encryptionroot", "keystatus", "volsize"]
        users = {what for each in self.datasets.values() for what in each.local if ":" in what}
        return [each for each in dict.fromkeys([*fixed, *DEFAULTS, *sorted(users)]) if self._value(name, each)[0] != "-"]

    def _value(self, name: str, what: str) -> tuple[str, str]:  # noqa: PLR0911 - a table with a few exceptions
        if name in self.snaps:
            return self._snap_value(name, what), "-"
        here = self.datasets[name]
        root = self._root(name)
        special = {
            "type": here.kind,
            "guid": str(here.txg * 1000),
            "origin": here.origin or "-",
            "mounted": "-" if here.kind == "volume" else "yes" if here.mounted else "no",
            "encryptionroot": root or "-",
            "keystatus": "-" if not root else "available" if self.datasets[root].loaded else "unavailable",
            "volblocksize": here.local.get("volblocksize", "16384") if here.kind == "volume" else "-",
            "referenced": str(1024 * len(here.data)),
            "written": str(1024 * len(here.data)),
            "clones": "-",
            "userrefs": "-",
        }
        if what in special:
            return special[what], "-"
        if here.kind == "volume" and what in ONLY_FILESYSTEM:
            return "-", "-"
        if "@" in what:
            return here.local.get(what, "0"), "local"
        if what == "keylocation" and root and root != name:
            return "none", "default"
        if root and what in {"encryption", "keyformat"}:
            return self.datasets[root].local[what], "-"
        return self._inherited(name, what)

    def _inherited(self, name: str, what: str) -> tuple[str, str]:
        each = name
        while True:
            local = self.datasets[each].local
            if what in local:
                value = local[what]
                if what == "mountpoint" and value.startswith("/"):
                    value += name[len(each) :]
                return value, "local" if each == name else f"inherited from {each}"
            if "/" not in each or what in NEVER_INHERITED:
                break
            each = each.rsplit("/", 1)[0]
        return (f"/{name}", "default") if what == "mountpoint" else (DEFAULTS.get(what, "-"), "default" if what in DEFAULTS else "-")

    def _snap_value(self, name: str, what: str) -> str:
        snap, is_snapshot = self.snaps[name], "@" in name
        clones = ",".join(each for each, dataset in self.datasets.items() if dataset.origin == name)
        values = {"type": "snapshot" if is_snapshot else "bookmark", "guid": snap.guid}
        if is_snapshot:
            values.update(
                clones=clones, userrefs=str(len(snap.holds)), volsize=self.datasets[name.partition("@")[0]].local.get("volsize", "-")
            )
        return values.get(what, "-")

    def _root(self, name: str) -> str:
        while not self.datasets[name].key:
            if "/" not in name:
                return ""
            name = name.rsplit("/", 1)[0]
        return name

    def _list(self, arguments: list[str], _stdin: str) -> tuple[str, str, int]:
        rows = []
        for top in _positional(arguments, with_value={"-o", "-t"}):
            for name in [*self.datasets, *self.snaps]:
                if name == top or name.startswith((f"{top}/", f"{top}@", f"{top}#")):
                    kind = self._value(name, "type")[0]
                    txg = self.snaps[name].txg if name in self.snaps else self.datasets[name].txg
                    rows.append(f"{name}\t{kind}\t{txg}\t{self._value(name, 'clones')[0]}\t{self._value(name, 'userrefs')[0]}\n")
        return "".join(rows), "", 0

    def _holds(self, arguments: list[str], _stdin: str) -> tuple[str, str, int]:
        rows = [f"{name}\t{tag}\tSat Nov 28 03:04 2026\n" for name in arguments[1:] for tag in sorted(self.snaps[name].holds)]
        return "".join(rows), "", 0

    # -- changing --

    def _create(self, arguments: list[str], stdin: str) -> tuple[str, str, int]:
        name, values = arguments[-1], dict(_options(arguments))
        self._need_new(name)
        size = arguments[arguments.index("-V") + 1] if "-V" in arguments else ""
        made = Dataset("volume" if size else "filesystem", next(self._clock))
        if size:
            made.local["volsize"] = size
            if "-s" not in arguments:
                values.setdefault("refreservation", str(int(size) + 4096))
        if values.get("encryption", "off") != "off" and "keyformat" in values:
            made.key = self._read_key(values["keylocation"], stdin)
            values["encryption"] = "aes-256-gcm"
        elif values.get("encryption", "off") != "off" and not self._root(name.rsplit("/", 1)[0]):
            raise Failed(f"cannot create '{name}': Keyformat required for new encryption root.")
        self.datasets[name] = made
        for what, value in values.items():
            made.local[what] = _plain(what, value)
        made.mounted = made.kind == "filesystem" and made.local.get("canmount", "on") == "on"
        return "", "", 0

    def _need_new(self, name: str) -> None:
        if name in self.datasets or name in self.snaps:
            raise Failed(f"cannot create '{name}': dataset already exists")
        if name.rsplit("/", 1)[0] not in self.datasets:
            raise Failed(f"cannot create '{name}': parent does not exist")

    def _read_key(self, location: str, stdin: str) -> str:
        if location == "prompt":
            if not stdin:
                raise Failed("Key load error: encryption failure")
            self.secrets.append(stdin)
            return stdin
        path = location[len("file://") :]
        if path not in self.files:
            raise Failed("Failed to open key material file: No such file or directory")
        return self.files[path]

    def _set(self, arguments: list[str], _stdin: str) -> tuple[str, str, int]:
        for name in [each for each in arguments if "=" not in each]:
            here = self.datasets[name]
            for what, value in (each.split("=", 1) for each in arguments if "=" in each):
                if what in FIXED or (here.kind == "volume" and what in ONLY_FILESYSTEM):
                    raise Failed(f"cannot set property for '{name}': '{what}' is readonly")
                if what == "refreservation" and value == "auto":
                    value = str(int(here.local["volsize"]) + 4096)  # noqa: PLW2901 - what ZFS makes of it
                if what == "mountpoint" and value.startswith("/") and self._value(name, what)[0] == "none":
                    here.mounted = True
                here.local[what] = _plain(what, value)
        return "", "", 0

    def _inherit(self, arguments: list[str], _stdin: str) -> tuple[str, str, int]:
        what, *names = arguments
        if what in NEVER_INHERITED:
            raise Failed(f"'{what}' property cannot be inherited")
        for name in names:
            self.datasets[name].local.pop(what, None)
        return "", "", 0

    def _mount(self, arguments: list[str], _stdin: str) -> tuple[str, str, int]:
        root = self._root(arguments[0])
        if self.datasets[arguments[0]].mounted:
            raise Failed(f"cannot mount '{arguments[0]}': filesystem already mounted")
        if root and not self.datasets[root].loaded:
            raise Failed(f"cannot mount '{arguments[0]}': encryption key not loaded")
        self.datasets[arguments[0]].mounted = True
        return "", "", 0

    def _unmount(self, arguments: list[str], _stdin: str) -> tuple[str, str, int]:
        if not self.datasets[arguments[0]].mounted:
            raise Failed(f"cannot unmount '{arguments[0]}': not currently mounted")
        self.datasets[arguments[0]].mounted = False
        return "", "", 0

    def _load_key(self, arguments: list[str], stdin: str) -> tuple[str, str, int]:
        name, location = arguments[-1], arguments[arguments.index("-L") + 1]
        if self._read_key(location, stdin) != self.datasets[name].key:
            return "", f"Key load error: Incorrect key provided for '{name}'.\n", 255
        if "-n" not in arguments:
            self.datasets[name].loaded = True
        return "", "", 0

    def _unload_key(self, arguments: list[str], _stdin: str) -> tuple[str, str, int]:
        name = arguments[0]
        if any(each.mounted and self._root(other) == name for other, each in self.datasets.items()):
            raise Failed(f"Key unload error: '{name}' is busy.")
        self.datasets[name].loaded = False
        return "", "", 0

    def _change_key(self, arguments: list[str], stdin: str) -> tuple[str, str, int]:
        name, values = arguments[-1], dict(_options(arguments))
        root = self._root(name)
        if not self.datasets[root].loaded:
            raise Failed("Key change error: Key must be loaded.")
        self.datasets[name].key = self._read_key(values["keylocation"], stdin)
        self.datasets[name].local.update(values, encryption="aes-256-gcm")
        return "", "", 0

    def _snapshot(self, names: list[str], _stdin: str) -> tuple[str, str, int]:
        txg = next(self._clock)
        if len({name.partition("@")[0] for name in names}) < len(names):
            raise Failed("cannot create snapshots : multiple snapshots of same fs not allowed\nno snapshots were created")
        for name in names:
            if name in self.snaps:
                raise Failed(f"cannot create snapshot '{name}': dataset already exists")
            if name.split("@")[0] not in self.datasets:
                raise Failed(f"cannot open '{name.split('@')[0]}': dataset does not exist")
        for number, name in enumerate(names):
            self.snaps[name] = Snap(txg, str(txg * 1000 + number), self.datasets[name.split("@")[0]].data)
        return "", "", 0

    def _bookmark(self, arguments: list[str], _stdin: str) -> tuple[str, str, int]:
        source, name = arguments
        if source not in self.snaps or name in self.snaps:
            raise Failed(f"cannot create bookmark '{name}'")
        self.snaps[name] = Snap(self.snaps[source].txg, self.snaps[source].guid)
        return "", "", 0

    def _hold(self, arguments: list[str], _stdin: str) -> tuple[str, str, int]:
        for name in arguments[1:]:
            if arguments[0] in self.snaps[name].holds:
                raise Failed(f"cannot hold snapshot '{name}': tag already exists on this dataset")
            self.snaps[name].holds.add(arguments[0])
        return "", "", 0

    def _release(self, arguments: list[str], _stdin: str) -> tuple[str, str, int]:
        for name in arguments[1:]:
            if arguments[0] not in self.snaps[name].holds:
                raise Failed(f"cannot release hold from snapshot '{name}': no such tag on this dataset")
            self.snaps[name].holds.remove(arguments[0])
        return "", "", 0

    def _clone(self, arguments: list[str], _stdin: str) -> tuple[str, str, int]:
        origin, name = arguments[-2:]
        self._need_new(name)
        if origin not in self.snaps:
            raise Failed(f"cannot open '{origin}': dataset does not exist")
        source = self.datasets[origin.split("@")[0]]
        made = Dataset(source.kind, next(self._clock), data=self.snaps[origin].data, origin=origin, mounted=source.kind == "filesystem")
        made.local = {what: value for what, value in source.local.items() if what == "volsize"}
        made.local.update({what: _plain(what, value) for what, value in _options(arguments)})
        self.datasets[name] = made
        return "", "", 0

    def _promote(self, arguments: list[str], _stdin: str) -> tuple[str, str, int]:
        name = arguments[0]
        here, origin = self.datasets[name], self.datasets[name].origin
        if not origin:
            raise Failed(f"cannot promote '{name}': not a cloned filesystem")
        source = origin.split("@")[0]
        for old in [each for each, snap in self.snaps.items() if each.startswith(f"{source}@") and snap.txg <= self.snaps[origin].txg]:
            moved = f"{name}@{old.split('@')[1]}"
            if moved in self.snaps:
                raise Failed(f"cannot promote '{name}': snapshot name '{moved}' from origin conflicts")
            self.snaps[moved] = self.snaps.pop(old)
            for each in self.datasets.values():
                each.origin = moved if each.origin == old else each.origin
        self.datasets[source].origin, here.origin = here.origin, ""
        return "", "", 0

    def _rename(self, arguments: list[str], _stdin: str) -> tuple[str, str, int]:
        old, new = arguments
        self._need_new(new)

        def at(name: str) -> str:
            return new + name[len(old) :] if name == old or name.startswith((f"{old}/", f"{old}@", f"{old}#")) else name

        self.datasets = {at(name): each for name, each in self.datasets.items()}
        self.snaps = {at(name): each for name, each in self.snaps.items()}
        for each in self.datasets.values():
            each.origin = at(each.origin)
        return "", "", 0

    def _rollback(self, arguments: list[str], _stdin: str) -> tuple[str, str, int]:
        name = arguments[0]
        dataset = name.split("@")[0]
        if any(each.startswith((f"{dataset}@", f"{dataset}#")) and snap.txg > self.snaps[name].txg for each, snap in self.snaps.items()):
            raise Failed(f"cannot rollback to '{name}': more recent snapshots or bookmarks exist")
        self.datasets[dataset].data = self.snaps[name].data
        return "", "", 0

    def _destroy(self, arguments: list[str], _stdin: str) -> tuple[str, str, int]:
        assert len(arguments) == 1, f"destroy with options: {arguments}"
        dataset, _at, snaps = arguments[0].partition("@")
        names = [f"{dataset}@{each}" for each in snaps.split(",")] if snaps else arguments
        for name in names:
            if name in self.snaps:
                if self.snaps[name].holds or any(each.origin == name for each in self.datasets.values()):
                    raise Failed(f"cannot destroy '{name}': dataset is busy")
                continue
            if any(each.startswith((f"{name}/", f"{name}@")) for each in [*self.datasets, *self.snaps]):
                raise Failed(f"cannot destroy '{name}': filesystem has children")
        for name in names:
            if name in self.snaps:
                del self.snaps[name]
                continue
            del self.datasets[name]
            for mark in [each for each in self.snaps if each.startswith(f"{name}#")]:
                del self.snaps[mark]
        return "", "", 0

    # -- delegation --

    def _allow(self, arguments: list[str], _stdin: str) -> tuple[str, str, int]:
        if len(arguments) == 1:
            return "".join(self._shown(name) for name in _upwards(arguments[0]) if self.datasets[name].grants), "", 0
        scope, who, permissions, name = _delegation(arguments)
        for each in permissions:
            self.datasets[name].grants.setdefault((who, each), set()).update(scope)
        return "", "", 0

    def _unallow(self, arguments: list[str], _stdin: str) -> tuple[str, str, int]:
        scope, who, permissions, name = _delegation(arguments)
        for each in permissions:
            left = self.datasets[name].grants[who, each] - scope
            if left:
                self.datasets[name].grants[who, each] = left
            else:
                del self.datasets[name].grants[who, each]
        return "", "", 0

    def _shown(self, name: str) -> str:
        headings = {
            frozenset({"set"}): "Permission sets:",
            frozenset({"create"}): "Create time permissions:",
            frozenset({"l"}): "Local permissions:",
            frozenset({"d"}): "Descendent permissions:",
            frozenset({"l", "d"}): "Local+Descendent permissions:",
        }
        lines = [f"---- Permissions on {name} ".ljust(70, "-")]
        for scope, heading in headings.items():
            rows = [f"\t{who} {each}".replace("\t ", "\t") for (who, each), where in self.datasets[name].grants.items() if where == scope]
            lines += [heading, *rows] if rows else []
        return "\n".join(lines) + "\n"


def _upwards(name: str) -> Iterator[str]:
    yield name
    while "/" in name:
        name = name.rsplit("/", 1)[0]
        yield name


def _delegation(arguments: list[str]) -> tuple[set[str], str, list[str], str]:
    """Scope, who as C(zfs allow) shows them, permissions, dataset."""
    *flags, permissions, name = arguments
    scope = {"-l": {"l"}, "-d": {"d"}}.get(flags[0], {"l", "d"})
    if "-s" in flags:
        scope, who = {"set"}, flags[-1]
    elif "-c" in flags:
        scope, who = {"create"}, ""
    else:
        who = "everyone" if "-e" in flags else f"{'user' if '-u' in flags else 'group'} {flags[-1]}"
    return scope, who, permissions.split(","), name


def _options(arguments: Sequence[str]) -> list[tuple[str, str]]:
    pairs = [arguments[position + 1] for position, each in enumerate(arguments) if each == "-o"]
    return [(pair.partition("=")[0], pair.partition("=")[2]) for pair in pairs]


def _positional(arguments: Sequence[str], *, with_value: set[str]) -> list[str]:
    left, skip = [], False
    for each in arguments:
        if skip:
            skip = False
        elif each.startswith("-"):
            skip = each in with_value
        else:
            left.append(each)
    return left


def _plain(what: str, value: str) -> str:
    """The value as `zfs get -p` shows it."""
    if ":" in what or what in {"copies", "mountpoint", "keylocation"}:
        return value
    size = as_size(value)
    numeric = "quota" in what or what in {"recordsize", "volsize", "volblocksize", "reservation", "refreservation"}
    if numeric:
        return "0" if value == "none" else str(size if size is not None else value)
    return value
