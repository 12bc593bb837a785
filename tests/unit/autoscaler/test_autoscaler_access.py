# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The access rules of the credential: all that the autoscaler asks of a cloud is in them, and nothing that it never asks."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from autokit import Site, told
from engine import serving

RULES = json.loads((Path(__file__).resolve().parents[3] / "roles" / "autoscaler" / "files" / "access-rules.json").read_text())
# What Keystone calls the services, and what stands before the paths of their APIs.
SERVICES = {
    "compute": ("compute", "/v2.1"),
    "network": ("network", "/v2.0"),
    "block_storage": ("volumev3", "/v3/0123456789abcdef"),
    "image": ("image", "/v2"),
}
DISCOVERY = {"/", "/*", "/*/", "/*/*/"}
Rule = dict[str, str]


def matches(rule: Rule, service: str, method: str, path: str) -> bool:
    """Compare as Keystone's middleware documents it: one asterisk is a part of a path, two are any."""
    parts = re.split(r"(\*\*|\*)", rule["path"])
    pattern = "".join({"**": ".*", "*": "[^/]+"}.get(part, re.escape(part)) for part in parts)
    return rule["service"] == service and rule["method"] == method and re.fullmatch(pattern, path) is not None


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str, str]]:
    """Everything that is asked: a loss with and without room, demand up and down, what a restored server lacks, a stopped one."""
    site = Site(tmp_path_factory.mktemp("site"))
    with serving(site.swarm):
        site.begin()
        merged = {
            "tags": ["ours"],
            "metadata": {"team": "a"},
            "security_groups": ["ssh"],
            "start_stopped": True,
            "switch_to_regular": ["gpu1"],
        }
        site.cloud.interrupt(site.servers()["gpu1"])
        site.cloud.set_status(site.servers()["gpu2"], "SHUTOFF")
        autoscaler = site.autoscaler(told(fleet=merged))
        site.pass_time(autoscaler, 60)
        site.cloud.interrupt(site.servers()["gpu2"])
        site.cloud.room = {"z1": 0, "z2": 0}
        site.pass_time(autoscaler, 200)
        site.cloud.room = {}
        site.load(1.0)
        site.pass_time(autoscaler, 2500)
        site.load(0.0)
        site.pass_time(autoscaler, 2500)
        return {(SERVICES[service][0], method, SERVICES[service][1] + path) for method, service, path in site.cloud.log}


def test_all_that_is_asked_is_allowed(asked: set[tuple[str, str, str]]) -> None:
    refused = [one for one in sorted(asked) if not any(matches(rule, *one) for rule in RULES)]
    assert refused == []


def test_nothing_is_allowed_that_is_never_asked(asked: set[tuple[str, str, str]]) -> None:
    spare = [rule for rule in RULES if rule["service"] != "block-storage" and rule["path"] not in DISCOVERY]
    unused = [f"{one['method']} {one['path']}" for one in spare if not any(matches(one, *call) for call in asked)]
    # A public address changes its port when a server is made anew beside the one that holds it.
    assert unused in ([], ["PUT /**/floatingips/*"])


def test_volumes_have_the_same_rules_under_both_of_their_names() -> None:
    both = [[(one["method"], one["path"]) for one in RULES if one["service"] == name] for name in ("volumev3", "block-storage")]
    assert both[0] == both[1]


@pytest.mark.parametrize(
    ("service", "method", "path"),
    [
        ("compute", "POST", "/v2.1/os-keypairs"),
        ("compute", "GET", "/v2.1/os-keypairs"),
        ("compute", "PUT", "/v2.1/servers/1"),
        ("compute", "GET", "/v2.1/servers/1/os-server-password"),
        ("network", "POST", "/v2.0/security-groups"),
        ("network", "DELETE", "/v2.0/networks/1"),
        ("image", "GET", "/v2/images/1/file"),
        ("image", "DELETE", "/v2/images/1"),
        ("volumev3", "POST", "/v3/p/volumes/1/action"),
        ("identity", "GET", "/v3/users"),
    ],
)
def test_what_it_has_no_business_with_is_not_allowed(service: str, method: str, path: str) -> None:
    assert not any(matches(rule, service, method, path) for rule in RULES)
