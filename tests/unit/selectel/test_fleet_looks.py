# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Threads that wait for servers: they share their requests, and none is told anything older than it knows."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.client import Cloud
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.look import watching
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.model import Server
from fleetkit import begin, run_fleet
from standin_cloud import StandinCloud

NAMES = ("gpu1", "gpu2", "gpu3")


@pytest.fixture
def nova() -> StandinCloud:
    """Return a cloud with three servers, nothing logged yet."""
    cloud = StandinCloud()
    run_fleet(cloud, servers=[{"name": name} for name in NAMES])
    cloud.log.clear()
    return cloud


def region(nova: StandinCloud) -> tuple[Cloud, list[Server]]:
    """Return the region as a run sees it, and its servers."""
    run, _calls = begin([nova])
    servers = sorted(run.look("llm").servers, key=lambda server: server.name)
    nova.log.clear()
    return run.clouds[nova.region], servers


def reads(nova: StandinCloud) -> list[str]:
    """Return which addresses were read since the last time."""
    found = [path.rpartition("/servers/")[2] for _method, _service, path in nova.log]
    nova.log.clear()
    return found


def test_who_waits_alone_asks_for_one_server(nova: StandinCloud) -> None:
    cloud, servers = region(nova)
    with watching(cloud) as look:
        assert look(servers[0]).status == "ACTIVE"
    assert reads(nova) == [servers[0].id]


def test_all_who_wait_share_a_list(nova: StandinCloud) -> None:
    cloud, servers = region(nova)
    nova.sleep(0.1)
    with ExitStack() as waiting:
        looks = [waiting.enter_context(watching(cloud)) for _server in servers]
        nova.sleep(0.1)
        assert [look(server).id for look, server in zip(looks, servers)] == [server.id for server in servers]
    assert reads(nova) == ["detail"]


def test_nobody_is_told_what_is_no_newer_than_what_it_knows(nova: StandinCloud) -> None:
    cloud, servers = region(nova)
    with watching(cloud) as first, watching(cloud) as second:
        nova.sleep(0.1)
        first(servers[0])
        # Both began to wait before that list was asked for.
        second(servers[1])
        assert reads(nova) == ["detail"]
        nova.sleep(0.2)
        first(servers[0])
        assert reads(nova) == ["detail"]
        second(servers[1])
        assert reads(nova) == []
        with watching(cloud) as third:
            # What it has done just now may not be in a list that was asked for before.
            third(servers[2])
        assert reads(nova) == ["detail"]


def test_a_list_is_good_for_a_second(nova: StandinCloud) -> None:
    cloud, servers = region(nova)
    with watching(cloud) as first, watching(cloud) as second:
        nova.sleep(0.1)
        first(servers[0])
        nova.sleep(1.1)
        second(servers[1])
    assert reads(nova) == ["detail", "detail"]


def test_a_server_that_is_not_in_the_list_is_asked_for_by_itself(nova: StandinCloud) -> None:
    cloud, servers = region(nova)
    nova.servers.pop(servers[0].id)
    with watching(cloud) as look, watching(cloud):
        nova.sleep(0.1)
        assert look(servers[0]).status == "DELETED"
    assert reads(nova) == ["detail", servers[0].id]
