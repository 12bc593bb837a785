# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""iscsi_target on the real LIO: created, repaired, refused and taken back, under an initiator that never stops writing.

The initiator is the storage host itself, by an interface with a name of its own, so that one machine is enough. Nothing outside FOLDER
and the target of this file is touched, and both are gone at the end.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any, Callable, Iterator

import pytest
from labkit import config, network
from labkit.artifacts import python
from labkit.lab import Lab

pytestmark = pytest.mark.long

FOLDER = "/var/tmp/iscsi"
WWN = "iqn.2026-01.lab.wiscsi:test"
HOST = "iqn.2026-01.lab.wiscsi:host"
OTHER = "iqn.2026-01.lab.wiscsi:other"
PORTAL = "127.0.0.1:3266"
GROUP = f"/sys/kernel/config/target/iscsi/{WWN}/tpgt_1"
CORE = "/sys/kernel/config/target/core"
# sshd listens there. An address of another host would do no harm: the kernel listens on what may come.
TAKEN = "127.0.0.1:22"
PASSWORD = "lab-only-chap-secret"
Run = Callable[..., dict[str, Any]]
On = Callable[..., str]

# Writes and reads back until it is told to stop; any error of the disk ends it with a word.
WRITER = f"""
import mmap, os, sys
disk = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT | os.O_SYNC)
block = mmap.mmap(-1, 4096)
rounds = 0
try:
    while not os.path.exists("{FOLDER}/stop"):
        block[:] = (b"%08d" % rounds) * 512
        at = rounds % 1024 * 4096
        assert os.pwrite(disk, block, at) == 4096
        back = mmap.mmap(-1, 4096)
        assert os.preadv(disk, [back], at) == 4096 and back[:] == block[:]
        rounds += 1
        with open("{FOLDER}/rounds.new", "w") as file:
            file.write(str(rounds))
        os.replace("{FOLDER}/rounds.new", "{FOLDER}/rounds")
except BaseException as error:
    open("{FOLDER}/outcome", "w").write(f"error {{error!r}}")
    raise
open("{FOLDER}/outcome", "w").write("no error")
"""


def lun(index: int, **changes: Any) -> dict[str, Any]:
    return {"lun": index, "name": f"wit{index}", "plugin": "fileio", "device": f"{FOLDER}/wit{index}.img", "size": "16MiB", **changes}


def acl(**changes: Any) -> dict[str, Any]:
    return {"initiator": HOST, "userid": "host", "password": PASSWORD, "mapped_luns": [{"lun": 0}, {"lun": 1}], **changes}


def target(**changes: Any) -> dict[str, Any]:
    settings = {"attributes": {"login_timeout": 20}, "parameters": {"MaxOutstandingR2T": 4}}
    disks = [lun(0, attributes={"emulate_tpu": 1}), lun(1)]
    return {"wwn": WWN, "portals": [PORTAL], "luns": disks, "acls": [acl(attributes={"nopin_timeout": 20})], **settings, **changes}


@pytest.fixture
def on(lab: Lab, zfs_host: str) -> On:
    """Run a command line on the storage host."""
    return lambda command, **options: lab.ssh(zfs_host, command, **options)


@pytest.fixture(scope="module")
def run(lab: Lab, zfs_host: str) -> Iterator[Run]:
    """Run the module on the storage host, and leave nothing of this file behind."""
    # Not every machine of the lab is one of the inventory's.
    hosts = lab.paths.state / zfs_host / "iscsi.json"
    hosts.parent.mkdir(exist_ok=True)
    hosts.write_text(json.dumps({"storage_hosts": {"hosts": {zfs_host: {"ansible_host": config.machine(zfs_host).address}}}}))
    inventory = ["-i", str(lab.paths.state.parent / "inventories" / "lab"), "-i", str(hosts)]

    def call(*targets: dict[str, Any], check: bool = False) -> dict[str, Any]:
        options = json.dumps({"targets": targets, "save_file": f"{FOLDER}/saveconfig.json"})
        argv = [*network.inside(lab.paths), str(python().with_name("ansible")), *inventory, zfs_host, "--diff"]
        argv += ["-m", "selfhosted.llm_stack.iscsi_target", "-a", options, *(["--check"] if check else [])]
        environment = {**lab.environment(), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal"}
        ended = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        head, found, text = ended.stdout.partition("=> ")
        assert found, ended.stdout + ended.stderr
        assert "lab-only-" not in text
        return {**json.JSONDecoder().raw_decode(text)[0], "head": head}

    def tidy() -> None:
        lab.ssh(zfs_host, f"touch {FOLDER}/stop; iscsiadm -m node -T {WWN} --logout; iscsiadm -m node -T {WWN} -o delete", check=False)
        lab.ssh(zfs_host, "iscsiadm -m iface -I wiscsi -o delete", check=False)
        assert "msg" not in call({"wwn": WWN, "state": "absent", "confirm": WWN})
        lab.ssh(zfs_host, f"rm -rf {FOLDER}; mkdir -p {FOLDER}")

    lab.ssh(zfs_host, f"mkdir -p {FOLDER}")
    tidy()
    yield call
    tidy()
    lab.ssh(zfs_host, f"test ! -e {GROUP} && ! ls -d {CORE}/*/wit* 2>/dev/null && rm -rf {FOLDER}")


@pytest.fixture(scope="module")
def there(run: Run) -> dict[str, Any]:
    """The target as declared; what its run told."""
    return run(target())


@pytest.fixture
def state(lab: Lab, zfs_host: str) -> Callable[[], dict[str, Any]]:
    """What runs, as rtslib tells it."""

    def read() -> dict[str, Any]:
        program = (
            "import json, rtslib_fb as r; root = r.RTSRoot(); "
            f"print(json.dumps([[s.dump() for s in root.storage_objects if s.name.startswith('wit')], "
            f"[t.dump() for t in root.targets if t.wwn == '{WWN}']]))"
        )
        return dict(zip(("stores", "targets"), json.loads(lab.ssh(zfs_host, f'python3 -W ignore -c "{program}"'))))

    return read


def test_check_mode_creates_nothing(run: Run, on: On) -> None:
    told = run(target(), check=True)
    assert told["changed"]
    assert told["plan"][-1].startswith("Save the configuration")
    assert on(f"test -e {GROUP} || test -e {FOLDER}/wit0.img || echo nothing").strip() == "nothing"


def test_a_target_is_created_closed_first_and_then_nothing_is_to_do(run: Run, there: dict[str, Any], on: On) -> None:
    assert there["serials"].keys() == {"wit0", "wit1"}
    assert on(f"cat {GROUP}/enable {GROUP}/attrib/authentication").split() == ["1", "1"]
    assert on(f"stat -c %a {FOLDER}/saveconfig.json").strip() == "600"
    again = run(target())
    assert (again["changed"], again["plan"], again["saved_drift"], again["serials"]) == (False, [], [], there["serials"])


# What is altered behind the module's back, and the sentence of the plan that repairs it.
DRIFT = [
    (f"echo 0 > {GROUP}/attrib/authentication", f"Set authentication of target {WWN} to 1: it is 0"),
    (f"echo 1 > {GROUP}/attrib/generate_node_acls", f"Set generate_node_acls of target {WWN} to 0: it is 1"),
    ("true", f"Set cache_dynamic_acls of target {WWN} to 0: it is 1"),  # by the kernel, with the one above
    (f"echo 15 > {GROUP}/attrib/login_timeout", f"Set login_timeout of target {WWN} to 20: it is 15"),
    (f"echo 1 > {GROUP}/param/MaxOutstandingR2T", f"Set MaxOutstandingR2T of target {WWN} to 4: it is 1"),
    (f"echo 15 > {GROUP}/acls/{HOST}/attrib/nopin_timeout", f"Set nopin_timeout of {HOST} at target {WWN} to 20: it is 15"),
    (f"echo another-password > {GROUP}/acls/{HOST}/auth/password", f"Set the CHAP credentials of {HOST} at target {WWN}"),
    (f"echo 1 > {GROUP}/acls/{HOST}/lun_1/write_protect", f"Make mapped LUN 1 of {HOST} at target {WWN} writable"),
    (f"rmdir {GROUP}/np/{PORTAL}", f"Listen on {PORTAL} for target {WWN}"),
    (f"echo 0 > {CORE}/*/wit0/attrib/emulate_tpu", "Set emulate_tpu of backstore wit0 to 1: it is 0"),
    (f"echo 0 > {GROUP}/enable", f"Open target {WWN} to its initiators"),
]


@pytest.mark.usefixtures("there")
def test_drift_of_every_kind_is_found_and_repaired(run: Run, on: On, state: Callable[[], dict[str, Any]]) -> None:
    before = state()
    on(" && ".join(alter for alter, _sentence in DRIFT))
    told = run(target())
    assert sorted(told["plan"][:-1]) == sorted(sentence for _alter, sentence in DRIFT)
    assert len(told["saved_drift"]) >= len(DRIFT)
    assert state() == before
    assert run(target(), check=True)["plan"] == []


@pytest.mark.usefixtures("there")
def test_drift_that_would_exchange_a_disk_is_refused(run: Run, state: Callable[[], dict[str, Any]]) -> None:
    before = state()
    other = [lun(0, device=f"{FOLDER}/other.img"), lun(1, size="8MiB", serial="0123456789abcdef")]
    told = run(target(luns=other))
    assert (told["changed"], told.get("failed", "FAILED" in told["head"])) == (False, True)
    for sentence in (
        f"Refusing to put {FOLDER}/other.img behind LUN 0",
        "Refusing to change the serial of LUN 1",
        f"Refusing to shrink LUN 1 of target {WWN} from 16 MiB to 8 MiB",
    ):
        assert sentence in told["msg"]
    assert state() == before


@pytest.mark.usefixtures("there")
def test_a_file_grows_with_its_serial_and_its_data(run: Run, on: On, there: dict[str, Any], state: Callable[[], dict[str, Any]]) -> None:
    on(f"echo kept | dd of={FOLDER}/wit1.img conv=notrunc status=none")
    grown = run(target(luns=[lun(0), lun(1, size="24MiB")]))
    assert grown["serials"] == there["serials"]
    assert {store["name"]: store["size"] for store in state()["stores"]} == {"wit0": 16 * 1024**2, "wit1": 24 * 1024**2}
    assert on(f"head -c 4 {FOLDER}/wit1.img; stat -c ' %s' {FOLDER}/wit1.img").split() == ["kept", str(24 * 1024**2)]


GROWN = [lun(0), lun(1, size="24MiB")]


def test_a_session_under_load_survives_all_but_what_it_allows(
    run: Run, on: On, request: pytest.FixtureRequest, state: Callable[[], dict[str, Any]]
) -> None:
    run(target(luns=GROWN))
    session = log_in(on)
    request.addfinalizer(lambda: on(f"touch {FOLDER}/stop; sleep 2; iscsiadm -m node -T {WWN} --logout", check=False))
    disk = f"/dev/disk/by-path/ip-{PORTAL}-iscsi-{WWN}-lun-0"
    on(f"rm -f {FOLDER}/stop; udevadm wait --timeout=100 {disk} && cat > {FOLDER}/writer.py", stdin=WRITER)
    on(f"systemd-run --quiet --collect --unit=wiscsi-writer python3 {FOLDER}/writer.py {disk}")
    declared = target(luns=[*GROWN, lun(2)], acls=[acl(mapped_luns=[{"lun": index} for index in range(3)])])
    told = run(declared)
    assert told.get("changed"), told
    assert written(on)
    # Another initiator, and a new password for the one that is logged in.
    declared["acls"][0]["password"] = f"{PASSWORD}-2"
    declared["acls"].append(acl(initiator=OTHER, userid="other", mapped_luns=[{"lun": 2}]))
    told = run(declared)
    assert told.get("changed"), told
    assert told["warnings_planned"] == [f"{HOST} stays logged in at target {WWN}, and needs its new CHAP credentials at its next login."]
    assert written(on)
    assert not run(declared)["changed"]
    before = state()
    file = on(f"cat {FOLDER}/saveconfig.json")
    refused(run, declared, before, state)
    failed = run({**declared, "luns": [*declared["luns"], lun(3)], "portals": [PORTAL, TAKEN]})
    assert "Everything this run had changed was taken back: all is as it was before." in failed["msg"]
    assert not failed["changed"]
    assert state() == before
    assert on(f"cat {FOLDER}/saveconfig.json") == file
    assert written(on)
    assert log_in_number(on) == session
    on(f"touch {FOLDER}/stop; for i in $(seq 60); do test -e {FOLDER}/outcome && break; sleep 1; done")
    assert on(f"cat {FOLDER}/outcome") == "no error"


def refused(run: Run, declared: dict[str, Any], before: dict[str, Any], state: Callable[[], dict[str, Any]]) -> None:
    """What the session would lose is refused, whatever else is allowed."""
    without = {
        **declared,
        "luns": declared["luns"][1:],
        "acls": [acl(mapped_luns=[{"lun": 1}]), declared["acls"][1]],
        "allow_remove": ["wit0"],
    }
    for wanted, sentence in (
        (without, "Refusing to remove LUN 0 (wit0)"),
        ({**declared, "luns": [lun(0, size="32MiB"), *declared["luns"][1:]]}, "Refusing to rebuild LUN 0 (wit0)"),
        ({"wwn": WWN, "state": "absent", "confirm": WWN}, f"Refusing to remove target {WWN}"),
    ):
        told = run(wanted, check=True)
        assert sentence in told.get("msg", ""), told
        assert f"{HOST} is logged in" in told["msg"]
    assert state() == before


def log_in(on: On) -> str:
    """Log in by an interface with a name of its own, and return the number of the session."""
    on("iscsiadm -m iface -I wiscsi -o new && iscsiadm -m iface -I wiscsi -o update -n iface.initiatorname -v " + HOST)
    node = f"iscsiadm -m node -T {WWN} -p {PORTAL} -I wiscsi"
    on(f"{node} -o new")
    chap = {"node.session.auth.authmethod": "CHAP", "node.session.auth.username": "host", "node.session.auth.password": PASSWORD}
    # An emulated machine that waits for its turn answers no ping in time: that is not what is asked here.
    patience = {"node.conn[0].timeo.noop_out_interval": "0", "node.session.timeo.replacement_timeout": "600"}
    settings = {**chap, **patience}
    on(" && ".join(f"{node} -o update -n '{name}' -v {value}" for name, value in settings.items()))
    on(f"{node} --login")
    return log_in_number(on)


def log_in_number(on: On) -> str:
    return on(f"iscsiadm -m session | grep '{WWN} ' | cut -d' ' -f2").strip()


def written(on: On) -> bool:
    """Whether the writer goes on; it is given a minute for its next round."""
    now = f"$(cat {FOLDER}/rounds 2>/dev/null)"
    wait = f'for i in $(seq 120); do test "{now}" != "$first" && break; test -e {FOLDER}/outcome && break; sleep 0.5; done'
    return on(f'first="{now}"; {wait}; test "{now}" != "$first" && ! test -e {FOLDER}/outcome && echo goes on').strip() == "goes on"
