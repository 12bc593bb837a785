# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check what is declared of a pool: what cannot work on any host is refused before the host is asked."""

from __future__ import annotations

import os
import re
from typing import Any, Mapping, Sequence

from ..._errors import BadInput
from ..model import texts
from .model import CLASSES, Guards, Pool, Vdev

ACTIVITIES = ("initialize", "trim", "scrub")
_POOL_NAME = re.compile(r"(?!(?:mirror|raidz|draid|spare)|log$)[A-Za-z][A-Za-z0-9_.: -]*")
_KIND = re.compile(r"stripe|mirror|raidz[123]?|draid[123]?(?::[0-9]+([dcs])(?!.*\1))*")
_MINIMUM = {"mirror": 2, "raidz1": 2, "raidz2": 3, "raidz3": 4}
_NAME_LIMIT = 255


def declare_pool(given: Mapping[str, Any]) -> Pool:
    """Check what was declared and give it one form.

    :raises BadInput: naming the option.
    """
    name = str(given["name"])
    if not _POOL_NAME.fullmatch(name) or len(name) > _NAME_LIMIT:
        raise BadInput(f"The pool name {name!r} is not one ZFS accepts: start with a letter, then letters, digits and _ . : -")
    groups = tuple(group for raw in given.get("vdevs") or () for group in declare_vdev(raw))
    if groups and not any(group.use == "data" for group in groups):
        raise BadInput(f"Pool {name} has no data vdev: give at least one entry of vdevs the class data.")
    named = [device for group in groups for device in group.devices]
    for device in named:
        if named.count(device) > 1:
            raise BadInput(f"Pool {name}: {device} is listed twice under vdevs: a device belongs to one vdev.")
    if given.get("wait_timeout", 1) < 1:
        raise BadInput(f"Pool {name}: wait_timeout={given['wait_timeout']} is no time to wait: give seconds, at least 1.")
    pool = Pool(
        name=name,
        vdevs=groups,
        properties=_enabled(texts(given.get("properties") or {})),
        filesystem_properties=texts(given.get("filesystem_properties") or {}),
        online=tuple(given.get("online") or ()),
        offline=tuple(given.get("offline") or ()),
        activities=_activities(name, given.get("run") or ()),
        upgrade=bool(given.get("upgrade")),
        checkpoint=bool(given.get("checkpoint_before_add")),
    )
    _check_whole(pool)
    return pool


def declare_guards(given: Mapping[str, Any], *, rehearsal: bool) -> Guards:
    """What the user confirmed.

    :param rehearsal: nothing will be carried out: only then devices may be pending.
    :raises BadInput: naming the option.
    """
    for option in ("force_import", "confirm"):
        if given.get(option) and not str(given[option]).isdecimal():
            raise BadInput(
                f"{option}: {given[option]!r} is not the GUID of a pool: give the number that `zpool get -H -o value guid"
                f" {given['name']}`, or `zpool import` for one that is not imported, shows."
            )
    return Guards(
        wipe=frozenset(os.path.realpath(path) for path in given.get("wipe") or ()),
        pending=frozenset(given.get("pending") or ()) if rehearsal else frozenset(),
        allow_redundancy_mismatch=bool(given.get("allow_redundancy_mismatch")),
        allow_mixed_ashift=bool(given.get("allow_mixed_ashift")),
        allow_remove=tuple(str(each) for each in given.get("allow_remove") or ()),
        force_import=str(given.get("force_import") or ""),
        confirm=str(given.get("confirm") or ""),
    )


def _enabled(properties: Mapping[str, str]) -> dict[str, str]:
    """A feature becomes active by its use; what can be asked for is that it may."""
    return {name: "enabled" if name.startswith("feature@") and value == "active" else value for name, value in properties.items()}


def _activities(pool: str, asked: Sequence[str]) -> tuple[str, ...]:
    for each in asked:
        if each not in ACTIVITIES:
            raise BadInput(f"Pool {pool}: run has {each!r}, which is not one of {', '.join(ACTIVITIES)}: correct it under run.")
    return tuple(each for each in ACTIVITIES if each in asked)


def _check_whole(pool: Pool) -> None:
    """What contradicts itself."""
    for device in (*pool.online, *pool.offline):
        if not device.startswith("/") and not device.isdecimal():
            raise BadInput(f"Pool {pool.name}: {device!r} is neither an absolute path nor a GUID: correct it under online or offline.")
    both = sorted(set(pool.online) & set(pool.offline))
    if both:
        raise BadInput(f"Pool {pool.name}: {both[0]} is listed under online and under offline: remove it from one of them.")
    ashift = pool.properties.get("ashift", "12")
    if not ashift.isdecimal() or not (ashift == "0" or 9 <= int(ashift) <= 16):
        raise BadInput(
            f"Pool {pool.name}: ashift={ashift} is not a sector size ZFS takes: 9 (512 bytes) to 16 (64 KiB), usually 12 (4 KiB)."
        )
    disabled = [name for name, value in pool.properties.items() if name.startswith("feature@") and value == "disabled"]
    if disabled and pool.upgrade:
        raise BadInput(f"Pool {pool.name}: upgrade enables every feature, {disabled[0]} shall be disabled: leave one of the two out.")
    for name, value in pool.properties.items():
        if name.startswith("feature@") and value not in {"enabled", "disabled", "active"}:
            raise BadInput(f"Pool {pool.name}: {name}={value} is no state of a feature: give it enabled, or disabled at creation.")


def declare_vdev(raw: Mapping[str, Any]) -> list[Vdev]:
    """One entry of C(vdevs); a stripe becomes one group a device."""
    use, devices = str(raw.get("class") or "data"), tuple(str(device).rstrip("/") for device in raw.get("devices") or ())
    kind = str(raw.get("type") or "stripe")
    if use not in CLASSES:
        raise BadInput(f"vdevs: the class {use!r} is not one of {', '.join(CLASSES)}.")
    if not _KIND.fullmatch(kind):
        raise BadInput(f"vdevs: the type {kind!r} is not one of stripe, mirror, raidz1, raidz2, raidz3, draid[1-3][:<n>d][:<n>c][:<n>s].")
    kind = re.sub(r"^(raidz|draid)(?![123])", r"\g<1>1", kind)
    if not devices:
        raise BadInput(f"vdevs: the {use} {kind} names no devices.")
    for device in devices:
        if not device.startswith("/"):
            raise BadInput(f"vdevs: {device!r} is not an absolute path: name devices like /dev/disk/by-id/..., which do not change.")
    if use in {"cache", "spare"} and kind != "stripe":
        raise BadInput(f"vdevs: a {use} vdev has no redundancy of its own: leave out the type {kind}.")
    if use == "log" and kind not in {"stripe", "mirror"}:
        raise BadInput(f"vdevs: ZFS takes no log as {kind}: make it a mirror.")
    if len(devices) < _MINIMUM.get(kind, 1):
        raise BadInput(f"vdevs: a {kind} takes at least {_MINIMUM[kind]} devices, {len(devices)} given: {', '.join(devices)}.")
    if kind.startswith("draid"):
        _check_draid(kind, devices)
    return [Vdev(use, kind, (device,)) for device in devices] if kind == "stripe" else [Vdev(use, kind, devices)]


def _check_draid(kind: str, devices: tuple[str, ...]) -> None:
    """The rules of zpoolconcepts(7): as many children as named, and a group of data and parity that fits beside the spares."""
    figures = {part[-1]: int(part[:-1]) for part in kind.split(":")[1:]}
    parity, spares, width = int(kind[5]), figures.get("s", 0), len(devices)
    if figures.get("c", width) != width:
        raise BadInput(f"vdevs: {kind} names {figures['c']} children, and {width} devices are given: make the two agree.")
    data = figures.get("d", 1)
    if data < 1 or data + parity > width - spares:
        raise BadInput(
            f"vdevs: {kind} takes at least {max(data, 1) + parity + spares} devices (data, parity and spares), {width} given:"
            f" {', '.join(devices)}."
        )
