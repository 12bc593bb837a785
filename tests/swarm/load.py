# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks the edge without a pause for some seconds, or until it is told to end, and prints what became of it as JSON.

Runs inside the lab's network. A client of several edges goes to the next where a connection is refused, as one does that was given
several addresses.
"""

from __future__ import annotations

import http.client
import json
import signal
import ssl
import sys
import threading
import time
from collections import defaultdict


class Load:
    """Clients, each of which asks again when it was answered."""

    def __init__(self, addresses: str, certificate: str, key: str, first_token: float, patience: float) -> None:
        self.patience = patience
        self.addresses = addresses.split(",")
        self.context = ssl.create_default_context(cafile=certificate or None)
        # The certificate names the first edge; who answers elsewhere is not in doubt in the lab.
        self.context.check_hostname = False
        if not certificate:
            # It changes while they ask.
            self.context.verify_mode = ssl.CERT_NONE
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        question = {"model": "tiny", "messages": [{"role": "user", "content": "Are you there?"}]}
        self.body = json.dumps({**question, "standin": {"tokens": 1, "first_token_s": first_token}})
        # When each engine answered, in seconds since 1970.
        self.times: dict[str, list[float]] = defaultdict(list)
        self.failures: list[str] = []
        self.slowest, self.gap = 0.0, 0.0
        self.answered = time.monotonic()
        self.over = threading.Event()
        self.lock = threading.Lock()

    def connected(self, number: int) -> http.client.HTTPSConnection:
        """A connection to an edge, each client beginning with another.

        :raises OSError: when none takes it.
        """
        for address in self.addresses[number % len(self.addresses) :] + self.addresses[: number % len(self.addresses)]:
            connection = http.client.HTTPSConnection(address, 443, context=self.context, timeout=self.patience)
            try:
                connection.connect()
            except OSError as error:
                refused = error
            else:
                return connection
        raise refused

    def ask(self, number: int) -> None:
        """One request on a connection of its own."""
        begin = time.monotonic()
        try:
            connection = self.connected(number)
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
                self.times[engine].append(round(time.time(), 2))
                self.gap = max(self.gap, time.monotonic() - self.answered)
                self.answered = time.monotonic()
        if outcome:
            time.sleep(0.05)

    def run(self, clients: int, seconds: float) -> None:
        """Keep that many clients asking for that long."""
        end = time.monotonic() + seconds

        def client(number: int) -> None:
            while time.monotonic() < end and not self.over.is_set():
                self.ask(number)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def main(argv: list[str]) -> None:
    addresses, certificate, clients, seconds, first_token, patience, *more = argv
    load = Load(addresses, certificate, sys.stdin.readline().strip(), float(first_token), float(patience))
    signal.signal(signal.SIGTERM, lambda *_: load.over.set())
    load.run(int(clients), float(seconds))
    engines = {engine: len(times) for engine, times in load.times.items()}
    worst = {"slowest": round(load.slowest, 2), "gap": round(load.gap, 2)}
    times = {"times": load.times} if "times" in more else {}
    print(json.dumps({"engines": engines, "failures": load.failures, **worst, **times}))


if __name__ == "__main__":
    main(sys.argv[1:])
