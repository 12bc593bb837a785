# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for openstacksdk: what it logs in to is the stand-in cloud in the file that STANDIN_CLOUD names."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent.parent))

from standin_cloud import Response, StandinCloud

from openstack import exceptions as exceptions

_ONE_AT_A_TIME = threading.Lock()


class _Adapter:
    def __init__(self, service: str) -> None:
        self._service = service

    def request(self, url: str, method: str, **options: Any) -> Response:
        """Answer from the file, on the clock of this machine."""
        place = Path(os.environ["STANDIN_CLOUD"])
        with _ONE_AT_A_TIME:
            cloud: StandinCloud = pickle.loads(place.read_bytes())
            cloud.now = time.time()
            answer = cloud.request(self._service, url, method, options)
            draft = place.with_suffix(".new")
            draft.write_bytes(pickle.dumps(cloud))
            draft.replace(place)
        return answer


def connect(**options: Any) -> Any:
    """Return a connection; the secret must be the one that the caller was given."""
    auth = options["auth"]
    assert auth.get("application_credential_secret" if options.get("auth_type") else "password") == "hunter2"
    endpoints = {"compute": [{"region_id": "r1"}]}
    catalog = SimpleNamespace(get_endpoints=lambda service_type: endpoints)
    session_auth = SimpleNamespace(get_access=lambda _session: SimpleNamespace(service_catalog=catalog))
    found = {service: _Adapter(service) for service in ("compute", "network", "block_storage", "image")}
    config = SimpleNamespace(get_auth_args=lambda: auth)
    return SimpleNamespace(session=SimpleNamespace(auth=session_auth), config=config, **found)
