# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All of Nova in one process: API, scheduler, conductor and the computes, which talk over oslo.messaging's in-memory transport.

compute.py PORT THREADS
"""

from __future__ import annotations

import os
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

STANDINS = Path(__file__).resolve().parent / "standins"
_PORT, _THREADS = sys.argv[1:]
del sys.argv[1:]
# Nova chooses between green and native threads at its first import.
os.environ["OS_NOVA_DISABLE_EVENTLET_PATCHING"] = "1"

from nova import monkey_patch  # noqa: E402 - see above

monkey_patch.patch(backend="threading")

import nova.conf  # noqa: E402 - only after the choice
import nova.virt  # noqa: E402
import os_brick  # noqa: E402
import os_vif  # noqa: E402
import waitress  # noqa: E402
from nova import context, objects, service  # noqa: E402
from nova.api.openstack import wsgi_app  # noqa: E402
from nova.compute import rpcapi as compute_rpc  # noqa: E402
from nova.objects import host_mapping  # noqa: E402
from nova.scheduler import rpcapi as scheduler_rpc  # noqa: E402
from nova.virt import node  # noqa: E402


def _await(*addresses: str, seconds: float = 300) -> None:
    """Wait until others answer: a compute that meets no Placement at its start tries again a minute later only."""
    deadline = time.monotonic() + seconds
    for address in addresses:
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(address, timeout=5)
            except urllib.error.HTTPError:
                break
            except OSError:
                time.sleep(0.1)
            else:
                break


def _start() -> list[service.Service]:
    """Start everything but the API."""
    started = [
        service.Service.create(binary="nova-conductor", topic="conductor"),
        service.Service.create(binary="nova-scheduler", topic=scheduler_rpc.RPC_TOPIC),
    ]
    computes = {"binary": "nova-compute", "topic": compute_rpc.RPC_TOPIC, "topic_alt": compute_rpc.RPC_TOPIC_ALT}
    started += [service.Service.create(host=host, **computes) for host in os.environ["LLM_CLOUD_HOSTS"].split(",")]
    for one in started:
        one.start()
    return started


def main() -> None:
    """Start Nova and serve its API until the process is ended."""
    application = wsgi_app.init_application("osapi_compute", "compute")
    objects.register_all()
    # Drivers are looked for in nova.virt only.
    nova.virt.__path__.append(str(STANDINS))
    if node.read_local_node_uuid() is None:
        node.write_local_node_uuid(str(uuid.uuid4()))
    os_brick.setup(nova.conf.CONF)
    os_vif.initialize()
    _await(*os.environ["LLM_CLOUD_AWAIT"].split(","))
    kept = _start()
    host_mapping.discover_hosts(context.get_admin_context())
    waitress.serve(application, listen=f"127.0.0.1:{_PORT}", threads=int(_THREADS), ident=None)
    del kept


if __name__ == "__main__":
    main()
