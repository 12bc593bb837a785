#!/usr/bin/env python
# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A STAND-IN for Ollama, true to its documented API, for tests where Ollama's image cannot be pulled. It computes nothing.

`ollama serve` answers /api/version, /api/tags, /api/ps, /api/show, /api/generate, /api/chat, /api/create, /api/blobs, /v1/models and
/v1/chat/completions; `ollama list|ps|show|run|create` are its clients. Environment as Ollama's: OLLAMA_HOST, OLLAMA_MODELS,
OLLAMA_NUM_PARALLEL, OLLAMA_MAX_QUEUE, OLLAMA_CONTEXT_LENGTH. Its own, for tests: STANDIN_TOKENS (tokens of an answer),
STANDIN_FIRST_TOKEN_S and STANDIN_TOKEN_S (delays), STANDIN_LOAD_ERROR (why no model loads, as with a GPU that has failed); a request
may set tokens and delays for itself: "standin": {"tokens": 3, "first_token_s": 0.5, "token_s": 0.1}. The answer counts its tokens, so a
test sees a lost or a doubled one. GET /standin/waiting: for how many seconds each request has waited for its first token, by what the
request calls itself ("standin": {"via": "edge"}).
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Dict

VERSION = "0.12.6"
Json = Dict[str, Any]


def setting(name: str, default: str) -> str:
    return os.environ.get(name) or default


def host() -> tuple[str, int]:
    """Address and port of OLLAMA_HOST, in any of the forms Ollama takes."""
    text = setting("OLLAMA_HOST", "127.0.0.1:11434").partition("://")[2] or setting("OLLAMA_HOST", "127.0.0.1:11434")
    address, _, port = text.rstrip("/").partition(":")
    return address or "127.0.0.1", int(port or 11434)


def now() -> str:
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")


def full_name(name: str) -> str:
    return name if ":" in name else f"{name}:latest"


class Store:
    """Models on disk in Ollama's layout: manifests name blobs by digest."""

    def __init__(self, top: Path) -> None:
        self.manifests = top / "manifests" / "registry.ollama.ai" / "library"
        self.blobs = top / "blobs"

    def _manifest(self, name: str) -> Path:
        model, _, tag = full_name(name).partition(":")
        return self.manifests / model / tag

    def models(self) -> list[Json]:
        """Those that are whole, as Ollama lists them."""
        found = []
        for path in sorted(path for path in self.manifests.glob("*/*") if path.is_file()):
            with suppress(KeyError):
                found.append(self.describe(f"{path.parent.name}:{path.name}"))
        return found

    def describe(self, name: str) -> Json:
        """One model as /api/tags shows it.

        :raises KeyError: when there is no such model, or one of its blobs is missing.
        """
        path = self._manifest(name)
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise KeyError(name) from error
        layers = json.loads(raw)["layers"]
        if not all((self.blobs / layer["digest"].replace(":", "-")).exists() for layer in layers):
            raise KeyError(name)
        return {
            "name": full_name(name),
            "model": full_name(name),
            "modified_at": datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).isoformat(),
            "size": sum(layer["size"] for layer in layers),
            "digest": hashlib.sha256(raw).hexdigest(),
            "details": {
                "parent_model": "",
                "format": "gguf",
                "family": "llama",
                "families": ["llama"],
                "parameter_size": "1M",
                "quantization_level": "F32",
            },
        }

    def damaged(self, name: str) -> str:
        """Path of a blob that is no model of its size; empty when all are. Checked when a model is loaded, as Ollama's runner does."""
        for layer in json.loads(self._manifest(name).read_bytes())["layers"]:
            blob = self.blobs / layer["digest"].replace(":", "-")
            with blob.open("rb") as file:
                if file.read(4) != b"GGUF" or blob.stat().st_size != layer["size"]:
                    return str(blob)
        return ""

    def create(self, name: str, files: dict[str, str]) -> None:
        """Write a manifest over blobs that are there."""
        layers = []
        for digest in files.values():
            blob = self.blobs / digest.replace(":", "-")
            kind = "application/vnd.ollama.image.model"
            layers.append({"mediaType": kind, "digest": digest, "size": blob.stat().st_size})
        path = self._manifest(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"schemaVersion": 2, "config": {}, "layers": layers}))


class DamagedError(Exception):
    """A model cannot be loaded."""


class BusyError(Exception):
    """More requests wait than OLLAMA_MAX_QUEUE allows."""


class Engine:
    """Slots, the queue before them, and what is loaded."""

    def __init__(self) -> None:
        self.store = Store(Path(setting("OLLAMA_MODELS", str(Path.home() / ".ollama" / "models"))))
        self.slots = threading.Semaphore(int(setting("OLLAMA_NUM_PARALLEL", "1")))
        self.room = threading.Semaphore(int(setting("OLLAMA_NUM_PARALLEL", "1")) + int(setting("OLLAMA_MAX_QUEUE", "512")))
        self.pace = {
            "tokens": int(setting("STANDIN_TOKENS", "8")),
            "first_token_s": float(setting("STANDIN_FIRST_TOKEN_S", "0")),
            "token_s": float(setting("STANDIN_TOKEN_S", "0")),
        }
        self.loaded: dict[str, Json] = {}
        self.waiting: dict[int, tuple[str, float]] = {}

    def waits(self) -> dict[str, list[float]]:
        """Seconds that requests have waited for their first token, by what they call themselves."""
        found: dict[str, list[float]] = {}
        for via, begun in list(self.waiting.values()):
            found.setdefault(via, []).append(time.monotonic() - begun)
        return found

    @contextmanager
    def slot(self) -> Iterator[None]:
        if not self.room.acquire(blocking=False):
            raise BusyError
        try:
            with self.slots:
                yield
        finally:
            self.room.release()

    def load(self, name: str, keep_alive: object = None) -> None:
        described = self.store.describe(name)
        if keep_alive in (0, "0"):
            self.loaded.pop(full_name(name), None)
            return
        if setting("STANDIN_LOAD_ERROR", ""):
            raise DamagedError(setting("STANDIN_LOAD_ERROR", ""))
        damaged = "" if full_name(name) in self.loaded else self.store.damaged(name)
        if damaged:
            raise DamagedError(f"unable to load model: {damaged}")
        context = int(setting("OLLAMA_CONTEXT_LENGTH", "4096"))
        size = described["size"]
        self.loaded[full_name(name)] = {
            **{key: described[key] for key in ("name", "model", "size", "digest", "details")},
            "expires_at": "2318-01-01T00:00:00Z",
            "size_vram": size,
            "context_length": context,
        }

    def answer(self, limit: int | None, wish: Json | None) -> Iterator[str]:
        """The tokens of an answer, each with its number."""
        pace = {**self.pace, **(wish or {})}
        thread = threading.get_ident()
        self.waiting[thread] = (str(pace.get("via", "")), time.monotonic())
        time.sleep(pace["first_token_s"])
        self.waiting.pop(thread)
        count = int(pace["tokens"]) if limit is None or limit < 0 else min(limit, int(pace["tokens"]))
        for number in range(1, count + 1):
            if number > 1:
                time.sleep(pace["token_s"])
            yield f"token{number} "


class Handler(BaseHTTPRequestHandler):
    """Ollama's HTTP API."""

    protocol_version = "HTTP/1.1"
    engine: Engine

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        sys.stderr.write(f"[GIN] {self.command} {self.path} {args[1] if len(args) > 1 else ''}\n")

    def do_GET(self) -> None:
        models = self.engine.store.models
        answers: dict[str, Any] = {
            "/api/version": lambda: {"version": VERSION},
            "/api/tags": lambda: {"models": models()},
            "/api/ps": lambda: {"models": list(self.engine.loaded.values())},
            "/standin/waiting": self.engine.waits,
            "/v1/models": lambda: {"object": "list", "data": [_openai_model(model) for model in models()]},
        }
        if self.path == "/":
            self._send(200, b"Ollama is running", "text/plain; charset=utf-8")
        elif self.path in answers:
            self._json(200, answers[self.path]())
        else:
            self._send(404, b"404 page not found", "text/plain")

    def do_HEAD(self) -> None:
        if self.path.startswith("/api/blobs/"):
            there = (self.engine.store.blobs / self.path.rpartition("/")[2].replace(":", "-")).exists()
            self._send(200 if there else 404, b"", "text/plain")
            return
        self.do_GET()

    def do_POST(self) -> None:
        acts = {
            "/api/show": self._show,
            "/api/generate": self._generate,
            "/api/chat": self._chat,
            "/api/create": self._create,
            "/v1/chat/completions": self._completions,
        }
        if self.path.startswith("/api/blobs/"):
            self._blob(self.path.rpartition("/")[2])
            return
        if self.path not in acts:
            self._send(404, b"404 page not found", "text/plain")
            return
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            body = json.loads(raw)
        except ValueError:
            self._fail(400, "missing request body" if not raw else "invalid character in request body")
            return
        try:
            acts[self.path](body)
        except KeyError:
            self._fail(404, f"model '{body.get('model', '')}' not found")
        except DamagedError as error:
            self._fail(500, str(error))
        except BusyError:
            self._fail(503, "server busy, please try again.  maximum pending requests exceeded")

    def _show(self, body: Json) -> None:
        details = self.engine.store.describe(body.get("model") or body.get("name") or "")["details"]
        shown = {"modelfile": "", "parameters": "", "template": "{{ .Prompt }}", "details": details}
        self._json(200, {**shown, "model_info": {"general.architecture": "llama"}, "capabilities": ["completion"]})

    def _generate(self, body: Json) -> None:
        self._native(body, empty=not body.get("prompt"), wrap=lambda text: {"response": text})

    def _chat(self, body: Json) -> None:
        self._native(body, empty=not body.get("messages"), wrap=lambda text: {"message": {"role": "assistant", "content": text}})

    def _native(self, body: Json, *, empty: bool, wrap: Any) -> None:
        """Generate or chat: newline-delimited JSON, or one object; without a prompt the model is only loaded."""
        name = body.get("model", "")
        self.engine.load(name, body.get("keep_alive"))
        stamp = {"model": name, "created_at": now()}
        if empty:
            reason = "unload" if body.get("keep_alive") in (0, "0") else "load"
            self._json(200, {**stamp, **wrap(""), "done": True, "done_reason": reason})
            return
        with self.engine.slot():
            begin = time.monotonic()
            limit = (body.get("options") or {}).get("num_predict")
            streaming = body.get("stream", True)
            words: list[str] = []
            for text in self.engine.answer(limit, body.get("standin")):
                if streaming:
                    self._open_stream("application/x-ndjson")
                    self._chunk(json.dumps({**stamp, "created_at": now(), **wrap(text), "done": False}) + "\n")
                words.append(text)
            spent = int((time.monotonic() - begin) * 1e9)
            counts = {"total_duration": spent, "load_duration": 1, "prompt_eval_count": 8, "prompt_eval_duration": 1}
            end = {"done": True, "done_reason": "stop", **counts, "eval_count": len(words), "eval_duration": spent}
        if streaming:
            self._open_stream("application/x-ndjson")
            self._chunk(json.dumps({**stamp, "created_at": now(), **wrap(""), **end}) + "\n")
            self._close_stream()
        else:
            self._json(200, {**stamp, **wrap("".join(words)), **end})

    def _completions(self, body: Json) -> None:
        """OpenAI's chat completions: server-sent events, or one object."""
        name = body.get("model", "")
        self.engine.load(name)
        stamp = {"id": "chatcmpl-1", "created": int(time.time()), "model": name, "system_fingerprint": "fp_ollama"}
        with self.engine.slot():
            words = []
            for text in self.engine.answer(body.get("max_tokens"), body.get("standin")):
                if body.get("stream"):
                    self._open_stream("text/event-stream")
                    self._event({**stamp, **_delta({"role": "assistant", "content": text}, None)})
                words.append(text)
        if body.get("stream"):
            self._open_stream("text/event-stream")
            self._event({**stamp, **_delta({"role": "assistant", "content": ""}, "stop")})
            self._chunk("data: [DONE]\n\n")
            self._close_stream()
            return
        message = {"role": "assistant", "content": "".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 8, "completion_tokens": len(words), "total_tokens": 8 + len(words)}
        self._json(200, {**stamp, "object": "chat.completion", "choices": [choice], "usage": usage})

    def _create(self, body: Json) -> None:
        self.engine.store.create(body.get("model") or body.get("name") or "", body.get("files") or {})
        self._open_stream("application/x-ndjson")
        for status in ("parsing GGUF", "writing manifest", "success"):
            self._chunk(json.dumps({"status": status}) + "\n")
        self._close_stream()

    def _blob(self, digest: str) -> None:
        """Take a blob and keep it if it is what its name says."""
        self.engine.store.blobs.mkdir(parents=True, exist_ok=True)
        part = self.engine.store.blobs / f"part-{threading.get_ident()}"
        seen = hashlib.sha256()
        left = int(self.headers.get("Content-Length") or 0)
        with part.open("wb") as out:
            while left:
                piece = self.rfile.read(min(left, 1 << 20))
                if not piece:
                    break
                seen.update(piece)
                out.write(piece)
                left -= len(piece)
        if f"sha256:{seen.hexdigest()}" != digest:
            part.unlink()
            self._fail(400, "digest mismatch, expected " + digest)
            return
        part.replace(self.engine.store.blobs / digest.replace(":", "-"))
        self._send(201, b"", "text/plain")

    _streaming = False

    def _open_stream(self, kind: str) -> None:
        if self._streaming:
            return
        self._streaming = True
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, text: str) -> None:
        raw = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(raw), raw))
        self.wfile.flush()

    def _close_stream(self) -> None:
        self.wfile.write(b"0\r\n\r\n")
        self._streaming = False

    def _event(self, body: Json) -> None:
        self._chunk(f"data: {json.dumps({**body, 'object': 'chat.completion.chunk'})}\n\n")

    def _json(self, code: int, body: object) -> None:
        self._send(code, json.dumps(body).encode(), "application/json; charset=utf-8")

    def _fail(self, code: int, message: str) -> None:
        """An error in the dialect of the route that was asked."""
        if self.path.startswith("/v1/"):
            kinds = {400: "invalid_request_error", 404: "not_found_error"}
            error = {"message": message, "type": kinds.get(code, "api_error"), "param": None, "code": None}
            self._json(code, {"error": error})
        else:
            self._json(code, {"error": message})

    def _send(self, code: int, body: bytes, kind: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _openai_model(model: Json) -> Json:
    created = int(datetime.fromisoformat(model["modified_at"]).timestamp())
    return {"id": model["name"], "object": "model", "created": created, "owned_by": "library"}


def _delta(delta: Json, reason: str | None) -> Json:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512


def serve(_: list[str]) -> int:
    Handler.engine = Engine()
    address, port = host()
    print(f"Listening on {address}:{port} (version {VERSION}, a stand-in)", file=sys.stderr, flush=True)
    with Server((address, port), Handler) as server:
        server.serve_forever()
    return 0


def ask(method: str, path: str, body: Json | bytes | None = None) -> Json:
    """Ask the server and return the last object it sent.

    :raises SystemExit: with the server's own words when it refuses or cannot be reached.
    """
    address, port = host()
    connection = http.client.HTTPConnection("127.0.0.1" if address == "0.0.0.0" else address, port, timeout=600)
    raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    try:
        connection.request(method, path, raw)
        answer = connection.getresponse()
        lines = answer.read().decode().strip().splitlines() or ["{}"]
    except OSError:
        raise SystemExit("Error: could not connect to ollama server, run 'ollama serve' to start it") from None
    last: Json = json.loads(lines[-1])
    if answer.status >= 400:
        raise SystemExit(f"Error: {last.get('error')}")
    return last


def has_blob(digest: str) -> bool:
    """Whether the server has a blob by its name."""
    address, port = host()
    connection = http.client.HTTPConnection("127.0.0.1" if address == "0.0.0.0" else address, port, timeout=600)
    connection.request("HEAD", f"/api/blobs/{digest}")
    return connection.getresponse().status == 200


def list_models(_: list[str]) -> int:
    print("NAME\tID\tSIZE\tMODIFIED")
    for model in ask("GET", "/api/tags")["models"]:
        print(model["name"], model["digest"][:12], model["size"], model["modified_at"], sep="\t")
    return 0


def list_loaded(_: list[str]) -> int:
    print("NAME\tID\tSIZE\tPROCESSOR\tCONTEXT\tUNTIL")
    for model in ask("GET", "/api/ps")["models"]:
        print(model["name"], model["digest"][:12], model["size"], "100% GPU", model["context_length"], "Forever", sep="\t")
    return 0


def show(arguments: list[str]) -> int:
    print("  Model\n    architecture  ", ask("POST", "/api/show", {"model": arguments[0]})["model_info"]["general.architecture"])
    return 0


def run(arguments: list[str]) -> int:
    words = [word for word in arguments if not word.startswith("--")]
    asked = {"model": words[0], "prompt": " ".join(words[1:]), "stream": False}
    print(ask("POST", "/api/generate", asked)["response"])
    return 0


def create(arguments: list[str]) -> int:
    """`ollama create NAME -f MODELFILE`, whose FROM is a GGUF file."""
    modelfile = Path(arguments[arguments.index("-f") + 1])
    lines = [line.split(None, 1) for line in modelfile.read_text().splitlines() if line.upper().startswith("FROM ")]
    source = Path(lines[0][1].strip())
    if not source.exists():
        raise SystemExit(f"Error: no Modelfile or safetensors files found: {source} does not exist")
    raw = source.read_bytes()
    digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    # As Ollama's client: what the server has by that name is not sent again, and not looked into.
    if not has_blob(digest):
        ask("POST", f"/api/blobs/{digest}", raw)
    print(ask("POST", "/api/create", {"model": arguments[0], "files": {source.name: digest}})["status"])
    return 0


COMMANDS = {"serve": serve, "list": list_models, "ls": list_models, "ps": list_loaded, "show": show, "run": run, "create": create}


def main(argv: list[str]) -> int:
    if argv[:1] in (["--version"], ["-v"]):
        print(f"ollama version is {VERSION} (a stand-in)")
        return 0
    if not argv or argv[0] not in COMMANDS:
        print(f"Error: unknown command; this stand-in knows {', '.join(COMMANDS)}", file=sys.stderr)
        return 1
    return COMMANDS[argv[0]](argv[1:])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
