# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Counts the cut streams that a client sees: engines that number their tokens, behind the role's balancer, on the loopback interface.

Runs in the environment of tests/services and prints JSON. The peer is the same balancer without the chat service.
"""

from __future__ import annotations

import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "unit" / "llm_services"), str(HERE.parent / "tools")]

import httpx  # noqa: E402 - importable after the line above
from conftest import balanced  # noqa: E402
from places import NUMBERED, Api, Processes  # noqa: E402
from ports import free_port  # noqa: E402

STREAMS = 200
TOKENS = 40
WHOLE = "".join(f" t{number}" for number in range(1, TOKENS + 1))
WAYS = ("reset", "close", "half", "clean", "error")


def request(number: int) -> dict[str, Any]:
    """A stream that is cut once or twice, each at another token and in another way."""
    cuts = [1 + number % (TOKENS - 1)] if number % 3 else [2, 7 + number % 30]
    told = {"tokens": TOKENS, "cuts": cuts, "how": WAYS[number % len(WAYS)], "number": number}
    return {"model": "numbered", "messages": [{"role": "user", "content": "Count."}], "stream": True, "standin": told}


def received(url: str, number: int) -> str:
    """The text a client has when its stream is over."""
    text = ""
    try:
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=request(number), timeout=120, trust_env=False) as got:
            for line in got.iter_lines():
                if line.startswith("data: {"):
                    for choice in json.loads(line[6:]).get("choices", []):
                        text += choice["delta"].get("content") or ""
    except httpx.HTTPError:
        pass
    return text


def visible(url: str, first: int) -> int:
    """Streams of which a token is missing or doubled."""
    with ThreadPoolExecutor(16) as pool:
        return sum(text != WHOLE for text in pool.map(lambda number: received(url, first + number), range(STREAMS)))


def main() -> int:
    """Measure both, and print how many of how many were seen."""
    with tempfile.TemporaryDirectory(prefix="llm-cut-") as place:
        processes = Processes(Path(place))
        try:
            ports = [free_port() for _number in range(3)]
            for port in ports:
                processes.start(f"engine-{port}", [sys.executable, str(NUMBERED), str(port)], port)
            balancer = balanced(processes, ports)
            api = Api(processes, balancer, HEARTBEAT_S="1", PATIENCE_S="60")
            print(json.dumps({"streams": STREAMS, "ours": visible(api.url, 0), "peer": visible(balancer, STREAMS)}))
        finally:
            processes.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
