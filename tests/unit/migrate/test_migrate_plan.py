# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Moves, planned: what is done, what is refused and in which words, as tables."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import StackError
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._migrate import model
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._migrate.model import DOCUMENT, MODEL, Entry, Manifest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._migrate.plan import (
    Room,
    Unit,
    plan_export,
    plan_import,
    plan_return,
    plan_switch,
    plan_upload,
)
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._migrate.read import Found

A, B = "a" * 64, "b" * 64
WEIGHTS = Entry(MODEL, "models/q.gguf", 7, A, "/m/q.gguf")
PAGE = Entry(DOCUMENT, "documents/house/p.md", 5, A, "/d/p.md")
ALL = Manifest((WEIGHTS, PAGE), {}, ("/d/x.xlsx is none of txt.",))
ROOM = Room("/e", 1000)
ON, OFF, NONE = Unit(True, True), Unit(False, False), Unit(False, False, known=False)


def manifest(*changes: tuple[str, str]) -> Manifest:
    """The manifest of an export that had other checksums."""
    other = dict(changes)
    return Manifest(tuple(Entry(one.kind, one.place, one.size, other.get(one.place, one.sha256)) for one in ALL.entries), {}, ALL.left_out)


# Name: what is there, the former manifest, the actions planned, words of the refusal.
EXPORTS: dict[str, tuple[dict[str, Found], Manifest | None, list[str], str]] = {
    "nothing is there": ({}, None, ["bring", "bring", "list"], ""),
    "all is there": ({one.place: Found(one.size, A) for one in ALL.entries}, manifest(), [], ""),
    "a run was killed after the first file": ({WEIGHTS.place: Found(7, A)}, None, ["bring", "list"], ""),
    "a run was killed before the manifest": ({one.place: Found(one.size, A) for one in ALL.entries}, None, ["list"], ""),
    "a page was changed since": (
        {WEIGHTS.place: Found(7, A), PAGE.place: Found(5, B)},
        manifest((PAGE.place, B)),
        ["replace", "list"],
        "",
    ),
    "another file is in the way": ({PAGE.place: Found(5, B)}, None, ["bring", "list"], "/e/documents/house/p.md is another file than p.md"),
    "an exported file was changed by hand": ({PAGE.place: Found(9, B)}, manifest(), ["bring"], "nothing is overwritten"),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_is_planned(name: str) -> None:
    found, former, actions, refused = EXPORTS[name]
    made = plan_export(ALL, found, former, ROOM)
    assert [step.action for step in made.steps] == actions
    assert made.warnings == ALL.left_out
    assert bool(made.refusals) == bool(refused)
    assert refused in " ".join(one.reason for one in made.refusals)
    assert not made.steps or made.steps[-1].action in ("list", "bring"), "the manifest comes last"


def test_an_export_that_does_not_fit_is_refused() -> None:
    (refusal,) = plan_export(ALL, {}, None, Room("/e", 11)).refusals
    assert refusal.reason == "12 bytes do not fit into /e, which has 11 free. Name another folder, or make room."
    assert not plan_export(ALL, {}, None, Room("/e", 12)).refusals
    assert not plan_export(ALL, {WEIGHTS.place: Found(7, A)}, None, Room("/e", 5)).refusals, "what is there needs no more room"


def test_two_files_of_one_name_are_refused() -> None:
    twice = Manifest((PAGE, Entry(DOCUMENT, PAGE.place, 9, B, "/other/p.md")))
    (refusal,) = plan_export(twice, {}, None, ROOM).refusals
    assert refusal.reason.startswith("/d/p.md and /other/p.md would both be documents/house/p.md. Rename one")


IMPORTS: dict[str, tuple[dict[str, Found], dict[str, Found], list[str], str]] = {
    "all was brought": ({WEIGHTS.place: Found(7, A)}, {}, ["place"], ""),
    "it is in its place": ({WEIGHTS.place: Found(7, A)}, {"q.gguf": Found(7, A)}, [], ""),
    "it is in its place and the copy is gone": ({}, {"q.gguf": Found(7, A)}, [], ""),
    "it was damaged on the way": ({WEIGHTS.place: Found(7, B)}, {}, ["place"], "/i/models/q.gguf is damaged: its checksum is bbb"),
    "it was not brought": ({}, {}, ["place"], "/i/models/q.gguf is not there. Bring the export over again"),
    "another model has its name": ({WEIGHTS.place: Found(7, A)}, {"q.gguf": Found(7, B)}, [], "/e/q.gguf is another file than q.gguf"),
}


@pytest.mark.parametrize("name", IMPORTS)
def test_an_import_is_planned(name: str) -> None:
    staged, found, actions, refused = IMPORTS[name]
    made = plan_import(ALL, staged, found, "/i", ROOM)
    assert [step.action for step in made.steps] == actions
    assert bool(made.refusals) == bool(refused)
    assert refused in " ".join(one.reason for one in made.refusals)


BROUGHT = {PAGE.place: Found(5, A)}
UPLOADS: dict[str, tuple[dict[str, Found], list[dict[str, Any]], list[str], str]] = {
    "the service has nothing": (BROUGHT, [], ["upload"], ""),
    "the service has it": (BROUGHT, [{"name": "p.md", "bytes": 5, "id": "1"}], [], ""),
    "the service has others": (BROUGHT, [{"name": "q.md", "bytes": 5, "id": "1"}], ["upload"], ""),
    "the service has another of its name": (
        BROUGHT,
        [{"name": "p.md", "bytes": 6, "id": "1"}],
        [],
        "(6 bytes, id 1), and the one",
    ),
    "the service has it twice": (BROUGHT, [{"name": "p.md", "bytes": 5, "id": one} for one in "12"], [], "5 bytes, id 1, 5 bytes, id 2"),
    "it was damaged on the way": ({PAGE.place: Found(5, B)}, [], ["upload"], "/i/documents/house/p.md is damaged"),
    "it was not brought": ({}, [], ["upload"], "is not there"),
}


@pytest.mark.parametrize("name", UPLOADS)
def test_an_upload_is_planned(name: str) -> None:
    staged, listed, actions, refused = UPLOADS[name]
    made = plan_upload(ALL, staged, {"house": listed}, "/i")
    assert [step.action for step in made.steps] == actions
    assert bool(made.refusals) == bool(refused)
    assert refused in " ".join(one.reason for one in made.refusals)


SWITCHES: dict[str, tuple[dict[str, Unit], dict[str, Unit], list[str], str]] = {
    "all run": ({"a": ON, "b": ON}, {}, ["record", "stop", "stop"], ""),
    "a run was killed after its note": ({"a": ON, "b": ON}, {"a": ON, "b": ON}, ["stop", "stop"], ""),
    "a run was killed after the first stop": ({"a": OFF, "b": ON}, {"a": ON, "b": ON}, ["stop"], ""),
    "all is done": ({"a": OFF}, {"a": ON}, [], ""),
    "one more is named": ({"a": OFF, "b": ON}, {"a": ON}, ["record", "stop"], ""),
    "one is not there": ({"a": ON, "b": NONE}, {}, ["record", "stop"], "This machine has no service b."),
    "it does not run, and would at the next start": ({"a": Unit(False, True)}, {}, ["record", "stop"], ""),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_is_planned(name: str) -> None:
    units, record, actions, refused = SWITCHES[name]
    made = plan_switch(units, record)
    assert [step.action for step in made.steps] == actions
    assert refused in " ".join(one.reason for one in made.refusals) and bool(refused) == bool(made.refusals)
    for step in made.steps:
        if step.action == "record":
            assert {**step.data, **record} == step.data, "what was written down before is never changed"


RETURNS: dict[str, tuple[dict[str, Unit], dict[str, Unit], list[str], str]] = {
    "there was no switch": ({}, {}, [], ""),
    "they ran": ({"a": OFF}, {"a": ON}, ["enable", "start", "forget"], ""),
    "a run was killed after the first step": ({"a": Unit(False, True)}, {"a": ON}, ["start", "forget"], ""),
    "a run was killed before it forgot": ({"a": ON}, {"a": ON}, ["forget"], ""),
    "it was off before": ({"a": OFF}, {"a": OFF}, ["forget"], ""),
    "it was started by hand, and not by the machine": ({"a": OFF}, {"a": Unit(True, False)}, ["start", "forget"], ""),
    "it was removed since": (
        {"a": NONE},
        {"a": ON},
        ["enable", "start", "forget"],
        "The service a, which ran before the switch, is not installed",
    ),
}


@pytest.mark.parametrize("name", RETURNS)
def test_the_way_back_is_planned(name: str) -> None:
    units, record, actions, refused = RETURNS[name]
    made = plan_return(units, record)
    assert [step.action for step in made.steps] == actions
    assert refused in " ".join(one.reason for one in made.refusals) and bool(refused) == bool(made.refusals)


# --- the manifest -----------------------------------------------------------------------------------------------------------------
def test_a_manifest_is_read_as_it_was_written() -> None:
    read = model.parse_manifest(json.dumps(ALL.as_data()), "/e/m")
    assert read.as_data() == ALL.as_data()
    assert [one.name for one in read.entries] == ["q.gguf", "p.md"]
    assert [one.collection for one in read.entries] == ["", "house"]


@pytest.mark.parametrize(
    "place",
    [
        "models/../etc/passwd",
        "models/a/b",
        "models/.hidden",
        "documents/house/../../x",
        "documents/House/p.md",
        "documents/house/",
        "documents/house/a\nb.md",
        'documents/house/a"b.md',
        "/models/q.gguf",
        "",
    ],
)
def test_a_manifest_that_leads_elsewhere_is_refused(place: str) -> None:
    data = ALL.as_data()
    for kind in (MODEL, DOCUMENT):
        data["files"] = [{"kind": kind, "place": place, "size": 1, "sha256": A}]
        with pytest.raises(StackError, match="which no export has"):
            model.parse_manifest(json.dumps(data), "/e/m")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "files": 3}', "null", '{"format": 1, "files": [{}]}'])
def test_what_is_no_manifest_is_told(text: str) -> None:
    with pytest.raises(StackError, match="/e/m is no manifest of an export"):
        model.parse_manifest(text, "/e/m")


def test_a_manifest_with_a_file_twice_or_a_wrong_checksum_is_refused() -> None:
    data = ALL.as_data()
    with pytest.raises(StackError, match="names a file twice"):
        model.parse_manifest(json.dumps({**data, "files": data["files"] * 2}), "/e/m")
    with pytest.raises(StackError, match="which no export has"):
        model.parse_manifest(json.dumps({**data, "files": [{**data["files"][0], "sha256": "short"}]}), "/e/m")


def test_kinds_of_documents_are_those_the_chat_service_reads() -> None:
    chat = Path(__file__).resolve().parents[3] / "roles" / "llm_services" / "files" / "chat" / "rag_chat_api"
    (line,) = re.findall(r"^KINDS = (\{.*\})$", (chat / "parse.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(json.loads(line)) == set(model.KINDS)
    assert f'NAME = r"{model.COLLECTION.pattern}"' in (chat / "store.py").read_text(encoding="utf-8")
