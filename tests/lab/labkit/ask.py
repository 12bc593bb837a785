# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask the service one question through its edge and print the answer as it streams; runs inside the lab's network."""

from __future__ import annotations

import http.client
import json
import ssl
import sys
from typing import Iterator
from urllib.parse import urlsplit


def stream(url: str, key: str, model: str, question: str, *, ca: str) -> Iterator[str]:
    """Yield first the engine that answers (response header X-LLM-Engine), then the answer piece by piece.

    :raises RuntimeError: with the status and body of a refusal.
    """
    parts = urlsplit(url)
    context = ssl.create_default_context(cafile=ca)
    connection = http.client.HTTPSConnection(parts.hostname or "", parts.port or 443, context=context, timeout=120)
    body = {"model": model, "messages": [{"role": "user", "content": question}], "stream": True, "max_tokens": 48}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    if answer.status != 200:
        raise RuntimeError(f"the edge answered {answer.status}: {answer.read().decode(errors='replace')}")
    yield answer.headers.get("X-LLM-Engine", "unknown")
    for line in answer:
        text = line.decode().strip()
        if text.startswith("data: ") and text != "data: [DONE]":
            yield json.loads(text[6:])["choices"][0]["delta"].get("content") or ""


def main(argv: list[str]) -> int:
    """Print the answer; the key comes on standard input."""
    url, model, ca, question = argv
    pieces = stream(url, sys.stdin.readline().strip(), model, question, ca=ca)
    engine = next(pieces)
    count = 0
    for piece in pieces:
        count += bool(piece)
        print(piece, end="", flush=True)
    print(f"\n({count} pieces from engine {engine})")
    return 0 if count else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
