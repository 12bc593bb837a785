# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page and the widget in a real Chromium. What it looked like is in build/screenshots."""

from __future__ import annotations

import json
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Iterator

import pytest
from places import SCREENSHOTS, Api
from playwright.sync_api import Browser, Page, expect, sync_playwright

SAID = (
    "A mirror keeps **two copies** of every block, each with its `checksum` [1].\n\n## What happens on a bad read\n\n"
    "1. The checksum does not match.\n2. The block is read from the other disk.\n3. The good copy is written back.\n\n"
    "```sh\nzpool scrub tank\nzpool status -v tank\n```\n\nA scrub does this for *all* blocks, so run one each month [2]."
)
HOSTILE = (
    "<img src=x onerror=\"window.ran='img'\"><script>window.ran='script'</script>"
    "<svg onload=\"window.ran='svg'\"><a href=\"javascript:window.ran='link'\">x</a> [x](javascript:window.ran='md')"
    "<iframe srcdoc=\"<script>parent.ran='frame'</script>\"></iframe>`<b>code</b>` **<u>bold</u>**"
)


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


@pytest.fixture(params=[("wide", 1280, 800, "light"), ("phone", 360, 740, "dark")], ids=["wide-light", "phone-dark"])
def page(browser: Browser, api: Api, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page, fresh, in a window."""
    name, width, height, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, base_url=api.url)
    made = context.new_page()
    wrong: list[str] = []
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.on("console", lambda said: wrong.append(said.text) if said.type == "error" and "Failed to load" not in said.text else None)
    made.goto("/")
    expect(made.locator("#state-text")).to_have_text("numbered")
    made.kind = name
    yield made
    context.close()
    assert wrong == []


def ask(page: Page, text: str = "How does a mirror repair itself?", **standin: Any) -> None:
    """Ask as a person does; what the stand-in shall do is put into the request on its way."""

    def told(route: Any) -> None:
        body = {**route.request.post_data_json}
        body["message"] += f" standin {json.dumps(standin)}"
        route.continue_(post_data=json.dumps(body))

    page.route("**/api/chat", told)
    page.locator("#question").fill(text)
    page.keyboard.press("Enter")


def shot(page: Page, name: str) -> None:
    """Keep what the page looks like, and see that nothing sticks out of the window."""
    page.screenshot(path=SCREENSHOTS / f"{name}-{page.kind}.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"], "the page is wider than its window"


@pytest.fixture(scope="module")
def handbook(api: Api) -> None:
    """A collection to answer from."""
    text = "A mirror repairs a block whose checksum is wrong from its other disk.\n\n" + "Run a scrub each month.\n\n" * 120
    for name in ("zfs-handbook.md", "operations.txt"):
        api.client.post("/api/documents", data={"collection": "handbook"}, files={"file": (name, text)}).raise_for_status()


def test_the_first_sight(page: Page) -> None:
    shot(page, "1-empty")
    expect(page.locator("#empty h2")).to_be_visible()
    assert page.evaluate("document.activeElement.id") == "question", "a person cannot type at once"


def test_an_answer_streams_with_its_sources(page: Page, handbook: None) -> None:
    page.locator("#collection").select_option("handbook")
    ask(page, say=SAID, tokens=len(SAID), token_s=0.001)
    expect(page.locator("#stop")).to_be_visible()
    expect(page.locator(".turn.assistant .foot")).to_contain_text("numbered ·", timeout=30_000)
    answer = page.locator(".turn.assistant .body")
    expect(answer.locator("strong")).to_have_text("two copies")
    expect(answer.locator("ol li")).to_have_count(3)
    expect(answer.locator("pre code")).to_have_text("zpool scrub tank\nzpool status -v tank")
    expect(page.locator(".sources summary")).to_have_count(5)
    page.locator("a.cite").first.click()
    expect(page.locator(".sources details").first.locator("p")).to_contain_text("checksum")
    shot(page, "2-answer")
    page.reload()
    if page.kind == "phone":
        page.locator("#side-open").click()
    page.locator("#history .open").first.click()
    expect(page.locator(".turn.assistant .body strong")).to_have_text("two copies")
    expect(page.locator(".sources summary")).to_have_count(5)


def test_a_lost_server_is_told_and_the_answer_is_whole(page: Page) -> None:
    ask(page, tokens=40, cuts=[20], first_s=1.5, token_s=0.01, n=page.kind)
    expect(page.locator("#notice")).to_contain_text("A GPU server went away.", timeout=20_000)
    shot(page, "3-replacing")
    expect(page.locator("#notice")).to_contain_text("Another server took over. Nothing was lost.", timeout=20_000)
    expect(page.locator(".turn.assistant .foot")).to_contain_text("moved once", timeout=20_000)
    shot(page, "4-replaced")
    said = page.locator(".turn.assistant .body").inner_text()
    assert said.split() == [f"t{number}" for number in range(1, 41)]


def test_an_answer_can_be_stopped_and_asked_again_by_keyboard_alone(page: Page) -> None:
    ask(page, tokens=5000, token_s=0.02)
    expect(page.locator(".turn.assistant .body")).to_contain_text("t3")
    page.keyboard.press("Escape")
    expect(page.locator(".turn.assistant .foot")).to_contain_text("stopped")
    assert page.evaluate("document.activeElement.id") == "question"
    page.unroute("**/api/chat")
    page.keyboard.press("Alt+n")
    expect(page.locator("#empty h2")).to_be_visible()
    reached = set()
    for _press in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"collection", "send", "log"} <= reached
    assert ({"new", "open-documents", "open-key"} <= reached) == (page.kind == "wide")
    assert "side-open" in reached or page.kind == "wide"


def test_busy_servers_are_waited_for_and_an_error_can_be_tried_again(page: Page) -> None:
    told = {"error": {"message": "All engines are busy or away. Try again in a few seconds."}}
    answers = [(503, told, {"Retry-After": "1"}), (422, {"error": {"message": "This model does not exist."}}, {})]
    page.route("**/api/chat", lambda route: route.fulfill(status=answers[0][0], json=answers[0][1], headers=answers.pop(0)[2]))
    page.locator("#question").fill("Hello")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("All servers are busy or being replaced. Asking again in 1 s")
    expect(page.locator(".problem")).to_contain_text("This model does not exist.", timeout=10_000)
    shot(page, "5-error")
    page.unroute("**/api/chat")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".turn.assistant .body")).to_contain_text("t10", timeout=20_000)
    expect(page.locator(".turn")).to_have_count(2)


def test_a_conversation_may_be_longer_than_what_goes_with_a_question(page: Page) -> None:
    told = [{"role": role, "content": f"{role} {number}"} for number in range(130) for role in ("user", "assistant")]
    # An answer that was stopped before its first word is no turn.
    told[5]["content"] = ""
    page.evaluate("chats => localStorage.setItem('llm-chats', JSON.stringify(chats))", [{"title": "Long", "turns": told}])
    page.reload()
    page.evaluate("document.querySelector('#history .open').click()")
    with page.expect_request("**/api/chat") as asked:
        page.locator("#question").fill("And now?")
        page.keyboard.press("Enter")
    expect(page.locator(".turn.assistant .body").last).to_contain_text("t10", timeout=20_000)
    history = asked.value.post_data_json["history"]
    assert 190 < len(history) <= 200
    assert (history[0]["role"], history[-1]["content"]) == ("user", "assistant 129")


def test_documents_that_cannot_be_listed_or_deleted_are_said(page: Page, handbook: None) -> None:
    page.evaluate("document.getElementById('open-documents').click()")
    page.locator("#documents-collection").fill("handbook")
    page.keyboard.press("Tab")
    expect(page.locator("#documents li")).to_have_count(2)
    away = {"error": {"message": "The document store cannot be reached."}}
    page.route("**/api/documents*", lambda route: route.fulfill(status=503, json=away))
    page.route("**/api/documents/*", lambda route: route.fulfill(status=503, json=away))
    page.get_by_role("button", name="Delete operations.txt").click()
    expect(page.locator("#documents-said")).to_have_text("The document store cannot be reached.")
    expect(page.locator("#documents li")).to_have_count(2)
    page.locator("#documents-said").evaluate("said => { said.textContent = ''; }")
    page.locator("#documents-collection").fill("other")
    page.keyboard.press("Tab")
    expect(page.locator("#documents-said")).to_have_text("The document store cannot be reached.")


@pytest.fixture
def tolerant(browser: Browser, api: Api) -> Iterator[Page]:
    """A page whose console may report what the policy blocked."""
    context = browser.new_context(viewport={"width": 1000, "height": 800}, base_url=api.url)
    made = context.new_page()
    made.kind = "wide"
    yield made
    context.close()


def test_html_in_answers_documents_and_questions_does_not_run(tolerant: Page, api: Api) -> None:
    page = tolerant
    name = "<img src=x onerror=window.ran=1>.txt"
    api.client.post("/api/documents", data={"collection": "hostile"}, files={"file": (name, HOSTILE)}).raise_for_status()
    page.goto("/")
    page.locator("#collection").select_option("hostile")
    ask(page, text=HOSTILE, say=HOSTILE + " [1]", tokens=len(HOSTILE) + 4, token_s=0)
    expect(page.locator(".turn.assistant .foot")).to_contain_text("numbered ·", timeout=30_000)
    page.locator(".sources summary").first.click()
    page.locator("#open-documents").click()
    expect(page.locator("#documents .name")).to_have_text(name)
    page.locator("#documents-close").click()
    shot(page, "6-hostile")
    assert page.evaluate("window.ran") is None
    inside = page.locator(".turn, #documents, #history")
    assert inside.locator("img, script, svg, iframe, u, b, a:not(.cite)").count() == 0
    expect(page.locator(".turn.assistant .body")).to_contain_text("<script>window.ran='script'</script>")
    policy = api.client.get("/").headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert page.evaluate("try { document.body.innerHTML = '<i>'; 'made' } catch (error) { error.name }") == "TypeError"


def test_documents_are_added_and_deleted_on_the_page(page: Page, tmp_path: Path) -> None:
    if page.kind == "phone":
        page.locator("#side-open").click()
    page.locator("#open-documents").click()
    collection = f"page-{page.kind}"
    page.locator("#documents-collection").fill(collection)
    (tmp_path / "notes.md").write_text("# Notes\n\nThe printer is on the second floor.")
    page.locator("#file").set_input_files(tmp_path / "notes.md")
    expect(page.locator("#documents-said")).to_have_text("notes.md: 1 passage ready.", timeout=30_000)
    shot(page, "7-documents")
    page.get_by_role("button", name="Delete notes.md").click()
    expect(page.locator("#documents li")).to_have_count(0)
    page.locator("#documents-close").click()
    expect(page.locator("#collection")).to_contain_text(collection)


def test_a_missing_key_is_asked_for_and_kept_as_wished(page: Page) -> None:
    sent: list[str | None] = []

    def answer(route: Any) -> None:
        sent.append(route.request.headers.get("authorization"))
        told = {"collections": ["handbook"]} if sent[-1] else {"error": {"message": "The API key is missing or wrong."}}
        route.fulfill(status=200 if sent[-1] else 401, json=told)

    page.route("**/api/collections", answer)
    page.evaluate("document.getElementById('open-key').click()")
    page.keyboard.type("sk-a-key-of-the-tests")
    shot(page, "8-key")
    page.keyboard.press("Enter")
    expect(page.locator("#collection option")).to_have_count(2)
    assert sent[-1] == "Bearer sk-a-key-of-the-tests"
    assert page.evaluate("[localStorage.getItem('llm-key'), sessionStorage.getItem('llm-key')]") == [None, "sk-a-key-of-the-tests"]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Another web server, as a site that embeds the widget."""
    place = tmp_path_factory.mktemp("site")
    (place / "index.html").write_text(
        "<!doctype html><title>A shop</title><body style='font:20px serif'><h1>A shop</h1><p>We sell things.</p>"
    )
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(place)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_the_widget_answers_on_listed_sites_until_the_day_s_answers_are_given(tolerant: Page, api: Api, sites: int) -> None:
    page = tolerant
    page.goto(f"http://localhost:{sites}/")
    page.add_script_tag(url=f"{api.url}/widget.js")
    page.get_by_role("button", name="Ask us").click()
    for number in range(3):
        page.keyboard.type(f"<b>Hello</b> {number}")
        page.keyboard.press("Enter")
        expect(page.locator(".turn").nth(2 * number + 1)).to_contain_text("t10", timeout=20_000)
        expect(page.locator("form button")).to_be_enabled()
    assert page.locator(".turn b").count() == 0
    page.keyboard.type("One more")
    page.keyboard.press("Enter")
    expect(page.locator(".said").last).to_have_text("The widget has given all its answers for today. It goes on tomorrow.")
    page.screenshot(path=SCREENSHOTS / "9-widget.png")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Ask us")).to_be_focused()


def test_the_widget_is_silent_on_other_sites(tolerant: Page, api: Api, sites: int) -> None:
    page = tolerant
    page.goto(f"http://127.0.0.1:{sites}/")
    page.add_script_tag(url=f"{api.url}/widget.js")
    page.get_by_role("button", name="Ask us").click()
    page.keyboard.type("Hello")
    page.keyboard.press("Enter")
    expect(page.locator(".said")).not_to_have_text("…")
    assert page.locator(".turn").last.inner_text() == ""
