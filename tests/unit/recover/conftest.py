# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recovery is tested with the stand-in cloud and the options of the tests of fleets."""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest

sys.path.append(str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parent.parent / "selectel"))

from controlkit import Control, Kept, summary
from engine import serving
from standin_cloud import StandinCloud
from standin_swarm import Edge, Swarm, answering


@contextlib.contextmanager
def reached(place: Path) -> Iterator[Control]:
    """A control node in an empty place, and all it reaches."""
    names = [place / "tls.crt", place / "tls.key"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    request = ["openssl", "req", "-x509", *key, "-subj", "/CN=edge", "-days", "2", "-out", str(names[0]), "-keyout", str(names[1])]
    subprocess.run(request, check=True, capture_output=True)
    (place / "cloud").write_bytes(pickle.dumps(StandinCloud()))
    with serving(Swarm(place)) as swarm:
        for edge in answering(Edge(swarm, *names)):
            yield Control(place, swarm, edge)


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    with reached(tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """What a first run, which makes the fleet, leaves in the cloud and in the swarm."""
    with reached(tmp_path_factory.mktemp("first_run")) as control:
        ended = control.recover()
        assert ended.returncode == 0
        assert summary(ended)["repaired"] == ["gpu1", "gpu2"]
        return control.kept()


@pytest.fixture
def whole(control: Control, first_run: Kept) -> Control:
    """After a first run."""
    control.take_over(first_run)
    return control
