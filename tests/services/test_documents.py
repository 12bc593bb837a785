# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documents: found by meaning, kept apart, really deleted; files that are broken, hostile or too large are refused."""

from __future__ import annotations

import io
import json
import signal
import socket
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable

import httpx
import numpy as np
import pytest
from corpus import QUESTIONS, passages, words
from places import CHROMA, Api, Processes
from ports import free_port
from rag_chat_api import store as store_module
from rag_chat_api.embed import Lazily
from rag_chat_api.store import Away, Conflict, Store, new_document
from rank_bm25 import BM25Okapi

RECORD = Path(__file__).resolve().parents[2] / "build" / "recall.json"


def upload(api: Api, collection: str, name: str, content: bytes | str) -> Any:
    """Upload a file."""
    return api.client.post("/api/documents", data={"collection": collection}, files={"file": (name, content)})


def found(api: Api, collection: str, question: str, count: int = 5) -> list[dict[str, Any]]:
    """Passages found for a question."""
    got = api.client.get(f"/api/collections/{collection}/search", params={"q": question, "k": count})
    assert got.status_code == 200, got.text
    sources: list[dict[str, Any]] = got.json()["sources"]
    return sources


def test_passages_are_found_by_meaning_better_than_by_words(api: Api) -> None:
    corpus = passages()
    titles = {passage.name: set(words(passage.title.replace("_", " "))) for passage in corpus}
    assert len(corpus) >= 200
    assert len(QUESTIONS) >= 40
    for question, names in QUESTIONS:
        assert not [name for name in names if titles.get(name, set()) & set(words(question))], f"{question} shares a word with its title"
    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(lambda one: upload(api, "recall", f"{one.name}.txt", one.text).status_code, corpus))
    assert set(statuses) == {201}
    ranking = BM25Okapi([words(passage.text) for passage in corpus])
    ours = words_only = 0
    for question, names in QUESTIONS:
        ours += bool({source["name"].removesuffix(".txt") for source in found(api, "recall", question)} & set(names))
        scores = ranking.get_scores(words(question))
        best = sorted(range(len(corpus)), key=lambda at: -scores[at])[:5]
        words_only += bool({corpus[at].name for at in best} & set(names))
    recall = {
        "passages": len(corpus),
        "questions": len(QUESTIONS),
        "recall@5": ours / len(QUESTIONS),
        "bm25@5": words_only / len(QUESTIONS),
    }
    RECORD.write_text(json.dumps(recall) + "\n")
    print(recall)
    assert ours > words_only
    assert ours / len(QUESTIONS) >= 0.7


def test_two_collections_do_not_leak_and_deletion_deletes(api: Api, processes: Processes) -> None:
    secret = "The vault's code word is heliotrope-4711."
    first = upload(api, "alpha", "secret.txt", secret).json()
    upload(api, "beta", "harmless.txt", "Bananas are yellow.")
    question = "What is the code word of the vault?"
    assert [source["document"] for source in found(api, "alpha", question)] == [first["id"]]
    assert not any("heliotrope" in source["text"] for source in found(api, "beta", question, 50))
    assert api.client.delete(f"/api/documents/{first['id']}", params={"collection": "beta"}).status_code == 404
    asked = api.client.post("/api/chat", json={"message": question, "collection": "beta"}).json()
    assert [source["name"] for source in asked["sources"]] == ["harmless.txt"]
    assert api.client.delete(f"/api/documents/{first['id']}", params={"collection": "alpha"}).json() == {"passages": 1}
    assert found(api, "alpha", question) == []
    assert api.client.get("/api/documents", params={"collection": "alpha"}).json() == {"documents": []}
    assert api.client.delete(f"/api/documents/{first['id']}", params={"collection": "alpha"}).status_code == 404


def test_a_deleted_collection_is_gone_and_its_name_is_free(api: Api) -> None:
    upload(api, "gone", "a.txt", "Something.")
    assert "gone" not in api.client.delete("/api/collections/gone").json()["collections"]
    assert api.client.get("/api/documents", params={"collection": "gone"}).status_code == 404
    assert api.client.post("/api/collections", json={"name": "gone"}).status_code == 201
    assert api.client.post("/api/collections", json={"name": "gone"}).status_code == 200
    assert found(api, "gone", "Something") == []


@pytest.mark.parametrize("name", ["2024", "true", "1e5"])
def test_a_collection_may_have_a_name_that_looks_like_a_number(api: Api, name: str) -> None:
    assert upload(api, name, "a.txt", "Something.").status_code == 201
    assert name in api.client.get("/api/collections").json()["collections"]


def test_the_passages_found_are_what_the_engine_is_given(api: Api) -> None:
    upload(api, "given", "printer.txt", "The printer is on the second floor.")
    answer = api.client.post("/api/chat", json={"message": "Where can I print? standin {}", "collection": "given"}).json()
    assert answer["sources"][0]["name"] == "printer.txt"
    assert answer["answer"].endswith("t10")
    assert api.client.post("/api/chat", json={"message": "x", "collection": "never-made"}).status_code == 404


def pdf(*lines: str, password: str = "") -> bytes:
    """A PDF with these lines."""
    from reportlab.lib.pdfencrypt import StandardEncryption
    from reportlab.pdfgen import canvas

    out = io.BytesIO()
    drawn = canvas.Canvas(out, encrypt=StandardEncryption(password) if password else None)
    for at, line in enumerate(lines):
        drawn.drawString(72, 760 - 20 * at, line)
    drawn.showPage()
    drawn.save()
    return out.getvalue()


def docx(*lines: str) -> bytes:
    """A Word document with these paragraphs and a table."""
    import docx as word

    document = word.Document()
    for line in lines:
        document.add_paragraph(line)
    document.add_table(1, 2).rows[0].cells[0].text = "in a table"
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("a.txt", "Grüße aus Köln".encode("cp1252"), "Grüße aus Köln"),
        ("b.TXT", "Grüße aus Köln".encode("utf-16"), "Grüße aus Köln"),
        ("c.md", "# Heading\n\nSome **bold** words.\n\n| a | b |\n|---|---|\n| 1 | 2 |", "Some bold words."),
        ("d.html", "<p>Seen</p><script>unseen()</script><style>x{}</style><table><tr><td>a<td>b</table>", "Seen"),
        ("e.pdf", pdf("The first line.", "The second line."), "The first line."),
        ("f.docx", docx("A paragraph."), "A paragraph."),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 6 else "",
)
def test_every_kind_is_read_by_its_library(api: Api, name: str, content: bytes | str, wanted: str) -> None:
    made = upload(api, "kinds", name, content)
    assert made.status_code == 201, made.text
    text = "".join(source["text"] for source in found(api, "kinds", wanted, 50) if source["document"] == made.json()["id"])
    assert wanted in text
    assert "unseen" not in text
    assert name != "f.docx" or "in a table" in text


def bomb(size: int) -> bytes:
    """A Word document whose text unpacks to ``size`` bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, zipfile.ZipFile(io.BytesIO(docx("x"))) as good:
        for part in good.infolist():
            if part.filename != "word/document.xml":
                archive.writestr(part, good.read(part))
        with archive.open("word/document.xml", "w") as inside:
            for _block in range(size // 1_000_000):
                inside.write(b" " * 1_000_000)
    return out.getvalue()


def entities() -> bytes:
    """A Word document whose text is the billion laughs."""
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, zipfile.ZipFile(io.BytesIO(docx("x"))) as good:
        for part in good.infolist():
            content = good.read(part)
            if part.filename == "word/document.xml":
                content = content.replace(b"<w:document", f'<!DOCTYPE d [<!ENTITY l0 "ha">{laughs}]>'.encode() + b"<w:document", 1)
                content = content.replace(b"<w:t>x</w:t>", b"<w:t>&l9;</w:t>")
            archive.writestr(part, content)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "status", "sentence"),
    [
        ("a.exe", b"MZ", 422, "'a.exe' is not a kind of document that can be read. Upload txt, md, html, pdf or docx."),
        ("noname", b"x", 422, "'noname' is not a kind of document"),
        ("big.txt", b"x" * (2 * 1024 * 1024 + 1), 413, "'big.txt' is larger than the 2 MiB that are taken. Split it."),
        ("binary.txt", b"\x00\x01" * 500, 422, "it is no text file."),
        ("empty.txt", b"  \n", 422, "'empty.txt' holds no text. If it is scanned"),
        ("broken.pdf", b"%PDF-1.7 nonsense", 422, "it is no PDF that can be read"),
        ("locked.pdf", pdf("x", password="secret"), 422, "it is protected by a password. Save it without."),
        ("broken.docx", b"PK\x03\x04 nonsense", 422, "it is no Word document that can be read"),
        ("bomb.docx", bomb(200_000_000), 422, "it unpacks to more than 100 MiB or 5000 parts. Save it as plain text."),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 12 else "",
)
def test_what_cannot_be_read_is_refused_with_the_reason(api: Api, name: str, content: bytes, status: int, sentence: str) -> None:
    got = upload(api, "refused", name, content)
    assert got.status_code == status, got.text
    assert sentence in got.json()["error"]["message"]
    assert "refused" not in api.client.get("/api/collections").json()["collections"], "a refused file left something behind"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("laughs.docx", entities()),
        ("deep.html", b"<div>" * 100_000),
        ("deep.md", b">" * 50_000),
        ("nested.md", b"[" * 20_000),
        ("stars.md", b"*a_ " * 5_000),
    ],
    ids=["laughs.docx", "deep.html", "deep.md", "nested.md", "stars.md"],
)
def test_hostile_files_take_no_more_than_their_share(api: Api, name: str, content: bytes) -> None:
    got = upload(api, "hostile-files", name, content)
    assert got.status_code in (201, 422), got.text
    assert api.client.get("/api/status").status_code == 200
    assert found_nothing_huge(api)


def found_nothing_huge(api: Api) -> bool:
    """Whether no hostile file became a great many passages."""
    if "hostile-files" not in api.client.get("/api/collections").json()["collections"]:
        return True
    listed = api.client.get("/api/documents", params={"collection": "hostile-files"}).json()["documents"]
    return all(one["passages"] < 2000 for one in listed)


def test_no_address_is_fetched_for_anybody(api: Api) -> None:
    for body in ({"url": "http://169.254.169.254/"}, {"file": "http://127.0.0.1/", "collection": "ssrf"}):
        assert api.client.post("/api/documents", data={"collection": "ssrf", **body}).status_code == 422
    html = '<p>text</p><img src="http://127.0.0.1:9/x"><link rel="stylesheet" href="file:///etc/passwd"><iframe src="file:///etc/passwd">'
    made = upload(api, "ssrf", "page.html", html)
    assert made.status_code == 201
    assert [source["text"] for source in found(api, "ssrf", "text")] == ["text"]


def test_embeddings_of_the_engines_are_used_by_choice_and_never_mixed(processes: Processes, balancer: str, chroma: str, api: Api) -> None:
    other = Api(processes, balancer, CHROMA_URL=chroma, EMBEDDINGS="ollama:tiny-embed")
    assert upload(other, "other-space", "a.txt", "Something.").status_code == 201
    assert found(other, "other-space", "Something.")[0]["text"] == "Something."
    got = api.client.get("/api/collections/other-space/search", params={"q": "x"})
    assert got.status_code == 409
    assert (
        "was made with ollama:tiny-embed, and all-MiniLM-L6-v2-int8 is in use. Delete it and upload anew." in got.json()["error"]["message"]
    )


def test_without_an_engine_that_embeds_a_question_ends_in_an_error_that_says_so(processes: Processes, balancer: str, chroma: str) -> None:
    settings = {"CHROMA_URL": chroma, "EMBEDDINGS": "ollama:tiny-embed"}
    assert upload(Api(processes, balancer, **settings), "no-engine", "a.txt", "Something.").status_code == 201
    lonely = Api(processes, "http://127.0.0.1:9", **settings)
    got = lonely.client.post("/api/chat", json={"message": "What?", "collection": "no-engine"})
    assert (got.status_code, got.headers["Retry-After"]) == (503, "5")
    assert "The engines could not embed with tiny-embed" in got.json()["error"]["message"]


def test_without_chroma_the_chat_goes_on_and_documents_say_so(processes: Processes, balancer: str) -> None:
    lonely = Api(processes, balancer, CHROMA_URL="http://127.0.0.1:9")
    assert lonely.client.post("/api/chat", json={"message": "Hello"}).status_code == 200
    got = lonely.client.get("/api/collections")
    assert (got.status_code, got.headers["Retry-After"]) == (503, "5")
    assert "The document store cannot be reached" in got.json()["error"]["message"]
    assert lonely.client.get("/api/status").json()["documents"] is False


class Interrupting:
    """An embedder that computes nothing, and does something before it takes the third batch of an upload."""

    name = "interrupting"

    def __init__(self) -> None:
        self.then: Callable[[], None] | None = None
        self.batches = 0

    def embed(self, texts: list[str]) -> Any:
        """One row for each text, the same for the same."""
        if self.then and len(texts) > 1:
            self.batches += 1
            if self.batches == 3:
                then, self.then, self.batches = self.then, None, 0
                then()
        return np.array([np.random.default_rng(zlib.crc32(text.encode())).random(16) for text in texts], dtype=np.float32)


TEXTS = [f"secret passage {number}" for number in range(900)]


def left(store: Store, name: str) -> int:
    """How many passages a collection holds, whoever they are of."""
    return store._collection(name).count()


def test_a_document_is_not_there_before_its_last_passage_is(chroma: str) -> None:
    embedder = Interrupting()
    store, replica = Store(chroma, embedder), Store(chroma, embedder)
    store.create("meanwhile")
    store.add("meanwhile", new_document("whole.txt", "txt", 1, 300), [f"harmless {number}" for number in range(300)])

    def look() -> None:
        assert left(store, "meanwhile") > 300
        assert [one.name for one in store.documents("meanwhile")] == ["whole.txt"]
        assert {source.name for source in store.search("meanwhile", TEXTS[250], 50)} == {"whole.txt"}
        # Another upload, in another replica, takes nothing from this one.
        replica.add("meanwhile", new_document("other.txt", "txt", 1, 1), ["other"])

    embedder.then = look
    store.add("meanwhile", new_document("secret.txt", "txt", 1, len(TEXTS)), TEXTS)
    assert embedder.then is None
    assert {one.name for one in store.documents("meanwhile")} == {"whole.txt", "other.txt", "secret.txt"}
    assert store.search("meanwhile", TEXTS[250], 1)[0].text == TEXTS[250]


def test_a_document_deleted_while_it_is_uploaded_is_gone(chroma: str) -> None:
    embedder = Interrupting()
    store = Store(chroma, embedder)
    store.create("deleted-meanwhile")
    document = new_document("secret.txt", "txt", 1, len(TEXTS))
    embedder.then = lambda: print(store.remove("deleted-meanwhile", document.id))
    with pytest.raises(Conflict, match="'secret.txt' was deleted while it was uploaded."):
        store.add("deleted-meanwhile", document, TEXTS)
    assert store.documents("deleted-meanwhile") == []
    assert store.search("deleted-meanwhile", TEXTS[0]) == []
    assert left(store, "deleted-meanwhile") == 0


def test_an_upload_that_loses_chroma_leaves_no_document(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    argv = [str(CHROMA), "run", "--path", str(processes.place / "lost"), "--host", "127.0.0.1", "--port", str(port)]
    lost = processes.start("chroma-that-is-lost", argv, port)
    embedder = Interrupting()
    monkeypatch.setattr(store_module, "AWAY_S", 0)
    store = Store(f"http://127.0.0.1:{port}", embedder)
    store.create("half")
    embedder.then = lambda: (lost.kill(), lost.wait(), None)[-1]
    with pytest.raises(Away):
        store.add("half", new_document("half.txt", "txt", 1, len(TEXTS)), TEXTS)
    processes.start("chroma-that-came-back", argv, port)
    assert store.documents("half") == []
    assert store.search("half", TEXTS[250]) == []
    assert left(store, "half") == 400
    document = new_document("half.txt", "txt", 1, len(TEXTS))
    store.add("half", document, TEXTS)
    assert store.documents("half") == [document]
    assert {source.document for source in store.search("half", TEXTS[250], 50)} == {document.id}
    # The rest goes once it is old enough to be no other replica's upload.
    monkeypatch.setattr(store_module, "ABANDONED_S", -60)
    store.add("half", new_document("next.txt", "txt", 1, 1), ["next"])
    assert left(store, "half") == len(TEXTS) + 1
    assert store.remove("half", document.id) == len(TEXTS)
    assert left(store, "half") == 1


def test_a_chroma_that_hangs_is_not_waited_for(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    argv = [str(CHROMA), "run", "--path", str(processes.place / "hangs"), "--host", "127.0.0.1", "--port", str(port)]
    stopped = processes.start("chroma-that-hangs", argv, port)
    monkeypatch.setattr(store_module, "PATIENCE", httpx.Timeout(1.0))
    known, new = (Store(f"http://127.0.0.1:{port}", Lazily("minilm", "")) for _store in range(2))
    assert known.collections() == []
    stopped.send_signal(signal.SIGSTOP)
    threads = Path(f"/proc/{stopped.pid}/task")
    while not all((thread / "stat").read_text().rpartition(") ")[2].startswith("T") for thread in threads.iterdir()):
        time.sleep(0.05)
    try:
        for store in (known, new):
            begun = time.monotonic()
            with pytest.raises(Away, match="The document store"):
                store.collections()
            assert time.monotonic() - begun < 10
    finally:
        stopped.send_signal(signal.SIGCONT)
    time.sleep(store_module.AWAY_S)
    assert known.collections() == []


def test_a_chroma_that_hangs_holds_up_nothing_else(processes: Processes, balancer: str) -> None:
    # The kernel takes the connections, and nobody answers.
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as silent:
        api = Api(processes, balancer, CHROMA_URL=f"http://127.0.0.1:{silent.getsockname()[1]}", THREADS=32)

        def look(path: str) -> float:
            begun = time.monotonic()
            got = api.client.get(path)
            assert (got.status_code, got.headers["Retry-After"]) == (503, "5")
            return time.monotonic() - begun

        for path in ("/api/collections", "/api/documents?collection=a"):
            with ThreadPoolExecutor(40) as pool:
                waiting = [pool.submit(look, path) for _request in range(40)]
                # What the swarm asks, for 5 s at most.
                assert httpx.get(f"http://127.0.0.1:{api.status}/api/status", timeout=5, trust_env=False).status_code == 200
                assert max(one.result() for one in waiting) < 3
        assert api.client.post("/api/chat", json={"message": "Hello"}).status_code == 200


def test_a_store_that_answers_nobody_is_not_asked_by_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    store, looked = Store("http://127.0.0.1:9", Interrupting()), 0

    def alive() -> bool:
        nonlocal looked
        looked += 1
        return False

    monkeypatch.setattr(store, "alive", alive)
    monkeypatch.setattr(store_module, "AWAY_S", 0.5)
    for _again in range(2):
        for _request in range(5):
            with pytest.raises(Away, match="it does not answer"):
                store.collections()
        time.sleep(0.5)
    assert looked == 2
