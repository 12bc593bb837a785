# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""examples/controller_project as AWX and Semaphore run it: by ansible-runner, the collection installed, every answer a string.

The cloud, the swarm and the edge are the stand-ins of the unit tests. All workers are whole, so that no role is run on this machine.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
PROJECT = ROOT / "examples" / "controller_project"
UNIT = ROOT / "tests" / "unit"
sys.path.insert(0, str(ROOT / "tests" / "tools"))
sys.path.insert(0, str(UNIT / "recover"))
sys.path.insert(0, str(UNIT / "selectel"))

import package  # noqa: E402 - importable after the lines above
from engine import serving  # noqa: E402
from standin_cloud import StandinCloud  # noqa: E402
from standin_swarm import Edge, Swarm, answering  # noqa: E402

# What the stand-in cloud has in place of what the example names.
HERE = {
    "[ru-9, ru-7]": "[r1]",
    "ru-9a": "z1",
    "ru-7b": "z2",
    "ru-9": "r1",
    "ru-7": "r1",
    "GL10.8-32768-0-1GPU": "GL10",
    "Ubuntu 24.04 LTS 64-bit": "golden-*",
    "external-network": "ext",
    "{network: llm}": "{network: lan}",
}
LOGIN = "auth: {auth_url: http://cloud, password: hunter2}"


class Controller:
    """What AWX hands to ansible-runner: a project, credentials as an environment, answers of a survey."""

    def __init__(self, place: Path, collections: Path, swarm: Swarm, edge: Edge) -> None:
        self.place, self.swarm, self._edge, self._collections = place, swarm, edge, collections
        shutil.copytree(PROJECT, place / "project")
        for name, indent in (("group_vars/all/main.yml", "  "), ("fleet.selectel_preemptible.yml", "")):
            path = place / "project" / "inventory" / name
            text = path.read_text().replace("fleet: llm\n", f"fleet: llm\n{indent}{LOGIN}\n")
            for theirs, ours in HERE.items():
                text = text.replace(theirs, ours)
            path.write_text(text)

    def run(self, playbook: str, *options: str, **answers: str) -> tuple[int, dict[str, Any], str]:
        """Return the status, what set_stats told, and the output."""
        environment = {
            "PYTHONPATH": f"{UNIT / 'selectel/standin_sdk'}:{UNIT / 'recover/standin_docker'}",
            "STANDIN_CLOUD": str(self.swarm.place / "cloud"),
            "STANDIN_DOCKER": self.swarm.url,
            "ANSIBLE_COLLECTIONS_PATH": str(self._collections),
            "LLM_API_KEY": "hunter3",
            "LLM_REGISTRY_PASSWORD": "x",
            "HOME": str(self.place),
        }
        here = {"ansible_connection": "local", "ansible_become": "false", "ansible_python_interpreter": sys.executable}
        (self.place / "env").mkdir(exist_ok=True)
        (self.place / "env" / "envvars").write_text(yaml.safe_dump(environment))
        variables = {**here, "llm_services_edge_port": str(self._edge.port), "awx_job_id": "12", **answers}
        (self.place / "env" / "extravars").write_text(yaml.safe_dump(variables))
        (self.place / "env" / "cmdline").write_text(" ".join(options))
        runner = ROOT / ".venv-runner" / "bin" / "ansible-runner"
        assert runner.exists(), "ansible-runner is missing: tests/tools/venvs.py --runner installs it"
        command = [
            str(runner),
            "run",
            str(self.place),
            "-p",
            playbook,
            "--inventory",
            str(self.place / "project" / "inventory"),
            "-i",
            "job",
        ]
        shutil.rmtree(self.place / "artifacts", ignore_errors=True)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        ended = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False, timeout=300)
        print(ended.stdout[-5000:], ended.stderr[-2000:])
        return ended.returncode, self._told(), ended.stdout

    def _told(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for path in (self.place / "artifacts" / "job" / "job_events").glob("*.json"):
            found.update(json.loads(path.read_text())["event_data"].get("artifact_data") or {})
        return found


@pytest.fixture(scope="module")
def collections() -> Path:
    return package.install(ROOT / "build" / "installed")


@pytest.fixture
def controller(tmp_path: Path, collections: Path) -> Iterator[Controller]:
    names = [tmp_path / "tls.crt", tmp_path / "tls.key"]
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=e", "-days", "2"]
    subprocess.run([*request, "-out", str(names[0]), "-keyout", str(names[1])], check=True, capture_output=True)
    (tmp_path / "cloud").write_bytes(pickle.dumps(StandinCloud()))
    with serving(Swarm(tmp_path)) as swarm:
        for edge in answering(Edge(swarm, *names)):
            yield Controller(tmp_path / "runner", collections, swarm, edge)


def test_answers_of_the_survey_are_strings_and_decide(controller: Controller) -> None:
    """As many servers as the survey says, and none beyond the budget it gives; nothing is begun in check mode."""
    status, _told, output = controller.run(
        "recover.yml", "--check", gpu_workers_spare="1", gpu_workers_budget="", gpu_workers_rotate_before="0"
    )
    assert status == 0
    assert all(f"gpu{number}" in output for number in (1, 2, 3))
    assert "gpu4" not in output
    status, told, _output = controller.run("recover.yml", "--check", gpu_workers_budget="1000", llm_fleet_count="2")
    # A budget that can never bear what is declared is for a person to raise.
    assert status == 2
    said = told["llm_stack_recover"]
    assert (list(said["refused"]), said["person"]) == (["gpu2"], True)
    assert "1000.00 is the budget" in said["refused"]["gpu2"]
    assert controller.swarm.cloud.writes() == []


def test_a_whole_fleet_is_found_whole_and_the_job_is_named(controller: Controller) -> None:
    cloud = controller.swarm.cloud
    for number in (1, 2):
        meta = {"llm_stack": "llm", "llm_stack_slot": f"gpu{number}", "llm_stack_preemptible": "true"}
        body = {"name": f"gpu{number}", "metadata": meta, "networks": "auto", "flavorRef": "f-gpu", "tags": ["preemptible"]}
        answer = cloud._create_server(body).json()["server"]["id"]
        cloud._built(cloud.servers[answer])
        (controller.swarm.place / "joined" / answer).write_text(f"gpu{number}")
    (controller.swarm.place / "cloud").write_bytes(pickle.dumps(cloud))
    status, told, output = controller.run("recover.yml", gpu_workers_spare="", gpu_workers_rotate_before="7200")
    assert status == 0
    said = told["llm_stack_recover"]
    assert (said["healthy"], said["refused"], said["person"]) == (["gpu1", "gpu2"], {}, False)
    assert "AWX job 12" in json.dumps(controller.swarm.seen_labels)
    assert "hunter" not in output


def test_the_survey_asks_for_what_the_playbook_takes_and_for_text_alone() -> None:
    spec = json.loads((PROJECT / "survey_recover.json").read_text())["spec"]
    taken = (ROOT / "playbooks" / "tasks" / "recover_look.yml").read_text()
    assert spec
    for question in spec:
        assert (question["type"], question["required"], question["default"]) == ("text", False, "")
        assert question["variable"] in taken


def test_the_playbooks_are_one_line_each_and_exist() -> None:
    paths = set(PROJECT.glob("*.yml")) - {PROJECT / "execution-environment.yml"}
    assert paths
    for path in paths:
        (play,) = yaml.safe_load(path.read_text())
        name = play["ansible.builtin.import_playbook"].removeprefix("selfhosted.llm_stack.")
        assert (ROOT / "playbooks" / f"{name}.yml").exists()


def test_what_is_installed_is_pinned_to_what_is_here() -> None:
    wanted = yaml.safe_load((PROJECT / "collections" / "requirements.yml").read_text())["collections"]
    version = yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"]
    assert {one["name"]: one["version"] for one in wanted}["selfhosted.llm_stack"] == version
    assert all("version" in one for one in wanted)
