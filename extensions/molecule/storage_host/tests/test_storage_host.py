# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The storage host as it is after the role ran on it."""

from __future__ import annotations

import json
from typing import Any

import pytest

RUNNING = ["nfs-server", "nginx", "zfs-zed", "llm-stack-firewall", "sanoid.timer", "zfs-scrub-monthly@llm.timer"]


@pytest.mark.parametrize("name", RUNNING)
def test_services_run_and_come_back_at_boot(host: Any, name: str) -> None:
    service = host.service(name)
    assert service.is_running, host.run("journalctl --no-pager -n 30 -u %s", name).stdout
    assert service.is_enabled


def test_the_pool_is_healthy_and_a_mirror_throughout(host: Any) -> None:
    assert host.check_output("zpool list -H -o health llm") == "ONLINE"
    vdevs = json.loads(host.check_output("zpool status -j llm"))["pools"]["llm"]["vdevs"]["llm"]["vdevs"]
    assert {name.rpartition("-")[0] for name in vdevs} == {"mirror"}


@pytest.mark.parametrize(
    ("dataset", "name", "value"),
    [
        ("llm/models", "recordsize", "1M"),
        ("llm/backup", "quota", "2G"),
        ("llm/vm/disk0", "sync", "always"),
        ("llm", "org.debian:periodic-scrub", "disable"),
    ],
)
def test_datasets_have_their_properties(host: Any, dataset: str, name: str, value: str) -> None:
    assert host.check_output("zfs get -H -o value %s %s", name, dataset) == value


def test_nfs_speaks_version_4_alone_with_the_threads_asked_for(host: Any) -> None:
    assert "-3" in host.file("/proc/fs/nfsd/versions").content_string.split()
    assert host.file("/proc/fs/nfsd/threads").content_string.strip() == "32"
    exports = host.check_output("exportfs -s")
    assert "async" not in exports
    assert exports.count("10.77.0.0/24") == 2


def test_the_target_asks_for_a_password_and_waits_for_its_volumes_at_boot(host: Any) -> None:
    saved = json.loads(host.file("/etc/rtslib-fb-target/saveconfig.json").content_string)
    (target,) = saved["targets"]
    (group,) = target["tpgs"]
    assert (target["wwn"], group["enable"], group["attributes"]["authentication"]) == ("iqn.2026-01.lab.llm:storage1", True, 1)
    assert "zfs-volumes.target" in host.check_output("systemctl show -p After rtslib-fb-targetctl.service")


def test_memory_of_zfs_is_bounded_now_and_at_the_next_boot(host: Any) -> None:
    assert host.file("/sys/module/zfs/parameters/zfs_arc_max").content_string.strip() == "536870912"
    assert host.file("/etc/modprobe.d/llm-stack-zfs.conf").contains("zfs_arc_max=536870912")


@pytest.mark.parametrize(
    "path", ["/etc/nginx/llm-stack-models.tokens", "/etc/llm-stack/storage/alerts.json", "/etc/llm-stack/storage/tls.key"]
)
def test_secrets_are_for_root_alone(host: Any, path: str) -> None:
    found = host.file(path)
    assert (found.user, found.mode) == ("root", 0o600)


def test_the_firewall_has_a_table_of_its_own_that_lets_everything_else_pass(host: Any) -> None:
    table = host.check_output("nft list table inet llm_stack_storage")
    assert "policy accept" in table
    assert "22" not in [word.strip("{},") for word in table.split()]


def test_models_are_verified_and_listed(host: Any) -> None:
    manifest = json.loads(host.file("/llm/models/manifest.json").content_string)
    (model,) = manifest["models"]
    assert host.file(f"/llm/models/{model['file']}").sha256sum == model["sha256"]
