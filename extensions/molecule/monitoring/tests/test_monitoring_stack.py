# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The monitoring as it is after the role ran."""

from __future__ import annotations

import json
from typing import Any

FIND = "docker ps --quiet --filter health=healthy --filter label=com.docker.swarm.service.name="


def ask(host: Any, path: str) -> Any:
    """Ask Prometheus from inside its container: nothing of it is published."""
    found = host.check_output(f"docker exec $({FIND}monitoring_prometheus) wget -q -O - 'http://127.0.0.1:9090/api/v1/{path}'")
    return json.loads(found)["data"]


def test_every_service_has_all_its_tasks(host: Any) -> None:
    shown = host.check_output("docker service ls --filter label=com.docker.stack.namespace=monitoring --format '{{.Name}} {{.Replicas}}'")
    counts = dict(line.split() for line in shown.splitlines())
    assert {f"monitoring_{name}" for name in ("prometheus", "alertmanager", "grafana", "swarm_monitor", "node_exporter", "loki")} <= set(
        counts
    )
    assert [name for name, count in counts.items() if len(set(count.split("/"))) != 1] == []


def test_prometheus_reads_its_rules_and_its_targets(host: Any) -> None:
    names = {rule["name"] for group in ask(host, "rules")["groups"] for rule in group["rules"]}
    assert len(names) > 55
    jobs = {target["labels"]["job"] for target in ask(host, "targets?state=active")["activeTargets"]}
    assert {"prometheus", "alertmanager", "swarm_monitor", "node_exporter", "cadvisor", "gpu_exporter", "balancer", "edge"} <= jobs


def test_nothing_but_grafana_listens_for_others(host: Any) -> None:
    assert host.socket("tcp://3000").is_listening
    for port in (2375, 3100, 9090, 9093, 9100, 9115, 9778, 9779):
        assert not host.socket(f"tcp://{port}").is_listening


def test_passwords_are_in_secrets_and_data_is_private(host: Any) -> None:
    services = host.check_output("docker service inspect monitoring_grafana monitoring_swarm_monitor monitoring_alertmanager")
    assert "lab-only-" not in services
    for name, owner in (("prometheus", 65534), ("grafana", 472), ("monitor", 10001)):
        folder = host.file(f"/var/lib/llm-stack/monitoring/{name}")
        assert (folder.uid, folder.mode) == (owner, 0o700)
