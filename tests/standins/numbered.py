# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A STAND-IN for an engine with OpenAI's API that numbers its tokens and breaks off on demand. It computes nothing.

A request says how it is answered: "standin": {"tokens": 40, "token_s": 0.002, "cuts": [12, 25], "how": "reset"}. The answer is
" t1 t2 ..."; after token 12 the connection is lost in the way named. An assistant's turn at the end is gone on from, as llama.cpp and
Ollama do, and must be exactly what was sent: anything else is answered with an error, so that a test sees it. With "roles": true the role
is said in every piece, as Ollama does; with "once": true the first time is lost before a word, "lost_s" seconds after the question.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Dict

Json = Dict[str, Any]


def text(first: int, last: int) -> str:
    """The tokens from one number to another."""
    return "".join(f" t{number}" for number in range(first, last + 1))


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    # What was asked of this process, for the tests to read.
    asked: ClassVar[list[Json]] = []

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Health, models, and what was asked."""
        known: Json = {"/health": {"status": "ok"}, "/v1/models": {"object": "list", "data": [{"id": "numbered"}]}, "/asked": self.asked}
        self._json(200, known[self.path]) if self.path in known else self._json(404, {"error": {"message": "no such path"}})

    def do_POST(self) -> None:
        """Answer, or break off."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        if self.path == "/api/embed":
            self._json(200, {"embeddings": [[float(len(one)), 1.0, 0.5] for one in body["input"]]})
            return
        told = told_by(body)
        newest = body["messages"][-1]
        before = str(newest.get("content")) if newest.get("role") == "assistant" else ""
        begin = len(re.findall(r" t\d+", before))
        if begin and before != text(1, begin):
            self._json(400, {"error": {"message": f"the partial answer is not what was sent: {before!r}", "code": 400}})
        elif told.get("refuse"):
            self._json(told["refuse"], {"error": {"message": "refused as asked", "type": "invalid_request_error", "code": told["refuse"]}})
        elif told.get("once") and self._first(body):
            time.sleep(float(told.get("lost_s", 0)))
            self._lose("reset")
        elif body.get("stream"):
            self._stream(body, told, begin)
        else:
            self._whole(body, told, begin)

    def _json(self, status: int, body: Any) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _whole(self, body: Json, told: Json, begin: int) -> None:
        message = {"role": "assistant", "content": told.get("say") or text(begin + 1, int(told.get("tokens", 10)))}
        usage = {"prompt_tokens": 7, "completion_tokens": int(told.get("tokens", 10)), "total_tokens": 17}
        self._json(200, {"id": "whole", "model": body.get("model"), "choices": [{"index": 0, "message": message}], "usage": usage})

    def _stream(self, body: Json, told: Json, begin: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._delta({"role": "assistant", "content": ""})
        cuts, how = told.get("cuts", []), str(told.get("how", "reset"))
        if 0 in cuts and not begin and not told.get("always") and self._first(body):
            return self._lose(how)
        time.sleep(float(told.get("first_s", 0)))
        role = {"role": "assistant", "content": ""} if told.get("roles") else {}
        for number in range(int(told.get("reasoning", 0))):
            self._delta({**role, "reasoning_content": f" r{number}"})
        last = int(told.get("tokens", 10))
        limit = begin + int(body.get("max_tokens") or last)
        for number in range(begin + 1, min(last, limit) + 1):
            self._delta({**role, **self._token(body, told, number)})
            if number in cuts:
                return self._lose(how)
            time.sleep(float(told.get("token_s", 0.001)))
        self._event({"choices": [{"index": 0, "delta": role, "finish_reason": "stop" if last <= limit else "length"}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            sent = min(last, limit) - begin
            self._event({"choices": [], "usage": {"prompt_tokens": 7 + begin, "completion_tokens": sent, "total_tokens": 7 + begin + sent}})
        self._send(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")
        return None

    def _first(self, body: Json) -> bool:
        """Whether this process sees the request for the first time."""
        return sum(told_by(other) == told_by(body) for other in self.asked) == 1

    @staticmethod
    def _token(body: Json, told: Json, number: int) -> Json:
        if body.get("tools"):
            return {"tool_calls": [{"index": 0, "function": {"arguments": f" t{number}"}}]}
        say = told.get("say")
        return {"content": say[number - 1] if say else f" t{number}"}

    def _delta(self, delta: Json) -> None:
        self._event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})

    def _event(self, body: Json) -> None:
        whole = {"id": f"chat-{id(self)}", "object": "chat.completion.chunk", "created": 1, "model": "numbered", **body}
        # As engines do, which escape only what JSON wants escaped.
        self._send(f"data: {json.dumps(whole, ensure_ascii=False)}\n\n".encode())

    def _send(self, raw: bytes) -> None:
        self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
        self.wfile.flush()

    def _lose(self, how: str) -> None:
        """Break off."""
        self.close_connection = True
        if how == "silent":
            time.sleep(60)
        elif how == "clean":
            self.wfile.write(b"0\r\n\r\n")
        elif how == "error":
            self._send(b'data: {"error": {"message": "the GPU fell off the bus", "code": 500, "type": "server_error"}}\n\n')
        elif how == "half":
            raw = b'data: {"id": "x", "choices": [{"index": 0, "delta": {"content": " t'
            self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
        elif how == "reset":
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close() if how == "reset" else None


def told_by(body: Json) -> Json:
    """How a request says it is answered."""
    told = body.get("standin") or said(body)
    return told if isinstance(told, dict) else {}


def said(body: Json) -> Json:
    """What the question itself tells, where a client cannot add a field: ``standin {...}`` in its last words."""
    for message in reversed(body.get("messages", [])):
        found = re.search(r"standin (\{.*\})", str(message.get("content")))
        if message.get("role") == "user" and found:
            told: Json = json.loads(found.group(1))
            return told
    return {}


class Server(ThreadingHTTPServer):
    """Many connections at a time."""

    daemon_threads = True
    request_queue_size = 512


if __name__ == "__main__":
    with Server(("127.0.0.1", int(sys.argv[1])), Handler) as server:
        server.serve_forever()
