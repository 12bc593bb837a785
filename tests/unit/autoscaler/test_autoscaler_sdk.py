# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real SDK with an application credential, against the stand-in cloud over HTTP that the swarm rung runs: it finds all services."""

from __future__ import annotations

import pickle
import sys
import threading
from pathlib import Path
from typing import Iterator

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.apply import start
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.client import Calls, Watch
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.errors import CloudError
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.login import connect
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.spec import fleet_spec
from fleetkit import validated
from standin_cloud import StandinCloud

sys.path.append(str(Path(__file__).resolve().parents[2] / "swarm"))

from cloud_server import Server

pytestmark = pytest.mark.one_core


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "cloud").write_bytes(pickle.dumps(StandinCloud()))
    with Server("127.0.0.1", 0, tmp_path / "cloud", "hunter2") as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def test_a_server_is_made_through_every_service(server: Server, tmp_path: Path) -> None:
    login = {
        "auth_type": "v3applicationcredential",
        "auth": {"auth_url": f"{server.url}/identity/v3", "application_credential_id": "x", "application_credential_secret": "hunter2"},
        "region_name": "r1",
    }
    options = {**validated(floating_network="ext", deadline=60), **login}
    desired = fleet_spec(options)
    run = start(connect(options, desired), watch=Watch(60), calls=Calls(), api_timeout=30, memory={})
    current = run.read(desired)
    outcomes = run.apply(run.plan(current, desired), current=current, desired=desired)
    assert [(one.action, one.ok) for one in outcomes] == [("created", True)]
    cloud: StandinCloud = pickle.loads((tmp_path / "cloud").read_bytes())
    assert [one["status"] for one in cloud.servers.values()] == ["ACTIVE"]
    assert (tmp_path / "cloud.calls").read_text().count('"POST"') >= 4


def test_a_wrong_secret_is_told_as_one(server: Server) -> None:
    auth = {"auth_url": f"{server.url}/identity/v3", "application_credential_id": "x", "application_credential_secret": "wrong"}
    connections = connect({"auth_type": "v3applicationcredential", "auth": auth, "region_name": "r1", "regions": ["r1"]})
    run = start(connections, watch=Watch(20), calls=Calls(), api_timeout=10, memory={})
    with pytest.raises(CloudError, match="does not accept the credentials"):
        run.look("llm")
