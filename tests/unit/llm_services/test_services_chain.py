# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rendered configurations under real nginx and HAProxy, with Ollama's stand-in as the engine, on the loopback interface."""

from __future__ import annotations

import http.client
import json
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any, Iterator

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from loopback import AUTHORIZED, KEY, QUESTION, Chain, edge_files, program
from services import render

pytestmark = pytest.mark.one_core


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Engines whose answer takes a second and comes in five tokens."""
    made = Chain(
        tmp_path_factory.mktemp("chain"), environment={"STANDIN_TOKENS": "5", "STANDIN_TOKEN_S": "0.25", "OLLAMA_NUM_PARALLEL": "4"}
    )
    yield made
    made.end()


@pytest.mark.parametrize("engine", ["ollama", "llamacpp"])
@pytest.mark.parametrize("native", [0, 11434])
@pytest.mark.parametrize("chat", [False, True])
def test_nginx_accepts_the_edge_s_configuration(tmp_path: Path, engine: str, native: int, chat: bool) -> None:
    changes = {
        "llm_services_engine": engine,
        "llm_services_chat": {"enabled": chat},
        "llm_services_open_webui": {"enabled": chat},
        "llm_services_tls": {"domains": ["llm.test"] if native else []},
        "__llm_services_acme_thumbprint": "thumb",
        "__llm_services_keys_server": "127.0.0.1:8406",
    }
    path = edge_files(tmp_path, 18443, native, "127.0.0.1:8080", changes)
    ended = subprocess.run(
        [program("nginx", "nginx-light"), "-e", "stderr", "-t", "-q", "-c", str(path)], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ("api/(chat" in path.read_text()) == (engine == "ollama" and native > 0)
    assert ("acme-challenge" in path.read_text()) == (native > 0)
    assert ("listen 8443 ssl" in path.read_text()) == chat


@pytest.mark.parametrize("engine", ["ollama", "llamacpp"])
def test_haproxy_accepts_the_balancer_s_configuration(tmp_path: Path, engine: str) -> None:
    path = tmp_path / "haproxy.cfg"
    (tmp_path / "edge_keys").write_text(render("edge-keys.map.j2"))
    path.write_text(render("haproxy.cfg.j2", llm_services_engine=engine).replace("/run/secrets", str(tmp_path)))
    ended = subprocess.run([program("haproxy", "haproxy"), "-c", "-q", "-f", str(path)], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "server-template engine 16 tasks.llm_engine:" in path.read_text()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": KEY},
        {"Authorization": f"Bearer {KEY.upper()}"},
        {"Authorization": "Bearer "},
    ],
)
def test_without_the_key_nothing_is_answered(chain: Chain, headers: dict[str, str]) -> None:
    answer = chain.ask("GET", "/v1/models", headers=headers)
    assert answer.status == 401
    assert json.loads(answer.text)["error"]["code"] == "invalid_api_key"


def test_models_are_listed_and_the_engine_is_named(chain: Chain) -> None:
    answer = chain.ask("GET", "/v1/models", headers=AUTHORIZED)
    assert [model["id"] for model in json.loads(answer.text)["data"]] == ["tiny:latest"]
    assert answer.headers["X-LLM-Engine"].startswith("engine")


def test_an_unknown_model_is_the_engine_s_own_error(chain: Chain) -> None:
    answer = chain.ask("POST", "/v1/chat/completions", {**QUESTION, "model": "none"}, headers=AUTHORIZED)
    assert (answer.status, json.loads(answer.text)["error"]["message"]) == (404, "model 'none' not found")


def test_health_needs_no_key_and_what_is_not_the_api_is_not_there(chain: Chain) -> None:
    assert chain.ask("GET", "/health").status == 200
    assert chain.ask("GET", "/api/tags", headers=AUTHORIZED).status == 404
    assert chain.ask("GET", "/metrics").status == 404


def test_an_answer_streams_token_by_token(chain: Chain) -> None:
    answer = chain.open("POST", "/v1/chat/completions", {**QUESTION, "stream": True}, headers=AUTHORIZED)
    moments, text = [], ""
    for line in answer:
        if line.startswith(b"data: {"):
            moments.append(time.monotonic() - answer.begun)
            text += json.loads(line[6:])["choices"][0]["delta"]["content"]
    assert text == "token1 token2 token3 token4 token5 "
    assert moments[0] < 0.5, "the first token waited for later ones"
    assert moments[-1] - moments[0] > 0.5


def test_ollama_s_own_api_streams_and_its_models_cannot_be_changed(chain: Chain) -> None:
    answer = chain.ask("POST", "/api/chat", QUESTION, headers=AUTHORIZED, native=True)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["done"] for line in lines] == [False] * 5 + [True]
    assert chain.ask("POST", "/api/chat", QUESTION, native=True).status == 401
    for route in ("pull", "create", "delete", "push", "copy", "blobs/sha256:0"):
        assert chain.ask("POST", f"/api/{route}", {}, headers=AUTHORIZED, native=True).status == 403


def test_a_key_that_asks_too_often_is_told_so_and_the_others_go_on(tmp_path: Path) -> None:
    keys = [
        {"name": "team", "key": KEY, "requests_per_minute": 5},
        {"name": "free", "key": "a-key-without-limits", "requests_per_minute": 0},
    ]
    chain = Chain(tmp_path, engines=1, llm_services_api_keys=keys)
    try:
        answers = [chain.ask("GET", "/v1/models", headers=AUTHORIZED) for _number in range(8)]
        assert [answer.status for answer in answers] == [200] * 5 + [429] * 3
        assert answers[-1].headers["Retry-After"] == "10"
        assert json.loads(answers[-1].text)["error"]["code"] == "rate_limit_exceeded"
        assert chain.ask("GET", "/api/tags", headers=AUTHORIZED, native=True).status == 429
        free = {"Authorization": "Bearer a-key-without-limits"}
        assert {chain.ask("GET", "/v1/models", headers=free).status for _number in range(8)} == {200}
    finally:
        chain.end()


def test_a_body_of_100_kilobytes_arrives(chain: Chain) -> None:
    long = {**QUESTION, "messages": [{"role": "user", "content": "x" * 100_000}], "max_tokens": 1}
    assert chain.ask("POST", "/v1/chat/completions", long, headers=AUTHORIZED).status == 200


def connections(chain: Chain) -> dict[str, int]:
    """How many connections each door of the balancer has taken."""
    found = re.search(r"frontend metrics\s+bind 127\.0\.0\.1:(\d+)", (chain.place / "haproxy.cfg").read_text())
    assert found
    with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    counts = re.findall(r'^haproxy_frontend_connections_total\{proxy="(llm|keys)"\} (\d+)', text, re.MULTILINE)
    return {name: int(count) for name, count in counts}


@pytest.mark.parametrize("stream", [False, True])
def test_connections_to_the_balancer_are_kept(chain: Chain, stream: bool) -> None:
    def ask() -> int:
        return chain.ask("POST", "/v1/chat/completions", {**QUESTION, "stream": stream}, headers=AUTHORIZED).status

    assert ask() == 200
    before = connections(chain)
    assert {ask() for _number in range(5)} == {200}
    assert connections(chain) == before


def test_keys_and_prompts_are_not_logged(chain: Chain) -> None:
    def logged() -> str:
        return "".join(path.read_text() for path in chain.place.glob("*.log"))

    line = '"team" POST /v1/chat/completions 200'
    before, end = logged().count(line), time.monotonic() + 20
    chain.ask("POST", "/v1/chat/completions", {**QUESTION, "max_tokens": 1}, headers=AUTHORIZED)
    # It is written after the answer was sent.
    while logged().count(line) == before:
        assert time.monotonic() < end, logged()[-3000:]
        time.sleep(0.05)
    assert KEY not in logged()
    assert "Are you there?" not in logged()


def ask_in_threads(chain: Chain, count: int) -> list[Any]:
    answers: list[Any] = []

    def one() -> None:
        answers.append(chain.ask("POST", "/v1/chat/completions", QUESTION, headers=AUTHORIZED))

    threads = [threading.Thread(target=one) for _number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_the_engine_that_has_the_model_is_asked_and_any_other_when_it_is_lost(tmp_path: Path) -> None:
    chain = Chain(tmp_path, environment={"STANDIN_TOKENS": "1", "OLLAMA_NUM_PARALLEL": "8"}, engines=3, llm_services_parallel=8)
    try:
        load = urllib.request.Request(f"http://127.0.0.1:{chain.ports[1]}/api/generate", json.dumps({"model": "tiny"}).encode())
        urllib.request.urlopen(load, timeout=10).close()
        time.sleep(2)
        slow = {**QUESTION, "standin": {"tokens": 1, "first_token_s": 1.5}}
        asked = [chain.ask("POST", "/v1/chat/completions", QUESTION, headers=AUTHORIZED) for _number in range(6)]
        assert {answer.headers["X-LLM-Engine"].split()[0] for answer in asked} == {"engine2"}
        waiting: list[Any] = []
        thread = threading.Thread(target=lambda: waiting.append(chain.ask("POST", "/v1/chat/completions", slow, headers=AUTHORIZED)))
        thread.start()
        time.sleep(0.5)
        chain.engines[1].kill()
        thread.join()
        assert waiting[0].status == 200
        assert waiting[0].headers["X-LLM-Engine"].startswith("other")
        assert chain.ask("POST", "/v1/chat/completions", QUESTION, headers=AUTHORIZED).status == 200
    finally:
        chain.end()


def test_a_full_queue_says_so_at_once(tmp_path: Path) -> None:
    slow = {"STANDIN_FIRST_TOKEN_S": "2", "STANDIN_TOKENS": "1"}
    chain = Chain(tmp_path, environment=slow, engines=1, llm_services_parallel=1, llm_services_queue=2)
    try:
        answers = ask_in_threads(chain, 8)
        refused = [answer for answer in answers if answer.status == 503]
        assert {answer.status for answer in answers} == {200, 503}
        assert 3 <= len(refused) <= 6
        assert all(answer.headers["Retry-After"] == "5" for answer in refused)
        assert all(json.loads(answer.text)["error"]["code"] == "overloaded" for answer in refused)
    finally:
        chain.end()


def test_what_only_looks_does_not_wait_for_an_answer_under_way(tmp_path: Path) -> None:
    chain = Chain(tmp_path, environment={"STANDIN_FIRST_TOKEN_S": "6", "STANDIN_TOKENS": "1"}, engines=1, llm_services_parallel=1)
    try:
        under_way = threading.Thread(target=ask_in_threads, args=(chain, 1))
        under_way.start()
        time.sleep(1)
        looked = [chain.ask("GET", "/v1/models", headers=AUTHORIZED)]
        looked.append(chain.ask("GET", "/api/tags", headers=AUTHORIZED, native=True))
        looked.append(chain.ask("POST", "/api/show", {"model": "tiny"}, headers=AUTHORIZED, native=True))
        assert under_way.is_alive(), "a list of models waited until the only engine had answered"
        assert [answer.status for answer in looked] == [200, 200, 200]
        under_way.join()
    finally:
        chain.end()


def test_who_left_holds_no_place(tmp_path: Path) -> None:
    chain = Chain(tmp_path, environment={"STANDIN_FIRST_TOKEN_S": "6", "STANDIN_TOKENS": "1"}, engines=1, llm_services_queue=1)
    try:
        under_way = threading.Thread(target=ask_in_threads, args=(chain, 1))
        under_way.start()
        time.sleep(1)
        context = ssl.create_default_context(cafile=str(tmp_path / "tls.crt"))
        impatient = http.client.HTTPSConnection("localhost", chain.port, context=context, timeout=30)
        impatient.request("POST", "/v1/chat/completions", json.dumps(QUESTION), AUTHORIZED)
        time.sleep(0.5)
        # The queue is full of the one that leaves now.
        assert chain.ask("POST", "/v1/chat/completions", QUESTION, headers=AUTHORIZED).status == 503
        impatient.close()
        time.sleep(0.5)
        assert under_way.is_alive(), "the place was freed by the answer, so nothing was shown"
        assert chain.ask("POST", "/v1/chat/completions", QUESTION, headers=AUTHORIZED).status == 200
        under_way.join()
    finally:
        chain.end()


def test_an_engine_that_dies_or_hangs_is_left_out_and_all_gone_is_said(tmp_path: Path) -> None:
    chain = Chain(tmp_path, environment={"STANDIN_TOKENS": "1", "OLLAMA_NUM_PARALLEL": "8"}, llm_services_parallel=8)
    try:
        first = chain.engines[0]
        first.send_signal(signal.SIGSTOP)
        time.sleep(2.5)
        assert {answer.status for answer in ask_in_threads(chain, 10)} == {200}, "an engine that accepts and never answers was asked"
        first.send_signal(signal.SIGCONT)
        time.sleep(4)
        first.kill()
        assert {answer.status for answer in ask_in_threads(chain, 20)} == {200}, "a request failed though an engine was alive"
        chain.engines[1].kill()
        time.sleep(2.5)
        gone = chain.ask("POST", "/v1/chat/completions", QUESTION, headers=AUTHORIZED)
        assert (gone.status, gone.headers["Retry-After"]) == (503, "5")
        assert chain.ask("GET", "/health").status == 503
    finally:
        chain.end()


def test_without_a_balancer_the_edge_says_when_to_come_back(tmp_path: Path) -> None:
    chain = Chain(tmp_path, engines=1)
    try:
        chain.started[1].terminate()
        chain.started[1].wait(10)
        answer = chain.ask("GET", "/v1/models", headers=AUTHORIZED)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        assert "being restarted" in answer.text
    finally:
        chain.end()
