# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of a fleet, as the modules that take them have them in their argument specifications."""

from __future__ import annotations

from typing import Any


def placement_options() -> dict[str, Any]:
    """Return the options of a placement."""
    match = {"gpu": {"type": "str"}, **{name: {"type": "int"} for name in ("gpus", "vcpus", "ram_mb", "disk_gb")}}
    return {
        "region": {"type": "str"},
        "zone": {"type": "str"},
        "flavor": {"type": "str"},
        "flavor_match": {"type": "dict", "options": match},
        "preemptible": {"type": "bool", "default": True},
        "volume_type": {"type": "str"},
    }


def network_options() -> dict[str, Any]:
    """Return the options of a network."""
    return {name: {"type": "str"} for name in ("network", "fixed_ip", "port")}


def server_options() -> dict[str, Any]:
    """Return the options of one server."""
    return {
        "name": {"type": "str", "required": True},
        "placements": {"type": "list", "elements": "dict", "options": placement_options()},
        "networks": {"type": "list", "elements": "dict", "options": network_options()},
        "user_data": {"type": "str", "no_log": True},
        "restore": {"type": "str", "choices": ["first", "never", "only"], "default": "first"},
        "successor": {"type": "bool", "default": False},
    }


def price_options() -> dict[str, Any]:
    """Return the options of the price table."""
    row = {
        "flavor": {"type": "str", "required": True},
        "region": {"type": "str"},
        "preemptible": {"type": "float"},
        "regular": {"type": "float"},
    }
    return {
        "currency": {"type": "str"},
        "servers": {"type": "list", "elements": "dict", "options": row},
        "volume_gb": {"type": "float"},
        "address": {"type": "float"},
    }


def fleet_options() -> dict[str, Any]:
    """Return the options of a fleet without its name; the doc fragment fleet describes them."""
    text, flag = {"type": "str", "default": ""}, {"type": "bool", "default": False}
    names = {"type": "list", "elements": "str", "default": []}
    return {
        "profile": {"type": "str", "choices": ["selectel", "openstack"], "default": "selectel"},
        "servers": {"type": "list", "elements": "dict", "default": [], "options": server_options()},
        "name_pattern": {"type": "str"},
        "count": {"type": "int"},
        "placements": {"type": "list", "elements": "dict", "default": [], "options": placement_options()},
        "allow_regular": flag,
        "image": {"type": "str"},
        "boot": {"type": "str", "choices": ["volume", "local"], "default": "volume"},
        "volume_size": {"type": "int"},
        "networks": {"type": "list", "elements": "dict", "default": [], "options": network_options()},
        "security_groups": names,
        "floating_network": text,
        "key_name": {**text, "no_log": False},
        "user_data": {"type": "str", "no_log": True},
        "ssh_host_key": {**flag, "no_log": False},
        "metadata": {"type": "dict", "default": {}},
        "tags": names,
        "start_stopped": flag,
        "switch_to_preemptible": names,
        "switch_to_regular": names,
        "allow_data_loss": names,
        "max_age": {"type": "float"},
        "demote_for": {"type": "float", "default": 1800},
        "prices": {"type": "dict", "options": price_options()},
        "regions": names,
        "deadline": {"type": "float", "default": 900},
    }
