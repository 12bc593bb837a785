# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The chat service on a swarm: its image built from the locked sources, pushed, deployed by digest, and asked through the edge."""

from __future__ import annotations

import json
import shlex
from typing import Any, Callable

import pytest
import yaml
from conftest import HERE
from labkit.artifacts import prepare
from labkit.lab import Lab
from labkit.play import Outcome
from places import MANAGER, SITE, WORKERS

Docker = Callable[[str], str]
Run = Callable[..., Outcome]
KEY = "Authorization: Bearer lab-only-api-key"
PASSWORD = "lab-only-analytics-password"
CHAT = {
    "enabled": True,
    "analytics_password": PASSWORD,
    "base_image": "{{ registry_address }}/llm/python:lab",
    "chroma_image": "{{ registry_address }}/llm/chroma:lab",
}
PASSAGE = "The spare key of the pump house hangs behind the blue door, on the third hook from the left."


def variables() -> dict[str, Any]:
    """What turns the chat service on, and the images it stands on beside the others."""
    images = yaml.safe_load((HERE / "inventory" / "group_vars" / "all.yml").read_text())["registry_images"]
    more = [{"name": f"llm/{name}:lab", "archive": f"{{{{ __images }}}}/{name}.tar"} for name in ("python", "chroma")]
    return {"llm_services_chat": CHAT, "registry_images": [*images, *more]}


@pytest.fixture(scope="module")
def chat(converged: Lab, run: Run) -> Lab:
    """The lab with the chat service."""
    prepare(converged.paths, chat=True)
    assert run(*SITE, **variables()).status == 0
    return converged


@pytest.fixture(scope="module")
def ask(chat: Lab) -> Callable[..., str]:
    """Ask the edge from another machine: ``ask("/api/status", "-H", ...)`` gives the body, and the status in a last line."""

    def curl(path: str, *options: str) -> str:
        address = chat.get(MANAGER).spec.address
        argv = ["curl", "--insecure", "--silent", "--max-time", "60", "--write-out", "\n%{http_code}", *options, f"https://{address}{path}"]
        return chat.ssh(WORKERS[0], shlex.join(argv))

    return curl


def test_the_image_is_built_pushed_and_deployed_by_digest(chat: Lab, docker: Docker) -> None:
    template = "{{.Spec.TaskTemplate.ContainerSpec.Image}}"
    images = {docker(f"service inspect {name} --format '{template}'") for name in ("llm_chat", "llm_analytics")}
    (image,) = images
    assert image.startswith("10.77.0.34:5000/llm/chat@sha256:")
    shown = docker("service ls --format '{{.Name}} {{.Replicas}}'").splitlines()
    assert {f"llm_{name} 1/1" for name in ("chat", "chroma", "analytics", "edge", "balancer")} <= set(shown)


def test_what_keeps_data_is_placed_on_the_manager_that_has_it(chat: Lab, docker: Docker) -> None:
    here = [f"node.id == {docker('info --format {{.Swarm.NodeID}}')}"]
    template = "{{json .Spec.TaskTemplate.Placement.Constraints}}"
    assert [json.loads(docker(f"service inspect {name} --format '{template}'")) for name in ("llm_chroma", "llm_analytics")] == [here, here]


def test_a_document_is_uploaded_and_a_question_answered_from_it(chat: Lab, ask: Callable[..., str]) -> None:
    chat.ssh(WORKERS[0], f"cat > /tmp/keys.md <<'TEXT'\n# Keys\n\n{PASSAGE}\nTEXT")
    form = ("-F", "collection=house", "-F", "file=@/tmp/keys.md")
    assert ask("/api/documents", *form).endswith("\n401")
    document, _newline, status = ask("/api/documents", "-H", KEY, *form).rpartition("\n")
    assert (status, json.loads(document)["passages"]) == ("201", 1)
    question = json.dumps({"message": "Where do I find what opens the pump house?", "collection": "house"})
    asked = ("-H", KEY, "-H", "Content-Type: application/json", "-d", question)
    answer, _newline, status = ask("/api/chat", *asked).rpartition("\n")
    assert status == "200", answer
    answered = json.loads(answer)
    assert answered["answer"].startswith("token1 ")
    assert [(source["name"], PASSAGE in source["text"]) for source in answered["sources"]] == [("keys.md", True)]
    # With this header it comes piece by piece.
    streamed = ask("/api/chat", *asked, "-H", "Accept: text/event-stream")
    assert streamed.index("event: sources") < streamed.index("event: token") < streamed.index("event: done")


def test_the_page_the_widget_and_the_analytics_are_served(chat: Lab, ask: Callable[..., str], until: Any) -> None:
    assert "<!doctype html>" in ask("/").lower()
    assert ask("/widget.js").endswith("\n200")
    assert ask("/analytics/").endswith("\n401")
    until(lambda: "tests" in ask("/analytics/", "--user", f"me:{PASSWORD}"), True, seconds=30)


def test_chroma_is_reached_by_no_machine(chat: Lab) -> None:
    address = chat.get(MANAGER).spec.address
    for port in (8000, 9004):
        assert "onnect to server" in chat.ssh(WORKERS[0], f"curl --silent --show-error --max-time 5 http://{address}:{port}/ 2>&1 || true")


def test_openai_s_api_goes_through_the_chat_service(chat: Lab, ask: Callable[..., str]) -> None:
    question = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "Are you there?"}]})
    answer, _newline, status = ask("/v1/chat/completions", "-H", KEY, "-H", "Content-Type: application/json", "-d", question).rpartition(
        "\n"
    )
    assert status == "200", answer
    assert json.loads(answer)["choices"][0]["message"]["content"].startswith("token1 ")


def test_the_second_run_changes_nothing(chat: Lab, run: Run) -> None:
    outcome = run(*SITE, **variables())
    assert (outcome.status, outcome.changed) == (0, ())


def test_a_check_run_after_it_foresees_nothing(chat: Lab, run: Run) -> None:
    outcome = run("services", check=True, **variables())
    assert (outcome.status, outcome.changed) == (0, ())
