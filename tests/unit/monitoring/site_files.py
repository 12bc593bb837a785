# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files the role writes, and what it refuses: one run of ansible-playbook for all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
ROLE = ROOT / "roles" / "monitoring"
COLLECTIONS = ROOT / "build" / "collections"
sys.path[:0] = [str(ROLE / "files" / "exporters"), str(ROLE / "files" / "monitor"), str(Path(__file__).resolve().parent)]

PASSWORD, BOT, HOOK = "a-password-of-the-tests", "123456:a-token-of-the-tests", "https://hooks.example.org/a-secret-of-the-tests"
GOOD: dict[str, Any] = {
    "monitoring_grafana_password": PASSWORD,
    "monitoring_status_password": PASSWORD,
    "monitoring_alerts": {
        "email": {"to": "ops@example.org", "smarthost": "mail.example.org:587", "username": "ops", "password": PASSWORD},
        "telegram": {"token": BOT, "chat": -100200},
        "webhook": HOOK,
    },
    "monitoring_thresholds": {"budget": 100},
    "monitoring_storage_address": "192.0.2.11",
    "llm_services_chat": {"enabled": True},
    "__monitoring_engine_asked": {"stdout": "node1 /var/lib/docker\n"},
    "registry_address": "192.0.2.21:5000",
    "storage_host_snapshots": [{"dataset": "llm/data"}],
    "storage_host_nfs_exports": [{"path": "/llm"}],
    "storage_host_pools": [{"name": "llm"}],
    "storage_host_iscsi_targets": [{"wwn": "iqn.a"}, {"wwn": "iqn.b", "state": "present"}, {"wwn": "iqn.c", "state": "absent"}],
}
# Another site, by its name: what differs from the one above.
SITES: dict[str, dict[str, Any]] = {
    "good": {},
    # As numbers come from the command line.
    "short": {
        "monitoring_durations_scale": "0.1",
        "monitoring_thresholds": {
            "budget": "100",
            "scrub_age_days": "40",
            "snapshot_age_hours": "2",
            "pool_fill": "0.8",
            "disk_temperature": "55",
        },
    },
    "plain": {
        "monitoring_alerts": {},
        "monitoring_thresholds": {},
        "monitoring_gpu": "none",
        "monitoring_retention": {"logs": "0h"},
        "llm_services_chat": {},
        "llm_services_engine": "llamacpp",
        "monitoring_storage_targets": [],
        # A check run on a machine that has no engine yet.
        "__monitoring_engine_asked": {"rc": 2, "stdout": ""},
        "monitoring_constraints": ["node.labels.any == true"],
        "llm_services_constraints": ["node.role == manager", "node.labels.edge == true"],
    },
    "acme": {
        "monitoring_grafana_port": 3000,
        "llm_services_tls": {"domains": ["llm.example.org"]},
        "__monitoring_acme_found": {"stat": {"exists": True}},
        "__monitoring_engine_asked": {"stdout": "node1 /srv/docker data"},
    },
    "published": {
        "monitoring_grafana_port": 3000,
        "monitoring_gpu": "datacenter",
        "swarm_manager_encrypted_overlays": True,
        "llm_stack_autoscaler": "true",
        "monitoring_grafana_password": "",
        "gpu_workers_budget": "200",
        "monitoring_thresholds": {},
        "monitoring_storage_readers": ["manager2", "192.0.2.9"],
        "llm_services_tls": {"domains": ["llm.example.org"]},
        "llm_services_constraints": ["node.labels.edge == true"],
        "monitoring_edges": ["192.0.2.31:443"],
        "monitoring_tls_certificate": "/etc/ssl/own.crt",
        "monitoring_tls_key": "/etc/ssl/own.key",
        "__monitoring_readers_found": {
            "results": [{"stdout": "192.0.2.22      STREAM manager2\n192.0.2.22      DGRAM\nfd00::2         STREAM"}]
        },
    },
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "password": (
        {"monitoring_grafana_password": "admin"},
        "monitoring_grafana_password has 5 characters and needs 12; Grafana is not started with its default password.",
    ),
    "status": ({"monitoring_status_password": "short"}, "monitoring_status_password has 5 characters and needs 12."),
    "mail": (
        {"monitoring_alerts": {"email": {"to": "a@b.org"}}},
        "monitoring_alerts cannot work like this: email. email needs to and smarthost",
    ),
    "telegram": ({"monitoring_alerts": {"telegram": {"token": BOT}}}, "monitoring_alerts cannot work like this: telegram."),
    "webhook": ({"monitoring_alerts": {"webhook": "hooks.example.org"}}, "monitoring_alerts cannot work like this: webhook."),
    "retention": ({"monitoring_retention": {"time": "a month"}}, "(as in time: 30d, size: 20GB, logs: 336h or another number of hours"),
    "logs": ({"monitoring_retention": {"logs": "14d"}}, "logs: 336h or another number of hours from 24 on)"),
    "interval": ({"monitoring_interval": "1"}, "monitoring_interval 1 (5 or more)"),
    "scale": ({"monitoring_durations_scale": 0}, "monitoring_durations_scale 0 (above 0)."),
    "limit": ({"monitoring_thresholds": {"pool_full": 1}}, "monitoring_thresholds has pool_full, which is unknown or no number above 0."),
    "negative": (
        {"monitoring_thresholds": {"disk_free": -1}},
        "monitoring_thresholds has disk_free, which is unknown or no number above 0.",
    ),
    "words": (
        {"monitoring_thresholds": {"disk_free": "-3", "pool_fill": "much", "gpu_memory": "0.9", "special_fill": 0, "budget": "x"}},
        "monitoring_thresholds has disk_free, pool_fill, special_fill, budget, which is unknown or no number above 0.",
    ),
    "root": (
        {"engine_paths": {"/var/lib/docker": ["manager1", "gpu1"], "/srv/docker": ["gpu2"]}},
        "data-root at different paths: /var/lib/docker of manager1 gpu1, /srv/docker of gpu2.",
    ),
    "port": (
        {"monitoring_storage_targets": [{"name": "a", "address": "[fd00::1]:9100"}, {"name": "b c", "address": "192.0.2.11"}]},
        "monitoring_storage_targets has the name b c, the address 192.0.2.11. A name has no space",
    ),
    "image": ({"monitoring_images": {"kibana": "x:1"}}, "monitoring_images names kibana, which no service uses."),
}
FILES = {
    "prometheus.yml": "{{ __monitoring_by_name.prometheus_yml }}",
    "rules.yml": "{{ __monitoring_rules }}",
    "loki.yml": "{{ __monitoring_by_name.loki_yml | default('') }}",
    "sources.yml": "{{ __monitoring_by_name.grafana_sources }}",
    "socket-proxy.cfg": "{{ __monitoring_by_name.proxy_cfg }}",
    "alertmanager.yml": "{{ (__monitoring_secrets | first).content }}",
    "stack.json": "{{ __monitoring_compose }}",
    "configs.json": "{{ __monitoring_configs }}",
    "secrets.json": "{{ __monitoring_secrets }}",
    "storage.json": "{{ __monitoring_storage_files }}",
    "paths.json": "{{ __monitoring_engine_paths }}",
}
TASKS: list[dict[str, Any]] = [
    {"ansible.builtin.set_fact": {"__monitoring_engine_paths": "{{ engine_paths }}"}, "when": "engine_paths is defined"},
    {"ansible.builtin.include_role": {"name": "selfhosted.llm_stack.monitoring", "tasks_from": "options", "public": True}},
    {
        "ansible.builtin.copy": {"content": "{{ __monitoring_texts | to_json }}", "dest": "{{ place }}/{{ inventory_hostname }}.json"},
        "vars": {
            "__monitoring_texts": FILES,
            "__monitoring_by_name": "{{ __monitoring_configs | selectattr('content', 'defined') | items2dict('name', 'content') }}",
        },
    },
]


@dataclass(frozen=True)
class Written:
    """What the run left.

    :param output: its output with line breaks folded.
    """

    output: str
    place: Path

    def text(self, site: str, name: str) -> str:
        """One file of a site."""
        return (self.place / site / name).read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Write the files of every site, and try what is refused."""
    place = tmp_path_factory.mktemp("monitoring")
    common = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "place": str(place)}
    hosts = {name: {**GOOD, **more} for name, more in SITES.items()}
    hosts.update({f"refused_{name}": {**GOOD, **more} for name, (more, _text) in REFUSED.items()})
    groups = {
        "swarm_managers": {
            "hosts": {
                "manager1": {"ansible_host": "192.0.2.21"},
                "manager2": {"storage_backup_archives": [{"name": "state", "passphrase": PASSWORD}]},
            },
            "vars": {"docker_engine_daemon": {"data-root": "/srv/docker", "icc": False}},
        },
        "storage_hosts": {
            "hosts": {
                "storage1": {
                    "ansible_host": "192.0.2.11",
                    "storage_host_models_tokens": [{"name": "a", "token": "b" * 16}],
                    "storage_backup_replications": [{"name": "data"}],
                },
                "storage2": {
                    "ansible_host": "fd00::12",
                    "storage_host_models_https_port": 9443,
                    "storage_host_models_tokens": [{"name": "a", "token": "b" * 16}],
                },
                # Known by its name alone; and one that gives nothing out.
                "storage3.example.org": {"storage_host_models_tokens": [{"name": "a", "token": "b" * 16}]},
                "storage4": {
                    "ansible_host": "192.0.2.14",
                    "storage_host_models_tokens": [],
                    "storage_backup_replications": [{"name": "unwanted"}],
                    "llm_stack_backup": "no",
                },
            }
        },
        "sites": {"hosts": hosts, "vars": common},
    }
    (place / "hosts.json").write_text(json.dumps({"all": {"children": groups}}))
    # The managers are the same for all sites, but one site wants no backups.
    without = [{"ansible.builtin.set_fact": {"llm_stack_backup": "false"}}]
    parts: list[tuple[str, list[dict[str, Any]]]] = [("sites:!plain", TASKS), ("swarm_managers", without), ("plain", TASKS)]
    (place / "play.json").write_text(json.dumps([{"hosts": where, "gather_facts": False, "tasks": tasks} for where, tasks in parts]))
    for folder in ("templates", "files"):
        # The play looks beside itself for what the role finds in its own folders.
        (place / folder).symlink_to(ROLE / folder)
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), "ANSIBLE_NOCOLOR": "1", "COLUMNS": "200"}
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "hosts.json", "play.json"]
    ended = subprocess.run(argv, cwd=place, env=environment, capture_output=True, text=True, check=False)
    for name in SITES:
        assert (place / f"{name}.json").exists(), ended.stdout + ended.stderr
        (place / name).mkdir()
        for file, content in json.loads((place / f"{name}.json").read_text(encoding="utf-8")).items():
            (place / name / file).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return Written(" ".join(ended.stdout.split()), place)


def tool(*argv: str) -> str:
    """Run a program that must accept what it is given; return what it says."""
    ended = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stdout
    return ended.stdout
