# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""llm-golden-image on a tree that looks like a worker: what it leaves out, what it empties, what it finds, and the disk it repeats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from programs import load

PROGRAM = Path(__file__).resolve().parents[3] / "playbooks" / "files" / "llm-golden-image"
MACHINE = "0123456789abcdef0123456789abcdef"
MODEL_TOKEN = "only-in-this-test-model-token"
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\n" + "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQ" * 2 + "\n"
# Nothing of these is in an image.
GONE = {
    "dev/console": "",
    "proc/version": "Linux",
    "run/docker.pid": "1",
    "tmp/left": "x",
    "var/tmp/left": "x",
    "etc/ssh/ssh_host_ed25519_key": KEY,
    "etc/ssh/ssh_host_ed25519_key.pub": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExamplePublicHostKey root@gpu1\n",
    "etc/wireguard/llm.key": "wireguard",
    "etc/systemd/system/multi-user.target.wants/wg-quick@llm.service": "x",
    "etc/llm-stack/join.json": json.dumps({"token": "SWMTKN-1-" + "0" * 50 + "-" + "1" * 25}),
    "etc/docker/key.json": "{}",
    "etc/docker/certs.d/registry:5000/client.key": KEY,
    "etc/ssl/private/server.key": KEY,
    "etc/shadow-": "root:$y$former:1:::::\n",
    "etc/iscsi/initiatorname.iscsi": "InitiatorName=iqn.x:1",
    "etc/netplan/50-cloud-init.yaml": "network: {}",
    "root/.ssh/authorized_keys": "ssh-ed25519 AAAA admin",
    "root/.docker/config.json": '{"auths": {}}',
    "root/.bash_history": "docker swarm join",
    "home/admin/.ssh/id_ed25519": KEY,
    "home/admin/.python_history": "x",
    "var/lib/cloud/instance/user-data.txt": "#cloud-config",
    "var/lib/dbus/machine-id": MACHINE,
    "var/lib/systemd/random-seed": "seed",
    "var/lib/dhcp/dhclient.leases": "lease",
    "var/lib/llm-stack/models/tiny.gguf": "GGUF",
    "var/lib/llm-stack/golden/former.raw": "x",
    "var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db": "x",
    "var/lib/docker/swarm/certificates/swarm-node.key": KEY,
    "var/lib/docker/containers/c1/config.v2.json": "{}",
    "var/lib/docker/volumes/v1/_data/secret": "x",
    "var/lib/docker/overlay2/own-layer/diff/secret": "x",
    "var/lib/docker/overlay2/own-layer-init/diff/etc/hostname": "x",
    "var/lib/docker/image/overlay2/layerdb/mounts/c1/mount-id": "own-layer",
    "var/lib/docker/image/overlay2/layerdb/mounts/c1/init-id": "own-layer-init",
    "var/lib/docker/image/overlay2/layerdb/tmp/write-set-1/diff": "x",
    "var/log/syslog": "gpu1 booted",
    "var/log/journal/" + MACHINE + "/system.journal": "x",
    "var/backups/shadow.bak": "x",
    "var/lib/dkms/mok.key": KEY,
    "swap.img": "x",
}
# All of these are.
STAYS = {
    "etc/ssh/sshd_config": "PermitRootLogin no\n",
    "etc/docker/certs.d/registry:5000/ca.crt": "-----BEGIN CERTIFICATE-----",
    "usr/bin/ssh": KEY,
    "usr/local/sbin/llm-swarm-rejoin": "#!/usr/bin/python3",
    "etc/systemd/system/llm-swarm-rejoin.service": "[Unit]",
    "var/lib/docker/overlay2/image-layer/diff/app/test.key": KEY,
    "var/lib/docker/image/overlay2/repositories.json": "{}",
    "var/lib/docker/image/overlay2/layerdb/sha256/1/cache-id": "image-layer",
    "var/lib/dpkg/info/libc6.list": "/.",
}
EMPTIED = {
    "etc/machine-id": MACHINE + "\n",
    "etc/hostname": "gpu1\n",
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 gpu1\n",
    "etc/shadow": "root:$y$j9T$salt$hash:20000:0:99999:7:::\ndaemon:*:20000::::::\nopen::20000::::::\nlocked:!:20000::::::\n"
    "admin:!$y$j9T$salt$hash:20000::::::\nformer:!!$6$salt$hash:20000::::::\nodd:*$6$salt$hash:20000::::::\n",
    "etc/gshadow": "root:*::\nadmin:!$6$salt$hash::admin\nteam:$6$salt$hash:admin:\n",
    "etc/docker/daemon.json": json.dumps({"node-generic-resources": ["GPU=GPU-1"], "log-driver": "local"}),
    "etc/llm-model-sync.json": json.dumps({"source": "https", "url": "https://192.0.2.11/models", "token": MODEL_TOKEN}),
}


golden = load(PROGRAM)


def put(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A worker's root file system."""
    made = tmp_path / "root"
    put(made, {**GONE, **STAYS, **EMPTIED})
    return made


@pytest.fixture
def copied(root: Path, tmp_path: Path) -> Path:
    """The copy that an image is made of."""
    made = tmp_path / "copied"
    made.mkdir()
    places = golden.left_out(root, root / "var/lib/llm-stack/golden", root / "var/lib/docker", root / "var/lib/llm-stack/models")
    golden.copy(root, made, places)
    golden.clean(made, "gpu1")
    return made


@pytest.mark.parametrize("name", GONE)
def test_left_out(copied: Path, name: str) -> None:
    assert not (copied / name).exists()


@pytest.mark.parametrize("name", STAYS)
def test_kept_as_it_is(copied: Path, name: str) -> None:
    assert (copied / name).read_text() == STAYS[name]


def test_directories_that_must_be_there_are_empty(copied: Path) -> None:
    for name in ("dev", "proc", "run", "tmp", "var/tmp", "var/log/journal", "var/lib/llm-stack/models"):
        assert list((copied / name).iterdir()) == []


def test_emptied(copied: Path) -> None:
    assert (copied / "etc/machine-id").read_text() == ""
    assert (copied / "etc/hostname").read_text() == "localhost\n"
    assert (copied / "etc/hosts").read_text() == "127.0.0.1 localhost\n"
    locked = "".join(f"{name}:!:20000::::::\n" for name in ("open", "locked", "admin", "former", "odd"))
    assert (copied / "etc/shadow").read_text() == "root:!:20000:0:99999:7:::\ndaemon:*:20000::::::\n" + locked
    assert (copied / "etc/gshadow").read_text() == "root:*::\nadmin:!::admin\nteam:!:admin:\n"
    assert json.loads((copied / "etc/docker/daemon.json").read_text()) == {"log-driver": "local"}
    assert json.loads((copied / "etc/llm-model-sync.json").read_text()) == {
        "source": "https",
        "url": "https://192.0.2.11/models",
        "token": "",
    }


def test_models_are_taken_along_when_asked_for(root: Path) -> None:
    places = golden.left_out(root, root / "golden", root / "var/lib/docker", None)
    assert not [place for place in places if "models" in place]


def test_nothing_is_found_in_a_clean_copy(root: Path, copied: Path) -> None:
    assert golden.suspicions(copied, golden.searched_for(root, [MODEL_TOKEN])) == []


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("opt/agent/settings", f"token={MODEL_TOKEN}", "/opt/agent/settings holds secret 1 of those given"),
        ("usr/local/bin/tool", f"token={MODEL_TOKEN}", "/usr/local/bin/tool holds secret 1 of those given"),
        ("var/lib/docker/overlay2/image-layer/diff/env", MODEL_TOKEN, "/var/lib/docker/overlay2/image-layer/diff/env holds secret 1 of"),
        ("opt/own.pem", KEY, "/opt/own.pem holds a private key"),
        ("opt/node.key", KEY.replace("\n", "\nkek-version: 0\n\n", 1), "/opt/node.key holds a private key"),
        ("srv/join.sh", "docker swarm join --token SWMTKN-1-" + "a" * 50 + "-b", "/srv/join.sh holds a token to join a swarm"),
        ("srv/unlock", "SWMKEY-1-" + "a" * 43, "/srv/unlock holds the key of a locked swarm"),
        ("etc/agent/id", MACHINE, "/etc/agent/id holds the machine's ID"),
        (f"var/lib/agent/{MACHINE}.db", "x", f"/var/lib/agent/{MACHINE}.db is named after the machine's ID"),
        ("etc/ssh_known", "AAAAC3NzaC1lZDI1NTE5AAAAIExamplePublicHostKey", "/etc/ssh_known holds the host key ssh_host_ed25519_key.pub"),
    ],
)
def test_what_is_left_of_the_machine_is_found_by_file(root: Path, copied: Path, name: str, text: str, found: str) -> None:
    put(copied, {name: text})
    said = golden.suspicions(copied, golden.searched_for(root, [MODEL_TOKEN]))
    assert len(said) == 1
    assert said[0].startswith(found)
    assert MODEL_TOKEN not in said[0]


def test_a_secret_across_two_pieces_of_a_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden, "CHUNK", 64)
    monkeypatch.setattr(golden, "OVERLAP", 40)
    (tmp_path / "large").write_bytes(b"x" * 50 + MODEL_TOKEN.encode() + b"x" * 500)
    assert golden.search(tmp_path / "large", {"it": MODEL_TOKEN.encode()}, {}) == ["it"]


def test_no_image_is_left_where_a_secret_was_found(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(root, {"opt/own.pem": KEY, "opt/settings": MODEL_TOKEN})
    image = tmp_path / "out" / "gpu1.raw"
    monkeypatch.setattr("sys.stdin", _Text(json.dumps({"secrets": [MODEL_TOKEN]})))
    argv = ["--root", str(root), "--output", str(image), "--engine-data", str(root / "var/lib/docker"), "--no-boot"]
    assert golden.main([*argv, "--models", str(root / "var/lib/llm-stack/models")]) == 1
    said = capsys.readouterr().err
    assert "No image was made, for it would give secrets away" in said
    assert "/opt/own.pem holds a private key" in said
    assert "/opt/settings holds secret 1 of those given" in said
    assert MODEL_TOKEN not in said
    assert list(image.parent.iterdir()) == []


def test_an_image_that_is_there_is_not_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gpu1.raw").write_text("former")
    monkeypatch.setattr("sys.stdin", _Text(""))
    assert golden.main(["--output", str(tmp_path / "gpu1.raw"), "--no-boot"]) == 1
    assert "is there already. Give the new image another name" in capsys.readouterr().err
    assert (tmp_path / "gpu1.raw").read_text() == "former"


class _Text:
    def __init__(self, text: str) -> None:
        self._text = text

    def read(self) -> str:
        return self._text


def table(**more: Any) -> dict[str, Any]:
    """A disk as Debian's cloud images have it: the root first by number and last by place."""
    parts = [
        {"node": "/dev/vda1", "start": 262144, "size": 20709343, "type": "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "uuid": "ROOT-UUID"},
        {"node": "/dev/vda14", "start": 2048, "size": 6144, "type": "21686148-6449-6E6F-744E-656564454649", "uuid": "BIOS-UUID"},
        {"node": "/dev/vda15", "start": 8192, "size": 253952, "type": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "uuid": "EFI-UUID"},
    ]
    return {"label": "gpt", "id": "DISK-UUID", "sectorsize": 512, "partitions": parts, **more}


def test_a_disk_is_repeated_with_its_boot_partitions_and_a_root_of_its_own_size() -> None:
    disk = golden.arranged("/dev/vda", table(), "/dev/vda1")
    assert disk.start == 262144
    assert disk.copied == ((0, 440), (2048 * 512, 6144 * 512), (8192 * 512, 253952 * 512))
    assert golden.script(disk, 1000) == (
        "label: gpt\nlabel-id: DISK-UUID\n"
        "1: start=262144, size=1000, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid=ROOT-UUID\n"
        "14: start=2048, size=6144, type=21686148-6449-6E6F-744E-656564454649, uuid=BIOS-UUID\n"
        "15: start=8192, size=253952, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid=EFI-UUID\n"
    )


def test_the_boot_code_behind_an_old_table_comes_along() -> None:
    old = table(label="dos", id="0x1", partitions=[{"node": "/dev/vda1", "start": 2048, "size": 4096, "type": "83", "bootable": True}])
    disk = golden.arranged("/dev/vda", old, "/dev/vda1")
    assert disk.copied == ((0, 440), (512, 2047 * 512))
    assert golden.script(disk, 100) == "label: dos\nlabel-id: 0x1\n1: start=2048, size=100, type=83, bootable\n"


@pytest.mark.parametrize(
    ("source", "changes", "text"),
    [
        ("/dev/vda14", {}, "/dev/vda14 is not the last partition of /dev/vda, so the image's root could not grow"),
        ("/dev/vdb1", {}, "/dev/vdb1 is not in the partition table of /dev/vda"),
        ("/dev/vda1", {"sectorsize": 4096}, "or its sectors are not of 512 bytes"),
    ],
)
def test_a_disk_that_cannot_be_repeated_is_refused(source: str, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(golden.Failed, match=text):
        golden.arranged("/dev/vda", table(**changes), source)
