# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Dashboards are whole, and each of their queries gives data on a real Prometheus that reads what the exporters say."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Iterator

import jsonschema
import pytest
import yaml
from declared import RECORDED, chat_metrics, declared, named, own_metrics
from ports import free_port
from site_files import ROLE, Written
from test_exporters import LOADED, ollama_text, storage_metrics, swarm_text

import backups  # isort: skip - site_files puts it on the path
import exposition  # isort: skip

pytestmark = pytest.mark.one_core

DASHBOARDS = sorted((ROLE / "files" / "dashboards").glob("*.json"))
SOURCE = {"type": "object", "required": ["type", "uid"], "properties": {"type": {"const": "prometheus"}, "uid": {"const": "prometheus"}}}
# The part of Grafana's model that is used here; what is not named may not be there.
TARGET = {
    "type": "object",
    "required": ["datasource", "refId", "expr", "legendFormat"],
    "additionalProperties": False,
    "properties": {
        "datasource": SOURCE,
        "refId": {"type": "string", "pattern": "^[A-Z]$"},
        "expr": {"type": "string", "minLength": 1},
        "legendFormat": {"type": "string"},
        "instant": {"type": "boolean"},
        "format": {"enum": ["table", "time_series"]},
    },
}
PANEL = {
    "type": "object",
    "required": ["id", "type", "title", "gridPos", "datasource", "targets", "fieldConfig", "options"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "integer", "minimum": 1},
        "type": {"enum": ["timeseries", "stat", "table", "bargauge"]},
        "title": {"type": "string", "minLength": 1},
        "description": {"type": "string"},
        "datasource": SOURCE,
        "gridPos": {
            "type": "object",
            "required": ["x", "y", "w", "h"],
            "properties": {
                "x": {"type": "integer", "minimum": 0, "maximum": 23},
                "y": {"type": "integer", "minimum": 0},
                "w": {"type": "integer", "minimum": 1, "maximum": 24},
                "h": {"type": "integer", "minimum": 1},
            },
        },
        "fieldConfig": {"type": "object", "required": ["defaults", "overrides"]},
        "options": {"type": "object"},
        "targets": {"type": "array", "minItems": 1, "items": TARGET},
    },
}
DASHBOARD = {
    "type": "object",
    "required": ["uid", "title", "schemaVersion", "panels", "time", "refresh"],
    "properties": {
        "uid": {"type": "string", "pattern": "^[a-z-]{1,40}$"},
        "title": {"type": "string", "minLength": 1},
        "schemaVersion": {"const": 41},
        "editable": {"const": False},
        "panels": {"type": "array", "minItems": 1, "items": PANEL},
    },
}


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def queries() -> list[str]:
    """Every query of every panel, over a time that a short test can fill."""
    found = {target["expr"] for path in DASHBOARDS for panel in load(path)["panels"] for target in panel["targets"]}
    return sorted(query.replace("$__rate_interval", "30s") for query in found)


def rule_queries(written: Written) -> dict[str, str]:
    groups = yaml.safe_load(written.text("good", "rules.yml"))["groups"]
    return {rule.get("alert") or rule["record"]: rule["expr"] for group in groups for rule in group["rules"]}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_what_grafana_reads(path: Path) -> None:
    board = load(path)
    jsonschema.validate(board, DASHBOARD)
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for at in (panel["gridPos"] for panel in panels):
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, "two panels lie on each other"
        taken |= cells


def test_the_role_deploys_these_dashboards() -> None:
    variables = yaml.safe_load((ROLE / "vars" / "main.yml").read_text(encoding="utf-8"))
    assert sorted(variables["__monitoring_dashboards"]) == [path.stem for path in DASHBOARDS]
    assert len({load(path)["uid"] for path in DASHBOARDS}) == len(DASHBOARDS)
    assert all(path.stat().st_size < 500_000 for path in DASHBOARDS), "a config of the swarm holds no more"


def test_the_names_in_a_query_are_found() -> None:
    query = 'sum by (a) (rate(x_total{b="c"}[5m])) / on (d) group_left (e) y:z > 3 and time() - label_replace(w, "f", "$1", "g", "(.*)")'
    query += " unless v"
    assert named(query) == {"x_total", "y:z", "w", "v"}


def test_every_metric_is_one_that_an_exporter_declares(written: Written) -> None:
    rules = rule_queries(written)
    known = declared() | {name for name in rules if ":" in name}
    for query in [*queries(), *rules.values()]:
        assert named(query) <= known, query


def test_the_project_s_exporters_give_what_they_declare() -> None:
    copies = exposition.render(backups.metrics(backups.jobs_of((RECORDED / "backup.metrics").read_text(encoding="utf-8")), "manager1"))
    said = "".join([swarm_text(), exposition.render(storage_metrics()), ollama_text(LOADED), copies])
    given = {line.split()[2] for line in said.splitlines() if line.startswith("# TYPE")}
    # Written by main, and read from the kernel: both have tests of their own.
    elsewhere = {
        "llm_storage_collected_timestamp_seconds",
        "llm_storage_nfs_exports",
        "iscsi_portal_group_enabled",
        "iscsi_initiator_logged_in",
    }
    assert own_metrics() - given == elsewhere


# --- on a real Prometheus ---------------------------------------------------------------------------------------------------------
ISCSI = 'iscsi_portal_group_enabled{target="iqn.a",group="tpgt_1"} 1\niscsi_initiator_logged_in{target="iqn.a",initiator="iqn.b"} 1\n'


def exported() -> str:
    """What all exporters say, with the chat service's own metrics by name."""
    chat = "".join(f'{name}{{le="1",route="api",status="200"}} 1\n' for name in sorted(chat_metrics()))
    own = [swarm_text(), exposition.render(storage_metrics()), ollama_text(LOADED), ISCSI, chat]
    parts = [*own, *(path.read_text(encoding="utf-8") for path in sorted(RECORDED.glob("*.metrics")))]
    return "".join(line + "\n" for part in parts for line in part.splitlines() if line and not line.startswith("#"))


def grown(text: str, seconds: float) -> str:
    """The same after a while: what is counted has grown."""
    counted = re.compile(r"^(\w+(?:_total|_bucket|arc_hits|arc_misses|l2_hits|l2_misses))(\{.*\})? (\S+)$", re.MULTILINE)
    return counted.sub(lambda found: f"{found[1]}{found[2] or ''} {float(found[3]) + seconds}", text)


@pytest.fixture(scope="module")
def prometheus(written: Written, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus that has read the exporters for a while, with the role's rules."""
    text, begun, place, port = exported(), time.monotonic(), tmp_path_factory.mktemp("prometheus"), free_port()

    class Exporter(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", exposition.CONTENT_TYPE)
            self.end_headers()
            self.wfile.write(grown(text, time.monotonic() - begun).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Exporter)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    # One that does not answer is what a table of such shows.
    targets = [f"127.0.0.1:{server.server_address[1]}", "127.0.0.1:1"]
    job = {"job_name": "all", "static_configs": [{"targets": targets, "labels": {"node": "gpu1"}}]}
    every = {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "2s"}
    rules = [str(written.place / "good" / "rules.yml")]
    (place / "prometheus.yml").write_text(json.dumps({"global": every, "rule_files": rules, "scrape_configs": [job]}))
    argv = [
        "prometheus",
        f"--config.file={place}/prometheus.yml",
        f"--storage.tsdb.path={place}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (place / "log").open("w") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=30)
            server.shutdown()
            thread.join()
            server.server_close()


def answer(address: str, query: str) -> list[Any] | None:
    """What Prometheus answers; nothing while it does not.

    :raises AssertionError: it does not understand the query.
    """
    url = f"{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(url, timeout=10) as found:
            result: list[Any] = json.load(found)["data"]["result"]
            return result
    except urllib.error.HTTPError as error:
        assert error.code == 503, f"{query}: {error.read().decode()}"
    except OSError:
        pass
    return None


def test_every_panel_shows_data(prometheus: str) -> None:
    empty, deadline = queries(), time.monotonic() + 120
    while empty and time.monotonic() < deadline:
        time.sleep(1)
        empty = [query for query in empty if not answer(prometheus, query)]
    assert empty == []


def test_what_stands_for_nothing_is_no_row_of_its_own(prometheus: str) -> None:
    """``or vector(0)`` has no labels: beside a series that has some it is a second value, and in a table a row without a name."""
    panels = [panel for path in DASHBOARDS for panel in load(path)["panels"]]
    filled = [(panel, target["expr"]) for panel in panels for target in panel["targets"] if "vector(" in target["expr"]]
    assert len(filled) == 3 and not [panel["title"] for panel, _query in filled if panel["type"] == "table"]
    rows = {query: answer(prometheus, query) or [] for _panel, query in filled}
    assert {query: len(found) for query, found in rows.items()} == dict.fromkeys(rows, 1)


def test_every_rule_is_evaluated(prometheus: str, written: Written) -> None:
    deadline, rules = time.monotonic() + 60, []
    while time.monotonic() < deadline and not (rules and all(rule["health"] == "ok" for rule in rules)):
        time.sleep(0.5)
        try:
            with urllib.request.urlopen(f"{prometheus}/api/v1/rules", timeout=10) as found:
                rules = [rule for group in json.load(found)["data"]["groups"] for rule in group["rules"]]
        except OSError:
            continue
    assert {rule["name"]: rule.get("lastError", "") for rule in rules if rule["health"] != "ok"} == {}
    assert {rule["name"] for rule in rules} == set(rule_queries(written))
