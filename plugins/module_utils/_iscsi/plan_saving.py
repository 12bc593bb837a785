# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The last step: what the boot service restores must be what runs."""

from __future__ import annotations

from typing import Iterator

from .draft import Draft
from .model import Acl, Group, Tpg
from .parse import read_targets
from .saved import Scope, drift, merge_saved
from .wanted import WantedTarget


def plan_saving(draft: Draft) -> None:
    """Plan to save when anything changes or the file differs; refuse to forget what only the file knows."""
    wanted = draft.wanted
    scope = Scope(
        targets=tuple(dict.fromkeys(target.wwn for target in wanted.targets)),
        stores=tuple(name for target in wanted.targets for name in target.allow_remove),
        discovery=wanted.discovery is not None,
    )
    path, saved = draft.guards.save_file, draft.state.saved
    for target in wanted.targets:
        if not target.absent:
            _keep(draft, target)
    merged = merge_saved(saved, draft.state.dump, scope)
    differences = drift(saved, merged) if saved is not None else ()
    if not draft.steps and not differences and saved is not None:
        return
    if not draft.steps and saved is None and not merged["targets"]:
        return
    draft.add("save", path, f"Save the configuration to {path}, so that it outlives a reboot", scope)
    if differences or saved is None:
        draft.before["saved"] = list(differences) or "nothing"
        draft.after["saved"] = "as it runs"


def _keep(draft: Draft, want: WantedTarget) -> None:
    lost = []
    for saved in read_targets(draft.state.saved or {}).get(want.wwn, ()):
        group = Group(want.wwn, saved.tag)
        if saved.tag == want.tag:
            lost += list(_lost(want, saved, draft.state.group(group) or Tpg(want.tag)))
        elif not draft.wanted.group(group) and not draft.state.group(group):
            lost += [name for name in [f"portal group {saved.tag}"] if name not in want.allow_remove]
    if lost:
        draft.refuse(
            draft.guards.save_file,
            f"Refusing to save {want.group} over {draft.guards.save_file}: the file also has {', '.join(lost)}, which neither runs nor is "
            f"declared, and would be forgotten. Declare it, bring it back with targetctl restore, or name it in allow_remove.",
        )


def _lost(want: WantedTarget, saved: Tpg, have: Tpg) -> Iterator[str]:
    """What only the file knows, by the names allow_remove takes."""
    declared = {(lun.index, lun.name) for lun in want.luns}
    for index, key in sorted(saved.luns.items()):
        if have.luns.get(index) != key and (index, key.name) not in declared and key.name not in want.allow_remove:
            yield key.name
    going = {index for index, key in saved.luns.items() if key.name in want.allow_remove}
    for acl in saved.acls:
        known = [item for item in (*want.acls, *have.acls) if item.initiator == acl.initiator]
        lost = _lost_mappings(acl, known, going) if known else [acl.initiator]
        if acl.initiator not in want.allow_remove:
            yield from (name for name in lost if name not in want.allow_remove)
    yield from (
        str(portal) for portal in saved.portals if portal not in (*want.portals, *have.portals) and str(portal) not in want.allow_remove
    )


def _lost_mappings(saved: Acl, known: list[Acl], going: set[int]) -> list[str]:
    """Mappings that only the file knows, but for those of LUNs that may be taken away."""
    indexes = {entry.index for acl in known for entry in acl.mapped}
    return [f"{saved.initiator}/{entry.index}" for entry in saved.mapped if entry.index not in indexes and entry.lun not in going]
