# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A move with the real ones at both ends: a database that Chroma made and is at work on, and the chat service with its own Chroma."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._migrate.stages import STAGES
from places import CHROMA, Api

# What a program with LangChain leaves, and what another chat service of this collection does; an entry without a text stays behind.
MAKE = """
import sys, chromadb
client = chromadb.PersistentClient(sys.argv[1])
manuals = client.get_or_create_collection("Lang.Chain_1", embedding_function=None)
texts = [f"Passage {number}: the spare key of room {number} hangs on hook {number + 40}." for number in range(120)]
about = [{"source": f"/srv/docs/{number // 40}.pdf", "page": number} for number in range(120)]
vectors = [[1.0, float(number)] for number in range(120)]
manuals.add(ids=[str(number) for number in range(120)], documents=texts, embeddings=vectors, metadatas=about)
manuals.add(ids=["image"], embeddings=[[0.0, 1.0]], metadatas=[{"source": "picture.png"}])
manuals.update(ids=["7"], documents=["Passage 7: the spare key of room 7 was lost."], embeddings=[[1.0, 7.0]])
manuals.delete(ids=["8"])
ours = client.get_or_create_collection("llm-house", embedding_function=None, metadata={"embeddings": "other"})
ours.add(ids=["a:0"], documents=["Gr\\u00fc\\u00dfe"], embeddings=[[1.0]], metadatas=[{"document": "a", "name": "keys.md", "passage": 0}])
print("made", flush=True)
sys.stdin.read()
"""


def stage(state: str, **options: Any) -> dict[str, Any]:
    """Carry a stage out."""
    usual: dict[str, Any] = {"models": [], "documents": [], "chroma": [], "manifest": None}
    made = STAGES[state]({**usual, **options}, rehearsal=False)
    plan = made.plan()
    plan.raise_if_refused()
    plan.carry_out(made.do)
    report = made.report()
    made.lock.close()
    return {**report, "steps": len(plan.steps)}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "chroma"


def test_passages_of_a_real_chroma_come_into_the_chat_service_and_are_found(api: Api, database: Path, tmp_path: Path) -> None:
    argv = [str(CHROMA.with_name("python")), "-c", MAKE, str(database)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdin and writer.stdout
        assert writer.stdout.readline() == "made\n"
        before = hashlib.sha256((database / "chroma.sqlite3").read_bytes()).hexdigest()
        # It is still open there: an old machine's services need not end for a rehearsal.
        told = stage("exported", path=str(tmp_path / "export"), chroma=[{"path": str(database), "collections": {"llm-house": "moved"}}])
        assert hashlib.sha256((database / "chroma.sqlite3").read_bytes()).hexdigest() == before, "the old database is only read"
        writer.stdin.close()
    assert told["manifest"]["passages"] == {"lang-chain-1": 119, "moved": 1}
    assert told["manifest"]["left_out"] == [f"1 entries of the collection Lang.Chain_1 in {database} have no text."]
    assert sum(one["place"].startswith("documents/lang-chain-1/") for one in told["manifest"]["files"]) == 3

    options = {"path": str(tmp_path / "export"), "url": api.url, "key": "unused behind the edge", "timeout": 120.0}
    report = stage("uploaded", **options)
    assert report["documents"] == {"lang-chain-1": {"moved": 3, "there": 3}, "moved": {"moved": 1, "there": 1}}
    assert stage("uploaded", **options)["steps"] == 0
    found = api.client.get("/api/collections/lang-chain-1/search", params={"q": "Where is the spare key?", "k": 3}).json()
    assert len(found["sources"]) == 3 and all("spare key of room" in one["text"] for one in found["sources"])
    texts = [path.read_text() for path in sorted((tmp_path / "export" / "documents" / "lang-chain-1").iterdir())]
    whole = "".join(texts)
    assert "room 7 was lost" in whole and "Passage 8:" not in whole
    assert api.client.get("/api/documents", params={"collection": "moved"}).json()["documents"][0]["name"].startswith("keys.md-")
