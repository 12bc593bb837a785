# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From options to a decision: what the module that plans recovery and the autoscaler share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Mapping

from .._errors import BadInput
from .._selectel.apply import Run, in_parallel
from .._selectel.model import FleetSpec
from .._selectel.read import read_catalogue
from .._selectel.spec import fleet_spec
from .act import with_spare
from .model import Observed, Policy, Recovery
from .plan import needs_offer, plan_recovery
from .state import Notes, Scale

_POLICY = (
    "spare",
    "regular_max",
    "budget",
    "rotate_gap",
    "breaker_limit",
    "breaker_window",
    "breaker_rest",
    "hand_back_gap",
    "patience",
    "grace",
)
_WHOLE = ("spare", "regular_max", "breaker_limit")


def recovery_options() -> dict[str, Any]:
    """Return the options that say what may be done, as an argument specification."""
    defaults = Policy()
    numbers = {name: {"type": "int" if name in _WHOLE else "float", "default": getattr(defaults, name)} for name in _POLICY}
    return {
        **numbers,
        "budget": {"type": "float"},
        "rotate_before": {"type": "float", "default": defaults.rotate_before},
        "workers_min": {"type": "int"},
    }


def policy_of(params: Mapping[str, Any], desired: FleetSpec, *, scale: Scale | None = None) -> Policy:
    """Return what may be done.

    :param scale: how many demand needs, where that was decided before.
    :raises BadInput: a number is below zero, or more servers are wanted than are declared.
    """
    for name in (*_POLICY, "rotate_before", "workers_min"):
        if params[name] is not None and params[name] < 0:
            raise BadInput(f"{name} is {params[name]:g}: give 0 or more.")
    policy = Policy(**{name: params[name] for name in _POLICY}, rotate_before=params["rotate_before"] or None)
    if params["allow_regular"] and not policy.regular_max:
        policy = replace(policy, regular_max=len(desired.slots))
    if params["workers_min"] is None:
        return policy
    least, most = params["workers_min"], len(desired.slots) - policy.spare
    if least > most:
        raise BadInput(f"workers_min is {least}, and {most} servers are declared: declare as many as there may be at the most.")
    return replace(policy, least=least, wanted=min(max(least, scale.wanted), most) if scale else None)


def desired_of(params: Mapping[str, Any]) -> FleetSpec:
    """Return the fleet as it should be, spare servers included."""
    if not params["fleet"]:
        return FleetSpec("")
    options = with_spare({**params, "state": "present", "memory": {}}, params["spare"])
    return fleet_spec({**options, "allow_regular": params["allow_regular"] or params["regular_max"] > 0})


def look_at(run: Run, observed: Observed, *, desired: FleetSpec) -> Observed:
    """Add what there is of the fleet in the cloud."""
    return replace(observed, fleet=run.look(desired.fleet, groups=bool(desired.security_groups)))


def decide(run: Run, observed: Observed, *, desired: FleetSpec, policy: Policy, notes: Notes) -> tuple[Observed, Recovery]:
    """Decide; what regions offer is read only where something is to be started, and returned with what was observed."""
    first = plan_recovery(observed, desired=desired, policy=policy, notes=notes, now=run.watch.now())
    if not needs_offer(first):
        return observed, first
    regions = list(dict.fromkeys(place.region for slot in desired.slots for place in slot.placements))
    offers = in_parallel(regions, lambda region: read_catalogue(run.clouds[region]), run.watch)
    observed = replace(observed, fleet=replace(observed.fleet, catalogues=dict(zip(regions, offers))))
    return observed, plan_recovery(observed, desired=desired, policy=policy, notes=notes, now=run.watch.now())
