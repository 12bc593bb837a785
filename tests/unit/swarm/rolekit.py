# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection with other modules in the place of those that need an engine, so that its roles can be run without one."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def stand_in(place: Path, **modules: str) -> Path:
    """Write such collections, and return where they are; modules whose names begin with docker are community.docker's."""
    ours = place / "collections" / "ansible_collections" / "selfhosted" / "llm_stack"
    theirs = ours.parent.parent / "community" / "docker" / "plugins" / "modules"
    (ours / "plugins" / "modules").mkdir(parents=True)
    theirs.mkdir(parents=True)
    for name in ("roles", "meta", "galaxy.yml", "plugins/module_utils"):
        (ours / name).symlink_to(ROOT / name)
    for name, text in modules.items():
        ((theirs if name.startswith("docker") else ours / "plugins" / "modules") / f"{name}.py").write_text(text)
    return place / "collections"
