# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks the edge without a pause for some seconds and prints what became of it as JSON; runs inside the lab's network."""

from __future__ import annotations

import http.client
import json
import ssl
import sys
import threading
import time
from collections import Counter


class Load:
    """Clients, each of which asks again when it was answered."""

    def __init__(self, address: str, certificate: str, key: str, first_token: float) -> None:
        self.address = address
        self.context = ssl.create_default_context(cafile=certificate)
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        question = {"model": "tiny", "messages": [{"role": "user", "content": "Are you there?"}]}
        self.body = json.dumps({**question, "standin": {"tokens": 1, "first_token_s": first_token}})
        self.engines: Counter[str] = Counter()
        self.failures: list[str] = []
        self.slowest = 0.0
        self.lock = threading.Lock()

    def ask(self) -> None:
        """One request on a connection of its own."""
        begin = time.monotonic()
        try:
            connection = http.client.HTTPSConnection(self.address, 443, context=self.context, timeout=60)
            connection.request("POST", "/v1/chat/completions", self.body, self.headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            outcome = "" if answer.status == 200 and "token1" in text else f"{answer.status}: {text[:200]}"
            engine = answer.headers.get("X-LLM-Engine", "")
            connection.close()
        except OSError as error:
            outcome, engine = repr(error), ""
        with self.lock:
            self.slowest = max(self.slowest, time.monotonic() - begin)
            if outcome:
                self.failures.append(f"at {time.time():.1f}: {outcome}")
            else:
                self.engines[engine] += 1

    def run(self, clients: int, seconds: float) -> None:
        """Keep that many clients asking for that long."""
        end = time.monotonic() + seconds

        def client() -> None:
            while time.monotonic() < end:
                self.ask()

        threads = [threading.Thread(target=client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def main(argv: list[str]) -> None:
    address, certificate, clients, seconds, first_token = argv
    load = Load(address, certificate, sys.stdin.readline().strip(), float(first_token))
    load.run(int(clients), float(seconds))
    print(json.dumps({"engines": load.engines, "failures": load.failures, "slowest": round(load.slowest, 2)}))


if __name__ == "__main__":
    main(sys.argv[1:])
