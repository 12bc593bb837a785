# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the autoscaler is told, and how that is read."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Mapping

from .._errors import BadInput
from .._recover.decide import desired_of, policy_of, recovery_options
from .._selectel.login import LOGIN_OPTIONS
from .._selectel.model import FleetSpec
from .._selectel.options import fleet_options
from .scale import ScalePolicy

_NUMBERS = {"int": int, "float": float}
_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class Pace:
    """How often, and how old what was seen may be, in seconds.

    :param every: between two turns while nothing is amiss.
    :param suspect: between two turns for `suspect_for` after something was lost, until the cloud says what became of it.
    :param fresh: what was seen of the swarm and the cloud when something is done is no older.
    :param again: before a worker that could not be brought back is tried again; twice as long each time, up to `again_most`.
    :param drain: how long a worker that demand does not need may answer its last requests.
    :param webhook: between two calls for hands.
    """

    every: float = 15.0
    suspect: float = 1.0
    suspect_for: float = 60.0
    fresh: float = 15.0
    again: float = 60.0
    again_most: float = 600.0
    drain: float = 660.0
    webhook: float = 600.0


@dataclass(frozen=True)
class Settings:
    """What the autoscaler is told.

    :param owner: who holds the lock, for a person.
    :param options: those of the module that plans recovery, whole.
    :param slots: requests that one engine answers at a time.
    :param balancers: a name behind which all balancers are.
    :param prometheus: ``HOST:PORT``; empty where the use of GPUs is not measured.
    :param webhook: what is called when hands are needed; empty for nobody.
    """

    owner: str
    options: Mapping[str, Any] = field(repr=False)
    scale: ScalePolicy
    pace: Pace = Pace()
    slots: int = 1
    balancers: str = "tasks.llm_balancer"
    prometheus: str = ""
    webhook: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def desired(self) -> FleetSpec:
        """The fleet, with as many servers as there may be."""
        return desired_of(self.options)


def filled(spec: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return options with defaults, in their types: an inventory may give every one as text.

    :param spec: as a module has it.
    :raises BadInput: one is unknown, or of another type.
    """
    unknown = sorted(set(given) - set(spec))
    if unknown:
        raise BadInput(f"{where} has {', '.join(unknown)}, which is no option of a fleet. Correct or remove it.")
    found = {}
    for name, option in spec.items():
        value = given.get(name)
        found[name] = option.get("default") if value is None else _typed(option, value, f"{where}.{name}")
    return found


def _typed(option: Mapping[str, Any], value: Any, where: str) -> Any:
    kind, nested = option.get("type", "str"), option.get("options")
    try:
        if kind in _NUMBERS:
            return _NUMBERS[kind](value)
        if kind == "bool":
            return _flag(value)
        if kind == "list":
            entries = value if isinstance(value, list) else [value]
            return [filled(nested, one, f"{where}[{place}]") if nested else one for place, one in enumerate(entries)]
        if kind == "dict":
            return filled(nested, value, where) if nested else dict(value)
    except (TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{where} is {value!r}, which is no {kind}. Correct it.") from error
    return str(value)


def _flag(value: Any) -> bool:
    text = str(value).lower()
    if text not in (*_YES, *_NO):
        raise ValueError(text)
    return text in _YES


def settings_of(text: str, credential: str, *, owner: str) -> Settings:
    """Read the two files of the service.

    :param text: JSON of `fleet`, `recovery`, `scale`, `pace`, `slots`, `balancers`, `prometheus` and `webhook`.
    :param credential: JSON of the options for logging in.
    :raises BadInput: something is missing, or cannot work.
    """
    try:
        told, login = json.loads(text), json.loads(credential)
    except ValueError as error:
        raise BadInput(f"The settings are no JSON ({error}). Run the role autoscaler again.") from error
    spec = {**LOGIN_OPTIONS, **fleet_options(), **recovery_options(), "fleet": {"type": "str", "default": ""}}
    options = filled(spec, {**told["fleet"], **told["recovery"], **login}, "gpu_fleet")
    # Rotating and handing back want a successor that has proven itself, and that is for recover.yml.
    options["rotate_before"] = 0.0
    scale = filled({name: {"type": "float"} for name in ScalePolicy.__dataclass_fields__}, told.get("scale") or {}, "scale")
    pace = filled({name: {"type": "float"} for name in Pace.__dataclass_fields__}, told.get("pace") or {}, "pace")
    desired = desired_of(options)
    most = len(desired.slots) - options["spare"]
    least = most if options["workers_min"] is None else options["workers_min"]
    options["workers_min"] = least
    policy_of(options, desired)
    bounds = {"least": least, "most": most}
    return Settings(
        owner,
        options,
        ScalePolicy(**{**{name: value for name, value in scale.items() if value is not None}, **bounds}),
        Pace(**{name: value for name, value in pace.items() if value is not None}),
        slots=int(told.get("slots") or 1),
        balancers=str(told.get("balancers") or Settings.balancers),
        prometheus=str(told.get("prometheus") or ""),
        webhook=told.get("webhook") or {},
    )
