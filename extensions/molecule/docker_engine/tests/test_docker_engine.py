# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine as it is after the role ran."""

from __future__ import annotations

import json
from typing import Any


def test_the_engine_runs_and_comes_back_at_boot(host: Any) -> None:
    service = host.service("docker")
    assert service.is_running, host.run("journalctl --no-pager -n 30 -u docker").stdout
    assert service.is_enabled


def test_it_is_new_enough_for_gpus_in_a_swarm(host: Any) -> None:
    assert int(host.check_output("docker version --format '{{.Server.Version}}'").split(".")[0]) >= 26


def test_logs_have_limits(host: Any) -> None:
    settings = json.loads(host.file("/etc/docker/daemon.json").content_string)
    assert settings["log-opts"] == {"max-size": "10m", "max-file": "3"}
    assert host.check_output("docker info --format '{{.LoggingDriver}}'") == "json-file"


def test_what_an_engine_left_of_an_overlay_network_is_gone_when_it_starts_again(host: Any) -> None:
    left, foreign = "vx-001001-abcde", "vxlan-abcde"
    for number, device in enumerate((left, foreign)):
        host.run_test(f"ip link add {device} type vxlan id {4097 + number} dstport 4789")
    try:
        host.run_test("systemctl restart docker")
        devices = host.check_output("ip -oneline link show type vxlan")
        assert left not in devices
        assert foreign in devices
    finally:
        host.run(f"ip link delete {foreign}")
