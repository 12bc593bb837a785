# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the kernel's targets to the declared ones."""

from __future__ import annotations

from .._plan import Plan
from .draft import Draft
from .model import Guards, State, Tpg
from .plan_absent import plan_absent
from .plan_disks import plan_disk
from .plan_doors import plan_discovery, plan_enable, plan_group, plan_portal
from .plan_initiators import plan_initiator
from .plan_removals import plan_removals
from .plan_saving import plan_saving
from .wanted import Wanted, WantedTarget


def plan(state: State, wanted: Wanted, guards: Guards) -> Plan:
    """Plan all targets: what goes, what comes, and the configuration saved last, when anything changed or the file differs."""
    draft = Draft(state, wanted, guards)
    present = [target for target in wanted.targets if not target.absent]
    plan_discovery(draft, wanted.discovery)
    for target in wanted.targets:
        if target.absent:
            plan_absent(draft, target)
    for target in present:
        plan_removals(draft, target)
    for target in present:
        _target(draft, target)
    plan_saving(draft)
    return draft.plan()


def planned_serials(state: State, wanted: Wanted, made: Plan) -> dict[str, str]:
    """Serials of the declared LUNs by name, as they are when the plan is carried out."""
    created = {step.data.name: step.data.serial for step in made.steps if step.action == "create_backstore"}
    kept = {store.name: store.serial for store in state.backstores}
    names = sorted({lun.name for target in wanted.targets for lun in target.luns})
    return {name: {**kept, **created}[name] for name in names if name in kept or name in created}


def _target(draft: Draft, want: WantedTarget) -> None:
    """Plan one portal group: closed first, then disks, initiators, and only then an open door."""
    current = draft.current[want.group]
    plan_group(draft, want)
    for lun in want.luns:
        plan_disk(draft, want, lun)
    for acl in want.acls:
        plan_initiator(draft, want, acl)
    for portal in want.portals:
        plan_portal(draft, want, portal, current)
    plan_enable(draft, want, current)
    _report_undeclared(draft, want, current)


def _report_undeclared(draft: Draft, want: WantedTarget, have: Tpg) -> None:
    """What is there and not declared is drift to report, not to remove; by the names allow_remove takes."""
    indexes = {lun.index for lun in want.luns}
    extra = [f"LUN {index} ({key.name})" for index, key in sorted(have.luns.items()) if index not in indexes]
    declared = {acl.initiator: {entry.index for entry in acl.mapped} for acl in want.acls}
    for acl in have.acls:
        if acl.initiator not in declared:
            extra.append(f"initiator {acl.initiator}")
            continue
        more = sorted(entry.index for entry in acl.mapped if entry.index not in declared[acl.initiator])
        extra += [f"mapped LUN {acl.initiator}/{index}" for index in more]
    extra += [f"portal {portal}" for portal in have.portals if portal not in want.portals]
    tags = {target.tag for target in draft.wanted.targets if target.wwn == want.wwn}
    if want.tag == min(tags):
        extra += [f"portal group {tpg.tag}" for tpg in draft.state.targets.get(want.wwn, ()) if tpg.tag not in tags]
    if extra:
        draft.warn(f"{str(want.group)[0].upper()}{str(want.group)[1:]} also has {', '.join(extra)}: not declared, left as it is.")
