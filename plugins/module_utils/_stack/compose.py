# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a compose file to what the swarm keeps of it, so that drift is seen without deploying.

Only keys named here are taken; any other is refused, because a difference in it would go unnoticed.
"""

from __future__ import annotations

import re
from typing import Any, Callable

from .._errors import BadInput

_NS = {"us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_BYTES = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
Names = Callable[[str, str], str]


def duration(text: Any) -> int:
    """Return nanoseconds of a duration such as ``1m30s``.

    :raises BadInput: it is not one.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)(us|ms|s|m|h)", str(text))
    if not parts or "".join(number + unit for number, unit in parts) != str(text):
        raise BadInput(f"{text!r} is not a duration. Write it as in 500ms, 10s or 1m30s.")
    return round(sum(float(number) * _NS[unit] for number, unit in parts))


def size(text: Any) -> int:
    """Return bytes of a size such as ``512M``.

    :raises BadInput: it is not one.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)i?B?", str(text).strip().upper().replace("IB", "B"))
    if not found:
        raise BadInput(f"{text!r} is not a size. Write it as in 512M or 2G.")
    return int(float(found.group(1)) * _BYTES[found.group(2)])


def expected_spec(name: str, service: dict[str, Any], names: Names) -> dict[str, Any]:
    """Return the part of a service's specification that follows from its entry in the compose file.

    :param names: gives the full name of a config, secret, network or volume by its kind and its name in the stack.
    :raises BadInput: the entry holds a key whose drift could not be seen.
    """
    rest = dict(service)
    deploy = rest.pop("deploy", {})
    networks = rest.pop("networks", ["default"])
    ports = rest.pop("ports", [])
    logging = rest.pop("logging", None)
    where = f"service {name}"
    task = {
        "ContainerSpec": _container(rest, names, where),
        "Networks": sorted((_network(network, networks, name, names) for network in networks), key=lambda network: str(network["Target"])),
    }
    if logging:
        task["LogDriver"] = {"Name": logging.get("driver", "json-file"), "Options": _strings(logging.get("options", {}))}
    spec = _deploy(dict(deploy), task, where)
    spec["EndpointSpec"]["Ports"] = sorted(map(_port, ports), key=lambda port: port["PublishedPort"])
    spec["TaskTemplate"] = task
    return spec


def _strings(values: dict[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in values.items()}


def _network(network: str, networks: Any, service: str, names: Names) -> dict[str, Any]:
    options = (networks[network] or {}) if isinstance(networks, dict) else {}
    return {"Target": names("network", network), "Aliases": [*options.get("aliases", []), service]}


def _port(port: dict[str, Any]) -> dict[str, Any]:
    return {
        "Protocol": port.get("protocol", "tcp"),
        "TargetPort": int(port["target"]),
        "PublishedPort": int(port["published"]),
        "PublishMode": port.get("mode", "ingress"),
    }


def _file(reference: dict[str, Any], kind: str, names: Names) -> dict[str, Any]:
    file = {
        "Name": reference["target"],
        "UID": str(reference.get("uid", "0")),
        "GID": str(reference.get("gid", "0")),
        "Mode": int(reference.get("mode", 0o444)),
    }
    return {f"{kind.capitalize()}Name": names(kind, reference["source"]), "File": file}


def _mount(volume: dict[str, Any], names: Names) -> dict[str, Any]:
    mount = {"Type": volume["type"], "Target": volume["target"]}
    if volume.get("source"):
        mount["Source"] = names("volume", volume["source"]) if volume["type"] == "volume" else volume["source"]
    if volume.get("read_only"):
        mount["ReadOnly"] = True
    if volume.get("tmpfs", {}).get("size"):
        mount["TmpfsOptions"] = {"SizeBytes": size(volume["tmpfs"]["size"])}
    return mount


def _health(check: dict[str, Any]) -> dict[str, Any]:
    known = {"interval": "Interval", "timeout": "Timeout", "start_period": "StartPeriod", "start_interval": "StartInterval"}
    health: dict[str, Any] = {"Test": list(check["test"])}
    health.update({known[key]: duration(check[key]) for key in known if key in check})
    if "retries" in check:
        health["Retries"] = int(check["retries"])
    return health


# Key of a compose file: key of a container's specification, and how its value is turned.
_CONTAINER: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "image": ("Image", str),
    "entrypoint": ("Command", list),
    "command": ("Args", lambda words: [str(word) for word in words]),
    "environment": ("Env", lambda env: sorted(f"{key}={value}" for key, value in env.items())),
    "hostname": ("Hostname", str),
    "user": ("User", str),
    "read_only": ("ReadOnly", bool),
    "init": ("Init", bool),
    "stop_signal": ("StopSignal", str),
    "stop_grace_period": ("StopGracePeriod", duration),
    "cap_add": ("CapabilityAdd", lambda names: sorted(f"CAP_{name}" for name in names)),
    "cap_drop": ("CapabilityDrop", lambda names: sorted(name if name == "ALL" else f"CAP_{name}" for name in names)),
    "healthcheck": ("Healthcheck", _health),
}
# Kept as they are when the compose file does not name them, so that an addition behind our back is seen.
_EMPTY: dict[str, list[Any]] = {"Command": [], "Args": [], "Env": [], "CapabilityAdd": [], "CapabilityDrop": []}


def _container(service: dict[str, Any], names: Names, where: str) -> dict[str, Any]:
    spec: dict[str, Any] = {key: list(value) for key, value in _EMPTY.items()}
    for kind in ("config", "secret"):
        files = [_file(reference, kind, names) for reference in service.pop(f"{kind}s", [])]
        spec[f"{kind.capitalize()}s"] = sorted(files, key=lambda file: str(file["File"]["Name"]))
    mounts = [_mount(volume, names) for volume in service.pop("volumes", [])]
    spec["Mounts"] = sorted(mounts, key=lambda mount: str(mount["Target"]))
    _refuse_unknown(service, _CONTAINER, where)
    for key, value in service.items():
        target, turn = _CONTAINER[key]
        spec[target] = turn(value)
    return spec


def _refuse_unknown(given: dict[str, Any], known: Any, where: str) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise BadInput(
            f"{where} has {', '.join(unknown)}, whose drift swarm_stack could not see. Use one of {', '.join(sorted(known))}, "
            "or deploy that service with another tool."
        )


def _policy(policy: dict[str, Any]) -> dict[str, Any]:
    """An update or rollback policy, or a restart policy: their keys do not overlap in meaning."""
    known: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "parallelism": ("Parallelism", int),
        "delay": ("Delay", duration),
        "failure_action": ("FailureAction", str),
        "monitor": ("Monitor", duration),
        "max_failure_ratio": ("MaxFailureRatio", float),
        "order": ("Order", str),
        "condition": ("Condition", str),
        "max_attempts": ("MaxAttempts", int),
        "window": ("Window", duration),
    }
    _refuse_unknown(policy, known, "a policy")
    return {known[key][0]: known[key][1](value) for key, value in policy.items()}


def _amounts(amounts: dict[str, Any]) -> dict[str, Any]:
    """Limits or reservations; what is not named is unlimited, and an addition behind our back is seen."""
    _refuse_unknown(amounts, ("cpus", "memory", "pids", "generic_resources"), "resources")
    spec: dict[str, Any] = {
        "NanoCPUs": round(float(amounts.get("cpus", 0)) * 10**9),
        "MemoryBytes": size(amounts.get("memory", 0)),
    }
    if "pids" in amounts:
        spec["Pids"] = int(amounts["pids"])
    generic = [each["discrete_resource_spec"] for each in amounts.get("generic_resources", [])]
    spec["GenericResources"] = [{"DiscreteResourceSpec": {"Kind": one["kind"], "Value": int(one["value"])}} for one in generic]
    return spec


_DEPLOY = (
    *("mode", "replicas", "endpoint_mode", "placement", "resources", "labels"),
    *("restart_policy", "update_config", "rollback_config"),
)


def _deploy(deploy: dict[str, Any], task: dict[str, Any], where: str) -> dict[str, Any]:
    _refuse_unknown(deploy, _DEPLOY, f"deploy of {where}")
    resources, placement = deploy.get("resources", {}), deploy.get("placement", {})
    task["Resources"] = {kind.capitalize(): _amounts(resources.get(kind, {})) for kind in ("limits", "reservations")}
    task["Placement"] = {
        "Constraints": sorted(placement.get("constraints", [])),
        "MaxReplicas": int(placement.get("max_replicas_per_node", 0)),
    }
    if "restart_policy" in deploy:
        task["RestartPolicy"] = _policy(deploy["restart_policy"])
    replicas = {"Replicated": {"Replicas": int(deploy.get("replicas", 1))}}
    spec: dict[str, Any] = {
        "Mode": {"Global": {}} if deploy.get("mode") == "global" else replicas,
        "EndpointSpec": {"Mode": deploy.get("endpoint_mode", "vip")},
        "Labels": _strings(deploy.get("labels", {})),
    }
    for key, target in (("update_config", "UpdateConfig"), ("rollback_config", "RollbackConfig")):
        if key in deploy:
            spec[target] = _policy(deploy[key])
    return spec
