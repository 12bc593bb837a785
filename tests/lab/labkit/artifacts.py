# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab's inventory refers to: container images as archives, and a model with its checksum."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from .config import REPO, Paths
from .images import CHAT_RECIPES, MONITORING_RECIPES, RECIPES, build_images
from .process import run
from .say import LabError, say, step

GENERATOR = REPO / "tests" / "standins" / "tiny_gguf.py"


def prepare(paths: Paths, *, chat: bool = False, monitoring: bool = False) -> None:
    """Make the images and the model where they are missing, and link them below .lab/artifacts.

    :param chat: whether the images that the chat service stands on are wanted too.
    :param monitoring: likewise those of the monitoring.
    """
    place = paths.state / "artifacts"
    (place / "images").mkdir(parents=True, exist_ok=True)
    recipes = (*RECIPES, *(CHAT_RECIPES if chat else ()), *(MONITORING_RECIPES if monitoring else ()))
    for name, archive in build_images(paths.cache, say=say, recipes=recipes).items():
        link = place / "images" / f"{name}.tar"
        link.unlink(missing_ok=True)
        link.symlink_to(archive)
    model = place / "tiny.gguf"
    if not model.exists():
        with step("making a tiny model"):
            run([str(python()), str(GENERATOR), str(model)])
    model.with_name("tiny.gguf.sha256").write_text(hashlib.sha256(model.read_bytes()).hexdigest())


def python() -> Path:
    """The interpreter of the development environment, which has what the tests need.

    :raises LabError: when neither this one nor the checkout's is it.
    """
    for candidate in (Path(sys.executable), REPO / ".venv" / "bin" / "python"):
        if (candidate.parent / "ansible-playbook").exists():
            return candidate
    raise LabError("The development environment is missing: run `make venv` first (make demo does).")
