# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read datasets and all that a list says of them, with as few commands as ZFS allows."""

from __future__ import annotations

import grp
import pwd
import re
from pathlib import Path
from typing import Any, Callable, Iterable, Sequence

from ..._errors import BadInput, CommandFailed
from ..._run import Runner
from ..model import Value
from ..read import ask, parse_get, xattr_style
from .model import Below, Current, Dataset, Directory, FoundDataset, Granted, Host, Key, by_depth
from .rules import quota_owner
from .snapshots import ROLLED_BACK

# What a plan needs to know of every dataset besides the declared properties.
_ALWAYS = ("type", "mounted", "mountpoint", "canmount", "encryption", "keystatus", "volsize", "volblocksize", "refreservation")
_OF_KEYS = ("encryptionroot", "keyformat", "keylocation")
_OF_SNAPSHOTS = ("guid", "clones", "userrefs")
_MISSING = re.compile(r"does not exist|no such pool or dataset")
_HEADING = re.compile(r"^---- Permissions on (\S.*?) -+$")
_UNKNOWN = re.compile(r"^\(unknown: (\d+)\)$")
_SCOPES = {
    "Permission sets:": frozenset(),
    "Create time permissions:": frozenset(),
    "Local permissions:": frozenset({"local"}),
    "Descendent permissions:": frozenset({"descendent"}),
    "Local+Descendent permissions:": frozenset({"local", "descendent"}),
}


def lineage(names: Iterable[str]) -> list[str]:
    """The names with all their parents, each parent before its children."""
    parts = [name.split("/") for name in names]
    return sorted({"/".join(each[:depth]) for each in parts for depth in range(1, len(each) + 1)}, key=by_depth)


def read_current(runner: Runner, wanted: Sequence[Dataset]) -> Current:
    """Everything the list is about: one process for all properties, further ones only where the list says more.

    :raises BadInput: when ZFS on this host does not know a property.
    :raises NoZfsError: when ZFS cannot be used.
    """
    if not wanted:
        return Current()
    found = read_datasets(runner, names_of(wanted), properties_of(wanted))
    stripped = without_altroot(runner, wanted, found)
    below = _read_below(runner, wanted, stripped)
    return Current(
        found=stripped,
        holds=_read_holds(runner, wanted, stripped, below),
        grants=_read_grants(runner, wanted, stripped),
        below=below,
        fitting=_read_fitting(runner, wanted, stripped),
    )


def names_of(wanted: Sequence[Dataset]) -> list[str]:
    """Every name to ask for: datasets with their parents, and the snapshots and bookmarks that are named."""
    renames = {each.name: each.renamed_from for each in wanted if each.renamed_from}
    datasets = lineage([*(each.name for each in wanted), *(each.origin.split("@")[0] for each in wanted if each.origin)])
    marks = dict.fromkeys(mark for each in wanted for mark in _marks(each))
    former = [each for old, new in ((old, new) for new, old in renames.items()) for each in _former([*datasets, *marks], new, old)]
    olds = lineage([name for name in former if "@" not in name and "#" not in name])
    return list(dict.fromkeys([*datasets, *olds, *marks, *former]))


def _marks(want: Dataset) -> list[str]:
    marks = [want.snapshot(each.name) for each in want.snapshots]
    marks += [
        mark for each in want.bookmarks for mark in (f"{want.name}#{each.name}", want.snapshot(each.snapshot)) if mark[-1] not in "@#"
    ]
    return [*marks, *([want.origin] if want.origin else []), *([want.snapshot(want.rollback.snapshot)] if want.rollback else [])]


def _former(names: Iterable[str], new: str, old: str) -> list[str]:
    """The same things below the name a dataset had before."""
    return [old + name[len(new) :] for name in names if re.match(rf"{re.escape(new)}(?:[/@#]|$)", name)]


def properties_of(wanted: Sequence[Dataset]) -> list[str]:
    """Every property to ask for; C(all) where undeclared ones matter."""
    names = [*_ALWAYS, *(what for each in wanted for what in each.properties)]
    if any(each.key for each in wanted):
        names += _OF_KEYS
    if any(each.snapshots or each.bookmarks or each.origin or each.rollback for each in wanted):
        names += [*_OF_SNAPSHOTS, "origin", "written", ROLLED_BACK]
    if any(not each.present for each in wanted):
        names.append("referenced")
    if any(each.purge for each in wanted):
        names = ["all", *(what for what in names if "@" in what)]  # `all` leaves out what each user and group has
    return list(dict.fromkeys(names))


def read_datasets(runner: Runner, names: Sequence[str], properties: Sequence[str]) -> dict[str, FoundDataset]:
    """The named datasets, snapshots and bookmarks that exist, with one process whatever their number.

    A second one is needed for quotas by name where C(all) is asked for, which ZFS takes only alone.
    """
    everything = "all" in properties
    rows = _get(runner, names, ["all"] if everything else properties)
    named = [what for what in properties if what != "all"]
    if everything and named:
        for name, values in _get(runner, names, named).items():
            rows.get(name, {}).update(values)
    return {name: FoundDataset(name, values, _directory(values)) for name, values in rows.items()}


def _get(runner: Runner, names: Sequence[str], properties: Sequence[str]) -> dict[str, dict[str, Value]]:
    argv = ["zfs", "get", "-H", "-p", "-o", "name,property,value,source", ",".join(properties), *names]
    try:
        ended = ask(runner, argv, ok=(0, 1))
    except CommandFailed as error:
        unknown = re.search(r"invalid property '([^']+)'", error.stderr)
        if unknown:
            raise BadInput(f"ZFS on this host knows no property {unknown.group(1)!r}: correct its name under properties.") from error
        raise
    for line in ended.stderr.splitlines():
        if line.strip() and not _MISSING.search(line):
            raise CommandFailed(tuple(argv), ended.rc, ended.stderr)
    return parse_get(ended.stdout, xattr=xattr_style())


def _directory(values: dict[str, Value]) -> Directory | None:
    path = values["mountpoint"].text if "mountpoint" in values else "-"
    if values.get("mounted", Value("no", "-")).text != "yes" or not path.startswith("/"):
        return None
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return Directory(path, found.st_uid, found.st_gid, found.st_mode & 0o7777)


def without_altroot(runner: Runner, wanted: Sequence[Dataset], found: dict[str, FoundDataset]) -> dict[str, FoundDataset]:
    """The same with mountpoints as they are stored.

    ZFS shows them below the pool's altroot. Only a mountpoint that ends with the declared one makes it worth asking for that.
    """
    suspects = set()
    for each in wanted:
        want = each.properties.get("mountpoint", "").rstrip("/")
        have = found[each.name].text("mountpoint") if each.name in found else ""
        if want.startswith("/") and have != want and have.endswith(want):
            suspects.add(each.name.split("/")[0])
    if not suspects:
        return found
    text = ask(runner, ["zpool", "get", "-H", "-o", "name,value", "altroot", *sorted(suspects)]).stdout
    roots = {pool: root.rstrip("/") for pool, root in (line.split("\t", 1) for line in text.splitlines()) if root.startswith("/")}
    return {name: _stored(each, roots.get(name.split("/")[0], "")) for name, each in found.items()}


def _stored(found: FoundDataset, root: str) -> FoundDataset:
    shown = found.values.get("mountpoint")
    if not root or not shown or not shown.text.startswith(root):
        return found
    values = {**found.values, "mountpoint": Value(shown.text[len(root) :] or "/", shown.source)}
    return FoundDataset(found.name, values, found.directory)


def _read_below(runner: Runner, wanted: Sequence[Dataset], found: dict[str, FoundDataset]) -> tuple[Below, ...]:
    """What lies below the datasets that are to be destroyed or rolled back, with one process for all."""
    names = [each.name for each in wanted if each.name in found and (not each.present or each.rollback)]
    if not names:
        return ()
    text = ask(runner, ["zfs", "list", "-H", "-p", "-r", "-t", "all", "-o", "name,type,createtxg,clones,userrefs", *names]).stdout
    return tuple(dict.fromkeys(parse_below(text)))


def parse_below(text: str) -> list[Below]:
    """Read C(zfs list -Hp -o name,type,createtxg,clones,userrefs)."""
    rows = []
    for line in text.splitlines():
        name, kind, txg, clones, references = line.split("\t")
        rows.append(Below(name, kind, int(txg), tuple(clones.split(",")) if clones not in {"-", ""} else (), references not in {"-", "0"}))
    return rows


def _read_holds(
    runner: Runner, wanted: Sequence[Dataset], found: dict[str, FoundDataset], below: Sequence[Below]
) -> dict[str, frozenset[str]]:
    """Tags of the snapshots with declared or troublesome holds, with one process for all."""
    names = [each.name for each in below if each.held]
    for want in wanted:
        for each in want.snapshots:
            name = want.snapshot(each.name)
            name = name if name in found else f"{want.renamed_from}@{each.name}"
            if name in found and (each.holds or each.release or (not each.present and found[name].text("userrefs") not in {"-", "0"})):
                names.append(name)
    if not names:
        return {}
    return parse_holds(ask(runner, ["zfs", "holds", "-H", *dict.fromkeys(names)]).stdout)


def parse_holds(text: str) -> dict[str, frozenset[str]]:
    """Read C(zfs holds -H): snapshot, tag and time."""
    tags: dict[str, set[str]] = {}
    for line in text.splitlines():
        name, tag, _time = line.split("\t", 2)
        tags.setdefault(name, set()).add(tag)
    return {name: frozenset(each) for name, each in tags.items()}


def _read_grants(runner: Runner, wanted: Sequence[Dataset], found: dict[str, FoundDataset]) -> dict[str, Granted]:
    """Permissions of the datasets with declared ones: a process each, but a child's shows those of its parents too."""
    names = [each.name if each.name in found else each.renamed_from for each in wanted if each.grants]
    names = [name for name in names if name in found]
    grants: dict[str, Granted] = {}
    for name in names:
        if not any(other.startswith(f"{name}/") for other in names):
            grants.update(parse_allow(ask(runner, ["zfs", "allow", name]).stdout, number=_number))
    return {name: grants.get(name, {}) for name in names}


def parse_allow(text: str, *, number: Callable[[str, str], str]) -> dict[str, dict[tuple[str, str, str], frozenset[str]]]:
    """Read C(zfs allow), of a dataset and its parents.

    :param number: gives the number of a user or group, by kind and name.
    """
    grants: dict[str, dict[tuple[str, str, str], frozenset[str]]] = {}
    here: dict[tuple[str, str, str], frozenset[str]] = {}
    section = ""
    for line in text.splitlines():
        heading = _HEADING.match(line)
        if heading:
            here = grants.setdefault(heading.group(1), {})
        elif not line.startswith("\t"):
            section = line.strip()
        else:
            kind, name, permissions = _row(section, line.strip(), number)
            for each in permissions.split(","):
                here[kind, name, each] = _SCOPES.get(section, frozenset())
    return grants


def _row(section: str, line: str, number: Callable[[str, str], str]) -> tuple[str, str, str]:
    if section.startswith("Permission sets"):
        name, permissions = line.split(None, 1)
        return "set", name, permissions
    if section.startswith("Create time"):
        return "creator", "", line
    kind, _space, rest = line.partition(" ")
    if kind == "everyone":
        return kind, "", rest
    name, _space, permissions = rest.rpartition(" ")
    unknown = _UNKNOWN.match(name)
    return kind, unknown.group(1) if unknown else number(kind, name), permissions


def _read_fitting(runner: Runner, wanted: Sequence[Dataset], found: dict[str, FoundDataset]) -> dict[str, bool]:
    """Whether declared keys fit, where they may differ: a process each."""
    fitting = {}
    for want in wanted:
        key, have = want.key, found.get(want.name) or found.get(want.renamed_from)
        if not key or not have or not key.given or have.text("encryptionroot") != have.name or have.text("keyformat") != key.form:
            continue
        if key.change or (key.loaded and have.text("keylocation") != key.location):
            fits = _fits(runner, have.name, key)
            fitting.update({} if fits is None else {want.name: fits})
    return fitting


def _fits(runner: Runner, name: str, key: Key) -> bool | None:
    """Whether a key opens a dataset; None while there is no such file."""
    argv = ["zfs", "load-key", "-n", "-L", key.location, name]
    ended = runner.run(argv, stdin=key.secret, ok=(0, 1, 255))
    if "No such file or directory" in ended.stderr:
        return None
    if ended.rc and "Incorrect key" not in ended.stderr:
        raise CommandFailed(tuple(argv), ended.rc, ended.stderr or ended.stdout)
    return ended.rc == 0


def read_host(wanted: Sequence[Dataset]) -> Host:
    """Numbers of the users and groups the list names, and which of its key files there are."""
    names: set[tuple[str, str]] = set()
    for each in wanted:
        names |= {(kind, name) for kind, name in (("user", each.owner), ("group", each.group)) if name}
        names |= {(grant.kind, grant.name) for grant in each.grants if grant.kind in {"user", "group"}}
        names |= {owner for owner in map(quota_owner, each.properties) if owner and owner[0] != "project"}
    numbers = {pair: _number(*pair) for pair in names}
    known = {pair: int(number) for pair, number in numbers.items() if number.isdecimal()}
    files = {each.key.file for each in wanted if each.key and each.key.file}
    return Host(
        users={name: number for (kind, name), number in known.items() if kind == "user"},
        groups={name: number for (kind, name), number in known.items() if kind == "group"},
        files=frozenset(path for path in files if Path(path).is_file()),
    )


def _number(kind: str, name: str) -> str:
    """The number of a user or group, or its name when the host has none of that name."""
    if name.isdecimal():
        return name
    try:
        found: Any = pwd.getpwnam(name).pw_uid if kind == "user" else grp.getgrnam(name).gr_gid
    except KeyError:
        return name
    return str(found)
