# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Decides what has to be made, deployed and removed. Pure."""

from __future__ import annotations

from typing import Any

from .._plan import Plan, Step
from .model import LABEL, Current, Item, Service, Stored, Wanted

_ABSENT = "absent"


def plan(current: Current, wanted: Wanted) -> Plan:
    """Plan the way from what the swarm has to what the stack should be.

    New configs and secrets come first, then the services; old ones go when neither a service nor a rollback could need them.
    """
    here = {service.name: service for service in current.services if service.stack == wanted.stack}
    known = {(stored.kind, stored.name) for stored in current.stored}
    missing = [item for item in wanted.items if (item.kind, item.full_name(wanted.stack)) not in known]
    differences = {name: _difference(here.get(name), spec, current) for name, spec in wanted.specs.items()}
    differing = {name: found for name, found in differences.items() if found}
    steps = [_create(item, wanted.stack) for item in missing]
    if differing:
        steps.append(Step("deploy", wanted.stack, _sentence(wanted.stack, differing, here), wanted.compose))
    steps += [_remove(stored) for stored in _stale(current, wanted, deployed=bool(differing))]
    warnings = tuple(
        f"Service {name} belongs to stack {wanted.stack} but not to its definition; it is left running. "
        f"`docker service rm {name}` removes it."
        for name in sorted(set(here) - set(wanted.specs))
    )
    before = {name: {path: old for path, (old, _new) in found.items()} for name, found in differing.items()}
    after = {name: {path: new for path, (_old, new) in found.items()} for name, found in differing.items()}
    for item in missing:
        before[item.full_name(wanted.stack)] = {"content": _old_text(item, current, wanted.stack)}
        after[item.full_name(wanted.stack)] = {"content": _new_text(item)}
    return Plan(steps=tuple(steps), warnings=warnings, before=before, after=after)


def _create(item: Item, stack: str) -> Step:
    name = item.full_name(stack)
    return Step(f"create_{item.kind}", name, f"Create {item.kind} {name}", item)


def _remove(stored: Stored) -> Step:
    return Step(f"remove_{stored.kind}", stored.name, f"Remove {stored.kind} {stored.name}, which no service uses any more", stored)


def _sentence(stack: str, differing: dict[str, Any], here: dict[str, Service]) -> str:
    parts = []
    for name, found in differing.items():
        keys = ", ".join(path.rpartition(".")[2] for path in found)
        parts.append(f"change {keys} of {name}" if name in here else f"create {name}")
    return f"Deploy stack {stack}: {'; '.join(parts)}"


def _new_text(item: Item) -> Any:
    if item.content is None:
        return "(made when this is run)"
    return item.content.splitlines() if item.kind == "config" else "(secret)"


def _old_text(item: Item, current: Current, stack: str) -> Any:
    """What the config of that name holds now that some service of the stack uses."""
    prefix = f"{stack}_{item.name}_"
    used = {name for service in current.services for _kind, name in _references(service.spec)}
    texts = [
        stored.text for stored in current.stored if stored.kind == item.kind and stored.name.startswith(prefix) and stored.name in used
    ]
    if item.kind == "secret":
        return "(secret)" if texts else _ABSENT
    return texts[0].splitlines() if texts else _ABSENT


def _references(spec: dict[str, Any]) -> set[tuple[str, str]]:
    container = spec.get("TaskTemplate", {}).get("ContainerSpec", {})
    configs = {("config", each["ConfigName"]) for each in container.get("Configs") or []}
    return configs | {("secret", each["SecretName"]) for each in container.get("Secrets") or []}


def _stale(current: Current, wanted: Wanted, *, deployed: bool) -> list[Stored]:
    """What belongs to the stack and is needed neither now nor for going back one step.

    A deployment makes every service's present specification the one a rollback returns to.
    """
    needed = {(item.kind, item.full_name(wanted.stack)) for item in wanted.items}
    for service in current.services:
        needed |= _references(service.spec)
        if not (deployed and service.stack == wanted.stack):
            needed |= _references(service.previous)
    return [stored for stored in current.stored if stored.stack == wanted.stack and (stored.kind, stored.name) not in needed]


def _difference(service: Service | None, spec: dict[str, Any], current: Current) -> dict[str, tuple[Any, Any]]:
    """By dotted path, what is and what should be."""
    if service is None:
        return {"service": (_ABSENT, spec)}
    found: dict[str, tuple[Any, Any]] = {}
    pinned = "@" in str(spec["TaskTemplate"]["ContainerSpec"].get("Image", ""))
    _compare(_normal(service.spec, current.networks, pinned=pinned), spec, "", found)
    return found


def _compare(actual: Any, expected: Any, path: str, found: dict[str, tuple[Any, Any]]) -> None:
    if isinstance(expected, dict) and expected and isinstance(actual, dict):
        for key, value in expected.items():
            _compare(actual.get(key), value, f"{path}.{key}" if path else key, found)
    elif (actual or None) != (expected or None) or (isinstance(actual, dict) != isinstance(expected, dict) and path == "Mode"):
        found[path] = (actual, expected)


def _normal(spec: dict[str, Any], networks: dict[str, str], *, pinned: bool) -> dict[str, Any]:
    """The specification without what the engine adds and in the order the comparison wants.

    :param pinned: whether the image was asked for by its digest; otherwise the digest is the engine's own addition.
    """
    task = dict(spec.get("TaskTemplate", {}))
    container = dict(task.get("ContainerSpec", {}))
    if not pinned:
        container["Image"] = str(container.get("Image", "")).partition("@")[0]
    container["Env"] = sorted(container.get("Env") or [])
    mounts = [{key: value for key, value in mount.items() if key != "VolumeOptions"} for mount in container.get("Mounts") or []]
    container["Mounts"] = sorted(mounts, key=lambda mount: str(mount.get("Target")))
    for key in ("CapabilityAdd", "CapabilityDrop"):
        container[key] = sorted(container.get(key) or [])
    for kind in ("Config", "Secret"):
        files = [{f"{kind}Name": each.get(f"{kind}Name"), "File": each.get("File")} for each in container.get(f"{kind}s") or []]
        container[f"{kind}s"] = sorted(files, key=lambda file: str((file["File"] or {}).get("Name")))
    attached = [
        {"Target": networks.get(each["Target"], each["Target"]), "Aliases": each.get("Aliases") or []}
        for each in task.get("Networks") or []
    ]
    # The engine keeps them in the order of their IDs.
    attached.sort(key=lambda network: str(network["Target"]))
    placement = dict(task.get("Placement") or {})
    placement["Constraints"] = sorted(placement.get("Constraints") or [])
    resources = {kind: (task.get("Resources") or {}).get(kind) or {} for kind in ("Limits", "Reservations")}
    task.update(ContainerSpec=container, Networks=attached, Placement=placement, Resources=resources)
    endpoint = dict(spec.get("EndpointSpec") or {})
    endpoint["Ports"] = sorted(endpoint.get("Ports") or [], key=lambda port: int(port.get("PublishedPort", 0)))
    labels = {key: value for key, value in (spec.get("Labels") or {}).items() if key not in (LABEL, "com.docker.stack.image")}
    return {**spec, "TaskTemplate": task, "EndpointSpec": endpoint, "Labels": labels}
