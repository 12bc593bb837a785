# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The OpenAPI document, and whatever it allows: nothing makes the service fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from places import BIN, CHAT, NUMBERED, ROOT, Api, Processes
from ports import free_port


def test_nothing_that_the_document_allows_or_forbids_is_a_server_error(processes: Processes, chroma: str, tmp_path: Path) -> None:
    port = free_port()
    processes.start(f"engine-{port}", [sys.executable, str(NUMBERED), str(port)], port)
    # No balancer between: on a busy machine it would leave the engine out for a moment, and 503 be right.
    api = Api(processes, f"http://127.0.0.1:{port}", CHROMA_URL=chroma, WIDGET_DOMAINS="localhost")
    argv = [str(BIN / "schemathesis"), "run", f"{api.url}/openapi.json", "--checks", "not_a_server_error,status_code_conformance"]
    argv += ["--max-examples", "15", "--phases", "examples,coverage,fuzzing", "--workers", "1", "--seed", "1"]
    argv += ["--request-timeout", "60", "--wait-for-schema", "120"]
    argv += ["--suppress-health-check", "all", "--no-color", "--report-junit-path", str(tmp_path / "report.xml")]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]


TURNS = '"messages": [{"role": "user", "content": "x"}]'


@pytest.mark.parametrize("stream", ["true", "false"])
@pytest.mark.parametrize(
    "rest",
    [
        TURNS + ', "temperature": 1e999',
        TURNS + ', "temperature": NaN',
        TURNS + ', "stream_options": [1]',
        TURNS + ', "stream_options": "x"',
        TURNS + ', "more": ' + "[" * 3000 + "]" * 3000,
        # An emoji that a program cut in two.
        '"messages": [{"role": "user", "content": "\\ud83d"}]',
    ],
    ids=["infinite", "not a number", "list of options", "text as options", "deep", "half a character"],
)
def test_what_no_engine_could_read_is_refused(api: Api, rest: str, stream: str) -> None:
    headers = {"Content-Type": "application/json"}
    got = api.client.post("/v1/chat/completions", content=f'{{{rest}, "stream": {stream}}}', headers=headers)
    assert got.status_code == 422, got.text
    assert got.json()["error"]["type"] == "invalid_request_error"


def test_every_route_is_in_the_document(api: Api) -> None:
    document = api.client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.")
    sys.path.insert(0, str(CHAT))
    from rag_chat_api.app import create_app
    from rag_chat_api.settings import Settings

    rules = {rule.rule.replace("<", "{").replace(">", "}") for rule in create_app(Settings()).url_map.iter_rules()}
    pages = {"/", "/widget.js", "/openapi.json", "/metrics", "/static/{path:filename}"}
    assert rules - pages == set(document["paths"])


def test_metrics_are_on_the_status_port_only(api: Api) -> None:
    assert api.client.get("/metrics").status_code == 404
    text = httpx.get(f"http://127.0.0.1:{api.status}/metrics", trust_env=False).text
    assert "llm_chat_requests_total" in text
    assert httpx.get(f"http://127.0.0.1:{api.status}/api/status", trust_env=False).json()["state"] == "ok"


def test_types_are_right() -> None:
    argv = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(ROOT / "build" / "mypy-services"), "rag_chat_api", "analytics"]
    ended = subprocess.run(argv, cwd=CHAT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
