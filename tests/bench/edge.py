# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The edge and the balancer as the role renders them, before engines that vanish: a network of their own for each figure."""

from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
from contextlib import contextmanager
from typing import Any, Iterator

from labkit.artifacts import python
from labkit.config import REPO
from labkit.say import say
from measure import Figure, NotTaken

PROGRAM = REPO / "tests" / "services" / "edge_load.py"
ENGINES = 3


@contextmanager
def network() -> Iterator[str]:
    """A namespace with a bridge, and one more for each engine behind a port of that bridge; yields the name of the first."""
    hub = f"llmedge{os.getpid()}"
    names = [hub, *(f"{hub}-e{number}" for number in range(1, ENGINES + 1))]
    made: list[str] = []
    try:
        for name in names:
            _ip("netns", "add", name)
            made.append(name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", hub, "link", "add", "br0", "type", "bridge", "forward_delay", "0")
        _ip("-n", hub, "address", "add", "10.89.0.1/24", "dev", "br0")
        _ip("-n", hub, "link", "set", "br0", "up")
        for number, name in enumerate(names[1:], 1):
            _ip("-n", hub, "link", "add", f"e{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", hub, "link", "set", f"e{number}", "master", "br0", "up")
            _ip("-n", name, "address", "add", f"10.89.0.{10 + number}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
        yield hub
    finally:
        for name in reversed(made):
            _ip("netns", "delete", name)


def _ip(*argv: str) -> None:
    ended = subprocess.run(["ip", *argv], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise NotTaken(f"`ip {' '.join(argv)}` failed, and network namespaces need root: {ended.stderr.strip()}")


def taken(what: str) -> dict[str, Any]:
    """Run one measurement of edge_load.py in a fresh network and return what it printed."""
    with network() as hub:
        argv = ["ip", "netns", "exec", hub, str(python()), str(PROGRAM), what]
        ended = subprocess.run(argv, cwd=REPO, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        raise NotTaken(f"`{PROGRAM.name} {what}` ended with status {ended.returncode}; what it said is above")
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


@functools.cache
def _losses() -> dict[str, Any]:
    """What became of the requests while engines vanished; two figures are read from one run."""
    found = taken("losses")
    say(f"{found['losses']} losses, at least {found['least_exposed']} requests exposed to each")
    for name in ("edge", "peer"):
        way = found[name]
        told = f"{way['requests']} requests, {way['exposed']} exposed, {way['failed']} failed, slowest {way['slowest']:.1f} s"
        say(f"{name}: {told} {way['reasons'] or ''}")
    return found


def edge_silent_loss_failed() -> Figure:
    """Requests that failed before their first token while engines vanished without a reset; the peer is nginx with least_conn."""
    found = _losses()
    ours, peer = found["edge"], found["peer"]
    goal = f"0 of at least 3000; {found['losses']} losses, {ours['exposed']} exposed"
    return Figure("edge_silent_loss_failed", "requests", ours["failed"], peer["failed"], n=ours["requests"], goal=goal)


def edge_exclusion_s() -> Figure:
    """From the loss of an engine until the balancer sends it nothing more, the worst of all losses."""
    found = _losses()["exclusion_s"]
    return Figure("edge_exclusion_s", "s", max(found), n=len(found), goal="at most 1.0", seconds={"exclusion": found})


def edge_overhead() -> Figure:
    """First byte of an engine that takes 200 ms: the median through edge and balancer over the median without them."""
    found = taken("overhead")
    through, direct = (statistics.median(found[way]) for way in ("edge", "direct"))
    say(f"first byte: {through * 1000:.1f} ms through the edge, {direct * 1000:.1f} ms directly")
    name, goal = "edge_overhead", "at most 1.05"
    return Figure(name, "times", through / direct, n=len(found["edge"]), goal=goal, seconds={"edge": [through], "direct": [direct]})


def edge_rps() -> Figure:
    """Answers a second through edge and balancer, TLS and keys included; the peer is HAProxy alone with TLS, before the same backends."""
    found = taken("rps")
    own, other = found["edge"], found["peer"]
    ratio = statistics.median(theirs / mine for mine, theirs in zip(own, other))
    return Figure("edge_rps", "1/s", min(own), min(other), ratio, n=found["requests"], seconds={"edge": own, "peer": other})
