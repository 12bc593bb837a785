# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The status page in a real Chromium: what it shows, and that it never shows as the present what is not."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Iterator

import httpx
import pytest
from loopback import edge_files, program
from places import ROOT, SCREENSHOTS, Processes
from playwright.sync_api import Browser, Page, expect, sync_playwright
from ports import free_port

FILES = ROOT / "roles" / "monitoring" / "files"
PASSWORD = "a password of the tests"
HOUR = 3600
HOSTILE = "gpu-<img src=x onerror=\"window.ran='img'\">"


class Swarm:
    """An engine's API whose answers a test changes."""

    def __init__(self) -> None:
        self.away = False
        self.down: set[str] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(outer.answer(self.path.partition("?")[0].rpartition("/")[2])).encode()
                self.send_response(503 if outer.away else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, what: str) -> Any:
        """What the engine says."""
        names = ["gpu1", "gpu2", HOSTILE, "gpu-with-a-very-long-name-in-a-cloud-of-others"]
        if what == "nodes":
            return [
                self.node("manager1", role="manager"),
                *(self.node(name, left=number * (5 * HOUR - 30)) for number, name in enumerate(names)),
            ]
        if what == "services":
            engine = {"Spec": {"Name": "llm_engine"}, "ServiceStatus": {"RunningTasks": 4 - len(self.down), "DesiredTasks": 4}}
            return [engine, {"Spec": {"Name": "llm_edge"}, "ServiceStatus": {"RunningTasks": 1, "DesiredTasks": 1}}]
        if what == "tasks":
            return [{"NodeID": name, "Status": {"State": "running"}} for name in names if name not in self.down]
        day, breaker = int(time.time() // 86400), {"seen": [["ru-7a/GL10", "s1/1", time.time() - HOUR]], "opened": {}}
        ledger = {"day": day, "hour": 0, "closed": 812.5, "bill": 120.0, "rate": 120.0}
        labels = {"llm-stack.ledger": json.dumps(ledger), "llm-stack.breaker": json.dumps(breaker)}
        return [{"Spec": {"Name": "llm-stack-state", "Labels": labels}}]

    def node(self, name: str, *, role: str = "worker", left: float = 0.0) -> dict[str, Any]:
        """One node."""
        labels = {"gpu": "true", "llm-stack.preemptible": "true"} if role == "worker" else {}
        if left:
            labels["llm-stack.ends"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + left))
        gpus = [{"NamedResourceSpec": {"Kind": "GPU", "Value": f"GPU-{name}"}}] if role == "worker" else []
        return {
            "ID": name,
            "Spec": {"Role": role, "Availability": "active", "Labels": labels},
            "Description": {"Hostname": name, "Resources": {"GenericResources": gpus}},
            "Status": {"State": "down" if name in self.down else "ready"},
        }


class Monitor:
    """The service as in its image."""

    def __init__(self, processes: Processes, swarm: Swarm, place: Path) -> None:
        self.port = free_port()
        self._processes = processes
        (place / "hash").write_text(hashlib.sha256(PASSWORD.encode()).hexdigest())
        told = {
            "llm_backup_last_success_timestamp_seconds": time.time() - 900,
            "llm_backup_max_age_seconds": 7200.0,
            "llm_backup_success": 1.0,
        }
        old = {**told, "llm_backup_last_success_timestamp_seconds": time.time() - 9 * HOUR, "llm_backup_success": 0.0}
        for job, values in (("manager", told), ("away", old)):
            (place / f"llm-backup-{job}.prom").write_text(
                "".join(f'{name}{{job_name="{job}"}} {value!r}\n' for name, value in values.items())
            )
        backups = free_port()
        told_by = [sys.executable, str(FILES / "exporters" / "backups.py")]
        processes.start(f"backups-{backups}", told_by, backups, FOLDER=str(place), NODE="manager1", PORT=str(backups))
        self._environment = {
            "PYTHONPATH": os.pathsep.join([str(FILES / "monitor"), str(FILES / "exporters")]),
            "DOCKER_PROXY": swarm.address,
            "DATABASE": str(place / "monitor.sqlite"),
            "PASSWORD_HASH_FILE": str(place / "hash"),
            "BACKUPS": f"127.0.0.1:{backups}",
            "STORAGE": "storage1=127.0.0.1:1",
            "CURRENCY": "RUB",
            "EVERY_S": "0.3",
            "FRESH_S": "6",
            "PORT": str(self.port),
        }
        self.start()

    def start(self) -> None:
        """Start it, and wait for its first look."""
        self.process = self._processes.start(
            f"monitor-{self.port}", [sys.executable, "-m", "swarm_monitor"], self.port, **self._environment
        )
        for _attempt in range(100):
            if httpx.get(f"http://127.0.0.1:{self.port}/metrics", trust_env=False).status_code == 200:
                return
            time.sleep(0.1)
        pytest.fail("the monitor has not looked")

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(timeout=20)


@pytest.fixture(scope="module")
def swarm() -> Iterator[Swarm]:
    made = Swarm()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(scope="module")
def monitor(processes: Processes, swarm: Swarm, tmp_path_factory: pytest.TempPathFactory) -> Monitor:
    """A monitor that has seen a worker go and come back."""
    made = Monitor(processes, swarm, tmp_path_factory.mktemp("monitor"))
    for down in ({"gpu2"}, set()):
        swarm.down = down
        time.sleep(1.2)
    return made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The distribution's Chromium."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.fail("Chromium is not installed, so the page cannot be tried: apt-get install chromium")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield made
        made.close()


KINDS = [("wide", 1280, 800, "light"), ("phone", 360, 740, "dark"), ("night", 1280, 800, "dark"), ("phone-day", 360, 740, "light")]


@pytest.fixture(params=KINDS, ids=[kind[0] for kind in KINDS])
def shown(browser: Browser, monitor: Monitor, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page in a window."""
    yield from opened(browser, monitor, *request.param)


@pytest.fixture
def one(browser: Browser, monitor: Monitor) -> Iterator[Page]:
    """The page in one window, for what does not depend on its size."""
    yield from opened(browser, monitor, *KINDS[0])


def opened(browser: Browser, monitor: Monitor, name: str, width: int, height: int, scheme: Any) -> Iterator[Page]:
    credentials: Any = {"username": "me", "password": PASSWORD}
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, http_credentials=credentials)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" and "Failed to load" not in said.text else None)
    page.goto(f"http://127.0.0.1:{monitor.port}/status/")
    page.kind = name
    yield page
    context.close()
    assert wrong == []


def shot(page: Page, name: str) -> None:
    """Keep what the page looks like, and see that nothing sticks out of the window."""
    page.screenshot(path=SCREENSHOTS / f"status-{name}-{page.kind}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"], "the page is wider than its window"


def test_the_fleet_costs_recoveries_and_backups_are_shown(shown: Page) -> None:
    expect(shown.locator("article.present")).to_be_visible()
    expect(shown.locator("#seen")).to_have_text(re.compile(r"^Seen \d s ago$"))
    tiles = shown.locator(".tiles")
    for text in ("5 of 5", "932.50 RUB", "120.00 RUB"):
        expect(tiles).to_contain_text(text)
    fleet = shown.locator(".card", has=shown.get_by_role("heading", name="Fleet"))
    expect(fleet.locator("tbody tr")).to_have_count(5)
    expect(fleet.locator("tr", has_text="gpu2")).to_contain_text("4 h 59 min")
    expect(shown.locator(".card", has_text="Recoveries")).to_contain_text("Interrupted by the cloud: 1 at ru-7a/GL10.")
    expect(shown.locator(".card", has_text="Recoveries").locator("tbody tr").first).to_contain_text("gpu2")
    backups = shown.locator(".card", has_text="Newest copy")
    # It grows older while the tests run.
    expect(backups.locator("tr", has_text="manager1manager")).to_contain_text(re.compile(r"(1[5-9]|2\d) min"))
    expect(backups.locator("tr", has_text="away").locator("td.bad")).to_contain_text("9 h ago, then failed")
    expect(backups.locator("tr", has_text="storage1").locator(".bad").first).to_have_text("not known")
    assert shown.evaluate("window.ran") is None, "a name was run"
    shot(shown, "1-fleet")


def test_what_the_swarm_does_not_confirm_is_not_the_present(one: Page, swarm: Swarm) -> None:
    swarm.away = True
    try:
        expect(one.locator(".notice")).to_contain_text("This is not the present.", timeout=20_000)
        expect(one.locator(".notice")).to_contain_text("Look at the log of the service socket_proxy.")
        assert float(one.locator("section.card").first.evaluate("element => getComputedStyle(element).opacity")) < 0.5
        shot(one, "2-swarm-away")
    finally:
        swarm.away = False
    expect(one.locator("article.present")).to_be_visible(timeout=20_000)
    expect(one.locator(".notice")).to_have_count(0)


def test_a_page_that_is_cut_off_says_so_and_a_restart_loses_nothing(one: Page, monitor: Monitor) -> None:
    before = one.locator(".card", has_text="Recoveries").inner_text()
    monitor.stop()
    expect(one.locator("#old")).to_contain_text("This page is not brought up to date: the server cannot be reached", timeout=20_000)
    assert float(one.locator("section.card").first.evaluate("element => getComputedStyle(element).opacity")) < 0.5
    shot(one, "3-cut-off")
    monitor.start()
    expect(one.locator("#old")).to_be_hidden(timeout=20_000)
    expect(one.locator("article.present")).to_be_visible()
    assert one.locator(".card", has_text="Recoveries").inner_text() == before


def test_a_lost_worker_is_shown_at_once(one: Page, swarm: Swarm) -> None:
    swarm.down = {"gpu1"}
    try:
        expect(one.locator("tr", has_text="gpu1").first.locator("td.bad").first).to_have_text("down", timeout=20_000)
        expect(one.locator(".card", has_text="Recoveries").locator("tbody tr").first).to_contain_text("away for")
        expect(one.locator(".tiles .bad").first).to_contain_text("4 of 5")
        shot(one, "4-lost")
    finally:
        swarm.down = set()


def test_without_scripts_the_page_loads_itself_again(browser: Browser, monitor: Monitor) -> None:
    credentials: Any = {"username": "me", "password": PASSWORD}
    context = browser.new_context(java_script_enabled=False, http_credentials=credentials)
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{monitor.port}/status/")
    expect(page.locator("noscript meta[http-equiv=refresh], head meta[http-equiv=refresh]")).to_have_count(1)
    expect(page.locator("article.present")).to_be_visible()
    context.close()


def test_the_edge_shows_the_page_and_nothing_else_of_the_monitor(processes: Processes, monitor: Monitor) -> None:
    port = free_port()
    place = processes.place / f"edge-{port}"
    place.mkdir()
    changes = {
        "llm_stack_monitoring": True,
        "llm_services_engine": "llamacpp",
        "__llm_services_monitor_server": f"127.0.0.1:{monitor.port}",
        "__llm_services_keys_server": "127.0.0.1:1",
    }
    path = edge_files(place, port, 0, "127.0.0.1:1", changes)
    processes.start(f"edge-{port}", [program("nginx", "nginx-light"), "-e", "stderr", "-c", str(path), "-g", "daemon off;"], port)
    with httpx.Client(base_url=f"https://localhost:{port}", verify=str(place / "tls.crt"), trust_env=False) as client:
        refused = client.get("/status/")
        assert (refused.status_code, refused.headers["WWW-Authenticate"][:5]) == (401, "Basic")
        shown = client.get("/status/", auth=("me", PASSWORD))
        assert 'class="present"' in shown.text
        assert "default-src 'none'" in shown.headers["Content-Security-Policy"]
        assert client.get("/status/page.js", auth=("me", PASSWORD)).headers["Content-Type"].startswith("text/javascript")
        for elsewhere in ("/metrics", "/healthy", "/status"):
            assert client.get(elsewhere, auth=("me", PASSWORD)).status_code in (301, 404), elsewhere


def test_types_are_strict() -> None:
    argv = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(ROOT / "build" / "mypy-monitor"), "swarm_monitor"]
    environment = {**os.environ, "MYPYPATH": str(FILES / "exporters")}
    ended = subprocess.run(argv, cwd=FILES / "monitor", env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
