# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry's planners as tables, its files with the real openssl and libcrypt, its API against an HTTPS server."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import json
import ssl
import tarfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Iterator

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import StackError
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._registry import files
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._registry.api import Publisher, Registry, UnreachableError
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._registry.archive import config_digest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._registry.model import Client, Image, Published, Server, ServerSpec
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._registry.plan import plan_client, plan_images, plan_server
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._run import Runner

HOST = "127.0.0.1"
PASSWORD = "only-in-this-test"
SPEC = ServerSpec(HOST, "llm", PASSWORD)
DONE = Server((HOST,), accepts=True)


@pytest.mark.parametrize(
    ("current", "sentences"),
    [
        (DONE, []),
        (Server(), ["Make a self-signed certificate for 127.0.0.1: there is no usable one", "Let llm in with the password given"]),
        (
            replace(DONE, names=("10.0.0.1", "a")),
            ["Make a self-signed certificate for 127.0.0.1: the present one is for 10.0.0.1, a"],
        ),
        (replace(DONE, expiring=True), ["Make a self-signed certificate for 127.0.0.1: the present one ends within 30 days"]),
        (replace(DONE, accepts=False), ["Let llm in with the password given"]),
    ],
)
def test_plan_server(current: Server, sentences: list[str]) -> None:
    plan = plan_server(current, SPEC)
    assert plan.sentences == sentences
    assert PASSWORD not in repr(plan) + repr(SPEC)


def test_a_certificate_of_one_s_own_is_left_alone() -> None:
    assert plan_server(Server(accepts=True), replace(SPEC, own_certificate=False)).steps == ()


@pytest.mark.parametrize(
    ("current", "actions"),
    [
        (Client("CA", "auth"), []),
        (Client(), ["trust", "login"]),
        (Client("other", "auth"), ["trust"]),
        (Client("CA", "other"), ["login"]),
    ],
)
def test_plan_client(current: Client, actions: list[str]) -> None:
    plan = plan_client("10.77.0.21:5000", current, Client("CA", "auth"))
    assert [step.action for step in plan.steps] == actions
    assert "auth" not in repr(plan)


@pytest.mark.parametrize(
    ("held", "image", "sentences"),
    [
        (Published("sha256:1"), Image("llm/a:1", digest="sha256:1"), []),
        (Published("sha256:0"), Image("llm/a:1", digest="sha256:1"), ["Publish llm/a:1 from its archive: its content differs"]),
        (None, Image("llm/a:1", digest="sha256:1"), ["Publish llm/a:1 from its archive: the registry has none"]),
        (None, Image("llm/a:1", "docker.io/a:1"), ["Publish llm/a:1 from docker.io/a:1: the registry has none"]),
        (Published(""), Image("llm/a:1", "docker.io/a:1"), []),
    ],
)
def test_plan_images(held: Published | None, image: Image, sentences: list[str]) -> None:
    assert plan_images({image.name: held}, (image,)).sentences == sentences


@pytest.mark.parametrize(
    ("name", "repository", "tag"),
    [("llm/nginx:1.30", "llm/nginx", "1.30"), ("llm/nginx", "llm/nginx", "latest"), ("a", "a", "latest"), ("h:1/a", "h:1/a", "latest")],
)
def test_names(name: str, repository: str, tag: str) -> None:
    assert (Image(name).repository, Image(name).tag) == (repository, tag)


@pytest.mark.parametrize(
    ("address", "host"), [("10.0.0.1:5000", "10.0.0.1"), ("[fd00::1]:5000", "fd00::1"), ("registry.lan:443", "registry.lan")]
)
def test_address(address: str, host: str) -> None:
    assert files.host_of(address) == host


@pytest.mark.parametrize("address", ["10.0.0.1", "https://10.0.0.1:5000", "10.0.0.1:", ""])
def test_bad_address(address: str) -> None:
    with pytest.raises(StackError, match="is not HOST:PORT"):
        files.host_of(address)


def keep(directory: Path, spec: ServerSpec = SPEC) -> list[str]:
    """Run the server's half of the module once, and return what it did."""
    current = files.read_server(Runner(), directory, spec)
    plan = plan_server(current, spec)
    plan.carry_out(files.ServerApplier(Runner(), directory, current=current, spec=spec).do)
    return [step.action for step in plan.steps]


def test_server_files(tmp_path: Path) -> None:
    folder = tmp_path / "registry"
    assert keep(folder) == ["certificate", "password"]
    assert keep(folder) == []
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {"tls.crt": 0o644, "tls.key": 0o600, "htpasswd": 0o600}
    assert PASSWORD not in (folder / "htpasswd").read_text()


@pytest.mark.parametrize("damage", ["tls.key", "tls.crt"])
def test_a_lost_or_foreign_half_of_the_pair_is_made_anew(tmp_path: Path, damage: str) -> None:
    keep(tmp_path)
    keep(tmp_path / "other")
    (tmp_path / damage).write_text((tmp_path / "other" / damage).read_text())
    assert keep(tmp_path) == ["certificate"]
    (tmp_path / damage).unlink()
    assert keep(tmp_path) == ["certificate"]
    assert keep(tmp_path) == []


def test_another_address_and_another_password(tmp_path: Path) -> None:
    keep(tmp_path)
    assert keep(tmp_path, replace(SPEC, host="registry.lan")) == ["certificate"]
    assert keep(tmp_path, replace(SPEC, host="registry.lan", password="another")) == ["password"]


def test_other_users_stay(tmp_path: Path) -> None:
    tmp_path.joinpath("htpasswd").write_text("mine:$2y$05$x\n\nllm:plain\n")
    keep(tmp_path)
    lines = tmp_path.joinpath("htpasswd").read_text().splitlines()
    assert lines[0] == "mine:$2y$05$x"
    assert lines[1].startswith("llm:$2b$10$")
    assert len(lines) == 2


def log_in(folder: Path, wanted: Client) -> list[str]:
    """Run the client's half of the module once, and return what it did."""
    paths = {"certificates": folder / "certs.d", "config": folder / "config.json"}
    plan = plan_client("10.0.0.1:5000", files.read_client("10.0.0.1:5000", **paths), wanted)
    plan.carry_out(lambda step: files.apply_client(step, wanted, **paths))
    return [step.action for step in plan.steps]


def test_client_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"auths": {"docker.io": {"auth": "x"}}, "detachKeys": "ctrl-x"}')
    wanted = Client("CA\n", files.auth_of("llm", PASSWORD))
    assert log_in(tmp_path, wanted) == ["trust", "login"]
    assert log_in(tmp_path, wanted) == []
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["auths"]["docker.io"] == {"auth": "x"}
    assert config["detachKeys"] == "ctrl-x"
    assert (tmp_path / "config.json").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "certs.d" / "10.0.0.1:5000" / "ca.crt").read_text() == "CA\n"


def test_a_client_configuration_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(StackError, match=r"is not valid JSON .* so no login can be added"):
        log_in(tmp_path, Client("CA", "auth"))


class Handler(http.server.BaseHTTPRequestHandler):
    """A registry with one image."""

    def do_GET(self) -> None:
        manifest = json.dumps({"config": {"digest": "sha256:1"}}).encode()
        answers = {"/v2/": (200, b"{}"), "/v2/llm/a/manifests/1": (200, manifest), "/v2/broken/manifests/latest": (500, b"")}
        status, body = answers.get(self.path, (404, b"{}"))
        if self.headers.get("Authorization") != f"Basic {files.auth_of('llm', PASSWORD)}":
            status, body = 401, b"{}"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_unused: Any) -> None:
        pass


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Serve with the very certificate that the module makes, and return address and certificate."""
    folder = tmp_path_factory.mktemp("registry")
    keep(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    server = http.server.ThreadingHTTPServer((HOST, 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.05), daemon=True).start()
    yield f"{HOST}:{server.server_address[1]}", (folder / "tls.crt").read_text()
    server.shutdown()
    server.server_close()


def test_api(served: tuple[str, str]) -> None:
    registry = Registry(served[0], ca=served[1], user="llm", password=PASSWORD)
    # Python 3.13 verifies strictly by default; the certificate must bear that on every version.
    registry._context.verify_flags |= ssl.VERIFY_X509_STRICT
    registry.check()
    assert registry.published(Image("llm/a:1")) == Published("sha256:1")
    assert registry.published(Image("llm/b:1")) is None
    with pytest.raises(StackError, match="answered 500 when asked for broken"):
        registry.published(Image("broken"))


def test_api_refuses_with_reasons(served: tuple[str, str]) -> None:
    with pytest.raises(StackError, match=r"does not accept the login given. Check registry_user and registry_password"):
        Registry(served[0], ca=served[1], user="llm", password="another").check()
    with pytest.raises(UnreachableError, match=r"does not answer: .*certificate verify failed"):
        Registry(served[0], ca="", user="llm", password=PASSWORD).check(timeout=0)
    with pytest.raises(UnreachableError, match=r"127.0.0.1:1 does not answer"):
        Registry("127.0.0.1:1", ca=served[1], user="llm", password=PASSWORD).check(timeout=0)
    with pytest.raises(StackError, match="is not valid PEM"):
        Registry(served[0], ca="nonsense", user="llm", password=PASSWORD)


def make_archive(path: Path, *, images: int = 1, name: str = "blobs/sha256/x") -> str:
    config = b'{"architecture": "amd64"}'
    with tarfile.open(path, "w") as archive:
        for member, content in ((name, config), ("manifest.json", json.dumps([{"Config": name}] * images).encode())):
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return f"sha256:{hashlib.sha256(config).hexdigest()}"


def test_archive(tmp_path: Path) -> None:
    digest = make_archive(tmp_path / "a.tar")
    assert config_digest(str(tmp_path / "a.tar")) == digest


def test_bad_archives(tmp_path: Path) -> None:
    make_archive(tmp_path / "two.tar", images=2)
    (tmp_path / "text.tar").write_text("no archive")
    for name, reason in (("none", "does not exist on the controller"), ("two", "holds 2 images"), ("text", "is not a docker-archive")):
        with pytest.raises(StackError, match=reason):
            config_digest(str(tmp_path / f"{name}.tar"))


class FakeEngine:
    """An engine that remembers what it was told."""

    def __init__(self, error: str = "") -> None:
        self.calls: list[Any] = []
        self.error = error

    def load_image(self, stream: Any) -> list[dict[str, str]]:
        self.calls.append(("load", stream.read()))
        return [{"stream": "Loaded"}]

    def pull(self, source: str, **_options: Any) -> list[dict[str, str]]:
        self.calls.append(("pull", source))
        return [{"error": "no such host"}] if self.error == "pull" else []

    def tag(self, *arguments: str) -> None:
        self.calls.append(("tag", *arguments))
        if self.error == "tag":
            raise RuntimeError("no such image")

    def push(self, reference: str, **options: Any) -> list[dict[str, str]]:
        self.calls.append(("push", reference, options["tag"], options["auth_config"]["username"]))
        return [{"error": "denied"}] if self.error == "push" else [{"status": "Pushed"}]


LOGIN = {"address": "10.0.0.1:5000", "user": "llm", "password": PASSWORD}


def test_publish_from_an_archive(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"tar")
    client = FakeEngine()
    Publisher(client, (RuntimeError,), **LOGIN).publish(Image("llm/a:1", digest="sha256:1"), str(tmp_path / "a.tar"))
    reference = "10.0.0.1:5000/llm/a"
    assert client.calls == [("load", b"tar"), ("tag", "sha256:1", reference, "1"), ("push", reference, "1", "llm")]


def test_publish_from_elsewhere() -> None:
    client = FakeEngine()
    Publisher(client, (RuntimeError,), **LOGIN).publish(Image("llm/a:1", "docker.io/a:1"), "")
    assert [call[0] for call in client.calls] == ["pull", "tag", "push"]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("pull", "Docker could not pull docker.io/a:1: no such host"),
        ("tag", "Docker could not publish llm/a:1: no such image"),
        ("push", "Docker could not push llm/a:1 to 10.0.0.1:5000: denied"),
    ],
)
def test_publish_says_what_failed(error: str, text: str) -> None:
    with pytest.raises(StackError) as caught:
        Publisher(FakeEngine(error), (RuntimeError,), **LOGIN).publish(Image("llm/a:1", "docker.io/a:1"), "")
    assert str(caught.value) == text
