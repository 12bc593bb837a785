# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Turns the options of swarm_gpu_node into what the planners compare, and refuses those that cannot work before anything is called."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Callable

from .._errors import BadInput
from .model import DRAINED_LABEL, RESOURCES_KEY, EngineSpec, Init, Join, Member

# Docker's IDs of clusters and nodes: 25 digits to the base 36.
_ID = re.compile(r"[a-z0-9]{25}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*")
_INTERFACE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,14}")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?")
_TOKEN = re.compile(r"SWMTKN-[12]-[a-z0-9-]+")
# What dockerd itself takes (its option --data-path-port).
_DATA_PATH_PORTS = range(1024, 49152)
# A swarm takes a second to agree on a leader; a node that is silent for longer than this is of no use to anybody.
_HEARTBEATS = (0.5, 600.0)
_DAY = 86400


def engine_spec(options: dict[str, Any]) -> EngineSpec:
    """Turn the option engine into what the planner compares.

    :raises BadInput: an option cannot work, or two contradict each other.
    """
    _refuse_contradictions(options)
    _check_timeout("engine.timeout", options["timeout"])
    _check_address("engine.advertise_address", options["advertise_address"], port=True)
    _check_address("engine.data_path_address", options["data_path_address"], port=False)
    _check_daemon(options)
    return EngineSpec(
        settings=options["daemon"],
        gpus=options["gpus"],
        require_gpu=options["require_gpu"],
        advertise_address=options["advertise_address"],
        data_path_address=options["data_path_address"],
        join=join_spec(options) if options["manager"] else None,
        init=init_spec(options["init"]) if options["init"] is not None else None,
    )


def _refuse_contradictions(options: dict[str, Any]) -> None:
    if options["init"] is not None and options["manager"]:
        raise BadInput("engine.init makes a swarm and engine.manager joins one: give only one of them.")
    if options["role"] == "manager" and not options["manager"]:
        raise BadInput("engine.role is manager, and engine.manager is empty: give the address of a manager to join, or engine.init.")
    if options["require_gpu"] and not options["gpus"]:
        raise BadInput("engine.require_gpu asks for a GPU, and engine.gpus is false: set engine.gpus, or require none.")


def _check_timeout(name: str, seconds: int) -> None:
    if not 0 < seconds <= _DAY:
        raise BadInput(f"{name} is {seconds}: give a number of seconds from 1 to {_DAY}.")


def _is_address(text: str) -> bool:
    try:
        return not ipaddress.ip_address(text).is_unspecified
    except ValueError:
        return False


def _check_address(name: str, text: str, *, port: bool) -> None:
    """Docker takes an address or the name of an interface, and for some options a port."""
    host = text
    if port and re.fullmatch(r".+:\d+", text) and not _is_address(text):
        host, _colon, number = text.rpartition(":")
        _check_port(name, text, number)
        host = host.strip("[]")
    if text and not (_is_address(host) or _INTERFACE.fullmatch(host)):
        raise BadInput(f"{name} is {text!r}: give an address of this host, such as 10.77.0.32, or the name of an interface.")


def _check_port(name: str, text: str, number: str) -> None:
    if not 0 < int(number) <= 65535:
        raise BadInput(f"{name} is {text!r}: its port is not one from 1 to 65535.")


def _check_daemon(options: dict[str, Any]) -> None:
    daemon = options["daemon"]
    swarm = options["manager"] or options["init"] is not None
    if swarm and daemon.get("live-restore"):
        raise BadInput("engine.daemon sets live-restore, with which Docker refuses to be a node of a swarm: take it out.")
    if options["gpus"] and RESOURCES_KEY in daemon:
        raise BadInput(f"engine.daemon sets {RESOURCES_KEY}, which engine.gpus keeps: take it out, or set engine.gpus to false.")
    root = daemon.get("data-root")
    if root is not None and not (isinstance(root, str) and root.startswith("/")):
        raise BadInput(f"engine.daemon sets data-root to {root!r}: give an absolute path.")


def join_spec(options: dict[str, Any]) -> Join:
    """Turn the options about the swarm to join into what the planner compares.

    :raises BadInput: one of them is malformed; a token is not quoted.
    """
    _check_manager(options["manager"])
    token = options["join_token"] or ""
    if token and not _TOKEN.fullmatch(token):
        raise BadInput("engine.join_token is no join token of a swarm: those begin with SWMTKN- (`docker swarm join-token worker`).")
    known = options["known_nodes"]
    _check_id("engine.cluster_id", options["cluster_id"])
    for node in known or []:
        _check_id("engine.known_nodes", node, empty=False)
    return Join(options["manager"], options["cluster_id"], token, None if known is None else tuple(known), options["role"])


def _check_manager(text: str) -> None:
    host, _colon, number = text.rpartition(":")
    host = host.strip("[]")
    if not number.isdigit() or not (_is_address(host) or (_HOST.fullmatch(host) and not host.replace(".", "").isdigit())):
        raise BadInput(f"engine.manager is {text!r}: give address and port of a manager, such as 10.77.0.21:2377.")
    _check_port("engine.manager", text, number)


def _check_id(name: str, text: str, *, empty: bool = True) -> None:
    if not (_ID.fullmatch(text) or (empty and not text)):
        raise BadInput(f"{name} is {text!r}: an ID of Docker has 25 small letters and digits (`docker info`, `docker node ls`).")


def init_spec(options: dict[str, Any]) -> Init:
    """Turn the option engine.init into what the planner compares.

    :raises BadInput: an option cannot work.
    """
    heartbeat, port = options["dispatcher_heartbeat"], options["data_path_port"]
    if heartbeat is not None and not _HEARTBEATS[0] <= heartbeat <= _HEARTBEATS[1]:
        raise BadInput(f"engine.init.dispatcher_heartbeat is {heartbeat:g}: give seconds from {_HEARTBEATS[0]:g} to {_HEARTBEATS[1]:g}.")
    if port is not None and port not in _DATA_PATH_PORTS:
        raise BadInput(f"engine.init.data_path_port is {port}: Docker takes ports from 1024 to 49151.")
    _check_pools(options["address_pools"], options["subnet_size"])
    return Init(
        heartbeat_ns=round(heartbeat * 1e9) if heartbeat is not None else None,
        autolock=options["autolock"],
        rotate_worker_token=options["rotate_worker_token"],
        data_path_port=port,
        address_pools=tuple(options["address_pools"]),
        subnet_size=options["subnet_size"],
    )


def _check_pools(pools: list[str], size: int | None) -> None:
    networks = [_network(pool) for pool in pools]
    for position, network in enumerate(networks):
        for other in networks[:position]:
            if network.version == other.version and network.overlaps(other):
                raise BadInput(
                    f"engine.init.address_pools holds {other} and {network}, which overlap: give networks apart from each other."
                )
    if size is None:
        return
    if not networks:
        raise BadInput("engine.init.subnet_size is given without engine.init.address_pools: give both, or neither.")
    for network in networks:
        if not network.prefixlen <= size < network.max_prefixlen - 1:
            raise BadInput(
                f"engine.init.subnet_size is {size}, and no network of that size with room for a node can be cut from {network}: "
                f"give a number from {network.prefixlen} to {network.max_prefixlen - 2}."
            )


def _network(text: str) -> Any:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise BadInput(f"engine.init.address_pools holds {text!r}: give networks such as 10.20.0.0/16 ({error}).") from error


def label_text(value: Any) -> str | None:
    """Return a label's value as Docker stores it."""
    if value is None or isinstance(value, str):
        return value
    return str(value).lower() if isinstance(value, bool) else str(value)


def member_specs(options: list[dict[str, Any]], timeout: int) -> tuple[Member, ...]:
    """Turn the option members into what the planner compares.

    :raises BadInput: a member has no name, two are the same, or an option of one cannot work.
    """
    _check_timeout("timeout", timeout)
    found: list[Member] = []
    for position, option in enumerate(options):
        where = f"members[{position}]"
        member = _member(where, option)
        if any(member.id == other.id and (member.id or member.hostname == other.hostname) for other in found):
            raise BadInput(f"members names the node {member.name} twice: give each node once.")
        found.append(member)
    return tuple(found)


def _member(where: str, option: dict[str, Any]) -> Member:
    if not (option["id"] or option["hostname"]):
        raise BadInput(f"{where} names no node: give its id or hostname.")
    _check_id(f"{where}.id", option["id"])
    if option["hostname"] and not _HOST.fullmatch(option["hostname"]):
        raise BadInput(f"{where}.hostname is {option['hostname']!r}, which is no host name: give what `docker node ls` shows.")
    for refuse in _MEMBER_CHECKS:
        refuse(where, option)
    return Member(
        id=option["id"],
        hostname=option["hostname"],
        labels={key: label_text(value) for key, value in option["labels"].items()},
        availability=option["availability"] or "",
        gpus=option["gpus"],
        absent=option["state"] == "absent",
        temporary=option["temporary"],
        wait=option["wait"],
        remove_twins=option["remove_twins"],
    )


def _refuse_absent_settings(where: str, option: dict[str, Any]) -> None:
    given = [name for name in ("labels", "availability", "gpus", "temporary", "remove_twins") if option[name] not in ({}, None, False)]
    if option["state"] == "absent" and given:
        raise BadInput(f"{where}.state is absent, and {', '.join(given)} would be set on a node that is gone: give one or the other.")


def _refuse_labels(where: str, option: dict[str, Any]) -> None:
    for key, value in option["labels"].items():
        if not isinstance(key, str) or not _LABEL.fullmatch(key):
            raise BadInput(
                f"{where}.labels has the key {key!r}: give letters and digits with dots, dashes, underscores or slashes between."
            )
        if key == DRAINED_LABEL or key.startswith(("com.docker.", "io.docker.", "org.dockerproject.")):
            raise BadInput(f"{where}.labels has the key {key}, which is reserved: choose another.")
        if isinstance(value, (dict, list)):
            raise BadInput(f"{where}.labels gives {key} a {'dictionary' if isinstance(value, dict) else 'list'}: a label is one text.")
        if isinstance(value, str) and not value.isprintable():
            raise BadInput(f"{where}.labels gives {key} a value with control characters or line ends: a label is one line.")


def _refuse_counts(where: str, option: dict[str, Any]) -> None:
    if option["gpus"] is not None and option["gpus"] < 0:
        raise BadInput(f"{where}.gpus is {option['gpus']}: give 0 or more.")


def _refuse_temporary(where: str, option: dict[str, Any]) -> None:
    if option["temporary"] and option["availability"] != "drain":
        raise BadInput(f"{where}.temporary belongs to a drain: set availability to drain, or leave temporary out.")


_MEMBER_CHECKS: tuple[Callable[[str, dict[str, Any]], None], ...] = (
    _refuse_absent_settings,
    _refuse_labels,
    _refuse_counts,
    _refuse_temporary,
)
