# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The mesh: who is whose peer, the configuration, bad input, and an applier that fails at every step and shows no private key."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Sequence

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import BadInput, CommandFailed, StackError, StepFailed
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._mesh import apply, model
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._mesh.model import Found, Host, Mesh, parse
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._mesh.plan import (
    live_settings,
    parse_live,
    parse_peers,
    plan_mesh,
    render,
    wanted_peers,
)
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._plan import Plan
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._run import Completed

KEYS = [base64.b64encode(bytes([n]) * 32).decode() for n in range(9)]
PRIVATE = base64.b64encode(b"p" * 32).decode()
HUB = Host("manager1", "10.99.0.21", "192.0.2.21:51820", KEYS[1])
CLOUD = Host("gpu1", "10.99.0.31", "198.51.100.31:51820", KEYS[2])
HOME = Host("gpu2", "10.99.0.32", "", KEYS[3])
HOME2 = Host("gpu3", "10.99.0.33", "", KEYS[4])
KEY_FILE = "/etc/wireguard/llm0.key"


def mesh(name: str, *hosts: Host, **changes: Any) -> Mesh:
    return Mesh("llm0", name, "10.99.0.0/24", hosts, **changes)


def peers(name: str, *hosts: Host) -> list[tuple[str, str, str, int]]:
    return [(peer.name, ",".join(peer.addresses), peer.endpoint, peer.keepalive) for peer in wanted_peers(mesh(name, *hosts))]


def test_two_with_endpoints_are_peers() -> None:
    assert peers("manager1", HUB, CLOUD) == [("gpu1", "10.99.0.31/32", "198.51.100.31:51820", 0)]


def test_behind_nat_the_way_is_kept_open() -> None:
    assert peers("gpu2", HUB, HOME) == [("manager1", "10.99.0.21/32", "192.0.2.21:51820", 25)]
    assert peers("manager1", HUB, HOME) == [("gpu2", "10.99.0.32/32", "", 0)]


def test_two_behind_nat_reach_each_other_through_the_first_endpoint() -> None:
    every = (HOME, HUB, CLOUD, HOME2)
    assert peers("gpu2", *every) == [
        ("manager1", "10.99.0.21/32,10.99.0.33/32", "192.0.2.21:51820", 25),
        ("gpu1", "10.99.0.31/32", "198.51.100.31:51820", 25),
    ]
    assert [peer[0] for peer in peers("manager1", *every)] == ["gpu2", "gpu1", "gpu3"]
    assert "FORWARD" in render(mesh("manager1", *every), [], KEY_FILE)
    assert "FORWARD" not in render(mesh("gpu1", *every), [], KEY_FILE)
    # One more behind NAT must not restart its interface.
    assert "FORWARD" in render(mesh("manager1", HUB, CLOUD, HOME), [], KEY_FILE)


def test_ipv6() -> None:
    six = (replace(HUB, address="fd00::21"), replace(HOME, address="fd00::32"))
    assert [peer.addresses for peer in wanted_peers(Mesh("llm0", "gpu2", "fd00::/64", six))] == [("fd00::21/128",)]


def config(name: str, *hosts: Host) -> str:
    wanted = mesh(name, *hosts)
    return render(wanted, wanted_peers(wanted), KEY_FILE)


def test_the_running_interface_tells_its_peers() -> None:
    assert parse_live(f"{KEYS[1]}\t10.99.0.21/32 10.99.0.33/32\n{KEYS[2]}\t(none)\n") == {
        KEYS[1]: ("10.99.0.21/32", "10.99.0.33/32"),
        KEYS[2]: (),
    }


def test_the_configuration_is_read_back_as_it_was_meant() -> None:
    text = config("gpu2", HUB, HOME, HOME2)
    assert text == (
        "# Written by the module wireguard_mesh.\n[Interface]\nAddress = 10.99.0.32/24\nListenPort = 51820\nMTU = 1420\n"
        f"PostUp = wg set %i private-key {KEY_FILE}\n\n[Peer]\n# manager1\nPublicKey = {KEYS[1]}\n"
        "AllowedIPs = 10.99.0.21/32, 10.99.0.33/32\nEndpoint = 192.0.2.21:51820\nPersistentKeepalive = 25\n"
    )
    assert parse_peers(text) == wanted_peers(mesh("gpu2", HUB, HOME, HOME2))
    assert next(line for line in live_settings(text).splitlines() if "=" in line) == "ListenPort = 51820"


DONE = Found(True, KEYS[3], config("gpu2", HUB, HOME), True, True)

STEPS: list[tuple[str, Found, Mesh, list[str]]] = [
    ("nothing differs", DONE, mesh("gpu2", HUB, HOME), []),
    ("fresh", Found(), mesh("gpu2", HUB, HOME), ["make_key", "configure", "enable", "start"]),
    ("only the key", Found(), Mesh("llm0"), ["make_key"]),
    ("the key is there", Found(public_key=KEYS[3]), Mesh("llm0"), []),
    ("one more peer", DONE, mesh("gpu2", HUB, CLOUD, HOME), ["sync", "configure"]),
    ("a peer made anew", DONE, mesh("gpu2", replace(HUB, public_key=KEYS[8]), HOME), ["sync", "configure"]),
    ("a peer that moved", DONE, mesh("gpu2", replace(HUB, endpoint="192.0.2.99:51820"), HOME), ["sync", "configure"]),
    ("a peer not reached in this run", DONE, mesh("gpu2", replace(HUB, public_key=""), HOME), []),
    ("it runs as it should", replace(DONE, live={KEYS[1]: ("10.99.0.21/32",)}), mesh("gpu2", HUB, HOME), []),
    ("the running interface has no peers", replace(DONE, live={}), mesh("gpu2", HUB, HOME), ["sync"]),
    ("the running interface has a peer's former key", replace(DONE, live={KEYS[8]: ("10.99.0.21/32",)}), mesh("gpu2", HUB, HOME), ["sync"]),
    ("a peer lacks an address", replace(DONE, live={KEYS[1]: ()}), mesh("gpu2", HUB, HOME), ["sync"]),
    ("somebody's own peer runs too", replace(DONE, live={KEYS[1]: ("10.99.0.21/32",), KEYS[8]: ()}), mesh("gpu2", HUB, HOME), []),
    ("another MTU", DONE, mesh("gpu2", HUB, HOME, mtu=1380), ["configure", "restart"]),
    ("stopped", replace(DONE, active=False), mesh("gpu2", HUB, HOME), ["start"]),
    ("not at boot", replace(DONE, enabled=False), mesh("gpu2", HUB, HOME), ["enable"]),
]


@pytest.mark.parametrize(("found", "wanted", "actions"), [row[1:] for row in STEPS], ids=[row[0] for row in STEPS])
def test_steps(found: Found, wanted: Mesh, actions: list[str]) -> None:
    planned = plan_mesh(current=found, desired=wanted, key_file=KEY_FILE)
    assert [step.action for step in planned.steps] == actions
    assert planned.warnings == ()
    assert planned.changed == bool(actions)


def test_a_peer_without_a_key_is_left_out_and_said() -> None:
    planned = plan_mesh(current=DONE, desired=mesh("gpu2", HUB, replace(CLOUD, public_key=""), HOME), key_file=KEY_FILE)
    assert planned.steps == ()
    assert planned.warnings == ("gpu1 is left out of the mesh, for its public key is not known yet: run the role mesh on it too.",)


def test_what_is_not_declared_stays_until_it_is_named() -> None:
    current = replace(DONE, config=config("gpu2", HUB, CLOUD, HOME))
    kept = plan_mesh(current=current, desired=mesh("gpu2", HUB, HOME), key_file=KEY_FILE)
    assert kept.steps == ()
    assert kept.warnings == ("gpu1 is a peer on this host and not declared, so it stays. Name it in forget to take it out.",)
    forgotten = plan_mesh(current=current, desired=mesh("gpu2", HUB, HOME, forget=("gpu1",)), key_file=KEY_FILE)
    assert [step.action for step in forgotten.steps] == ["sync", "configure"]
    assert parse_peers(forgotten.steps[1].data) == wanted_peers(mesh("gpu2", HUB, HOME))


def test_an_undeclared_peer_gives_way_to_the_host_that_has_its_address() -> None:
    current = replace(DONE, config=config("gpu2", HUB, CLOUD, HOME))
    planned = plan_mesh(
        current=current, desired=mesh("gpu2", HUB, replace(CLOUD, name="gpu9", public_key=KEYS[7]), HOME), key_file=KEY_FILE
    )
    assert [peer.name for peer in parse_peers(planned.steps[0].data)] == ["manager1", "gpu9"]


def host(**changes: Any) -> dict[str, Any]:
    return {"name": "manager1", "address": "10.99.0.21", "endpoint": "192.0.2.21:51820", "public_key": "", **changes}


OTHER = host(name="gpu2", address="10.99.0.32", endpoint="")
GOOD: dict[str, Any] = {
    "interface": "llm0", "name": "gpu2", "network": "10.99.0.0/24", "hosts": [host(), OTHER],
    "listen_port": 51820, "mtu": 1420, "keepalive": 25, "forget": [],
}  # fmt: skip
BAD: list[tuple[dict[str, Any], str]] = [
    ({"interface": ""}, "interface is ''"),
    ({"interface": "an interface of mine"}, "give a name of 1 to 15 letters"),
    ({"listen_port": 0}, "listen_port is 0: give a number from 1 to 65535."),
    ({"mtu": 100}, "mtu is 100: give a number from 1280 to 9000."),
    ({"keepalive": -1}, "keepalive is -1"),
    ({"network": ""}, "network is ''"),
    ({"network": "10.99.0.1/24"}, "network is '10.99.0.1/24': give one such as 10.99.0.0/24"),
    ({"name": "gpu7"}, "name is 'gpu7', which is none of hosts"),
    ({"hosts": [host(name="")]}, "hosts holds the name ''"),
    ({"hosts": [host(name="a\nb")]}, "hosts holds the name 'a\\nb'"),
    ({"hosts": [host(address="10.98.0.1"), OTHER]}, "The address of manager1 is '10.98.0.1': give one of the network 10.99.0.0/24."),
    ({"hosts": [host(address="here"), OTHER]}, "The address of manager1 is 'here'"),
    ({"hosts": [host(endpoint="192.0.2.21"), OTHER]}, "The endpoint of manager1 is '192.0.2.21'"),
    ({"hosts": [host(endpoint="192.0.2.21:0"), OTHER]}, "The endpoint of manager1 is '192.0.2.21:0'"),
    ({"hosts": [host(endpoint="a b:51820"), OTHER]}, "The endpoint of manager1 is 'a b:51820'"),
    ({"hosts": [host(public_key="secret"), OTHER]}, "The public key of manager1 is not one of WireGuard"),
    ({"hosts": [host(), OTHER, host(name="gpu3")]}, "Two hosts of the mesh have the address 10.99.0.21"),
    ({"hosts": [host(), OTHER, OTHER]}, "Two hosts of the mesh have the name gpu2"),
    ({"hosts": [host(public_key=KEYS[1]), {**OTHER, "public_key": KEYS[1]}]}, "Two hosts of the mesh have the public key"),
    ({"hosts": [host(endpoint=""), OTHER]}, "No host of the mesh has an endpoint (manager1, gpu2): at least one must be reached"),
]


@pytest.mark.parametrize(("changes", "text"), BAD, ids=[text[:50] for _changes, text in BAD])
def test_bad_input(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse({**GOOD, **changes})
    assert text in str(caught.value)


def test_good_input() -> None:
    assert [peer.name for peer in wanted_peers(parse(GOOD))] == ["manager1"]
    assert parse({**GOOD, "hosts": None, "name": ""}) == model.Mesh("llm0")


class Machine:
    """systemctl and wg, of which one call can fail."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[str] = []
        self.said: list[str] = []
        self.fail_at = -1
        self.enabled = self.active = False
        # What the running interface was told of its peers.
        self.running = ""

    def has(self, _program: str) -> bool:
        return True

    def run(self, argv: Sequence[str], *, stdin: str | None = None, ok: Sequence[int] = (0,)) -> Completed:
        command = tuple(argv)
        assert PRIVATE not in " ".join(command)
        if command[:2] == ("systemctl", "show"):
            return Completed(
                0, f"ActiveState={'active' if self.active else 'inactive'}\nUnitFileState={'enabled' if self.enabled else ''}\n", ""
            )
        if command == ("wg", "show", "llm0", "allowed-ips"):
            return Completed(0, "".join(f"{peer.public_key}\t{' '.join(peer.addresses)}\n" for peer in parse_peers(self.running)), "")
        if command[0] == "journalctl":
            return Completed(0, "no such device\n", "")
        if command == ("wg", "pubkey"):
            if stdin != PRIVATE + "\n":
                raise CommandFailed(command, 1, "Key is not the correct length or format")
            return Completed(0, KEYS[3] + "\n", "")
        self.calls.append(" ".join(command[:2]))
        if len(self.calls) - 1 == self.fail_at:
            raise CommandFailed(command, 1, "not today")
        self.said.append(stdin or "")
        if command[0] == "systemctl":
            self.enabled, self.active = self.enabled or command[1] == "enable", self.active or command[1] == "start"
        if command[1] in ("start", "restart"):
            self.running = (self.folder / "llm0.conf").read_text()
        elif command[1] == "syncconf":
            self.running = stdin or ""
        return Completed(0, PRIVATE + "\n" if command[1] == "genkey" else "", "")

    def run_module(self, wanted: Mesh) -> Plan:
        here = apply.Host("llm0", runner=self, folder=self.folder)  # type: ignore[arg-type]
        planned = plan_mesh(current=here.read(), desired=wanted, key_file=KEY_FILE)
        planned.carry_out(here.do)
        return planned


CALLS = ["wg genkey", "systemctl enable", "systemctl start"]


@pytest.mark.parametrize("fail_at", range(len(CALLS)), ids=CALLS)
def test_killed_after_any_step_the_next_run_does_the_rest(tmp_path: Path, fail_at: int) -> None:
    machine = Machine(tmp_path / "wireguard")
    machine.fail_at = fail_at
    with pytest.raises(StepFailed, match="not today"):
        machine.run_module(mesh("gpu2", HUB, HOME))
    machine.fail_at = -1
    machine.calls.clear()
    machine.run_module(mesh("gpu2", HUB, HOME))
    assert machine.calls == CALLS[fail_at:]
    assert machine.run_module(mesh("gpu2", HUB, HOME)).steps == ()


def test_a_sync_that_fails_leaves_the_file_and_the_next_run_does_both(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "wireguard")
    machine.run_module(mesh("gpu2", HUB, HOME))
    before = (machine.folder / "llm0.conf").read_text()
    machine.calls, machine.fail_at = [], 0
    moved = mesh("gpu2", replace(HUB, endpoint="192.0.2.99:51820"), CLOUD, HOME)
    with pytest.raises(StepFailed, match="not today"):
        machine.run_module(moved)
    assert (machine.folder / "llm0.conf").read_text() == before
    machine.calls, machine.fail_at = [], -1
    assert machine.run_module(moved).changed
    assert machine.calls == ["wg syncconf"]
    assert parse_peers(machine.running) == parse_peers((machine.folder / "llm0.conf").read_text())
    assert machine.run_module(moved).steps == ()


def test_an_interface_that_was_not_told_its_peers_is_told_them_by_the_next_run(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "wireguard")
    machine.run_module(mesh("gpu2", HUB, HOME))
    # The file is as it should be, and a run was killed before it told anybody.
    machine.running, machine.calls = "", []
    assert machine.run_module(mesh("gpu2", HUB, HOME)).changed
    assert (machine.calls, machine.run_module(mesh("gpu2", HUB, HOME)).steps) == (["wg syncconf"], ())


def test_the_private_key_is_the_owners_alone_and_told_to_nobody(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "wireguard")
    made = machine.run_module(mesh("gpu2", HUB, HOME))
    synced = machine.run_module(mesh("gpu2", HUB, CLOUD, HOME))
    assert machine.calls == [*CALLS, "wg syncconf"]
    assert f"PrivateKey = {PRIVATE}" in machine.said[-1]
    assert "Address" not in machine.said[-1]
    told = json.dumps([[*plan.sentences, plan.diff] for plan in (made, synced)])
    assert PRIVATE not in told
    assert PRIVATE not in (machine.folder / "llm0.conf").read_text()
    assert [path.stat().st_mode & 0o777 for path in sorted(machine.folder.iterdir())] == [0o600, 0o600]


def test_a_key_that_is_none_is_not_replaced(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    (tmp_path / "llm0.key").write_text("hello")
    with pytest.raises(StackError, match="holds no key of WireGuard. Move it away"):
        machine.run_module(mesh("gpu2", HUB, HOME))
    assert (machine.calls, (tmp_path / "llm0.key").read_text()) == ([], "hello")
