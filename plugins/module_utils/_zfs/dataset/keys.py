# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan keys: loaded, unloaded, changed, and never asked of a person."""

from __future__ import annotations

from typing import Mapping

from ..._plan import Step
from .draft import Draft, Phase, Run, command
from .model import Dataset, FoundDataset, Key, by_depth


def creation_key(draft: Draft, want: Dataset, wanted: Mapping[str, Dataset]) -> tuple[dict[str, str], str]:
    """The properties that give a new dataset its key, and what C(zfs create) then reads from standard input."""
    key = want.key
    if key is None:
        if want.values.get("encryption", "off") != "off" and not _parent_encrypted(draft, want.name, wanted) and not draft.rehearsal:
            draft.refuse(
                want.name,
                f"Refusing to create {want.name} encrypted: it has no key, and no parent to take one from. Give encryption a key or file.",
            )
        return {}, ""
    if not key.given:
        draft.refuse(want.name, f"Refusing to create {want.name} encrypted without a key: give encryption a key or file.")
    _check_file(draft, want.name, key)
    if not key.loaded:
        _plan_unload_new(draft, want)
    return {"encryption": want.values.get("encryption", "on"), "keyformat": key.form, "keylocation": key.location}, key.secret


def _parent_encrypted(draft: Draft, name: str, wanted: Mapping[str, Dataset]) -> bool:
    while "/" in name:
        name = name.rsplit("/", 1)[0]
        have = draft.find(name)
        if have:
            return have.text("encryption") not in {"off", "-"}
        if name in wanted and wanted[name].key:
            return True
    return False


def _check_file(draft: Draft, name: str, key: Key) -> None:
    if key.file and key.file not in draft.host.files and not draft.rehearsal:
        draft.refuse(name, f"Dataset {name}: its key file {key.file} does not exist on this host: put it there first.")


def plan_key(draft: Draft, want: Dataset, have: FoundDataset, found: Mapping[str, FoundDataset]) -> None:
    """Plan the key of a dataset that exists."""
    key = want.key
    if key is None:
        return
    if have.text("encryption") in {"off", "-"}:
        draft.refuse(
            want.name,
            f"Refusing to encrypt {want.name}: ZFS encrypts a dataset only when it is created. Remove encryption, or create a"
            " new dataset and copy the data.",
        )
        return
    _check_file(draft, want.name, key)
    if key.given and _differs(draft, want, have, key):
        _plan_change(draft, want, have, key)
    elif key.given and have.text("keylocation") != key.location and key.loaded:
        draft.changes.setdefault(want.name, {})["keylocation"] = key.location
        draft.differ(want.name, "keylocation", have.text("keylocation"), key.location)
    if key.loaded and have.text("encryptionroot") == want.name and have.text("keystatus") == "unavailable":
        draft.loading.add(want.name)
        argv = ("zfs", "load-key", "-L", key.location, want.name)
        draft.add(Phase.KEY, Step("load", want.name, f"Load the key of {want.name}", Run(argv, key.secret)))
        draft.differ(want.name, "key", "not loaded", "loaded")
    elif not key.loaded and have.text("keystatus") == "available":
        _plan_unload(draft, want.name, have, found)


def _differs(draft: Draft, want: Dataset, have: FoundDataset, key: Key) -> bool:
    """Whether the key must be changed, or what is declared refused."""
    if not key.loaded and not key.change:
        return False
    own = have.text("encryptionroot") == want.name
    return not own or have.text("keyformat") != key.form or draft.current.fitting.get(want.name) is False


def _plan_change(draft: Draft, want: Dataset, have: FoundDataset, key: Key) -> None:
    root = have.text("encryptionroot")
    if not key.change:
        told = f"it takes its key from {root}" if root != have.name else f"the declared {key.form} key does not open it"
        draft.refuse(
            want.name,
            f"Refusing the key declared for {want.name}: {told}. Correct encryption, or set change: true there to make this its key.",
        )
    elif have.text("keystatus") != "available":
        draft.refuse(
            want.name,
            f"Refusing to change the key of {want.name}: its present key is not loaded. Load it first with `zfs load-key {root}`.",
        )
    else:
        argv = ("zfs", "change-key", "-o", f"keyformat={key.form}", "-o", f"keylocation={key.location}", want.name)
        draft.add(Phase.KEY, Step("change-key", want.name, f"Change the key of {want.name} to the declared one", Run(argv, key.secret)))
        draft.differ(want.name, "key", "another", "the declared one")


def _plan_unload(draft: Draft, name: str, have: FoundDataset, found: Mapping[str, FoundDataset]) -> None:
    """Unmount what is encrypted with the key, children first, then unload it."""
    root = have.text("encryptionroot")
    if root != have.name:
        draft.refuse(name, f"Refusing to unload the key of {name}: it is the key of {root}. Declare that there.")
        return
    draft.unloading.add(name)
    mounted = [each.name for each in found.values() if each.text("encryptionroot") == root and each.text("mounted") == "yes"]
    for each in sorted(mounted, key=by_depth, reverse=True):
        draft.add(Phase.UNLOAD, command("unmount", each, f"Unmount {each}, whose key is to be unloaded", "zfs", "unmount", each))
    _unload(draft, name)


def _unload(draft: Draft, name: str) -> None:
    draft.add(Phase.UNLOAD, command("unload", name, f"Unload the key of {name}", "zfs", "unload-key", name))
    draft.differ(name, "key", "loaded", "not loaded")


def _plan_unload_new(draft: Draft, want: Dataset) -> None:
    """A new dataset is mounted when ZFS creates it, unless it says otherwise."""
    draft.unloading.add(want.name)
    if want.kind == "filesystem" and want.values.get("canmount", "on") == "on" and want.values.get("mountpoint", "/").startswith("/"):
        sentence = f"Unmount {want.name}, whose key is to be unloaded"
        draft.add(Phase.UNLOAD, command("unmount", want.name, sentence, "zfs", "unmount", want.name))
    _unload(draft, want.name)
