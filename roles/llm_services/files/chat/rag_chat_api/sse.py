# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Server-sent events, read and written."""

from __future__ import annotations

import json
from typing import Any, Iterable, Iterator

HEARTBEAT = ": heartbeat\n\n"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def event(name: str, data: Any) -> str:
    """One named event with a JSON object."""
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


def data(payload: Any) -> str:
    """One unnamed event, as OpenAI's API sends them."""
    return f"data: {json.dumps(payload, ensure_ascii=False, separators=(',', ':'))}\n\n"


def comment(text: str) -> str:
    """A comment: the standard has every client ignore it."""
    return f": {' '.join(text.split())}\n\n"


def lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """The whole lines in pieces of a stream; the rest that no line end follows is left out.

    Only line feeds end a line, a carriage return before one goes with it. ``str.splitlines`` knows more ends, U+2028 and U+0085 among
    them, which stand as they are in the JSON of engines.
    """
    held = b""
    for piece in pieces:
        *whole, held = (held + piece).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r").decode("utf-8", "replace")


def payloads(lines: Iterable[str]) -> Iterator[str]:
    """The data of each event in a stream of lines; llama.cpp names its errors ``error:`` instead of ``data:``.

    An event counts when its blank line has come: half of one, cut off by a lost connection, does not.
    """
    held: list[str] = []
    for line in lines:
        if line.startswith(("data:", "error:")):
            held.append(line.partition(":")[2].removeprefix(" "))
        elif not line and held:
            yield "\n".join(held)
            held = []


def data_done() -> str:
    """The end of a stream, as OpenAI's API says it."""
    return "data: [DONE]\n\n"
