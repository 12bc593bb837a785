# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module and the inventory plugin as Ansible runs them, with a stand-in for the cloud: results, and no secret in any."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from email import message_from_string
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel import login
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.client import Watch
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.hostkey import make_host_key, with_host_key
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.model import PROFILES
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.report import started_at
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._selectel.spec import fleet_spec
from ansible_collections.selfhosted.llm_stack.plugins.modules import selectel_preemptible
from fleetkit import OPTIONS, run_fleet, validated
from results import shown
from standin_cloud import START, StandinCloud, refusal, stamp

AUTH = {"auth_url": "https://cloud/v3", "username": "llm-user", "password": "hunter2", "project_name": "llm-project"}


class Module:
    """Runs the module against a stand-in."""

    def __init__(self, cloud: StandinCloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.cloud = cloud
        self._capsys = capsys
        monkeypatch.setattr(selectel_preemptible, "connect", lambda _params, _desired: {cloud.region: cloud.connection()})
        monkeypatch.setattr(selectel_preemptible, "Watch", lambda seconds: Watch(seconds, now=lambda: cloud.now, sleep=cloud.sleep))

    def run(self, **options: Any) -> dict[str, Any]:
        """Return the result; `_text` is all that was printed."""
        self.cloud.log.clear()
        arguments = {**OPTIONS, "auth": AUTH, **options}
        with patch_module_args(arguments), pytest.raises(SystemExit):
            selectel_preemptible.main()
        found = shown(self._capsys.readouterr().out)
        text = json.dumps(found)
        assert "hunter2" not in text
        return {**found, "_text": text}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Module:
    return Module(StandinCloud(), monkeypatch, capsys)


def test_check_mode_says_what_the_run_then_does(module: Module) -> None:
    checked = module.run(_ansible_check_mode=True, floating_network="ext")
    assert (checked["changed"], checked["api_calls"]) == (True, {"read": 7, "write": 0})
    assert module.cloud.writes() == []
    done = module.run(floating_network="ext")
    assert (done["plan"], done["diff"]) == (checked["plan"], checked["diff"])
    assert done["cost"] == checked["cost"] == {"before": 0, "after": 30.4, "change": 30.4, "currency": "RUB", "unknown": []}
    again = module.run(floating_network="ext")
    assert (again["changed"], again["plan"], again["api_calls"]) == (False, [], {"read": 4, "write": 0})


def test_what_is_returned_about_a_server(module: Module) -> None:
    module.run(floating_network="ext", ssh_host_key=True)
    (server,) = module.run(floating_network="ext", max_age=3600)["servers"]
    assert server.pop("ssh_host_key").startswith("ssh-ed25519 ")
    assert server == {
        "name": "gpu1",
        "action": "kept",
        "reason": "srv-0003 is ACTIVE",
        "ok": True,
        "id": "srv-0003",
        "status": "ACTIVE",
        "addresses": [
            {"address": "10.0.0.10", "kind": "fixed", "network": "lan"},
            {"address": "203.0.113.11", "kind": "floating", "network": ""},
        ],
        "preemptible": True,
        "created_at": stamp(START),
        "launched_at": stamp(START + 4),
        "expires_at": stamp(START + 24 * 3600),
        "rotate": False,
        "placement": {"region": "r1", "zone": "z1", "flavor": "GL10", "preemptible": True},
        "gpus": {"T4": 1},
        "leftovers": [],
        "hourly_cost": 30.0,
    }
    module.cloud.now += 3600
    assert module.run(floating_network="ext", max_age=3600)["servers"][0]["rotate"] is True
    module.cloud.interrupt("srv-0003")
    (server,) = module.run(_ansible_check_mode=True, floating_network="ext")["servers"]
    assert (server["action"], server["hourly_cost"], server["expires_at"]) == ("restored", 0.0, "")
    assert [(one["kind"], round(one["hourly_cost"], 3)) for one in server["leftovers"]] == [("volume", 0.1), ("address", 0.3)]


def test_a_failed_server_fails_the_task_after_the_others(module: Module) -> None:
    module.cloud.room = {"z1": 1, "z2": 0}
    result = module.run(servers=[{"name": "gpu1"}, {"name": "gpu2"}])
    assert result["failed"] is True
    assert result["changed"] is True
    assert "1 of 2 servers are not as they should be. gpu" in result["msg"]
    assert "No valid host was found" in result["msg"]
    assert sorted(server["ok"] for server in result["servers"]) == [False, True]
    assert list(result["memory"]) == ["r1/z1/GL10/preemptible", "r1/z2/GL10/preemptible"]
    assert module.cloud.orphans() == []


def test_bad_input_calls_nothing(module: Module) -> None:
    result = module.run(fleet="a b")
    assert result["msg"].startswith("fleet is 'a b'")
    assert (result["changed"], module.cloud.log) == (False, [])


def test_the_removal_wants_the_name(module: Module) -> None:
    module.run()
    refused = module.run(state="absent", servers=[], placements=[])
    assert refused["msg"] == (
        "Refusing to remove 3 objects of the fleet llm without confirmation: set confirm to llm, the name of the fleet."
    )
    assert module.cloud.writes() == []
    checked = module.run(state="absent", servers=[], placements=[], confirm="llm", _ansible_check_mode=True)
    assert (checked["changed"], checked["cost"]["after"], module.cloud.writes()) == (True, 0, [])
    done = module.run(state="absent", servers=[], placements=[], confirm="llm")
    assert (done["plan"], [one["status"] for one in done["servers"]]) == (checked["plan"], ["absent"])
    assert (module.cloud.servers, module.cloud.orphans()) == ({}, [])
    assert module.run(state="absent", servers=[], placements=[])["changed"] is False


def test_secrets_are_in_no_output(module: Module) -> None:
    module.cloud.fault = lambda _cloud, _service, _method, _path, _answer: refusal(400, "no password=hunter2 in llm-project")
    said = module.run()["msg"]
    assert "no password=" in said
    # Names are no secrets: blanked out, no message could be read.
    assert "in llm-project" in said
    module.cloud.fault = None
    result = module.run(user_data="#!/bin/sh\necho swarm-token-77", ssh_host_key=True)
    assert "swarm-token-77" not in result["_text"]
    assert "PRIVATE KEY" not in result["_text"]
    body = next(body for body in module.cloud.bodies if body and "server" in body)
    assert "swarm-token-77" in base64.b64decode(body["server"]["user_data"]).decode()


def test_user_data_gives_the_server_its_host_key_before_anything_else() -> None:
    key = make_host_key()
    whole = message_from_string(with_host_key("#cloud-config\npackages: [jq]\n", key))
    parts = [part for part in whole.walk() if not part.is_multipart()]
    texts = [part.get_payload(decode=True).decode() for part in parts]  # type: ignore[union-attr]
    first = yaml.safe_load(texts[0])
    assert first["ssh_keys"]["ed25519_public"] == key.public
    assert first["ssh_keys"]["ed25519_private"].strip() == key.private.strip()
    assert first["ssh_deletekeys"] is True
    assert [part.get_content_type() for part in parts] == ["text/cloud-config", "text/cloud-config"]
    assert texts[1] == "#cloud-config\npackages: [jq]\n"
    assert key.private not in repr(key)


SCRIPT = "#!/bin/sh\necho 'Grüße: MIME-Version: 1.0'\n"
PARTS = f"""Content-Type: multipart/mixed; boundary="B"
MIME-Version: 1.0

--B
Content-Type: text/cloud-config

#cloud-config
hostname: x

--B
Content-Type: text/x-shellscript; charset="utf-8"
Content-Transfer-Encoding: base64

{base64.b64encode(SCRIPT.encode()).decode()}
--B--
"""


@pytest.mark.parametrize(
    ("user_data", "kinds"),
    [
        ("", []),
        ("#cloud-config\nhostname: x\n", ["text/cloud-config"]),
        ("#cloud-config-archive\n- type: text/cloud-config\n  content: |\n    hostname: x\n", ["text/cloud-config-archive"]),
        (SCRIPT, ["text/x-shellscript"]),
        ("#include\nhttps://x\n", ["text/x-include-url"]),
        ("#include-once\nhttps://x\n", ["text/x-include-once-url"]),
        ("## template: jinja\n#cloud-config\n", ["text/plain"]),
        ("MIME-Version: 1.0\nContent-Type: text/cloud-boothook\n\n#!/bin/sh\n", ["text/cloud-boothook"]),
        (PARTS, ["text/cloud-config", "text/x-shellscript"]),
    ],
)
def test_user_data_beside_a_host_key_stays_what_it_is(user_data: str, kinds: list[str]) -> None:
    whole = message_from_string(with_host_key(user_data, make_host_key()))
    # As cloud-init walks through it: what holds parts is none itself.
    parts = [part for part in whole.walk() if part.get_content_maintype() != "multipart"][1:]
    assert [part.get_content_type() for part in parts] == kinds
    texts = [part.get_payload(decode=True).decode() for part in parts]  # type: ignore[union-attr]
    if user_data == PARTS:
        assert texts == ["#cloud-config\nhostname: x\n", SCRIPT]
    elif kinds:
        assert user_data.endswith(texts[0])


@pytest.mark.parametrize(
    ("created", "launched", "since"),
    [(0, 5, 0), (0, 3600 * 10, 0), (-3600 * 30, 3600 * 10, 3600 * 10), (0, None, None)],
    ids=["new", "restored today", "restored after a day", "never ran"],
)
def test_the_clock_of_a_life_is_the_earlier_one_that_can_be(created: float, launched: float | None, since: float | None) -> None:
    cloud = StandinCloud()
    run_fleet(cloud)
    ended = run_fleet(cloud)
    server = ended.current.servers[0]
    fields = {"created_at": START + created, "launched_at": None if launched is None else START + launched}
    aged = type(server)(**{**server.__dict__, **fields})
    assert started_at(aged, PROFILES["selectel"], START + 3600 * 11) == (None if since is None else START + since)


def test_options_for_the_sdk_have_its_names() -> None:
    options = {"cloud": "c", "validate_certs": False, "ca_cert": "/ca", "client_cert": None, "fleet": "x", "api_timeout": 5.0}
    assert login.sdk_options(options) == {"cloud": "c", "verify": False, "cacert": "/ca", "api_timeout": 5.0}
    assert login.secrets_of({"password": "a", "application_credential_secret": "b", "username": "c"}) == ("a", "b")
    assert login.sdk_options({"auth": {"username": "u", "token": None}}) == {"auth": {"username": "u"}}
    hidden = {name for name, option in login.AUTH_OPTIONS.items() if option["no_log"]}
    assert hidden == {name for name in login.AUTH_OPTIONS if login.secrets_of({name: "x"})}


@pytest.mark.parametrize(
    ("options", "regions"),
    [
        ({}, ["r1"]),
        ({"regions": ["r9"]}, ["r1", "r9"]),
        ({"state": "absent"}, ["r1", "r2"]),
        ({"state": "absent", "regions": ["r9"]}, ["r1", "r2", "r9"]),
        ({"state": "absent", "servers": [], "placements": [{"region": "r3", "flavor": "GL10"}, {"flavor": "GL10"}]}, ["r1", "r2", "r3"]),
    ],
)
def test_the_regions_that_are_looked_at(options: dict[str, Any], regions: list[str]) -> None:
    given = validated(**options)
    assert login.regions_of(given, fleet_spec(given), ["r1", "r2"]) == regions


# -- the inventory plugin -------------------------------------------------------------------------------------------------------
LISTER = Path(__file__).parent / "list_fleet.py"


def listed(place: Path, *, again: bool = False, **options: Any) -> dict[str, Any]:
    """Return what Ansible makes of a file of the plugin: groups, variables and calls.

    :param again: read the file twice before, so that a cache is used, and refresh at the end.
    """
    path = place / "fleet.selectel_preemptible.yml"
    path.write_text(yaml.safe_dump({"plugin": "selfhosted.llm_stack.selectel_preemptible", "fleet": "llm", **options}))
    command = [sys.executable, str(LISTER), str(path), "again" if again else "once"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return {**found, "stderr": ended.stderr}


def test_the_fleet_as_hosts(tmp_path: Path) -> None:
    found = listed(tmp_path, group="{{ 'gpu_' ~ 'workers' }}", api_timeout="20")
    assert found["groups"] == {
        "gpu_workers": ["gpu1"],
        "gpu_workers_interrupted": ["gpu2"],
        "fleet_state_active": ["gpu1"],
        "fleet_state_shelved_offloaded": ["gpu2"],
        "fleet_state_shutoff": ["gpu3"],
        "fleet_gpu_t4": ["gpu1", "gpu2", "gpu3"],
        "fleet_zone_z1": ["gpu1", "gpu2", "gpu3"],
    }
    assert found["vars"]["gpu1"]["ansible_host"].startswith("203.0.113.")
    assert found["vars"]["gpu2"]["fleet_server"]["placement"]["flavor"] == "GL10"
    assert (found["reads"], found["writes"]) == ([4], 0)
    assert listed(tmp_path, connect_to="private")["vars"]["gpu1"]["ansible_host"].startswith("10.0.0.")


def test_the_inventory_is_cached_until_it_is_refreshed(tmp_path: Path) -> None:
    cache = {"cache": True, "cache_plugin": "ansible.builtin.jsonfile", "cache_connection": str(tmp_path / "cache")}
    found = listed(tmp_path, again=True, **cache)
    assert found["reads"] == [4, 4, 8]
    assert listed(tmp_path, again=True)["reads"] == [4, 8, 12]


@pytest.mark.parametrize(
    ("option", "template"),
    [("fleet", "{0}"), ("cloud", "{0}"), ("region_name", "{0}"), ("regions", ["{0}"]), ("auth", {"auth_url": "https://{0}/v3"})],
)
def test_the_cache_keeps_fleets_and_clouds_of_one_file_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, template: Any
) -> None:
    cache = {"cache": True, "cache_plugin": "ansible.builtin.jsonfile", "cache_connection": str(tmp_path / "cache")}
    value = json.loads(json.dumps(template).replace("{0}", "{{ lookup('ansible.builtin.env', 'WHICH') }}"))
    reads = []
    for which in ("llm", "other", "llm"):
        monkeypatch.setenv("WHICH", which)
        found = listed(tmp_path, **{**cache, option: value})
        reads.append(found["reads"])
        assert bool(found["groups"]["gpu_workers"]) == (option != "fleet" or which == "llm")
    assert reads == [[4], [4], [0]]


def test_what_tells_one_login_from_another_is_no_secret() -> None:
    environment = {"OS_CLOUD": "other", "OS_PASSWORD": "hunter2", "HOME": "/root"}
    found = login.whereabouts({"cloud": "c", "auth": AUTH}, environment)
    assert (found["OS_CLOUD"], found["cloud"], found["auth"]["project_name"]) == ("other", "c", "llm-project")
    assert not re.search("hunter2|/root", str(found))


def test_without_a_fleet_nothing_is_asked(tmp_path: Path) -> None:
    found = listed(tmp_path, fleet="")
    assert found["groups"] == {"gpu_workers": [], "gpu_workers_interrupted": []}
    assert found["reads"] == [0]


def test_a_cloud_that_does_not_answer_is_a_sentence(tmp_path: Path) -> None:
    found = listed(tmp_path, fleet="broken")
    assert "The fleet broken cannot be listed: compute of r1 answered 403: not for password=********" in found["stderr"]
