# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the widget counts as one of the answers of the day."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from flask.testing import FlaskClient
from places import NUMBERED, Processes
from ports import free_port
from rag_chat_api.app import create_app
from rag_chat_api.settings import Settings


@pytest.fixture(scope="module")
def engine(processes: Processes) -> str:
    """An engine that refuses on demand; its address."""
    port = free_port()
    processes.start(f"engine-{port}", [sys.executable, str(NUMBERED), str(port)], port)
    return f"http://127.0.0.1:{port}"


def site(engine: str, **settings: Any) -> FlaskClient:
    """A client of a chat service whose widget gives one answer a day."""
    usual = {"llm_url": engine, "widget_domains": ("www.example.org",), "widget_daily": 1}
    return create_app(Settings(**{**usual, **settings})).test_client()


def ask(client: FlaskClient, message: str) -> tuple[int, str]:
    """Ask as a visitor; the status and everything that was sent."""
    got = client.post("/widget/chat", json={"message": message}, headers={"Origin": "https://www.example.org"})
    told = got.status_code, got.text
    got.close()
    return told


def test_refusals_use_up_no_answers(engine: str) -> None:
    client = site(engine)
    assert [ask(client, 'standin {"refuse": 503}')[0] for _question in range(3)] == [503] * 3
    assert [ask(client, "standin {}")[0] for _question in range(2)] == [200, 429]


def test_a_document_store_that_is_away_uses_up_no_answers(engine: str) -> None:
    client = site(engine, widget_collection="faq", chroma_url="http://127.0.0.1:9")
    assert [ask(client, "standin {}")[0] for _question in range(3)] == [503] * 3


def test_a_stream_that_ends_in_an_error_before_its_first_token_uses_up_no_answer(engine: str) -> None:
    # The first heartbeat makes a stream of what is lost half a second later.
    client, question = site(engine, heartbeat_s=0.1, patience_s=-1), 'standin {"once": true, "lost_s": 0.5}'
    status, sent = ask(client, question)
    assert status == 200
    assert "engine_lost" in sent and "token" not in sent
    status, sent = ask(client, question)
    assert status == 200 and "event: done" in sent
    # One that lost its engine in the middle was one.
    client = site(engine, continue_cut=False)
    status, sent = ask(client, 'standin {"cuts": [3]}')
    assert status == 200 and "event: token" in sent and "stream_cut" in sent
    assert ask(client, "standin {}")[0] == 429
