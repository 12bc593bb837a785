# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""GPU servers as they are after the role ran on them."""

from __future__ import annotations

import json
from typing import Any


def test_the_machine_is_a_node_of_the_swarm(host: Any) -> None:
    assert host.check_output("docker info --format '{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}'") == "active false"


def test_every_gpu_is_advertised_by_its_full_uuid(host: Any) -> None:
    gpus = host.check_output("nvidia-smi --query-gpu=uuid --format=csv,noheader").split()
    settings = json.loads(host.file("/etc/docker/daemon.json").content_string)
    assert settings["node-generic-resources"] == [f"GPU={gpu}" for gpu in gpus]


def test_the_models_are_here_and_whole(host: Any) -> None:
    assert json.loads(host.check_output("/usr/local/sbin/llm-model-sync --check"))["changed"] is False
    assert host.service("llm-model-sync").is_enabled


def test_it_sees_to_its_membership_with_each_start_of_the_engine(host: Any) -> None:
    assert "llm-swarm-rejoin.service" in host.check_output("systemctl show docker --property=Wants")
    assert "is the node" in host.check_output("/usr/local/sbin/llm-swarm-rejoin join")
    assert "are those that are here" in host.check_output("/usr/local/sbin/llm-swarm-rejoin gpus")
