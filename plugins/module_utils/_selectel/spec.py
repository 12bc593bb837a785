# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Turns options into a fleet as it should be, and refuses what cannot work before anything is asked of a cloud. Pure."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Iterable, Mapping

from .._errors import BadInput
from .model import (
    OWN_KEYS,
    PROFILES,
    FlavorMatch,
    FleetSpec,
    NetworkSpec,
    Placement,
    Price,
    Prices,
    Profile,
    SlotSpec,
)

# A name is a server's name, a part of a description and an inventory host: letters, digits, dots and dashes.
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?")
# Nova: a tag has at most 60 characters, no slash and no comma; metadata has 255 a side; a server has 50 tags.
_TAG = re.compile(r"[^/,]{1,60}")
_METADATA_KEY = re.compile(r"[A-Za-z0-9_.: -]{1,255}")
_MAX_COUNT = 500
_MAX_METADATA = 100
_MAX_TAGS = 40


def require(condition: bool, sentence: str) -> None:
    """Refuse an option.

    :raises BadInput: when the condition does not hold.
    """
    if not condition:
        raise BadInput(sentence)


def fleet_spec(options: Mapping[str, Any]) -> FleetSpec:
    """Check all options and return the fleet as it should be.

    :raises BadInput: with what is wrong, why, and what to write instead.
    """
    name = checked_name("fleet", options["fleet"])
    profile = PROFILES[options["profile"]]
    slots = slot_specs(options)
    spec = FleetSpec(
        fleet=name,
        slots=slots,
        profile=profile,
        image=(options["image"] or "").strip(),
        boot=options["boot"],
        volume_size=options["volume_size"] or 0,
        security_groups=checked_texts("security_groups", options["security_groups"]),
        floating_network=options["floating_network"],
        key_name=options["key_name"],
        ssh_host_key=options["ssh_host_key"],
        metadata=checked_metadata(options["metadata"]),
        tags=checked_tags(options["tags"], profile),
        start_stopped=options["start_stopped"],
        to_preemptible=tuple(options["switch_to_preemptible"]),
        to_regular=tuple(options["switch_to_regular"]),
        allow_data_loss=tuple(options["allow_data_loss"]),
        only=tuple(options.get("only") or ()),
        keep_predecessors=bool(options.get("keep_predecessors")),
        max_age=checked_seconds("max_age", options["max_age"]),
        demote_for=options["demote_for"],
        deadline=options["deadline"],
        prices=prices_of(options["prices"]),
    )
    check_numbers(options)
    check_names(spec)
    if slots:
        check_disk(spec)
    return spec


def checked_name(option: str, value: Any) -> str:
    """Return a name that can be a server's and a host's."""
    text = str(value)
    require(
        bool(_NAME.fullmatch(text)),
        f"{option} is {text!r}: a name has 1 to 63 letters, digits, dots and dashes, and begins and ends with a letter or digit.",
    )
    return text


def checked_texts(option: str, values: Iterable[Any]) -> tuple[str, ...]:
    """Return texts none of which is empty or given twice."""
    found: list[str] = []
    for value in values:
        text = str(value).strip()
        require(bool(text), f"{option} has an empty entry: remove it.")
        require(text not in found, f"{option} names {text} twice: give it once.")
        found.append(text)
    return tuple(found)


def checked_seconds(option: str, value: float | None) -> float | None:
    """Return a number of seconds above zero, or None."""
    require(value is None or value > 0, f"{option} is {value}: give a number of seconds above 0, or leave it out.")
    return value


def checked_metadata(found: Mapping[Any, Any]) -> dict[str, str]:
    """Return metadata as Nova takes it."""
    require(len(found) <= _MAX_METADATA, f"metadata has {len(found)} entries, and {_MAX_METADATA} fit beside the module's own.")
    result = {}
    for key, value in found.items():
        name, text = str(key), metadata_text(value)
        require(
            bool(_METADATA_KEY.fullmatch(name)),
            f"metadata has the key {name!r}: Nova takes 1 to 255 letters, digits, blanks and _ . : - in a key.",
        )
        require(name not in OWN_KEYS, f"metadata sets {name}, by which this module knows its servers: choose another key.")
        require(len(text) <= 255, f"metadata.{name} has {len(text)} characters, and Nova takes 255: shorten it.")
        result[name] = text
    return result


def metadata_text(value: Any) -> str:
    """Return a value as metadata holds it: text."""
    require(
        isinstance(value, (str, int, float, bool)), f"metadata holds a {type(value).__name__}: Nova takes text only. Write it as a string."
    )
    return str(value).lower() if isinstance(value, bool) else str(value)


def checked_tags(values: Iterable[Any], profile: Profile) -> tuple[str, ...]:
    """Return the caller's tags; the one that makes a server preemptible is not among them."""
    tags = checked_texts("tags", values)
    require(len(tags) <= _MAX_TAGS, f"tags has {len(tags)} entries, and Nova takes 50 in all: give at most {_MAX_TAGS}.")
    for tag in tags:
        require(bool(_TAG.fullmatch(tag)), f"tags has {tag!r}: a tag has 1 to 60 characters and no slash or comma.")
        require(
            tag != profile.tag,
            f"tags has {tag}, which makes a server preemptible: use placements[].preemptible and switch_to_preemptible for that.",
        )
    return tags


def slot_specs(options: Mapping[str, Any]) -> tuple[SlotSpec, ...]:
    """Return the servers asked for, by list or by pattern and count."""
    listed, pattern, count = options["servers"], options["name_pattern"], options["count"]
    require(
        not (listed and (pattern or count is not None)), "servers lists the servers and name_pattern counts them: give only one of them."
    )
    require(not pattern or count is not None, "name_pattern is given without count: say how many servers there are.")
    require(count is None or bool(pattern), "count is given without name_pattern: say how the servers are called, for example gpu{n}.")
    if pattern:
        listed = [{"name": name} for name in counted_names(pattern, count)]
    if options["state"] == "present":
        require(bool(listed) or count == 0, "No server is asked for: give servers, or name_pattern and count.")
    found: list[SlotSpec] = []
    for position, entry in enumerate(listed or []):
        slot = slot_spec(entry, f"servers[{position}]", options)
        require(all(slot.name != other.name for other in found), f"servers names {slot.name} twice: a name stands for one server.")
        found.append(slot)
    check_addresses(found)
    return tuple(found)


def counted_names(pattern: str, count: int) -> list[str]:
    """Return the names of a pattern: ``gpu{n}`` and 2 are gpu1 and gpu2."""
    require(pattern.count("{n}") == 1, f"name_pattern is {pattern!r}: it needs {{n}} once, where the number goes, for example gpu{{n}}.")
    require(0 <= count <= _MAX_COUNT, f"count is {count}: give a number from 0 to {_MAX_COUNT}.")
    return [checked_name("name_pattern", pattern.replace("{n}", str(number))) for number in range(1, count + 1)]


def slot_spec(entry: Mapping[str, Any], where: str, options: Mapping[str, Any]) -> SlotSpec:
    """Return one server as it should be."""
    own = entry.get("placements")
    base = "placements" if own is None else f"{where}.placements"
    given = options["placements"] if own is None else own
    placements = tuple(placement(one, f"{base}[{position}]", options) for position, one in enumerate(given or []))
    if options["state"] == "present":
        require(bool(placements), f"{base} is empty: give at least one region, zone and flavor where a server may be made.")
    keys = [one.key for one in placements]
    for key in keys:
        require(keys.count(key) == 1, f"{base} names {key} twice: a placement that failed once fails again. Give it once.")
    if options["allow_regular"]:
        placements += tuple(regular(one) for one in placements if one.preemptible and regular(one).key not in keys)
    networks = options["networks"] if entry.get("networks") is None else entry["networks"]
    return SlotSpec(
        checked_name(f"{where}.name", entry["name"]),
        placements,
        tuple(network(one, f"networks[{position}]") for position, one in enumerate(networks or [])),
        entry.get("user_data") or options["user_data"] or "",
        restore=entry.get("restore") or "first",
        successor=bool(entry.get("successor")),
    )


def regular(one: Placement) -> Placement:
    """Return the same placement as a regular one: the last resort."""
    return Placement(one.region, one.zone, one.flavor, one.match, False, one.volume_type)


def placement(entry: Mapping[str, Any], where: str, options: Mapping[str, Any]) -> Placement:
    """Return one placement."""
    flavor, match = (entry.get("flavor") or "").strip(), entry.get("flavor_match")
    require(not (flavor and match), f"{where} has flavor and flavor_match: name the flavor, or say what it must have, not both.")
    require(bool(flavor or match), f"{where} has no flavor: give its name or ID, or say in flavor_match what it must have.")
    region = (entry.get("region") or options["region_name"] or "").strip()
    return Placement(
        region,
        (entry.get("zone") or "").strip(),
        flavor,
        flavor_match(match, f"{where}.flavor_match") if match else None,
        bool(entry.get("preemptible", True)),
        (entry.get("volume_type") or "").strip(),
    )


def flavor_match(found: Mapping[str, Any], where: str) -> FlavorMatch:
    """Return what a flavor must have."""
    gpu = (found.get("gpu") or "").strip()
    numbers = {"gpus": 1, "vcpus": 1, "ram_mb": 1, "disk_gb": 0}
    for name, least in numbers.items():
        value = found.get(name)
        require(value is None or value >= least, f"{where}.{name} is {value}: give a number from {least} on, or leave it out.")
    require(":" not in gpu and "," not in gpu, f"{where}.gpu is {gpu!r}: give the alias alone, and the number in gpus.")
    require(bool(gpu) or found.get("gpus") is None, f"{where}.gpus is given without gpu: name the GPU's alias.")
    require(bool(gpu) or bool(found.get("vcpus")) or bool(found.get("ram_mb")), f"{where} asks for nothing: give gpu, vcpus or ram_mb.")
    return FlavorMatch(gpu, found.get("gpus") or 1, found.get("vcpus") or 0, found.get("ram_mb") or 0, found.get("disk_gb"))


def network(entry: Mapping[str, Any], where: str) -> NetworkSpec:
    """Return one network of a server."""
    name, port = (entry.get("network") or "").strip(), (entry.get("port") or "").strip()
    address = (entry.get("fixed_ip") or "").strip()
    require(bool(name) != bool(port), f"{where} needs exactly one of network and port.")
    require(not (port and address), f"{where} has port and fixed_ip: a port has its address already.")
    if address:
        try:
            address = str(ipaddress.ip_address(address))
        except ValueError:
            raise BadInput(f"{where}.fixed_ip is {address!r}, which is no IP address.") from None
    return NetworkSpec(name, address, port)


def check_addresses(slots: list[SlotSpec]) -> None:
    """Refuse one address or port for two servers."""
    seen: dict[tuple[str, str], str] = {}
    for slot in slots:
        for net in slot.networks:
            key = (net.network, net.fixed_ip) if net.fixed_ip else ("port", net.port)
            if not key[1]:
                continue
            require(
                key not in seen,
                f"{seen.get(key)} and {slot.name} are both given {'the address' if net.fixed_ip else 'the port'} {key[1]}: "
                "give each server its own under servers[].networks.",
            )
            seen[key] = slot.name


def prices_of(found: Mapping[str, Any] | None) -> Prices:
    """Return the price table."""
    if not found:
        return Prices()
    rows: list[Price] = []
    for position, row in enumerate(found.get("servers") or []):
        where = f"prices.servers[{position}]"
        require(bool((row.get("flavor") or "").strip()), f"{where} has no flavor: say whose price it is.")
        for kind in ("preemptible", "regular"):
            value = row.get(kind)
            require(value is None or value >= 0, f"{where}.{kind} is {value}: a price is 0 or more an hour.")
        price = Price(row["flavor"].strip(), row.get("region") or "", row.get("preemptible"), row.get("regular"))
        require(price.preemptible is not None or price.regular is not None, f"{where} has no price: give preemptible, regular or both.")
        twice = any((price.flavor, price.region) == (other.flavor, other.region) for other in rows)
        require(not twice, f"prices.servers has {price.flavor} twice for the same region: give it once.")
        rows.append(price)
    for name in ("volume_gb", "address"):
        value = found.get(name)
        require(value is None or value >= 0, f"prices.{name} is {value}: a price is 0 or more an hour.")
    return Prices(found.get("currency") or "", tuple(rows), found.get("volume_gb") or 0.0, found.get("address") or 0.0)


def check_numbers(options: Mapping[str, Any]) -> None:
    """Refuse times that cannot work."""
    require(0 < options["deadline"] <= 86400, f"deadline is {options['deadline']}: give seconds from 1 to 86400.")
    require(options["demote_for"] >= 0, f"demote_for is {options['demote_for']}: give seconds, 0 or more.")
    api_timeout = options["api_timeout"]
    require(api_timeout > 0, f"api_timeout is {api_timeout}: give seconds above 0.")
    for name in options["regions"]:
        require(bool(str(name).strip()), "regions has an empty entry: remove it.")
    memory_of(options["memory"])


def memory_of(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the memory of failed placements as it was handed in."""
    result = {}
    for key, entry in found.items():
        good = isinstance(entry, Mapping) and "until" in entry
        require(good, f"memory[{key!r}] is not what this module returned as memory: hand that back as it is, or nothing.")
        try:
            until = float(entry["until"])
        except (TypeError, ValueError):
            raise BadInput(
                f"memory[{key!r}].until is {entry['until']!r}, which is no time in seconds: hand back what was returned."
            ) from None
        result[str(key)] = {"until": until, "reason": str(entry.get("reason", ""))}
    return result


def check_names(spec: FleetSpec) -> None:
    """Refuse confirmations that name no server of the fleet."""
    known = {slot.name for slot in spec.slots}
    named = {
        "switch_to_preemptible": spec.to_preemptible,
        "switch_to_regular": spec.to_regular,
        "allow_data_loss": spec.allow_data_loss,
        "only": spec.only,
    }
    for option, names in named.items():
        for name in names:
            require(name in known, f"{option} names {name}, which is no server of this fleet: {', '.join(sorted(known)) or 'it has none'}.")
    for name in spec.to_preemptible:
        require(name not in spec.to_regular, f"{name} is in switch_to_preemptible and in switch_to_regular: choose one.")


def check_disk(spec: FleetSpec) -> None:
    """Refuse a disk that cannot be made."""
    if not any(slot.placements for slot in spec.slots):
        return
    require(bool(spec.image), "image is empty: give the name, a pattern or the ID of the image the servers boot from.")
    if spec.boot == "volume":
        require(spec.volume_size > 0, f"boot is volume and volume_size is {spec.volume_size}: give the size of the disk in GiB.")
    else:
        require(spec.volume_size == 0, f"boot is local and volume_size is {spec.volume_size}: a local disk has the size of its flavor.")
