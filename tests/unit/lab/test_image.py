# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The image is built once, also when two labs want it at the same time."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "lab"))

from labkit import image
from labkit.config import Paths


def test_two_labs_that_want_the_same_image_build_it_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLM_LAB_CACHE", str(tmp_path / "cache"))
    paths, built, second = Paths(tmp_path), [], threading.Event()
    wanted = image.image(paths)
    # What a build that was killed left behind.
    wanted.directory.mkdir(parents=True)
    (wanted.directory / "half").touch()

    def tree(found: image.Image, _suite: str) -> None:
        built.append(found.directory)
        second.wait(10)
        # Nobody has taken the directory away meanwhile.
        assert [path.name for path in found.directory.iterdir()] == ["keys"]

    monkeypatch.setattr(image, "_keys", lambda found: (found.directory / "keys").touch())
    monkeypatch.setattr(image, "_tree", tree)
    monkeypatch.setattr(image, "_disk", lambda _found: None)
    with ThreadPoolExecutor(2) as labs:
        builds = [labs.submit(image.build, paths) for _lab in range(2)]
        second.set()
        for build in builds:
            build.result()
    assert built == [wanted.directory]
    assert wanted.complete
