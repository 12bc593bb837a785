# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""More questions than there are threads: what is too much is refused at once, and the service is still seen to be well."""

from __future__ import annotations

import contextlib
import io
import socket
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import Request
from places import NUMBERED, Api, Processes
from ports import free_port
from rag_chat_api.app import create_app
from rag_chat_api.capacity import UPLOADS, limit_of
from rag_chat_api.settings import Settings

THREADS = 4
SLOW = {"messages": [{"role": "user", "content": "Count."}], "stream": True, "standin": {"tokens": 100_000, "token_s": 0.05}}
QUICK = {**SLOW, "stream": False, "standin": {"tokens": 3}}


@pytest.fixture(scope="module")
def small(processes: Processes) -> Api:
    """A chat service with few threads, before an engine that takes any number of questions."""
    port = free_port()
    processes.start(f"engine-{port}", [sys.executable, str(NUMBERED), str(port)], port)
    return Api(processes, f"http://127.0.0.1:{port}", THREADS=THREADS)


def ask(api: Api, body: dict[str, Any]) -> httpx.Response:
    """Ask on a connection of its own, and do not wait long."""
    return httpx.post(f"{api.url}/v1/chat/completions", json=body, timeout=10, trust_env=False)


@pytest.mark.parametrize(("threads", "limit"), [(1, 1), (2, 1), (4, 3), (128, 112), (960, 944)])
def test_some_threads_stay_free(threads: int, limit: int) -> None:
    assert limit_of(threads) == limit


def test_what_is_too_much_is_refused_at_once_and_the_service_stays_well(small: Api) -> None:
    with contextlib.ExitStack() as held:
        for _number in range(limit_of(THREADS)):
            got = held.enter_context(httpx.stream("POST", f"{small.url}/v1/chat/completions", json=SLOW, timeout=30, trust_env=False))
            assert got.status_code == 200
        begun = time.monotonic()
        for _number in range(3):
            refused = ask(small, QUICK)
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
            assert refused.json()["error"]["code"] == "overloaded"
        # What the swarm asks every 15 s, for 5 s at most; the third failure ends the service and every answer it has.
        for path in (f"http://127.0.0.1:{small.status}/api/status", f"{small.url}/static/page.css"):
            assert httpx.get(path, timeout=5, trust_env=False).status_code == 200
        assert time.monotonic() - begun < 5
    for _attempt in range(100):
        if ask(small, QUICK).status_code == 200:
            return
        time.sleep(0.1)
    pytest.fail("the places of those who left were not given to others")


def begun(api: Api) -> socket.socket:
    """An upload whose file never comes to its end."""
    made = socket.create_connection(("127.0.0.1", api.port), timeout=10)
    head = "POST /api/documents HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n"
    made.sendall(head.encode() + b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.pdf"\r\n\r\n' + b"x" * 100_000)
    return made


def told(api: Api, status: int) -> str:
    """What an upload that cannot be read is told, once it is answered with this status."""
    for _attempt in range(100):
        got = api.client.post("/api/documents", data={"collection": "a"}, files={"file": ("a.exe", b"MZ")})
        if got.status_code == status:
            assert status != 503 or got.headers["Retry-After"] == "5"
            return str(got.json()["error"]["message"])
        time.sleep(0.1)
    pytest.fail(f"no upload was answered with {status}")


def test_only_so_many_uploads_are_open_and_questions_go_on(processes: Processes) -> None:
    port = free_port()
    processes.start(f"engine-{port}", [sys.executable, str(NUMBERED), str(port)], port)
    api = Api(processes, f"http://127.0.0.1:{port}", THREADS=32)
    with contextlib.ExitStack() as held:
        for _number in range(UPLOADS):
            held.enter_context(begun(api))
        assert told(api, 503) == "Too many uploads are under way. Try again in a few seconds."
        assert ask(api, QUICK).status_code == 200
    # The places of those who left are given to others.
    assert "is not a kind of document" in told(api, 422)


def test_an_upload_that_finds_no_room_is_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full")
    monkeypatch.setattr(Request, "_get_file_stream", lambda *_about, **_more: full.open("r+b", buffering=0))
    form = {"collection": "a", "file": (io.BytesIO(b"x"), "a.txt")}
    got = create_app(Settings()).test_client().post("/api/documents", data=form)
    assert (got.status_code, got.headers["Retry-After"]) == (503, "5")
    assert got.json is not None and "There is no room for the upload now." in got.json["error"]["message"]
