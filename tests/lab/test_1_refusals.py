# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""On a fresh lab: foresight shows the plan and changes nothing, and bad input stops before the first change."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Callable

import pytest
from labkit.lab import Lab
from labkit.play import INVENTORY, SITE, Outcome, play

# What each machine looks like while nothing was done to it.
FINGERPRINT = (
    "(zpool list -H -o name 2>/dev/null; lsblk -rno NAME,PARTLABEL; systemctl is-active docker nfs-server nginx; cat /etc/fstab;"
    " ls /etc/exports.d /etc/docker /etc/nginx/sites-enabled /etc/nginx/conf.d /var/lib/llm-stack /etc/llm-stack 2>/dev/null) 2>&1; true"
)


@pytest.fixture
def untouched(lab: Lab) -> Callable[[], None]:
    """Take a fingerprint of every machine; the returned check fails if one differs."""
    before = {machine.spec.name: lab.ssh(machine.spec.name, FINGERPRINT) for machine in lab.machines() if machine.running}

    def check() -> None:
        assert {name: lab.ssh(name, FINGERPRINT) for name in before} == before

    return check


def refused(outcome: Outcome, *sentences: str) -> None:
    """The run failed, said so, and changed nothing."""
    assert outcome.status != 0
    for sentence in sentences:
        assert sentence in outcome.words
    assert outcome.changes == 0


def test_check_mode_on_a_fresh_lab_shows_the_plan(lab: Lab, untouched: Callable[[], None]) -> None:
    outcome = play(lab, SITE, "--check", "--diff")
    assert outcome.status == 0
    assert outcome.failed == ()
    for planned in ("Create pool llm", "llm/models", "iqn.2026-01.lab.llm:storage1", "log-driver"):
        assert planned in outcome.text
    assert all(counts["changed"] > 0 for host, counts in outcome.recap.items() if host != "localhost")
    untouched()


BAD_VARIABLES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "an unknown variable": ({"storage_host_pol": []}, ("storage_host_pol", "storage_host_pool")),
    "a mistyped variable": ({"llm_services_parallel": "many"}, ("llm_services_parallel", "many")),
    "services without a key": ({"llm_services_api_keys": []}, ("llm_services_api_keys has 0 keys",)),
    "an unknown value": ({"llm_services_engine": "vllm"}, ("llm_services_engine", "vllm", "llamacpp")),
    "a wrong model checksum": (
        {"storage_host_models": [{"name": "tiny", "file": "tiny.gguf", "src": "MODEL", "sha256": "0" * 64}]},
        ("tiny", "sha256", "0" * 64),
    ),
    "a pool device that does not exist": (
        {
            "storage_host_pools": [
                {"name": "llm", "vdevs": [{"type": "mirror", "devices": ["/dev/disk/by-id/virtio-HGST0", "/dev/disk/by-id/virtio-GONE"]}]}
            ]
        },
        ("/dev/disk/by-id/virtio-GONE", "does not exist"),
    ),
}


@pytest.mark.parametrize("name", BAD_VARIABLES)
def test_bad_variable_stops_before_any_change(lab: Lab, untouched: Callable[[], None], name: str) -> None:
    variables, sentences = BAD_VARIABLES[name]
    for model in variables.get("storage_host_models", []):
        model["src"] = str(lab.paths.state / "artifacts" / "tiny.gguf")
    refused(play(lab, SITE, variables=variables), *sentences)
    untouched()


def test_a_device_that_carries_data_is_refused(lab: Lab, on: Callable[..., str]) -> None:
    device = "/dev/disk/by-id/virtio-SPARE0"
    on("storage1", f"mkswap --label precious {device}")
    pool = {"name": "llm", "vdevs": [{"type": "stripe", "devices": [device]}]}
    outcome = play(lab, SITE, variables={"storage_host_pools": [pool], "storage_host_partitions": []})
    refused(outcome, device, "swap", "wipe")
    assert on("storage1", f"blkid -o value -s LABEL {device}").strip() == "precious"
    on("storage1", f"wipefs -q -a {device}")


def test_a_missing_group_is_named(lab: Lab, tmp_path: Path, untouched: Callable[[], None]) -> None:
    shutil.copytree(INVENTORY, tmp_path / "lab")
    hosts = tmp_path / "lab" / "hosts.yml"
    hosts.write_text(hosts.read_text().replace("swarm_managers:", "swarm_manager:"))
    refused(play(lab, SITE, inventory=(tmp_path / "lab",)), "swarm_managers")
    untouched()


def test_an_unsupported_distribution_is_refused(lab: Lab, on: Callable[..., str]) -> None:
    # Ansible believes any mention of Debian, so none may be left.
    on("gpu2", "rm /etc/os-release && printf 'ID=arch\\nNAME=Arch\\nPRETTY_NAME=Arch\\n' > /etc/os-release")
    on("gpu2", "mv /etc/debian_version /etc/debian_version.kept")
    try:
        refused(play(lab, SITE), "gpu2", "Debian 12", "Ubuntu 24.04")
    finally:
        on("gpu2", "ln -sf ../usr/lib/os-release /etc/os-release && mv /etc/debian_version.kept /etc/debian_version")


def test_an_unreachable_host_is_named(lab: Lab, untouched: Callable[[], None]) -> None:
    lab.cut("gpu2")
    try:
        outcome = play(lab, SITE)
    finally:
        lab.up(["gpu2"])
    refused(outcome, "gpu2", "10.77.0.32")
    untouched()
