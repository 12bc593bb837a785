# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The exporters of the project: what they read, what they say of it, and what they do when nothing answers."""

from __future__ import annotations

import http.client
import json
import os
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Iterator

import pytest
import site_files
import yaml
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.fields import parse_wwn
from ports import free_port

import backups  # isort: skip - site_files puts the exporters on the path
import exposition  # isort: skip
import ollama  # isort: skip
import storage  # isort: skip
from swarm_monitor.history import History  # isort: skip
from swarm_monitor.look import look  # isort: skip
from swarm_monitor.metrics import text_of  # isort: skip
from swarm_monitor.settings import Settings  # isort: skip

RECORDED = Path(__file__).parent / "recorded"
ZFS = Path(__file__).parents[1] / "zfs" / "recorded"
NOW = 1795824300.0


def values(text: str) -> dict[str, float]:
    """Samples by their whole name."""
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if not line.startswith("#")}


def rendered(metrics: list[exposition.Metric]) -> dict[str, float]:
    return values(exposition.render(metrics))


@contextmanager
def answering(answers: dict[str, tuple[int, Any]], server: socketserver.BaseServer | None = None) -> Iterator[int]:
    """A server that has an answer for some paths, with the question mark's part; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, content = answers.get(self.path) or answers.get(self.path.partition("?")[0]) or (404, {"message": "page not found"})
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "somebody"

        def log_message(self, *_: object) -> None:
            pass

    made = server or HTTPServer(("127.0.0.1", 0), Handler)
    made.RequestHandlerClass = Handler
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    try:
        yield made.server_address[1] if server is None else 0
    finally:
        made.shutdown()
        thread.join()
        made.server_close()


def test_text_is_escaped_and_what_has_no_sample_is_left_out() -> None:
    metric = exposition.Metric("a", "b")
    assert exposition.render([metric]) == ""
    metric.add(1, path='C:\\x "y"\n')
    assert metric.text() == '# HELP a b\n# TYPE a gauge\na{path="C:\\\\x \\"y\\"\\n"} 1.0\n'


def test_promtool_takes_what_the_exporters_say(tmp_path: Path) -> None:
    texts = [swarm_text(), exposition.render(storage_metrics()), ollama_text(LOADED)]
    for text in texts:
        ended = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr


# --- Ollama -----------------------------------------------------------------------------------------------------------------------
# As its documentation of /api/ps has it, with a second model of which a part is on the processor and which is kept for ever.
LOADED = {
    "models": [
        {
            "name": "mistral:latest",
            "model": "mistral:latest",
            "size": 5137025024,
            "digest": "2ae6f6dd7a3d",
            "details": {"parent_model": "", "format": "gguf", "family": "llama", "parameter_size": "7.2B", "quantization_level": "Q4_0"},
            "expires_at": "2024-06-04T14:38:31.83753-07:00",
            "size_vram": 5137025024,
            "context_length": 4096,
        },
        {"name": "big:70b", "size": 40000000000, "size_vram": 20000000000, "expires_at": "2318-09-09T00:00:00Z"},
    ]
}


def ollama_text(loaded: Any, version: tuple[int, Any] = (200, {"version": "0.12.6"})) -> str:
    with answering({"/api/version": version, "/api/ps": (200, loaded)}) as port:
        return ollama.probe({"target": [f"127.0.0.1:{port}"]})


def test_ollama_s_models_are_told_with_where_they_are() -> None:
    found = values(ollama_text(LOADED))
    assert found["ollama_up"] == 1
    assert found['ollama_version_info{version="0.12.6"}'] == 1
    assert found["ollama_models_loaded"] == 2
    assert found['ollama_model_vram_bytes{model="big:70b"}'] == 2e10
    assert found['ollama_model_size_bytes{model="big:70b"}'] == 4e10
    assert found['ollama_model_expires_timestamp_seconds{model="mistral:latest"}'] == 1717537111
    assert found['ollama_model_expires_timestamp_seconds{model="big:70b"}'] == 0
    assert found['ollama_model_context_tokens{model="mistral:latest"}'] == 4096


@pytest.mark.parametrize(
    ("loaded", "version"),
    [
        ({"models": []}, (500, {})),
        ({"models": []}, (200, b"<html>")),
        ([], (200, {"version": "1"})),
        ({"models": ["x"]}, (200, {"version": "1"})),
        ({"models": []}, (200, [])),
    ],
)
def test_an_engine_that_talks_nonsense_is_down(loaded: Any, version: tuple[int, Any]) -> None:
    found = values(ollama_text(loaded, version))
    assert found["ollama_up"] == 0
    assert not any(name.startswith("ollama_model") for name in found)


def test_an_engine_without_a_model_is_up_and_has_none() -> None:
    found = values(ollama_text({"models": None}))
    assert (found["ollama_up"], found["ollama_models_loaded"]) == (1, 0)


def test_an_engine_that_hangs_is_told_before_the_shortest_look_is_given_up() -> None:
    # options.yml refuses a monitoring_interval below 5, and Prometheus waits no longer than that.
    assert 2 * ollama.SECONDS < 5


def test_an_engine_that_is_away_or_silent_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama, "SECONDS", 0.2)
    assert values(ollama.probe({"target": [f"127.0.0.1:{free_port()}"]}))["ollama_up"] == 0
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = values(ollama.probe({"target": [f"127.0.0.1:{silent.getsockname()[1]}"]}))
    assert found["ollama_up"] == 0
    assert found["ollama_probe_seconds"] < 5


@pytest.mark.parametrize("target", ["", "http://x:1", "x:1/secret", "x:1@y:2", "x", "x:123456"])
def test_a_target_is_a_machine_and_a_port_and_nothing_else(target: str) -> None:
    with pytest.raises(exposition.NotAnswered, match="No engine is named"):
        ollama.probe({"target": [target]} if target else {})


def test_the_server_answers_its_paths_and_says_why_it_cannot() -> None:
    def broken(_query: exposition.Query) -> str:
        raise exposition.NotAnswered("the reason")

    server = exposition.make_server(0, {"/probe": ollama.probe, "/broken": broken}, address="127.0.0.1")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        for path, status, text in (
            ("/healthy", 200, "ok"),
            ("/probe", 503, "No engine"),
            ("/broken", 503, "the reason"),
            ("/x", 404, "nothing"),
        ):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=5)
            connection.request("GET", path)
            answer = connection.getresponse()
            assert (answer.status, text in answer.read().decode()) == (status, True), path
            connection.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# --- backups ----------------------------------------------------------------------------------------------------------------------
def test_backups_are_read_among_other_metrics() -> None:
    lines = ["# HELP x y", 'llm_backup_success{job_name="a"} 1.0', "node_load1 3", 'llm_restore_drill_success{job_name="a"} 0.0']
    text = "\n".join([*lines, 'llm_backup_success{job_name="b",instance="m"} 0'])
    assert backups.jobs_of(text) == {"a": {"llm_backup_success": 1.0, "llm_restore_drill_success": 0.0}, "b": {"llm_backup_success": 0.0}}
    assert backups.told_by(text) == "m"


def test_a_manager_tells_of_its_backups_by_its_name_in_the_inventory(tmp_path: Path) -> None:
    assert backups.tell(tmp_path / "missing", "node2") == "", "a manager without backups has no such folder"
    (tmp_path / "llm-backup-state.prom").write_text((RECORDED / "backup.metrics").read_text(encoding="utf-8"), encoding="utf-8")
    assert 'llm_backup_success{job_name="state",instance="node2"} 1.0' in backups.tell(tmp_path, "node2").splitlines()
    # As the role storage_backup writes it.
    role = yaml.safe_load((site_files.ROOT / "roles" / "storage_backup" / "vars" / "main.yml").read_text(encoding="utf-8"))
    text = role["__storage_backup_host"].replace("{{ inventory_hostname | to_json }}", json.dumps("manager2"))
    assert "{{" not in text
    (tmp_path / "llm-host.prom").write_text(text, encoding="utf-8")
    (tmp_path / "others.prom").write_text('llm_backup_success{job_name="x"} 1\n', encoding="utf-8")
    said = backups.tell(tmp_path, "node2")
    assert 'llm_backup_success{job_name="state",instance="manager2"} 1.0' in said.splitlines()
    assert 'job_name="x"' not in said
    assert backups.told_by(said) == "manager2"


def test_metrics_of_backups_that_cannot_be_read_are_no_answer(tmp_path: Path) -> None:
    (tmp_path / "llm-backup-a.prom").write_bytes(b"\xff\xfe")
    with pytest.raises(exposition.NotAnswered, match="What backups say of themselves cannot be read"):
        backups.tell(tmp_path, "m")


def test_both_ends_say_the_same_of_a_metric() -> None:
    """Prometheus' exporters refuse one metric with two texts."""
    program = (site_files.ROOT / "roles" / "storage_backup" / "files" / "llm-backup").read_text(encoding="utf-8")
    for name, text in backups.HELP.items():
        assert f'"{name}": "{text}"' in program


# --- the swarm --------------------------------------------------------------------------------------------------------------------
SWARM = json.loads((RECORDED / "swarm.json").read_text(encoding="utf-8"))
API = {f"/v1.41/{name}": (200, SWARM[name]) for name in ("nodes", "services", "configs", "tasks")}


def told(port: int, now: float = NOW) -> str:
    """What the monitor says after one look, and of a worker that was lost and came back before."""
    with tempfile.TemporaryDirectory() as place:
        settings = Settings(proxy=f"127.0.0.1:{port}", database=f"{place}/monitor.sqlite")
        history, seen = History(settings.database), look(settings, now)
        down = [{**node, "Status": {"State": "down"}} for node in seen.nodes]
        for at, nodes in ((now - 300, seen.nodes), (now - 200, down), (now - 110, seen.nodes)):
            history.take(replace(seen, at=at, nodes=nodes))
        return text_of(seen, history.account(), now=now)


def swarm_text(**changes: Any) -> str:
    with answering({**API, **{f"/v1.41/{name}": answer for name, answer in changes.items()}}) as port:
        return told(port)


def test_nodes_services_and_the_fleet_are_told() -> None:
    found = values(swarm_text())
    assert found['swarm_node_up{node_id="w1",node="gpu1",role="worker"}'] == 1
    assert found['swarm_node_up{node_id="w2",node="gpu2",role="worker"}'] == 0
    assert found['swarm_node_active{node_id="w2",node="gpu2",role="worker"}'] == 0
    assert [name for name, value in found.items() if name.startswith("swarm_node_stale") and value] == [
        'swarm_node_stale{node_id="w1-old",node="gpu1",role="worker"}'
    ]
    assert found['swarm_node_gpus{node_id="w1",node="gpu1",role="worker"}'] == 2
    assert found['swarm_node_gpus{node_id="w2",node="gpu2",role="worker"}'] == 3
    assert found['swarm_manager_reachable{node_id="m1",node="manager1",role="manager"}'] == 1
    assert found['swarm_service_tasks_running{service="llm_engine"}'] == 1
    assert found['swarm_service_tasks_desired{service="llm_engine"}'] == 2
    assert found['llm_fleet_preemptions_total{placement="ru-9a"}'] == 2
    assert (found["llm_fleet_recoveries_total"], found["llm_fleet_recovery_last_seconds"], found["llm_fleet_workers_lost"]) == (1, 90, 0)
    assert found["swarm_monitor_looked_timestamp_seconds"] == NOW
    assert found["llm_fleet_cost_today"] == 11.75
    assert found["llm_fleet_cost_hourly"] == 1.5
    assert found["llm_fleet_lock_held"] == 1
    assert found['llm_fleet_placement_failed{placement="ru-9a"}'] == 1
    assert found['llm_fleet_placement_failed{placement="ru-7b"}'] == 0, "it may be tried again"
    assert found['llm_fleet_breaker_open{placement="ru-9a"}'] == 1
    assert found['llm_fleet_interruptions{placement="ru-9a"}'] == 2
    assert found['llm_fleet_server_preemptible{node_id="w1",node="gpu1",role="worker"}'] == 1
    assert found['llm_fleet_server_ends_timestamp_seconds{node_id="w1",node="gpu1",role="worker"}'] == 1795900000
    for name in ("llm_fleet_server_preemptible", "llm_fleet_server_ends"):
        assert sum(one.startswith(name) for one in found) == 1, "what is not understood is left out"


def test_yesterday_s_bill_is_not_today_s() -> None:
    with answering(API) as port:
        tomorrow = values(told(port, NOW + 86400))
    assert "llm_fleet_cost_today" not in tomorrow
    assert tomorrow["llm_fleet_lock_held"] == 0


@pytest.mark.parametrize("configs", [[], [{"Spec": {"Name": "llm-stack-state-of-others", "Labels": {}}}]])
def test_a_swarm_without_a_fleet_has_no_costs(configs: list[Any]) -> None:
    assert not any(name.startswith("llm_fleet_lock") or "cost" in name for name in values(swarm_text(configs=(200, configs))))


@pytest.mark.parametrize("label", ["no json", "{}", '{"day": "x"}', "[1]"])
def test_a_state_that_cannot_be_understood_is_told_and_not_guessed(label: str) -> None:
    state = [{"Spec": {"Name": "llm-stack-state", "Labels": {"llm-stack.ledger": label, "llm-stack.lock": '{"until": 1}'}}}]
    if label == "{}":
        # An empty ledger is none.
        assert "llm_fleet_cost_today" not in values(swarm_text(configs=(200, state)))
        return
    with pytest.raises(exposition.NotAnswered, match="The labels of the config llm-stack-state cannot be understood"):
        swarm_text(configs=(200, state))


@pytest.mark.parametrize("answer", [(503, {"message": "This node is not a swarm manager."}), (200, b"<html>")])
def test_a_swarm_that_does_not_answer_is_not_an_empty_one(answer: tuple[int, Any]) -> None:
    with pytest.raises(exposition.NotAnswered, match="/nodes cannot be read from 127.0.0.1:.*Look at the log of the service socket_proxy"):
        swarm_text(nodes=answer)


# --- the socket's guard -----------------------------------------------------------------------------------------------------------
class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The engine's socket."""

    daemon_threads = True


@pytest.fixture(scope="module")
def guarded(written: site_files.Written, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a real HAProxy with the role's configuration before a socket that answers everything."""
    place, port = tmp_path_factory.mktemp("guard"), free_port()
    text = written.text("good", "socket-proxy.cfg").replace("bind :2375", f"bind 127.0.0.1:{port}")
    (place / "proxy.cfg").write_text(text.replace("/var/run/docker.sock", f"{place}/docker.sock"), encoding="utf-8")
    everything = {
        **API,
        "/v1.41/secrets": (200, []),
        "/v1.41/containers/json": (200, []),
        "/v1.41/tasks": (200, []),
        "/_ping": (200, b"OK"),
    }
    with answering(everything, UnixServer(f"{place}/docker.sock", BaseHTTPRequestHandler)):
        proxy = subprocess.Popen(["haproxy", "-db", "-f", str(place / "proxy.cfg")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline and asked(port, "GET", "/live") != 200:
                time.sleep(0.05)
            yield port
        finally:
            proxy.terminate()
            proxy.wait(timeout=10)


def asked(port: int, method: str, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def test_the_swarm_is_read_through_the_guard(guarded: int) -> None:
    found = values(told(guarded))
    assert found['swarm_service_tasks_desired{service="llm_engine"}'] == 2
    assert found["llm_fleet_cost_hourly"] == 1.5
    assert asked(guarded, "GET", "/v1.41/tasks?filters=%7B%7D") == 200
    assert asked(guarded, "GET", f"/v1.41/configs?{STATE_QUERY}") == 200
    assert asked(guarded, "GET", "/_ping") == 200


# What is let through, alone.
STATE_QUERY = "filters=%7B%22name%22%3A%20%5B%22llm-stack-state%22%5D%7D"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1.41/services/create"),
        ("DELETE", "/v1.41/nodes/w1"),
        ("POST", "/v1.41/nodes"),
        ("PUT", "/v1.41/nodes"),
        ("GET", "/v1.41/secrets"),
        ("GET", "/v1.41/containers/json"),
        ("GET", "/v1.41/configs"),
        ("GET", "/v1.41/configs?filters=%7B%22name%22%3A%20%5B%22llm_edge%22%5D%7D"),
        ("GET", f"/v1.41/configs?filters=%7B%7D&{STATE_QUERY}"),
        ("GET", f"/v1.41/configs?filt%65rs=%7B%7D&{STATE_QUERY}"),
        ("GET", f"/v1.41/configs?{STATE_QUERY}&filters=%7B%7D"),
        ("GET", f"/v1.41/configs?{STATE_QUERY.replace('=', '%3D')}"),
        ("GET", "/v1.41/configs/llm_edge_conf"),
        ("GET", "/v1.41/nodes/../secrets"),
        ("GET", "/v1.41/swarm"),
        ("GET", "/v1.41/info/../secrets"),
    ],
)
def test_nothing_else_passes_the_guard(guarded: int, method: str, path: str) -> None:
    assert asked(guarded, method, path) == 403


# --- storage ----------------------------------------------------------------------------------------------------------------------
def zfs(name: str) -> str:
    return (ZFS / name).read_text(encoding="utf-8")


POLICIES = [
    {"dataset": "llm/data"},
    {"dataset": "llm/none", "hourly": 0},
    {"dataset": "llm/untaken", "hourly": 0, "daily": 0, "monthly": 0},
    # Replicas, whose snapshots are only pruned.
    {"dataset": "backup/untaken", "hourly": 48, "take": False},
    {"dataset": "backup/untaken2", "take": "no"},
]


def storage_metrics() -> list[exposition.Metric]:
    return [
        *storage.status_metrics(zfs("form_of_2.1.txt") + "\n" + zfs("lost_disk-2.3.9.txt").replace("tank", "lost"), {}),
        *storage.space_metrics((RECORDED / "zpool_list-form.txt").read_text(encoding="utf-8")),
        *storage.snapshot_metrics((RECORDED / "snapshots.txt").read_text(encoding="utf-8"), POLICIES),
        *storage.pool_metrics(zfs("form_of_2.1.txt"), ["tank"]),
        *storage.creation_metrics("tank\t1780000000\n"),
    ]


def test_vdevs_are_told_with_their_state_and_errors() -> None:
    found = rendered(storage_metrics())
    assert found['zfs_vdev_healthy{pool="tank",vdev="/dev/disk/by-id/ata-C-part1",state="FAULTED"}'] == 0
    assert found['zfs_vdev_errors{pool="tank",vdev="/dev/disk/by-id/ata-C-part1",kind="read"}'] == 3
    assert found['zfs_vdev_healthy{pool="tank",vdev="raidz1-0",state="ONLINE"}'] == 1
    assert found['zfs_vdev_healthy{pool="lost",vdev="8650879329510384377",state="UNAVAIL"}'] == 0
    assert found['zfs_vdev_healthy{pool="lost",vdev="/var/tmp/h1/g",state="AVAIL"}'] == 1, "a spare that waits is well"
    assert not any('vdev="tank"' in name for name in found), "the pool's own state is node_exporter's"


def test_the_end_of_a_scrub_is_in_utc_and_outlives_a_resilver() -> None:
    text = zfs("form_of_2.1.txt")
    ended = 'zfs_pool_scrub_last_timestamp_seconds{pool="tank"}'
    assert rendered(storage.status_metrics(text, {}))[ended] == 1791678251
    assert ended not in rendered(storage.status_metrics(zfs("lost_disk-2.3.9.txt"), {}))
    assert rendered(storage.status_metrics(zfs("lost_disk-2.3.9.txt"), {"tank": 1791678251.0}))[ended] == 1791678251
    running = rendered(storage.status_metrics(zfs("scrub-2.3.9.txt"), {}))
    assert running['zfs_pool_scanning{pool="wpoola"}'] == 1


# What `zpool import` printed looks alike and tells an id.
STATUSES = [path for path in sorted(ZFS.glob("*.txt")) if "\tNAME" in path.read_text() and "   id: " not in path.read_text()]


@pytest.mark.parametrize("path", STATUSES, ids=lambda path: path.stem)
def test_every_recorded_status_is_read_with_all_its_disks(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    found = rendered(storage.status_metrics(text, {}))
    listed = [line for line in text.splitlines() if line.startswith("\t  ") and len(line.split()) >= 2 and line.split()[1].isupper()]
    assert sum(name.startswith("zfs_vdev_healthy") for name in found) == len(listed), "two rows have one name"


def test_two_spares_in_use_are_told_apart() -> None:
    rows = ["NAME STATE", "a  DEGRADED 0 0 0", "  mirror-0  DEGRADED 0 0 0", "    spare-0  DEGRADED 1 0 0", "      /dev/x  UNAVAIL 0 0 0"]
    rows += ["  mirror-1  DEGRADED 0 0 0", "    spare-0  DEGRADED 2 0 0", "      /dev/y  UNAVAIL 0 0 0"]
    found = rendered(storage.status_metrics("  pool: a\n" + "".join(f"\t{row}\n" for row in rows), {}))
    assert found['zfs_vdev_errors{pool="a",vdev="mirror-0/spare-0",kind="read"}'] == 1
    assert found['zfs_vdev_errors{pool="a",vdev="mirror-1/spare-0",kind="read"}'] == 2


@pytest.mark.parametrize(
    ("line", "errors"),
    [
        ("errors: No known data errors", 0),
        ("errors: 3 data errors, use '-v' for a list", 3),
        ("errors: Permanent errors have been detected in the following files:", 1),
        ("errors: List of errors unavailable: permission denied", 1),
        ("", 0),
    ],
)
def test_data_errors_are_counted(line: str, errors: int) -> None:
    assert storage.data_errors(f"  pool: a\n{line}\n") == errors


def test_each_class_of_vdevs_has_its_own_fill() -> None:
    found = rendered(storage_metrics())
    assert found['zfs_pool_size_bytes{pool="llm",class="normal"}'] == 2 * 2989297238016
    assert found['zfs_pool_allocated_bytes{pool="llm",class="normal"}'] == 3000000000000
    assert found['zfs_pool_allocated_bytes{pool="llm",class="special"}'] == 12884901888
    assert found['zfs_pool_size_bytes{pool="llm",class="cache"}'] == 171798691840
    assert found['zfs_pool_size_bytes{pool="backup",class="normal"}'] == 998579896320
    assert found['zfs_pool_fragmentation_ratio{pool="llm"}'] == 0.14
    assert 'zfs_pool_fragmentation_ratio{pool="backup"}' not in found


def test_snapshots_are_told_of_datasets_with_a_policy_only() -> None:
    found = rendered(storage_metrics())
    newest = {name: value for name, value in found.items() if name.startswith("zfs_dataset_snapshot_newest")}
    assert list(newest.values()) == [1795824001, 0], "one that has none is as old as can be"
    assert found['zfs_dataset_snapshots{dataset="llm/data"}'] == 2


def test_iscsi_is_read_from_the_kernel_s_tree(tmp_path: Path) -> None:
    group = tmp_path / "iqn.2026-01.org.example:storage1" / "tpgt_1"
    for name, info in (
        ("iqn.b:away", "No active iSCSI Session for Initiator Endpoint: iqn.b:away\n"),
        ("iqn.a:here", "InitiatorName: iqn.a:here\n"),
    ):
        (group / "acls" / name).mkdir(parents=True)
        (group / "acls" / name / "info").write_text(info)
    (group / "enable").write_text("1\n")
    (tmp_path / "discovery_auth").mkdir()
    target = 'target="iqn.2026-01.org.example:storage1"'
    assert rendered(storage.iscsi_metrics(tmp_path)) == {
        f'iscsi_portal_group_enabled{{{target},group="tpgt_1"}}': 1,
        f'iscsi_initiator_logged_in{{{target},initiator="iqn.a:here"}}': 1,
        f'iscsi_initiator_logged_in{{{target},initiator="iqn.b:away"}}': 0,
    }
    (group / "enable").write_text("0\n")
    assert rendered(storage.iscsi_metrics(tmp_path))[f'iscsi_portal_group_enabled{{{target},group="tpgt_1"}}'] == 0
    assert rendered(storage.iscsi_metrics(tmp_path / "missing")) == {}


def test_a_target_that_is_gone_takes_no_logins(tmp_path: Path) -> None:
    """After a start that has not brought the targets back the kernel shows none."""
    (tmp_path / "iqn.a" / "tpgt_1").mkdir(parents=True)
    (tmp_path / "iqn.a" / "tpgt_1" / "enable").write_text("1\n")
    assert rendered(storage.iscsi_metrics(tmp_path, ["iqn.a", "iqn.b"])) == {
        'iscsi_portal_group_enabled{target="iqn.a",group="tpgt_1"}': 1,
        'iscsi_portal_group_enabled{target="iqn.b",group=""}': 0,
    }


def test_targets_are_known_by_every_name_that_the_role_takes(tmp_path: Path) -> None:
    names = ["iqn.2026-01.org.Example:Storage1", " eui.02004567A425678D ", "naa.52004567BA64678D"]
    kept = sorted(parse_wwn(name, "wwn") for name in names)
    for name in kept:
        (tmp_path / name / "tpgt_1").mkdir(parents=True)
        (tmp_path / name / "tpgt_1" / "enable").write_text("1\n")
    assert rendered(storage.iscsi_metrics(tmp_path, names)) == {
        f'iscsi_portal_group_enabled{{target="{name}",group="tpgt_1"}}': 1 for name in kept
    }


def test_a_pool_that_is_not_there_is_told() -> None:
    """Of one that was not imported nothing else tells: node_exporter and ZFS name those that are there."""
    found = rendered(storage.pool_metrics(zfs("form_of_2.1.txt"), ["tank", "llm"]))
    assert found == {'zfs_pool_imported{pool="tank"}': 1, 'zfs_pool_imported{pool="llm"}': 0}
    assert rendered(storage.pool_metrics("", ["llm"])) == {'zfs_pool_imported{pool="llm"}': 0}


def test_how_often_a_policy_takes_snapshots_is_what_the_role_says() -> None:
    role = site_files.ROOT / "roles" / "storage_host"
    kept = yaml.safe_load((role / "vars" / "main.yml").read_text())["__storage_host_snapshots_kept"]
    assert {name: usual for name, (_seconds, usual) in storage.PERIODS.items()} == kept
    found = rendered(storage.snapshot_metrics("llm/data@a\t100\nbackup/untaken@a\t100\n", POLICIES))
    assert found['zfs_dataset_snapshot_interval_seconds{dataset="llm/data"}'] == 3600
    assert found['zfs_dataset_snapshot_interval_seconds{dataset="llm/none"}'] == 86400
    assert not any("untaken" in name for name in found), "a policy that takes none is late with none"
    assert storage.interval_of({"dataset": "a", "frequently": 4}) == 900


def commands(place: Path, *, status: str) -> None:
    """Stand-ins for zpool and zfs that print what was recorded."""
    for name, body in {
        "zpool": f'case $1 in status) {status} ;; list) cat "{RECORDED}/zpool_list-form.txt" ;; esac',
        "zfs": f'case "$*" in *snapshot*) cat "{RECORDED}/snapshots.txt" ;; *"-d 0"*) printf "tank\\t1780000000\\n" ;; esac',
    }.items():
        (place / name).write_text(f"#!/bin/sh\n{body}\n")
        (place / name).chmod(0o755)


def test_the_file_is_whole_and_stays_when_zfs_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    real = subprocess.run
    monkeypatch.setattr(
        storage.subprocess,
        "run",
        lambda argv, *, check, **more: real(
            [str(tmp_path / argv[0]), *argv[1:]], check=check, **{**more, "env": {**more["env"], "PATH": os.environ["PATH"]}}
        ),
    )
    out = tmp_path / "out.prom"
    (tmp_path / "storage.json").write_text(json.dumps({"file": str(out), "exports": 2, "snapshots": [{"dataset": "llm/data"}]}))
    commands(tmp_path, status=f'cat "{ZFS}/form_of_2.1.txt"')
    assert storage.main([str(tmp_path / "storage.json")]) == 0
    first = out.read_text()
    assert values(first)['zfs_dataset_snapshots{dataset="llm/data"}'] == 2
    assert values(first)["llm_storage_collected_timestamp_seconds"] > 1.7e9
    assert values(first)["llm_storage_nfs_exports"] == 2
    assert values(first)['zfs_pool_created_timestamp_seconds{pool="tank"}'] == 1780000000
    commands(tmp_path, status="echo 'no pools available'")
    assert storage.main([str(tmp_path / "storage.json")]) == 0
    (wanted,) = {one["until"] for one in yaml.safe_load((site_files.ROLE / "tasks" / "storage.yml").read_text()) if "until" in one}
    assert wanted.split("'")[1] in values(out.read_text()), "a host without a pool is well"
    assert not any(name.startswith("zfs_vdev") for name in values(out.read_text()))
    commands(tmp_path, status=f'cat "{ZFS}/form_of_2.1.txt"')
    assert storage.main([str(tmp_path / "storage.json")]) == 0
    first = out.read_text()
    commands(tmp_path, status="echo 'cannot open /dev/zfs' >&2; exit 1")
    assert storage.main([str(tmp_path / "storage.json")]) == 1
    assert out.read_text() == first
    assert f"failed: cannot open /dev/zfs. {out} stays as it was." in capsys.readouterr().err
    # A resilver since then: the scrub is still known.
    commands(tmp_path, status=f'sed s/scrub.repaired/resilvered/ "{ZFS}/form_of_2.1.txt"')
    assert storage.main([str(tmp_path / "storage.json")]) == 0
    assert values(out.read_text())['zfs_pool_scrub_last_timestamp_seconds{pool="tank"}'] == 1791678251
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.prom"]
