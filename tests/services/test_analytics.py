# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The analytics on SQLite and on a real PostgreSQL: every request once, figures that are right, a page that is looked at."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import shutil
import subprocess
import tempfile
import time
import tracemalloc
import uuid
from pathlib import Path
from typing import Any, Iterator

import httpx
import pytest
from analytics.database import Database
from analytics.settings import from_environment as analytics_settings
from places import BIN, SCREENSHOTS, Api, Processes
from playwright.sync_api import sync_playwright
from ports import free_port

PASSWORD = "a password of the tests"
TOKEN = "a-token-of-the-tests"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
BASIC = {"Authorization": "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode()}


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """A PostgreSQL of our own, from the distribution's package; its URL."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not found:
        pytest.fail("PostgreSQL is not installed, so the analytics cannot be tried on it: apt-get install postgresql")
    # Its files cannot be below pytest's directories, which other users may not enter: PostgreSQL refuses to run as root.
    place, port = Path(tempfile.mkdtemp(prefix="llm-postgres-")), free_port()
    as_user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"] if os.geteuid() == 0 else []
    if as_user:
        shutil.chown(place, "postgres")

    def run(name: str, *argv: str) -> None:
        subprocess.run(
            [*as_user, str(found[-1].with_name(name)), "-D", str(place / "data"), *argv], check=True, cwd=place, stdout=subprocess.DEVNULL
        )

    run("initdb", "-A", "trust", "-U", "llm", "--no-sync")
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={place} -c fsync=off"
    run("pg_ctl", "-l", str(place / "log"), "-w", "-o", options, "start")
    yield f"postgresql://llm@127.0.0.1:{port}/postgres"
    run("pg_ctl", "-m", "immediate", "-w", "stop")
    shutil.rmtree(place)


class Analytics:
    """The service under gunicorn, as in its image."""

    def __init__(self, processes: Processes, place: Path, database: str) -> None:
        self.port = free_port()
        secrets = {"DATABASE_URL_FILE": database, "ANALYTICS_TOKEN_FILE": TOKEN}
        secrets["PASSWORD_HASH_FILE"] = hashlib.sha256(PASSWORD.encode()).hexdigest()
        for name, value in secrets.items():
            (place / name).write_text(value)
        argv = [str(BIN / "gunicorn"), "--config", "python:analytics.serve", "analytics.app:create_app()"]
        environment = {name: str(place / name) for name in secrets}
        processes.start(f"analytics-{self.port}", argv, self.port, PORT=str(self.port), **environment)
        self.url, self.place = f"http://127.0.0.1:{self.port}", place
        self.client = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
        self.client.get("/health", timeout=300).raise_for_status()

    def counts(self) -> Any:
        """What the page knows, as JSON."""
        return self.client.get("/analytics/", params={"as": "json"}, headers=BASIC).json()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def analytics(request: pytest.FixtureRequest, processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Analytics:
    """The service on each database."""
    place = tmp_path_factory.mktemp(request.param)
    database = f"sqlite:///{place}/a.sqlite" if request.param == "sqlite" else request.getfixturevalue("postgres")
    return Analytics(processes, place, database)


def row(**changes: Any) -> dict[str, Any]:
    """A record."""
    usual = {"id": uuid.uuid4().hex, "at": time.time(), "key": "team", "model": "tiny", "route": "/api/chat", "status": 200, "error": ""}
    figures = {"first_token_s": 0.5, "seconds": 2.0, "prompt_tokens": 10, "completion_tokens": 100, "continued": 0, "prompt": ""}
    return {**usual, **figures, **changes}


def test_a_batch_that_comes_twice_counts_once(analytics: Analytics) -> None:
    rows = [row(), row(status=503, error="overloaded", key="other"), row(status=499, error="client_left", prompt="nul \x00 in it")]
    for _time in range(2):
        assert analytics.client.post("/events", json=rows, headers=AUTHORIZED).status_code == 204
    told = analytics.counts()
    assert told == {"requests": 3, "errors": {"overloaded": 1}, "keys": {"team": 2, "other": 1}}


def test_without_token_or_password_nothing_is_told_or_taken(analytics: Analytics) -> None:
    before = analytics.counts()
    for headers in ({}, {"Authorization": "Bearer wrong"}, BASIC):
        assert analytics.client.post("/events", json=[row()], headers=headers).status_code == 401
    wrong = {"Authorization": "Basic " + base64.b64encode(b"me:wrong").decode()}
    for headers in ({}, wrong, AUTHORIZED, {"Authorization": "Basic " + base64.b64encode(b"me:").decode()}):
        assert analytics.client.get("/analytics/", headers=headers).status_code == 401
    assert analytics.counts() == before


@pytest.mark.parametrize("body", [b"[", b"{}", json.dumps([row(id="x")]).encode(), json.dumps([row(status=1)]).encode()])
def test_what_is_no_record_is_refused(analytics: Analytics, body: bytes) -> None:
    before = analytics.counts()
    assert analytics.client.post("/events", content=body, headers=AUTHORIZED).status_code == 422
    assert analytics.counts() == before


def test_the_chat_service_tells_every_request_and_no_text(processes: Processes, balancer: str, analytics: Analytics) -> None:
    token = {"ANALYTICS_URL": analytics.url, "ANALYTICS_TOKEN_FILE": str(analytics.place / "ANALYTICS_TOKEN_FILE")}
    api = Api(processes, balancer, **token)
    before = analytics.counts()["keys"].get("sales", 0)
    headers = {"X-LLM-Key": "sales"}
    for number in range(5):
        told = json.dumps({"tokens": 8, "cuts": [3] if number == 0 else [], "n": str(analytics.port)})
        api.client.post("/api/chat", json={"message": f"a secret question standin {told}"}, headers=headers).raise_for_status()
    for _attempt in range(200):
        if analytics.counts()["keys"].get("sales", 0) == before + 5:
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"not every request was told: {analytics.counts()}")
    page = analytics.client.get("/analytics/", headers=BASIC).text
    assert "a secret question" not in page


def test_text_is_kept_where_it_was_switched_on(processes: Processes, balancer: str, analytics: Analytics) -> None:
    token = {"ANALYTICS_URL": analytics.url, "ANALYTICS_TOKEN_FILE": str(analytics.place / "ANALYTICS_TOKEN_FILE")}
    api = Api(processes, balancer, LOG_PROMPTS="true", **token)
    # Longer than a record may be: its beginning is kept, and it does not hold up those that come after it.
    long = {"messages": [{"role": "user", "content": "x" * 300_000}]}
    api.client.post("/v1/chat/completions", json=long).raise_for_status()
    api.client.post("/api/chat", json={"message": "<script>alert(1)</script> may be kept"}).raise_for_status()
    for _attempt in range(200):
        page = analytics.client.get("/analytics/", headers=BASIC).text
        if "may be kept" in page:
            break
        time.sleep(0.1)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; may be kept" in page
    assert "<script" not in page


def history() -> list[dict[str, Any]]:
    """Three weeks of a small team."""
    chance = random.Random(7)
    rows = []
    for day in range(21):
        for key, many in (("sales", 40), ("support", 90), ("dev-<b>tools</b>", 25), ("widget:shop.example.org", 15)):
            for _request in range(chance.randint(many // 3, many)):
                first = chance.lognormvariate(-0.6 + day / 60, 0.6)
                at = time.time() - day * 86_400 - chance.random() * 40_000
                failed = chance.random() < 0.012
                rows.append(
                    row(
                        at=at,
                        key=key,
                        model=chance.choice(["qwen3-8b", "qwen3-8b", "qwen3-30b"]),
                        first_token_s=None if failed else first,
                        seconds=first + chance.expovariate(0.2),
                        prompt_tokens=chance.randint(20, 3000),
                        completion_tokens=0 if failed else chance.randint(20, 900),
                        status=503 if failed else 200,
                        error="overloaded" if failed else "",
                        continued=int(chance.random() < 0.02),
                    )
                )
    return rows


def test_the_page_shows_plots_and_tables(analytics: Analytics) -> None:
    rows = history()
    for begin in range(0, len(rows), 1000):
        assert analytics.client.post("/events", json=rows[begin : begin + 1000], headers=AUTHORIZED).status_code == 204
    program = shutil.which("chromium") or pytest.fail("Chromium is not installed: apt-get install chromium")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for name, width, scheme in (("wide", 1180, "light"), ("phone", 360, "dark")):
            context = browser.new_context(
                viewport={"width": width, "height": 900},
                color_scheme=scheme,
                http_credentials={"username": "me", "password": PASSWORD},
            )
            page = context.new_page()
            wrong: list[str] = []
            page.on("console", lambda said, wrong=wrong: wrong.append(said.text))
            page.goto(f"{analytics.url}/analytics/?days=30")
            page.screenshot(path=SCREENSHOTS / f"analytics-{name}.png", full_page=True)
            assert wrong == []
            assert page.locator("figure svg").count() == 4
            assert page.locator("figure svg rect, figure svg path").count() > 60
            assert page.locator("th[scope=row]", has_text="dev-<b>tools</b>").count() == 1
            assert page.locator("b, script").count() == 0
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            context.close()
        browser.close()


def test_figures_are_read_without_the_questions_and_a_few_records_at_a_time(analytics: Analytics) -> None:
    database = Database(analytics_settings({"DATABASE_URL_FILE": str(analytics.place / "DATABASE_URL_FILE")}).database)
    long = "x" * 20_000
    for _batch in range(3):
        database.add([row(prompt=long) for _number in range(1_000)])
    tracemalloc.start()
    count = sum("prompt" not in one for one in database.since(time.time() - 3_600))
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The questions alone are 60 MB.
    assert (count >= 3_000, peak < 10_000_000) == (True, True), f"{count} records took {peak} bytes"
