# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cloud itself behaves as the facts say that the other tests stand on."""

from __future__ import annotations

from typing import Any

import openstack
import pytest
from cloudkit.control import Control, Project
from states import Stage, marks


@pytest.fixture
def owner(control: Control, project: Project) -> Any:
    return control.connect(project.name)


@pytest.fixture
def server(control: Control, project: Project) -> str:
    """One running server of the project."""
    made = Stage(control, project, marks=marks).make("gpu1", ["preemptible"])
    control.await_status(made, "ACTIVE")
    return made


def test_an_interrupted_server_can_be_restored_by_its_owner(control: Control, owner: Any, server: str) -> None:
    for offload, status in ((False, "SHELVED"), (True, "SHELVED_OFFLOADED")):
        control.interrupt(server, offload=offload)
        assert owner.compute.get_server(server).status == status
        owner.compute.unshelve_server(server)
        control.await_status(server, "ACTIVE")


def test_a_restore_without_capacity_fails_without_a_word(control: Control, owner: Any, server: str) -> None:
    control.interrupt(server)
    with control.no_capacity():
        owner.compute.unshelve_server(server)
        control.await_action(server, "unshelve", "Error")
    found = owner.compute.get_server(server)
    assert (found.status, found.task_state, found.fault) == ("SHELVED_OFFLOADED", None, None)


def test_a_lock_of_the_provider_stops_the_owner(control: Control, owner: Any, server: str) -> None:
    control.lock(server)
    with pytest.raises(openstack.exceptions.ConflictException, match="is locked"):
        owner.compute.stop_server(server)


def test_a_crashed_guest_is_shutoff_and_starts_again(control: Control, owner: Any, server: str) -> None:
    control.crash(server)
    owner.compute.start_server(server)
    assert control.await_status(server, "ACTIVE").id == server


def test_a_quota_is_one_of_the_project(control: Control, project: Project, owner: Any, server: str) -> None:
    control.quota(project, instances=1)
    with pytest.raises(openstack.exceptions.ForbiddenException, match="Quota exceeded for instances"):
        Stage(control, project, marks=marks).make("gpu2", [])
    assert [found.id for found in owner.compute.servers()] == [server]


def test_a_revoked_token_is_worth_nothing(control: Control, owner: Any) -> None:
    token = owner.auth_token
    assert list(owner.compute.servers()) == []
    control.revoke(token)
    address = f"http://127.0.0.1:{control.ports['nova']}/v2.1/servers"
    answer = owner.session.get(address, headers={"X-Auth-Token": token}, authenticated=False, raise_exc=False)
    assert answer.status_code == 401
