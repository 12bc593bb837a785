# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The API fails in every way it can: each run ends in the right state or with a clear error, and nothing is doubled or orphaned."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Iterator

import pytest
from cloudkit.control import Control
from cloudkit.fleet import Fleet, by_name, clouds_yaml
from cloudkit.proxy import Call, Proxy
from cloudkit.runner import Ran, Runner

# Half of what a hanging call gets; long enough for a busy machine to answer any other.
API_TIMEOUT = 8
CREATE = ("compute", "POST", r"/servers$")
LIST = ("compute", "GET", r"/servers(/detail)?(\?|$)")
PORT = ("network", "POST", r"/ports$")
# What a cloud does to a call once, and a client has to get over.
PASSING = {
    "401": {"status": 401},
    "413 with Retry-After": {"status": 413, "headers": {"Retry-After": "1"}},
    "429 with Retry-After": {"status": 429, "headers": {"Retry-After": "1"}},
    "500": {"status": 500},
    "503": {"status": 503},
    "cut": {"status": 0},
    "500 but done": {"status": 500, "passed": True},
    "cut but done": {"status": 0, "passed": True},
    "hangs": {"hangs": True},
}


@dataclass
class Ground:
    """One project for all of them; each test has a fleet and a server name of its own."""

    fleet: Fleet
    proxy: Proxy
    names: Iterator[str]

    def run(self, name: str, **options: Any) -> Ran:
        """Bring up one server."""
        return self.fleet.run(fleet=name, servers=[{"name": name}], api_timeout=API_TIMEOUT, **options)

    def mine(self, name: str) -> list[Any]:
        """Return the servers of that name, so that a doubled one shows."""
        servers = self.fleet.control.servers(self.fleet.project).values()
        return [server for server in servers if server.name == name]

    def orphans(self) -> list[str]:
        return self.fleet.control.holdings(self.fleet.project).orphans


@pytest.fixture(scope="module")
def _ground(runner: Runner, all_calls: Proxy, control: Control, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    project = control.project()
    clouds = clouds_yaml(tmp_path_factory.mktemp("faults") / "clouds.yaml", project.name, all_calls)
    fleet = Fleet(runner, clouds=clouds, control=control, project=project)
    yield Ground(fleet, all_calls, (f"gpu{number}" for number in itertools.count()))
    all_calls.clear()
    control.empty(project)


@pytest.fixture
def ground(_ground: Ground, proxy: Proxy) -> Ground:
    return _ground


def _posts(calls: list[Call], path: str) -> int:
    return sum(call.method == "POST" and call.path.endswith(path) for call in calls)


@pytest.mark.parametrize("fault", PASSING)
def test_a_create_gets_over_it(ground: Ground, fault: str) -> None:
    name = next(ground.names)
    injected = ground.proxy.inject(*CREATE, **PASSING[fault])
    ran = ground.run(name)
    assert injected.hits == 1
    assert not ran.failed, ran.text
    assert [server.status for server in ground.mine(name)] == ["ACTIVE"]
    assert ground.orphans() == []


@pytest.mark.parametrize("fault", PASSING)
def test_a_restore_gets_over_it(ground: Ground, restored: str, fault: str) -> None:
    ground.fleet.control.interrupt(ground.mine(restored)[0].id)
    injected = ground.proxy.inject("compute", "POST", "/action$", **PASSING[fault])
    ran = ground.run(restored)
    assert injected.hits == 1
    assert not ran.failed, ran.text
    assert by_name(ran)[restored]["action"] == "restored"
    assert [server.status for server in ground.mine(restored)] == ["ACTIVE"]


@pytest.fixture(scope="module")
def restored(_ground: Ground) -> str:
    """A server that is interrupted again and again."""
    name = next(_ground.names)
    assert not _ground.run(name).failed
    return name


@pytest.mark.parametrize("call", [LIST, PORT], ids=["list", "port"])
@pytest.mark.parametrize("fault", ["503", "cut but done", "429 with Retry-After"])
def test_a_call_on_the_way_is_repeated_and_doubles_nothing(ground: Ground, call: tuple[str, str, str], fault: str) -> None:
    name = next(ground.names)
    injected = ground.proxy.inject(*call, **PASSING[fault])
    ran = ground.run(name)
    assert injected.hits == 1
    assert not ran.failed, ran.text
    assert [server.status for server in ground.mine(name)] == ["ACTIVE"]
    assert ground.orphans() == []


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "does not accept the credentials"), (403, "not for you"), (409, "not for you"), (500, "not for you"), (503, "not for you")],
)
def test_a_create_that_is_always_refused_ends_with_the_reason(ground: Ground, status: int, words: str) -> None:
    name = next(ground.names)
    ground.proxy.inject(*CREATE, times=None, status=status, message="not for you")
    ran = ground.run(name, deadline=40)
    assert ran.failed
    assert words in by_name(ran)[name]["reason"], ran.text
    assert ground.mine(name) == []
    assert ground.orphans() == []


@pytest.mark.parametrize(("status", "words"), [(401, "does not accept the credentials"), (403, "not for you"), (503, "not for you")])
def test_a_cloud_that_lists_nothing_is_told_and_nothing_is_written(ground: Ground, status: int, words: str) -> None:
    name = next(ground.names)
    ground.proxy.inject(*LIST, times=None, status=status, message="not for you")
    with ground.proxy.count() as calls:
        ran = ground.run(name, deadline=30)
    assert ran.failed
    assert words in ran.message, ran.text
    assert not [call for call in calls if call.writes]


def test_a_cloud_that_hangs_is_left_at_the_deadline(ground: Ground) -> None:
    name = next(ground.names)
    ground.proxy.inject(*LIST, times=None, hangs=True)
    ran = ground.run(name, deadline=12)
    assert ran.failed
    assert "the deadline of 12 s is over" in ran.message, ran.text
    assert ground.mine(name) == []


def test_a_token_that_ends_in_mid_run_is_renewed(ground: Ground) -> None:
    name = next(ground.names)

    def revoke(body: Any) -> Any:
        for token in set(ground.proxy.tokens):
            ground.fleet.control.revoke(token)
        ground.proxy.tokens.clear()
        return body

    ground.proxy.tokens.clear()
    # Before anything is made: Nova itself works on with the token of whoever asked it for a server.
    ended = ground.proxy.inject("compute", "GET", "/servers", response=revoke)
    with ground.proxy.count() as calls:
        ran = ground.run(name)
    assert ended.hits == 1
    assert any(call.status == 401 for call in calls if call.service != "identity")
    assert not ran.failed, ran.text
    assert [server.status for server in ground.mine(name)] == ["ACTIVE"]


def test_a_wrong_password_is_told_without_repeating_it(ground: Ground) -> None:
    name = next(ground.names)
    auth = {"auth_url": ground.proxy.urls["identity"], "username": "nobody", "password": "Secret-of-nobody"}
    auth |= {"project_name": "nobody", "user_domain_name": "Default", "project_domain_name": "Default"}
    ran = ground.run(name, cloud=None, auth=auth)
    assert ran.failed
    assert "does not accept the credentials" in ran.message
    assert "Secret-of-nobody" not in ran.text
