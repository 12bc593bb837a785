# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manual as a site: every page is in its navigation, every link leads somewhere, and nothing is fetched from elsewhere."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Iterator
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "tools"))

import docs  # noqa: E402 - importable after the line above

pytestmark = pytest.mark.one_core


class Page(HTMLParser):
    """What a page links to, what it loads, and the names its parts have."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self.names |= {known[name] for name in ("id", "name") if name in known}
        if tag == "a" and "href" in known:
            self.links.append(known["href"])
        elif tag == "link" and known.get("rel") in ("stylesheet", "icon", "preload", "shortcut icon"):
            self.loaded.append(known["href"])
        elif "src" in known:
            self.loaded.append(known["src"])


def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}


def broken(site: Path) -> Iterator[str]:
    """Yield what leads nowhere within the site, and what is loaded from elsewhere."""
    known = pages(site)
    for path, page in known.items():
        for target in page.links + page.loaded:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                if target in page.loaded and parts.scheme != "data":
                    yield f"{path.relative_to(site)} loads {target}"
                continue
            aim = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not aim.is_file():
                yield f"{path.relative_to(site)} leads to {target}, which is not there"
            elif parts.fragment and aim in known and unquote(parts.fragment) not in known[aim].names:
                yield f"{path.relative_to(site)} leads to {target}, which has no such part"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("manual") / "site"
    argv = [sys.executable, str(ROOT / "tests" / "tools" / "docs.py"), "--out", str(out)]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return out.resolve()


def test_every_link_leads_somewhere_and_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    assert len(pages(site)) >= 60
    assert list(broken(site)) == []


def test_every_page_is_in_the_one_navigation(site: Path) -> None:
    front = Page((site / "index.html").read_text(encoding="utf-8"))
    linked = {(site / target.partition("#")[0]).resolve() for target in front.links if not urlsplit(target).scheme}
    own = {"genindex", "search", "environment_variables"}
    assert {path for path in pages(site) if path.stem not in own} <= linked | {site / "index.html"}


def test_modules_roles_plugins_and_alerts_are_there(site: Path) -> None:
    modules = {path.stem for path in (ROOT / "plugins" / "modules").glob("*.py")}
    roles = {path.parents[1].name for path in (ROOT / "roles").glob("*/meta/argument_specs.yml")}
    assert len(modules) >= 20 and len(roles) >= 10
    assert {path.stem for path in (site / "reference").glob("*_module.html")} == {f"{name}_module" for name in modules}
    assert {path.stem for path in (site / "reference").glob("*_role.html")} == {f"{name}_role" for name in roles}
    assert (site / "reference" / "selectel_preemptible_inventory.html").is_file()
    assert "What to do:" in (site / "docs" / "manual" / "alerts.html").read_text(encoding="utf-8")
    assert (site / "searchindex.js").is_file(), "the search works without a server"


def test_the_two_checks_can_fail(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a href="b.html#there">x</a><a href="b.html#nowhere">x</a><a href="c.html">x</a><a href="http://x/">x</a>'
    )
    (tmp_path / "b.html").write_text('<p id="there"></p><script src="https://elsewhere/x.js"></script><a href="">top</a>')
    assert list(broken(tmp_path)) == [
        "a.html leads to b.html#nowhere, which has no such part",
        "a.html leads to c.html, which is not there",
        "b.html loads https://elsewhere/x.js",
    ]


def test_a_page_with_a_broken_link_ends_the_build(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for link, status in (("index.md", 0), ("none.md", 1), ("#nowhere", 1)):
        (tmp_path / "source" / "index.md").write_text(f"# A page\n\n[there]({link})\n")
        argv = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'tests' / 'tools')!r}); import docs, pathlib; "]
        argv[-1] += f"docs.build(pathlib.Path({str(tmp_path / 'source')!r}), pathlib.Path({str(tmp_path / 'out')!r}))"
        assert subprocess.run(argv, capture_output=True, check=False).returncode == status, link


def test_what_is_no_site_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("1")
    with pytest.raises(SystemExit, match="2"):
        docs.main(["--out", str(tmp_path)])
    assert (tmp_path / "precious").read_text() == "1"


def test_references_to_ansible_s_own_manual_are_words() -> None:
    said = ":ref:`here <common_return_values>`, :ref:`ansible_configuration_settings`, :ref:`mine <other>`"
    assert docs._ELSEWHERE.sub(r"\1", said) == "here, ansible_configuration_settings, :ref:`mine <other>`"
