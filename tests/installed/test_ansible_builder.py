# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The execution environment of examples/controller_project, up to what a container engine is handed; tests/swarm builds it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
PROJECT = ROOT / "examples" / "controller_project"
DEFINITION = yaml.safe_load((PROJECT / "execution-environment.yml").read_text())
sys.path.insert(0, str(ROOT / "tests" / "tools"))

import package  # noqa: E402 - importable after the line above


def builder(*argv: str, cwd: Path) -> str:
    command = [package.tool("ansible-builder"), *argv]
    ended = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ansible-builder makes of a copy of the project, as the documentation says."""
    place = tmp_path_factory.mktemp("project")
    copied = shutil.copytree(PROJECT, place / "copy")
    builder("create", "-f", "execution-environment.yml", "--context", "../context", "--output-filename", "Containerfile", cwd=copied)
    return place / "context"


def test_the_context_has_the_collection_as_the_project_pins_it(context: Path) -> None:
    wanted = yaml.safe_load((context / "_build" / "requirements.yml").read_text())["collections"]
    assert wanted == yaml.safe_load((PROJECT / "collections" / "requirements.yml").read_text())["collections"]
    assert "selfhosted.llm_stack" in [one["name"] for one in wanted]
    steps = (context / "Containerfile").read_text()
    assert re.search(r"^RUN .*ansible-galaxy collection install .*-r requirements.yml", steps, re.MULTILINE)
    # What the collections need is asked of them.
    assert re.search(r"^RUN .*introspect.py introspect ", steps, re.MULTILINE)


def test_the_context_stands_on_the_base_and_uses_its_package_manager_alone(context: Path) -> None:
    steps = (context / "Containerfile").read_text()
    assert f'ARG EE_BASE_IMAGE="{DEFINITION["images"]["base_image"]["name"]}"\n' in steps
    assert 'ARG PKGMGR="/usr/bin/apt-get"\n' in steps
    assert "dnf" not in steps
    assert "scripts/pip_install" not in steps


def test_the_programs_are_pinned_to_what_is_tried_here(context: Path) -> None:
    pins = [DEFINITION["dependencies"][name]["package_pip"] for name in ("ansible_core", "ansible_runner")]
    assert f'ARG ANSIBLE_INSTALL_REFS="{" ".join(pins)}"\n' in (context / "Containerfile").read_text()
    for lock in ("execution-environment.txt", "core-2.21.txt"):
        assert f"{pins[0]} \\\n" in (ROOT / "requirements" / lock).read_text(), lock
    for lock in ("execution-environment.txt", "runner.txt"):
        assert f"{pins[1]} \\\n" in (ROOT / "requirements" / lock).read_text(), lock


def test_the_installed_collection_says_what_it_needs() -> None:
    found: dict[str, Any] = yaml.safe_load(builder("introspect", str(package.install(ROOT / "build" / "introspected")), cwd=ROOT))
    assert found == {"python": ["openstacksdk>=1.0.0  # from collection selfhosted.llm_stack"], "system": []}
