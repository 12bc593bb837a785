# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recovery is tested with the stand-in cloud and the options of the tests of fleets."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest

sys.path.append(str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parent.parent / "selectel"))

from controlkit import Control, summary
from engine import serving
from standin_cloud import StandinCloud
from standin_swarm import Edge, Swarm, answering


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    names = [tmp_path / "tls.crt", tmp_path / "tls.key"]
    request = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=edge",
        "-days",
        "2",
    ]
    subprocess.run([*request, "-out", str(names[0]), "-keyout", str(names[1])], check=True, capture_output=True)
    (tmp_path / "cloud").write_bytes(pickle.dumps(StandinCloud()))
    with serving(Swarm(tmp_path)) as swarm:
        for edge in answering(Edge(swarm, *names)):
            yield Control(tmp_path, swarm, edge)


@pytest.fixture
def whole(control: Control) -> Control:
    """After a first run, which makes the fleet."""
    ended = control.recover()
    assert ended.returncode == 0
    assert summary(ended)["repaired"] == ["gpu1", "gpu2"]
    return control
