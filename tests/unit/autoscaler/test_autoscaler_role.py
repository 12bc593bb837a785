# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role would deploy, and what it refuses: one run of ansible-playbook for all."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._autoscale.model import Settings, settings_of
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._stack.compose import expected_spec
from autokit import FLEET

pytestmark = pytest.mark.one_core
ROOT = Path(__file__).resolve().parents[3]
ROLE = ROOT / "roles" / "autoscaler"
SECRET, TOKEN = "a-secret-of-the-tests", "a-token-of-the-tests"
GOOD: dict[str, Any] = {
    # How the control node logs in stays there.
    "gpu_fleet": {**FLEET, "cloud": "selectel", "auth": {"password": "the-password-of-the-control-node"}},
    "gpu_workers_min": "1",
    "registry_address": "192.0.2.21:5000",
    "llm_services_parallel": "4",
    "autoscaler_credential": {"auth_url": "https://cloud/identity/v3", "id": "an-id", "secret": SECRET},
    "autoscaler_webhook": {"url": "https://awx/api/v2/job_templates/7/launch/", "token": TOKEN},
}
SITES: dict[str, dict[str, Any]] = {
    "good": {},
    "rich": {
        "swarm_manager_encrypted_overlays": "true",
        "gpu_workers_spare": "1",
        "gpu_workers_budget": "2000",
        "gpu_workers_breaker_limit": "0",
        "autoscaler_scale": {"up": "0.9", "cooldown": "60"},
        "autoscaler_credential": {**GOOD["autoscaler_credential"], "region": "ru-9", "ca": "-----BEGIN CERTIFICATE-----"},
        "autoscaler_constraints": ["node.labels.role == services"],
        "autoscaler_webhook": {},
    },
    "listed": {
        "llm_stack_monitoring": "false",
        "gpu_fleet": {
            **{key: value for key, value in FLEET.items() if key not in ("name_pattern", "count")},
            "servers": [{"name": "gpu1"}],
        },
        "gpu_workers_min": "",
        "gpu_workers_budget": 0,
        "gpu_workers_breaker_limit": None,
        "gpu_workers_breaker_window": None,
        "gpu_workers_breaker_rest": "",
    },
}
SITES["listed"]["gpu_fleet"]["allow_data_loss"] = []
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "fleet": ({"gpu_fleet": {}}, "gpu_fleet declares no servers, so there is nothing to bring back or to scale."),
    "credential": ({"autoscaler_credential": {"id": "x"}}, "autoscaler_credential lacks auth_url, secret. Make an application credential"),
    "least": ({"gpu_workers_min": 4}, "gpu_workers_min is 4, and gpu_fleet declares 3 servers, the most there may be."),
    "none": ({"gpu_workers_min": "-1"}, "gpu_workers_min is -1, and gpu_fleet declares 3 servers"),
    "loss": (
        {"gpu_fleet": {**FLEET, "allow_data_loss": ["gpu2"]}},
        "gpu_fleet.allow_data_loss does not name gpu1, gpu3. Name them, or set gpu_workers_min to 3.",
    ),
    "limits": ({"autoscaler_scale": {"up": 0.3, "down": 0.5}}, "It has up and down (0 < down < up < 1"),
    "unknown": ({"autoscaler_scale": {"upper": 0.3}}, "and cooldown in seconds (1 or more), and nothing else."),
    "times": ({"autoscaler_scale": {"cooldown": 0}}, "and cooldown in seconds (1 or more)"),
    "webhook": ({"autoscaler_webhook": {"url": "awx"}}, "autoscaler_webhook needs url, an address that begins with http:// or https://."),
}
TEXTS = {
    "stack": "{{ __autoscaler_compose }}",
    "secrets": "{{ __autoscaler_secrets }}",
    "sources": "{{ __autoscaler_sources | map(attribute='path') | list }}",
    "version": "{{ __autoscaler_version }}",
}
TASKS: list[dict[str, Any]] = [
    {"ansible.builtin.include_role": {"name": "selfhosted.llm_stack.autoscaler", "tasks_from": "options", "public": True}},
    {
        "ansible.builtin.copy": {"content": "{{ __texts | to_json }}", "dest": "{{ place }}/{{ inventory_hostname }}.json"},
        # Known to the tasks of a role, and this is one after them.
        "vars": {"__texts": TEXTS, "role_path": str(ROLE)},
    },
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Write the files of every site, and try what is refused; return the place and the output."""
    place = tmp_path_factory.mktemp("autoscaler")
    common = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "place": str(place)}
    hosts = {name: {**GOOD, **more} for name, more in SITES.items()}
    hosts.update({f"refused_{name}": {**GOOD, **more} for name, (more, _text) in REFUSED.items()})
    (place / "hosts.json").write_text(json.dumps({"all": {"children": {"sites": {"hosts": hosts, "vars": common}}}}))
    (place / "play.json").write_text(json.dumps([{"hosts": "sites", "gather_facts": False, "tasks": TASKS}]))
    (place / "templates").symlink_to(ROLE / "templates")
    collections = ROOT / "build" / "collections"
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(collections), "ANSIBLE_NOCOLOR": "1", "COLUMNS": "200"}
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "hosts.json", "play.json"]
    ended = subprocess.run(argv, cwd=place, env=environment, capture_output=True, text=True, check=False)
    for name in SITES:
        assert (place / f"{name}.json").exists(), ended.stdout[-6000:] + ended.stderr
    return place, " ".join(ended.stdout.split())


def texts(written: tuple[Path, str], site: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((written[0] / f"{site}.json").read_text())
    return found


def settings(written: tuple[Path, str], site: str) -> Settings:
    """What the service reads of the secrets that the role makes."""
    secrets = {one["name"]: one["content"] for one in texts(written, site)["secrets"]}
    secrets = {name: content if isinstance(content, str) else json.dumps(content) for name, content in secrets.items()}
    return settings_of(secrets["autoscaler"], secrets["autoscaler_credential"], owner="autoscaler")


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_variables_alone_tell_is_refused(written: tuple[Path, str], name: str) -> None:
    assert REFUSED[name][1] in written[1]
    assert re.search(rf"refused_{name} : ok=\d+ changed=0 unreachable=0 failed=1 ", written[1])
    assert SECRET not in written[1] and TOKEN not in written[1]


def test_the_service_reads_what_the_role_writes(written: tuple[Path, str]) -> None:
    found = settings(written, "good")
    assert (found.scale.least, found.scale.most, found.scale.up, found.scale.down, found.slots) == (1, 3, 0.85, 0.3, 4)
    assert found.options["auth"]["application_credential_secret"] == SECRET
    assert found.options["auth"]["password"] is None and found.options["cloud"] is None
    assert [slot.name for slot in found.desired.slots] == ["gpu1", "gpu2", "gpu3"]
    assert (found.options["ssh_host_key"], found.options["budget"], found.options["rotate_before"]) == (True, None, 0.0)
    assert (found.webhook["token"], found.prometheus) == (TOKEN, "prometheus:9090")


def test_settings_given_as_text_are_read_as_what_they_are(written: tuple[Path, str]) -> None:
    found = settings(written, "rich")
    assert [slot.name for slot in found.desired.slots] == ["gpu1", "gpu2", "gpu3", "gpu4"]
    assert (found.scale.least, found.scale.most, found.scale.up, found.scale.cooldown) == (1, 3, 0.9, 60)
    assert (found.options["budget"], found.options["breaker_limit"], found.options["region_name"]) == (2000.0, 0, "ru-9")
    assert (found.options["ca_cert"], found.prometheus) == ("/run/secrets/autoscaler_ca", "prometheus:9090")


def test_without_a_least_number_all_that_are_declared_are_wanted(written: tuple[Path, str]) -> None:
    found = settings(written, "listed")
    assert (found.scale.least, found.scale.most) == (1, 1)
    assert found.options["budget"] == 0.0


@pytest.mark.parametrize("site", SITES)
def test_services_are_bounded_checked_and_no_more_than_they_need(written: tuple[Path, str], site: str) -> None:
    stack = texts(written, site)["stack"]
    assert set(stack["services"]) == {"guard", "autoscaler"}
    for name, service in stack["services"].items():
        expected_spec(name, service, lambda _kind, wanted: wanted)
        deploy = service["deploy"]
        assert set(deploy["resources"]["limits"]) == {"memory", "pids"}
        assert (service["read_only"], service["cap_drop"], deploy["endpoint_mode"], deploy["replicas"]) == (True, ["ALL"], "dnsrr", 1)
        assert deploy["update_config"]["failure_action"] == "rollback" and deploy["update_config"]["order"] == "stop-first"
        assert service["healthcheck"]["test"][0] == "CMD" and not service.get("ports")
        assert re.fullmatch(r"192\.0\.2\.21:5000/llm/swarm-autoscaler:[0-9a-f]{12}", service["image"])
    guard, own = stack["services"]["guard"], stack["services"]["autoscaler"]
    # Whoever has the socket has no credential and no other network; whoever has the credential has no socket.
    assert (guard["networks"], "secrets" in guard, [one["source"] for one in guard["volumes"]]) == (
        ["autoscaler_api"],
        False,
        ["/var/run/docker.sock"],
    )
    assert "node.role == manager" in guard["deploy"]["placement"]["constraints"]
    assert (own["user"], own.get("volumes"), own["networks"]) == ("10001:10001", None, ["autoscaler_api", "llm"])
    assert set(stack["networks"]) == {"autoscaler_api", "llm"}
    used = {one["source"] for one in own["secrets"]}
    assert used == {one["name"] for one in texts(written, site)["secrets"]}
    assert all(one["mode"] == 0o400 for one in own["secrets"])


@pytest.mark.parametrize("site", SITES)
def test_secrets_are_in_secrets_and_nowhere_else(written: tuple[Path, str], site: str) -> None:
    found = texts(written, site)
    assert not any(secret in json.dumps(found["stack"]) for secret in (SECRET, TOKEN))
    assert "the-password-of-the-control-node" not in json.dumps(found)


def test_the_image_holds_all_that_is_imported_and_nothing_of_ansible(written: tuple[Path, str], tmp_path: Path) -> None:
    """The sources as the role lays them out are enough for the program and the guard."""
    paths = texts(written, "good")["sources"]
    top = "/var/lib/llm-stack/autoscaler-source/"
    assert {f"{top}{name}" for name in ("Dockerfile", "requirements.txt", "swarm_autoscaler.py", "exposition.py")} < set(paths)
    for path in paths:
        name = path.removeprefix(top)
        source = ROOT / "plugins" / "module_utils" / name.removeprefix("llm_stack/")
        if not name.startswith("llm_stack/"):
            source = ROLE / "files" / name if name != "exposition.py" else ROOT / "roles/monitoring/files/exporters" / name
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source.read_text())
    code = "import sys, swarm_autoscaler, llm_stack._autoscale.guard; print([one for one in sys.modules if one.split('.')[0] == 'ansible'])"
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.strip()) == (0, "[]"), ended.stderr


def test_its_dependencies_are_locked_by_hash() -> None:
    text = (ROLE / "files" / "requirements.txt").read_text()
    packages = re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE)
    assert {"docker", "openstacksdk"} <= set(packages)
    assert len(re.findall(r"^[a-z].*\\\n(?:    --hash=.*\n?)+", text, re.MULTILINE)) == len(packages)
    assert "--require-hashes" in (ROLE / "files" / "Dockerfile").read_text()
