# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The planner of stacks, against specifications as Docker 26 keeps them."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._stack.compose import expected_spec
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._stack.model import Current, Item, Service, Stored, Wanted
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._stack.plan import plan

RECORDED = json.loads((Path(__file__).parent / "recorded" / "docker_26_service_inspect.json").read_text())
CONF = Item("config", "conf", "listen 80;")
KEY = Item("secret", "key", "do-not-show-me")
SERVICE = {
    "image": "registry.test/server:1",
    "environment": {"B": "2", "A": "1"},
    "configs": [{"source": "conf", "target": "/conf"}],
    "secrets": [{"source": "key", "target": "key", "mode": 256}],
    "networks": ["net"],
    "deploy": {"replicas": 2, "endpoint_mode": "dnsrr", "update_config": {"parallelism": 1, "delay": "2s"}},
}


def wanted(*items: Item, **service: Any) -> Wanted:
    items = items or (CONF, KEY)
    names = {item.name: item.full_name("web") for item in items}
    entry = {**SERVICE, **service}
    spec = expected_spec("server", entry, lambda kind, name: names.get(name, name))
    return Wanted("web", {"services": {"server": entry}}, items, {"web_server": spec})


def as_kept(spec: dict[str, Any]) -> dict[str, Any]:
    """A specification as the engine gives it back: with a digest, identifiers, labels and no empty values."""
    kept = copy.deepcopy(spec)
    kept.update(Name="web_server", Labels={"com.docker.stack.namespace": "web", "com.docker.stack.image": "x"})
    container = kept["TaskTemplate"]["ContainerSpec"]
    container["Image"] += "" if "@" in container["Image"] else "@sha256:0123"
    container["Labels"] = {"com.docker.stack.namespace": "web"}
    for kind in ("Config", "Secret"):
        for reference in container[f"{kind}s"]:
            reference[f"{kind}ID"] = "abc"
    for key in [key for key, value in container.items() if value == []]:
        del container[key]
    kept["TaskTemplate"]["Networks"][0]["Target"] = "id-of-net"
    kept["TaskTemplate"]["Resources"] = {}
    kept["UpdateConfig"]["MaxFailureRatio"] = 0
    return kept


def converged(goal: Wanted) -> Current:
    stored = tuple(Stored(item.kind, item.full_name("web"), "web", item.content or "") for item in goal.items)
    service = Service("web_server", "web", as_kept(goal.specs["web_server"]))
    return Current(services=(service,), stored=stored, networks={"id-of-net": "net"})


def test_on_an_empty_swarm_everything_is_made_in_order() -> None:
    found = plan(Current(), wanted())
    assert found.sentences == [
        f"Create config {CONF.full_name('web')}",
        f"Create secret {KEY.full_name('web')}",
        "Deploy stack web: create web_server",
    ]


def test_an_image_named_by_its_digest_is_compared_with_it() -> None:
    goal = wanted(image="registry.test/server@sha256:aaaa")
    assert plan(converged(goal), goal).steps == ()
    found = plan(converged(wanted(image="registry.test/server@sha256:bbbb")), goal)
    assert "TaskTemplate.ContainerSpec.Image" in str(found.diff)


def test_networks_are_compared_in_one_order() -> None:
    goal = wanted(networks=["net", "another"])
    here = converged(goal)
    attached = here.services[0].spec["TaskTemplate"]["Networks"]
    attached[0]["Target"] = "another"
    attached.reverse()
    assert plan(here, goal).steps == ()


def test_when_nothing_differs_nothing_is_done() -> None:
    found = plan(converged(wanted()), wanted())
    assert (found.steps, found.before, found.after, found.warnings) == ((), {}, {}, ())


def drift(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def alter(spec: dict[str, Any]) -> None:
        for key in path[:-1]:
            spec = spec.setdefault(key, {})
        spec[path[-1]] = to

    return alter


@pytest.mark.parametrize(
    ("alter", "named"),
    [
        (drift("Mode", "Replicated", "Replicas", to=1), "Replicas"),
        (drift("Mode", to={"Global": {}}), "Replicated"),
        (drift("Labels", "added", to="x"), "Labels"),
        (drift("TaskTemplate", "ContainerSpec", "Image", to="registry.test/server:0@sha256:1"), "Image"),
        (drift("TaskTemplate", "ContainerSpec", "Env", to=["A=1"]), "Env"),
        (drift("TaskTemplate", "ContainerSpec", "Args", to=["--debug"]), "Args"),
        (drift("TaskTemplate", "ContainerSpec", "Mounts", to=[{"Type": "tmpfs", "Target": "/x"}]), "Mounts"),
        (drift("TaskTemplate", "ContainerSpec", "Secrets", to=[]), "Secrets"),
        (drift("TaskTemplate", "ContainerSpec", "CapabilityAdd", to=["CAP_SYS_ADMIN"]), "CapabilityAdd"),
        (drift("TaskTemplate", "Placement", "Constraints", to=["node.role == worker"]), "Constraints"),
        (drift("TaskTemplate", "Resources", "Limits", "MemoryBytes", to=1 << 20), "MemoryBytes"),
        (drift("TaskTemplate", "Networks", to=[]), "Networks"),
        (drift("UpdateConfig", "Delay", to=10**9), "Delay"),
        (drift("EndpointSpec", "Mode", to="vip"), "Mode"),
        (drift("EndpointSpec", "Ports", to=[{"PublishedPort": 80, "TargetPort": 80}]), "Ports"),
    ],
)
def test_one_setting_altered_behind_our_back_is_the_one_that_is_repaired(alter: Callable[[dict[str, Any]], None], named: str) -> None:
    current = converged(wanted())
    alter(current.services[0].spec)
    assert plan(current, wanted()).sentences == [f"Deploy stack web: change {named} of web_server"]


def test_new_content_rolls_the_service_and_keeps_one_generation() -> None:
    first, second, third = (wanted(replace(CONF, content=text), KEY) for text in ("one", "two", "three"))
    names = [goal.items[0].full_name("web") for goal in (first, second, third)]
    stored = (*(Stored("config", name, "web", "x") for name in names[:2]), Stored("secret", KEY.full_name("web"), "web"))
    service = Service("web_server", "web", as_kept(second.specs["web_server"]), as_kept(first.specs["web_server"]))
    found = plan(Current(services=(service,), stored=stored, networks={"id-of-net": "net"}), third)
    assert found.sentences == [
        f"Create config {names[2]}",
        "Deploy stack web: change Configs of web_server",
        f"Remove config {names[0]}, which no service uses any more",
    ]


def test_what_a_rollback_needs_and_what_others_own_is_kept() -> None:
    goal = wanted()
    current = converged(goal)
    other = Item("config", "conf", "older").full_name("web")
    previous = as_kept(wanted(Item("config", "conf", "older"), KEY).specs["web_server"])
    kept = (Stored("config", other, "web"), Stored("config", "theirs", "another"), Stored("secret", "nobody's", ""))
    current = replace(current, services=(replace(current.services[0], previous=previous),), stored=current.stored + kept)
    assert plan(current, goal).steps == ()


def test_a_leftover_of_a_killed_run_is_removed() -> None:
    current = converged(wanted())
    current = replace(current, stored=(*current.stored, Stored("secret", "web_key_0000", "web")))
    assert plan(current, wanted()).sentences == ["Remove secret web_key_0000, which no service uses any more"]


def test_a_service_that_is_not_named_is_reported_and_left() -> None:
    current = converged(wanted())
    extra = Service("web_old", "web", {"Name": "web_old"})
    found = plan(replace(current, services=(*current.services, extra)), wanted())
    assert found.steps == ()
    assert found.warnings == (
        "Service web_old belongs to stack web but not to its definition; it is left running. `docker service rm web_old` removes it.",
    )


def test_secrets_are_nowhere_in_the_plan() -> None:
    found = plan(Current(), wanted())
    assert "do-not-show-me" not in repr((found.sentences, found.diff, [step.data for step in found.steps]))


def test_the_diff_shows_what_a_config_held() -> None:
    current = converged(wanted())
    goal = wanted(replace(CONF, content="listen 81;"), KEY)
    name = goal.items[0].full_name("web")
    found = plan(current, goal)
    assert found.before[name] == {"content": ["listen 80;"]}
    assert found.after[name] == {"content": ["listen 81;"]}


def test_a_file_that_is_made_later_in_the_run_is_pending() -> None:
    pending = replace(CONF, content=None)
    assert plan(Current(), wanted(pending, KEY)).sentences[0] == "Create config web_conf_pending"


def test_recorded_specifications_are_what_the_role_s_stack_becomes() -> None:
    # Recorded after the role had deployed Ollama's stand-in: what we expect of its template must be what Docker made of it.
    import sys

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "llm_services"))
    from services import stack

    images = {raw["Spec"]["Name"]: raw["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"].partition("@")[0] for raw in RECORDED}
    compose = stack(
        llm_services_engine_image=images["llm_engine"],
        llm_services_edge_image=images["llm_edge"],
        llm_services_balancer_image=images["llm_balancer"],
        llm_services_engine_replicas=1,
        llm_stack_monitoring=False,
        llm_services_models_path="/var/lib/llm-stack/models",
        llm_services_context_length=512,
        llm_services_parallel=2,
    )
    held: dict[str, str] = {}
    for raw in RECORDED:
        container = raw["Spec"]["TaskTemplate"]["ContainerSpec"]
        for kind in ("Config", "Secret"):
            held.update(
                {one[f"{kind}Name"].rpartition("_")[0].partition("_")[2]: one[f"{kind}Name"] for one in container.get(f"{kind}s", [])}
            )
    held["engine_store"] = "llm_engine_store"
    specs = {f"llm_{name}": expected_spec(name, entry, lambda _, word: held.get(word, word)) for name, entry in compose["services"].items()}
    services = tuple(Service(raw["Spec"]["Name"], "llm", raw["Spec"]) for raw in RECORDED)
    network = RECORDED[0]["Spec"]["TaskTemplate"]["Networks"][0]["Target"]
    found = plan(Current(services=services, networks={network: "llm"}), Wanted("llm", compose, (), specs))
    assert found.diff == {"before": {}, "after": {}}


def test_another_interval_of_the_health_check_is_seen() -> None:
    goal = wanted(healthcheck={"test": ["CMD", "true"], "interval": "30s", "start_interval": "5s"})
    here = converged(goal)
    assert plan(here, goal).steps == ()
    kept = copy.deepcopy(here.services[0].spec)
    kept["TaskTemplate"]["ContainerSpec"]["Healthcheck"]["StartInterval"] = 10**9
    found = plan(replace(here, services=(replace(here.services[0], spec=kept),)), goal)
    assert [step.action for step in found.steps] == ["deploy"]
