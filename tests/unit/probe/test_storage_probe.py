# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a storage host is asked: an iSCSI login against a small target on the loopback, NFS in folders, the store with its answers."""

from __future__ import annotations

import hashlib
import socket
import threading
from pathlib import Path
from typing import Any, Iterator, Sequence

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import CommandFailed
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._probe import iscsi, nfs, store
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._run import Completed, Runner

WWN, INITIATOR = "iqn.2026-01.lab:target", "iqn.2026-01.lab:gpu1"
SECRET, MUTUAL = "a secret of the unit test", "another of the unit test"


class Target:
    """The target side of a login, as far as RFC 7143 asks for it here; one thread, one connection after another."""

    def __init__(self, *, chap: bool = True, speaks: bytes = b"") -> None:
        self.chap = chap
        self.speaks = speaks
        self.isids: list[bytes] = []
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.portal = f"127.0.0.1:{self.listening.getsockname()[1]}"
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def stop(self) -> None:
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        self.thread.join()

    def _serve(self) -> None:
        while True:
            try:
                line = self.listening.accept()[0]
            except OSError:
                return
            with line:
                if self.speaks:
                    line.sendall(self.speaks)
                else:
                    self._login(line)

    def _login(self, line: socket.socket) -> None:
        first = self._read(line)
        if first["TargetName"] != WWN:
            return self._answer(line, 0x0203, {})
        if first["InitiatorName"] != INITIATOR:
            return self._answer(line, 0x0202, {})
        if not self.chap:
            return self._answer(line, 0, {"AuthMethod": "None"}, transit=True)
        if "CHAP" not in first["AuthMethod"]:
            return self._answer(line, 0x0201, {})
        self._answer(line, 0, {"AuthMethod": "CHAP"})
        assert self._read(line) == {"CHAP_A": "5"}
        self._answer(line, 0, {"CHAP_A": "5", "CHAP_I": "7", "CHAP_C": "0x0102"})
        proof = self._read(line)
        if proof["CHAP_N"] != "gpu1" or proof["CHAP_R"] != "0x" + hashlib.md5(b"\x07" + SECRET.encode() + b"\x01\x02").hexdigest():
            return self._answer(line, 0x0201, {})
        own = {}
        if "CHAP_I" in proof:
            challenge = bytes.fromhex(proof["CHAP_C"][2:])
            answer = hashlib.md5(bytes([int(proof["CHAP_I"])]) + MUTUAL.encode() + challenge).hexdigest()
            own = {"CHAP_N": "target", "CHAP_R": "0x" + answer}
        return self._answer(line, 0, own, transit=True)

    def _read(self, line: socket.socket) -> dict[str, str]:
        head = line.recv(48, socket.MSG_WAITALL)
        self.isids.append(head[8:14])
        length = int.from_bytes(head[5:8], "big")
        text = line.recv(length + -length % 4, socket.MSG_WAITALL).rstrip(b"\0").decode()
        return dict(pair.split("=", 1) for pair in text.split("\0") if pair)

    @staticmethod
    def _answer(line: socket.socket, status: int, keys: dict[str, str], *, transit: bool = False) -> None:
        data = b"".join(f"{name}={value}\0".encode() for name, value in keys.items())
        head = bytearray(48)
        head[0], head[1] = 0x23, 0x81 if transit else 0
        head[5:8] = len(data).to_bytes(3, "big")
        head[36:38] = status.to_bytes(2, "big")
        line.sendall(bytes(head) + data + b"\0" * (-len(data) % 4))


@pytest.fixture
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    made = Target(**getattr(request, "param", {}))
    yield made
    made.stop()


def login(target: Target, **more: Any) -> iscsi.Login:
    chosen = {"wwn": WWN, "portal": target.portal, "initiator": INITIATOR, "userid": "gpu1", "password": SECRET, **more}
    return iscsi.Login(**chosen)


def test_a_login_with_the_password_succeeds_under_an_identity_of_its_own(target: Target) -> None:
    assert iscsi.log_in(login(target)) == ""
    assert iscsi.log_in(login(target)) == ""
    assert len(set(target.isids)) == 2, "two logins with one session identifier would end each other's session"


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        ({"password": "some other password"}, "the user name or password is wrong"),
        ({"initiator": "iqn.2026-01.lab:stranger"}, "this initiator may not log in"),
        ({"wwn": "iqn.2026-01.lab:gone"}, "there is no such target at this portal"),
        ({"mutual_password": "not the target's"}, "the target proved itself with another password than mutual_password"),
        ({"userid": "", "password": ""}, "the user name or password is wrong"),
    ],
)
def test_a_login_that_fails_says_why(target: Target, more: dict[str, str], wrong: str) -> None:
    assert iscsi.log_in(login(target, **more)) == wrong


def test_the_target_proves_itself_too(target: Target) -> None:
    assert iscsi.log_in(login(target, mutual_password=MUTUAL)) == ""


@pytest.mark.parametrize("target", [{"chap": False}], indirect=True)
def test_a_target_without_authentication_lets_in(target: Target) -> None:
    assert iscsi.log_in(login(target, userid="", password="")) == ""


@pytest.mark.parametrize("target", [{"speaks": b"SSH-2.0-OpenSSH_9.2" + b" " * 60}], indirect=True)
def test_something_else_at_the_port_is_told(target: Target) -> None:
    assert iscsi.log_in(login(target)) == "it does not speak iSCSI"


def test_nobody_at_the_port_is_told(target: Target) -> None:
    target.stop()
    try:
        assert "refused" in iscsi.log_in(login(target))
    finally:
        target.listening = socket.create_server(("127.0.0.1", 0))


@pytest.mark.parametrize(
    ("portal", "address"),
    [
        ("10.0.0.1:3260", ("10.0.0.1", 3260)),
        ("0.0.0.0:3261", ("127.0.0.1", 3261)),
        ("[::]:3260", ("::1", 3260)),
        ("[fd00::1]:3260", ("fd00::1", 3260)),
        ("10.0.0.1", ("10.0.0.1", 3260)),
        ("fd00::1", ("fd00::1", 3260)),
    ],
)
def test_portals_lead_to_addresses(portal: str, address: tuple[str, int]) -> None:
    assert iscsi.address_of(portal) == address


def test_no_password_shows_in_a_representation(target: Target) -> None:
    assert SECRET not in repr(login(target)) + repr(login(target, mutual_password=SECRET))


# --- NFS: a folder stands for the export and for what is mounted ------------------------------------------------------------


def test_what_is_written_through_the_mount_is_compared_and_removed(tmp_path: Path) -> None:
    found = nfs.use("/llm/datasets", through=tmp_path, local=tmp_path)
    assert (found.read, found.written, found.problem) == (True, True, "")
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_export_is_compared_with_a_file_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    through, local = tmp_path / "mount", tmp_path / "disk"
    for place in (through, local):
        place.mkdir()
        (place / "model.gguf").write_bytes(b"weights")
    monkeypatch.setattr(nfs.os, "open", _read_only)
    found = nfs.use("/llm/models", through=through, local=local)
    assert (found.read, found.written, found.problem) == (True, False, "")
    assert found.note == "nothing was written, because it is exported read-only"
    (through / "model.gguf").write_bytes(b"other")
    assert nfs.use("/llm/models", through=through, local=local).problem == "model.gguf reads differently through NFS"


def _read_only(path: Path, *_: Any) -> int:
    raise OSError(30, "Read-only file system", str(path))


class Mounts(Runner):
    """Answers what mount would."""

    def __init__(self, stderr: str) -> None:
        super().__init__()
        self.stderr = stderr

    def run(self, argv: Sequence[str], **_: Any) -> Completed:
        raise CommandFailed(tuple(argv), 32, self.stderr)


def test_a_host_that_is_no_client_of_itself_is_no_problem(tmp_path: Path) -> None:
    found = nfs.probe("10.0.0.1", "/x", at=tmp_path, runner=Mounts("mount.nfs4: access denied by server while mounting 10.0.0.1:/x"))
    assert (found.problem, found.read) == ("", False)
    assert found.note == "this host is not among its clients, so it was not mounted here"


def test_a_server_that_does_not_answer_is_a_problem(tmp_path: Path) -> None:
    found = nfs.probe("10.0.0.1", "/x", at=tmp_path, runner=Mounts("mount.nfs4: Connection refused"))
    assert found.problem == "cannot be mounted: mount.nfs4: Connection refused"


@pytest.mark.parametrize(
    ("threads", "versions", "wrong"),
    [
        ("32\n", "-2 -3 +4 +4.0 +4.1 +4.2\n", ""),
        ("8\n", "-3 +4 +4.1 +4.2\n", "runs 8 threads and not 32"),
        ("32\n", "+3 +4 +4.1 +4.2\n", "speaks the versions +3 +4 +4.1 +4.2, which should be 4.2 and not 3"),
    ],
)
def test_the_running_server_is_compared_with_what_it_should_be(tmp_path: Path, threads: str, versions: str, wrong: str) -> None:
    (tmp_path / "threads").write_text(threads)
    (tmp_path / "versions").write_text(versions)
    assert nfs.settings(32, state=tmp_path) == wrong


def test_a_server_that_does_not_run_is_told(tmp_path: Path) -> None:
    assert nfs.settings(32, state=tmp_path / "nowhere") == "does not run"


# --- the store ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statuses", "wrong"),
    [
        ([401, 206], ""),
        ([200, 206], "answered 200 without a token (401 was expected) and 206 with one (206 was expected)"),
        ([401, 200], "answered 401 without a token (401 was expected) and 200 with one (206 was expected)"),
    ],
)
def test_the_store_must_ask_for_a_token_and_serve_ranges(monkeypatch: pytest.MonkeyPatch, statuses: list[int], wrong: str) -> None:
    answers = iter(statuses)
    asked: list[dict[str, str]] = []

    def status(_port: int, headers: dict[str, str], **_: Any) -> int:
        asked.append(headers)
        return next(answers)

    monkeypatch.setattr(store, "_status", status)
    assert store.ask(8443, "token") == wrong
    assert asked == [{}, {"Authorization": "Bearer token", "Range": "bytes=0-9"}]


def test_a_store_that_is_down_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert store.ask(port, "token").startswith("does not answer: ")
