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
from dataclasses import dataclass, field
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
from labkit.pools import make_pool
from labkit.qmp import Qmp
from labkit.vm import VirtualMachine

pytestmark = pytest.mark.long

MACHINE, ADDRESS = "storage1", "10.77.0.11"
SOURCE, TARGET = "bsrc", "bdst"
DISKS = {SOURCE: "virtio-SPARE0", TARGET: "virtio-SPARE1"}
PROGRAM = "/usr/local/lib/llm-stack/llm-backup"
KEY = "lab-only-dataset-key"
MARKER = "corrupt-me-7c1f"
# At full hours the timers would run what a test has just made to fail.
NEVER = "2099-01-01"
JOBS = [
    {"name": "data", "source": f"{SOURCE}/data", "target": f"{TARGET}/data", "every": NEVER},
    {"name": "secret", "source": f"{SOURCE}/secret", "target": f"{TARGET}/secret", "every": NEVER},
    {"name": "large", "source": f"{SOURCE}/large", "target": f"{TARGET}/large", "every": NEVER, "bandwidth": "2m"},
]
VARIABLES: dict[str, Any] = {
    "llm_stack_inhabited_groups": ["storage_hosts"],
    "llm_stack_monitoring": True,
    "monitoring_storage_readers": [GATEWAY],
    "storage_host_snapshots": [{"dataset": f"{SOURCE}/data"}, {"dataset": f"{SOURCE}/never"}],
    "storage_host_nfs_exports": [{"path": f"/{SOURCE}/data", "clients": ["10.77.0.0/24"]}],
    "storage_backup_replications": JOBS,
    "storage_backup_drill": {"scratch": f"{SOURCE}/drill", "every": NEVER},
}
ROLE = REPO / "roles" / "monitoring"


@pytest.fixture(scope="module")
def storage(lab: Lab) -> Iterator[Lab]:
    """Two pools on the spare disks, with datasets that hold something. What is stored is found on the disks as it is."""
    packages = ("prometheus-node-exporter", "prometheus-node-exporter-collectors", "smartmontools", "sanoid")
    debs.offer(lab, MACHINE, *packages)
    for pool, disk in DISKS.items():
        make_pool(lab, MACHINE, f"-O compression=off -m /{pool} {pool} /dev/disk/by-id/{disk}")
    lab.ssh(MACHINE, f"printf %s {KEY} > /root/key && zfs create {SOURCE}/data && zfs create {SOURCE}/never")
    lab.ssh(MACHINE, f"zfs create -o encryption=on -o keyformat=passphrase -o keylocation=file:///root/key {SOURCE}/secret")
    lab.ssh(MACHINE, f"zfs create {SOURCE}/large && head -c 40M /dev/urandom > /{SOURCE}/large/blob")
    fill = f"""
import sqlite3
db = sqlite3.connect("/{SOURCE}/data/documents.sqlite")
db.execute("create table t (a)")
db.executemany("insert into t values (?)", [("x" * 100,)] * 500)
db.commit()
for folder in ("data", "secret"):
    open("/{SOURCE}/" + folder + "/words", "w").write("words " * 10000)
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
    # Pruning cannot take what is held: releases of ZFS say so in other words.
    said = on(f"zfs destroy {TARGET}/{job}@first 2>&1 || true")
    assert "being held" in said or "dataset is busy" in said


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
    on(f"zfs create {SOURCE}/plain && head -c 1M /dev/urandom > /{SOURCE}/plain/a")
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


Act = Callable[[Lab], object]
VOLUME, MOUNT, AGED = f"{TARGET}/volume", "/mnt/causes", f"{SOURCE}/aged"
WWN, INITIATOR = "iqn.2026-01.lab.causes:disk", "iqn.2026-01.lab.causes:host"
GROUP = f"/sys/kernel/config/target/iscsi/{WWN}/tpgt_1"
NODE = f"iscsiadm -m node -T {WWN} -p 127.0.0.1:3267 -I causes"
NVME = "P4610"
OPEN_TARGET = f"""
import rtslib_fb as lio
lio.RTSRoot()  # loads the kernel's part
disk = lio.FileIOStorageObject("causes", "/var/tmp/causes.img", 16 << 20)
group = lio.TPG(lio.Target(lio.FabricModule("iscsi"), "{WWN}"), 1)
lio.NetworkPortal(group, "127.0.0.1", 3267)
unit = lio.LUN(group, 0, disk)
group.set_attribute("authentication", "0")
lio.MappedLUN(lio.NodeACL(group, "{INITIATOR}"), 0, unit)
group.enable = True
"""
REMOVE_TARGET = f"""
import rtslib_fb as lio
root = lio.RTSRoot()
for target in [one for one in root.targets if one.wwn == "{WWN}"]:
    target.delete()
for disk in [one for one in root.storage_objects if one.name == "causes"]:
    disk.delete()
"""
# An emulated machine that waits for its turn answers no ping in time; and what asks the lost disk is to be answered soon.
PATIENCE = {"node.conn[0].timeo.noop_out_interval": 0, "node.session.timeo.replacement_timeout": 5}


@pytest.fixture(scope="module")
def ready(kept: Lab, prometheus: Callable[[str], list[Any]]) -> Iterator[Lab]:
    """What causes are made with: a small file system, a backup that soon is old, a session of this host with a target of its own."""

    def on(command: str, **options: Any) -> str:
        return kept.ssh(MACHINE, command, seconds=900, **options)

    job = {"name": "aged", "source": AGED, "target": f"{TARGET}/aged", "max_age_hours": 0.3}
    settings = [f"{NODE} -o update -n '{name}' -v {value}" for name, value in PATIENCE.items()]
    try:
        on(f"zfs create -s -V 64M {VOLUME} && udevadm wait --timeout=100 /dev/zvol/{VOLUME} && mkfs.ext4 -q /dev/zvol/{VOLUME}")
        on(f"mkdir -p {MOUNT} && mount /dev/zvol/{VOLUME} {MOUNT}")
        on(f"zfs create {AGED} && cat > /etc/llm-stack/backup/jobs/aged.json", stdin=json.dumps(job))
        on(f"zfs snapshot {SOURCE}/never@here; systemctl start nfs-server")
        on("truncate -s 16M /var/tmp/causes.img && python3 -W ignore -", stdin=OPEN_TARGET)
        on(f"iscsiadm -m iface -I causes -o new && iscsiadm -m iface -I causes -o update -n iface.initiatorname -v {INITIATOR}")
        on(" && ".join([f"{NODE} -o new", *settings, f"{NODE} --login"]))
        # A session that was never seen cannot be missed.
        until(lambda: bool(prometheus(f'iscsi_initiator_logged_in{{target="{WWN}"}} == 1')), True, 200)
        yield kept
    finally:
        on(f"{NODE} --logout; {NODE} -o delete; iscsiadm -m iface -I causes -o delete", check=False)
        on("python3 -W ignore - && rm -f /var/tmp/causes.img", stdin=REMOVE_TARGET, check=False)
        on(f"rm -f /etc/llm-stack/backup/jobs/aged.json /var/lib/prometheus/node-exporter/llm-*-aged.prom; umount {MOUNT}", check=False)


def by(command: str) -> Act:
    """Return what runs a command line on the storage host."""
    return lambda lab: lab.ssh(MACHINE, command, seconds=900)


def disk_warns(bits: int) -> Act:
    """Return what lets the controller of a disk say how it is, and has the disks asked, as the timer does every quarter of an hour.

    :param bits: the critical warning of its SMART log (NVM Express, Get Log Page 02h); 4 is a disk that has become unreliable.
    """

    def act(lab: Lab) -> None:
        machine = lab.get(MACHINE)
        assert isinstance(machine, VirtualMachine)
        with Qmp(machine.monitor) as monitor:
            monitor.command("qom-set", path=f"/machine/peripheral/nvme-{NVME}", property="smart_critical_warning", value=bits)
        # Started anew, for a look under way may have seen the disk as it was.
        lab.ssh(MACHINE, "systemctl restart prometheus-node-exporter-smartmon.service", seconds=900)

    return act


@dataclass(frozen=True)
class Cause:
    """What makes an alert fire, and what ends that.

    :param of: labels by which the alert is told from others of its name.
    """

    begin: Act
    end: Act
    of: dict[str, str] = field(default_factory=dict)


NEWLY = f"zfs snapshot {AGED}@$(date +%s) && {PROGRAM} run aged"
# By alert, one at least for each exporter of a storage host. Those that take long to fire come first.
CAUSES = {
    "ZfsPoolFilling": Cause(
        by(f"head -c $(($(zfs get -Hpo value available {SOURCE}) / 20 * 19)) /dev/zero > /{SOURCE}/large/full"),
        by(f"rm /{SOURCE}/large/full"),
        {"pool": SOURCE},
    ),
    # After it no run follows, until the end.
    "BackupOld": Cause(by(NEWLY), by(NEWLY), {"job_name": "aged"}),
    "ZfsSnapshotsOld": Cause(by(f"zfs destroy {SOURCE}/never@%"), by(f"zfs snapshot {SOURCE}/never@again"), {"dataset": f"{SOURCE}/never"}),
    "DiskFilling": Cause(by(f"cat /dev/zero > {MOUNT}/full || sync"), by(f"rm {MOUNT}/full && sync"), {"mountpoint": MOUNT}),
    "NfsServerDown": Cause(by("systemctl stop nfs-server"), by("systemctl start nfs-server")),
    "IscsiTargetClosed": Cause(by(f"echo 0 > {GROUP}/enable"), by(f"echo 1 > {GROUP}/enable"), {"target": WWN}),
    # The target that is closed ends it, and the initiator logs in by itself once that is open.
    "IscsiSessionLost": Cause(by("true"), by("true"), {"target": WWN}),
    "SmartFailing": Cause(disk_warns(4), disk_warns(0), {"type": "nvme"}),
    "TargetDown": Cause(by("systemctl stop prometheus-node-exporter"), by("systemctl start prometheus-node-exporter")),
}
# Without the exporter nothing is known of the others.
ALONE = ("TargetDown",)


@pytest.mark.parametrize("alerts", [tuple(name for name in CAUSES if name not in ALONE), ALONE], ids=["together", "alone"])
def test_causes_fire_their_alerts_and_their_end_clears_them(
    ready: Lab, prometheus: Callable[[str], list[Any]], alerts: tuple[str, ...]
) -> None:
    def firing() -> set[str]:
        told = prometheus('ALERTS{alertstate="firing"} or vector(1)')
        assert told, "Prometheus does not answer"
        return {name for name in alerts if alert_times.fires(told, name, **CAUSES[name].of)}

    def cleared() -> set[str]:
        return set(alerts) - firing()

    # What an earlier test has left firing is over first.
    alert_times.wait(cleared, dict.fromkeys(alerts, time.monotonic()), seconds=400)
    begun: dict[str, float] = {}
    over: dict[str, float] = {}
    try:
        for name in alerts:
            CAUSES[name].begin(ready)
            begun[name] = time.monotonic()
        fired = alert_times.wait(firing, begun, seconds=400)
    finally:
        for name in reversed(list(begun)):
            CAUSES[name].end(ready)
            over[name] = time.monotonic()
    ended = alert_times.wait(cleared, over, seconds=400)
    for name in alerts:
        # The swarm's bench has a target that is down as well.
        line = name.replace("TargetDown", "StorageTargetDown")
        alert_times.note(line, fired[name])
        alert_times.note(line, ended[name], over=True)


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
