# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role's nginx configuration before the chat service: what needs a key, what does not, and what happens when a part is away."""

from __future__ import annotations

import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Iterator

import httpx
import pytest
from conftest import KEYS, balanced
from loopback import AUTHORIZED, edge_files, program
from places import NUMBERED, Api, Processes
from ports import free_port

QUESTION = {"messages": [{"role": "user", "content": "Count."}]}
SITE = {"Origin": "https://www.example.org"}


class Edge:
    """nginx, and the chat service behind it."""

    def __init__(self, processes: Processes, balancer: str, api: Api, **more: Any) -> None:
        self.port = free_port()
        place = processes.place / f"edge-{self.port}"
        place.mkdir()
        servers = {"__llm_services_chat_server": f"127.0.0.1:{api.port}", "__llm_services_analytics_server": f"127.0.0.1:{api.port}"}
        servers["__llm_services_keys_server"] = KEYS[balancer]
        changes = {"llm_services_chat": {"enabled": True}, "llm_services_engine": "llamacpp", **servers, **more}
        path = edge_files(place, self.port, 0, balancer.partition("://")[2], changes)
        if os.geteuid() == 0:
            # Large requests rest below ``place``, which is this user's alone. Where throughput is measured, there are none.
            path.write_text(f"user root;\n{path.read_text()}")
        # Open WebUI's door is not named by a variable: the stack's network has it for itself.
        self.inside = free_port()
        path.write_text(path.read_text().replace("listen 8082;", f"listen 127.0.0.1:{self.inside};"))
        argv = [program("nginx", "nginx-light"), "-e", "stderr", "-c", str(path), "-g", "daemon off;"]
        processes.start(f"edge-{self.port}", argv, self.port)
        self.client = httpx.Client(base_url=f"https://localhost:{self.port}", verify=str(place / "tls.crt"), timeout=60, trust_env=False)


@pytest.fixture(scope="module")
def edge(processes: Processes, balancer: str, api: Api) -> Iterator[Edge]:
    """An edge before the chat service."""
    made = Edge(processes, balancer, api)
    yield made
    made.client.close()


def test_the_page_and_the_state_need_no_key_and_all_that_answers_does(edge: Edge) -> None:
    for path in ("/", "/static/page.js", "/widget.js", "/openapi.json", "/api/status"):
        assert edge.client.get(path).status_code == 200, path
    for path in ("/api/collections", "/api/documents?collection=a", "/v1/models"):
        assert edge.client.get(path).status_code == 401, path
    for path in ("/api/chat", "/v1/chat/completions"):
        assert edge.client.post(path, json=QUESTION).status_code == 401, path
    assert edge.client.get("/metrics", headers=AUTHORIZED).status_code == 404


def test_who_has_no_key_sends_next_to_nothing(edge: Edge) -> None:
    large = b"x" * 1024 * 1024
    for path in ("/health", "/", "/api/status", "/analytics/", "/widget/chat"):
        assert edge.client.post(path, content=large).status_code == 413, path
    assert edge.client.post("/v1/chat/completions", content=large).status_code == 401
    question = {"messages": [{"role": "user", "content": "x" * len(large)}]}
    assert edge.client.post("/v1/chat/completions", json=question, headers=AUTHORIZED).status_code == 200


def test_with_a_key_everything_answers_and_its_name_is_the_edge_s_to_say(edge: Edge, api: Api) -> None:
    forged = {**AUTHORIZED, "X-LLM-Key": "somebody-else"}
    assert (
        edge.client.post("/v1/chat/completions", json=QUESTION, headers=forged).json()["choices"][0]["message"]["content"].endswith("t10")
    )
    assert edge.client.post("/api/chat", json={"message": "Hello"}, headers=forged).json()["answer"].endswith("t10")
    assert edge.client.get("/v1/models", headers=AUTHORIZED).json()["data"][0]["id"] == "numbered"
    assert edge.client.get("/api/collections", headers=AUTHORIZED).status_code == 200


def test_the_widget_s_visitors_are_slowed_down(edge: Edge) -> None:
    answers = [edge.client.post("/widget/chat", json={"message": ""}, headers=SITE) for _request in range(30)]
    statuses = [answer.status_code for answer in answers]
    assert statuses[0] == 422
    assert 429 in statuses
    slowed = answers[statuses.index(429)]
    # A browser shows it to the site's page.
    assert slowed.headers["Access-Control-Allow-Origin"] == SITE["Origin"]
    assert slowed.json()["error"]["message"] == "You have asked often. Try again in a few seconds."
    assert {edge.client.options("/widget/chat", headers=SITE).status_code for _request in range(3)} == {204}
    assert edge.client.get("/api/status").status_code == 200, "other routes are not slowed down"


def test_the_password_of_the_analytics_passes_the_edge(edge: Edge) -> None:
    # The chat service stands in for the analytics here; it knows no such path, and that is what comes back.
    assert edge.client.get("/analytics/", auth=("me", "x")).json()["error"]["message"].startswith("The requested URL was not found")


def test_a_password_is_not_guessed_at_the_edge_s_speed(edge: Edge) -> None:
    statuses: list[int] = []
    while 429 not in statuses and len(statuses) < 1000:
        answer = edge.client.get("/analytics/", auth=("me", str(len(statuses))))
        statuses.append(answer.status_code)
    # Nobody who opens the page and all it loads is slowed down.
    assert 50 < len(statuses) < 1000
    assert (answer.headers["Retry-After"], answer.text[:38]) == ("60", "This page was asked for too often from")
    assert edge.client.get("/api/status").status_code == 200, "other routes are not slowed down"


def test_without_the_chat_service_openai_s_api_goes_on(processes: Processes, balancer: str) -> None:
    api = Api(processes, balancer)
    edge = Edge(processes, balancer, api)
    assert edge.client.post("/v1/chat/completions", json=QUESTION, headers=AUTHORIZED).status_code == 200
    api.process.terminate()
    api.process.wait()
    assert edge.client.post("/v1/chat/completions", json=QUESTION, headers=AUTHORIZED).status_code == 200
    got = edge.client.post("/api/chat", json={"message": "Hello"}, headers=AUTHORIZED)
    assert (got.status_code, got.headers["Retry-After"]) == (503, "5")
    got = edge.client.post("/widget/chat", json={"message": "Hello"}, headers=SITE)
    assert (got.status_code, got.headers["Access-Control-Allow-Origin"]) == (503, SITE["Origin"])
    # The analytics are the same process here.
    got = edge.client.get("/analytics/", auth=("me", "x"))
    assert (got.status_code, got.headers["Retry-After"]) == (503, "5")


def test_without_chat_service_and_balancer_every_door_says_when_to_come_back(processes: Processes) -> None:
    engine = free_port()
    processes.start(f"engine-{engine}", [sys.executable, str(NUMBERED), str(engine)], engine)
    balancer = balanced(processes, [engine])
    proxy = processes.started[-1]
    # Keys are still looked up, as where only the way to the engines is gone.
    keys = balanced(processes, [engine])
    api = Api(processes, balancer)
    webui = {"llm_services_open_webui": {"enabled": True, "port": free_port()}, "__llm_services_keys_server": KEYS[keys]}
    edge = Edge(processes, balancer, api, **webui)
    for process in (api.process, proxy):
        process.terminate()
        process.wait(timeout=30)
    for door in (f"https://localhost:{edge.port}/", f"http://127.0.0.1:{edge.inside}/"):
        for route in ("v1/chat/completions", "v1/completions"):
            got = edge.client.post(f"{door}{route}", json=QUESTION, headers=AUTHORIZED)
            assert (got.status_code, got.headers.get("Retry-After")) == (503, "5"), f"{door}{route}: {got.text}"
            assert "being restarted" in got.json()["error"]["message"]


class Broken(BaseHTTPRequestHandler):
    """An engine that is well, and whose answers are none."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Nobody reads it."""

    def do_GET(self) -> None:
        """Its health."""
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        """What it had begun to say, as an engine that dies."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.wfile.write(b"nonsense\r\n\r\n")


def test_a_request_that_cost_its_engine_is_told_when_to_come_back(processes: Processes) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Broken) as engine:
        threading.Thread(target=engine.serve_forever, daemon=True).start()
        balancer = balanced(processes, [engine.server_port])
        end = time.monotonic() + 20
        while httpx.get(f"{balancer}/health", trust_env=False).status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.1)
        got = httpx.post(f"{balancer}/v1/chat/completions", json=QUESTION, trust_env=False)
        engine.shutdown()
    assert (got.status_code, got.headers.get("Retry-After")) == (502, "5"), got.text
    assert got.json()["error"]["code"] == "engine_lost"
