# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rulebook names alerts that the monitoring has, and playbooks that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent.parent
RULEBOOK = ROOT / "extensions" / "eda" / "rulebooks" / "recover.yml"


def test_the_rulebook_fits_the_monitoring_and_the_playbooks() -> None:
    (ruleset,) = yaml.safe_load(RULEBOOK.read_text())
    alerts = set(re.findall(r"- alert: (\w+)", (ROOT / "roles/monitoring/templates/rules.yml.j2").read_text()))
    assert ruleset["rules"]
    for rule in ruleset["rules"]:
        named = json.loads("[" + rule["condition"].partition("[")[2])
        assert named
        assert set(named) <= alerts
        _namespace, _collection, playbook = rule["action"]["run_playbook"]["name"].split(".")
        assert (ROOT / "playbooks" / f"{playbook}.yml").exists()
