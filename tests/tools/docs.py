# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make docs`: the manual as a site in build/docs, read from its files: pages, alerts, roles, modules, plugins, figures.

Pages keep their places in the repository, so the links between them are the same in both. A link that leads nowhere ends the build.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import package
import yaml

OUT = package.BUILD / "docs"
MANUAL = package.ROOT / "docs" / "manual"
RULES = package.ROOT / "roles" / "monitoring" / "templates" / "rules.yml.j2"
LIMITS = package.ROOT / "roles" / "monitoring" / "vars" / "main.yml"
SETTINGS = Path(__file__).with_name("manual")
# What is shown beside the manual's own pages, where it is in the repository.
PAGES = ("docs/manual/*.md", "docs/*.md", "docs/*.svg", "roles/*/README.md", "examples/*/README.md", "CONTRIBUTING.md")
# Where antsibull-docs writes options, examples and return values.
REFERENCE = "reference"
# References of antsibull-docs to pages of Ansible's own manual.
_ELSEWHERE = re.compile(r":ref:`([^`<]+)(?: <(?:common_return_values|action_plugins)>(?=`)|(?<=ansible_configuration_settings))`")


def rules_of(template: str) -> list[dict[str, Any]]:
    """Return the rules as they are where nothing is set, with a budget and a backup, so that no alert is left out.

    :param template: the template of the rules, which has marks of its own for variables.
    """
    made = jinja2.Environment(variable_start_string="<<", variable_end_string=">>", trim_blocks=True)
    limits = yaml.safe_load(LIMITS.read_text(encoding="utf-8"))["__monitoring_thresholds_known"]
    given = {"monitoring_durations_scale": 1, "__monitoring_backups": [{"host": "HOST", "job": "JOB"}]}
    text = made.from_string(template).render(**given, __monitoring_thresholds={**limits, "budget": 1})
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def alerts_page(rules: str) -> str:
    """Return the page that says of each alert what it means and what to do.

    :param rules: the template of the rules.
    """
    lines = ["# Alerts", "", "What each means and what to do. Words in capitals stand for what the alert names.", ""]
    for rule in (one for one in rules_of(rules) if "alert" in one):
        summary, means, do = (_prose(rule["annotations"][part]) for part in ("summary", "means", "do"))
        lines += [f"## {rule['alert']}", "", f"*{summary}* ({rule['labels']['severity']})", "", means, "", f"**What to do:** {do}", ""]
    return "\n".join(lines)


def _prose(text: str) -> str:
    """A text with the names of labels in place of their templates."""
    return re.sub(r"\{\{ \$(?:labels\.)?(\w+)[^}]*\}\}", lambda found: found[1].upper(), text.strip())


def contents(groups: dict[str, list[str]]) -> str:
    """Return the navigation, which every page of the site has.

    :param groups: by caption, names of pages without their endings.
    """
    parts = [["```{toctree}", ":hidden:", f":caption: {caption}", "", *names, "```", ""] for caption, names in groups.items()]
    return "\n".join(line for part in parts for line in part)


def lay_out(place: Path) -> None:
    """Put together what Sphinx reads: the pages where they are in the repository, the reference, and a first page with the navigation.

    :param place: a directory that is not there yet.
    """
    copied = [path for pattern in PAGES for path in sorted(package.ROOT.glob(pattern)) if path != MANUAL / "index.md"]
    for path in copied:
        target = place / path.relative_to(package.ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (place / "docs" / "manual" / "alerts.md").write_text(alerts_page(RULES.read_text(encoding="utf-8")), encoding="utf-8")
    reference(place / REFERENCE)
    names = [str(path.relative_to(package.ROOT).with_suffix("")) for path in copied if path.suffix == ".md"]
    groups = {
        "Manual": [*_in_order([name for name in names if name.startswith("docs/manual/")]), "docs/manual/alerts"],
        "Roles": [name for name in names if name.startswith("roles/")],
        "Options of roles": _references(place, "role"),
        "Modules": _references(place, "module"),
        "Plugins": _references(place, "inventory"),
        "Project": [name for name in names if not name.startswith(("docs/manual/", "roles/"))],
    }
    front = (MANUAL / "index.md").read_text(encoding="utf-8")
    (place / "index.md").write_text(re.sub(r"\]\(([a-z-]+\.md)\)", r"](docs/manual/\1)", front) + "\n" + contents(groups), encoding="utf-8")


def _in_order(names: list[str]) -> list[str]:
    """The manual's pages in the order of its front page."""
    order = re.findall(r"\(([a-z-]+)\.md\)", (MANUAL / "index.md").read_text(encoding="utf-8"))
    return sorted(names, key=lambda name: order.index(name.rpartition("/")[2]))


def _references(place: Path, kind: str) -> list[str]:
    """The pages of one kind, by their short names: their titles are sentences."""
    found = sorted(path.stem for path in (place / REFERENCE).glob(f"*_{kind}.rst"))
    return [f"{name[: -len(kind) - 1]} <{REFERENCE}/{name}>" for name in found]


def reference(place: Path) -> None:
    """Have antsibull-docs write a page for each module, plugin and role of this checkout, as its collection path finds it."""
    place.mkdir(mode=0o755)
    argv = [package.tool("antsibull-docs"), "collection", "--use-current", "--squash-hierarchy", "--fail-on-error", "--no-indexes"]
    argv += ["--no-add-antsibull-docs-version", "--dest-dir", str(place), "selfhosted.llm_stack"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "ANSIBLE_COLLECTIONS_PATH": str(package.BUILD / "collections")}
    subprocess.run(argv, check=True, env=environment)
    # Its own front page would be a second navigation.
    (place / "index.rst").unlink()
    for page in place.glob("*.rst"):
        # The theme shows the parts of a page beside it, and Ansible's own manual is elsewhere.
        text = page.read_text(encoding="utf-8").replace(".. contents::\n   :local:\n   :depth: 1\n", "")
        page.write_text(_ELSEWHERE.sub(r"\1", text), encoding="utf-8")


def build(source: Path, out: Path) -> None:
    """Make the site.

    :raises subprocess.CalledProcessError: something is wrong with a page; Sphinx has said what.
    """
    argv = [package.tool("sphinx-build"), "--builder", "html", "--conf-dir", str(SETTINGS), "--doctree-dir", str(source / ".doctrees")]
    subprocess.run([*argv, "--quiet", "--fail-on-warning", "--keep-going", str(source), str(out)], check=True)


def main(argv: list[str]) -> int:
    """Make the site beside the former one and put it in its place, so that a run that was ended leaves the former one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="where the site goes; what is there is replaced")
    out = parser.parse_args(argv).out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    source, new = out.with_name(f"{out.name}.source"), out.with_name(f"{out.name}.new")
    # Two at a time would write into each other's.
    with out.with_name(f"{out.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if out.exists() and any(out.iterdir()) and not (out / "objects.inv").exists() and out != OUT:
            parser.error(f"{out} holds something else than a site of this manual, and is left alone. Name a new directory.")
        for former in (source, new):
            shutil.rmtree(former, ignore_errors=True)
        lay_out(source)
        build(source, new)
        shutil.rmtree(out, ignore_errors=True)
        new.rename(out)
        shutil.rmtree(source)
    print(f"docs: {sum(1 for _ in out.rglob('*.html'))} pages; open {out / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
