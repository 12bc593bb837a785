# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A certificate by ACME: the role's commands for certbot, a real authority, the edge that answers it, renewals, and what fails."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import ssl
import subprocess
import time
from typing import Any, Iterator

import jinja2
import jinja2.nativetypes
import pytest
import yaml
from authority import Authority, program, two_free_ports
from loopback import edge_files
from places import Processes
from ports import free_port
from services import ROLE

NAME = "llm.example.test"


class Site:
    """An authority, certbot with directories of its own, and an edge."""

    def __init__(self, processes: Processes) -> None:
        self.place = processes.place / "acme"
        self.place.mkdir()
        self.http, self.https = free_port(), free_port()
        self.authority = Authority(self.place, "127.0.0.1", free_port(), two_free_ports(), edge="127.0.0.1", http=self.http)
        self.live = self.place / "etc" / "live" / "llm-edge"
        self.hook = self.place / "hook"
        spec = importlib.util.spec_from_file_location("edge_certificate", ROLE / "files" / "edge_certificate.py")
        assert spec
        assert spec.loader
        self.program: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.program)
        self.program.ETC = self.place / "etc"

    def command(self, file: str, task: str) -> list[str]:
        """The command of a task of the role, filled in for this place."""
        tasks = yaml.safe_load((ROLE / "tasks" / file).read_text())
        variables: dict[str, Any] = {
            "__llm_services_tls": {"server": self.authority.directory, "domains": [NAME], "email": ""},
            "__llm_services_acme_name": "llm-edge",
            "__llm_services_acme_program": str(self.hook),
            "__llm_services_acme_stacks": ["llm", "monitoring"],
        }
        (found,) = [each for each in tasks if each["name"] == task]
        environment = jinja2.nativetypes.NativeEnvironment(undefined=jinja2.StrictUndefined)
        environment.filters["regex_replace"] = lambda text, _old, new: new + text
        fill = lambda value, more: environment.from_string(str(value)).render(**variables, **more)  # noqa: E731 - used twice, here
        more = {
            name: [fill(each, {}) for each in value] if isinstance(value, list) else fill(value, {})
            for name, value in found["vars"].items()
        }
        made: list[str] = fill(found["ansible.builtin.command"]["argv"], more)
        return made

    def certbot(self, argv: list[str]) -> subprocess.CompletedProcess[str]:
        """Run certbot below this place alone."""
        assert argv[0] == "certbot"
        places = [f"--{name}-dir={self.place / part}" for name, part in (("config", "etc"), ("work", "work"), ("logs", "logs"))]
        environment = {**os.environ, "REQUESTS_CA_BUNDLE": str(self.authority.certificate)}
        whole = [program("certbot"), *argv[1:], *places]
        return subprocess.run(whole, env=environment, capture_output=True, text=True, check=False, timeout=120)

    def edge(self, processes: Processes) -> None:
        """Start the edge with a self-signed certificate, as it is before the first by ACME."""
        place = self.place / "edge"
        place.mkdir()
        changes = {
            "llm_services_engine": "llamacpp",
            "llm_services_tls": {"domains": [NAME]},
            "__llm_services_acme_port": f"127.0.0.1:{self.http}",
            "__llm_services_acme_thumbprint": self.look()["thumbprint"],
            "__llm_services_keys_server": f"127.0.0.1:{free_port()}",
        }
        path = edge_files(place, self.https, 0, f"127.0.0.1:{free_port()}", changes)
        nginx = processes.start("acme-edge", [program("nginx"), "-e", "stderr", "-c", str(path), "-g", "daemon off;"], self.https)
        # In place of the swarm, which replaces the edge: the files go where it reads them.
        lines = [f"cp $RENEWED_LINEAGE/fullchain.pem {place}/tls.crt", f"cp $RENEWED_LINEAGE/privkey.pem {place}/edge_tls_key"]
        self.hook.write_text("\n".join(["#!/bin/sh", 'test "$*" = "roll llm monitoring" || exit 9', *lines, f"kill -HUP {nginx.pid}", ""]))
        self.hook.chmod(0o755)
        self.nginx = nginx

    def look(self) -> dict[str, Any]:
        """What the role's program sees."""
        found: dict[str, Any] = json.loads(json.dumps(self.program.look(self.authority.directory, "llm-edge")))
        return found

    def shown(self) -> str:
        """The certificate that clients get from the edge."""
        return ssl.get_server_certificate(("127.0.0.1", self.https))

    def issued(self) -> str:
        """The newest certificate certbot has, as the edge shows it."""
        return (self.live / "cert.pem").read_text()


@pytest.fixture(scope="module")
def site(processes: Processes) -> Iterator[Site]:
    """All of it, before the first certificate."""
    made = Site(processes)
    try:
        registered = made.certbot(made.command("acme.yml", "Register with the authority"))
        assert registered.returncode == 0, registered.stderr
        made.edge(processes)
        yield made
    finally:
        made.authority.end()


def until_shown(site: Site, certificate: str) -> None:
    """Wait until the edge shows a certificate."""
    for _attempt in range(600):
        if site.shown().strip() == certificate.strip():
            return
        time.sleep(0.1)
    raise AssertionError("the edge does not show the certificate that certbot has")


def test_an_account_has_a_thumbprint_and_no_certificate_yet(site: Site) -> None:
    seen = site.look()
    assert len(seen["thumbprint"]) == 43
    assert (seen["domains"], seen["server"]) == ([], "")


def test_the_authority_believes_the_edge_and_the_edge_gets_the_certificate(site: Site) -> None:
    asked = site.certbot(site.command("certificate.yml", "Ask the authority for a certificate"))
    assert asked.returncode == 0, asked.stdout + asked.stderr
    until_shown(site, site.issued())
    seen = site.look()
    assert (seen["domains"], seen["server"]) == ([NAME], site.authority.directory)


def test_the_timer_s_renewal_reaches_the_edge(site: Site) -> None:
    before = site.issued()
    # As the package's timer does it, but for the date.
    renewed = site.certbot(["certbot", "-q", "renew", "--no-random-sleep-on-renew", "--force-renewal"])
    assert renewed.returncode == 0, renewed.stdout + renewed.stderr
    assert site.issued() != before
    until_shown(site, site.issued())


def test_a_certificate_that_is_not_due_is_left_alone(site: Site) -> None:
    before = site.issued()
    assert site.certbot(["certbot", "-q", "renew", "--no-random-sleep-on-renew"]).returncode == 0
    assert site.issued() == before


def test_a_name_that_does_not_lead_to_the_edge_is_refused_and_the_old_certificate_stays(site: Site) -> None:
    before, path = site.issued(), site.place / "edge" / "nginx.conf"
    right = path.read_text()
    path.write_text(right.replace(site.look()["thumbprint"], "somebody-else-s"))
    site.nginx.send_signal(signal.SIGHUP)
    time.sleep(1)
    try:
        failed = site.certbot(["certbot", "renew", "--no-random-sleep-on-renew", "--force-renewal"])
    finally:
        path.write_text(right)
        site.nginx.send_signal(signal.SIGHUP)
    assert failed.returncode != 0
    assert "unauthorized" in failed.stdout + failed.stderr
    assert site.issued() == before
    until_shown(site, before)


def test_an_authority_that_is_away_changes_nothing(site: Site) -> None:
    before = site.issued()
    site.authority.end()
    assert site.certbot(["certbot", "-q", "renew", "--no-random-sleep-on-renew", "--force-renewal"]).returncode != 0
    assert site.issued() == before
    until_shown(site, before)
