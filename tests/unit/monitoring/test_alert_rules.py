# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every alert fires on what it is for and on nothing beside it, with its lengths of time as they are and shrunk to a tenth."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from site_files import ROOT, Written

DAY, HOUR = 86400, 3600
# A series and its values; {t} is a time of that many seconds before the evaluation, scaled as the rules are.
Series = dict[str, str]
pytestmark = pytest.mark.one_core

# By alert: what makes it fire, and what must not although it is near.
CASES: dict[str, tuple[Series, Series]] = {
    "TargetDown": ({'up{job="cadvisor",instance="gpu1"}': "0x99"}, {'up{job="cadvisor",instance="gpu1"}': "1x99"}),
    "AlertsNotSent": (
        {'alertmanager_notifications_failed_total{integration="email"}': "0+9x99"},
        {'alertmanager_notifications_failed_total{integration="email"}': "9x99"},
    ),
    "ZfsPoolMissing": ({'zfs_pool_imported{pool="llm"}': "0x99"}, {'zfs_pool_imported{pool="llm"}': "1x99"}),
    "ZfsPoolNotOnline": (
        {'node_zfs_zpool_state{zpool="llm",state="degraded"}': "1x99", 'node_zfs_zpool_state{zpool="llm",state="online"}': "0x99"},
        {'node_zfs_zpool_state{zpool="llm",state="degraded"}': "0x99", 'node_zfs_zpool_state{zpool="llm",state="online"}': "1x99"},
    ),
    "ZfsVdevUnhealthy": (
        {'zfs_vdev_healthy{pool="llm",vdev="/dev/a",state="FAULTED"}': "0x99"},
        {'zfs_vdev_healthy{pool="llm",vdev="/dev/a",state="ONLINE"}': "1x99"},
    ),
    "ZfsVdevErrors": ({'zfs_vdev_errors{pool="llm",kind="read"}': "3x99"}, {'zfs_vdev_errors{pool="llm",kind="read"}': "0x99"}),
    "ZfsDataErrors": ({'zfs_pool_data_errors{pool="llm"}': "1x99"}, {'zfs_pool_data_errors{pool="llm"}': "0x99"}),
    "ZfsScrubOverdue": (
        {'zfs_pool_scrub_last_timestamp_seconds{pool="llm"}': f"age {41 * DAY}"},
        {'zfs_pool_scrub_last_timestamp_seconds{pool="llm"}': f"age {38 * DAY}"},
    ),
    "ZfsNeverScrubbed": (
        {'zfs_pool_created_timestamp_seconds{pool="llm",instance="a"}': f"age {41 * DAY}"},
        {
            'zfs_pool_created_timestamp_seconds{pool="llm",instance="a"}': f"age {41 * DAY}",
            'zfs_pool_scrub_last_timestamp_seconds{pool="llm",instance="a"}': f"age {DAY}",
            'zfs_pool_created_timestamp_seconds{pool="new",instance="a"}': f"age {39 * DAY}",
            # Its first one takes its time.
            'zfs_pool_created_timestamp_seconds{pool="big",instance="a"}': f"age {41 * DAY}",
            'zfs_pool_scanning{pool="big",instance="a"}': "1x99",
        },
    ),
    "ZfsPoolFilling": (
        {'zfs_pool_allocated_bytes{pool="llm",class="normal"}': "81x99", 'zfs_pool_size_bytes{pool="llm",class="normal"}': "100x99"},
        {
            'zfs_pool_allocated_bytes{pool="llm",class="normal"}': "79x99",
            'zfs_pool_size_bytes{pool="llm",class="normal"}': "100x99",
            # A cache is full by design.
            'zfs_pool_allocated_bytes{pool="llm",class="cache"}': "99x99",
            'zfs_pool_size_bytes{pool="llm",class="cache"}': "100x99",
        },
    ),
    "ZfsSpecialFilling": (
        {'zfs_pool_allocated_bytes{pool="llm",class="special"}': "76x99", 'zfs_pool_size_bytes{pool="llm",class="special"}': "100x99"},
        {'zfs_pool_allocated_bytes{pool="llm",class="special"}': "74x99", 'zfs_pool_size_bytes{pool="llm",class="special"}': "100x99"},
    ),
    "ZfsCacheErrors": (
        {"node_zfs_arc_l2_io_error": "0+1x99", "node_zfs_arc_l2_cksum_bad": "0x99"},
        {"node_zfs_arc_l2_io_error": "5x99", "node_zfs_arc_l2_cksum_bad": "0x99"},
    ),
    "ZfsSnapshotsOld": (
        {
            'zfs_dataset_snapshot_newest_timestamp_seconds{dataset="llm/data"}': f"age {4 * HOUR}",
            'zfs_dataset_snapshot_interval_seconds{dataset="llm/data"}': f"{HOUR}x99",
        },
        {
            'zfs_dataset_snapshot_newest_timestamp_seconds{dataset="llm/data"}': f"age {2 * HOUR}",
            'zfs_dataset_snapshot_interval_seconds{dataset="llm/data"}': f"{HOUR}x99",
            # A policy without hourly ones is not late for hours.
            'zfs_dataset_snapshot_newest_timestamp_seconds{dataset="llm/other"}': f"age {20 * HOUR}",
            'zfs_dataset_snapshot_interval_seconds{dataset="llm/other"}': f"{DAY}x99",
        },
    ),
    "StorageCollectorStale": (
        {"llm_storage_collected_timestamp_seconds": "age 1500"},
        # A worker has no such files, and Debian's exporter calls that an error.
        {
            'llm_storage_collected_timestamp_seconds{job="storage",instance="a"}': "now",
            'up{job="storage",instance="a"}': "1x99",
            'node_textfile_scrape_error{job="node_exporter"}': "1x99",
            # Of one that does not answer another alert tells.
            'up{job="storage",instance="b"}': "0x99",
        },
    ),
    "NfsServerDown": (
        {'node_systemd_unit_state{name="nfs-server.service",state="active"}': "0x99"},
        {
            'node_systemd_unit_state{name="nfs-server.service",state="active"}': "1x99",
            'node_systemd_unit_state{name="rtslib-fb-targetctl.service",state="active"}': "0x99",
            # Nobody wants it there.
            'llm_storage_nfs_exports{instance="b"}': "0x99",
        },
    ),
    "NfsBadCalls": ({'node_nfsd_rpc_errors_total{error="auth"}': "0+60x99"}, {'node_nfsd_rpc_errors_total{error="auth"}': "0+0.1x99"}),
    "IscsiTargetClosed": ({'iscsi_portal_group_enabled{target="iqn.a"}': "0x99"}, {'iscsi_portal_group_enabled{target="iqn.a"}': "1x99"}),
    "IscsiSessionLost": (
        {'iscsi_initiator_logged_in{initiator="iqn.b"}': "1x2 0x99"},
        {'iscsi_initiator_logged_in{initiator="iqn.b"}': "0x99"},
    ),
    "SmartFailing": (
        {
            'smartmon_device_smart_healthy{disk="/dev/nvme0",type="nvme"}': "0x99",
            'smartmon_device_smart_available{disk="/dev/nvme0",type="nvme"}': "0x99",
        },
        {
            'smartmon_device_smart_healthy{disk="/dev/sda",type="sat"}': "1x99",
            'smartmon_device_smart_available{disk="/dev/sda",type="sat"}': "1x99",
            # A disk of a virtual machine knows nothing of itself.
            'smartmon_device_smart_healthy{disk="/dev/sdb",type="scsi"}': "0x99",
            'smartmon_device_smart_available{disk="/dev/sdb",type="scsi"}': "0x99",
        },
    ),
    "SmartBadSectors": (
        {'smartmon_current_pending_sector_raw_value{disk="/dev/sda"}': "8x99"},
        {'smartmon_current_pending_sector_raw_value{disk="/dev/sda"}': "0x99"},
    ),
    "SmartHot": ({"smartmon_temperature_celsius_raw_value": "56x99"}, {"smartmon_temperature_celsius_raw_value": "54x99"}),
    "SmartUnread": (
        {'smartmon_smartctl_run{disk="/dev/sda"}': f"age {4 * HOUR}"},
        {
            'smartmon_smartctl_run{disk="/dev/sda"}': f"age {HOUR}",
            # It has slept, but not all the day; and one that has just come.
            'smartmon_device_active{disk="/dev/sda"}': "0x20 1x1 0x77",
            'smartmon_device_active{disk="/dev/sdb"}': "_x50 0x49",
        },
    ),
    "GpuHot": ({'nvidia_smi_temperature_gpu{node="gpu1",uuid="a"}': "88x99"}, {'DCGM_FI_DEV_GPU_TEMP{node="gpu1",UUID="a"}': "86x99"}),
    "GpuEccErrors": (
        {'nvidia_smi_ecc_errors_uncorrected_volatile_total{node="gpu1",uuid="a"}': "1x99"},
        # A row that was remapped in a former life of the card.
        {'DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS{node="gpu1",UUID="a"}': "1x99"},
    ),
    "GpuRowRemapFailed": (
        {'DCGM_FI_DEV_ROW_REMAP_FAILURE{node="gpu1",UUID="a"}': "1x99"},
        {'DCGM_FI_DEV_ROW_REMAP_FAILURE{node="gpu1",UUID="a"}': "0x99"},
    ),
    "GpuOffTheBus": (
        {
            'swarm_node_gpus{node="gpu1",node_id="1"}': "2x99",
            'swarm_node_up{node="gpu1",node_id="1"}': "1x99",
            'nvidia_smi_temperature_gpu{node="gpu1",uuid="a"}': "50x99",
        },
        {
            'swarm_node_gpus{node="gpu1",node_id="1"}': "1x99",
            'swarm_node_up{node="gpu1",node_id="1"}': "1x99",
            'nvidia_smi_temperature_gpu{node="gpu1",uuid="a"}': "50x99",
            'nvidia_smi_last_collect_success{node="gpu1"}': "1x99",
            'DCGM_FI_DEV_XID_ERRORS{node="gpu1",UUID="a"}': "0x99",
        },
    ),
    "GpuUnseen": (
        {'swarm_node_gpus{node="gpu1",node_id="1"}': "2x99", 'swarm_node_up{node="gpu1",node_id="1"}': "1x99"},
        {
            'swarm_node_gpus{node="gpu1",node_id="1"}': "2x99",
            'swarm_node_up{node="gpu1",node_id="1"}': "0x99",
            'swarm_node_gpus{node="manager1",node_id="2"}': "0x99",
            'swarm_node_up{node="manager1",node_id="2"}': "1x99",
        },
    ),
    "GpuMemoryFull": (
        {'DCGM_FI_DEV_FB_USED{node="gpu1",UUID="a"}': "99x99", 'DCGM_FI_DEV_FB_FREE{node="gpu1",UUID="a"}': "1x99"},
        {'nvidia_smi_memory_used_bytes{node="gpu1",uuid="a"}': "90x99", 'nvidia_smi_memory_total_bytes{node="gpu1",uuid="a"}': "100x99"},
    ),
    "OllamaDown": ({'ollama_up{node="gpu1"}': "0x99"}, {'ollama_up{node="gpu1"}': "1x99"}),
    "OllamaNoModel": (
        {'ollama_models_loaded{node="gpu1"}': "0x99", 'ollama_up{node="gpu1"}': "1x99"},
        {'ollama_models_loaded{node="gpu1"}': "1x99", 'ollama_up{node="gpu1"}': "1x99"},
    ),
    "OllamaOnProcessor": (
        {'ollama_model_vram_bytes{model="m"}': "50x99", 'ollama_model_size_bytes{model="m"}': "100x99"},
        {'ollama_model_vram_bytes{model="m"}': "100x99", 'ollama_model_size_bytes{model="m"}': "100x99"},
    ),
    "NoEngine": ({'haproxy_backend_active_servers{proxy="engines"}': "0x99"}, {'haproxy_backend_active_servers{proxy="engines"}': "1x99"}),
    "RequestsWait": (
        {'haproxy_backend_current_queue{proxy="engines"}': "2x99"},
        {'haproxy_backend_current_queue{proxy="engines"}': "0x99"},
    ),
    "RequestsFail": (
        {
            'haproxy_backend_http_responses_total{proxy="engines",code="5xx"}': "0+10x99",
            'haproxy_backend_http_responses_total{proxy="engines",code="2xx"}': "0+90x99",
        },
        {
            'haproxy_backend_http_responses_total{proxy="engines",code="5xx"}': "0+1x99",
            'haproxy_backend_http_responses_total{proxy="engines",code="2xx"}': "0+99x99",
        },
    ),
    "StreamsCut": ({"llm_chat_cut_total": "0+1x99"}, {"llm_chat_cut_total": "4x99"}),
    "ChromaAway": ({'probe_success{job="chroma"}': "0x99"}, {'probe_success{job="chroma"}': "1x99"}),
    "EdgeAway": ({'probe_success{job="edge"}': "0x99"}, {'probe_success{job="edge"}': "1x99"}),
    "CertificateExpiring": ({"probe_ssl_earliest_cert_expiry": f"age -{20 * DAY}"}, {"probe_ssl_earliest_cert_expiry": f"age -{30 * DAY}"}),
    "CertificateUnread": ({'probe_success{job="certificates"}': "0x99"}, {'probe_success{job="certificates"}': "1x99"}),
    "SwarmNodeDown": (
        {'swarm_node_up{node="gpu1",node_id="1"}': "0x99", 'swarm_node_stale{node="gpu1",node_id="1"}': "0x99"},
        {'swarm_node_up{node="gpu1",node_id="1"}': "0x99", 'swarm_node_stale{node="gpu1",node_id="1"}': "1x99"},
    ),
    "SwarmNodeStale": ({'swarm_node_stale{node="gpu1"}': "1x99"}, {'swarm_node_stale{node="gpu1"}': "0x99"}),
    "SwarmManagerUnreachable": ({'swarm_manager_reachable{node="m"}': "0x99"}, {'swarm_manager_reachable{node="m"}': "1x99"}),
    "ServiceBelowDesired": (
        {'swarm_service_tasks_running{service="llm_edge"}': "1x99", 'swarm_service_tasks_desired{service="llm_edge"}': "2x99"},
        {'swarm_service_tasks_running{service="llm_edge"}': "2x99", 'swarm_service_tasks_desired{service="llm_edge"}': "2x99"},
    ),
    "FleetNoCapacity": (
        {
            'swarm_service_tasks_running{service="llm_engine"}': "1x99",
            'swarm_service_tasks_desired{service="llm_engine"}': "2x99",
            'llm_fleet_placement_failed{placement="ru-9a"}': "1x99",
        },
        {
            'swarm_service_tasks_running{service="llm_engine"}': "2x99",
            'swarm_service_tasks_desired{service="llm_engine"}': "2x99",
            'llm_fleet_placement_failed{placement="ru-9a"}': "1x99",
        },
    ),
    "FleetRegularTooLong": (
        {'llm_fleet_server_preemptible{node="gpu1",node_id="1"}': "0x99"},
        {
            'llm_fleet_server_preemptible{node="gpu1",node_id="1"}': "1x99",
            # Gone in the meantime, and another one that has come since.
            'llm_fleet_server_preemptible{node="gpu2",node_id="2"}': "0x9",
            'llm_fleet_server_preemptible{node="gpu2",node_id="3"}': "_x20 0x79",
        },
    ),
    "FleetRotationOverdue": (
        {'llm_fleet_server_ends_timestamp_seconds{node="gpu1"}': "age -2400"},
        {'llm_fleet_server_ends_timestamp_seconds{node="gpu1"}': f"age -{2 * HOUR}"},
    ),
    "FleetBudget": ({"llm_fleet_cost_today": "91x99"}, {"llm_fleet_cost_today": "89x99"}),
    "FleetInterruptedOften": ({'llm_fleet_breaker_open{placement="a"}': "1x99"}, {'llm_fleet_breaker_open{placement="a"}': "0x99"}),
    "BackupFailed": ({'llm_backup_success{job_name="a"}': "0x99"}, {'llm_backup_success{job_name="a"}': "1x99"}),
    "BackupOld": (
        {
            'llm_backup_last_success_timestamp_seconds{job_name="a"}': f"age {3 * HOUR}",
            'llm_backup_max_age_seconds{job_name="a"}': f"{2 * HOUR}x99",
        },
        {
            'llm_backup_last_success_timestamp_seconds{job_name="a"}': f"age {HOUR}",
            'llm_backup_max_age_seconds{job_name="a"}': f"{2 * HOUR}x99",
        },
    ),
    "BackupNotSeen": (
        # The inventory has one more, of the manager that is not the first.
        {'llm_backup_max_age_seconds{job_name="data",instance="storage1"}': "7200x99"},
        {
            'llm_backup_max_age_seconds{job_name="data",instance="storage1"}': "7200x99",
            'llm_backup_max_age_seconds{job_name="state",instance="manager2"}': "3600x99",
        },
    ),
    "RestoreDrillFailed": ({'llm_restore_drill_success{job_name="a"}': "0x99"}, {'llm_restore_drill_success{job_name="a"}': "1x99"}),
    "RestoreDrillOld": (
        {
            'llm_restore_drill_last_success_timestamp_seconds{job_name="a"}': f"age {9 * DAY}",
            'llm_restore_drill_max_age_seconds{job_name="a"}': f"{8 * DAY}x99",
        },
        {
            'llm_restore_drill_last_success_timestamp_seconds{job_name="a"}': f"age {7 * DAY}",
            'llm_restore_drill_max_age_seconds{job_name="a"}': f"{8 * DAY}x99",
        },
    ),
    "RestoreUnopened": ({'llm_restore_drill_opened{job_name="a"}': "0x99"}, {'llm_restore_drill_opened{job_name="a"}': "1x99"}),
    "RestoreNeverDrilled": (
        {'llm_backup_first_try_timestamp_seconds{job_name="a",instance="m"}': f"age {9 * DAY}"},
        {
            'llm_backup_first_try_timestamp_seconds{job_name="a",instance="m"}': f"age {9 * DAY}",
            'llm_restore_drill_success{job_name="a",instance="m"}': "0x99",
            'llm_backup_first_try_timestamp_seconds{job_name="new",instance="m"}': f"age {7 * DAY}",
        },
    ),
    "ContainerMemoryFull": (
        {'container_memory_rss{name="a"}': "91x99", 'container_spec_memory_limit_bytes{name="a"}': "100x99"},
        {
            'container_memory_rss{name="a"}': "89x99",
            'container_spec_memory_limit_bytes{name="a"}': "100x99",
            # What has no limit cannot reach it.
            'container_memory_rss{name="b"}': "91x99",
            'container_spec_memory_limit_bytes{name="b"}': "0x99",
        },
    ),
    "DiskFilling": (
        {'node_filesystem_avail_bytes{fstype="ext4"}': "9x99", 'node_filesystem_size_bytes{fstype="ext4"}': "100x99"},
        {
            'node_filesystem_avail_bytes{fstype="ext4"}': "11x99",
            'node_filesystem_size_bytes{fstype="ext4"}': "100x99",
            # A pool has an alert of its own.
            'node_filesystem_avail_bytes{fstype="zfs"}': "1x99",
            'node_filesystem_size_bytes{fstype="zfs"}': "100x99",
        },
    ),
    "MemoryShort": (
        {"node_memory_MemAvailable_bytes": "4x99", "node_memory_MemTotal_bytes": "100x99"},
        {"node_memory_MemAvailable_bytes": "6x99", "node_memory_MemTotal_bytes": "100x99"},
    ),
}
# What makes an alert fire beside its first cause.
ALSO: dict[str, list[Series]] = {
    # The only card of its node: nothing of it is left to count.
    "GpuOffTheBus": [
        {
            'swarm_node_gpus{node="gpu1",node_id="1"}': "1x99",
            'swarm_node_up{node="gpu1",node_id="1"}': "1x99",
            'up{job="gpu_exporter",node="gpu1",instance="gpu1"}': "1x99",
        }
    ],
    "SmartFailing": [
        {
            'smartmon_device_smart_healthy{disk="/dev/sda",type="sat"}': "0x99",
            'smartmon_device_smart_available{disk="/dev/sda",type="sat"}': "1x99",
        }
    ],
    "GpuEccErrors": [{'DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS{node="gpu1",UUID="a"}': "1x3 2x96"}],
    # What is missing is no sample that could be compared.
    "StorageCollectorStale": [{'up{job="storage",instance="a"}': "1x99"}],
    "NfsServerDown": [{'llm_storage_nfs_exports{instance="a"}': "1x99"}],
    # A disk that is gone, and one that does not open any more.
    "SmartUnread": [
        {'smartmon_smartctl_run{disk="/dev/sda"}': f"age {HOUR}", 'smartmon_smartctl_run{disk="/dev/sdb"}': "0+0x9"},
        {'smartmon_smartctl_run{disk="/dev/sda"}': f"age {HOUR}", 'smartmon_device_active{disk="/dev/sda"}': "0x99"},
    ],
    # A first run that hangs, or was killed.
    "BackupOld": [
        {
            'llm_backup_first_try_timestamp_seconds{job_name="a"}': f"age {3 * HOUR}",
            'llm_backup_max_age_seconds{job_name="a"}': f"{2 * HOUR}x99",
        }
    ],
}
# Alerts that look so many seconds back, beside what their `for` says.
LOOK_BACK = {"FleetRegularTooLong": 7 * HOUR, "SmartUnread": 25 * HOUR}
SCALES = {"good": 1.0, "short": 0.1}


def alerts(text: str) -> dict[str, dict[str, Any]]:
    """The alerts of a file of rules by their name."""
    return {rule["alert"]: rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"] if "alert" in rule}


def seconds(duration: str) -> int:
    return int(duration[:-1]) if duration else 0


def values(written: str, step: int, end: int, scale: float) -> str:
    """Values in promtool's notation; ``age N`` is a time that lies N seconds, scaled, before the evaluation at its end."""
    if written == "now":
        return f"0+{step}x99"
    if written.startswith("age "):
        return f"{end - int(float(written[4:]) * scale)}+0x99"
    first, _x, rest = written.partition(" ")
    return " ".join(f"{part.replace('x', '+0x')}" if part[0] not in "_s" and "+" not in part else part for part in (first, *rest.split()))


def case(rule: dict[str, Any], series: Series, *, scale: float, fires: bool) -> dict[str, Any]:
    """One test of promtool's: whether the alert fires, and that it did not before its time."""
    hold = seconds(rule.get("for", "0s"))
    back = int(LOOK_BACK.get(rule["alert"], 0) * scale)
    step = max(int(60 * scale), hold // 10, back // 60, 1)
    end = step * (((hold + back) // step) + 8)
    asked = f'count(ALERTS{{alertname="{rule["alert"]}",alertstate="firing"}})'
    given = [{"series": name, "values": values(text, step, end, scale)} for name, text in series.items()]
    expected: list[dict[str, Any]] = [{"labels": "{}", "value": 1}] if fires else []
    checks = [{"expr": asked, "eval_time": f"{end}s", "exp_samples": expected}]
    if hold:
        checks.append({"expr": asked, "eval_time": "0s", "exp_samples": []})
    return {"name": rule["alert"], "interval": f"{step}s", "input_series": given, "promql_expr_test": checks}


def unit_tests(written: Written, site: str) -> list[Path]:
    """Files for promtool, one for each step of time: every alert in both its cases."""
    by_step: dict[str, list[dict[str, Any]]] = {}
    for name, rule in alerts(written.text(site, "rules.yml")).items():
        causes = [(series, True) for series in (CASES[name][0], *ALSO.get(name, []))]
        for series, fires in [*causes, (CASES[name][1], False)]:
            one = case(rule, series, scale=SCALES[site], fires=fires)
            by_step.setdefault(one["interval"], []).append(one)
    rules, paths = written.place / site / "rules.yml", []
    for step, tests in by_step.items():
        path = written.place / site / f"test-{step}.json"
        path.write_text(json.dumps({"rule_files": [str(rules)], "evaluation_interval": step, "tests": tests}), encoding="utf-8")
        paths.append(path)
    return paths


@pytest.mark.parametrize("site", SCALES)
def test_every_alert_fires_on_its_cause_and_on_nothing_near_it(written: Written, site: str) -> None:
    paths = unit_tests(written, site)
    ended = subprocess.run(["promtool", "test", "rules", *map(str, paths)], capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_lost_session_is_not_told_to_be_over_while_it_is_lost(written: Written) -> None:
    asked = 'count(ALERTS{alertname="IscsiSessionLost",alertstate="firing"})'
    checks = [
        {"expr": asked, "eval_time": when, "exp_samples": [{"labels": "{}", "value": 1}] if fires else []}
        for when, fires in (("10m", False), ("2h", True), ("3d", True), ("9d", False))
    ]
    given = [{"series": 'iscsi_initiator_logged_in{initiator="iqn.b"}', "values": "1+0x2 0+0x2000"}]
    one = {"interval": "10m", "input_series": given, "promql_expr_test": checks}
    path = written.place / "good" / "test-lost.json"
    path.write_text(json.dumps({"rule_files": [str(written.place / "good" / "rules.yml")], "evaluation_interval": "10m", "tests": [one]}))
    ended = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr


# By alert of what lasts for days: series in steps of ten minutes, in which a look fails now and then, when it must fire and when not yet.
GAPS: dict[str, tuple[Series, str, str]] = {
    "RestoreNeverDrilled": (
        {'llm_backup_first_try_timestamp_seconds{job_name="a",instance="m"}': "0+0x800 stale 0+0x800 stale 0+0x800"},
        "7d",
        "9d",
    ),
    "ZfsNeverScrubbed": (
        {'zfs_pool_created_timestamp_seconds{pool="llm",instance="m"}': "0+0x4000 stale 0+0x1800 stale 0+0x800"},
        "39d",
        "42d",
    ),
    "FleetRegularTooLong": (
        {'llm_fleet_server_preemptible{node="gpu1",node_id="1"}': "0+0x20 stale 0+0x20 stale stale 0+0x2 stale 0+0x20"},
        "5h",
        "8h",
    ),
}


@pytest.mark.parametrize("name", GAPS)
def test_a_look_that_fails_now_and_then_does_not_put_an_alert_off_for_ever(written: Written, name: str) -> None:
    series, before, after = GAPS[name]
    rules = written.place / "good" / "rules.yml"
    asked = f'count(ALERTS{{alertname="{name}",alertstate="firing"}})'
    checks = [
        {"expr": asked, "eval_time": before, "exp_samples": []},
        {"expr": asked, "eval_time": after, "exp_samples": [{"labels": "{}", "value": 1}]},
    ]
    given = [{"series": each, "values": text} for each, text in series.items()]
    one = {"interval": "10m", "input_series": given, "promql_expr_test": checks}
    path = written.place / "good" / f"test-gap-{name}.json"
    path.write_text(json.dumps({"rule_files": [str(rules)], "evaluation_interval": "10m", "tests": [one]}))
    ended = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_no_alert_waits_for_longer_than_looks_go_well_without_a_gap(written: Written) -> None:
    waits = {name: seconds(rule.get("for", "")) for name, rule in alerts(written.text("good", "rules.yml")).items()}
    assert {name: wait for name, wait in waits.items() if wait > HOUR} == {}


def test_there_is_a_case_for_every_alert_and_none_for_another(written: Written) -> None:
    assert set(CASES) == set(alerts(written.text("good", "rules.yml")))


def test_a_rule_that_is_broken_fails_the_test(written: Written, tmp_path: Path) -> None:
    """The test must be able to fail: with a wrong limit, and with an alert that fires at once."""
    text = written.text("good", "rules.yml")
    assert "gpu:temperature_celsius > 87.0" in text
    for place, broken in (("limit", text.replace("celsius > 87", "celsius > 99")), ("quiet", text.replace("celsius > 87", "celsius > 1"))):
        (tmp_path / place / "good").mkdir(parents=True)
        (tmp_path / place / "good" / "rules.yml").write_text(broken, encoding="utf-8")
        paths = unit_tests(Written("", tmp_path / place), "good")
        ended = subprocess.run(["promtool", "test", "rules", *map(str, paths)], capture_output=True, text=True, check=False, timeout=300)
        assert ended.returncode != 0
        assert "GpuHot" in ended.stdout + ended.stderr


def test_every_alert_says_what_it_means_and_what_to_do(written: Written) -> None:
    for name, rule in alerts(written.text("good", "rules.yml")).items():
        assert set(rule["annotations"]) == {"summary", "means", "do"}, name
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), name
        # A command that the reader should try, or a thing to do: more than a word.
        assert min(len(text) for text in rule["annotations"].values()) >= 20, name


def test_without_a_budget_and_without_backups_there_are_no_alerts_of_them(written: Written) -> None:
    assert set(CASES) - set(alerts(written.text("plain", "rules.yml"))) == {"FleetBudget", "BackupNotSeen"}


def test_lengths_of_time_shrink_to_a_tenth(written: Written) -> None:
    full, short = alerts(written.text("good", "rules.yml")), alerts(written.text("short", "rules.yml"))
    for name, rule in full.items():
        if "for" in rule:
            assert abs(seconds(short[name]["for"]) - seconds(rule["for"]) / 10) <= 0.5, name
        for long, tenth in zip(re.findall(r"\[(\d+)s\]", rule["expr"]), re.findall(r"\[(\d+)s\]", short[name]["expr"])):
            assert int(long) == 10 * int(tenth), name


def test_what_an_alert_tells_to_run_is_there(written: Written) -> None:
    known = {path.name for path in (ROOT / "playbooks").glob("*.yml")}
    named = set(re.findall(r"playbooks/([a-z_]+\.yml)", written.text("good", "rules.yml")))
    assert len(named) >= 2
    assert named <= known
