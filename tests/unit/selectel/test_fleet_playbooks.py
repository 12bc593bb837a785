# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""provision.yml and teardown.yml as they are run, with stand-ins for openstacksdk and the cloud."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from standin_cloud import StandinCloud

ROOT = Path(__file__).resolve().parent.parent.parent.parent
FLEET = {
    "auth": {"auth_url": "http://cloud", "password": "hunter2"},
    "fleet": "llm",
    "name_pattern": "gpu{n}",
    "count": 2,
    "placements": [{"region": "r1", "zone": "z1", "flavor": "GL10"}],
    "image": "golden-*",
    "volume_size": 10,
    "networks": [{"network": "lan"}],
    "floating_network": "ext",
}


class Control:
    """A control node: an inventory, a home, and the cloud in a file."""

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "inventory").mkdir()
        self.write("inventory/hosts.yml", {"all": {"vars": {"gpu_fleet": FLEET}}})
        plugin = {"plugin": "selfhosted.llm_stack.selectel_preemptible", "fleet": "llm", "auth": FLEET["auth"], "regions": ["r1"]}
        self.write("inventory/fleet.selectel_preemptible.yml", plugin)
        self.cloud = StandinCloud()

    def write(self, name: str, content: Any) -> None:
        (self.place / name).write_text(yaml.safe_dump(content))

    @property
    def cloud(self) -> StandinCloud:
        found: StandinCloud = pickle.loads((self.place / "cloud").read_bytes())
        return found

    @cloud.setter
    def cloud(self, cloud: StandinCloud) -> None:
        (self.place / "cloud").write_bytes(pickle.dumps(cloud))

    def play(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a playbook; the servers' connections are local, as there are no servers."""
        environment = {
            **os.environ,
            "HOME": str(self.place),
            "PYTHONPATH": str(Path(__file__).parent / "standin_sdk"),
            "STANDIN_CLOUD": str(self.place / "cloud"),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build" / "collections"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_LOCALHOST_WARNING": "false",
        }
        playbook = str(ROOT / "playbooks" / f"{name}.yml")
        program = Path(sys.executable).parent / "ansible-playbook"
        here = f"ansible_connection=local ansible_python_interpreter={sys.executable}"
        command = [str(program), "-vvv", "-i", str(self.place / "inventory"), "-e", here, playbook, *arguments]
        ended = subprocess.run(command, cwd=self.place, env=environment, capture_output=True, text=True, check=False)
        assert "hunter2" not in ended.stdout + ended.stderr
        assert "PRIVATE KEY" not in ended.stdout + ended.stderr
        return ended


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path)


def recap(ended: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Return the numbers of the play recap for localhost."""
    (line,) = re.findall(r"^localhost +: (.*)$", ended.stdout, re.MULTILINE)
    return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", line)}


def test_a_fleet_is_brought_up_trusted_and_taken_down(control: Control) -> None:
    # gpu3 is spare: recover.yml makes it, and what is said of it is no mistake here.
    variables = {"gpu_fleet": {**FLEET, "allow_data_loss": "gpu3"}, "gpu_workers_spare": 1}
    control.write("inventory/hosts.yml", {"all": {"vars": variables}})
    checked = control.play("provision", "--check", "--diff")
    assert checked.returncode == 0, checked.stdout
    assert control.cloud.writes() == []
    made = control.play("provision")
    assert made.returncode == 0, made.stdout + made.stderr
    assert sorted(one["name"] for one in control.cloud.alive()) == ["gpu1", "gpu2"]
    # The new hosts took part in the rest of the same run.
    assert re.search(r"^gpu1 +: ok=1", made.stdout, re.MULTILINE)
    known = (control.place / ".ssh" / "known_hosts").read_text()
    keys = {one["metadata"]["llm_stack_host_key"] for one in control.cloud.servers.values()}
    assert len(keys) == 2
    assert all(key in known for key in keys)
    assert all(address["floating_ip_address"] in known for address in control.cloud.addresses.values())
    again = control.play("provision")
    assert (again.returncode, recap(again)["changed"]) == (0, 0)

    refused = control.play("teardown")
    assert "without confirmation: set confirm to llm, the name of the fleet" in refused.stdout
    assert len(control.cloud.servers) == 2
    assert control.play("teardown", "-e", "llm_stack_teardown_confirm=llm").returncode == 0
    cloud = control.cloud
    assert (cloud.servers, cloud.ports, cloud.volumes, cloud.addresses) == ({}, {}, {}, {})


def test_a_fleet_is_taken_down_wherever_it_is(control: Control) -> None:
    assert control.play("provision").returncode == 0
    # A region that is declared as a further one says nothing of the others.
    control.write("inventory/hosts.yml", {"all": {"vars": {"gpu_fleet": {**FLEET, "regions": ["r9"]}}}})
    ended = control.play("teardown", "-e", "llm_stack_teardown_confirm=llm")
    assert (ended.returncode, recap(ended)["changed"]) == (0, 1)
    cloud = control.cloud
    assert (cloud.servers, cloud.ports, cloud.volumes, cloud.addresses) == ({}, {}, {}, {})


def test_servers_that_the_inventory_does_not_list_are_named(control: Control) -> None:
    (control.place / "inventory" / "fleet.selectel_preemptible.yml").unlink()
    control.write("inventory/hosts.yml", {"all": {"vars": {"gpu_fleet": FLEET}, "children": {"gpu_workers": {}}}})
    ended = control.play("provision")
    assert ended.returncode != 0
    assert "The servers gpu1, gpu2 run, and the group gpu_workers does not list them." in " ".join(ended.stdout.split())


def test_without_a_fleet_nothing_is_done(control: Control) -> None:
    control.write("inventory/hosts.yml", {"all": {}})
    control.write("inventory/fleet.selectel_preemptible.yml", {"plugin": "selfhosted.llm_stack.selectel_preemptible"})
    ended = control.play("provision")
    assert (ended.returncode, recap(ended)["ok"]) == (0, 0)
    assert control.cloud.log == []


def test_where_the_autoscaler_runs_only_as_many_are_made_as_demand_needs(control: Control) -> None:
    switch = {"llm_stack_autoscaler": "true", "gpu_workers_min": "1"}
    control.write("inventory/hosts.yml", {"all": {"vars": {"gpu_fleet": {**FLEET, "count": 3}, **switch}}})
    ended = control.play("provision", "--check", "--diff")
    assert ended.returncode == 0
    assert set(re.findall(r"Create (gpu\d) at", ended.stdout)) == {"gpu1"}
