# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Moves, carried out: real files, a real SQLite as Chroma makes it, a chat service that a test can upset, kills, and two runs at once."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import BadInput, StackError, StepFailed
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._migrate import files, upload
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._migrate.model import MANIFEST
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._migrate.stages import STAGES, Stage
from ansible_collections.selfhosted.llm_stack.plugins.modules.stack_migration import arguments

KEY = "lab-only-migration-key"
SCHEMA = """
CREATE TABLE collections (id TEXT PRIMARY KEY, name TEXT NOT NULL, dimension INTEGER, database_id TEXT NOT NULL);
CREATE TABLE segments (id TEXT PRIMARY KEY, type TEXT NOT NULL, scope TEXT NOT NULL, collection TEXT NOT NULL);
CREATE TABLE embeddings (id INTEGER PRIMARY KEY, segment_id TEXT NOT NULL, embedding_id TEXT NOT NULL, seq_id BLOB NOT NULL);
CREATE TABLE embedding_metadata (id INTEGER, key TEXT NOT NULL, string_value TEXT, int_value INTEGER, float_value REAL, bool_value INTEGER,
                                 PRIMARY KEY (id, key));
"""


def chroma(folder: Path, collections: dict[str, list[dict[str, str]]]) -> Path:
    """A Chroma database in the form of chromadb 1.5, without vectors; tests/services tries one that Chroma itself made."""
    folder.mkdir(parents=True)
    # A connection is left open by its own context, which is a transaction.
    with ExitStack() as stack:
        database = stack.enter_context(closing(sqlite3.connect(folder / "chroma.sqlite3")))
        stack.enter_context(database)
        database.executescript(SCHEMA)
        number = 0
        for name, passages in collections.items():
            database.execute("INSERT INTO collections VALUES (?, ?, 3, 'd')", (name, name))
            database.execute("INSERT INTO segments VALUES (?, 'sqlite', 'METADATA', ?)", (f"s-{name}", name))
            for about in passages:
                number += 1
                database.execute("INSERT INTO embeddings VALUES (?, ?, ?, x'00')", (number, f"s-{name}", str(number)))
                rows = [(number, key, value) for key, value in about.items()]
                database.executemany("INSERT INTO embedding_metadata (id, key, string_value) VALUES (?, ?, ?)", rows)
    return folder


def passage(text: str, source: str = "") -> dict[str, str]:
    return {"chroma:document": text, **({"source": source} if source else {})}


class Old:
    """An old machine, as folders."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "documents" / "deep").mkdir(parents=True)
        (home / "documents" / "keys.md").write_text("The key hangs on hook 7.")
        (home / "documents" / "deep" / "more.txt").write_text("More.")
        (home / "documents" / "table.xlsx").write_bytes(b"x")
        (home / "documents" / "empty.md").write_bytes(b"")
        (home / "tiny.gguf").write_bytes(b"weights" * 1000)
        blob = b"ollama's weights"
        self.digest = hashlib.sha256(blob).hexdigest()
        (home / "ollama" / "blobs").mkdir(parents=True)
        (home / "ollama" / "blobs" / f"sha256-{self.digest}").write_bytes(blob)
        manifest = home / "ollama" / "manifests" / "registry.ollama.ai" / "library" / "qwen3" / "8b"
        manifest.parent.mkdir(parents=True)
        layers = [("license", "0" * 64), ("model", self.digest)]
        told = [{"mediaType": f"application/vnd.ollama.image.{kind}", "digest": f"sha256:{digest}"} for kind, digest in layers]
        manifest.write_text(json.dumps({"layers": told}))
        self.chroma = chroma(
            home / "chroma",
            {"My.Docs": [passage("one", "/a/x.md"), passage("two", "/a/x.md"), passage("three"), passage(" \n", "/a/x.md")]},
        )
        self.options: dict[str, Any] = {
            "path": str(home / "export"),
            "models": [{"ollama": "qwen3:8b", "store": str(home / "ollama")}, {"file": str(home / "tiny.gguf")}],
            "documents": [{"collection": "house", "path": str(home / "documents")}],
            "chroma": [{"path": str(self.chroma), "collections": {}}],
        }

    @property
    def export(self) -> Path:
        return self.home / "export"

    def places(self) -> set[str]:
        found = (path for path in self.export.rglob("*") if path.is_file() and path.name != ".llm-migrate-lock")
        return {str(path.relative_to(self.export)) for path in found}


@pytest.fixture
def old(tmp_path: Path) -> Old:
    return Old(tmp_path / "old")


def stage(state: str, options: dict[str, Any], *, rehearsal: bool = False) -> Stage:
    defaults = {name: option.get("default") for name, option in arguments().items()}
    return STAGES[state]({**defaults, **options}, rehearsal=rehearsal)


def run(state: str, options: dict[str, Any], *, rehearsal: bool = False) -> tuple[list[str], dict[str, Any]]:
    """Run a stage as the module does; return its plan and its report."""
    made = stage(state, options, rehearsal=rehearsal)
    try:
        plan = made.plan()
        plan.raise_if_refused()
        if not rehearsal:
            plan.carry_out(made.do)
        return plan.sentences, made.report()
    finally:
        # The module's process ends here, and its lock with it.
        if made.lock:
            made.lock.close()


WHOLE = {
    MANIFEST,
    "models/qwen3-8b.gguf",
    "models/tiny.gguf",
    "documents/house/keys.md",
    "documents/house/deep_more.txt",
    "documents/my-docs/x.md-" + hashlib.sha256(b"/a/x.md").hexdigest()[:8] + ".txt",
    "documents/my-docs/passages-" + hashlib.sha256(b"").hexdigest()[:8] + ".txt",
}


# --- exports ----------------------------------------------------------------------------------------------------------------------
def test_an_export_has_all_and_says_what_it_has_not(old: Old) -> None:
    planned, foreseen = run("exported", old.options, rehearsal=True)
    assert not old.export.exists(), "a rehearsal changes nothing"
    done, report = run("exported", old.options)
    assert (done, report) == (planned, foreseen)
    assert old.places() == WHOLE
    told = json.loads((old.export / MANIFEST).read_text())
    assert told == report["manifest"]
    assert told["passages"] == {"my-docs": 3}
    assert [line.partition(" is ")[2] for line in told["left_out"][:2]] == [
        "empty.",
        "none of txt, text, md, markdown, html, htm, pdf, docx.",
    ]
    assert told["left_out"][2].startswith("1 entries of the collection My.Docs in ")
    assert old.export.stat().st_mode & 0o077 == 0
    assert all(hashlib.sha256((old.export / one["place"]).read_bytes()).hexdigest() == one["sha256"] for one in told["files"])
    assert run("exported", old.options)[0] == [], "the second run has nothing to do"


def test_texts_of_passages_are_whole_and_in_their_order(old: Old) -> None:
    run("exported", old.options)
    texts = {path.name[0]: path.read_text() for path in (old.export / "documents" / "my-docs").iterdir()}
    assert texts == {"x": "one\n\ntwo\n", "p": "three\n"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"models": [{"ollama": "qwen3:4b", "store": "STORE"}]}, "has no model qwen3:4b of one file"),
        ({"models": [{"ollama": "../../etc", "store": "STORE"}]}, "is no name of a model"),
        ({"models": [{"ollama": "qwen3:8b", "file": "/x", "store": "STORE"}]}, "exactly one of file"),
        ({"models": [{}]}, "exactly one of file"),
        ({"models": [{"file": "/nowhere/x.gguf"}]}, "/nowhere/x.gguf cannot be read: No such file"),
        ({"models": [{"file": "TINY", "name": "a b.gguf"}]}, "has characters other than"),
        ({"models": [{"file": "TINY", "name": "../x"}]}, "has characters other than"),
        ({"models": [{"file": "TINY"}, {"file": "TINY"}]}, "would both be models/tiny.gguf"),
        ({"documents": [{"collection": "House", "path": "/"}]}, "The collection 'House' cannot be"),
        ({"documents": [{"collection": "a", "path": "/nowhere"}]}, "/nowhere in documents is no folder"),
        ({"chroma": [{"path": "/nowhere", "collections": {}}]}, "There is no chroma.sqlite3 in /nowhere"),
        ({"chroma": [{"path": "CHROMA", "collections": {"none": "a"}}]}, "has no collection none. It has My.Docs."),
        ({"chroma": [{"path": "CHROMA", "collections": {"My.Docs": "A B"}}]}, "The collection 'A B' cannot be"),
        ({"chroma": [{"path": "CHROMA", "collections": {}}] * 2}, "have collections called my-docs"),
    ],
)
def test_what_cannot_be_exported_is_told_and_nothing_is_written(old: Old, change: dict[str, Any], words: str) -> None:
    text = json.dumps(change).replace("STORE", str(old.home / "ollama")).replace("TINY", str(old.home / "tiny.gguf"))
    with pytest.raises(StackError, match=words.replace(".", r"\.").replace("(", r"\(")):
        run("exported", {**old.options, **json.loads(text.replace("CHROMA", str(old.chroma)))})
    assert old.places() == set()


def test_a_damaged_blob_and_a_damaged_database_are_told(old: Old) -> None:
    (old.home / "ollama" / "blobs" / f"sha256-{old.digest}").write_bytes(b"other")
    with pytest.raises(StackError, match="is damaged: it should be"):
        run("exported", old.options)
    (old.chroma / "chroma.sqlite3").write_bytes(b"no database" * 1000)
    with pytest.raises(StackError, match="cannot be read: file is not a database"):
        run("exported", {**old.options, "models": []})


def test_a_file_that_changes_while_it_is_read_is_not_exported(old: Old, monkeypatch: pytest.MonkeyPatch) -> None:
    made = stage("exported", old.options)
    plan = made.plan()
    (old.home / "tiny.gguf").write_bytes(b"other weights")
    with pytest.raises(StepFailed, match="has changed while it was read. Stop what writes to it"):
        plan.carry_out(made.do)
    made.lock.close()
    assert old.places() == {"models/qwen3-8b.gguf"}, "what was done before it stays, and there is no manifest"
    run("exported", old.options)
    assert old.places() == WHOLE


@pytest.mark.parametrize("step", range(7))
def test_an_export_that_breaks_off_anywhere_is_taken_up(old: Old, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    made = stage("exported", old.options)
    steps = made.plan().steps
    assert len(steps) == 7
    for one in steps[:step]:
        made.do(one)
    made.lock.close()
    (old.export / "models").mkdir(exist_ok=True)
    (old.export / "models" / ".llm-migrate.half").write_bytes(b"half")
    assert (old.export / MANIFEST).exists() == (step == 7)
    planned, _report = run("exported", old.options)
    assert len(planned) == 7 - step
    assert old.places() == WHOLE, "and nothing that is half is left"


def test_two_exports_at_once_are_refused(old: Old) -> None:
    first = stage("exported", old.options)
    plan = first.plan()
    with pytest.raises(StackError, match="Another run is at work in"):
        run("exported", old.options)
    plan.carry_out(first.do)
    first.lock.close()
    assert run("exported", old.options)[0] == []


KILLED = """
import json, sys
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._migrate.stages import STAGES
stage = STAGES["exported"](json.load(sys.stdin), rehearsal=False)
plan = stage.plan()
print("planned", flush=True)
plan.carry_out(stage.do)
"""


def test_a_killed_process_leaves_its_place_to_the_next(old: Old) -> None:
    (old.home / "tiny.gguf").write_bytes(os.urandom(48 << 20))
    argv, environment = [sys.executable, "-c", KILLED], {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(old.options))
        process.stdin.close()
        assert process.stdout.readline() == "planned\n"
        process.send_signal(signal.SIGKILL)
    assert not (old.export / MANIFEST).exists()
    run("exported", old.options)
    assert old.places() == WHOLE


# --- imports ----------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def brought(old: Old, tmp_path: Path) -> dict[str, Any]:
    run("exported", old.options)
    (tmp_path / "store").mkdir()
    return {"path": str(old.export), "store": str(tmp_path / "store")}


def test_models_come_into_their_folder_and_are_told_as_the_role_wants_them(brought: dict[str, Any], old: Old) -> None:
    planned, foreseen = run("imported", brought, rehearsal=True)
    done, report = run("imported", brought)
    assert (done, report) == (planned, foreseen)
    store = Path(brought["store"])
    assert (store / "tiny.gguf").read_bytes() == (old.home / "tiny.gguf").read_bytes()
    assert report["models"][0] == {
        "name": "qwen3-8b",
        "file": "qwen3-8b.gguf",
        "src": f"{store}/qwen3-8b.gguf",
        "sha256": old.digest,
    }
    assert run("imported", brought)[0] == []


def test_a_model_in_the_way_is_never_overwritten(brought: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Path(brought["store"]) / "tiny.gguf"
    mine.write_bytes(b"mine")
    with pytest.raises(StackError, match="nothing is overwritten"):
        run("imported", brought)
    mine.unlink()
    made = stage("imported", brought)
    plan = made.plan()
    mine.write_bytes(b"mine, since a moment")
    with pytest.raises(StepFailed, match="has come into being meanwhile"):
        plan.carry_out(made.do)
    made.lock.close()
    assert mine.read_bytes() == b"mine, since a moment"


def test_a_model_on_another_file_system_is_copied(brought: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def across(source: Any, target: Any) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(18, "Invalid cross-device link")
        link(source, target)

    monkeypatch.setattr(files.os, "link", across)
    run("imported", brought)
    assert {path.name for path in Path(brought["store"]).iterdir()} == {"tiny.gguf", "qwen3-8b.gguf", ".llm-migrate-lock"}


def test_what_was_damaged_or_is_not_whole_is_not_imported(brought: dict[str, Any], old: Old) -> None:
    (old.export / "models" / "tiny.gguf").write_bytes(b"weights" * 999 + b"weighty")
    with pytest.raises(StackError, match="models/tiny.gguf is damaged"):
        run("imported", brought)
    (old.export / MANIFEST).unlink()
    with pytest.raises(StackError, match="so there is no whole export"):
        run("imported", brought)
    assert [path.name for path in Path(brought["store"]).glob("*.gguf")] == []


def test_a_rehearsal_of_all_stages_needs_nothing_to_be_there(old: Old, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    _planned, report = run("exported", old.options, rehearsal=True)
    options = {"path": str(tmp_path / "not-yet"), "store": str(tmp_path / "store"), "manifest": report["manifest"]}
    planned, _report = run("imported", options, rehearsal=True)
    assert planned == [f"Put {name} into {tmp_path}/store" for name in ("qwen3-8b.gguf", "tiny.gguf")]
    assert not (tmp_path / "not-yet").exists()
    with pytest.raises(StackError, match="so there is no whole export"):
        run("imported", options)


# --- uploads ----------------------------------------------------------------------------------------------------------------------
class Chat:
    """Stands in for the chat service: lists and takes documents, and does what a test wants it to do wrong."""

    def __init__(self) -> None:
        self.documents: dict[str, list[dict[str, Any]]] = {}
        self.wrong: list[Callable[[BaseHTTPRequestHandler], bool]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def do_POST(self) -> None:
                outer.answer(self)

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if self.wrong:
            # It is off the list before it answers: the asker may ask again at once.
            wrong = self.wrong.pop(0)
            if wrong(request):
                return
            self.wrong.insert(0, wrong)
        if request.headers["Authorization"] != f"Bearer {KEY}":
            self.say(request, 401, {"error": {"message": "no such key"}})
        elif request.command == "GET":
            name = request.path.rpartition("=")[2]
            found = self.documents.get(name)
            self.say(request, 404 if found is None else 200, {"documents": found or []})
        else:
            self.say(request, 201, self.take(request, body))

    def take(self, request: BaseHTTPRequestHandler, body: bytes) -> dict[str, Any]:
        whole = BytesParser().parsebytes(f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode() + body)
        parts = {str(part.get_param("name", header="content-disposition")): part for part in whole.get_payload()}  # type: ignore[union-attr]
        collection, content = (parts[name].get_payload(decode=True) for name in ("collection", "file"))
        assert isinstance(collection, bytes) and isinstance(content, bytes)
        document = {"id": str(time.monotonic_ns()), "name": parts["file"].get_filename(), "bytes": len(content)}
        self.documents.setdefault(collection.decode(), []).append(document)
        return document

    @staticmethod
    def say(request: BaseHTTPRequestHandler, status: int, told: dict[str, Any]) -> None:
        body = json.dumps(told).encode()
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Iterator[Chat]:
    monkeypatch.setattr(upload, "_PAUSE", 0.01)
    made = Chat()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def sent(brought: dict[str, Any], chat: Chat) -> dict[str, Any]:
    return {"path": brought["path"], "url": chat.url, "key": KEY, "timeout": 10.0}


def test_documents_are_uploaded_and_counted(sent: dict[str, Any], chat: Chat) -> None:
    planned, foreseen = run("uploaded", sent, rehearsal=True)
    assert chat.documents == {}
    assert foreseen["documents"] == {"house": {"moved": 2, "there": 0}, "my-docs": {"moved": 2, "there": 0}}
    done, report = run("uploaded", sent)
    assert done == planned
    assert report["documents"] == {"house": {"moved": 2, "there": 2}, "my-docs": {"moved": 2, "there": 2}}
    assert {(one["name"], one["bytes"]) for one in chat.documents["house"]} == {("keys.md", 24), ("deep_more.txt", 5)}
    assert run("uploaded", sent)[0] == []


def test_a_document_of_its_name_is_told_and_nothing_is_uploaded(sent: dict[str, Any], chat: Chat) -> None:
    chat.documents["house"] = [{"id": "7", "name": "keys.md", "bytes": 3}]
    with pytest.raises(StackError, match="The collection house has keys.md already"):
        run("uploaded", sent)
    assert chat.documents == {"house": [{"id": "7", "name": "keys.md", "bytes": 3}]}


def refuse(status: int, verb: str) -> Callable[[BaseHTTPRequestHandler], bool]:
    def act(request: BaseHTTPRequestHandler) -> bool:
        if request.command == verb:
            Chat.say(request, status, {"error": {"message": "as the test wants"}})
        return request.command == verb

    return act


def hang_up(request: BaseHTTPRequestHandler) -> bool:
    if request.command == "POST":
        request.close_connection = True
        request.connection.shutdown(2)
    return request.command == "POST"


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_is_asked_again(sent: dict[str, Any], chat: Chat, status: int) -> None:
    chat.wrong = [refuse(status, "GET"), refuse(status, "POST"), refuse(status, "POST")]
    run("uploaded", sent)
    assert sum(map(len, chat.documents.values())) == 4


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (refuse(422, "POST"), "does not take keys.md: it answered 422, as the test wants"),
        (refuse(500, "GET"), "does not list the collection house: it answered 500"),
        (hang_up, "gives no answer"),
    ],
)
def test_a_service_that_refuses_is_told_without_the_key_and_the_next_run_does_the_rest(
    sent: dict[str, Any], chat: Chat, wrong: Any, words: str
) -> None:
    chat.wrong = [wrong]
    with pytest.raises(StackError) as caught:
        run("uploaded", sent)
    assert words.replace("keys.md", "deep_more.txt") in str(caught.value) or words in str(caught.value)
    assert KEY not in str(caught.value)
    run("uploaded", sent)
    assert sum(map(len, chat.documents.values())) == 4


def test_a_wrong_key_and_a_service_that_is_away_are_told(sent: dict[str, Any], chat: Chat) -> None:
    with pytest.raises(StackError, match="it answered 401, no such key"):
        run("uploaded", {**sent, "key": "another"})
    with pytest.raises(StackError, match="gives no answer: .*refused"):
        run("uploaded", {**sent, "url": "http://127.0.0.1:9"})


def test_a_document_that_is_lost_after_its_upload_is_noticed_by_the_count(sent: dict[str, Any], chat: Chat) -> None:
    made = stage("uploaded", sent)
    made.plan().carry_out(made.do)
    made.lock.close()
    chat.documents["house"].pop()
    with pytest.raises(StackError, match="Not all documents of house are there once and whole"):
        made.report()


# --- the switch -------------------------------------------------------------------------------------------------------------------
SYSTEMCTL = """#!/usr/bin/env python3
import json, os, pathlib, sys
place = pathlib.Path(os.environ["SYSTEMCTL_STATE"])
state, words = json.loads(place.read_text()), [word for word in sys.argv[1:] if word != "--"]
name = words[-1]
if words[0] == os.environ.get("SYSTEMCTL_FAIL"):
    sys.exit("Failed, as the test wants.")
if words[0] == "show":
    active, enabled = state.get(name, [False, False])
    print(f"LoadState={'loaded' if name in state else 'not-found'}")
    print(f"ActiveState={'active' if active else 'inactive'}")
    print(f"UnitFileState={'enabled' if enabled else 'disabled' if name in state else ''}")
else:
    at, value = {"disable": (1, False), "enable": (1, True), "start": (0, True)}[words[0]]
    state[name][at] = value
    if "--now" in words:
        state[name][0] = value
    place.write_text(json.dumps(state))
"""


@pytest.fixture
def units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    from ansible_collections.selfhosted.llm_stack.plugins.module_utils import _run

    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "systemctl"
    program.write_text(SYSTEMCTL)
    program.chmod(0o755)
    monkeypatch.setattr(_run, "_PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    (tmp_path / "units").write_text(json.dumps({"ollama.service": [True, True], "chroma.service": [True, False]}))
    monkeypatch.setenv("SYSTEMCTL_STATE", str(tmp_path / "units"))
    return lambda: json.loads((tmp_path / "units").read_text())


BOTH = ["ollama.service", "chroma.service"]


def test_services_end_and_come_back_as_they_were(units: Callable[[], Any], tmp_path: Path) -> None:
    before, options = units(), {"services": BOTH, "record": str(tmp_path / "record.json")}
    planned, _report = run("switched", options, rehearsal=True)
    assert units() == before and not (tmp_path / "record.json").exists()
    done, report = run("switched", options)
    assert done == planned
    assert units() == {"ollama.service": [False, False], "chroma.service": [False, False]}
    assert report["services"]["chroma.service"] == {"active": True, "enabled": False}
    assert run("switched", options)[0] == []
    run("returned", options)
    assert units() == before
    assert run("returned", options)[0] == []


@pytest.mark.parametrize(("state", "fails"), [("switched", "disable"), ("returned", "enable"), ("returned", "start")])
def test_a_switch_and_a_return_that_break_off_are_taken_up(
    units: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, fails: str
) -> None:
    before, options = units(), {"services": BOTH, "record": str(tmp_path / "record.json")}
    if state == "returned":
        run("switched", options)
    monkeypatch.setenv("SYSTEMCTL_FAIL", fails)
    with pytest.raises(StepFailed, match="as the test wants"):
        run(state, options)
    monkeypatch.setenv("SYSTEMCTL_FAIL", "")
    run(state, options)
    run("returned", options)
    assert units() == before, "how they were was never forgotten"


def test_a_service_that_is_not_there_stops_none(units: Callable[[], Any], tmp_path: Path) -> None:
    before = units()
    with pytest.raises(StackError, match="This machine has no service olama"):
        run("switched", {"services": [*BOTH, "olama.service"], "record": str(tmp_path / "record.json")})
    assert units() == before and not (tmp_path / "record.json").exists()


def test_a_damaged_note_is_told(units: Callable[[], Any], tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("{")
    for state in ("switched", "returned"):
        with pytest.raises(StackError, match="which says how the services were, cannot be read"):
            run(state, {"services": BOTH, "record": str(tmp_path / "record.json")})
    assert units()["ollama.service"] == [True, True]


def test_bad_input_is_bad_input() -> None:
    with pytest.raises(BadInput, match="is no folder of this machine. Run the playbook storage first"):
        run("imported", {"path": "/nowhere", "store": "/nowhere"})
