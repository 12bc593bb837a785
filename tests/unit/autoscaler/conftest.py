# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The autoscaler is tested with the stand-ins of the tests of fleets and of recovery."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Iterator

import pytest

sys.path.append(str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parent.parent / "recover"))
sys.path.append(str(Path(__file__).resolve().parent.parent / "selectel"))

from autokit import Site
from engine import serving


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A fleet of three that demand needs two of, all whole."""
    found = Site(tmp_path)
    with serving(found.swarm):
        found.begin()
        yield found
