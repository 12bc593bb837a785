# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program between certbot and the edge."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._stack.lock import PLACE, take

sys.path.insert(0, str(Path(__file__).resolve().parent))

from services import ROLE, stack

SERVER = "https://ca.test:14000/dir"
# The key and the thumbprint of RFC 7638, section 3.1.
RFC_KEY = {
    "kty": "RSA",
    "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W"
    "-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt"
    "-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
    "e": "AQAB",
    "alg": "RS256",
    "kid": "2011-04-29",
}
RFC_THUMBPRINT = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


@pytest.fixture
def program(tmp_path: Path) -> ModuleType:
    """The program, with a directory of certbot's for the test alone."""
    spec = importlib.util.spec_from_file_location("edge_certificate", ROLE / "files" / "edge_certificate.py")
    assert spec
    assert spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    made.ETC = tmp_path  # type: ignore[attr-defined]
    return made


def test_the_thumbprint_is_that_of_the_standard(program: ModuleType) -> None:
    assert program.thumbprint(RFC_KEY) == RFC_THUMBPRINT


def test_without_an_account_and_a_certificate_it_says_so(program: ModuleType) -> None:
    assert program.look(SERVER, "llm-edge") == {"thumbprint": "", "domains": [], "server": ""}


def test_account_names_and_authority_are_found(program: ModuleType, tmp_path: Path) -> None:
    account, live, renewal = tmp_path / "accounts/ca.test:14000/dir/1234", tmp_path / "live/llm-edge", tmp_path / "renewal"
    for place in (account, live, renewal):
        place.mkdir(parents=True)
    (account / "private_key.json").write_text(json.dumps(RFC_KEY))
    (renewal / "llm-edge.conf").write_text(f"[renewalparams]\nserver = {SERVER}\n")
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x", "-keyout"]
    names = ["-addext", "subjectAltName=DNS:b.test,DNS:a.test"]
    subprocess.run([*request, str(live / "privkey.pem"), "-out", str(live / "cert.pem"), *names], check=True, capture_output=True)
    assert program.look(SERVER, "llm-edge") == {"thumbprint": RFC_THUMBPRINT, "domains": ["a.test", "b.test"], "server": SERVER}


class Swarm:
    """Answers as the docker command does, and remembers what it was asked."""

    def __init__(self, certificate: str, key: str, *, services: str = "llm_balancer\nllm_edge\n") -> None:
        self.services = services
        configs = [{"ConfigName": "llm_edge_conf_1", "File": {"Name": "/etc/nginx/nginx.conf"}}]
        configs.append({"ConfigName": certificate, "File": {"Name": "/etc/nginx/tls.crt"}})
        secrets = [{"SecretName": key, "File": {"Name": "edge_tls_key"}}]
        task = {"ContainerSpec": {"Configs": configs, "Secrets": secrets}}
        self.spec: list[dict[str, Any]] = [{"Spec": {"Labels": {"llm-stack.certificate": "acme"}, "TaskTemplate": task}}]
        self.spec[0]["PreviousSpec"] = {"TaskTemplate": {"ContainerSpec": {"Configs": [{"ConfigName": "llm_edge_conf_0"}]}}}
        self.asked: list[list[str]] = []
        self.texts: dict[str, str] = {}

    def __call__(self, argv: list[str], text: str | None = None) -> str:
        self.asked.append(argv)
        if argv[2] == "create":
            self.texts[argv[-2]] = str(text)
        if argv[1:3] == ["config", "ls"] and argv[-1].startswith("--filter"):
            return "llm_edge_conf_gone\nllm_edge_conf_0\nllm_edge_conf_1\n"
        if argv[1:3] == ["service", "ls"] and "--format" in argv:
            return self.services if f"stack.namespace={self.services.partition('_')[0]}" in argv[-1] else ""
        return json.dumps(self.spec) if argv[1:3] == ["service", "inspect"] else ""


def named(kind: str, text: str) -> str:
    """The name that the role's module gives it."""
    return f"llm_{kind}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@pytest.fixture
def lineage(tmp_path: Path) -> Path:
    (tmp_path / "fullchain.pem").write_text("the certificate\n")
    (tmp_path / "privkey.pem").write_text("the key\n")
    return tmp_path


def test_a_new_certificate_takes_the_place_of_the_old_one(program: ModuleType, lineage: Path, monkeypatch: Any) -> None:
    swarm = Swarm("llm_edge_certificate_old", "llm_edge_tls_key_old")
    monkeypatch.setattr(program, "run", swarm)
    assert program.roll("llm", lineage) == "llm_edge has a new certificate"
    certificate, key = named("edge_certificate", "the certificate\n"), named("edge_tls_key", "the key\n")
    assert swarm.texts == {certificate: "the certificate\n", key: "the key\n"}
    (updated,) = [argv for argv in swarm.asked if argv[1:3] == ["service", "update"]]
    assert updated == [
        *("docker", "service", "update", "--quiet", "--detach=false"),
        *("--config-rm=llm_edge_certificate_old", f"--config-add=source={certificate},target=/etc/nginx/tls.crt"),
        *("--secret-rm=llm_edge_tls_key_old", f"--secret-add=source={key},target=edge_tls_key,mode=0400", "llm_edge"),
    ]
    # What is neither in use now nor was before is gone; the role's next run has nothing to do.
    assert [argv[1:] for argv in swarm.asked if argv[2] == "rm"] == [["config", "rm", "llm_edge_conf_gone"]]
    # The key is in no argument.
    assert "the key" not in json.dumps(swarm.asked)


def test_the_same_certificate_changes_nothing(program: ModuleType, lineage: Path, monkeypatch: Any) -> None:
    swarm = Swarm(named("edge_certificate", "the certificate\n"), named("edge_tls_key", "the key\n"))
    monkeypatch.setattr(program, "run", swarm)
    assert program.roll("llm", lineage) == "llm_edge has this certificate already"
    assert [argv[1:3] for argv in swarm.asked] == [["service", "ls"], ["service", "inspect"]]


def test_a_renewal_waits_for_a_deployment_of_the_stack(program: ModuleType, lineage: Path, tmp_path: Path, monkeypatch: Any) -> None:
    # What a deployment has made and no service has yet looks like what is no longer used: it was removed here.
    swarm = Swarm("llm_edge_certificate_old", "llm_edge_tls_key_old")
    monkeypatch.setattr(program, "run", swarm)
    monkeypatch.setenv("RENEWED_LINEAGE", str(lineage))
    assert program.LOCK == PLACE
    monkeypatch.setattr(program, "LOCK", tmp_path)
    monkeypatch.setattr(program, "PATIENCE", 0)
    deployment = take("llm", place=tmp_path)
    with pytest.raises(SystemExit, match="Stack llm is being changed by another program"):
        program.main(["roll", "llm"])
    assert swarm.asked == []
    os.close(deployment)
    program.main(["roll", "llm"])
    assert ["docker", "service", "update"] in [argv[:3] for argv in swarm.asked]
    # And it lets go.
    os.close(take("llm", place=tmp_path, seconds=0))


def test_a_certificate_of_the_operator_s_own_is_left_alone(program: ModuleType, lineage: Path, monkeypatch: Any) -> None:
    # certbot renews what it once got, also where llm_services_tls names another certificate now.
    swarm = Swarm("llm_edge_certificate_mine", "llm_edge_tls_key_mine")
    del swarm.spec[0]["Spec"]["Labels"]
    monkeypatch.setattr(program, "run", swarm)
    assert program.roll("llm", lineage) == "llm_edge is to have another certificate than certbot's"
    assert [argv[1:3] for argv in swarm.asked] == [["service", "ls"], ["service", "inspect"]]


def test_before_the_first_certificate_there_is_nothing_to_do(program: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
    swarm = Swarm("llm_edge_certificate_old", "llm_edge_tls_key_old")
    monkeypatch.setattr(program, "run", swarm)
    assert program.roll("llm", tmp_path / "live") == f"{tmp_path / 'live'} holds no certificate yet"
    assert swarm.asked == []


def test_the_role_marks_the_edge_as_certbot_s_and_its_timer_runs_the_program(program: ModuleType) -> None:
    assert stack(llm_services_tls={"domains": ["llm.test"]})["services"]["edge"]["deploy"]["labels"] == {program.GIVEN: "acme"}
    assert "labels" not in stack(llm_services_tls={"certificate": "/x", "key": "/y"})["services"]["edge"]["deploy"]
    tasks = yaml.safe_load((ROLE / "tasks" / "acme.yml").read_text())
    files = [file for task in tasks for file in task.get("selfhosted.llm_stack.host_files", {}).get("files", [])]
    assert [file["content"].splitlines()[-1] for file in files][1:] == [
        "ExecStartPost={{ __llm_services_acme_program }} roll {{ __llm_services_acme_stacks | join(' ') }}"
    ]
    internal = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())
    watched = yaml.safe_load((ROLE.parent / "monitoring" / "vars" / "main.yml").read_text())
    assert internal["__llm_services_acme_stacks"] == [internal["__llm_services_stack"], watched["__monitoring_stack"]]


def grafana(certificate: str, key: str) -> Swarm:
    """A swarm whose Grafana has a certificate of certbot's."""
    swarm = Swarm("", "", services="monitoring_grafana\nmonitoring_prometheus\n")
    files = {"/etc/grafana/tls.crt": certificate}
    container = {
        "Configs": [{"ConfigName": name, "File": {"Name": path}} for path, name in files.items()],
        "Secrets": [{"SecretName": key, "File": {"Name": "grafana_tls_key"}}],
    }
    swarm.spec = [{"Spec": {"Labels": {"llm-stack.certificate": "acme"}, "TaskTemplate": {"ContainerSpec": container}}}]
    return swarm


def test_a_renewal_gives_grafana_the_certificate_too(
    program: ModuleType, lineage: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    swarm = grafana("monitoring_grafana_certificate_old", "monitoring_grafana_tls_key_old")
    monkeypatch.setattr(program, "run", swarm)
    monkeypatch.setattr(program, "LOCK", tmp_path)
    monkeypatch.setenv("RENEWED_LINEAGE", str(lineage))
    # The stack llm is not there: that keeps nobody else from getting the certificate.
    program.main(["roll", "llm", "monitoring"])
    assert capsys.readouterr().out == "The stack llm has no service for a certificate\nmonitoring_grafana has a new certificate\n"
    certificate = named("grafana_certificate", "the certificate\n").replace("llm_", "monitoring_", 1)
    key = named("grafana_tls_key", "the key\n").replace("llm_", "monitoring_", 1)
    (updated,) = [argv for argv in swarm.asked if argv[1:3] == ["service", "update"]]
    assert updated[5:] == [
        *("--config-rm=monitoring_grafana_certificate_old", f"--config-add=source={certificate},target=/etc/grafana/tls.crt"),
        "--secret-rm=monitoring_grafana_tls_key_old",
        f"--secret-add=source={key},target=grafana_tls_key,uid=472,gid=0,mode=0400",
        "monitoring_grafana",
    ]


def test_grafana_reads_both_where_the_program_puts_them(program: ModuleType) -> None:
    template = (ROLE.parent / "monitoring" / "templates" / "stack.yml.j2").read_text()
    (config, secret) = program.PARTS["grafana"]
    assert f"{{source: {config[1]}, target: {config[3]}}}" in template
    assert f'{{source: {secret[1]}, target: {secret[3]}, uid: "472", gid: "0", mode: 0400}}' in template


def test_one_stack_that_fails_does_not_keep_the_other_s_certificate_back(
    program: ModuleType, lineage: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr(program, "LOCK", tmp_path)
    monkeypatch.setattr(program, "PATIENCE", 0)
    monkeypatch.setenv("RENEWED_LINEAGE", str(lineage))
    monkeypatch.setattr(program, "run", grafana("old", "old"))
    deployment = take("llm", place=tmp_path)
    with pytest.raises(SystemExit, match="Stack llm is being changed by another program"):
        program.main(["roll", "llm", "monitoring"])
    os.close(deployment)
    assert capsys.readouterr().out == "monitoring_grafana has a new certificate\n"


def test_what_docker_refuses_is_said(program: ModuleType) -> None:
    with pytest.raises(SystemExit, match="`sh -c echo no >&2; exit 3` failed: no"):
        program.run(["sh", "-c", "echo no >&2; exit 3"])
