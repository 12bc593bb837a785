# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check a list of datasets before anything is asked of the host, and give it one form."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Mapping, Sequence

from ..._errors import BadInput
from ..model import texts
from ..values import as_size
from .model import BOTH, INHERIT, Bookmark, Dataset, Grant, Key, Rollback, Snapshot, by_depth, pool_of
from .rules import fault

_COMPONENT = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9_.: -]+"
_DATASET_NAME = re.compile(rf"(?=[A-Za-z]){_COMPONENT}(/{_COMPONENT})*")
_SHORT_NAME = re.compile(r"[A-Za-z0-9_.: -]+")
_TAG = re.compile(r"(?!-)[^\s,]+")
_PERMISSION = re.compile(r"@?[A-Za-z0-9_.:-]+")
_LONGEST_NAME = 255  # ZFS_MAX_DATASET_NAME_LEN with its end
_WHO = "user:NAME, group:NAME, everyone, creator or @SET"


def declare_datasets(raws: Sequence[Mapping[str, Any]]) -> list[Dataset]:
    """Check the list and each of its entries; parents come first in the result.

    :raises BadInput: naming the dataset and the option.
    """
    wanted = [declare_dataset(raw) for raw in raws]
    names = [each.name for each in wanted]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"datasets: {name} is listed twice: merge the two entries.")
    absent = [each.name for each in wanted if not each.present]
    for each in wanted:
        parents = [name for name in absent if each.present and each.name.startswith(f"{name}/")]
        if parents:
            raise BadInput(f"Dataset {each.name} is declared in {parents[0]}, which is declared absent: make both present or both absent.")
        _check_other(each, {other.name: other for other in wanted})
    return sorted(wanted, key=lambda each: by_depth(each.name))


def _check_other(want: Dataset, others: Mapping[str, Dataset]) -> None:
    """What an entry says of another dataset must agree with what that one's own entry says."""
    if want.renamed_from in others:
        raise BadInput(f"Dataset {want.name} is renamed from {want.renamed_from}, which is declared too: remove the entry of the old name.")
    source, _at, snapshot = want.origin.partition("@")
    other = others.get(source)
    listed = [each for each in (other.snapshots if other else ()) if each.name == snapshot and each.present]
    if want.promote and listed:
        raise BadInput(
            f"Dataset {want.name}: promoting it moves the snapshot {want.origin} to {want.snapshot(snapshot)}: list {snapshot} in the"
            f" snapshots of {want.name} instead."
        )


def declare_dataset(raw: Mapping[str, Any]) -> Dataset:
    """One entry of C(datasets), checked.

    :raises BadInput: naming the dataset and the option.
    """
    name, kind = str(raw["name"]), str(raw.get("type") or "filesystem")
    _check_name(name, "dataset name")
    if raw.get("state") == "absent":
        return _absent(name, raw)
    properties = texts(raw.get("properties") or {})
    if raw.get("volsize") and "volsize" in properties:
        raise BadInput(f"Volume {name} has a volsize of its own and one in properties: leave one of the two out.")
    size = _volume_size(name, kind, raw.get("volsize") or properties.pop("volsize", ""), clone=bool(raw.get("origin")))
    _check_properties(name, kind, properties)
    _check_kind(name, kind, raw)
    key = _key(name, raw.get("encryption"), properties)
    snapshots = _snapshots(name, raw.get("snapshots"))
    return Dataset(
        name=name,
        kind=kind,
        volsize=size,
        sparse=raw.get("sparse"),
        properties=properties,
        match_local=raw.get("match") == "local",
        purge=bool(raw.get("purge")),
        owner=str(raw.get("mountpoint_owner") or ""),
        group=str(raw.get("mountpoint_group") or ""),
        mode=_mode(name, raw.get("mountpoint_mode")),
        key=key,
        grants=tuple(grant for each in raw.get("delegations") or () for grant in [_grant(name, each)]),
        snapshots=snapshots,
        bookmarks=_bookmarks(name, raw.get("bookmarks")),
        rollback=_rollback(name, raw.get("rollback"), snapshots, renamed=bool(raw.get("renamed_from"))),
        **_lineage(name, raw, key),
    )


def _check_name(name: str, what: str) -> None:
    if not _DATASET_NAME.fullmatch(name):
        raise BadInput(f"The {what} {name!r} is not one ZFS accepts: pool/name/..., letters, digits and _ . : - only.")
    if len(name) > _LONGEST_NAME:
        raise BadInput(f"The {what} {name[:40]}... has {len(name)} characters: ZFS takes {_LONGEST_NAME} at most, choose a shorter one.")


def _absent(name: str, raw: Mapping[str, Any]) -> Dataset:
    if "/" not in name:
        raise BadInput(f"{name} is the root of a pool, which is never destroyed as a dataset: destroy the pool with zfs_pool.")
    meant = {what for what, value in raw.items() if value and value not in ("value", "filesystem", "volume")}
    extra = sorted(meant - {"name", "state", "type", "snapshots"})
    if extra:
        raise BadInput(f"Dataset {name} is declared absent: remove {', '.join(extra)} from its entry.")
    snapshots = _snapshots(name, raw.get("snapshots"))
    kept = [each.name for each in snapshots if each.present]
    if kept:
        raise BadInput(
            f"Dataset {name} is declared absent but its snapshot {kept[0]} present: a snapshot goes with its dataset, make both absent."
        )
    return Dataset(name=name, present=False, snapshots=snapshots)


def _volume_size(name: str, kind: str, text: Any, *, clone: bool) -> int | None:
    if kind == "filesystem":
        if text:
            raise BadInput(f"File system {name} has a volsize: give it type volume, or set a quota in its properties.")
        return None
    size = as_size(str(text or ""))
    if not size and not (clone and not text):
        raise BadInput(f"Volume {name} needs a volsize like 100G, not {text or 'nothing'}.")
    return size


def _check_properties(name: str, kind: str, properties: Mapping[str, str]) -> None:
    for what, value in properties.items():
        wrong = fault(kind, what, value)
        if wrong:
            raise BadInput(f"Dataset {name}: the property {what} {wrong}.")


def _check_kind(name: str, kind: str, raw: Mapping[str, Any]) -> None:
    if kind == "volume" and any(raw.get(f"mountpoint_{what}") for what in ("owner", "group", "mode")):
        raise BadInput(f"Volume {name} has no mountpoint: leave out mountpoint_owner, mountpoint_group and mountpoint_mode.")
    if kind == "filesystem" and raw.get("sparse") is not None:
        raise BadInput(f"File system {name} cannot be sparse: leave sparse out, or set a reservation in its properties.")
    if kind == "volume" and raw.get("sparse") is not None and "refreservation" in (raw.get("properties") or {}):
        raise BadInput(f"Volume {name} has both sparse and refreservation, which say the same: leave one out.")


def _mode(name: str, text: Any) -> int | None:
    if text in (None, ""):
        return None
    if not re.fullmatch(r"[0-7]{3,4}", str(text)):
        raise BadInput(f"Dataset {name}: mountpoint_mode {text!r} is not an octal mode: write it quoted, like '0750'.")
    return int(str(text), 8)


def _key(name: str, raw: Mapping[str, Any] | None, properties: Mapping[str, str]) -> Key | None:
    if not raw:
        return None
    form, secret, file = str(raw.get("format") or "passphrase"), str(raw.get("key") or ""), str(raw.get("file") or "")
    loaded = raw.get("loaded") is not False
    if properties.get("encryption") in {"off", INHERIT}:
        raise BadInput(f"Dataset {name} has a key but encryption={properties['encryption']}: remove one of the two.")
    if secret and file:
        raise BadInput(f"Dataset {name}: encryption has both key and file: give one of them.")
    if not (secret or file) and (loaded or raw.get("change")):
        raise BadInput(f"Dataset {name}: encryption has neither key nor file, and nobody is there to type one: give one of them.")
    if file and not file.startswith("/"):
        raise BadInput(f"Dataset {name}: the key file {file!r} is not an absolute path: give its path on the host.")
    return Key(form, _secret(name, form, secret) if secret else "", file, loaded, bool(raw.get("change")))


def _secret(name: str, form: str, text: str) -> str:
    """What ZFS reads from standard input; no message holds any of it."""
    if form == "passphrase":
        if not 8 <= len(text.encode()) <= 512 or "\n" in text:
            raise BadInput(f"Dataset {name}: the passphrase under encryption must be one line of 8 to 512 bytes: choose another.")
        return text + "\n"
    if form == "hex":
        if not re.fullmatch(r"[0-9A-Fa-f]{64}", text):
            raise BadInput(f"Dataset {name}: the hex key under encryption must be 64 hex digits: make one with openssl rand -hex 32.")
        return text + "\n"
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 32:
        raise BadInput(f"Dataset {name}: the raw key under encryption must be 32 bytes in Base64: make one with openssl rand -base64 32.")
    return key.decode("utf-8", "surrogateescape")


def _grant(name: str, raw: Mapping[str, Any]) -> Grant:
    who, permissions = str(raw.get("who") or ""), tuple(str(each) for each in raw.get("permissions") or ())
    kind, _colon, principal = ("set", "", who) if who.startswith("@") else who.partition(":")
    named = principal not in {"", "@"} if kind in {"user", "group", "set"} else who in {"everyone", "creator"}
    if not named:
        raise BadInput(f"Dataset {name}: delegations names {who!r}: write {_WHO}.")
    if not permissions:
        raise BadInput(f"Dataset {name}: the delegation to {who} has no permissions: list some, such as snapshot and send.")
    for each in permissions:
        if not _PERMISSION.fullmatch(each):
            raise BadInput(f"Dataset {name}: the delegation to {who} has the permission {each!r}: list one permission an element.")
    scope = str(raw.get("scope") or "both")
    where = frozenset() if kind in {"set", "creator"} else BOTH if scope == "both" else frozenset({scope})
    return Grant(kind, principal, permissions, where, raw.get("state") != "absent")


def _snapshots(name: str, raws: Sequence[Mapping[str, Any]] | None) -> tuple[Snapshot, ...]:
    made: list[Snapshot] = []
    for raw in raws or ():
        short, present = str(raw["name"]), raw.get("state") != "absent"
        _check_short(name, "snapshot", short, [each.name for each in made])
        holds, release = (tuple(str(tag) for tag in raw.get(what) or ()) for what in ("holds", "release"))
        for tag in (*holds, *release):
            if not _TAG.fullmatch(tag):
                raise BadInput(
                    f"Dataset {name}: the hold {tag!r} of its snapshot {short} is no tag: use a word without spaces that does not begin"
                    " with a hyphen."
                )
        both = sorted(set(holds) & set(release))
        if both:
            raise BadInput(f"Dataset {name}: the hold {both[0]} of its snapshot {short} is both in holds and in release: leave one out.")
        if holds and not present:
            raise BadInput(f"Dataset {name}: its snapshot {short} is declared absent but with holds: list those to let go in release.")
        made.append(Snapshot(short, present, holds, release))
    return tuple(made)


def _check_short(name: str, what: str, short: str, before: Sequence[str]) -> None:
    if not _SHORT_NAME.fullmatch(short):
        raise BadInput(
            f"Dataset {name}: the {what} name {short!r} is not one ZFS accepts: letters, digits and _ . : - only, without @ or #."
        )
    if len(f"{name}@{short}") > _LONGEST_NAME:
        raise BadInput(
            f"Dataset {name}: with its {what} {short[:40]}... the name has {len(name) + 1 + len(short)} characters: ZFS takes"
            f" {_LONGEST_NAME} at most, choose a shorter one."
        )
    if short in before:
        raise BadInput(f"Dataset {name}: its {what} {short} is listed twice: merge the two entries.")


def _bookmarks(name: str, raws: Sequence[Mapping[str, Any]] | None) -> tuple[Bookmark, ...]:
    made: list[Bookmark] = []
    for raw in raws or ():
        short, snapshot, present = str(raw["name"]), str(raw.get("snapshot") or ""), raw.get("state") != "absent"
        _check_short(name, "bookmark", short, [each.name for each in made])
        if present and not snapshot:
            raise BadInput(f"Dataset {name}: its bookmark {short} names no snapshot: give the snapshot it marks.")
        if snapshot and not _SHORT_NAME.fullmatch(snapshot):
            raise BadInput(
                f"Dataset {name}: its bookmark {short} marks {snapshot!r}: give the name of a snapshot of {name}, without the @."
            )
        made.append(Bookmark(short, snapshot, present))
    return tuple(made)


def _rollback(name: str, raw: Mapping[str, Any] | None, snapshots: Sequence[Snapshot], *, renamed: bool) -> Rollback | None:
    if not raw:
        return None
    short = str(raw["snapshot"])
    if renamed:
        raise BadInput(f"Dataset {name} has both rollback and renamed_from: rename it in a run before, then remove renamed_from.")
    if not _SHORT_NAME.fullmatch(short):
        raise BadInput(f"Dataset {name}: rollback names the snapshot {short!r}: give the name of a snapshot of {name}, without the @.")
    discard = tuple(str(each) for each in raw.get("discard") or ())
    if short in discard:
        raise BadInput(f"Dataset {name}: rollback goes back to {short} and discards it: remove it from discard.")
    clash = [each.name for each in snapshots if (each.name in discard if each.present else each.name == short)]
    if clash:
        raise BadInput(f"Dataset {name}: rollback and snapshots do not agree about {clash[0]}: keep it in both, or in neither.")
    return Rollback(short, discard)


def _lineage(name: str, raw: Mapping[str, Any], key: Key | None) -> dict[str, Any]:
    """Where a dataset comes from: a snapshot, or another name."""
    origin, renamed, promote = str(raw.get("origin") or ""), str(raw.get("renamed_from") or ""), bool(raw.get("promote"))
    source, at, snapshot = origin.partition("@")
    if origin:
        if not (at and _DATASET_NAME.fullmatch(source) and _SHORT_NAME.fullmatch(snapshot)):
            raise BadInput(f"Dataset {name}: the origin {origin!r} is no snapshot: write it like pool/name@snapshot.")
        if pool_of(origin) != pool_of(name) or source == name:
            raise BadInput(f"Dataset {name}: the origin {origin} is not another dataset of its pool: name a snapshot in {pool_of(name)}.")
        if key:
            raise BadInput(f"Dataset {name}: a clone has the key of its origin {origin}: remove encryption.")
    if promote and not origin:
        raise BadInput(f"Dataset {name} cannot be promoted without an origin: name the snapshot it is a clone of.")
    if renamed:
        _check_name(renamed, "name in renamed_from")
        if pool_of(renamed) != pool_of(name) or "/" not in renamed or "/" not in name:
            raise BadInput(
                f"Dataset {name}: renamed_from {renamed} must lie in the same pool: ZFS renames within a pool and never its root."
            )
        if origin or f"{name}/".startswith(f"{renamed}/") or f"{renamed}/".startswith(f"{name}/"):
            raise BadInput(f"Dataset {name} cannot be renamed from {renamed}: neither may lie in the other, and origin must be left out.")
    if "/" not in name and (origin or key):
        raise BadInput(f"{name} is the root of a pool, which only zfs_pool creates: remove origin and encryption.")
    return {"origin": origin, "promote": promote, "renamed_from": renamed}
