# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference: every machine with a kernel of its own."""

from __future__ import annotations

import pytest
from labkit import demo
from labkit.artifacts import prepare
from labkit.lab import Lab
from labkit.play import SITE, play


@pytest.mark.long
def test_the_site_converges_on_virtual_machines_alone(capfd: pytest.CaptureFixture[str]) -> None:
    lab = Lab()
    lab.down(discard=True)
    try:
        lab.up(all_vm=True)
        prepare(lab.paths)
        assert {found.kind for found in lab.machines()} == {"vm"}
        assert play(lab, SITE).status == 0
        demo.ask(lab)
        assert "pieces from engine" in capfd.readouterr().out
        assert play(lab, SITE).changes == 0
    finally:
        lab.down(discard=True)
