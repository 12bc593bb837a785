# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The services' rules, as tables."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta, timezone
from typing import Any

import httpx
import pytest
from analytics.report import quantile, report
from analytics.settings import from_environment as analytics_settings
from places import CHAT
from rag_chat_api import parse
from rag_chat_api.engines import refusal
from rag_chat_api.partial import Partial, can_continue
from rag_chat_api.settings import Settings, from_environment
from rag_chat_api.split import PASSAGE, passages
from rag_chat_api.sse import lines, payloads
from rag_chat_api.usage import ERROR, PROMPT, Usage
from rag_chat_api.widget_cap import DailyCap, allowed

DOMAINS = ("shop.example.org", "*.example.net")


@pytest.mark.parametrize(
    ("origin", "wanted"),
    [
        ("https://shop.example.org", True),
        ("https://SHOP.example.org:8443", True),
        ("http://a.b.example.net", True),
        ("https://example.net", False),
        ("https://evil-example.net", False),
        ("https://shop.example.org.evil.com", False),
        ("https://evil.com/shop.example.org", False),
        ("https://shop.example.org@evil.com", False),
        ("file://shop.example.org", False),
        ("null", False),
        ("", False),
        ("https://[", False),
    ],
)
def test_only_listed_sites_may_use_the_widget(origin: str, wanted: bool) -> None:
    assert allowed(origin, DOMAINS) is wanted
    assert not allowed(origin, ())


def test_the_day_s_answers_are_counted_and_come_back_at_midnight() -> None:
    cap, evening = DailyCap(2), datetime(2026, 3, 1, 23, 59, 0, tzinfo=timezone.utc)
    assert [cap.take(evening) for _answer in range(4)] == [0, 0, 60, 60]
    assert cap.take(evening + timedelta(minutes=1)) == 0
    # What was not given is given to another; no more than that.
    for _answer in range(3):
        cap.give_back()
    assert [cap.take(evening + timedelta(minutes=1)) > 0 for _answer in range(3)] == [False, False, True]


@pytest.mark.parametrize("seed", range(20))
def test_passages_hold_the_whole_text_and_are_short(seed: int) -> None:
    chance = random.Random(seed)
    words = ["".join(chance.choices("abc", k=chance.choice((1, 5, 9, 2500)))) for _word in range(300)]
    text = "".join(word + chance.choice((" ", " ", ". ", "\n", "\n\n", "\r\n\r\n")) for word in words)
    made = passages(text)
    assert all(0 < len(passage) <= PASSAGE for passage in made)
    assert re.sub(r"\s", "", "".join(made)) == re.sub(r"\s", "", text)


def test_only_so_many_documents_are_read_at_a_time(monkeypatch: Any) -> None:
    lock, going, most = threading.Lock(), 0, 0

    def read(kind: str, content: bytes) -> str:
        nonlocal going, most
        with lock:
            going, most = going + 1, max(most, going + 1)
        time.sleep(0.1)
        with lock:
            going -= 1
        return kind

    monkeypatch.setattr(parse, "_read", read)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda number: parse.text_of(f"{number}.pdf", b""), range(8))) == ["pdf"] * 8
    assert most == parse.AT_ONCE
    # One that waits too long is told so, and the turn of one that failed is another's.
    monkeypatch.setattr(parse, "TURN_S", 0.05)
    with pytest.raises(parse.Busy, match="Other documents are being read"), ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: parse.text_of(f"{number}.pdf", b""), range(8)))
    monkeypatch.setattr(parse, "_read", lambda _kind, _content: 1 / 0)
    for _time in range(parse.AT_ONCE + 1):
        with pytest.raises(ZeroDivisionError):
            parse.text_of("a.pdf", b"")


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        ({}, True),
        ({"response_format": {"type": "text"}, "tools": [], "n": 1}, True),
        ({"tools": [{}]}, False),
        ({"response_format": {"type": "json_schema"}}, False),
        ({"format": "json"}, False),
        ({"n": 2}, False),
        ({"logprobs": True}, False),
    ],
)
def test_what_can_be_continued(request_: dict[str, Any], wanted: bool) -> None:
    assert can_continue(request_) is wanted


def test_a_role_or_an_empty_piece_is_no_token() -> None:
    partial = Partial()
    partial.take({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
    assert not partial.begun
    partial.take({"choices": [{"delta": {"content": "a"}}]})
    assert partial.begun
    assert partial.request({"messages": [{"role": "user", "content": "q"}], "max_tokens": 5}) == {
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        "max_tokens": 4,
    }


def ollama(reason: str | None = None, **delta: Any) -> dict[str, Any]:
    """A piece of Ollama, which says the role in every one."""
    return {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "", **delta}, "finish_reason": reason}]}


def called(index: int) -> dict[str, Any]:
    """A call of a tool."""
    return {"index": index, "id": f"call_{index}", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


def test_an_engine_that_says_its_role_in_every_piece_is_heard_and_its_role_shown_once() -> None:
    said = [{"reasoning": "I "}, {"reasoning": "look."}, {"tool_calls": [called(0)]}, {"tool_calls": [called(1)]}]
    partial = Partial()
    chunks = [partial.take(ollama(**delta)) for delta in said] + [partial.take(ollama("tool_calls"))]
    assert all(chunk.visible for chunk in chunks)
    shown = [chunk.body["choices"][0]["delta"] for chunk in chunks]
    assert shown == [{"role": "assistant", "content": "", **said[0]}, *({"content": "", **delta} for delta in said[1:]), {"content": ""}]


def test_only_what_was_said_is_hidden() -> None:
    partial = Partial()
    assert [partial.take(ollama()).visible for _piece in range(2)] == [True, False]
    # Each of several choices has a role of its own.
    other = {"choices": [{"index": 1, "delta": {"role": "assistant", "content": ""}}]}
    assert [partial.take(other).visible for _piece in range(2)] == [True, False]
    partial.take(ollama(content="a"))
    partial.next_round()
    seen = [
        partial.take(ollama(**delta)) for delta in ({}, {"reasoning": "I"}, {"reasoning_content": "I"}, {"content": "b", "reasoning": "I"})
    ]
    assert [chunk.visible for chunk in seen] == [False, False, False, True]
    assert seen[-1].body["choices"][0]["delta"] == {"content": "b"}
    for delta in ({"tool_calls": [called(0)]}, {"function_call": {"name": "weather", "arguments": "{}"}}):
        assert partial.take(ollama(**delta)).visible


def test_half_an_event_does_not_count() -> None:
    assert list(payloads(["data: one", "", ": comment", "data: two", "data: more", "", "data: half"])) == ["one", "two\nmore"]
    assert list(payloads(['error: {"code":500}', ""])) == ['{"code":500}']


def test_an_answer_that_the_client_began_is_gone_on_from_as_one_turn() -> None:
    partial = Partial()
    partial.take({"choices": [{"delta": {"content": " two"}}]})
    asked = {"messages": [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "One"}]}
    assert partial.request(asked)["messages"] == [asked["messages"][0], {"role": "assistant", "content": "One two"}]
    assert asked["messages"][1]["content"] == "One"
    parts = {"messages": [{"role": "assistant", "content": [{"type": "text", "text": "One"}]}]}
    assert [turn["role"] for turn in partial.request(parts)["messages"]] == ["assistant", "assistant"]


def test_only_a_line_feed_ends_a_line_and_pieces_may_end_anywhere() -> None:
    text = 'data: {"a": "\u2028 \u0085 \x0b ü"}\r\n\ndata: half'
    raw = text.encode()
    for size in (1, 3, len(raw)):
        made = list(lines(raw[at : at + size] for at in range(0, len(raw), size)))
        assert made == ['data: {"a": "\u2028 \u0085 \x0b ü"}', ""]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"error": {"message": "in OpenAI words", "type": "x", "code": 1}}', "in OpenAI words"),
        (b'{"error": "in the words of Ollama"}', "in the words of Ollama"),
        (b"<html>a proxy</html>", "<html>a proxy</html>"),
        (b"", "The engine answered with status 503."),
    ],
)
def test_a_refusal_is_passed_on_in_its_words(raw: bytes, message: str) -> None:
    failed = refusal(503, raw)
    assert (failed.message, failed.retry_after) == (message, 5)
    assert refusal(503, raw, "7").retry_after == 7
    assert refusal(400, raw).retry_after == 0


def test_settings_come_from_the_environment_and_secrets_from_files(tmp_path: Any) -> None:
    (tmp_path / "token").write_text("hush\n")
    (tmp_path / "url").write_text("postgresql://llm:hidden@db/llm\n")
    made = from_environment({"CONTINUE_CUT_STREAMS": "0", "WIDGET_DOMAINS": "A.org,", "ANALYTICS_TOKEN_FILE": str(tmp_path / "token")})
    assert (made.continue_cut, made.widget_domains, made.analytics_token) == (False, ("a.org",), "hush")
    assert analytics_settings({"DATABASE_URL_FILE": str(tmp_path / "url")}).database == "postgresql+psycopg://llm:hidden@db/llm"


@pytest.mark.parametrize("status", [413, 422])
def test_a_record_that_is_refused_does_not_hold_up_the_others(status: int) -> None:
    taken: list[str] = []

    def analytics(request: httpx.Request) -> httpx.Response:
        ids = [row["id"] for row in json.loads(request.content)]
        if "bad" in ids:
            return httpx.Response(status)
        taken.extend(ids)
        return httpx.Response(204)

    usage = Usage(Settings())
    for number in range(40):
        usage._hold({"id": "bad" if number == 17 else str(number)})
    with httpx.Client(base_url="http://analytics", transport=httpx.MockTransport(analytics)) as client:
        tries = 0
        while usage.held and tries < 40:
            usage._send(client)
            tries += 1
    assert taken == [str(number) for number in range(40) if number != 17]
    assert usage.metrics.dropped._value.get() == 1


def test_analytics_that_are_away_lose_no_record() -> None:
    usage = Usage(Settings())
    usage._hold({"id": "one"})
    with httpx.Client(base_url="http://analytics", transport=httpx.MockTransport(lambda _request: httpx.Response(500))) as client:
        assert usage._send(client) is False
    assert [row["id"] for row in usage.held] == ["one"]


def test_what_is_told_can_be_sent_and_kept() -> None:
    usage = Usage(Settings(analytics_url="http://127.0.0.1:9", log_prompts=True))
    record = usage.begin("team", "m", "/api/chat", "\ud83d" + "x" * 20_000)
    usage.end(record, 502, "e" * 500)
    (row,) = usage.held
    assert (row["prompt"][:2], len(row["prompt"]), len(row["error"])) == ("?x", PROMPT, ERROR)
    httpx.Request("POST", "http://analytics", json=[row])
    assert Usage(Settings()).begin("team", "m", "/api/chat", "hush").prompt == ""


def test_days_without_a_request_are_shown_and_a_client_that_left_is_no_error() -> None:
    today = date(2026, 3, 3)
    noon = datetime(2026, 3, 2, 12, tzinfo=timezone.utc).timestamp()
    usual = {"at": noon, "key": "k", "model": "m", "prompt_tokens": 1, "completion_tokens": 2, "continued": 0, "error": "", "seconds": 4.0}
    rows = [{**usual, "status": status, "first_token_s": first} for status, first in ((200, 1.0), (200, 3.0), (499, None), (502, None))]
    made = report([*rows, {**rows[0], "at": 0.0}], today, 3)
    assert [made.by_day[day].requests for day in made.days] == [0, 4, 0]
    assert (made.total.errors, made.errors, made.total.completion_tokens) == (1, {"502": 1}, 8)
    assert (quantile(made.total.first, 0.5), quantile([], 0.5)) == (3.0, None)


def test_the_image_holds_what_it_starts() -> None:
    text = (CHAT / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (\S+) ", text, re.MULTILINE)
    assert copied == ["requirements.txt", "rag_chat_api", "analytics"]
    assert all((CHAT / name).exists() for name in copied)
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert "--require-hashes" in text
    lock = (CHAT / "requirements.txt").read_text()
    assert lock.count("==") > 50
    assert all("--hash=sha256:" in entry for entry in re.split(r"\n(?=\S)", lock) if "==" in entry.splitlines()[0])
