# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role would deploy: refused, or accepted by the programs that read it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from ansible.plugins.filter.core import flatten, regex_escape
from ansible.plugins.test.core import match
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._stack.compose import expected_spec
from site_files import BOT, HOOK, PASSWORD, REFUSED, ROLE, ROOT, SITES, Written, tool

STACKS = tuple(SITES)
# Their images have no program that could ask.
UNCHECKED = ("gpu_exporter", "loki", "alloy")
# What each part of Loki's configuration may hold, of what its reference knows; a word it does not know keeps it from starting.
LOKI: dict[str, set[str]] = {
    "analytics": {"reporting_enabled"},
    "server": {"http_listen_port", "log_level"},
    "common": {"path_prefix", "replication_factor", "instance_addr", "ring", "storage"},
    "schema_config": {"configs"},
    "compactor": {"working_directory", "retention_enabled", "delete_request_store"},
    "limits_config": {"retention_period", "reject_old_samples_max_age"},
}


def stack(written: Written, site: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(written.text(site, "stack.json"))
    return found


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_variables_alone_tell_is_refused(written: Written, name: str) -> None:
    assert REFUSED[name][1] in written.output
    assert re.search(rf"refused_{name} : ok=\d+ changed=0 unreachable=0 failed=1 ", written.output)
    assert PASSWORD not in written.output and BOT not in written.output


@pytest.mark.parametrize("site", STACKS)
def test_prometheus_takes_its_configuration_and_its_rules(written: Written, site: str) -> None:
    text = written.text(site, "prometheus.yml").replace("/etc/prometheus/rules.yml", str(written.place / site / "rules.yml"))
    path = written.place / site / "checked.yml"
    path.write_text(text, encoding="utf-8")
    assert "SUCCESS" in tool("promtool", "check", "config", str(path))


@pytest.mark.parametrize("site", STACKS)
def test_alertmanager_takes_its_configuration(written: Written, site: str) -> None:
    said = tool("amtool", "check-config", str(written.place / site / "alertmanager.yml"))
    assert "1 receivers" in said and "3 inhibit rules" in said


def test_every_way_to_tell_is_there_and_says_what_to_do(written: Written) -> None:
    receiver = yaml.safe_load(written.text("good", "alertmanager.yml"))["receivers"][0]
    assert receiver["email_configs"][0]["auth_password"] == PASSWORD
    assert "{{ .Annotations.do }}" in receiver["email_configs"][0]["text"]
    assert receiver["telegram_configs"][0]["chat_id"] == -100200
    assert receiver["webhook_configs"][0]["url"] == HOOK
    assert list(yaml.safe_load(written.text("plain", "alertmanager.yml"))["receivers"][0]) == ["name"]


def test_blackbox_exporter_takes_its_modules() -> None:
    assert "Config file is ok" in tool("prometheus-blackbox-exporter", "--config.check", f"--config.file={ROLE / 'files' / 'blackbox.yml'}")


@pytest.mark.parametrize("site", STACKS)
def test_the_stack_has_nothing_whose_drift_would_not_be_seen(written: Written, site: str) -> None:
    for name, service in stack(written, site)["services"].items():
        expected_spec(name, service, lambda _kind, wanted: wanted)


@pytest.mark.parametrize("site", STACKS)
def test_services_are_bounded_checked_and_roll(written: Written, site: str) -> None:
    for name, service in stack(written, site)["services"].items():
        deploy = service["deploy"]
        assert set(deploy["resources"]["limits"]) == {"memory", "pids"}, name
        assert deploy["update_config"]["failure_action"] == "rollback", name
        assert deploy["endpoint_mode"] == "dnsrr" and service["cap_drop"] == ["ALL"], name
        assert service["logging"]["options"]["max-size"] == "10m", name
        assert service["healthcheck"]["test"][0] == ("NONE" if name in UNCHECKED else "CMD"), name
        assert re.search(r":v?[0-9]|@sha256:", service["image"]), f"{name} is not pinned"
        assert ":latest" not in service["image"]


@pytest.mark.parametrize("site", STACKS)
def test_nothing_is_published_unless_it_is_asked_for(written: Written, site: str) -> None:
    published = {name: service["ports"] for name, service in stack(written, site)["services"].items() if service.get("ports")}
    if site in ("published", "acme"):
        assert published == {"grafana": [{"target": 3000, "published": 3000, "protocol": "tcp", "mode": "host"}]}
        environment = stack(written, site)["services"]["grafana"]["environment"]
        assert environment["GF_SERVER_PROTOCOL"] == "https", "a password must not cross the network in the clear"
    else:
        assert published == {}


def test_the_engine_s_socket_is_reached_by_its_two_readers_alone(written: Written) -> None:
    services = stack(written, "good")["services"]
    assert sorted(name for name, one in services.items() if "monitoring_api" in one["networks"]) == [
        "prometheus",
        "socket_proxy",
        "swarm_monitor",
    ]
    assert services["socket_proxy"]["networks"] == ["monitoring_api"]
    assert [name for name, one in services.items() if "docker.sock" in str(one.get("volumes"))] == ["socket_proxy"]


def test_passwords_and_tokens_are_in_secrets_and_nowhere_else(written: Written) -> None:
    for name in ("stack.json", "configs.json", "prometheus.yml", "storage.json"):
        assert not any(secret in written.text("good", name) for secret in (PASSWORD, BOT, HOOK)), name
    names = {secret["name"] for secret in json.loads(written.text("good", "secrets.json"))}
    assert names == {"alertmanager_yml", "grafana_password", "status_password"}


def test_without_a_password_grafana_has_one_that_is_made_and_kept_on_the_manager(written: Written) -> None:
    given = {site: {one["name"]: one for one in json.loads(written.text(site, "secrets.json"))}["grafana_password"] for site in STACKS}
    assert given["good"] == {"name": "grafana_password", "content": PASSWORD}
    assert given["published"] == {"name": "grafana_password", "file": "/var/lib/llm-stack/monitoring/grafana/admin-password"}
    (made,) = [task for task in yaml.safe_load((ROLE / "tasks" / "install.yml").read_text()) if "ansible.builtin.copy" in task]
    assert made["no_log"] is True and made["ansible.builtin.copy"]["force"] is False, "it is shown nowhere, and made once"
    assert made["ansible.builtin.copy"]["mode"] == "0600"


def switched(name: str) -> dict[str, list[bool]]:
    """Whether each file that reads a switch takes one that nobody gave, or gave empty, for on."""
    places = [*ROOT.glob("playbooks/**/*.yml"), *ROOT.glob("roles/*/vars/*.yml"), *ROOT.glob("roles/*/templates/*.j2")]
    found = {
        path: re.findall(rf"\b{name} \| default\(([^)]*)\)(?: in (\[none, ''\]))?", path.read_text(encoding="utf-8")) for path in places
    }
    return {
        str(path.relative_to(ROOT)): [each == ("''", "[none, '']") for each in all_of_it] for path, all_of_it in found.items() if all_of_it
    }


@pytest.mark.parametrize("name", ["llm_stack_monitoring", "llm_stack_backup"])
def test_monitoring_and_backups_are_on_wherever_the_switch_is_read(name: str) -> None:
    found = switched(name)
    assert all(all(each) for each in found.values()), found
    assert len(found) >= 4
    lab = yaml.safe_load((ROOT / "inventories" / "lab" / "group_vars" / "all.yml").read_text(encoding="utf-8"))
    assert lab["llm_stack_monitoring"] is False, "the lab cannot pull the images"


@pytest.mark.parametrize("site", STACKS)
def test_every_config_and_secret_a_service_names_is_given(written: Written, site: str) -> None:
    services = stack(written, site)["services"].values()
    for kind in ("configs", "secrets"):
        used = {one["source"] for service in services for one in service.get(kind, [])}
        assert used <= {one["name"] for one in json.loads(written.text(site, f"{kind}.json"))}
    networks = {network for service in services for network in service["networks"]}
    assert networks == set(stack(written, site)["networks"])


def test_what_does_not_exist_is_not_watched(written: Written) -> None:
    jobs = {job["job_name"] for job in yaml.safe_load(written.text("good", "prometheus.yml"))["scrape_configs"]}
    fewer = {job["job_name"] for job in yaml.safe_load(written.text("plain", "prometheus.yml"))["scrape_configs"]}
    assert jobs - fewer == {"gpu_exporter", "chat", "chroma", "ollama", "storage", "loki", "alloy", "edge"}
    assert set(stack(written, "good")["services"]) - set(stack(written, "plain")["services"]) == {"gpu_exporter", "ollama", "loki", "alloy"}
    sources = [[one["name"] for one in yaml.safe_load(written.text(site, "sources.yml"))["datasources"]] for site in ("good", "plain")]
    assert sources == [["Prometheus", "Alertmanager", "Loki"], ["Prometheus", "Alertmanager"]]


def test_the_autoscaler_is_watched_where_it_runs(written: Written) -> None:
    jobs = {site: [job["job_name"] for job in yaml.safe_load(written.text(site, "prometheus.yml"))["scrape_configs"]] for site in STACKS}
    assert [site for site, names in jobs.items() if "autoscaler" in names] == ["published"]


# Whose data is in a directory of the manager that the role runs on.
KEEPING = {"prometheus", "alertmanager", "grafana", "swarm_monitor", "loki"}


@pytest.mark.parametrize("site", STACKS)
def test_what_keeps_data_is_placed_on_the_node_the_role_runs_on(written: Written, site: str) -> None:
    """With several managers the swarm would start it wherever fewer tasks run, and there its directory is missing."""
    services = stack(written, site)["services"]
    keeping = {name for name, one in services.items() if "/var/lib/llm-stack/monitoring/" in str(one.get("volumes"))}
    assert keeping == KEEPING & set(services)
    node = "pending" if site == "plain" else "node1"
    assert {str(services[name]["deploy"]["placement"]["constraints"]) for name in keeping} == {f"['node.id == {node}']"}
    rest = {name: one["deploy"]["placement"]["constraints"] for name, one in services.items() if name not in KEEPING}
    assert not [name for name, constraints in rest.items() if "node.id" in str(constraints)]


def test_what_keeps_no_data_is_placed_as_it_is_told(written: Written) -> None:
    found = {name: one["deploy"]["placement"]["constraints"] for name, one in stack(written, "plain")["services"].items()}
    assert found["blackbox"] == ["node.labels.any == true"]
    assert found["socket_proxy"] == ["node.labels.any == true", "node.role == manager"], "a worker's engine does not know the swarm"
    assert stack(written, "good")["services"]["ollama"]["deploy"]["placement"]["constraints"] == ["node.role == manager"]


def test_the_role_asks_the_engine_before_it_deploys() -> None:
    names = [task["ansible.builtin.import_tasks"] for task in yaml.safe_load((ROLE / "tasks" / "main.yml").read_text())]
    assert names.index("here.yml") < names.index("configure.yml")
    (ask, see) = yaml.safe_load((ROLE / "tasks" / "here.yml").read_text())
    assert (ask["register"], see["register"]) == ("__monitoring_engine_asked", "__monitoring_acme_found")
    assert "{{.Swarm.NodeID}} {{.DockerRootDir}}" in ask["ansible.builtin.command"]["argv"][-1] and ask["check_mode"] is False


@pytest.mark.parametrize(("site", "root"), [("good", "/var/lib/docker"), ("plain", "/var/lib/docker"), ("acme", "/srv/docker data")])
def test_containers_are_read_where_the_engine_keeps_them(written: Written, site: str, root: str) -> None:
    services = stack(written, site)["services"]
    mounted = {one["source"]: one["target"] for one in services["cadvisor"]["volumes"]}
    # cAdvisor is told by the engine where to look.
    assert mounted[root] == root
    if "alloy" in services:
        logs = {one["source"]: one["target"] for one in services["alloy"]["volumes"] if one["type"] == "bind"}
        assert logs == {f"{root}/containers": "/var/lib/docker/containers"}
        (path,) = re.findall(r'__path__ = "([^"]+)"', (ROLE / "files" / "alloy.alloy").read_text(encoding="utf-8"))
        assert path.startswith("/var/lib/docker/containers/")


def test_where_engines_are_to_keep_their_data_is_known_from_the_inventory(written: Written) -> None:
    assert json.loads(written.text("good", "paths.json")) == {"/srv/docker": ["manager1", "manager2"]}


def test_grafana_gets_the_edge_s_certificate_by_acme_and_its_renewals(written: Written) -> None:
    def given(site: str) -> tuple[str, str]:
        found = [
            {one["name"]: one.get("file") for one in json.loads(written.text(site, f"{kind}.json"))} for kind in ("configs", "secrets")
        ]
        return found[0]["grafana_certificate"], found[1]["grafana_tls_key"]

    live = "/etc/letsencrypt/live/llm-edge"
    assert given("acme") == (f"{live}/fullchain.pem", f"{live}/privkey.pem")
    services = stack(written, "acme")["services"]
    assert services["grafana"]["deploy"]["labels"] == {"llm-stack.certificate": "acme"}
    assert not [name for name, one in services.items() if name != "grafana" and "labels" in one["deploy"]]
    # A certificate of its own is not replaced by another one's renewal.
    assert given("published") == ("/etc/ssl/own.crt", "/etc/ssl/own.key")
    assert "labels" not in stack(written, "published")["services"]["grafana"]["deploy"]


def test_backups_of_every_manager_are_asked_for(written: Written) -> None:
    service = stack(written, "good")["services"]["backups"]
    assert (service["deploy"]["mode"], service["deploy"]["placement"]["constraints"]) == ("global", ["node.role == manager"])
    # The folder itself is missing on a manager without backups, and would keep the service from starting there.
    assert service["volumes"] == [{"type": "bind", "source": "/var/lib", "target": "/host", "read_only": True}]
    assert service["environment"] == {"FOLDER": "/host/prometheus/node-exporter", "NODE": "{{.Node.Hostname}}"}
    jobs = {job["job_name"]: job for job in yaml.safe_load(written.text("good", "prometheus.yml"))["scrape_configs"]}
    assert [name for name, job in jobs.items() if job.get("honor_labels")] == ["backups"], "they carry the name of their host"
    assert jobs["backups"]["dockerswarm_sd_configs"][0]["port"] == 9777
    backup = (ROOT / "roles" / "storage_backup" / "files" / "llm-backup").read_text(encoding="utf-8")
    assert 'TEXTFILES = Path("/var/lib/prometheus/node-exporter")' in backup


def test_a_declared_backup_that_nobody_tells_of_is_an_alert(written: Written) -> None:
    def asked(site: str) -> list[str]:
        rules = [rule for group in yaml.safe_load(written.text(site, "rules.yml"))["groups"] for rule in group["rules"]]
        return [rule["expr"] for rule in rules if rule.get("alert") == "BackupNotSeen"]

    first, second = 'instance="manager2", job_name="state"', 'instance="storage1", job_name="data"'
    assert asked("good") == [f"absent(llm_backup_max_age_seconds{{{first}}})\nor absent(llm_backup_max_age_seconds{{{second}}})"]
    assert asked("plain") == [], "no backups, nothing to be seen"
    assert PASSWORD not in written.text("good", "rules.yml")


def test_loki_s_configuration_has_retention_and_no_unknown_word(written: Written) -> None:
    found = yaml.safe_load(written.text("good", "loki.yml"))
    assert found.pop("auth_enabled") is False
    assert set(found) == set(LOKI)
    for part, names in LOKI.items():
        assert set(found[part]) <= names, part
    assert found["limits_config"]["retention_period"] == "336h"
    # Retention without these two is none, and the delete store is a requirement of its own.
    assert found["compactor"]["retention_enabled"] is True
    (schema,) = found["schema_config"]["configs"]
    assert found["compactor"]["delete_request_store"] == schema["object_store"] == "filesystem"
    assert (schema["store"], schema["schema"], schema["index"]["period"]) == ("tsdb", "v13", "24h")
    directories = [
        found["common"]["path_prefix"],
        found["compactor"]["working_directory"],
        *found["common"]["storage"]["filesystem"].values(),
    ]
    assert all(path.startswith("/loki") for path in directories), "nothing else can be written"


def test_alloy_s_components_lead_from_files_to_loki(written: Written) -> None:
    text = re.sub(r"^\s*//.*$", "", (ROLE / "files" / "alloy.alloy").read_text(encoding="utf-8"), flags=re.MULTILINE)
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', text)
    for opened, closed in ("{}", "[]", "()"):
        assert bare.count(opened) == bare.count(closed)
    made = {f"{kind}.{name}" for kind, name in re.findall(r'^([a-z_.]+) "(\w+)" \{$', text, re.MULTILINE)}
    assert made == {"local.file_match.containers", "loki.source.file.containers", "loki.process.containers", "loki.write.loki"}
    used = set(re.findall(r"((?:local|loki)\.[a-z_.]+?)\.(?:receiver|targets)\b", text))
    assert used == made - {"loki.source.file.containers"}
    service = stack(written, "good")["services"]["alloy"]
    assert service["logging"]["options"]["labels"] == "com.docker.swarm.service.name"
    # Docker fills it in, not Ansible.
    assert service["environment"] == {"NODE": "{{.Node.Hostname}}"}
    monitor = stack(written, "good")["services"]["swarm_monitor"]["environment"]
    assert (monitor["STORAGE"], monitor["BACKUPS"]) == (
        "storage1=192.0.2.11:9100 storage2=[fd00::12]:9100 storage3.example.org=storage3.example.org:9100 storage4=192.0.2.14:9100",
        "backups:9777",
    )
    assert "docker.sock" not in str(service["volumes"]) and all(one.get("read_only") for one in service["volumes"] if one["type"] == "bind")


def test_targets_follow_from_the_inventory(written: Written) -> None:
    jobs = {job["job_name"]: job for job in yaml.safe_load(written.text("good", "prometheus.yml"))["scrape_configs"]}
    assert jobs["storage"]["static_configs"] == [
        {"targets": [address], "labels": {"instance": name, "node": name}}
        for name, address in (
            ("storage1", "192.0.2.11:9100"),
            ("storage2", "[fd00::12]:9100"),
            ("storage3.example.org", "storage3.example.org:9100"),
            ("storage4", "192.0.2.14:9100"),
        )
    ]
    assert jobs["certificates"]["static_configs"][0]["targets"] == [
        *("192.0.2.21:443", "manager2:443", "192.0.2.21:5000"),
        *("192.0.2.11:8443", "[fd00::12]:9443", "storage3.example.org:8443"),
    ]
    assert jobs["edge"]["static_configs"][0]["targets"] == [f"https://{name}:443/health" for name in ("192.0.2.21", "manager2")]


def test_edges_that_are_not_on_the_managers_are_watched_where_they_are_named(written: Written) -> None:
    def targets(site: str, job: str) -> list[str]:
        jobs = {job["job_name"]: job for job in yaml.safe_load(written.text(site, "prometheus.yml"))["scrape_configs"]}
        return list(jobs[job]["static_configs"][0]["targets"]) if job in jobs else []

    assert targets("published", "edge") == ["https://192.0.2.31:443/health"]
    assert targets("published", "certificates")[:2] == ["192.0.2.31:443", "192.0.2.21:5000"]
    assert targets("plain", "edge") == [], "nobody knows which managers have the label"
    assert targets("plain", "certificates")[0] == "192.0.2.21:5000"


def test_readers_that_are_known_by_a_name_are_let_in_by_their_addresses(written: Written) -> None:
    files = {one["path"]: one["content"] for one in json.loads(written.text("published", "storage.json"))}
    unit = next(text for path, text in files.items() if path.endswith("10-llm-stack.conf"))
    assert "IPAddressDeny=any\nIPAddressAllow=localhost 192.0.2.11 192.0.2.9 192.0.2.22 fd00::2\n" in unit


def test_what_a_day_may_cost_is_the_fleet_s_budget_where_nothing_else_is_said(written: Written) -> None:
    for site, limit in (("good", "90.0"), ("published", "180.0")):
        assert f"llm_fleet_cost_today > {limit}" in written.text(site, "rules.yml"), site


def test_limits_that_are_quoted_are_numbers(written: Written) -> None:
    quoted = {
        rule.get("alert"): str(rule["expr"])
        for group in yaml.safe_load(written.text("short", "rules.yml"))["groups"]
        for rule in group["rules"]
    }
    assert quoted["ZfsScrubOverdue"].endswith(f"> {40 * 8640}")
    assert quoted["ZfsPoolFilling"].endswith("> 0.8")
    assert quoted["SmartHot"].endswith("> 55.0")
    assert quoted["FleetBudget"].endswith("> 90.0")


@pytest.mark.parametrize("path", ["monitoring/tasks/configure.yml", "autoscaler/tasks/configure.yml", "llm_services/tasks/chat.yml"])
def test_an_image_is_found_whatever_the_registry_s_address_is(path: str) -> None:
    """Brackets of an address of IPv6 are no part of a pattern."""
    ((text, name),) = re.findall(
        r"\{\{ (\w+\.images[^{}]*?RepoDigests[^{}]*?'(/llm/[a-z-]+@)'[^{}]*?) \}\}", (ROOT / "roles" / path).read_text(encoding="utf-8")
    )
    made = jinja2.Environment()
    made.filters.update(regex_escape=regex_escape, flatten=flatten)
    made.tests["match"] = match
    for address in ("[fd00::1]:5000", "192.0.2.21:5000"):
        digests = [f"192x0.2.21:5000{name}sha256:0", f"{address}{name}sha256:1"]
        found = made.compile_expression(text)(registry_address=address, **{text.partition(".")[0]: {"images": [{"RepoDigests": digests}]}})
        assert (found[0] if isinstance(found, list) else found) == f"{address}{name}sha256:1"


def test_the_usual_snapshots_are_known_from_the_role_that_takes_them() -> None:
    (task,) = [one for one in yaml.safe_load((ROLE / "tasks" / "storage.yml").read_text()) if "ansible.builtin.include_vars" in one]
    path = Path(task["ansible.builtin.include_vars"]["file"].replace("{{ role_path }}", str(ROLE)))
    assert "__storage_host_snapshots_usual" in yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_exporter_of_a_storage_host_answers_to_the_managers_alone(written: Written) -> None:
    files = {one["path"]: one["content"] for one in json.loads(written.text("good", "storage.json"))}
    unit = next(text for path, text in files.items() if path.endswith("10-llm-stack.conf"))
    assert "IPAddressDeny=any\nIPAddressAllow=localhost 192.0.2.11 192.0.2.21\n" in unit
    assert "--web.listen-address=192.0.2.11:9100" in unit
    assert "mount-points-exclude=^/(dev|proc|run|sys)($$|/) " in unit, "what is mounted below /mnt is watched"
    assert "unit-include=(nfs-server|rtslib-fb-targetctl|zfs-zed)\\\\.service" in unit
    told = json.loads(files["/etc/llm-stack/monitoring/storage.json"])
    assert (told["snapshots"], told["pools"], told["targets"]) == ([{"dataset": "llm/data"}], ["llm"], ["iqn.a", "iqn.b"])
    assert told["exports"] == 1
