# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manual in a real Chromium, from its files: light and dark, on a telephone, without the internet."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Iterator

import pytest
from places import ROOT, SCREENSHOTS
from playwright.sync_api import Browser, expect, sync_playwright

PAGES = ("index", "docs/manual/backup-and-restore", "docs/manual/alerts", "roles/monitoring/README", "reference/zfs_pool_module")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("manual") / "site"
    argv = [str(ROOT / ".venv" / "bin" / "python"), str(ROOT / "tests" / "tools" / "docs.py"), "--out", str(out)]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return out.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.fail("Chromium is not installed, so the manual cannot be tried: apt-get install chromium")
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_and_need_nothing_from_elsewhere(site: str, browser: Browser, scheme: str, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    for name in PAGES:
        page.goto(f"{site}/{name}.html")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} scrolls sideways"
        paper, ink = (page.evaluate(f"getComputedStyle(document.body).{what}") for what in ("backgroundColor", "color"))
        shade = [sum(map(int, colour.split("(")[1].rstrip(")").split(",")[:3])) for colour in (paper, ink)]
        assert (shade[0] < shade[1]) == (scheme == "dark"), f"{name}: {paper} under {ink}"
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"manual-{scheme}-{width}-{Path(name).name}.png")
    assert errors == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    context.close()


def test_the_navigation_is_on_every_page_and_opens_on_a_telephone(site: str, browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 740})
    page.goto(f"{site}/reference/zfs_pool_module.html")
    entry = page.locator(".sidebar-tree").get_by_role("link", name="Back up and restore")
    expect(entry).not_to_be_in_viewport()
    page.locator("label.nav-overlay-icon[for=__navigation]").first.click()
    entry.click()
    expect(page.get_by_role("heading", name="Back up and restore", level=1)).to_be_visible()
    page.close()


def test_the_search_finds_without_a_server(site: str, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(f"{site}/search.html?q=borgmatic")
    expect(page.locator("#search-results").get_by_role("link", name="Back up and restore").first).to_be_visible(timeout=30_000)
    page.close()
