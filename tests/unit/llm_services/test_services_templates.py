# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role's templates become."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from loopback import OLLAMA
from services import ROLE, render, stack

ENGINES = ("ollama", "llamacpp")


@pytest.mark.parametrize("engine", ENGINES)
def test_only_the_edge_publishes_ports_and_it_does_so_on_its_host(engine: str) -> None:
    services = stack(llm_services_engine=engine)["services"]
    assert [name for name, service in services.items() if service.get("ports")] == ["edge"]
    assert {port["mode"] for port in services["edge"]["ports"]} == {"host"}
    assert [port["published"] for port in services["edge"]["ports"]] == ([443, 11434] if engine == "ollama" else [443])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["edge", "balancer", "engine"])
def test_every_service_has_health_check_limits_and_policies(engine: str, name: str) -> None:
    service = stack(llm_services_engine=engine)["services"][name]
    assert service["healthcheck"]["test"][0] == "CMD"
    deploy = service["deploy"]
    assert deploy["endpoint_mode"] == "dnsrr"
    assert deploy["resources"]["limits"]["pids"] > 0
    assert deploy["update_config"]["failure_action"] == "rollback"
    assert deploy["rollback_config"]["parallelism"] == 1
    assert deploy["restart_policy"]["condition"] == "any"
    assert service["logging"]["options"]["max-size"] == "10m"


CHAT: dict[str, Any] = {"enabled": True, "analytics_password": "a-password-of-the-tests"}


def test_the_chat_service_is_off_by_default() -> None:
    assert set(stack()["services"]) == {"edge", "balancer", "engine"}
    assert "widget" not in render("nginx.conf.j2")


def test_the_edge_follows_the_balancers_names_and_keeps_its_connections() -> None:
    text = render("nginx.conf.j2")
    assert "server balancer:8080 resolve" in text
    assert "server balancer:8406 resolve" in text
    assert text.count("keepalive 32;") == 2


def test_with_virtual_addresses_edge_and_balancer_still_find_every_task() -> None:
    services = stack(llm_services_endpoint_mode="vip", llm_services_chat=CHAT)["services"]
    assert {service["deploy"]["endpoint_mode"] for service in services.values()} == {"vip"}
    assert "server tasks.balancer:8080 resolve" in render("nginx.conf.j2", llm_services_endpoint_mode="vip")
    assert "tasks.llm_engine" in render("haproxy.cfg.j2", llm_services_endpoint_mode="vip")


def test_open_webui_asks_the_edge_and_is_reached_through_it_alone() -> None:
    assert "open-webui" not in stack()["services"]
    services = stack(llm_services_open_webui={"enabled": True, "port": 8444})["services"]
    service = services["open-webui"]
    # Pinned by version, bounded, and with no secret in its environment.
    assert re.fullmatch(r"ghcr\.io/open-webui/open-webui:v\d+\.\d+\.\d+", service["image"])
    assert "ports" not in service
    assert service["networks"] == ["llm"]
    assert service["environment"]["OPENAI_API_BASE_URL"] == "http://edge:8082/v1"
    assert service["cap_drop"] == ["ALL"]
    assert service["deploy"]["resources"]["limits"]["memory"] == "4G"
    assert service["deploy"]["update_config"]["failure_action"] == "rollback"
    assert [port["published"] for port in services["edge"]["ports"]] == [443, 11434, 8444]
    text = render("nginx.conf.j2", llm_services_open_webui={"enabled": True, "port": 8444})
    assert "listen 8444 ssl" in text
    # The door without a key is inside the network only.
    assert 8082 not in [port["published"] for port in services["edge"]["ports"]]


EVERYTHING: dict[str, Any] = {
    "llm_services_chat": {"enabled": True, "analytics_password": "a-password-of-the-tests"},
    "llm_services_open_webui": {"enabled": True},
    "llm_services_tls": {"domains": ["llm.test"]},
    "__llm_services_acme_thumbprint": "thumb",
}


def locations(text: str) -> dict[str, tuple[list[str], str]]:
    """Of each location that passes requests on, by its server's door and its own name: its lines, and the largest body it takes."""
    found: dict[str, tuple[list[str], str]] = {}
    (general,) = re.findall(r"^  client_max_body_size (\w+);", text, re.MULTILINE)
    for server in re.findall(r"^  server \{\n(.*?)^  \}\n", text, re.MULTILINE | re.DOTALL):
        (door,) = re.findall(r"^    listen ([\d.:]+)", server, re.MULTILINE)
        of_server = re.findall(r"^    client_max_body_size (\w+);", server, re.MULTILINE)
        for name, inside in re.findall(r"^    location (.*?) \{\n(.*?)^    \}\n", server, re.MULTILINE | re.DOTALL):
            own = re.findall(r"^      client_max_body_size (\w+);", inside, re.MULTILINE)
            if "proxy_pass " in inside:
                found[f"{door} {name}"] = ([line.strip() for line in inside.splitlines()], [general, *of_server, *own][-1])
    return found


def test_who_has_no_key_cannot_fill_the_edge_s_memory() -> None:
    found = locations(render("nginx.conf.j2", **EVERYTHING))
    keyed = {name for name, (lines, _most) in found.items() if "auth_request /key;" in lines}
    assert {name.partition(" ")[2] for name in keyed} >= {"/v1/", "/api/", "= /v1/chat/completions"}
    assert {found[name][1] for name in keyed} == {"32m"}
    # What is asked inside the network alone, what is reached from a location with a key, and what keeps no body.
    apart = {name for name, (lines, _most) in found.items() if {"internal;", "proxy_request_buffering off;"} & set(lines)}
    apart |= {name for name in found if name.startswith("8082 ") or "@" in name}
    assert {name: most for name, (_lines, most) in found.items() if name not in keyed | apart} == {
        "443 = /health": "1k",
        "443 = /api/status": "1k",
        "443 = /widget/chat": "256k",
        "443 ~ ^/($|static/|widget\\.js$|openapi\\.json$)": "1k",
        "443 /analytics/": "1k",
        "443 /status/": "1k",
    }
    assert "proxy_request_buffering off;" in found["8443 /"][0]


def test_what_the_edge_keeps_of_requests_fits_its_memory() -> None:
    edge = stack()["services"]["edge"]
    sizes = [volume["tmpfs"]["size"] for volume in edge["volumes"]]
    limit = edge["deploy"]["resources"]["limits"]["memory"]
    assert limit.endswith("M")
    # As much as it had before, for itself.
    assert sum(sizes) + 255 * 1024 * 1024 <= int(limit[:-1]) * 1024 * 1024


def test_port_80_is_published_for_acme_alone() -> None:
    ports = stack(llm_services_tls={"domains": ["llm.test"]})["services"]["edge"]["ports"]
    assert {"target": 80, "published": 80, "protocol": "tcp", "mode": "host"} in ports


@pytest.mark.parametrize("name", ["chroma", "chat", "analytics"])
def test_services_of_the_chat_are_private_bounded_and_not_root(name: str) -> None:
    made = stack(llm_services_chat=CHAT)
    service = made["services"][name]
    assert "ports" not in service
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert set(service["deploy"]["resources"]["limits"]) == {"memory", "pids"}
    assert service["deploy"]["update_config"]["failure_action"] == "rollback"
    assert service["deploy"]["endpoint_mode"] == "dnsrr"
    assert name == "chroma" or service["user"] == "10001:10001"
    assert set(service["networks"]) <= set(made["networks"])
    # Docker takes a size in bytes only.
    assert all(isinstance(volume.get("tmpfs", {}).get("size", 0), int) for volume in service["volumes"])


def test_chroma_is_reached_by_the_chat_service_alone() -> None:
    services = stack(llm_services_chat=CHAT)["services"]
    assert [name for name, one in services.items() if "llm_documents" in one["networks"]] == ["chroma", "chat"]
    assert services["chroma"]["networks"] == ["llm_documents"]
    assert services["chroma"]["volumes"][0] == {"type": "bind", "source": "/var/lib/llm-stack/chat/chroma", "target": "/data"}


def test_settings_reach_the_chat_service_and_its_secrets_do_not_show() -> None:
    wished = {**CHAT, "replicas": 3, "widget_daily": 100, "widget_domains": ["a.org", "*.b.org"], "continue_cut_streams": False}
    services = stack(llm_services_chat={**wished, "database_url": "postgresql://llm:hidden@db/llm"})["services"]
    environment = services["chat"]["environment"]
    assert (environment["WIDGET_DAILY"], environment["WIDGET_DOMAINS"]) == ("33", "a.org,*.b.org")
    assert (environment["CONTINUE_CUT_STREAMS"], environment["LOG_PROMPTS"]) == ("0", "0")
    assert services["analytics"]["deploy"]["replicas"] == 2
    assert [one["source"] for one in services["analytics"]["secrets"]] == ["analytics_token", "analytics_password", "analytics_database"]
    text = str(services)
    assert "hidden" not in text
    assert "a-password-of-the-tests" not in text


@pytest.mark.parametrize(("engines", "threads"), [(2, 128), (8, 168), (1000, 960)])
def test_the_chat_service_has_a_thread_for_every_answer_the_engines_take(engines: int, threads: int) -> None:
    chat = stack(llm_services_chat=CHAT, llm_services_engine_replicas=engines)["services"]["chat"]
    assert chat["environment"]["THREADS"] == str(threads)
    # Each open answer has a second one that reads from its engine.
    assert chat["deploy"]["resources"]["limits"]["pids"] >= 2 * threads + 128


def test_the_image_s_tag_follows_from_all_its_sources() -> None:
    named = (ROLE / "vars" / "main.yml").read_text()
    directories = {
        path.parent.relative_to(ROLE / "files")
        for path in (ROLE / "files" / "chat").rglob("*")
        if not any(part.startswith((".", "__pycache__")) for part in path.relative_to(ROLE).parts[:-1])
    }
    assert len(directories) >= 6
    assert [str(one) for one in directories if one.parts and f"'{one}/*'" not in named] == []


def test_sqlite_has_one_writer_and_a_local_directory() -> None:
    analytics = stack(llm_services_chat=CHAT)["services"]["analytics"]
    assert analytics["deploy"]["replicas"] == 1
    assert analytics["volumes"][0] == {"type": "bind", "source": "/var/lib/llm-stack/chat/analytics", "target": "/data"}


def test_what_keeps_data_on_the_manager_s_disk_runs_there_and_nothing_else_is_bound_to_it() -> None:
    def placed(**chat: Any) -> dict[str, list[str]]:
        services = stack(llm_services_chat={**CHAT, **chat}, llm_services_open_webui={"enabled": True})["services"]
        return {name: one["deploy"].get("placement", {}).get("constraints") for name, one in services.items()}

    here, anywhere = ["node.id == this-manager"], ["node.role == manager"]
    wanted = {"edge": anywhere, "balancer": anywhere, "engine": None, "chat": anywhere, "chroma": here, "open-webui": here}
    assert placed() == {**wanted, "analytics": here}
    assert placed(database_url="postgresql://db/llm") == {**wanted, "analytics": anywhere}


def test_an_engine_takes_one_gpu_and_reads_its_model_only() -> None:
    engine = stack(llm_services_engine="llamacpp", llm_services_engine_replicas=3, llm_services_engine_memory="8G")["services"]["engine"]
    resources = engine["deploy"]["resources"]
    assert resources["reservations"]["generic_resources"] == [{"discrete_resource_spec": {"kind": "GPU", "value": 1}}]
    assert (engine["deploy"]["replicas"], resources["limits"]["memory"]) == (3, "8G")
    assert engine["volumes"] == [{"type": "bind", "source": "/var/lib/llm-stack/models", "target": "/models", "read_only": True}]


def test_the_context_is_what_each_request_gets() -> None:
    command = stack(llm_services_engine="llamacpp", llm_services_context_length=4096, llm_services_parallel=3)["services"]["engine"][
        "command"
    ]
    assert command[command.index("--ctx-size") + 1] == "12288"
    environment = stack(llm_services_context_length=4096, llm_services_parallel=3, llm_services_queue=9)["services"]["engine"][
        "environment"
    ]
    assert [environment[f"OLLAMA_{key}"] for key in ("CONTEXT_LENGTH", "NUM_PARALLEL", "MAX_QUEUE")] == ["4096", "3", "9"]


def test_without_a_file_ollama_uses_the_store_it_is_given() -> None:
    service = stack(llm_services_model_file="")["services"]["engine"]
    assert service["environment"]["OLLAMA_MODELS"] == "/models"
    assert "ollama create" not in render("ollama-start.sh.j2", llm_services_model_file="")
    assert "volumes" not in stack(llm_services_model_file="")


def test_the_keys_are_hashed_in_a_secret_and_nowhere_else() -> None:
    texts = [render(name) for name in ("nginx.conf.j2", "haproxy.cfg.j2", "stack.yml.j2", "ollama-start.sh.j2")]
    assert not any("a-key-of-the-tests-only" in text for text in texts)
    assert render("edge-keys.map.j2") == f"{hashlib.sha256(b'a-key-of-the-tests-only').hexdigest().upper()} team\n"


def test_the_measured_values_are_all_there() -> None:
    text = render("haproxy.cfg.j2")
    for value in (
        "tune.bufsize 131072",
        "timeout connect 300ms",
        "timeout check 200ms",
        "timeout server 600s",
        "retries 6",
        "option redispatch 1",
        "option http-buffer-request",
        "retry-on conn-failure empty-response 503",
        "srvtcpka-idle 1s",
        "srvtcpka-intvl 1s",
        "srvtcpka-cnt 2",
        "check inter 250ms fastinter 100ms downinter 1s fall 2 rise 2",
        "slowstart 5s observe layer4 error-limit 1 on-error mark-down",
        "tcp-ut 2s",
        "option httpchk GET /api/version",
    ):
        assert value in text
    assert "option httpchk GET /health" in render("haproxy.cfg.j2", llm_services_engine="llamacpp")


def script(place: Path, name: str) -> str:
    """The engine's start script with the container's paths moved below ``place``."""
    text = render("ollama-start.sh.j2", llm_services_model=name)
    for before, after in (
        ("/models/", f"{place}/models/"),
        ("/tmp/Modelfile", f"{place}/Modelfile"),
        ("/11434", "/$PORT"),
        (":11434", ":$PORT"),
    ):
        text = text.replace(before, after)
    return text


class Started:
    """The engine's start script before the stand-in, with its files below ``place``."""

    def __init__(self, place: Path) -> None:
        from ports import free_port

        self.place, self.model, self.store = place, place / "models" / "tiny.gguf", place / "store"
        (place / "models").mkdir()
        self.model.write_bytes(b"GGUF" * 64)
        (place / "bin").mkdir()
        (place / "bin" / "ollama").write_text(f'#!/bin/sh\nexec {sys.executable} {OLLAMA} "$@"\n')
        (place / "bin" / "ollama").chmod(0o755)
        (place / "start.sh").write_text(script(place, "tiny:1b"))
        port = free_port()
        path = f"{place / 'bin'}:{os.environ['PATH']}"
        self.environment = {
            **os.environ,
            "PATH": path,
            "PORT": str(port),
            "OLLAMA_HOST": f"127.0.0.1:{port}",
            "OLLAMA_MODELS": str(self.store),
        }

    def run(self) -> tuple[str, int]:
        """Run it until it has preloaded the model, then tell it to end, or until it ends; what it said and its status."""
        started = subprocess.Popen(
            ["bash", str(self.place / "start.sh")],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        # All of its session: what it started holds the pipe too.
        guard = threading.Timer(60, os.killpg, (started.pid, signal.SIGKILL))
        guard.start()
        said = ""
        assert started.stdout is not None
        for line in started.stdout:
            said += line
            if line.startswith("preloading 200"):
                started.terminate()
        started.wait()
        guard.cancel()
        return said, started.returncode

    def blob(self) -> Path:
        """The engine's own copy of the model."""
        (found,) = (self.store / "blobs").iterdir()
        return found


@pytest.fixture
def started(tmp_path: Path) -> Started:
    return Started(tmp_path)


def test_the_start_script_takes_a_model_in_once_loads_it_and_ends_when_told(started: Started) -> None:
    said, status = started.run()
    assert ("preloading 200" in said, "success" in said, status) == (True, True, 0)
    said, status = started.run()
    assert ("preloading 200" in said, status) == (True, 0)
    assert "success" not in said, "the model was taken in again though nothing had changed"


def test_a_damaged_copy_of_the_engine_s_own_is_made_anew(started: Started) -> None:
    started.run()
    whole = started.blob().read_bytes()
    started.blob().write_bytes(b"x" * len(whole))
    said, status = started.run()
    assert "preloading 500" in said
    assert "tiny:1b does not load" in said
    assert "it is taken in anew" in said
    assert ("preloading 200" in said, status) == (True, 0)
    assert started.blob().read_bytes() == whole


def test_a_damaged_model_ends_the_engine_and_is_said(started: Started) -> None:
    started.model.write_bytes(b"x" * 256)
    said, status = started.run()
    assert "preloading 200" not in said
    assert "tiny:1b does not load from" in said
    assert "Run playbooks/workers.yml, which verifies the file" in said
    assert status == 1


def contents(store: Path) -> dict[str, bytes]:
    """Every file of a store but the lock."""
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file() and path.name != ".lock"}


def test_an_engine_whose_gpu_has_failed_ends_and_leaves_the_others_their_store(started: Started) -> None:
    started.run()
    before = contents(started.store)
    started.environment["STANDIN_LOAD_ERROR"] = "CUDA error: uncorrectable ECC error encountered"
    said, status = started.run()
    assert "tiny:1b does not load from" in said
    assert "CUDA error: uncorrectable ECC error encountered" in said
    assert "look at the GPU and its memory" in said
    assert "success" not in said, "the model was taken in again though nothing is wrong with it"
    assert status == 1
    assert contents(started.store) == before


def test_a_damaged_copy_costs_no_other_model_of_the_store(started: Started) -> None:
    started.run()
    manifest = started.store / "manifests/registry.ollama.ai/library/other/latest"
    manifest.parent.mkdir()
    other = started.store / "blobs" / f"sha256-{hashlib.sha256(b'GGUF other').hexdigest()}"
    manifest.write_text(f'{{"layers": [{{"digest": "{other.name.replace("-", ":")}", "size": 10}}]}}')
    (mine,) = (started.store / "blobs").iterdir()
    other.write_bytes(b"GGUF other")
    mine.write_bytes(b"x" * 256)
    said, status = started.run()
    assert ("it is taken in anew" in said, status) == (True, 0)
    assert other.read_bytes() == b"GGUF other"
    assert manifest.exists()


@pytest.mark.parametrize("gone", ["blobs", "manifests"])
def test_a_copy_that_is_gone_is_made_anew(started: Started, gone: str) -> None:
    started.run()
    shutil.rmtree(started.store / gone)
    said, status = started.run()
    assert ("it is taken in anew" in said, "preloading 200" in said, status) == (True, True, 0)


def test_engines_of_one_machine_take_a_model_in_one_after_another(started: Started) -> None:
    started.store.mkdir()
    with (started.store / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found: list[tuple[str, int]] = []
        thread = threading.Thread(target=lambda: found.append(started.run()))
        thread.start()
        time.sleep(4)
        assert not list(started.store.rglob("sha256-*")), "it did not wait for the engine that takes it in"
    thread.join()
    assert ("preloading 200" in found[0][0], found[0][1]) == (True, 0)


def test_a_missing_model_ends_the_engine_and_is_said(started: Started) -> None:
    started.model.unlink()
    said, status = started.run()
    assert "is not on this machine, so tiny:1b cannot be served here. Run playbooks/workers.yml" in said
    assert status == 1


@pytest.mark.parametrize(("asked", "options"), [({}, None), ({"swarm_manager_encrypted_overlays": "true"}, {"encrypted": ""})])
def test_the_overlay_is_encrypted_where_that_is_asked_for(asked: dict[str, Any], options: dict[str, str] | None) -> None:
    (network,) = stack(**asked)["networks"].values()
    assert network.get("driver_opts") == options
