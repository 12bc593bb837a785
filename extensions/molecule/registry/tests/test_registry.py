# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry as it is after the role ran."""

from __future__ import annotations

from typing import Any

# As in inventories/lab.
ADDRESS = "10.77.0.21:5000"
IMAGES = ("llm/nginx:lab", "llm/haproxy:lab", "llm/llama-server:lab")


def test_it_wants_a_password(host: Any) -> None:
    asked = f"curl -sS -o /dev/null -w '%{{http_code}}' --cacert /etc/docker/certs.d/{ADDRESS}/ca.crt https://{ADDRESS}/v2/"
    assert host.check_output(asked) == "401"


def test_its_images_can_be_pulled(host: Any) -> None:
    for name in IMAGES:
        host.check_output("docker pull -q %s", f"{ADDRESS}/{name}")


def test_secrets_are_for_root_alone(host: Any) -> None:
    for path in ("/var/lib/llm-stack/registry/tls.key", "/root/.docker/config.json"):
        found = host.file(path)
        assert (found.user, found.mode) == ("root", 0o600)
