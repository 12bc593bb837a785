# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the swarm keeps of a compose file."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import BadInput
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._stack.compose import duration, expected_spec, size


def named(kind: str, name: str) -> str:
    return f"web_{name}"


@pytest.mark.parametrize(
    ("text", "wanted"), [("10s", 10**10), ("500ms", 5 * 10**8), ("1m30s", 9 * 10**10), ("1.5s", 15 * 10**8), ("2h", 72 * 10**11)]
)
def test_durations(text: str, wanted: int) -> None:
    assert duration(text) == wanted


@pytest.mark.parametrize("text", ["", "10", "s", "10 s", "10d", "10s!"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"is not a duration\. Write it as in 500ms, 10s or 1m30s\."):
        duration(text)


@pytest.mark.parametrize(("text", "wanted"), [("512M", 512 << 20), ("1G", 1 << 30), ("2gb", 2 << 30), (4096, 4096), ("1.5K", 1536)])
def test_sizes(text: Any, wanted: int) -> None:
    assert size(text) == wanted


def test_what_is_no_size_is_refused() -> None:
    with pytest.raises(BadInput, match=r"'much' is not a size\. Write it as in 512M or 2G\."):
        size("much")


def test_a_service_of_few_words_has_docker_s_defaults() -> None:
    spec = expected_spec("server", {"image": "nginx:1"}, named)
    task = spec["TaskTemplate"]
    assert task["ContainerSpec"]["Image"] == "nginx:1"
    assert task["ContainerSpec"]["Env"] == []
    assert task["Networks"] == [{"Target": "web_default", "Aliases": ["server"]}]
    assert spec["Mode"] == {"Replicated": {"Replicas": 1}}
    assert spec["EndpointSpec"] == {"Mode": "vip", "Ports": []}


@pytest.mark.parametrize(
    ("service", "text"),
    [
        ({"image": "x", "privileged": True}, "service server has privileged, whose drift swarm_stack could not see"),
        ({"image": "x", "deploy": {"replica": 2}}, "deploy of service server has replica,"),
        ({"image": "x", "deploy": {"resources": {"limits": {"cpu": 1}}}}, "resources has cpu,"),
        ({"image": "x", "deploy": {"update_config": {"paralel": 1}}}, "a policy has paralel,"),
    ],
)
def test_a_key_whose_drift_would_go_unnoticed_is_refused(service: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput, match=text):
        expected_spec("server", service, named)


def test_generic_resources_mounts_and_files() -> None:
    service = {
        "image": "x",
        "volumes": [
            {"type": "volume", "source": "store", "target": "/b"},
            {"type": "bind", "source": "/m", "target": "/a", "read_only": True},
        ],
        "secrets": [{"source": "key", "target": "key", "mode": 256}],
        "deploy": {"resources": {"reservations": {"generic_resources": [{"discrete_resource_spec": {"kind": "GPU", "value": 1}}]}}},
    }
    task = expected_spec("server", service, named)["TaskTemplate"]
    assert task["ContainerSpec"]["Mounts"] == [
        {"Type": "bind", "Target": "/a", "Source": "/m", "ReadOnly": True},
        {"Type": "volume", "Target": "/b", "Source": "web_store"},
    ]
    assert task["ContainerSpec"]["Secrets"] == [{"SecretName": "web_key", "File": {"Name": "key", "UID": "0", "GID": "0", "Mode": 256}}]
    assert task["Resources"]["Reservations"]["GenericResources"] == [{"DiscreteResourceSpec": {"Kind": "GPU", "Value": 1}}]
