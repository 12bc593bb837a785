# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-in for a hypervisor: Nova's own fake driver with GPUs, identities that survive a restart, and mishaps on demand.

A file in the controls directory is an order:

``slow@NAME``    servers of that name take as many seconds to boot as the file says
``fail@NAME``    servers of that name cannot be booted, on any host
``crash@UUID``   the guest dies at once, as libvirt would report it; the file is removed when that has happened
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from nova import exception
from nova.compute import power_state
from nova.virt import event, fake

CONTROLS = Path(os.environ["LLM_CLOUD_CONTROLS"])
LOOK_SECONDS = 0.2


class PretendHypervisor(fake.FakeDriver):
    """One host."""

    vcpus = 512
    memory_mb = 2_000_000
    local_gb = 20_000

    def init_host(self, host: str) -> None:
        """Start to look for guests that have to die."""
        super().init_host(host)
        threading.Thread(target=self._watch, daemon=True).start()

    @staticmethod
    def _identity(node: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, node))

    def get_nodenames_by_uuid(self, refresh: bool = False) -> dict[str, str]:
        """Name the nodes by identities made of their names: those of the fake driver change at each start."""
        return {self._identity(node): node for node in self.get_available_nodes(refresh)}

    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        """Add the identity and the GPUs."""
        found: dict[str, Any] = super().get_available_resource(nodename)
        if found:
            found.update(uuid=self._identity(nodename), pci_passthrough_devices=json.dumps(_gpus()))
        return found

    def spawn(self, context: object, instance: Any, *args: Any, **kwargs: Any) -> None:
        """Boot a guest, slowly or not at all where that was ordered."""
        slow = CONTROLS / f"slow@{instance.display_name}"
        if slow.exists():
            time.sleep(float(slow.read_text()))
        if (CONTROLS / f"fail@{instance.display_name}").exists():
            raise exception.ComputeResourcesUnavailable(reason="the stand-in was ordered to fail")
        super().spawn(context, instance, *args, **kwargs)

    def _watch(self) -> None:
        while True:
            for guest in list(self.instances):
                order = CONTROLS / f"crash@{guest}"
                if order.exists():
                    self.instances[guest].state = power_state.SHUTDOWN
                    self.emit_event(event.LifecycleEvent(guest, event.EVENT_LIFECYCLE_STOPPED))
                    order.unlink()
            time.sleep(LOOK_SECONDS)


def _gpus() -> list[dict[str, object]]:
    """Return every GPU of a host, each in a slot of its own."""
    wanted = json.loads(os.environ["LLM_CLOUD_GPUS"])
    products = [product for product, count in wanted["products"].items() for _card in range(count)]
    return [
        {
            "address": f"0000:{slot:02x}:00.0",
            "vendor_id": wanted["vendor"],
            "product_id": product,
            "dev_id": f"pci_0000_{slot:02x}_00_0",
            "label": f"label_{wanted['vendor']}_{product}",
            "status": "available",
            "dev_type": "type-PCI",
            "parent_addr": None,
            "numa_node": 0,
        }
        for slot, product in enumerate(products, 1)
    ]
