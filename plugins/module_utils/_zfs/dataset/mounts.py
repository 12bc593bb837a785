# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan mounts, and who owns the directories file systems are mounted on."""

from __future__ import annotations

from ..._plan import Step
from .draft import Draft, Own, Phase, Run
from .model import Dataset, FoundDataset


def plan_directory(draft: Draft, want: Dataset) -> None:
    """Mount what should be mounted, and give its directory to whom it belongs."""
    if want.kind != "filesystem":
        return
    have = draft.find(want.name)
    mountpoint = draft.effective(want.name, "mountpoint") if have else want.values.get("mountpoint", "/")
    mountpoint = draft.changes.get(want.name, {}).get("mountpoint", mountpoint)
    canmount = want.values.get("canmount", have.text("canmount") if have else "on")
    canmount = draft.changes.get(want.name, {}).get("canmount", canmount)
    if mountpoint in {"none", "legacy", "-"} or canmount == "off":
        if want.owned:
            draft.refuse(
                want.name,
                f"Refusing to set the owner or mode of the mountpoint of {want.name}: it is not mounted (mountpoint={mountpoint},"
                f" canmount={canmount}). Remove mountpoint_owner, mountpoint_group and mountpoint_mode, or give it a mountpoint.",
            )
        return
    if have is None or have.text("mounted") == "yes":
        mounted = want.name not in draft.unloading
    else:
        mounted = canmount == "on" and _plan_mount(draft, want, have, mountpoint)
    if want.owned and (mounted or not _why_unmounted(draft, want, canmount)):
        _plan_owner(draft, want, have)


def _plan_mount(draft: Draft, want: Dataset, have: FoundDataset, mountpoint: str) -> bool:
    if have.text("encryptionroot") in draft.unloading or (want.key and not want.key.loaded):
        return False
    if have.text("keystatus") == "unavailable" and have.text("encryptionroot") not in draft.loading:
        draft.warnings.append(f"{want.name} is not mounted because its key is not loaded: give it in encryption, or run `zfs load-key`.")
        return False
    sentence = f"Mount {want.name} on {mountpoint}, where it is missing"
    # A change of mountpoint or canmount before it may have mounted it.
    draft.add(Phase.MOUNT, Step("mount", want.name, sentence, Run(("zfs", "mount", want.name), done="already mounted")))
    draft.differ(want.name, "mounted", "no", "yes")
    return True


def _why_unmounted(draft: Draft, want: Dataset, canmount: str) -> str:
    why = "canmount=noauto" if canmount == "noauto" else "its key is not loaded"
    draft.warnings.append(f"{want.name} is not mounted ({why}): the owner and mode of its mountpoint were not looked at.")
    return why


def _plan_owner(draft: Draft, want: Dataset, have: FoundDataset | None) -> None:
    for kind, name in (("user", want.owner), ("group", want.group)):
        if name and draft.host.number(kind, name) is None and not draft.rehearsal:
            draft.refuse(
                want.name, f"Dataset {want.name}: the {kind} {name} does not exist on this host: create it first, or give its number."
            )
    now = have.directory if have else None
    parts = [
        ("owner", want.owner, draft.host.number("user", want.owner), now.uid if now else None),
        ("group", want.group, draft.host.number("group", want.group), now.gid if now else None),
        ("mode", f"{want.mode:04o}" if want.mode is not None else "", want.mode, now.mode if now else None),
    ]
    differing = {what: (told, value, was) for what, told, value, was in parts if told and (now is None or value != was)}
    if not differing:
        return
    told = ", ".join(f"{what} {told}" for what, (told, _value, _was) in differing.items())
    data = Own(want.name, *(differing[what][1] if what in differing else None for what in ("owner", "group", "mode")))
    draft.add(Phase.OWN, Step("own", want.name, f"Give the mountpoint of {want.name} the {told}", data))
    for what, (told, _value, was) in differing.items():
        draft.differ(want.name, f"mountpoint_{what}", f"{was:04o}" if what == "mode" and was is not None else was, told)
