# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is whose peer, the configuration that says so, and the steps that lead to it. Pure."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Mapping

from .._plan import Plan, Step
from .model import Found, Host, Mesh, Peer


def prefix(address: str) -> str:
    """Return the network that holds this address alone."""
    return f"{address}/{ipaddress.ip_address(address).max_prefixlen}"


def wanted_peers(mesh: Mesh) -> list[Peer]:
    """Return this host's peers: two of whom one has an endpoint are peers, others reach each other through the first that has one."""
    own = _own(mesh)
    others = [host for host in mesh.hosts if host.name != mesh.name]
    direct = [host for host in others if own.endpoint or host.endpoint]
    relayed = [host for host in others if host not in direct]
    relay = relay_of(mesh)
    peers = []
    for host in direct:
        addresses = [prefix(host.address)]
        if relay and host.name == relay.name:
            addresses += [prefix(other.address) for other in relayed]
        # From behind NAT the way back stays open only while something is sent.
        keepalive = mesh.keepalive if host.endpoint and not own.endpoint else 0
        peers.append(Peer(host.name, host.public_key, tuple(addresses), host.endpoint, keepalive))
    return peers


def relay_of(mesh: Mesh) -> Host | None:
    """Return the host through which those behind NAT reach each other: the first that has an endpoint."""
    return next((host for host in mesh.hosts if host.endpoint), None)


def _own(mesh: Mesh) -> Host:
    return next(host for host in mesh.hosts if host.name == mesh.name)


def parse_peers(config: str) -> list[Peer]:
    """Read the peers of a configuration; the comment at the head of a section is the peer's name."""
    peers = []
    for section in re.split(r"^\[Peer\][^\n]*\n", config, flags=re.MULTILINE)[1:]:
        found = dict(re.findall(r"^\s*(\w+)\s*=\s*(.*?)\s*$", section, flags=re.MULTILINE))
        name = re.search(r"^#\s*(.*?)\s*$", section, flags=re.MULTILINE)
        peers.append(
            Peer(
                name=name.group(1) if name else found.get("PublicKey", ""),
                public_key=found.get("PublicKey", ""),
                addresses=tuple(part.strip() for part in found.get("AllowedIPs", "").split(",") if part.strip()),
                endpoint=found.get("Endpoint", ""),
                keepalive=int(found.get("PersistentKeepalive", "0").replace("off", "0")),
            )
        )
    return peers


def parse_live(text: str) -> dict[str, tuple[str, ...]]:
    """Read the answer of ``wg show INTERFACE allowed-ips``: by public key, its networks."""
    rows = [line.split() for line in text.splitlines() if line.strip()]
    return {row[0]: tuple(part for part in row[1:] if part != "(none)") for row in rows}


def knows(live: Mapping[str, tuple[str, ...]] | None, peers: list[Peer]) -> bool:
    """Whether the running interface has these peers. Endpoints do not count, for peers roam; further peers are left to who made them."""
    if live is None:
        return True
    return all({str(ipaddress.ip_network(one)) for one in peer.addresses} <= set(live.get(peer.public_key, ())) for peer in peers)


def merged_peers(mesh: Mesh, current: list[Peer]) -> tuple[list[Peer], list[str]]:
    """Return the peers to write, and warnings about those that cannot be told or are not declared."""
    known = {peer.name: peer for peer in current}
    peers: list[Peer] = []
    warnings: list[str] = []
    for peer in wanted_peers(mesh):
        key = peer.public_key or (known[peer.name].public_key if peer.name in known else "")
        if key:
            peers.append(Peer(peer.name, key, peer.addresses, peer.endpoint, peer.keepalive))
        else:
            warnings.append(f"{peer.name} is left out of the mesh, for its public key is not known yet: run the role mesh on it too.")
    declared = {host.name for host in mesh.hosts}
    taken = {address for peer in peers for address in peer.addresses} | {prefix(_own(mesh).address)}
    for peer in current:
        if (
            peer.name in declared
            or peer.name in mesh.forget
            or taken & set(peer.addresses)
            or peer.public_key in {p.public_key for p in peers}
        ):
            continue
        peers.append(peer)
        warnings.append(f"{peer.name} is a peer on this host and not declared, so it stays. Name it in forget to take it out.")
    return peers, warnings


def render(mesh: Mesh, peers: list[Peer], key_file: str) -> str:
    """Return the configuration for wg-quick; the private key stays in a file of its own."""
    own, relay = _own(mesh), relay_of(mesh)
    lines = [
        "# Written by the module wireguard_mesh.",
        "[Interface]",
        f"Address = {own.address}/{ipaddress.ip_network(mesh.network).prefixlen}",
        f"ListenPort = {mesh.port}",
        f"MTU = {mesh.mtu}",
        f"PostUp = wg set %i private-key {key_file}",
    ]
    if relay and relay.name == mesh.name:
        # Docker drops what is forwarded, unless somebody accepts it before. The rule may be gone when the interface goes.
        lines.append("PostUp = sysctl -q net.ipv4.ip_forward=1; iptables -w -I FORWARD -i %i -o %i -j ACCEPT")
        lines.append("PostDown = iptables -w -D FORWARD -i %i -o %i -j ACCEPT || true")
    return "\n".join([*lines, *(line for peer in peers for line in _section(peer))]) + "\n"


def _section(peer: Peer) -> list[str]:
    lines = ["", "[Peer]", f"# {peer.name}", f"PublicKey = {peer.public_key}", f"AllowedIPs = {', '.join(peer.addresses)}"]
    if peer.endpoint:
        lines.append(f"Endpoint = {peer.endpoint}")
    if peer.keepalive:
        lines.append(f"PersistentKeepalive = {peer.keepalive}")
    return lines


def live_settings(config: str) -> str:
    """Return what `wg` itself understands of a configuration for wg-quick."""
    return "".join(line for line in config.splitlines(keepends=True) if not re.match(r"\s*(Address|MTU|Post\w+|Pre\w+)\s*=", line))


def _interface(config: str) -> str:
    return re.split(r"^\[Peer\]", config, maxsplit=1, flags=re.MULTILINE)[0].strip()


def plan_mesh(*, current: Found, desired: Mesh, key_file: str) -> Plan:
    """Plan key, peers, configuration and service, in that order."""
    unit = f"wg-quick@{desired.interface}.service"
    steps = []
    if not current.public_key:
        steps.append(Step("make_key", key_file, f"Make a key for {desired.interface} on this host, which it does not leave"))
    if not desired.hosts:
        return Plan(steps=tuple(steps))
    peers, warnings = merged_peers(desired, parse_peers(current.config))
    config = render(desired, peers, key_file)
    declared = [peer for peer in peers if peer.name in {host.name for host in desired.hosts}]
    sync = current.active and _interface(config) == _interface(current.config)
    # The file last: a run that ends in between, or whose sync fails, leaves it as it was, and the next run does both.
    if sync and (config != current.config or not knows(current.live, declared)):
        steps.append(Step("sync", unit, "Tell the running interface its peers; those that stay are not interrupted", config))
    if config != current.config:
        names = ", ".join(peer.name for peer in peers) or "none"
        steps.append(Step("configure", desired.interface, f"Write the configuration of {desired.interface}; its peers: {names}", config))
    steps += _service_steps(current, unit, restart=not sync)
    if not current.installed:
        warnings.append("wireguard-tools is not installed here yet; the plan assumes that it will be.")
    before, after = _views(current, config)
    return Plan(steps=tuple(steps), warnings=tuple(warnings), before=before, after=after)


def _service_steps(current: Found, unit: str, *, restart: bool) -> list[Step]:
    steps = []
    if not current.enabled:
        steps.append(Step("enable", unit, f"Enable {unit}, so that the mesh is there at boot"))
    if not current.active:
        steps.append(Step("start", unit, f"Start {unit}"))
    elif restart:
        steps.append(Step("restart", unit, f"Restart {unit}: address, port or MTU have changed"))
    return steps


def _views(current: Found, config: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Neither holds a private key: the configuration has none."""
    if config == current.config:
        return {}, {}
    return {"configuration": current.config.splitlines()}, {"configuration": config.splitlines()}
