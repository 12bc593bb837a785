# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for openstacksdk: what it logs in to is the stand-in cloud in the file that STANDIN_CLOUD names."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent.parent))

from standin_cloud import Response, StandinCloud, shared

from openstack import exceptions as exceptions


class _Adapter:
    def __init__(self, service: str, region: str) -> None:
        self._service = service
        self._region = region

    def request(self, url: str, method: str, **options: Any) -> Response:
        """Answer from the file, on the clock of this machine."""
        with shared(Path(os.environ["STANDIN_CLOUD"])) as cloud:
            cloud.now = time.time()
            if self._region not in ("", cloud.region):
                # There is nothing in it.
                return StandinCloud(self._region).request(self._service, url, method, options)
            return cloud.request(self._service, url, method, options)


def connect(**options: Any) -> Any:
    """Return a connection; the secret must be the one that the caller was given."""
    auth = options["auth"]
    assert auth.get("application_credential_secret" if options.get("auth_type") else "password") == "hunter2"
    endpoints = {"compute": [{"region_id": "r1"}]}
    catalog = SimpleNamespace(get_endpoints=lambda service_type: endpoints)
    session_auth = SimpleNamespace(get_access=lambda _session: SimpleNamespace(service_catalog=catalog))
    found = {service: _Adapter(service, options.get("region_name") or "") for service in ("compute", "network", "block_storage", "image")}
    config = SimpleNamespace(get_auth_args=lambda: auth)
    return SimpleNamespace(session=SimpleNamespace(auth=session_auth), config=config, **found)
