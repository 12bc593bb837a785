# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection with other modules in the place of those that need an engine, so that its roles can be run without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]


def stand_in(place: Path, **modules: str) -> None:
    """Write such collections below a place; modules whose names begin with docker are community.docker's."""
    ours = place / "collections" / "ansible_collections" / "selfhosted" / "llm_stack"
    theirs = ours.parent.parent / "community" / "docker" / "plugins" / "modules"
    (ours / "plugins" / "modules").mkdir(parents=True)
    theirs.mkdir(parents=True)
    for name in ("roles", "meta", "galaxy.yml", "plugins/module_utils"):
        (ours / name).symlink_to(ROOT / name)
    for name, text in modules.items():
        ((theirs if name.startswith("docker") else ours / "plugins" / "modules") / f"{name}.py").write_text(text)


def run_play(place: Path, play: dict[str, Any], *arguments: str, **environment: str) -> str:
    """Run a play with the stand-ins and the hosts.yml of a place; its status and what was said, on one line."""
    (place / "play.yml").write_text(yaml.safe_dump([play]))
    given = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(place / "collections"), "ANSIBLE_NOCOLOR": "1", **environment}
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "hosts.yml", "play.yml", *arguments]
    ended = subprocess.run(argv, cwd=place, env=given, capture_output=True, text=True, check=False)
    print(ended.stdout, ended.stderr)
    return " ".join(f"rc={ended.returncode} {ended.stdout}".split())
