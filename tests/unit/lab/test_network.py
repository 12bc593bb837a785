# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's bridge in a namespace of its own."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "lab"))

from labkit import network
from labkit.config import Paths
from labkit.process import run


def test_the_bridge_keeps_its_address_when_machines_come_and_go(tmp_path: Path) -> None:
    """Without one of its own it takes the lowest of its ports; everyone who spoke to it would wait for a stale neighbour."""
    paths = Paths(tmp_path)
    network.create(paths)
    try:
        show = ["ip", "-n", paths.namespace, "-br", "link", "show", "br0"]
        before = run(show).stdout.split()[2]
        network.add_namespace(paths, "one", "10.77.0.99")
        run(["ip", "-n", paths.namespace, "link", "set", "one", "address", "00:00:00:00:00:02"])
        assert run(show).stdout.split()[2] == before
        network.remove_namespace(paths, "one")
        assert run(show).stdout.split()[2] == before
    finally:
        network.remove_namespace(paths, "one")
        network.destroy(paths)
