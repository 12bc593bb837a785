# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fills the cloud, and empties it: seed.py identity | content | reset. What it has to know comes as JSON on standard input."""

from __future__ import annotations

import io
import json
import sys
import time
from typing import Any

import openstack
from openstack.connection import Connection

SERVICE_USERS = ("nova", "placement", "glance", "neutron", "cinder")
NAMES = {
    "placement": "placement",
    "compute": "nova",
    "network": "neutron",
    "image": "glance",
    "block-storage": "cinder",
}
# As Selectel names them: line, vCPUs, MiB of memory, GB of local disk, GPUs. No local disk means: boots from a volume.
FLAVORS = {
    "SL1.1-2048": (1, 2048, 0, ""),
    "SL1.1-2048-10": (1, 2048, 10, ""),
    "SL1.2-4096-10": (2, 4096, 10, ""),
    "GL2.4-16384-0-1GPU": (4, 16384, 0, "T4:1"),
    "GL10.8-32768-0-1GPU": (8, 32768, 0, "RTX4090:1"),
    "GL10.8-32768-40-1GPU": (8, 32768, 40, "RTX4090:1"),
    "GL10.16-65536-0-2GPU": (16, 65536, 0, "RTX4090:2"),
}
IMAGES = ("Ubuntu 24.04 LTS 64-bit", "Ubuntu 22.04 LTS 64-bit GPU Driver 580")
IMAGE = {"disk_format": "raw", "container_format": "bare", "visibility": "public", "min_disk": 1}
EMPTY_SECONDS = 60


def connect(told: dict[str, Any]) -> Connection:
    """Sign in as the administrator."""
    return openstack.connect(
        auth_url=told["catalogue"]["identity"],
        username="admin",
        password=told["password"],
        project_name="admin",
        user_domain_name="Default",
        project_domain_name="Default",
        region_name=told["region"],
        compute_default_microversion="2.90",
    )


def identity(cloud: Connection, told: dict[str, Any]) -> None:
    """Make the services' users, the catalogue, and a project for work by hand."""
    keystone = cloud.identity
    roles = {role.name: role for role in keystone.roles()}
    roles["service"] = roles.get("service") or keystone.create_role(name="service")
    project = keystone.create_project(name="service", domain_id="default")
    for name in SERVICE_USERS:
        user = keystone.create_user(name=name, password=told["password"], domain_id="default", default_project_id=project.id)
        for role in ("admin", "service"):
            keystone.assign_project_role_to_user(project, user, roles[role])
    for kind, url in told["catalogue"].items():
        if kind != "identity":
            service = keystone.create_service(name=NAMES[kind], type=kind)
            for interface in ("public", "internal", "admin"):
                keystone.create_endpoint(service_id=service.id, interface=interface, url=url, region_id=told["region"])
    demo = keystone.create_project(name="demo", domain_id="default")
    user = keystone.create_user(name="demo", password=told["password"], domain_id="default", default_project_id=demo.id)
    keystone.assign_project_role_to_user(demo, user, roles["member"])


def content(cloud: Connection, told: dict[str, Any]) -> None:
    """Make flavors, images, zones and networks."""
    for name, (vcpus, ram, disk, gpu) in FLAVORS.items():
        flavor = cloud.compute.create_flavor(name=name, vcpus=vcpus, ram=ram, disk=disk)
        if gpu:
            cloud.compute.create_flavor_extra_specs(flavor, {"pci_passthrough:alias": gpu})
    for name in IMAGES:
        data = io.BytesIO(b"\0" * 4096)
        cloud.image.create_image(name=name, **IMAGE, data=data, validate_checksum=False)
    for host, zone in told["hosts"].items():
        aggregate = cloud.compute.create_aggregate(name=zone, availability_zone=zone)
        cloud.compute.add_host_to_aggregate(aggregate, host)
    external = cloud.network.create_network(
        name="external", is_router_external=True, provider_network_type="flat", provider_physical_network="external"
    )
    cloud.network.create_subnet(name="external", network_id=external.id, ip_version=4, cidr="203.0.113.0/24", is_dhcp_enabled=False)
    private = cloud.network.create_network(name="private", is_shared=True)
    subnet = cloud.network.create_subnet(name="private", network_id=private.id, ip_version=4, cidr="10.9.0.0/22")
    router = cloud.network.create_router(name="router", external_gateway_info={"network_id": external.id})
    cloud.network.add_interface_to_router(router, subnet_id=subnet.id)


def reset(cloud: Connection, _told: dict[str, Any]) -> None:
    """Remove what projects made, and let every host work again."""
    for service in cloud.compute.services(binary="nova-compute"):
        cloud.compute.update_service(service, status="enabled", forced_down=False)
    for server in cloud.compute.servers(all_projects=True):
        cloud.compute.unlock_server(server)
        cloud.compute.delete_server(server, force=True)
    _until(lambda: not list(cloud.compute.servers(all_projects=True)))
    for address in cloud.network.ips():
        cloud.network.delete_ip(address)
    for port in cloud.network.ports():
        if not (port.device_owner or "").startswith("network:"):
            cloud.network.delete_port(port)
    for volume in cloud.block_storage.volumes(all_projects=True):
        if volume.status in ("available", "error"):
            cloud.block_storage.delete_volume(volume)
    _until(lambda: not list(cloud.block_storage.volumes(all_projects=True)))


def _until(done: Any) -> None:
    deadline = time.monotonic() + EMPTY_SECONDS
    while not done():
        if time.monotonic() > deadline:
            raise SystemExit(f"servers or volumes are still there after {EMPTY_SECONDS} s")
        time.sleep(0.2)


def main() -> None:
    """Run one phase."""
    told = json.load(sys.stdin)
    {"identity": identity, "content": content, "reset": reset}[sys.argv[1]](connect(told), told)


if __name__ == "__main__":
    main()
