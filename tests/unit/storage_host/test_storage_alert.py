# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program that tells a person: every way is tried, and no address of it is told to the journal."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Iterator

import pytest
from programs import load

PROGRAM = Path(__file__).resolve().parents[3] / "roles" / "storage_host" / "files" / "storage-alert"


@pytest.fixture(scope="module")
def alert() -> ModuleType:
    return load(PROGRAM)


@pytest.fixture
def hook() -> Iterator[HTTPServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.server.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(self.server.answer)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.got, server.answer = [], 200
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_web_hook_gets_subject_and_text(alert: ModuleType, hook: HTTPServer) -> None:
    url = f"http://127.0.0.1:{hook.server_port}/secret-path"
    assert alert.send({"url": url, "email": ""}, "storage1: pool llm is DEGRADED", "state: DEGRADED") == []
    assert hook.got == [{"text": "storage1: pool llm is DEGRADED\nstate: DEGRADED"}]


def test_one_way_that_fails_does_not_keep_the_other_from_being_tried(
    alert: ModuleType, hook: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailed = []
    monkeypatch.setattr(alert, "mail", lambda *arguments: mailed.append(arguments))
    hook.answer = 403
    url = f"http://127.0.0.1:{hook.server_port}/secret-path"
    wrong = alert.send({"url": url, "email": "ops@example.org"}, "subject", "text")
    assert wrong == ["the alert could not be sent to the url in /etc/llm-stack/storage/alerts.json: HTTPError"]
    assert mailed == [("ops@example.org", "subject", "text")]


def test_a_missing_mail_program_is_told_without_the_address(alert: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(alert.subprocess, "run", missing)
    assert alert.send({"email": "ops@example.org"}, "s", "t") == [
        "the alert could not be sent to the email in /etc/llm-stack/storage/alerts.json: FileNotFoundError"
    ]
