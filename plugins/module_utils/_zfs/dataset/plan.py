# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan a list of datasets: what is missing is created, parents first, what differs is changed, what is absent goes last."""

from __future__ import annotations

from typing import Mapping, Sequence

from ..._plan import Plan
from .absent import plan_absent
from .create import plan_missing, plan_origin, plan_rename
from .draft import Draft, set_waves
from .grants import plan_grants
from .keys import plan_key
from .model import Current, Dataset, FoundDataset, Host, pool_of
from .mounts import plan_directory
from .properties import group_properties, plan_properties
from .read import lineage
from .snapshots import Marks, plan_marks, plan_rollback


def plan_datasets(wanted: Sequence[Dataset], current: Current, host: Host, *, rehearsal: bool) -> Plan:
    """Plan for a list of datasets, parents first.

    :param rehearsal: the pool and what else an earlier task would create may still be missing.
    """
    draft = Draft(current, host, rehearsal=rehearsal)
    _check_pools(draft, wanted)
    declared = {each.name: each for each in wanted}
    present = {name: each for name, each in declared.items() if each.present}
    for want in present.values():
        plan_rename(draft, want)
    set_waves(draft, present)
    for name in lineage(present):
        have, each = draft.find(name), present.get(name)
        if not have:
            plan_missing(draft, name, each, present)
        elif each:
            _plan_existing(draft, each, have)
    marks = Marks()
    for want in present.values():
        plan_directory(draft, want)
        plan_grants(draft, want)
    for want in declared.values():
        plan_marks(draft, marks, want)
    group_properties(draft)
    marks.steps(draft)
    plan_absent(draft, declared)
    return draft.finish()


def _check_pools(draft: Draft, wanted: Sequence[Dataset]) -> None:
    for pool in sorted({pool_of(each.name) for each in wanted if each.present}):
        if not draft.find(pool) and not draft.rehearsal:
            draft.refuse(
                pool, f"Pool {pool} does not exist: create it with zfs_pool, or import it with `zpool import {pool}`, before its datasets."
            )


def _plan_existing(draft: Draft, want: Dataset, have: FoundDataset) -> None:
    if want.kind != have.kind:
        draft.refuse(
            want.name,
            f"Refusing to turn the {have.kind} {want.name} into a {want.kind}: ZFS never changes the type of a dataset."
            f" Declare it with type {have.kind}, or choose another name.",
        )
        return
    plan_origin(draft, want, have)
    plan_key(draft, want, have, _datasets(draft.current.found))
    plan_properties(draft, want, have)
    plan_rollback(draft, want, have)


def _datasets(found: Mapping[str, FoundDataset]) -> dict[str, FoundDataset]:
    return {name: each for name, each in found.items() if "@" not in name and "#" not in name}
