# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The swarm as it is after the role ran."""

from __future__ import annotations

import json
from typing import Any

# As in inventories/lab.
ADDRESS = "10.77.0.21"


def test_the_machine_is_the_leader_of_a_swarm(host: Any) -> None:
    swarm = json.loads(host.check_output("docker info --format '{{json .Swarm}}'"))
    assert (swarm["LocalNodeState"], swarm["ControlAvailable"]) == ("active", True)
    assert swarm["Cluster"]["Spec"]["Dispatcher"]["HeartbeatPeriod"] == 5 * 10**9


def test_it_is_reached_where_the_inventory_says(host: Any) -> None:
    assert host.check_output("docker info --format '{{.Swarm.NodeAddr}}'") == ADDRESS
    assert host.socket("tcp://2377").is_listening
