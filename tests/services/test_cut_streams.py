# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Streams that lose their engine: the client sees one answer, every token once."""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import httpx
import pytest
from conftest import balanced
from places import NUMBERED, Api, Processes, events
from ports import free_port
from rag_chat_api import engines as engines_module
from rag_chat_api.engines import TRIES, Engines
from rag_chat_api.events import Failed, Quiet
from rag_chat_api.settings import Settings
from rag_chat_api.wire import Line

TOKENS = 30
WHOLE = "".join(f" t{number}" for number in range(1, TOKENS + 1))
WAYS = ("reset", "close", "half", "clean", "error")


def asked(number: int, **standin: Any) -> dict[str, Any]:
    """A request with an identity of its own."""
    return {
        "messages": [{"role": "user", "content": "Count."}],
        "stream": True,
        "standin": {"tokens": TOKENS, "number": number, **standin},
    }


def answered(api: Api, request: dict[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """The text a client of OpenAI's API puts together, and all events."""
    got = api.client.post("/v1/chat/completions", json=request)
    assert got.status_code == 200, got.text
    seen = events(got)
    chunks = [json.loads(data) for name, data in seen if not name and data != "[DONE]"]
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", []))
    return text, seen


def test_no_client_sees_that_120_streams_were_cut(api: Api) -> None:
    def one(number: int) -> tuple[str, list[tuple[str, str]]]:
        cuts = [1 + number % TOKENS] if number % 4 else [3, 9 + number % 20]
        return answered(api, asked(number, cuts=cuts, how=WAYS[number % len(WAYS)]))

    with ThreadPoolExecutor(12) as pool:
        seen = list(pool.map(one, range(120)))
    assert [text for text, _events in seen] == [WHOLE] * 120
    assert all(happened[-1] == ("", "[DONE]") for _text, happened in seen)
    for _text, happened in seen:
        chunks = [json.loads(data) for name, data in happened if not name and data != "[DONE]"]
        assert len({chunk["id"] for chunk in chunks}) == 1, "the answer changed its identity"
        assert sum("role" in choice["delta"] for chunk in chunks for choice in chunk["choices"]) == 1
        assert [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]].count("stop") == 1
    continued = sum(name == ":" and data.startswith("continued on engine") for _text, happened in seen for name, data in happened)
    assert continued >= 120, "not every stream was cut, so nothing was shown"


def test_an_engine_that_falls_silent_is_left(api: Api) -> None:
    text, seen = answered(api, asked(1000, cuts=[7], how="silent"))
    assert text == WHOLE
    assert any(data.startswith("continued") for name, data in seen if name == ":")


def test_an_engine_killed_with_its_streams_is_not_noticed(processes: Processes) -> None:
    ports = [free_port(), free_port()]
    killed, _kept = [processes.start(f"engine-{port}", [sys.executable, str(NUMBERED), str(port)], port) for port in ports]
    api = Api(processes, balanced(processes, ports), PATIENCE_S="20", HEARTBEAT_S="0.5")
    request = asked(1, token_s=0.1)
    begun = threading.Barrier(9)

    def one(number: int) -> str:
        text = ""
        with api.client.stream("POST", "/v1/chat/completions", json={**request, "user": str(number)}) as got:
            for line in got.iter_lines():
                if line.startswith("data: {"):
                    piece = json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
                    if not text and piece:
                        begun.wait(30)
                    text += piece
        return text

    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(one, number) for number in range(8)]
        begun.wait(30)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert [future.result() for future in waiting] == [WHOLE] * 8
    counted = httpx.get(f"http://127.0.0.1:{api.status}/metrics", trust_env=False).text
    assert "llm_chat_continued_total 0.0" not in counted, "no stream was on the engine that was killed"


def test_a_cut_before_the_first_token_is_asked_again(api: Api) -> None:
    text, seen = answered(api, asked(2000, cuts=[0], how="close"))
    assert text == WHOLE
    assert not any(data.startswith("continued") for name, data in seen if name == ":")
    whole = {**asked(2001, once=True), "stream": False}
    assert api.client.post("/v1/chat/completions", json=whole).json()["choices"][0]["message"]["content"] == WHOLE


def test_a_question_too_large_for_the_balancer_to_ask_again_is_asked_again(api: Api) -> None:
    large = {"messages": [{"role": "user", "content": "x" * 200_000}]}
    assert answered(api, {**asked(2100, once=True), **large})[0] == WHOLE
    whole = api.client.post("/v1/chat/completions", json={**asked(2101, once=True), **large, "stream": False})
    assert whole.status_code == 200, whole.text
    assert whole.json()["choices"][0]["message"]["content"] == WHOLE


def text_of(answer: tuple[dict[str, Any], str] | Failed) -> str:
    """The text of an answer in one piece."""
    assert not isinstance(answer, Failed), answer
    return str(answer[0]["choices"][0]["message"]["content"])


def test_an_answer_in_one_piece_is_asked_again_however_late_its_engine_is_lost(processes: Processes) -> None:
    port = free_port()
    processes.start(f"engine-{port}", [sys.executable, str(NUMBERED), str(port)], port)
    engines = Engines(Settings(llm_url=f"http://127.0.0.1:{port}", patience_s=0.5))
    assert text_of(engines.whole(asked(2200, once=True, lost_s=1), Line())) == WHOLE


def test_an_answer_in_one_piece_waits_for_a_balancer_that_is_away(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    # What reached no engine harmed none, so it uses up no try.
    monkeypatch.setattr(engines_module, "TRIES", 2)
    port = free_port()
    engines = Engines(Settings(llm_url=f"http://127.0.0.1:{port}", patience_s=30))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(engines.whole, asked(2300), Line())
        time.sleep(1)
        processes.start(f"engine-{port}", [sys.executable, str(NUMBERED), str(port)], port)
        assert text_of(waiting.result()) == WHOLE
    nowhere = Engines(Settings(llm_url=f"http://127.0.0.1:{free_port()}", patience_s=0.5))
    begun = time.monotonic()
    assert isinstance(nowhere.whole(asked(2301), Line()), Failed)
    assert time.monotonic() - begun < 5


class Losing(BaseHTTPRequestHandler):
    """A balancer that loses every engine it asks."""

    asked: ClassVar[list[str]] = []

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Tell that another engine was lost."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body["user"])
        self.send_response(504 if "slow" in body["user"] else 502)
        self.end_headers()


def test_a_question_that_ends_engines_does_not_go_through_them_all() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Losing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        engines = Engines(Settings(llm_url=f"http://127.0.0.1:{server.server_port}"))
        for kind, size in (("small", 10), ("small and slow", 10), ("large", 200_000)):
            request = {"messages": [{"role": "user", "content": "x" * size}]}
            whole = engines.whole({**request, "user": f"{kind}, whole"}, Line())
            *_before, streamed = engines.stream({**request, "user": f"{kind}, stream"})
            assert [(end.status, end.retry_after) for end in (whole, streamed) if isinstance(end, Failed)] == [(503, 5)] * 2
        server.shutdown()
    # The balancer itself asked several engines a question that it could ask again.
    wanted = {"small": 1, "small and slow": TRIES, "large": TRIES}
    assert Counter(Losing.asked) == {f"{kind}, {way}": times for kind, times in wanted.items() for way in ("whole", "stream")}


@pytest.mark.parametrize(
    "bound",
    [
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
        {"response_format": {"type": "json_object"}},
    ],
    ids=["tools", "structured"],
)
def test_what_cannot_be_continued_ends_in_an_error(api: Api, bound: dict[str, Any]) -> None:
    _text, seen = answered(api, {**asked(3000, cuts=[5]), **bound})
    error = json.loads(seen[-1][1])["error"]
    assert error["code"] == "stream_cut"
    assert "tool calls and structured output cannot be continued. Ask again." in error["message"]
    assert ("", "[DONE]") not in seen


def test_continuing_can_be_switched_off(processes: Processes, balancer: str) -> None:
    api = Api(processes, balancer, CONTINUE_CUT_STREAMS="0")
    text, seen = answered(api, asked(3100, cuts=[5]))
    assert text == " t1 t2 t3 t4 t5"
    assert "continuing on another engine is switched off" in json.loads(seen[-1][1])["error"]["message"]


def test_token_limits_and_counts_are_those_of_the_whole_answer(api: Api) -> None:
    request = {**asked(4000, cuts=[5, 9]), "max_tokens": 20, "stream_options": {"include_usage": True}}
    text, seen = answered(api, request)
    assert text == "".join(f" t{number}" for number in range(1, 21))
    usage = [json.loads(data)["usage"] for name, data in seen if not name and "usage" in data]
    assert usage == [{"prompt_tokens": 7, "completion_tokens": 20, "total_tokens": 27}]
    reached, seen = answered(api, {**asked(4001, cuts=[8]), "max_tokens": 8})
    assert reached == " t1 t2 t3 t4 t5 t6 t7 t8"
    assert json.loads(seen[-2][1])["choices"][0]["finish_reason"] == "length"


def test_reasoning_is_not_repeated(api: Api) -> None:
    _text, seen = answered(api, asked(5000, reasoning=4, cuts=[6]))
    thoughts = [data for name, data in seen if not name and "reasoning_content" in data]
    assert len(thoughts) == 4


def test_an_engine_that_says_its_role_in_every_piece_is_heard(api: Api) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    for number, more in ((5100, {}), (5101, {"tools": tools})):
        _text, seen = answered(api, {**asked(number, reasoning=4, roles=True), **more})
        deltas = [json.loads(data)["choices"][0]["delta"] for name, data in seen if not name and data != "[DONE]"]
        assert sum("reasoning_content" in delta for delta in deltas) == 4
        assert sum("tool_calls" in delta or bool(delta.get("content")) for delta in deltas) == TOKENS
        assert sum("role" in delta for delta in deltas) == 1
    text, seen = answered(api, asked(5102, roles=True, cuts=[6]))
    assert text == WHOLE


def test_a_token_may_hold_any_character(api: Api) -> None:
    said = ["one\u2028two", "three\u0085four", " 日本"]
    text, seen = answered(api, asked(5500, tokens=3, say=said))
    assert (text, seen[-1]) == ("".join(said), ("", "[DONE]"))


def test_a_refusal_keeps_its_status_and_words(api: Api) -> None:
    got = api.client.post("/v1/chat/completions", json=asked(6000, refuse=404))
    assert (got.status_code, got.json()["error"]["message"]) == (404, "refused as asked")


def test_without_engines_the_answer_is_503_and_says_when_to_come_back(processes: Processes) -> None:
    api = Api(processes, balanced(processes, [free_port()]))
    for stream in (True, False):
        got = api.client.post("/v1/chat/completions", json={**asked(1), "stream": stream})
        assert (got.status_code, got.headers["Retry-After"]) == (503, "5")
        assert "All engines are busy or away." in got.json()["error"]["message"]
    assert api.client.get("/api/status").json()["state"] == "away"


def test_a_quiet_stream_shows_that_it_lives(api: Api) -> None:
    _text, seen = answered(api, asked(7000, first_s=1.6))
    assert seen.count((":", "heartbeat")) >= 2
    got = api.client.post("/v1/chat/completions", json=asked(7001))
    assert got.headers["X-Accel-Buffering"] == "no"
    assert got.headers["Content-Type"].startswith("text/event-stream")


def test_a_client_that_leaves_frees_its_engine(processes: Processes) -> None:
    port = free_port()
    processes.start(f"engine-{port}", [sys.executable, str(NUMBERED), str(port)], port)
    api = Api(processes, balanced(processes, [port]))
    with api.client.stream("POST", "/v1/chat/completions", json=asked(1, tokens=100_000, token_s=0.02)) as got:
        next(got.iter_lines())
    for _attempt in range(300):
        text = httpx.get(f"http://127.0.0.1:{api.status}/metrics", trust_env=False).text
        if 'llm_chat_requests_total{route="/v1/chat/completions",status="499"} 1.0' in text and "llm_chat_open 0.0" in text:
            return
        time.sleep(0.1)
    pytest.fail("the stream still runs though its client left")


@pytest.mark.parametrize("answered", [b"", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"], ids=["before", "after the head"])
def test_a_client_that_leaves_before_the_first_token_is_hung_up_for(answered: bytes) -> None:
    # As a request that waits in the balancer's queue, which gives its place to others once the connection is gone.
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings = Settings(llm_url=f"http://127.0.0.1:{server.getsockname()[1]}", heartbeat_s=0.2)
        events_ = Engines(settings).stream({"messages": [{"role": "user", "content": "Count."}]})
        assert isinstance(next(events_), Quiet)
        waiting, _address = server.accept()
        with waiting:
            waiting.settimeout(10)
            assert waiting.recv(65_536).startswith(b"POST /v1/chat/completions")
            waiting.sendall(answered)
            events_.close()
            while waiting.recv(65_536):
                pass
        # And nobody else is asked.
        server.settimeout(1)
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_client_that_does_not_wait_for_an_answer_in_one_piece_is_hung_up_for(processes: Processes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        api = Api(processes, f"http://127.0.0.1:{server.getsockname()[1]}", HEARTBEAT_S="0.5")
        for path, body in (("/v1/chat/completions", {**asked(1), "stream": False}), ("/api/chat", {"message": "Count."})):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{api.url}{path}", json=body, timeout=1, trust_env=False)
            waiting, _address = server.accept()
            with waiting:
                waiting.settimeout(10)
                while waiting.recv(65_536):
                    pass
        told = f'llm_chat_requests_total{{route="{path}",status="499"}} 1.0'
        for _attempt in range(100):
            if told in httpx.get(f"http://127.0.0.1:{api.status}/metrics", trust_env=False).text:
                return
            time.sleep(0.1)
        pytest.fail("nobody says that the client left")


def test_the_page_s_api_says_what_happened(api: Api) -> None:
    told = json.dumps({"tokens": TOKENS, "cuts": [4], "n": 8000})
    got = api.client.post("/api/chat", json={"message": f"standin {told}", "stream": True})
    names = [name for name, _data in events(got)]
    assert "".join(json.loads(data)["text"] for name, data in events(got) if name == "token") == WHOLE
    assert names.index("notice") < names.index("continued") < names.index("done")
    told = json.dumps({"tokens": TOKENS, "cuts": [4], "n": 8001})
    whole = api.client.post("/api/chat", json={"message": f"standin {told}"}).json()
    assert (whole["answer"], whole["continued"]) == (WHOLE, 1)
