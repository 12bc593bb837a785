# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role refuses, and the files it writes, read by the programs they are for: one run of ansible-playbook for all."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
ROLE = ROOT / "roles" / "storage_backup"
PASSPHRASE = "a-passphrase-of-the-tests"
# What looks like variables to borgmatic, and what only nearly does.
ODD = r"a$b${HOME}c\${NOPE:-d}e\\${f${}g${h it's \"#: "
ARCHIVE = {"name": "manager", "paths": ["/srv/a"], "repository": "ssh://b@192.0.2.12/./m", "passphrase": PASSPHRASE}
REPLICATION = {"name": "data", "source": "llm/data", "target": "backup/data"}
GOOD: dict[str, Any] = {
    "storage_backup_replications": [
        REPLICATION,
        {**REPLICATION, "name": "away", "host": "b@192.0.2.12", "every": "*:20", "max_age_hours": 1},
    ],
    "storage_backup_archives": [
        {**ARCHIVE, "databases": ["/srv/a/x.sqlite3"], "exclude": ["*.tmp"], "keep": {"daily": 2}, "bandwidth": 500},
        {"name": "plain", "paths": ["/srv/b"], "repository": "/mnt/borg/plain", "mount": "/mnt/borg", "passphrase": PASSPHRASE},
        {"name": "odd", "paths": ["/srv/c"], "repository": "/mnt/borg/odd", "passphrase": ODD},
    ],
    "storage_backup_drill": {"scratch": "llm/drill", "every": "Sun *-*-* 04:00:00"},
    "storage_backup_ssh_key": "/root/.ssh/backup",
}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"storage_backup_archives": [{**ARCHIVE, "name": "a b"}]}, "Give each a name of its own, of letters, digits and dashes."),
    "twice": ({"storage_backup_archives": [{**ARCHIVE, "name": "data"}]}, "are data, away, data; nothing was changed."),
    "pool": (
        {"storage_backup_replications": [{**REPLICATION, "target": "backup"}]},
        "The replication data from llm/data to backup cannot work",
    ),
    "within": ({"storage_backup_replications": [{**REPLICATION, "target": "llm/data/copy"}]}, "and not within the source;"),
    "pull": (
        {"storage_backup_replications": [{**REPLICATION, "direction": "pull"}]},
        "The replication data from llm/data to backup/data cannot work",
    ),
    "host": ({"storage_backup_replications": [{**REPLICATION, "host": "h; rm -r /"}]}, "host is as in backup@192.0.2.12"),
    "bandwidth": ({"storage_backup_replications": [{**REPLICATION, "bandwidth": "much"}]}, "bandwidth is as in 50m."),
    "keyfile": ({"storage_backup_replications": [{**REPLICATION, "key_file": "keys/llm"}]}, "key_file is an absolute path."),
    "passphrase": (
        {"storage_backup_archives": [{**ARCHIVE, "passphrase": "short"}]},
        "The passphrase of the archive manager has 5 characters. Nothing was changed.",
    ),
    "itself": (
        {"storage_backup_archives": [{**ARCHIVE, "paths": ["/srv"], "repository": "/srv/borg"}]},
        "The archive manager of /srv in /srv/borg cannot be made. Nothing was changed.",
    ),
    "mount": (
        {"storage_backup_archives": [{**ARCHIVE, "repository": "/mnt/other/m", "mount": "/mnt/bucket"}]},
        "The repository /mnt/other/m of the archive manager does not lie below its mount /mnt/bucket. Nothing was changed.",
    ),
    "style": (
        {"storage_backup_archives": [{**ARCHIVE, "exclude": ["*.tmp", "sh:**/cache"]}]},
        "The archive manager leaves out *.tmp, sh:**/cache, of which a drill could not tell what is to be there. Nothing was changed.",
    ),
    "scratch": ({"storage_backup_drill": {}}, 'storage_backup_drill.scratch is ""; nothing was changed.'),
    "inscratch": ({"storage_backup_drill": {"scratch": "backup"}}, "no source and no target may lie there."),
}
TASKS = [
    {"ansible.builtin.include_role": {"name": "selfhosted.llm_stack.storage_backup", "tasks_from": "options", "public": True}},
    {"ansible.builtin.copy": {"content": "{{ __storage_backup_files | to_json }}", "dest": "{{ place }}/files.json"}},
    {"ansible.builtin.copy": {"content": "{{ __storage_backup_packages | to_json }}", "dest": "{{ place }}/packages.json"}},
]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, dict[str, Any]], Path]:
    """The output with line breaks folded, the files by their path, and a place for more."""
    place = tmp_path_factory.mktemp("role")
    hosts = {name: {**GOOD, **variables} for name, (variables, _text) in BAD.items()}
    common = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "place": str(place)}
    (place / "hosts.json").write_text(json.dumps({"all": {"hosts": {"good": GOOD, **hosts}, "vars": common}}))
    (place / "play.json").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": TASKS}]))
    for folder in ("templates", "files"):
        # The play looks beside itself for what the role finds in its own folders.
        (place / folder).symlink_to(ROLE / folder)
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build" / "collections"), "ANSIBLE_NOCOLOR": "1", "COLUMNS": "200"}
    argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "hosts.json", "play.json"]
    ended = subprocess.run(argv, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert (place / "files.json").exists(), ended.stdout + ended.stderr
    files = {one["path"]: one for one in json.loads((place / "files.json").read_text())}
    return " ".join(ended.stdout.split()), files, place


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_a_sentence(ran: tuple[str, Any, Path], name: str) -> None:
    assert BAD[name][1] in ran[0]
    assert re.search(rf"{name} : ok=\d+ changed=0 unreachable=0 failed=1 ", ran[0])
    assert PASSPHRASE not in ran[0]


@pytest.mark.parametrize("name", ["manager", "plain"])
def test_borgmatic_takes_its_configuration(ran: tuple[str, dict[str, dict[str, Any]], Path], name: str) -> None:
    file = ran[1][f"/etc/llm-stack/backup/borgmatic/{name}.yaml"]
    assert file["mode"] == "0600" and "content" not in file, "the passphrase is nobody's to read"
    path = ran[2] / f"{name}.yaml"
    path.write_text(file["secret_content"])
    ended = subprocess.run(["validate-borgmatic-config", "--config", str(path)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    path.write_text(file["secret_content"].replace("keep_daily", "keep_dayly"))
    assert subprocess.run(["validate-borgmatic-config", "--config", str(path)], capture_output=True, check=False).returncode != 0


def test_a_passphrase_reaches_borg_as_it_is(ran: tuple[str, dict[str, dict[str, Any]], Path]) -> None:
    """As borgmatic reads it: what it would take for a variable, it leaves."""
    written = {name: ran[1][f"/etc/llm-stack/backup/borgmatic/{name}.yaml"]["secret_content"] for name in ("odd", "plain")}
    program = (
        "import json, sys; from borgmatic.config import environment\n"
        "print(json.dumps([environment.resolve_env_variables(one) for one in json.load(sys.stdin)]))"
    )
    given = [yaml.safe_load(text)["storage"]["encryption_passphrase"] for text in written.values()]
    # The distribution's Python, which has it.
    ended = subprocess.run(["/usr/bin/python3", "-c", program], input=json.dumps(given), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == [ODD, PASSPHRASE]


def test_a_database_in_use_is_archived_as_its_copy(ran: tuple[str, dict[str, dict[str, Any]], Path]) -> None:
    found = yaml.safe_load(ran[1]["/etc/llm-stack/backup/borgmatic/manager.yaml"]["secret_content"])
    assert found["location"]["source_directories"] == [
        "/srv/a",
        "/var/lib/llm-stack/backup/databases/manager",
        "/var/lib/llm-stack/backup/manifests/manager",
    ]
    plain = yaml.safe_load(ran[1]["/etc/llm-stack/backup/borgmatic/plain.yaml"]["secret_content"])
    assert plain["location"]["source_directories"] == ["/srv/b", "/var/lib/llm-stack/backup/manifests/plain"]
    assert found["location"]["exclude_patterns"] == ["*.tmp", *(f"/srv/a/x.sqlite3{end}" for end in ("", "-wal", "-shm", "-journal"))]
    assert found["retention"] == {"keep_hourly": 24, "keep_daily": 2, "keep_weekly": 4, "keep_monthly": 6, "prefix": "manager@good@"}
    assert found["storage"]["archive_name_format"] == "manager@good@{utcnow:%Y-%m-%dT%H:%M:%SZ}", "two hosts may share a repository"
    assert found["storage"]["ssh_command"] == "ssh -o BatchMode=yes -i /root/.ssh/backup"
    assert found["storage"]["upload_rate_limit"] == 500


def test_jobs_hold_what_the_program_reads_and_no_secret(ran: tuple[str, dict[str, dict[str, Any]], Path]) -> None:
    jobs = {path: json.loads(one["content"]) for path, one in ran[1].items() if "/jobs/" in path}
    away = jobs["/etc/llm-stack/backup/jobs/away.json"]
    assert (away["host"], away["key"], away["max_age_hours"]) == ("b@192.0.2.12", "/root/.ssh/backup", 1)
    assert set(jobs["/etc/llm-stack/backup/jobs/manager.json"]) == {
        "name",
        "paths",
        "databases",
        "exclude",
        "max_age_hours",
        "configuration",
        "prefix",
        "mount",
    }
    assert jobs["/etc/llm-stack/backup/jobs/manager.json"]["exclude"] == ["*.tmp"], "a drill has to know what is not to be there"
    assert jobs["/etc/llm-stack/backup/jobs/plain.json"]["mount"] == "/mnt/borg"
    assert jobs["/etc/llm-stack/backup/jobs/manager.json"]["prefix"] == "manager@good@"
    assert PASSPHRASE not in json.dumps(jobs)
    drill = json.loads(ran[1]["/etc/llm-stack/backup/drill.json"]["content"])
    assert (drill["scratch"], drill["max_age_days"]) == ("llm/drill", 8)


def test_the_host_says_what_the_inventory_calls_it(ran: tuple[str, dict[str, dict[str, Any]], Path]) -> None:
    """Where no exporter was installed before, this makes the folder that the jobs tell of themselves in."""
    text = ran[1]["/var/lib/prometheus/node-exporter/llm-host.prom"]["content"]
    assert text.splitlines()[-1] == 'llm_backup_host_info{host="good"} 1'
    assert subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True, check=False).returncode == 0
    tasks = yaml.safe_load((ROLE / "tasks" / "configure.yml").read_text(encoding="utf-8"))
    assert tasks[-1]["ansible.builtin.command"]["argv"][-1] == "announce"


def test_every_job_has_a_timer_that_systemd_understands(ran: tuple[str, dict[str, dict[str, Any]], Path]) -> None:
    timers = {path: one["content"] for path, one in ran[1].items() if path.endswith(".timer")}
    assert len(timers) == 6
    for path, text in timers.items():
        when = re.search(r"^OnCalendar=(.*)$", text, re.MULTILINE)
        assert when, path
        subprocess.run(["systemd-analyze", "calendar", when.group(1)], check=True, capture_output=True)


def test_jobs_that_cannot_work_are_refused_before_anything_is_changed_and_images_that_cannot_be_had_stop_none() -> None:
    plays = yaml.safe_load((ROOT / "playbooks" / "site.yml").read_text(encoding="utf-8"))
    names = [play.get("ansible.builtin.import_playbook", play.get("hosts")) for play in plays]
    at = names.index("storage_hosts:swarm_managers")
    (task,) = plays[at]["tasks"]
    assert task["ansible.builtin.include_role"] == {"name": "selfhosted.llm_stack.storage_backup", "tasks_from": "options"}
    assert at < names.index("provision.yml"), "the first that changes something"
    assert names[-2:] == ["backup.yml", "monitoring.yml"]


def test_no_loop_goes_over_passphrases() -> None:
    """What fails in a loop is shown as a whole."""
    for path in (ROLE / "tasks").glob("*.yml"):
        loops = [str(task["loop"]) for task in yaml.safe_load(path.read_text(encoding="utf-8")) if "loop" in task]
        assert not [loop for loop in loops if re.search(r"storage_backup_archives(?! \| map\(attribute='(?:name|mount)')|_jobs", loop)], (
            path.name
        )


def test_only_what_the_jobs_need_is_installed(ran: tuple[str, Any, Path]) -> None:
    assert json.loads((ran[2] / "packages.json").read_text()) == ["sanoid", "borgmatic", "borgbackup", "openssh-client"]
