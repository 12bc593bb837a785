# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Datasets as declared, and as found with all that belongs to them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import FrozenSet, Mapping, Tuple

from ..model import Value

# As the value of a property: it has no value of its own.
INHERIT = "inherit"
BOTH = frozenset({"local", "descendent"})


@dataclass(frozen=True)
class Snapshot:
    """A snapshot as declared, with the holds it must have and those it must not have."""

    name: str
    present: bool = True
    holds: tuple[str, ...] = ()
    release: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bookmark:
    """A bookmark as declared, and the snapshot it marks."""

    name: str
    snapshot: str = ""
    present: bool = True


@dataclass(frozen=True)
class Key:
    """The key of an encrypted dataset.

    :param form: ``passphrase``, ``hex`` or ``raw``.
    :param secret: what ZFS reads from standard input; empty when it reads a file.
    :param file: the file on the host; empty when the secret is given.
    :param change: look whether the key fits, and make it the key when it does not.
    """

    form: str
    secret: str = field(default="", repr=False)
    file: str = ""
    loaded: bool = True
    change: bool = False

    @property
    def location(self) -> str:
        """The property keylocation that goes with it."""
        return f"file://{self.file}" if self.file else "prompt"

    @property
    def given(self) -> bool:
        """Whether there is a key; none is needed to unload one."""
        return bool(self.secret or self.file)


@dataclass(frozen=True)
class Grant:
    """Permissions on a dataset as declared.

    :param kind: ``user``, ``group``, ``everyone``, ``creator`` or ``set``.
    :param name: of the user, group or set.
    :param scope: some of ``BOTH``; empty for a set and for who creates.
    """

    kind: str
    name: str
    permissions: tuple[str, ...]
    scope: frozenset[str] = BOTH
    present: bool = True

    @property
    def label(self) -> str:
        """How a sentence names who has it."""
        return {"everyone": "everyone", "creator": "whoever creates a dataset below"}.get(self.kind, f"{self.kind} {self.name}")


@dataclass(frozen=True)
class Rollback:
    """A snapshot to go back to, and the newer snapshots and bookmarks (``#name``) that may be lost by it."""

    snapshot: str
    discard: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A file system or volume as declared.

    :param match_local: a property must have its value by itself, not by inheritance or default.
    :param purge: local values that are not declared go away.
    """

    name: str
    present: bool = True
    kind: str = "filesystem"
    volsize: int | None = None
    sparse: bool | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    match_local: bool = False
    purge: bool = False
    owner: str = ""
    group: str = ""
    mode: int | None = None
    key: Key | None = None
    grants: tuple[Grant, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    bookmarks: tuple[Bookmark, ...] = ()
    origin: str = ""
    promote: bool = False
    renamed_from: str = ""
    rollback: Rollback | None = None

    @property
    def owned(self) -> bool:
        """Whether anything is declared about the directory it is mounted on."""
        return bool(self.owner or self.group) or self.mode is not None

    @property
    def values(self) -> dict[str, str]:
        """The properties that have a value of their own."""
        return {what: value for what, value in self.properties.items() if value != INHERIT}

    def snapshot(self, name: str) -> str:
        """The whole name of one of its snapshots."""
        return f"{self.name}@{name}"


@dataclass(frozen=True)
class Directory:
    """The directory a dataset is mounted on."""

    path: str
    uid: int
    gid: int
    mode: int


@dataclass(frozen=True)
class FoundDataset:
    """A dataset, snapshot or bookmark that exists."""

    name: str
    values: Mapping[str, Value]
    directory: Directory | None = None

    @property
    def kind(self) -> str:
        """``filesystem``, ``volume``, ``snapshot`` or ``bookmark``."""
        return self.text("type")

    def text(self, name: str) -> str:
        """The value of a property; a dash where it has none."""
        return self.values[name].text if name in self.values else "-"

    def source(self, name: str) -> str:
        """Where the value comes from: ``local``, ``default``, ``received``, ``inherited from x`` or ``-``."""
        return self.values[name].source if name in self.values else "-"


@dataclass(frozen=True)
class Below:
    """What lies below a dataset that is to be destroyed or rolled back, and the dataset itself.

    :param txg: when it was created; larger is newer.
    :param clones: the datasets made from a snapshot.
    :param held: whether a snapshot has holds.
    """

    name: str
    kind: str
    txg: int
    clones: tuple[str, ...] = ()
    held: bool = False


# (kind, name or number, permission) to where it applies.
Granted = Mapping[Tuple[str, str, str], FrozenSet[str]]


@dataclass(frozen=True)
class Current:
    """What was read.

    :param found: datasets, snapshots and bookmarks by their whole names.
    :param holds: tags of each snapshot that was asked about.
    :param grants: permissions of each dataset that was asked about.
    :param below: everything below the datasets to be destroyed or rolled back.
    :param fitting: whether the declared key opens a dataset, where that was asked.
    """

    found: Mapping[str, FoundDataset] = field(default_factory=dict)
    holds: Mapping[str, frozenset[str]] = field(default_factory=dict)
    grants: Mapping[str, Granted] = field(default_factory=dict)
    below: tuple[Below, ...] = ()
    fitting: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Host:
    """What the host knows of the names in the list: numbers of users and groups, and the key files that exist."""

    users: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)
    files: frozenset[str] = frozenset()

    def number(self, kind: str, name: str) -> int | None:
        """The number of a user or group; None when there is none of that name."""
        return int(name) if name.isdecimal() else (self.users if kind == "user" else self.groups).get(name)


def pool_of(name: str) -> str:
    """The pool a dataset, snapshot or bookmark is in."""
    return re.split("[/@#]", name, maxsplit=1)[0]


def dataset_of(name: str) -> str:
    """The dataset a snapshot or bookmark belongs to, or that it is."""
    return re.split("[@#]", name, maxsplit=1)[0]


def by_depth(name: str) -> tuple[int, str]:
    """A key that sorts parents before their children."""
    return name.count("/"), name
