# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replication, drills, restores and the exporter of a storage host on real ZFS: a second pool, and everything that goes wrong with it.

A Prometheus on this host reads the exporter with the role's rules, their lengths of time at a tenth.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Iterator
from urllib.parse import urlencode

import alert_times
import jinja2
import pytest
import yaml
from labkit import debs, network
from labkit.config import GATEWAY, REPO
from labkit.lab import Lab
from labkit.play import Outcome, play

pytestmark = pytest.mark.long

MACHINE, ADDRESS = "storage1", "10.77.0.11"
SOURCE, TARGET = "bsrc", "bdst"
DISKS = {SOURCE: "virtio-SPARE0", TARGET: "virtio-SPARE1"}
PROGRAM = "/usr/local/lib/llm-stack/llm-backup"
KEY = "lab-only-dataset-key"
MARKER = "corrupt-me-7c1f"
JOBS = [
    {"name": "data", "source": f"{SOURCE}/data", "target": f"{TARGET}/data"},
    {"name": "secret", "source": f"{SOURCE}/secret", "target": f"{TARGET}/secret"},
    {"name": "large", "source": f"{SOURCE}/large", "target": f"{TARGET}/large", "bandwidth": "2m"},
]
VARIABLES: dict[str, Any] = {
    "llm_stack_inhabited_groups": ["storage_hosts"],
    "llm_stack_monitoring": True,
    "monitoring_storage_readers": [GATEWAY],
    "storage_host_snapshots": [{"dataset": f"{SOURCE}/data"}, {"dataset": f"{SOURCE}/never"}],
    "storage_host_nfs_exports": [{"path": f"/{SOURCE}/data", "clients": ["10.77.0.0/24"]}],
    "storage_backup_replications": JOBS,
    "storage_backup_drill": {"scratch": f"{SOURCE}/drill"},
}
ROLE = REPO / "roles" / "monitoring"


@pytest.fixture(scope="module")
def storage(lab: Lab) -> Iterator[Lab]:
    """Two pools on the spare disks, with datasets that hold something."""
    packages = ("prometheus-node-exporter", "prometheus-node-exporter-collectors", "smartmontools", "sanoid")
    debs.offer(lab, MACHINE, *packages)
    for pool, disk in DISKS.items():
        lab.ssh(MACHINE, f"zpool create -f -m /{pool} {pool} /dev/disk/by-id/{disk}")
    lab.ssh(MACHINE, f"printf %s {KEY} > /root/key && zfs create {SOURCE}/data && zfs create {SOURCE}/drill && zfs create {SOURCE}/never")
    lab.ssh(MACHINE, f"zfs create -o encryption=on -o keyformat=passphrase -o keylocation=file:///root/key {SOURCE}/secret")
    lab.ssh(MACHINE, f"zfs create -o compression=off {SOURCE}/large && head -c 40M /dev/urandom > /{SOURCE}/large/blob")
    fill = f"""
import sqlite3
db = sqlite3.connect("/{SOURCE}/data/documents.sqlite")
db.execute("create table t (a)")
db.executemany("insert into t values (?)", [("x" * 100,)] * 500)
db.commit()
for folder in ("data", "secret"):
    open("/{SOURCE}/" + folder + "/words", "w").write("words " * 10000)
open("/{SOURCE}/data/marked", "w").write("{MARKER}" * 20000)
"""
    lab.ssh(MACHINE, "python3 -", stdin=fill)
    snapshot(lab, "first")
    yield lab
    lab.ssh(
        MACHINE,
        "systemctl stop 'llm-backup@*.timer' llm-restore-drill.timer prometheus-node-exporter llm-storage-metrics.timer",
        check=False,
    )
    for pool in DISKS:
        lab.ssh(MACHINE, f"zpool destroy -f {pool}", check=False)


def snapshot(lab: Lab, name: str) -> None:
    lab.ssh(MACHINE, "zfs snapshot " + " ".join(f"{SOURCE}/{one}@{name}" for one in ("data", "secret", "large")))


def converge(lab: Lab, *names: str) -> Outcome:
    paths = [str(REPO / "playbooks" / f"{name}.yml") for name in names]
    return play(lab, Path(paths[0]), *paths[1:], "--limit", "localhost,storage_hosts", variables=VARIABLES)


@pytest.fixture(scope="module")
def kept(storage: Lab) -> Lab:
    """The storage host after the first run of both roles."""
    assert converge(storage, "monitoring", "backup").status == 0
    return storage


@pytest.fixture
def on(kept: Lab) -> Callable[..., str]:
    """Run a command line there; a replication under emulation takes its time."""
    return lambda command, **options: kept.ssh(MACHINE, command, seconds=900, **options).strip()


def holds(on: Callable[..., str], job: str) -> set[str]:
    """The snapshots that a job holds, on both sides."""
    names = on("zfs list -H -t snapshot -o name").split()
    lines = on(f"zfs holds -H {' '.join(names)}").splitlines()
    return {line.split("\t")[0] for line in lines if line.split("\t")[1] == f"llm-backup:{job}"}


def metric(on: Callable[..., str], name: str, job: str) -> float:
    """What the exporter says of a job."""
    text = on("curl --silent http://10.77.0.11:9100/metrics")
    (line,) = [line for line in text.splitlines() if line.startswith(f'{name}{{job_name="{job}"}}')]
    return float(line.split()[-1])


def everything(on: Callable[..., str]) -> str:
    """Every snapshot of both pools, by its GUID."""
    return on("zfs list -H -t snapshot -o name,guid")


# --- replication ------------------------------------------------------------------------------------------------------------------
def test_the_second_run_changes_nothing(kept: Lab) -> None:
    outcome = converge(kept, "monitoring", "backup")
    assert (outcome.status, outcome.changed) == (0, ())


@pytest.mark.parametrize("job", ["data", "secret"])
def test_a_run_sends_holds_and_tells(on: Callable[..., str], job: str) -> None:
    on(f"{PROGRAM} run {job}")
    assert holds(on, job) == {f"{SOURCE}/{job}@first", f"{TARGET}/{job}@first"}
    assert metric(on, "llm_backup_success", job) == 1
    age = time.time() - metric(on, "llm_backup_last_success_timestamp_seconds", job)
    print(f"recovery point of {job}: {age:.0f} s")
    assert 0 <= age < 3600
    assert on(f"zfs get -H -o value readonly {TARGET}/{job}") == "on"
    # Pruning cannot take what is held.
    assert "dataset is busy" in on(f"zfs destroy {TARGET}/{job}@first 2>&1 || true")


def test_what_is_encrypted_stays_so_and_opens_with_its_key_alone(on: Callable[..., str]) -> None:
    assert on(f"zfs get -H -o value keystatus {TARGET}/secret") == "unavailable"
    on(f"{PROGRAM} restore secret --to {SOURCE}/opened")
    try:
        wrong = on(f"echo not-the-dataset-key | zfs load-key -L prompt {SOURCE}/opened 2>&1 || true")
        assert "Incorrect key" in wrong
        on(f"zfs load-key -L file:///root/key {SOURCE}/opened && zfs mount {SOURCE}/opened")
        assert on(f"cmp /{SOURCE}/secret/words $(zfs get -H -o value mountpoint {SOURCE}/opened)/words && echo same") == "same"
    finally:
        on(f"zfs destroy -r {SOURCE}/opened")


def test_an_interrupted_send_is_told_and_the_next_run_ends_it(on: Callable[..., str]) -> None:
    # 40 MB at 2 MB a second; the sender is ended in the middle.
    on("systemctl start --no-block llm-backup@large; sleep 12; systemctl kill --signal=KILL llm-backup@large; sleep 3")
    assert on("systemctl is-failed llm-backup@large || true") == "failed"
    assert holds(on, "large") == set()
    said = on(f"{PROGRAM} drill 2>&1 || echo failed")
    assert said.endswith("failed") and "large:" in said
    assert metric(on, "llm_restore_drill_success", "large") == 0
    assert (
        "no datasets" in on(f"zfs list -H -t snapshot {TARGET}/large 2>&1 || true") or on(f"zfs list -H -t snapshot {TARGET}/large") == ""
    )
    on(f"{PROGRAM} run large")
    assert holds(on, "large") == {f"{SOURCE}/large@first", f"{TARGET}/large@first"}


def test_a_full_target_fails_the_run_and_prunes_nothing(on: Callable[..., str], kept: Lab) -> None:
    on(f"head -c 30M /dev/urandom > /{SOURCE}/large/more")
    snapshot(kept, "second")
    on(f"zfs set quota=45M {TARGET}/large")
    before, held = everything(on), holds(on, "large")
    try:
        assert on(f"{PROGRAM} run large >/dev/null 2>&1 || echo failed") == "failed"
        assert metric(on, "llm_backup_success", "large") == 0
        said = on(f"{PROGRAM} drill 2>&1 || echo failed")
        assert said.endswith("failed") and "but the last run of large failed" in said
        assert everything(on) == before, "a snapshot came or went"
        assert holds(on, "large") == held
    finally:
        on(f"zfs set quota=none {TARGET}/large")
    on(f"{PROGRAM} run large")
    assert holds(on, "large") == {f"{SOURCE}/large@second", f"{TARGET}/large@second"}


# --- drills and restores ----------------------------------------------------------------------------------------------------------
def test_a_drill_compares_opens_and_leaves_nothing(on: Callable[..., str], kept: Lab) -> None:
    outcome = play(kept, REPO / "playbooks" / "restore_drill.yml", "--limit", "storage_hosts", variables=VARIABLES)
    assert outcome.status == 0
    assert "files as in the source, 1 databases opened" in outcome.text
    assert "it is encrypted and its key is not here, so it was not opened" in outcome.text
    assert on(f"zfs list -H -r -o name {SOURCE}/drill") == f"{SOURCE}/drill"
    assert [metric(on, "llm_restore_drill_success", job["name"]) for job in JOBS] == [1, 1, 1]


def test_a_wrong_key_is_noticed_and_the_right_one_opens_the_copy(on: Callable[..., str]) -> None:
    job = "/etc/llm-stack/backup/jobs/secret.json"
    was = on(f"cat {job}")
    on("printf %s not-the-dataset-key > /root/wrong-key")
    before, held = everything(on), holds(on, "secret")
    try:
        on(f"cat > {job}", stdin=json.dumps({**json.loads(was), "key_file": "/root/wrong-key"}))
        said = on(f"{PROGRAM} drill 2>&1 || echo failed")
        assert said.endswith("failed") and f"{TARGET}/secret@first does not open with the key in /root/wrong-key" in said
        assert metric(on, "llm_restore_drill_success", "secret") == 0
        on(f"cat > {job}", stdin=json.dumps({**json.loads(was), "key_file": "/root/key"}))
        assert f"{TARGET}/secret@first was restored: 1 files as in the source" in on(f"{PROGRAM} drill")
        assert metric(on, "llm_restore_drill_success", "secret") == 1
        assert (everything(on), holds(on, "secret")) == (before, held)
    finally:
        on(f"cat > {job}; rm -f /root/wrong-key", stdin=was)
    assert on(f"zfs list -H -r -o name {SOURCE}/drill") == f"{SOURCE}/drill"


def test_restores_overwrite_nothing(on: Callable[..., str], kept: Lab) -> None:
    refused = on(f"{PROGRAM} restore data --to {SOURCE}/data 2>&1 || true")
    assert f"{SOURCE}/data is there already, and nothing is overwritten." in refused
    chosen = {**VARIABLES, "llm_stack_restore_host": MACHINE, "llm_stack_restore_job": "data"}
    plan = play(kept, REPO / "playbooks" / "restore.yml", variables=chosen)
    assert (plan.status, plan.changed) == (0, ())
    assert f"to {SOURCE}/data-restored." in plan.words
    assert play(kept, REPO / "playbooks" / "restore.yml", variables={**chosen, "llm_stack_restore_confirm": "data"}).status == 0
    on(f"zfs mount {SOURCE}/data-restored")
    assert on(f"diff -r /{SOURCE}/data /{SOURCE}/data-restored && echo same") == "same"
    on(f"zfs destroy -r {SOURCE}/data-restored")


def test_a_file_comes_back_beside_the_present_one(on: Callable[..., str]) -> None:
    on(f"echo changed > /{SOURCE}/data/words")
    on(f"{PROGRAM} restore data --path words")
    assert on(f"cat /{SOURCE}/data/words") == "changed"
    assert on(f"head -c 12 /{SOURCE}/data/words.restored") == "words words"
    on(f"mv /{SOURCE}/data/words.restored /{SOURCE}/data/words")


def test_a_corrupted_copy_is_noticed_and_nothing_is_pruned(
    on: Callable[..., str], kept: Lab, prometheus: Callable[[str], list[Any]]
) -> None:
    # The file is not compressed at the source, so its bytes are found on the target's disk.
    on(f"zfs create -o compression=off {SOURCE}/plain && head -c 1M /dev/urandom > /{SOURCE}/plain/a")
    on(f"for i in $(seq 5000); do printf {MARKER}; done > /{SOURCE}/plain/marked && zfs snapshot {SOURCE}/plain@first")
    job = {"name": "plain", "source": f"{SOURCE}/plain", "target": f"{TARGET}/plain", "max_age_hours": 2}
    on("cat > /etc/llm-stack/backup/jobs/plain.json", stdin=json.dumps(job))
    on(f"{PROGRAM} run plain && zpool export {TARGET}")
    spoil = f"""
import os, pathlib
disk = os.path.realpath("/dev/disk/by-id/{DISKS[TARGET]}-part1")
hit, at, size = 0, 0, 16 << 20
with open(disk, "r+b", buffering=0) as file:
    while block := file.read(size):
        where = block.find(b"{MARKER}" * 100)
        if where >= 0:
            file.seek(at + where)
            file.write(b"x" * 1000)
            hit += 1
            file.seek(at + len(block))
        at += len(block)
    os.fsync(file.fileno())
print(hit)
"""
    assert int(on("python3 -", stdin=spoil)) >= 1
    on(f"zpool import {TARGET}")
    try:
        before, held = everything(on), holds(on, "plain")
        said = on(f"{PROGRAM} drill 2>&1 || echo failed")
        firing = 'ALERTS{alertname="RestoreDrillFailed",alertstate="firing",job_name="plain"}'
        alert_times.note("RestoreDrillFailed", until(lambda: bool(prometheus(firing)), True, 400))
        assert said.endswith("failed") and "plain:" in said
        assert metric(on, "llm_restore_drill_success", "plain") == 0
        assert metric(on, "llm_restore_drill_success", "data") == 1, "the others were tried all the same"
        assert everything(on) == before
        assert holds(on, "plain") == held
    finally:
        on(f"rm /etc/llm-stack/backup/jobs/plain.json; zfs destroy -R {TARGET}/plain 2>/dev/null; true")
        on("rm -f /var/lib/prometheus/node-exporter/llm-*-plain.prom")


# --- the exporter, its dashboards and its alerts ----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def prometheus(kept: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], list[Any]]]:
    """A Prometheus of this host that reads the exporter, with the role's rules at a tenth of their times."""
    place = tmp_path_factory.mktemp("prometheus")
    limits = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())["__monitoring_thresholds_known"]
    marks = jinja2.Environment(variable_start_string="<<", variable_end_string=">>", trim_blocks=True, autoescape=False)
    template = marks.from_string((ROLE / "templates" / "rules.yml.j2").read_text())
    (place / "rules.yml").write_text(template.render(monitoring_durations_scale=0.1, __monitoring_thresholds=limits))
    job = {"job_name": "storage", "static_configs": [{"targets": [f"{ADDRESS}:9100"], "labels": {"instance": MACHINE, "node": MACHINE}}]}
    every = {"scrape_interval": "5s", "scrape_timeout": "5s", "evaluation_interval": "5s"}
    (place / "prometheus.yml").write_text(json.dumps({"global": every, "rule_files": ["rules.yml"], "scrape_configs": [job]}))
    program = shutil.which("prometheus")
    if program is None:
        pytest.fail("Prometheus is not installed, so nothing reads the exporter: apt-get install prometheus")
    argv = [program, f"--config.file={place}/prometheus.yml", f"--storage.tsdb.path={place}/data", f"--web.listen-address={GATEWAY}:9190"]
    with (place / "log").open("w") as log:
        process = subprocess.Popen([*network.inside(kept.paths), *argv], stdout=log, stderr=log)

    def ask(query: str) -> list[Any]:
        url = f"http://{GATEWAY}:9190/api/v1/query?{urlencode({'query': query})}"
        got = subprocess.run([*network.inside(kept.paths), "curl", "--silent", "--max-time", "20", url], capture_output=True, check=False)
        found: list[Any] = json.loads(got.stdout)["data"]["result"] if got.returncode == 0 else []
        return found

    yield ask
    process.terminate()
    process.wait(timeout=30)


def until(look: Callable[[], Any], wanted: Any, seconds: float) -> float:
    """Wait until something is so; return after how many seconds it was."""
    begun = time.monotonic()
    seen = look()
    while seen != wanted:
        assert time.monotonic() - begun < seconds, f"after {seconds:.0f} s it is still {seen!r} and not {wanted!r}"
        time.sleep(2)
        seen = look()
    return time.monotonic() - begun


def storage_panels() -> dict[str, str]:
    board = json.loads((ROLE / "files" / "dashboards" / "storage.json").read_text())
    found = {f"{panel['title']} {one['refId']}": one["expr"] for panel in board["panels"] for one in panel["targets"]}
    return {name: text.replace("$__rate_interval", "1m") for name, text in found.items()}


def test_every_panel_of_storage_shows_data(on: Callable[..., str], prometheus: Callable[[str], list[Any]]) -> None:
    on("systemctl start nfs-server prometheus-node-exporter-smartmon.service; zpool scrub -w bsrc bdst", check=False)
    # No initiator, no L2ARC and no disk that reports its temperature is here; the panels of those are in tests/unit/monitoring.
    absent = ("iscsi_", "_l2_", "smartmon_")
    wanted = {name: text for name, text in storage_panels().items() if not any(word in text for word in absent)}
    assert len(wanted) >= 12
    until(lambda: sorted(name for name, text in wanted.items() if not prometheus(text)), [], 300)


# By alert: what makes it fire, and what ends that.
CAUSES = {
    "ZfsSnapshotsOld": ("true", f"zfs snapshot {SOURCE}/never@now {SOURCE}/data@now"),
    "ZfsPoolFilling": (f"head -c 3500M /dev/zero | tr '\\0' x > /{SOURCE}/large/full", f"rm /{SOURCE}/large/full"),
    "NfsServerDown": ("systemctl stop nfs-server", "systemctl start nfs-server"),
    "TargetDown": ("systemctl stop prometheus-node-exporter", "systemctl start prometheus-node-exporter"),
}


@pytest.mark.parametrize("alert", CAUSES)
def test_a_cause_fires_its_alert_and_its_end_clears_it(on: Callable[..., str], prometheus: Callable[[str], list[Any]], alert: str) -> None:
    cause, end = CAUSES[alert]
    on(f"zfs set compression=off {SOURCE}/large; systemctl start nfs-server")

    def fires() -> bool:
        return bool(prometheus(f'ALERTS{{alertname="{alert}",alertstate="firing"}}'))

    on(cause)
    try:
        # The swarm's bench has a target that is down as well.
        name = alert.replace("TargetDown", "StorageTargetDown")
        alert_times.note(name, until(fires, True, 400))
    finally:
        on(end)
    alert_times.note(name, until(fires, False, 400), over=True)


def test_a_disk_that_is_pulled_fires_its_alerts(on: Callable[..., str], prometheus: Callable[[str], list[Any]]) -> None:
    """A mirror of two files: the spare disks are the only ones of their pools."""
    on("truncate -s 200M /var/tmp/m0 /var/tmp/m1 && zpool create bmir mirror /var/tmp/m0 /var/tmp/m1")
    names = ("ZfsVdevUnhealthy", "ZfsPoolNotOnline")

    def firing() -> set[str]:
        return {one["metric"]["alertname"] for one in prometheus('ALERTS{alertstate="firing"}')} & set(names)

    try:
        on("zpool offline bmir /var/tmp/m1")
        alert_times.note(names[0], until(firing, set(names), 400))
        on("zpool online bmir /var/tmp/m1")
        alert_times.note(names[0], until(firing, set(), 400), over=True)
    finally:
        on("zpool destroy bmir; rm -f /var/tmp/m0 /var/tmp/m1")


def test_nobody_else_reads_the_exporter(kept: Lab) -> None:
    said = kept.ssh("manager1", f"curl --silent --show-error --max-time 5 http://{ADDRESS}:9100/metrics 2>&1 || true")
    assert "node_load1" not in said
    assert "timed out" in said or "onnect" in said
