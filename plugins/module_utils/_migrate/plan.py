# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to be done, and what is refused: pure, so that a table tries it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Sequence

from .._plan import Plan, Refusal, Step
from .model import MANIFEST, MODEL, Entry, Manifest
from .read import Found

Files = Mapping[str, Found]


@dataclass(frozen=True)
class Room:
    """Where files go.

    :param path: the folder, for sentences.
    :param free: bytes that are free there.
    """

    path: str
    free: int


@dataclass(frozen=True)
class Unit:
    """A service of the old machine, as systemd has it, or as it was before the switch.

    :param known: whether there is a unit of that name.
    """

    active: bool
    enabled: bool
    known: bool = True


def plan_export(wanted: Manifest, found: Files, former: Manifest | None, room: Room) -> Plan:
    """Plan a folder with all files and a manifest, written last: with a manifest, an export is whole.

    A file that an earlier export wrote may be replaced, and no other.

    :param found: what is there at the places of the wanted files.
    """
    written = {entry.place: entry.sha256 for entry in former.entries} if former else {}
    steps, refusals = [], []
    for entry in wanted.entries:
        there = found.get(entry.place)
        if there is None:
            steps.append(Step("bring", entry.place, f"Export {entry.source} as {room.path}/{entry.place} ({entry.size} bytes)", entry))
        elif there.sha256 == entry.sha256:
            continue
        elif written.get(entry.place) == there.sha256:
            steps.append(Step("replace", entry.place, f"Export {entry.source} anew as {room.path}/{entry.place}: it has changed", entry))
        else:
            refusals.append(_taken(entry, f"{room.path}/{entry.place}"))
    refusals += _twice(wanted.entries)
    # A link of a model takes no room, but only where one can be made: count as if it could not.
    refusals += _no_room(sum(step.data.size for step in steps), room)
    if former is None or former.as_data() != wanted.as_data():
        steps.append(Step("list", MANIFEST, f"Write {room.path}/{MANIFEST}, which names {len(wanted.entries)} files", wanted))
    return Plan(tuple(steps), tuple(refusals), wanted.left_out)


def plan_import(manifest: Manifest, staged: Files, found: Files, staging: str, room: Room) -> Plan:
    """Plan the models of an export into the folder of the model store; what is there stays.

    :param staged: what was brought over, by place.
    :param found: what the folder has, by the models' file names.
    """
    steps, refusals = [], list(damaged(manifest.of(MODEL), staged, staging, but=found))
    for entry in manifest.of(MODEL):
        there = found.get(entry.name)
        if there is None:
            steps.append(Step("place", entry.name, f"Put {entry.name} into {room.path}", entry))
        elif there.sha256 != entry.sha256:
            refusals.append(_taken(entry, f"{room.path}/{entry.name}"))
    return Plan(tuple(steps), tuple(refusals), manifest.left_out)


def damaged(entries: Sequence[Entry], staged: Files, staging: str, *, but: Files) -> list[Refusal]:
    """Return why files that were brought over cannot be used.

    :param but: what is where it goes already, by name; its copy is not needed any more.
    """
    refusals = []
    for entry in entries:
        there = staged.get(entry.place)
        if entry.name in but and but[entry.name].sha256 == entry.sha256:
            continue
        if there is None:
            reason = "is not there. Bring the export over again: what is there already is not sent twice."
        elif there.sha256 != entry.sha256:
            reason = (
                f"is damaged: its checksum is {there.sha256}, and {entry.sha256} was exported. Remove it and bring the export over again."
            )
        else:
            continue
        refusals.append(Refusal(entry.place, f"{staging}/{entry.place} {reason} Nothing was changed."))
    return refusals


def plan_upload(manifest: Manifest, staged: Files, listed: Mapping[str, Sequence[Mapping[str, Any]]], staging: str) -> Plan:
    """Plan what the chat service has to be given; what it has already is left out, so that a run that was ended is taken up.

    :param listed: the documents of each collection, as the service lists them.
    """
    steps, refusals = [], list(damaged(manifest.of("document"), staged, staging, but={}))
    for entry in manifest.of("document"):
        there = [one for one in listed.get(entry.collection, ()) if one["name"] == entry.name]
        if not there:
            steps.append(Step("upload", entry.place, f"Upload {entry.name} into the collection {entry.collection}", entry))
        elif len(there) > 1 or int(there[0]["bytes"]) != entry.size:
            refusals.append(Refusal(entry.place, _other_document(entry, there)))
    return Plan(tuple(steps), tuple(refusals), manifest.left_out)


def _other_document(entry: Entry, there: Sequence[Mapping[str, Any]]) -> str:
    sizes = ", ".join(f"{one['bytes']} bytes, id {one['id']}" for one in there)
    return (
        f"The collection {entry.collection} has {entry.name} already ({sizes}), and the one that moves has {entry.size} bytes. Nothing is "
        f"overwritten: delete what is not wanted (DELETE /api/documents/ID?collection={entry.collection}), or rename the one that moves."
    )


def plan_switch(units: Mapping[str, Unit], record: Mapping[str, Unit]) -> Plan:
    """Plan the end of the old machine's services; how they were is written down first, and once."""
    refusals = [
        Refusal(name, f"This machine has no service {name}. Correct services, or leave it out; nothing was stopped.")
        for name, unit in units.items()
        if not unit.known
    ]
    steps = []
    new = {name: unit for name, unit in units.items() if name not in record}
    if new:
        steps.append(
            Step("record", ", ".join(new), f"Write down how {', '.join(new)} {'is' if len(new) == 1 else 'are'}", {**record, **new})
        )
    for name, unit in units.items():
        if unit.active or unit.enabled:
            steps.append(Step("stop", name, f"Stop {name}, also for the next start of the machine"))
    return Plan(tuple(steps), tuple(refusals))


def plan_return(units: Mapping[str, Unit], record: Mapping[str, Unit]) -> Plan:
    """Plan the way back: the services are as they were before the switch.

    :param units: as they are, for each that is recorded.
    """
    steps, refusals = [], []
    for name, was in record.items():
        now = units[name]
        if not now.known and (was.active or was.enabled):
            refusals.append(
                Refusal(name, f"The service {name}, which ran before the switch, is not installed any more. Install it, and run again.")
            )
        if was.enabled and not now.enabled:
            steps.append(Step("enable", name, f"Have {name} start with the machine again"))
        if was.active and not now.active:
            steps.append(Step("start", name, f"Start {name}"))
    if record:
        steps.append(Step("forget", ", ".join(record), "Forget how the services were before the switch"))
    return Plan(tuple(steps), tuple(refusals))


def _taken(entry: Entry, where: str) -> Refusal:
    return Refusal(entry.place, f"{where} is another file than {entry.name} that moves, and nothing is overwritten. Rename one of them.")


def _twice(entries: Sequence[Entry]) -> list[Refusal]:
    """Refuse files that would have one name."""
    by_place: dict[str, list[str]] = {}
    for entry in entries:
        by_place.setdefault(entry.place, []).append(entry.source)
    return [
        Refusal(place, f"{' and '.join(sources)} would both be {place}. Rename one, give it a name, or another collection.")
        for place, sources in by_place.items()
        if len(sources) > 1
    ]


def _no_room(needed: int, room: Room) -> list[Refusal]:
    if needed <= room.free:
        return []
    return [
        Refusal(room.path, f"{needed} bytes do not fit into {room.path}, which has {room.free} free. Name another folder, or make room.")
    ]
