# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration files of all services, as data: this is what makes them run on one machine without agents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Mapping, Union

from .config import HOSTS, PASSWORD, REGION, Paths, urls

# Of an option that may be given several times, all values.
Options = dict[str, Union[str, tuple[str, ...]]]
File = dict[str, Options]
DATABASES = ("keystone", "placement", "glance", "neutron", "cinder", "nova_api", "nova_cell0", "nova_cell1")
# NVIDIA's vendor number, with the product numbers of two cards and how many of each a host has.
GPU_VENDOR = "10de"
GPUS = {"RTX4090": ("2684", 16), "T4": ("1eb8", 4)}

# Seconds for which a service takes a token for valid without asking again. Clouds have 300; a test that revokes one waits for it, and with
# 1 a fleet waited for the identity service more than for anything else.
TOKEN_CACHE = 10


def database(paths: Paths, name: str) -> str:
    """Return the address of a database."""
    return f"mysql+pymysql://root@localhost/{name}?unix_socket={paths.socket}&charset=utf8mb3"


def _account(user: str, catalogue: Mapping[str, str]) -> Options:
    """How a service signs in to the others."""
    return {
        "auth_url": catalogue["identity"],
        "auth_type": "password",
        "username": user,
        "password": PASSWORD,
        "project_name": "service",
        "user_domain_name": "Default",
        "project_domain_name": "Default",
        "region_name": REGION,
    }


def _checks_tokens(user: str, catalogue: Mapping[str, str]) -> Options:
    extra = {"www_authenticate_uri": catalogue["identity"], "service_token_roles": "service", "service_token_roles_required": "true"}
    return {**_account(user, catalogue), **extra, "token_cache_time": str(TOKEN_CACHE)}


def files(paths: Paths, venv: Path, ports: dict[str, int]) -> dict[str, File]:
    """Return every configuration file, by its path below the live directory."""
    catalogue = urls(ports)
    made = {
        "keystone/keystone.conf": _keystone(paths),
        "placement/placement.conf": _placement(paths),
        "glance/glance-api.conf": _glance(paths, venv),
        "nova/nova.conf": _nova(paths, catalogue),
        "neutron/neutron.conf": _neutron(paths, venv, catalogue),
        "cinder/cinder.conf": _cinder(paths, venv, catalogue),
    }
    for path, file in made.items():
        user = path.partition("/")[0]
        # No answer within a minute means a busy machine here, never a lost one.
        file["DEFAULT"]["rpc_response_timeout"] = "600"
        file["DEFAULT"]["log_file"] = str(paths.logs / f"{user}.log")
        file.setdefault("oslo_concurrency", {})["lock_path"] = str(paths.live / "lock")
        if user != "keystone":
            file["keystone_authtoken"] = _checks_tokens(user, catalogue)
    return made


def _keystone(paths: Paths) -> File:
    place = paths.live / "keystone"
    return {
        "DEFAULT": {},
        "database": {"connection": database(paths, "keystone")},
        "token": {"provider": "fernet"},
        "fernet_tokens": {"key_repository": str(place / "fernet")},
        "fernet_receipts": {"key_repository": str(place / "fernet")},
        "credential": {"key_repository": str(place / "credentials")},
        # The least there is: every sign-in of every test pays for it.
        "identity": {"password_hash_rounds": "4"},
    }


def _placement(paths: Paths) -> File:
    return {"DEFAULT": {}, "placement_database": {"connection": database(paths, "placement")}, "api": {"auth_strategy": "keystone"}}


def _glance(paths: Paths, venv: Path) -> File:
    place = paths.live / "glance"
    return {
        "DEFAULT": {"transport_url": "fake://", "enabled_backends": "files:file", "enabled_import_methods": "[glance-direct]"},
        "database": {"connection": database(paths, "glance")},
        "glance_store": {"default_backend": "files"},
        "files": {"filesystem_store_datadir": str(place / "images")},
        "os_glance_staging_store": {"filesystem_store_datadir": str(place / "staging")},
        "os_glance_tasks_store": {"filesystem_store_datadir": str(place / "tasks")},
        "paste_deploy": {"flavor": "keystone", "config_file": str(venv / "etc" / "glance" / "glance-api-paste.ini")},
    }


def _nova(paths: Paths, catalogue: Mapping[str, str]) -> File:
    account = _account("nova", catalogue)
    return {
        "DEFAULT": {
            "state_path": str(paths.live / "nova"),
            "instances_path": str(paths.live / "nova" / "instances"),
            "host": "control",
            "my_ip": "127.0.0.1",
            "transport_url": "fake://",
            "compute_driver": "hypervisor.PretendHypervisor",
            # Shelved servers stay SHELVED until somebody offloads them: tests need both states.
            "shelved_offload_time": "-1",
            # Nobody plugs a cable, so nobody may wait for one.
            "vif_plugging_is_fatal": "false",
            "vif_plugging_timeout": "0",
            "running_deleted_instance_action": "noop",
            # Each zone has one host only.
            "allow_resize_to_same_host": "true",
            "service_down_time": "600",
        },
        "api": {"auth_strategy": "keystone"},
        "api_database": {"connection": database(paths, "nova_api")},
        "database": {"connection": database(paths, "nova_cell1")},
        "glance": account,
        "placement": account,
        "neutron": account,
        "cinder": account,
        "service_user": {**account, "send_service_user_token": "true"},
        "quota": {"driver": "nova.quota.DbQuotaDriver", "instances": "40", "cores": "1000", "ram": "4000000"},
        "filter_scheduler": {
            "track_instance_changes": "false",
            "enabled_filters": "ComputeFilter,ComputeCapabilitiesFilter,ImagePropertiesFilter,PciPassthroughFilter",
        },
        "pci": {
            "device_spec": json.dumps({"vendor_id": GPU_VENDOR}),
            "alias": tuple(_alias(name, product) for name, (product, _count) in GPUS.items()),
        },
    }


def _alias(name: str, product: str) -> str:
    return json.dumps({"name": name, "vendor_id": GPU_VENDOR, "product_id": product, "device_type": "type-PCI"})


def _neutron(paths: Paths, venv: Path, catalogue: Mapping[str, str]) -> File:
    return {
        "DEFAULT": {
            "state_path": str(paths.live / "neutron"),
            "transport_url": "fake://",
            "core_plugin": "ml2",
            "service_plugins": "router",
            "auth_strategy": "keystone",
            "api_paste_config": str(venv / "etc" / "neutron" / "api-paste.ini"),
            "notify_nova_on_port_status_changes": "false",
            # Or Nova learns of a floating IP a minute later.
            "notify_nova_on_port_data_changes": "true",
            "dhcp_agent_notification": "false",
        },
        "ml2": {
            "type_drivers": "local,flat",
            "tenant_network_types": "local",
            "mechanism_drivers": "pretend_switch",
            "extension_drivers": "port_security",
        },
        "ml2_type_flat": {"flat_networks": "*"},
        "securitygroup": {"enable_security_group": "true"},
        "nova": _account("neutron", catalogue),
        "database": {"connection": database(paths, "neutron")},
    }


def _cinder(paths: Paths, venv: Path, catalogue: Mapping[str, str]) -> File:
    etc = venv / "etc" / "cinder"
    account = _account("nova", catalogue)
    return {
        "DEFAULT": {
            "state_path": str(paths.live / "cinder"),
            "transport_url": "fake://",
            "host": "control",
            "my_ip": "127.0.0.1",
            "auth_strategy": "keystone",
            "enabled_backends": "pretend",
            "default_volume_type": "__DEFAULT__",
            "api_paste_config": str(etc / "api-paste.ini"),
            "resource_query_filters_file": str(etc / "resource_filters.json"),
            "glance_api_servers": catalogue["image"],
            "scheduler_driver_init_wait_time": "1",
            "quota_volumes": "100",
            "quota_gigabytes": "100000",
        },
        "pretend": {"volume_driver": "disks.PretendDisks", "volume_backend_name": "pretend"},
        "database": {"connection": database(paths, "cinder")},
        "coordination": {"backend_url": f"file://{paths.live / 'cinder' / 'coordination'}"},
        "nova": account,
        "service_user": {**account, "send_service_user_token": "true"},
    }


def _section(name: str, options: Options) -> str:
    lines = [f"[{name}]"]
    for key, value in options.items():
        lines += [f"{key} = {one}" for one in ((value,) if isinstance(value, str) else value)]
    return "\n".join(lines) + "\n"


def write(paths: Paths, venv: Path, ports: dict[str, int]) -> None:
    """Write all files, with the directories the services expect."""
    for place in ("lock", "controls", "keystone/fernet", "nova/instances", "glance/images", "glance/staging", "glance/tasks", "cinder"):
        (paths.live / place).mkdir(parents=True, exist_ok=True)
    for path, file in files(paths, venv, ports).items():
        target = paths.live / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("\n".join(_section(name, options) for name, options in file.items()))
    paste = (venv / "etc" / "nova" / "api-paste.ini").read_text()
    (paths.live / "nova" / "api-paste.ini").write_text(paste)


def environment(paths: Paths) -> dict[str, str]:
    """Return what tells the services where their files are, and which machines pretend to be there."""
    places = {name: str(paths.live / name) for name in ("keystone", "placement", "glance", "nova", "neutron", "cinder")}
    return {
        **{f"OS_{name.upper()}_CONFIG_DIR": place for name, place in places.items()},
        "OS_NEUTRON_CONFIG_FILES": "neutron.conf",
        "LLM_CLOUD_HOSTS": ",".join(HOSTS),
        "LLM_CLOUD_CONTROLS": str(paths.controls),
        "LLM_CLOUD_GPUS": json.dumps({"vendor": GPU_VENDOR, "products": dict(GPUS.values())}),
    }
