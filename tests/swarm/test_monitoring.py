# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Monitoring and backups on a swarm, with a real Prometheus and its family: what goes wrong is told, and told to be over.

Grafana, cAdvisor and the GPU exporter are stand-ins. What needs ZFS is in tests/lab/test_storage_backup.py.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Iterator
from urllib.parse import quote

import pytest
import yaml
from conftest import HERE
from labkit import debs, network
from labkit.artifacts import prepare, python
from labkit.config import REPO
from labkit.lab import Lab
from labkit.play import Outcome
from places import MANAGER, MODELS, SITE, WORKERS
from test_swarm_chat import CHAT

pytestmark = pytest.mark.long

Docker = Callable[[str], str]
Run = Callable[..., Outcome]
GRAFANA_PASSWORD = "lab-only-grafana-password"
PASSPHRASE = "lab-only-borg-passphrase"
HOOK_PORT = "8447"
IMAGES = {
    "prometheus": "prometheus",
    "alertmanager": "alertmanager",
    "grafana": "grafana-standin",
    "node_exporter": "node-exporter",
    "cadvisor": "cadvisor-standin",
    "blackbox": "blackbox-exporter",
    "geforce": "gpu-exporter-standin",
    "python": "python-plain",
}
# What a storage host alone can tell. Every other query has to give data here.
STORAGE = ("node_zfs_", "zfs_", "smartmon_", "node_nfsd_", "iscsi_")
ARCHIVE = {
    "name": "manager",
    "paths": ["/var/lib/llm-stack/swarm-backup", "/var/lib/llm-stack/chat", "/var/lib/llm-stack/monitoring/grafana"],
    "databases": ["/var/lib/llm-stack/chat/analytics/analytics.sqlite"],
    "repository": "/srv/borg",
    "passphrase": PASSPHRASE,
}


def variables() -> dict[str, Any]:
    """What turns chat, monitoring and backups on, and the images they stand on."""
    images = yaml.safe_load((HERE / "inventory" / "group_vars" / "all.yml").read_text())["registry_images"]
    names = ["python", "chroma", *IMAGES.values()]
    more = [{"name": f"llm/{name}:lab", "archive": f"{{{{ __images }}}}/{name}.tar"} for name in names]
    return {
        "registry_images": [*images, *more],
        "llm_services_chat": CHAT,
        "llm_stack_monitoring": True,
        "monitoring_images": {name: f"{{{{ registry_address }}}}/llm/{image}:lab" for name, image in IMAGES.items()},
        "monitoring_grafana_password": GRAFANA_PASSWORD,
        "monitoring_grafana_port": 3000,
        "monitoring_interval": 5,
        "monitoring_durations_scale": 0.1,
        "monitoring_alerts": {"webhook": f"http://{MODELS[0]}:{HOOK_PORT}/"},
        "monitoring_thresholds": {"budget": 100},
        "storage_backup_archives": [ARCHIVE],
    }


@pytest.fixture(scope="module")
def told(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What Alertmanager has told so far, oldest first."""
    file = tmp_path_factory.mktemp("alerts") / "alerts.jsonl"
    file.touch()
    argv = [*network.inside(lab.paths), str(python()), str(HERE / "alert_receiver.py"), MODELS[0], HOOK_PORT, str(file)]
    server = subprocess.Popen(argv)
    yield lambda: [json.loads(line) for line in file.read_text().splitlines()]
    server.terminate()
    server.wait(10)


@pytest.fixture(scope="module")
def watched(converged: Lab, run: Run, told: object) -> Lab:
    """The swarm with all of it, after one run; whatever it deploys is taken away again, for others use these machines."""
    prepare(converged.paths, chat=True, monitoring=True)
    debs.offer(converged, MANAGER, "borgmatic", "borgbackup")
    assert run(*SITE, "monitoring", "backup", **variables()).status == 0
    return converged


@pytest.fixture(scope="module")
def on_manager(watched: Lab) -> Callable[[str], str]:
    return lambda command: watched.ssh(MANAGER, command).strip()


@pytest.fixture(scope="module")
def prometheus(watched: Lab) -> Callable[[str], Any]:
    """Ask Prometheus, from inside its container: nothing of it is published."""

    def ask(path: str) -> Any:
        find = "docker ps --quiet --filter label=com.docker.swarm.service.name=monitoring_prometheus --filter health=healthy"
        got = watched.ssh(MANAGER, f"docker exec $({find}) wget -q -O - {shlex.quote('http://127.0.0.1:9090/api/v1/' + path)}")
        return json.loads(got)["data"]

    return ask


def query(prometheus: Callable[[str], Any], text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = prometheus(f"query?query={quote(text)}")["result"]
    return found


def panels() -> dict[str, str]:
    """The query of every panel, by dashboard, panel and number."""
    found = {}
    for path in sorted((REPO / "roles" / "monitoring" / "files" / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                found[f"{path.stem}: {panel['title']} {target['refId']}"] = target["expr"].replace("$__rate_interval", "1m")
    return found


def of_storage(text: str) -> bool:
    return any(name in text for name in STORAGE)


# --- it runs ----------------------------------------------------------------------------------------------------------------------
def test_the_second_run_changes_nothing(watched: Lab, run: Run) -> None:
    outcome = run(*SITE, "monitoring", "backup", **variables())
    assert (outcome.status, outcome.changed) == (0, ())


def test_every_service_runs_and_every_target_answers(prometheus: Callable[[str], Any], docker: Docker, until: Any) -> None:
    listed = docker("service ls --filter label=com.docker.stack.namespace=monitoring --format '{{.Name}} {{.Replicas}}'")
    counts = {line.split()[0]: line.split()[1] for line in listed.splitlines()}
    assert {name for name, count in counts.items() if len(set(count.split("/"))) != 1} == set()
    assert counts["monitoring_node_exporter"] == counts["monitoring_cadvisor"] == "3/3"
    assert counts["monitoring_gpu_exporter"] == "2/2"
    until(lambda: [one["metric"] for one in query(prometheus, "up == 0")], [], seconds=90)
    jobs = {one["metric"]["job"]: one["value"][1] for one in query(prometheus, "sum by (job) (up)")}
    print(f"targets: {jobs}")
    assert jobs["node_exporter"] == jobs["cadvisor"] == "3"
    assert jobs["gpu_exporter"] == jobs["ollama"] == "2"
    assert {"prometheus", "alertmanager", "balancer", "chat", "chroma", "edge", "certificates"} <= set(jobs)
