# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A project's fleet as a test sees it: the module run against the cloud, its calls counted and meddled with on the way."""

from __future__ import annotations

import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from .cloud import account
from .config import REGION
from .control import Control, Project
from .proxy import Proxy
from .runner import Ran, Runner

TAG = "preemptible"
CLOUD = "test"
IMAGE = "Ubuntu 24.04 LTS 64-bit"
GPU_FLAVOR = "GL10.8-32768-0-1GPU"
LOCAL_GPU_FLAVOR = "GL10.8-32768-40-1GPU"
LOCAL_FLAVOR = "SL1.1-2048-10"
# Seconds a run has, unless told otherwise; what is younger than that may be the work of another run.
DEADLINE = 120
# The services a fleet needs beside the one for signing in.
KINDS = ("compute", "network", "image", "block-storage")


def clouds_yaml(place: Path, user: str, proxy: Proxy) -> Path:
    """Write a clouds.yaml (JSON is YAML) whose every service is reached through the proxy."""
    overrides = {f"{kind.replace('-', '_')}_endpoint_override": proxy.urls[kind] for kind in KINDS}
    cloud = {"auth": account(user, proxy.ports), "region_name": REGION, "identity_api_version": "3", **overrides}
    place.write_text(json.dumps({"clouds": {CLOUD: cloud}}))
    return place


class Fleet:
    """One fleet in one project."""

    def __init__(self, runner: Runner, *, clouds: Path, control: Control, project: Project) -> None:
        self._runner = runner
        self.environment = {"OS_CLIENT_CONFIG_FILE": str(clouds)}
        self.control = control
        self.project = project

    def options(self, **options: Any) -> dict[str, Any]:
        """Return the module's options: two servers with a local disk, unless told otherwise."""
        placements = [{"zone": "zone-a", "flavor": LOCAL_FLAVOR}]
        common: dict[str, Any] = {"cloud": CLOUD, "profile": "openstack", "fleet": "ci", "image": IMAGE, "boot": "local"}
        common |= {"placements": placements, "networks": [{"network": "private"}], "deadline": DEADLINE}
        if not {"servers", "name_pattern", "state"} & set(options):
            common |= {"name_pattern": "gpu{n}", "count": 2}
        return {**common, **options}

    def start(self, **options: Any) -> Future[Ran]:
        """Run the module; the result follows."""
        return self._runner.start(self.options(**options), environment=self.environment)

    def run(self, **options: Any) -> Ran:
        """Run the module and wait for its result."""
        return self.start(**options).result(600)

    def servers(self) -> dict[str, Any]:
        """Return the project's servers by name, as the provider sees them.

        :raises AssertionError: when two have the same name: a slot was doubled.
        """
        found = list(self.control.servers(self.project).values())
        names = [server.name for server in found]
        assert len(set(names)) == len(names), f"a slot was doubled: {sorted(names)}"
        return {server.name: server for server in found}


def by_name(ran: Ran) -> dict[str, dict[str, Any]]:
    """Return what the module says about each server."""
    return {server["name"]: server for server in ran.result.get("servers", [])}
