# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""storage1 while it is in use and while it is built: a session survives what is done beside it, a killed run is finished by the next."""

from __future__ import annotations

import json
import subprocess
from typing import Any, Iterator

import pytest
import yaml
from labkit import network
from labkit.artifacts import python
from labkit.config import REPO
from labkit.lab import Lab
from labkit.load import Writer
from labkit.play import INVENTORY, play

STORAGE = REPO / "playbooks" / "storage.yml"
LAB_VARIABLES = yaml.safe_load((INVENTORY / "group_vars" / "all.yml").read_text())
TARGET, PORTAL = "iqn.2026-01.lab.llm:storage1", "10.77.0.11:3260"
NODE = f"iscsiadm -m node -T {TARGET} -p {PORTAL}"
DISK = f"/dev/disk/by-path/ip-{PORTAL}-iscsi-{TARGET}-lun-0"


@pytest.fixture(scope="module")
def storage(lab: Lab) -> Lab:
    """storage1 as storage.yml makes it, which an earlier test of this session may have had done already."""
    made = "zpool list llm && nft list table inet llm_stack_storage && systemctl is-active nfs-server sanoid.timer && echo made"
    if "\nmade" not in lab.ssh("storage1", made, check=False):
        assert play(lab, STORAGE).status == 0
    return lab


# --- a session under load ---------------------------------------------------------------------------------------------------


@pytest.fixture
def session(storage: Lab) -> Iterator[Lab]:
    """gpu1 logged in to storage1; the target is as declared again afterwards."""
    storage.ssh("gpu1", "printf 'InitiatorName=iqn.2026-01.lab.llm:gpu1\\n' > /etc/iscsi/initiatorname.iscsi && systemctl restart iscsid")
    storage.ssh("gpu1", f"iscsiadm -m discovery -t sendtargets -p {PORTAL}")
    for name, value in (("authmethod", "CHAP"), ("username", "gpu1"), ("password", "lab-only-chap-secret")):
        storage.ssh("gpu1", f"{NODE} -o update -n node.session.auth.{name} -v {value}")
    storage.ssh("gpu1", f"{NODE} --login && udevadm settle && ls {DISK}")
    yield storage
    storage.ssh("gpu1", f"{NODE} --logout; {NODE} -o delete; true", check=False)


def target_module(lab: Lab, *luns: dict[str, Any], acls: list[dict[str, Any]]) -> dict[str, Any]:
    """Run the module iscsi_target on storage1, with the declared LUN and more, and return its result."""
    declared = LAB_VARIABLES["storage_host_iscsi_targets"][0]
    targets = [{**declared, "luns": [*declared["luns"], *luns], "acls": acls}]
    argv = [*network.inside(lab.paths), str(python().with_name("ansible")), "-i", str(INVENTORY), "storage1", "-o"]
    argv += ["-m", "selfhosted.llm_stack.iscsi_target", "-a", json.dumps({"targets": targets})]
    environment = {**lab.environment(), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_COLLECTIONS_PATH": str(REPO / "build" / "collections")}
    ended = subprocess.run(argv, cwd=REPO, env=environment, capture_output=True, text=True, check=False)
    return dict(json.loads(ended.stdout[ended.stdout.index("{") :]))


def session_identity(lab: Lab) -> str:
    """What a session that was dropped and made again would not have kept: its number, and what the kernel says of its connection."""
    sid = lab.ssh("gpu1", "iscsiadm -m session").split("[")[1].split("]")[0]
    errors = "journalctl -k -o cat | grep -ciE 'connection[0-9:]* .*error|I/O error' || true"
    return lab.ssh("gpu1", f"echo {sid}; cat /sys/class/iscsi_session/session{sid}/state; {errors}")


def test_a_session_under_load_survives_what_is_done_beside_it(session: Lab) -> None:
    gpu1 = LAB_VARIABLES["storage_host_iscsi_targets"][0]["acls"][0]
    gpu2 = {"initiator": "iqn.2026-01.lab.llm:gpu2", "userid": "gpu2", "password": "lab-only-chap-other", "mapped_luns": [{"lun": 1}]}
    disk1 = {"lun": 1, "name": "disk1", "device": "/dev/zvol/llm/vm/disk1"}
    session.ssh("storage1", "zfs create -s -V 64M llm/vm/disk1 && udevadm settle")
    before = session_identity(session)
    writer = Writer(session, "gpu1", DISK)
    try:
        writer.wait(3)
        alone = [{**gpu1, "mapped_luns": [{"lun": 0}]}]
        added = target_module(session, disk1, acls=alone)
        assert added["changed"] and "disk1" in " ".join(added["plan"])
        writer.go_on()
        both = [*alone, gpu2]
        assert target_module(session, disk1, acls=both)["changed"]
        writer.go_on()
        both[0] = {**alone[0], "mapped_luns": [{"lun": 0}, {"lun": 1}]}
        assert target_module(session, disk1, acls=both)["changed"]
        writer.go_on()
        assert not target_module(session, disk1, acls=both)["changed"]
        writer.go_on()
        failed = target_module(session, {**disk1, "device": "/dev/zvol/llm/vm/gone"}, acls=both)
        assert "/dev/zvol/llm/vm/gone" in failed["msg"] and not failed["changed"]
        writer.go_on()
        assert session_identity(session) == before
    finally:
        writer.stop()


# --- a killed run ------------------------------------------------------------------------------------------------------------


def damage(lab: Lab) -> None:
    """Differences in every part of what the role keeps; the NFS server runs with settings that are not the declared ones."""
    lab.ssh("storage1", "zfs set recordsize=128K llm/models && rm -f /etc/nfs.conf.d/llm-stack.conf /etc/exports.d/llm-stack.exports")
    lab.ssh("storage1", "echo '# other' >> /etc/nginx/conf.d/llm-stack-models.conf && rm -f /etc/sanoid/sanoid.conf")
    lab.ssh("storage1", "systemctl disable --now sanoid.timer && nft delete table inet llm_stack_storage && systemctl restart nfs-server")


def converges(lab: Lab) -> None:
    """The next run finishes, and the one after it has nothing to do."""
    assert play(lab, STORAGE).status == 0
    again = play(lab, STORAGE)
    assert (again.status, again.changed) == (0, ())


@pytest.mark.long
def test_a_killed_run_is_finished_by_the_next(storage: Lab) -> None:
    damage(storage)
    killed = play(storage, STORAGE, kill_at="Enable the services, and start those that run")
    assert killed.status < 0, "the run ended before it was killed"
    assert play(storage, STORAGE).status == 0
    look = "zfs get -H -o value recordsize llm/models; systemctl is-active sanoid.timer; cat /proc/fs/nfsd/threads"
    assert storage.ssh("storage1", look).split() == ["1M", "active", "32"]


@pytest.mark.long
@pytest.mark.parametrize(
    "task",
    [
        "Divide the disks",
        "Keep the pools",
        "Keep the datasets",
        "Offer the iSCSI targets",
        "Write the configuration files",
        "Enable the services, and start those that run",
        "Copy the models from the controller",
        "Ask the services as their clients do",
    ],
)
def test_a_first_run_killed_at_any_task_is_finished_by_the_next(lab: Lab, task: str) -> None:
    lab.forget("storage1")
    lab.up(["storage1"])
    killed = play(lab, STORAGE, kill_at=task)
    assert killed.status < 0, "the run ended before it was killed"
    converges(lab)


# --- the firewall, and who hears of faults -----------------------------------------------------------------------------------


def test_the_firewall_opens_what_is_named_and_leaves_ssh_alone(storage: Lab) -> None:
    knock = "timeout 5 bash -c '</dev/tcp/10.77.0.11/{}' 2>/dev/null && echo open || echo closed"
    seen = {
        (machine, port): storage.ssh(machine, knock.format(port)).strip() for machine in ("gpu1", "gpu2") for port in (22, 2049, 3260, 8443)
    }
    closed = [key for key, answer in seen.items() if answer == "closed"]
    # Only gpu1 is named for iSCSI.
    assert closed == [("gpu2", 3260)]
    storage.ssh("storage1", "systemctl start nftables && systemctl restart llm-stack-firewall")
    # systemctl waits for nftables alone; what follows it is a job of its own.
    followed = "while systemctl list-jobs --no-legend | grep -q llm-stack-firewall; do sleep 0.2; done"
    for verb in ("restart", "reload"):
        storage.ssh("storage1", f"systemctl {verb} nftables; {followed}")
        assert storage.ssh("gpu2", knock.format(3260)).strip() == "closed", f"nftables took this table with it at its {verb}"


_HOOK = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        print(self.rfile.read(int(self.headers["Content-Length"])).decode(), flush=True)
        self.send_response(200)
        self.end_headers()
    def log_message(self, *arguments):
        pass
http.server.HTTPServer(("10.77.0.1", 8099), Handler).serve_forever()
"""


@pytest.fixture
def hook(storage: Lab) -> Iterator[subprocess.Popen[str]]:
    """The web hook of the lab's inventory: prints what it gets."""
    argv = [*network.inside(storage.paths), str(python()), "-c", _HOOK]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as listening:
        yield listening
        listening.kill()


def test_faults_of_pools_and_disks_reach_the_web_hook(storage: Lab, hook: subprocess.Popen[str]) -> None:
    assert hook.stdout
    disk = "/dev/disk/by-id/virtio-HGST0"
    storage.ssh("storage1", f"zpool offline llm {disk} && zpool scrub -w llm")
    try:
        assert "pool: llm" in json.loads(hook.stdout.readline())["text"]
    finally:
        storage.ssh("storage1", f"zpool online llm {disk}")
    storage.ssh(
        "storage1", "SMARTD_FAILTYPE=Health SMARTD_DEVICE=/dev/sda SMARTD_MESSAGE='it will fail' /etc/smartmontools/run.d/50llm-stack"
    )
    # ZED may tell of the disk that came back, too.
    while "SMART Health on /dev/sda" not in (text := json.loads(hook.stdout.readline())["text"]):
        assert "llm" in text
    assert "it will fail" in text


def test_snapshots_and_scrubs_run_by_the_clock_and_only_once(storage: Lab) -> None:
    assert storage.ssh("storage1", "systemctl is-active sanoid.timer zfs-scrub-monthly@llm.timer").split() == ["active", "active"]
    storage.ssh("storage1", "systemctl start sanoid.service")
    assert "llm/datasets@autosnap_" in storage.ssh("storage1", "zfs list -H -t snapshot -o name llm/datasets")
    # The distribution's monthly job looks at this property, and passes the pool over.
    before = storage.ssh("storage1", "zpool history llm | grep -c 'zpool scrub' || true")
    storage.ssh("storage1", "/usr/lib/zfs-linux/scrub")
    assert storage.ssh("storage1", "zpool history llm | grep -c 'zpool scrub' || true") == before


def test_parameters_of_the_module_are_set_now_and_at_the_next_boot(storage: Lab) -> None:
    look = "cat /sys/module/zfs/parameters/zfs_arc_max; grep -h zfs_arc_max /etc/modprobe.d/llm-stack-zfs.conf"
    assert storage.ssh("storage1", look).split("\n")[:2] == ["536870912", "options zfs zfs_arc_max=536870912"]
