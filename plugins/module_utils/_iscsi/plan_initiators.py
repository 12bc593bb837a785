# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The initiators of a target: admitted, authenticated, and given disks."""

from __future__ import annotations

from .draft import Draft
from .model import SECRET, Acl, MappedLun
from .settings import plan_settings
from .wanted import WantedTarget


def plan_initiator(draft: Draft, want: WantedTarget, acl: Acl) -> None:
    """Plan one initiator: admitted, then authenticated, then given disks."""
    have = draft.current[want.group].acl(acl.initiator)
    whom = f"{acl.initiator} at {want.group}"
    if have is None:
        draft.add("create_acl", acl.initiator, f"Admit {acl.initiator} to {want.group}", (want.group, acl.initiator, acl.attributes))
        draft.differs(want.group, f"initiator {acl.initiator}", None, f"CHAP user {acl.chap.userid}" if acl.chap.userid else "no CHAP")
    else:
        plan_settings(draft, whom, "node_attribute", have.attributes, acl.attributes, (want.group, acl.initiator))
    current = have or Acl(acl.initiator)
    if current.chap != acl.chap:
        draft.add("set_chap", acl.initiator, f"Set the CHAP credentials of {whom}", (want.group, acl.initiator, acl.chap))
        if have is not None:
            _credentials_change(draft, want, acl)
    for entry in acl.mapped:
        _mapping(draft, want, acl, entry, current)


def _credentials_change(draft: Draft, want: WantedTarget, acl: Acl) -> None:
    draft.differs(want.group, f"CHAP of {acl.initiator}", SECRET, f"{SECRET} changed")
    if acl.initiator in draft.state.sessions.get(want.group, ()):
        draft.warn(f"{acl.initiator} stays logged in at {want.group}, and needs its new CHAP credentials at its next login.")


def _mapping(draft: Draft, want: WantedTarget, acl: Acl, entry: MappedLun, have: Acl) -> None:
    whom = f"{acl.initiator} at {want.group}"
    what = f"mapped LUN {entry.index} of {acl.initiator}"
    access = ", read-only" if entry.write_protect else ""
    found = next((item for item in have.mapped if item.index == entry.index), None)
    if found is None:
        sentence = f"Show LUN {entry.lun} as LUN {entry.index} to {whom}{access}"
        draft.add("map_lun", acl.initiator, sentence, (want.group, acl.initiator, entry))
        draft.differs(want.group, what, None, f"LUN {entry.lun}{access}")
    elif found.lun != entry.lun:
        draft.refuse(
            acl.initiator,
            f"Refusing to show LUN {entry.lun} as LUN {entry.index} to {whom}: LUN {found.lun} is there, and the initiator would "
            f"find another disk under it. Choose a free index, or name {acl.initiator}/{entry.index} in allow_remove.",
        )
    elif found.write_protect != entry.write_protect:
        _protection(draft, want, acl, entry)


def _protection(draft: Draft, want: WantedTarget, acl: Acl, entry: MappedLun) -> None:
    access = "read-only" if entry.write_protect else "writable"
    live = {acl.initiator} & set(draft.state.sessions.get(want.group, ()))
    # Who may write from now on loses nothing; who may not any more gets errors for what it has not written yet.
    if entry.write_protect and draft.disturbs(want, f"make mapped LUN {entry.index} read-only for {acl.initiator}", acl.initiator, live):
        return
    sentence = f"Make mapped LUN {entry.index} of {acl.initiator} at {want.group} {access}"
    draft.add("set_write_protect", acl.initiator, sentence, (want.group, acl.initiator, entry))
    before = "writable" if entry.write_protect else "read-only"
    draft.differs(want.group, f"mapped LUN {entry.index} of {acl.initiator}", before, access)
