# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""llm-model-sync as it is installed: run as a program, against a directory and a real HTTPS server that misbehaves."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import re
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator

import pytest

PROGRAM = Path(__file__).resolve().parents[3] / "roles" / "gpu_worker" / "files" / "llm-model-sync"
TOKEN = "only-in-this-test"
CONTENT = bytes(range(256)) * 4096


@dataclass
class Origin:
    """A model store, as a directory and over HTTPS."""

    root: Path
    ca: str = ""
    port: int = 0
    ranges: bool = True
    cut_after: list[int] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def publish(self, name: str, content: bytes, **lies: Any) -> None:
        """Put a model and its entry in the manifest."""
        (self.root / f"{name}.gguf").write_bytes(content)
        manifest = self.root / "manifest.json"
        models = json.loads(manifest.read_text())["models"] if manifest.exists() else []
        entry = {"name": name, "file": f"{name}.gguf", "size": len(content), "sha256": hashlib.sha256(content).hexdigest(), **lies}
        manifest.write_text(json.dumps({"models": [model for model in models if model["name"] != name] + [entry]}))


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves with a token and ranges, and cuts connections when told."""

    protocol_version = "HTTP/1.1"
    origin: Origin

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.origin.asked.append((self.path, wanted))
        path = self.origin.root / self.path.split("/models/")[-1]
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.send_error(401)
        if not path.is_file():
            return self.send_error(404)
        body = path.read_bytes()
        found = re.fullmatch(r"bytes=(\d+)-", wanted)
        start = int(found.group(1)) if found and self.origin.ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        body = body[start:]
        if path.suffix == ".gguf" and self.origin.cut_after:
            body = body[: self.origin.cut_after.pop(0)]
            self.close_connection = True
        self.wfile.write(body)
        return None

    def log_message(self, *_unused: Any) -> None:
        pass


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a certificate with the extensions the roles give theirs."""
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test"
    extensions = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(command.split() + extensions + files, check=True, capture_output=True)
    return folder


@pytest.fixture
def origin(tmp_path: Path, certificate: Path) -> Iterator[Origin]:
    """Serve a directory over HTTPS."""
    root = tmp_path / "origin"
    root.mkdir()
    store = Origin(root, ca=(certificate / "cert.pem").read_text())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"origin": store}))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    store.port = server.server_address[1]
    threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.05), daemon=True).start()
    yield store
    server.shutdown()
    server.server_close()


@dataclass
class Worker:
    """A machine with the program and its configuration."""

    folder: Path
    origin: Origin
    config: dict[str, Any]

    @property
    def models(self) -> Path:
        return self.folder / "models"

    def sync(self, *arguments: str) -> tuple[int, dict[str, Any], str]:
        """Write the configuration and run the program once."""
        (self.folder / "config.json").write_text(json.dumps(self.config))
        return self.run(*arguments)

    def run(self, *arguments: str) -> tuple[int, dict[str, Any], str]:
        """Run the program once."""
        path = self.folder / "config.json"
        command = [sys.executable, str(PROGRAM), "--config", str(path), *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env={"LLM_MODEL_SYNC_PAUSE": "0"})
        assert TOKEN not in ended.stdout + ended.stderr
        return ended.returncode, json.loads(ended.stdout), ended.stderr


@pytest.fixture(params=["https", "nfs"])
def worker(request: pytest.FixtureRequest, tmp_path: Path, origin: Origin) -> Worker:
    """Configure a worker for one kind of origin."""
    return make_worker(tmp_path, origin, request.param)


@pytest.fixture
def https_worker(tmp_path: Path, origin: Origin) -> Worker:
    """Configure a worker for HTTPS."""
    return make_worker(tmp_path, origin, "https")


def make_worker(folder: Path, origin: Origin, source: str) -> Worker:
    url = f"https://127.0.0.1:{origin.port}/models"
    config = {"source": source, "directory": str(origin.root), "url": url, "token": TOKEN, "ca": origin.ca, "models": []}
    return Worker(folder, origin, {**config, "destination": str(folder / "models")})


def test_copies_then_does_nothing(worker: Worker) -> None:
    worker.origin.publish("tiny", CONTENT)
    status, result, _log = worker.sync()
    assert (status, result["changed"], result["models"][0]["action"]) == (0, True, "copy")
    assert (worker.models / "tiny.gguf").read_bytes() == CONTENT
    assert (worker.models / "tiny.gguf").stat().st_mode & 0o777 == 0o644
    status, result, log = worker.sync()
    assert (status, result["changed"], result["models"][0]["action"]) == (0, False, "none")
    assert "Verifying" not in log


def test_check_changes_nothing(worker: Worker) -> None:
    worker.origin.publish("tiny", CONTENT)
    status, result, _log = worker.sync("--check")
    assert (status, result["changed"]) == (0, True)
    assert not worker.models.exists()


@pytest.mark.parametrize("damage", [b"", CONTENT[:-1], b"x" + CONTENT[1:]], ids=["emptied", "cut", "altered"])
def test_repairs_what_was_altered(worker: Worker, damage: bytes) -> None:
    worker.origin.publish("tiny", CONTENT)
    worker.origin.publish("other", CONTENT[::-1])
    worker.sync()
    (worker.models / "tiny.gguf").write_bytes(damage)
    status, result, _log = worker.sync()
    assert (status, [model["action"] for model in result["models"]]) == (0, ["copy", "none"])
    assert (worker.models / "tiny.gguf").read_bytes() == CONTENT


def test_new_version_replaces_the_old_one(worker: Worker) -> None:
    worker.origin.publish("tiny", CONTENT)
    worker.sync()
    worker.origin.publish("tiny", CONTENT[::-1])
    status, result, _log = worker.sync()
    assert (status, result["models"][0]["reason"]) == (0, "its content differs from the origin's")
    assert (worker.models / "tiny.gguf").read_bytes() == CONTENT[::-1]


def test_only_the_models_named(worker: Worker) -> None:
    worker.origin.publish("tiny", CONTENT)
    worker.origin.publish("other", CONTENT)
    worker.config["models"] = ["other"]
    worker.sync()
    assert sorted(path.name for path in worker.models.glob("*.gguf")) == ["other.gguf"]


def test_foreign_files_stay(worker: Worker) -> None:
    worker.origin.publish("tiny", CONTENT)
    worker.models.mkdir()
    (worker.models / "mine.gguf").write_bytes(b"mine")
    worker.sync()
    assert (worker.models / "mine.gguf").read_bytes() == b"mine"


def test_resumes_over_cut_connections(https_worker: Worker) -> None:
    https_worker.origin.publish("tiny", CONTENT)
    https_worker.origin.cut_after = [100_000, 50_000]
    status, _result, log = https_worker.sync()
    assert status == 0
    assert (https_worker.models / "tiny.gguf").read_bytes() == CONTENT
    ranges = [wanted for path, wanted in https_worker.origin.asked if path.endswith("tiny.gguf")]
    assert ranges == ["", "bytes=100000-", "bytes=150000-"]
    assert "trying again" in log


def test_next_run_goes_on_where_the_last_one_gave_up(https_worker: Worker) -> None:
    https_worker.origin.publish("tiny", CONTENT)
    https_worker.origin.cut_after = [70_000, 0, 0, 0, 0, 0, 0]
    status, result, _log = https_worker.sync()
    assert status == 1
    assert result["error"] == (
        f"tiny.gguf stopped at 70000 of {len(CONTENT)} bytes: it ended too early. "
        "What has arrived is kept; the next run goes on from there."
    )
    assert not (https_worker.models / "tiny.gguf").exists()
    https_worker.origin.cut_after = []
    status, result, _log = https_worker.sync()
    assert (status, result["models"][0]["resumed_from"]) == (0, 70_000)
    assert (https_worker.models / "tiny.gguf").read_bytes() == CONTENT
    assert not list(https_worker.models.glob(".*.part"))


def test_server_without_ranges(https_worker: Worker) -> None:
    https_worker.origin.publish("tiny", CONTENT)
    https_worker.origin.ranges = False
    https_worker.origin.cut_after = [70_000]
    status, _result, _log = https_worker.sync()
    assert status == 0
    assert (https_worker.models / "tiny.gguf").read_bytes() == CONTENT


def test_a_corrupted_partial_copy_is_copied_anew(worker: Worker) -> None:
    worker.origin.publish("tiny", CONTENT)
    worker.models.mkdir()
    part = worker.models / f".tiny.gguf.{hashlib.sha256(CONTENT).hexdigest()[:16]}.part"
    part.write_bytes(b"x" * 5000)
    status, _result, _log = worker.sync()
    assert status == 0
    assert (worker.models / "tiny.gguf").read_bytes() == CONTENT


def test_a_wrong_checksum_is_never_put_in_place(worker: Worker) -> None:
    worker.origin.publish("tiny", CONTENT, sha256="0" * 64)
    worker.models.mkdir()
    (worker.models / "tiny.gguf").write_bytes(b"the version before")
    status, result, _log = worker.sync()
    assert status == 1
    assert result["changed"] is False
    assert result["error"] == (
        f"tiny.gguf arrived twice with a SHA-256 other than {'0' * 64}, so it was not put in place. "
        "The file at the origin and its manifest disagree: run the role storage_host again."
    )
    assert (worker.models / "tiny.gguf").read_bytes() == b"the version before"


@pytest.mark.parametrize("file", ["../etc/passwd", "/etc/passwd", "a/../b", ".hidden", ""])
def test_a_name_that_leaves_the_folder_is_refused(worker: Worker, file: str) -> None:
    worker.origin.publish("tiny", CONTENT, file=file)
    status, result, _log = worker.sync()
    assert status == 1
    assert result["error"] == f"The manifest gives tiny the file {file!r}, which is refused: it must be a plain relative path."


def test_unknown_model(worker: Worker) -> None:
    worker.origin.publish("tiny", CONTENT)
    worker.config["models"] = ["tinny"]
    status, result, _log = worker.sync()
    assert status == 1
    assert result["error"] == "The origin does not offer tinny; it offers tiny. Correct gpu_worker_models."


def test_full_disk_is_told_before_the_first_byte(worker: Worker) -> None:
    worker.origin.publish("tiny", CONTENT, size=10**18)
    status, result, _log = worker.sync()
    assert status == 1
    assert re.search(r"has \d+ bytes free and the models need \d+ more. Free space, name fewer models", result["error"])


def test_wrong_token(https_worker: Worker) -> None:
    https_worker.origin.publish("tiny", CONTENT)
    https_worker.config["token"] = "another"
    status, result, _log = https_worker.sync()
    assert status == 1
    assert result["error"] == (
        f"{https_worker.config['url']}/manifest.json answered 401. Check gpu_worker_models_token here and storage_host_models_tokens there."
    )


def test_untrusted_certificate(https_worker: Worker) -> None:
    https_worker.config["ca"] = ""
    status, result, _log = https_worker.sync()
    assert status == 1
    assert "certificate verify failed" in result["error"]
    assert result["error"].endswith("Check that the storage host is reachable from here, and gpu_worker_models_ca.")


def test_unmounted_directory(tmp_path: Path, origin: Origin) -> None:
    worker = make_worker(tmp_path, origin, "nfs")
    status, result, _log = worker.sync()
    assert status == 1
    assert result["error"].endswith(
        f"manifest.json does not exist. Check that {origin.root} is mounted (`findmnt {origin.root}`) "
        "and that the role storage_host published models."
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"source": "ftp"}, "must be nfs or https"),
        ({"source": "https", "url": "http://127.0.0.1/models"}, "must begin with https://"),
        ({"source": "https", "ca": "nonsense"}, "is not valid PEM"),
    ],
)
def test_bad_configuration(https_worker: Worker, change: dict[str, str], text: str) -> None:
    https_worker.config.update(change)
    status, result, _log = https_worker.sync()
    assert status == 1
    assert text in result["error"]


def test_two_at_once_do_not_disturb_each_other(https_worker: Worker) -> None:
    https_worker.origin.publish("tiny", CONTENT)
    results: list[tuple[int, dict[str, Any], str]] = []
    path = https_worker.folder / "config.json"
    path.write_text(json.dumps(https_worker.config))
    threads = [threading.Thread(target=lambda: results.append(https_worker.run())) for _number in range(3)]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    assert [status for status, _result, _log in results] == [0, 0, 0]
    assert [result["changed"] for _status, result, _log in results].count(True) == 1
