# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs over a fleet share: who may act, what failed, what is spent. Pure: texts of labels in, texts of labels out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Mapping

from .._errors import StackError
from .breaker import Breaker, breaker_of
from .budget import Begun, Ledger

PREFIX = "llm-stack."
LOCK, MEMORY, BREAKER, LEDGER, ROTATED, TRIED, SCALE = (
    f"{PREFIX}{name}" for name in ("lock", "memory", "breaker", "ledger", "rotated", "tried", "scale")
)


class StateError(StackError):
    """The shared state cannot be read, or is not ours to write."""


class LockLost(StateError):
    """The lock is not held any more: whatever is still to be done is another run's now.

    :param holder: who has taken it; empty when nobody has.
    """

    def __init__(self, message: str, *, holder: str = "") -> None:
        self.holder = holder
        super().__init__(message)


@dataclass(frozen=True)
class Lock:
    """Who may act on a fleet.

    :param owner: the run, for a person.
    :param token: what only the holder knows.
    :param since: seconds since 1970.
    :param until: seconds since 1970; from then on anybody may take it.
    """

    owner: str
    token: str
    since: float
    until: float

    def is_over(self, now: float) -> bool:
        """Whether anybody may take it."""
        return now >= self.until


@dataclass(frozen=True)
class Scale:
    """How many of the declared workers demand needs.

    :param at: when that was decided.
    """

    wanted: int
    at: float


@dataclass(frozen=True)
class Notes:
    """What a run leaves for the next.

    :param memory: placements that failed, as `_selectel` keeps them.
    :param rotated: when a rotation was begun last.
    :param tried: by slot, when a preemptible server was tried last in place of a regular one.
    :param scale: None while nobody has scaled.
    """

    memory: dict[str, dict[str, Any]] = field(default_factory=dict)
    breaker: Breaker = field(default_factory=Breaker)
    ledger: Ledger | None = None
    rotated: float = 0.0
    tried: dict[str, float] = field(default_factory=dict)
    scale: Scale | None = None


@dataclass(frozen=True)
class State:
    """The whole of it.

    :param others: labels that are not ours; they stay.
    """

    lock: Lock | None = None
    notes: Notes = field(default_factory=Notes)
    others: dict[str, str] = field(default_factory=dict)


def state_of(labels: Mapping[str, str]) -> State:
    """Read the labels.

    :raises StateError: one of ours cannot be understood; nothing is guessed.
    """
    ours = {LOCK, MEMORY, BREAKER, LEDGER, ROTATED, TRIED, SCALE}
    try:
        found = {key: json.loads(labels[key]) for key in sorted(ours & set(labels))}
        lock = Lock(**found[LOCK]) if LOCK in found else None
        return State(lock, notes_of(found), {key: text for key, text in labels.items() if key not in ours})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StateError(
            f"The shared state of the fleet cannot be understood ({error}). See `docker config inspect llm-stack-state`; if it was "
            "altered by hand, remove it with `docker config rm llm-stack-state`: the lock, what failed and what was spent today are "
            "forgotten then."
        ) from error


def notes_of(found: Mapping[str, Any]) -> Notes:
    """Read the notes from the values of the labels."""
    return Notes(
        memory={str(key): dict(entry) for key, entry in found.get(MEMORY, {}).items()},
        breaker=breaker_of(found.get(BREAKER, {})),
        ledger=_ledger_of(found[LEDGER]) if found.get(LEDGER) else None,
        rotated=float(found.get(ROTATED, 0.0)),
        tried={str(key): float(at) for key, at in found.get(TRIED, {}).items()},
        scale=Scale(int(found[SCALE]["wanted"]), float(found[SCALE]["at"])) if found.get(SCALE) else None,
    )


def _ledger_of(found: Mapping[str, Any]) -> Ledger:
    begun = {str(slot): Begun(**one) for slot, one in found.get("begun", {}).items()}
    return Ledger(**{**found, "begun": begun})


def values_of(notes: Notes) -> dict[str, Any]:
    """Return the notes as the values of labels; what is empty is left out."""
    ledger = asdict(notes.ledger) if notes.ledger else None
    values = {MEMORY: notes.memory, BREAKER: notes.breaker.data, LEDGER: ledger, ROTATED: notes.rotated, TRIED: notes.tried}
    values[SCALE] = notes.scale.__dict__ if notes.scale else None
    return {key: value for key, value in values.items() if value}


def labels_of(state: State) -> dict[str, str]:
    """Return the labels that hold a state."""
    values = values_of(state.notes)
    if state.lock:
        values[LOCK] = state.lock.__dict__
    return {**state.others, **{key: json.dumps(value, sort_keys=True) for key, value in values.items()}}


def taken(state: State, *, owner: str, token: str, now: float, seconds: float) -> State:
    """Take the lock, or keep it for longer; unchanged when another run holds it.

    :param seconds: for how long from now.
    """
    held = state.lock
    if held and not held.is_over(now) and held.token != token:
        return state
    since = held.since if held and held.token == token else now
    return replace(state, lock=Lock(owner, token, since, now + seconds))


def require_held(state: State, *, token: str) -> Lock:
    """Return the lock when it is still ours: nobody has taken it since, so nobody has acted in between, even if it ran out.

    :raises LockLost: another run acts.
    """
    held = state.lock
    if held is None or held.token != token:
        by = f"{held.owner} has taken it" if held else "nobody holds it"
        text = f"The lock of the fleet is not held by this run any more: {by}. Nothing further was done; run again."
        raise LockLost(text, holder=held.owner if held else "")
    return held


def released(state: State, *, token: str) -> State:
    """Give the lock up; unchanged when it is not ours."""
    return replace(state, lock=None) if state.lock and state.lock.token == token else state
