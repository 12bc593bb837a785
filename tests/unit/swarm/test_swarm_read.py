# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The readers of swarm_gpu_node on what Docker 26.1.5, systemd 257 and nvidia-smi really print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import StackError
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm import read
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.certificate import Identity, parse_identity
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.model import Gpu, Membership, Service, Toolkit

RECORDED = Path(__file__).parent / "recorded"
CLUSTER = "dwtoswfw9wg0d9zjikvxqcbyk"
MANAGER = "ncgakerstv25bs2c3ukawkvjk"
WORKER = "jpqgv0x6d62cmhfu7todd67zv"


def recorded(name: str) -> Any:
    return json.loads((RECORDED / name).read_text())


@pytest.mark.parametrize(
    ("name", "identity"),
    [("manager", Identity(MANAGER, CLUSTER, True)), ("worker", Identity(WORKER, CLUSTER, False))],
)
def test_certificate(name: str, identity: Identity) -> None:
    assert parse_identity((RECORDED / f"{name}-26.1.5.crt").read_text()) == identity


@pytest.mark.parametrize(
    "text", ["", "nothing", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----", "-----BEGIN CERTIFICATE-----\n!"]
)
def test_unreadable_certificate(text: str) -> None:
    with pytest.raises(StackError, match="it is not a PEM certificate"):
        parse_identity(text)


def test_membership_of_a_manager_and_of_a_worker() -> None:
    assert read.parse_membership(recorded("info-manager-26.1.5.json")) == Membership("active", MANAGER, CLUSTER, True, "", 5 * 10**9)
    assert read.parse_membership(recorded("info-worker-26.1.5.json")) == Membership("active", WORKER, "", False, "", 0)
    assert read.parse_membership({"Swarm": {"LocalNodeState": "inactive", "NodeID": ""}}) == Membership()


def test_the_certificate_tells_a_worker_its_cluster(tmp_path: Path) -> None:
    folder = tmp_path / "swarm" / "certificates"
    folder.mkdir(parents=True)
    (folder / "swarm-node.crt").write_text((RECORDED / "worker-26.1.5.crt").read_text())
    found = read.read_identity(Membership("active", WORKER), tmp_path)
    assert (found.cluster_id, found.is_manager) == (CLUSTER, False)
    assert read.read_identity(Membership(), tmp_path) == Membership()


def test_nodes() -> None:
    nodes = [read.parse_node(found) for found in recorded("nodes-26.1.5.json")]
    assert [(node.id, node.hostname, node.role, node.state, node.availability, node.gpus) for node in nodes] == [
        (WORKER, "gpu2", "worker", "ready", "active", 1),
        (MANAGER, "manager1", "manager", "ready", "active", 0),
    ]
    assert nodes[0].labels["gpu.model"] == "GeForce-RTX-4090"


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("", ()),
        ("GPU-a, NVIDIA GeForce RTX 4090, 24564, 570.133.20\n", (Gpu("GPU-a", "NVIDIA GeForce RTX 4090", 24564, "570.133.20"),)),
        (
            "GPU-a, NVIDIA A100-SXM4-80GB, 81920, 570\nGPU-b, NVIDIA GB10, [N/A], 580\n",
            (Gpu("GPU-a", "NVIDIA A100-SXM4-80GB", 81920, "570"), Gpu("GPU-b", "NVIDIA GB10", 0, "580")),
        ),
    ],
)
def test_gpus(text: str, gpus: tuple[Gpu, ...]) -> None:
    assert read.parse_gpus(text) == gpus


def test_what_is_no_gpu_is_told() -> None:
    with pytest.raises(StackError) as caught:
        read.parse_gpus("NVIDIA GeForce RTX 4090, , 24564, 570\n")
    assert str(caught.value) == (
        "nvidia-smi answered with something else than GPUs: NVIDIA GeForce RTX 4090, , 24564, 570. Check the driver with `nvidia-smi -L`."
    )


@pytest.mark.parametrize(("mib", "gb"), [(24564, 24), (8188, 8), (81559, 80), (81920, 80), (0, 0)])
def test_memory_as_sold(mib: int, gb: int) -> None:
    assert Gpu("GPU-a", "x", mib, "1").vram_gb == gb


ACTIVE = "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nActiveEnterTimestampMonotonic=2000000000\n"


@pytest.mark.parametrize(
    ("text", "configured_at", "service"),
    [
        (ACTIVE, None, Service(True, True, True)),
        (ACTIVE, 900.0, Service(True, True, True)),
        (ACTIVE, 1500.0, Service(True, True, True, stale=True)),
        (ACTIVE, 9000.0, Service(True, True, True)),
        ("LoadState=loaded\nActiveState=inactive\nUnitFileState=disabled\nActiveEnterTimestampMonotonic=0\n", 1500.0, Service(True)),
        ("LoadState=not-found\nActiveState=inactive\nUnitFileState=\nActiveEnterTimestampMonotonic=0\n", None, Service()),
    ],
    ids=["no file", "file is older", "file is newer", "file is from the future", "stopped", "not installed"],
)
def test_service(text: str, configured_at: float | None, service: Service) -> None:
    # It started at 2000 s of uptime, which is 1000 on the wall clock.
    assert read.parse_service(text, configured_at=configured_at, now=2000.0, uptime=3000.0) == service


@pytest.mark.parametrize(("text", "settings"), [("", {}), ("  \n", {}), ('{"debug": true}', {"debug": True})])
def test_settings(tmp_path: Path, text: str, settings: dict[str, Any]) -> None:
    path = tmp_path / "daemon.json"
    path.write_text(text)
    assert read.read_settings(path) == settings
    assert read.read_settings(tmp_path / "none") == {}


@pytest.mark.parametrize(("text", "reason"), [("{", "is not valid JSON"), ("[]", "does not hold a JSON object")])
def test_settings_that_cannot_be_merged_into(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "daemon.json"
    path.write_text(text)
    with pytest.raises(StackError, match=f"{path} {reason}.* so nothing can be merged into it. Correct it, or move it away."):
        read.read_settings(path)


@pytest.mark.parametrize(
    ("config", "version", "toolkit"),
    [
        ('#swarm-resource = "DOCKER_RESOURCE_GPU"\n', "NVIDIA Container Runtime version 1.17.8\n", Toolkit((1, 17, 8))),
        (
            'swarm-resource = "DOCKER_RESOURCE_GPU"\n[nvidia-container-runtime]\nmode = "legacy"\n',
            "NVIDIA Container Runtime version 1.18.0\ncommit: f",
            Toolkit((1, 18, 0), "DOCKER_RESOURCE_GPU", "legacy"),
        ),
        ("", "", Toolkit()),
    ],
)
def test_toolkit(config: str, version: str, toolkit: Toolkit) -> None:
    assert read.parse_toolkit(config, version) == toolkit
