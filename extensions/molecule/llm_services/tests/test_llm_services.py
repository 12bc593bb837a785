# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The LLM service as it is after the role ran."""

from __future__ import annotations

import json
from typing import Any

# As in tests/swarm/inventory; it opens nothing outside the lab.
KEY = "lab-only-api-key"
ASK = "curl --insecure --silent --max-time 30 --output /dev/null --write-out '%{http_code}'"


def test_every_service_has_all_its_tasks(host: Any) -> None:
    shown = host.check_output("docker service ls --filter label=com.docker.stack.namespace=llm --format '{{.Name}} {{.Replicas}}'")
    counts = dict(line.split() for line in shown.splitlines())
    assert {"llm_edge", "llm_balancer", "llm_engine"} <= set(counts)
    assert [name for name, count in counts.items() if len(set(count.split("/"))) != 1] == []


def test_the_edge_answers_those_who_have_a_key(host: Any) -> None:
    assert host.check_output(f"{ASK} https://127.0.0.1/health") == "200"
    assert host.check_output(f"{ASK} https://127.0.0.1/v1/models") == "401"
    assert host.check_output(f"{ASK} --header 'Authorization: Bearer {KEY}' https://127.0.0.1/v1/models") == "200"


def test_only_the_edge_listens_for_others(host: Any) -> None:
    assert host.socket("tcp://443").is_listening
    for port in (8080, 8081, 8405, 8406):
        assert not host.socket(f"tcp://{port}").is_listening


def test_keys_are_kept_as_hashes_and_the_tls_key_is_private(host: Any) -> None:
    services = json.loads(host.check_output("docker service inspect llm_edge llm_balancer llm_engine"))
    assert KEY not in json.dumps(services)
    private = host.file("/etc/llm-stack/edge/tls.key")
    assert (private.user, private.mode) == ("root", 0o600)
