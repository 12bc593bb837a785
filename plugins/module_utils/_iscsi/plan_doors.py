# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Targets, portal groups, portals and discovery: closed until there is a lock on the door."""

from __future__ import annotations

from .draft import Draft
from .model import SECRET, Discovery, Portal, Tpg
from .settings import plan_settings
from .wanted import WantedTarget


def plan_group(draft: Draft, want: WantedTarget) -> None:
    """Plan the target and its portal group, closed, with its attributes and parameters."""
    have = draft.state.group(want.group)
    if have is not None:
        # What decides who may come in is the module's own, and not every kernel has all of it.
        attributes = {name: value for name, value in want.attributes.items() if name in have.attributes or name in want.extra_attributes}
        plan_settings(draft, want.group, "attribute", have.attributes, attributes, want.group)
        plan_settings(draft, want.group, "parameter", have.parameters, want.parameters, want.group)
        return
    known = [step.target for step in draft.steps if step.action == "create_target"]
    if want.wwn not in draft.state.targets and want.wwn not in known:
        draft.add("create_target", want.wwn, f"Create target {want.wwn}", want.wwn)
    sentence = f"Create portal group {want.tag} of target {want.wwn}, closed"
    draft.add("create_tpg", want.wwn, sentence, (want.group, want.attributes, want.parameters, frozenset(want.extra_attributes)))


def plan_portal(draft: Draft, want: WantedTarget, portal: Portal, have: Tpg) -> None:
    """Plan one address to listen on."""
    found = next((item for item in have.portals if item == portal), None)
    if found is None:
        how = " (iSER too)" if portal.iser else ""
        draft.add("create_portal", want.wwn, f"Listen on {portal}{how} for {want.group}", (want.group, portal))
        draft.differs(want.group, f"portal {portal}", None, f"listening{how}")
    elif found.iser != portal.iser and not draft.disturbs(
        want, f"{'offer' if portal.iser else 'take away'} iSER at portal {portal}", str(portal), draft.state.sessions.get(want.group, ())
    ):
        sentence = f"{'Offer' if portal.iser else 'Take away'} iSER at {portal} of {want.group}"
        draft.add("set_iser", want.wwn, sentence, (want.group, portal))
        draft.differs(want.group, f"iSER at {portal}", found.iser, portal.iser)


def plan_enable(draft: Draft, want: WantedTarget, have: Tpg) -> None:
    """Plan the opening of the door, after all else."""
    if not have.enabled:
        draft.add("enable", want.wwn, f"Open {want.group} to its initiators", want.group)
        draft.differs(want.group, "enabled", False if draft.state.group(want.group) else None, True)


def plan_discovery(draft: Draft, want: Discovery | None) -> None:
    """Plan who may ask for the list of targets; one setting for the whole host."""
    have = draft.state.discovery
    if want is None or want == have:
        return
    sentence = (
        "Ask for CHAP credentials before targets are listed" if want.enforced else "List targets to whoever asks, without credentials"
    )
    draft.add("set_discovery", "discovery", sentence, want)
    draft.differs("discovery", "enforced", have.enforced, want.enforced)
    if want.chap != have.chap:
        draft.differs("discovery", "CHAP", SECRET, f"{SECRET} changed")
