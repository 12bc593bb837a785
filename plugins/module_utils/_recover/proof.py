# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof that a service is whole: a real question, put through the edge, answered by each engine that has to."""

from __future__ import annotations

import http.client
import json
import re
import ssl
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping
from urllib.parse import urlsplit

_ADDRESS = re.compile(r"\((\[?[0-9a-fA-F.:]+?\]?)i?\)")
_PAUSE = 0.5


@dataclass(frozen=True)
class Answer:
    """How one question ended.

    :param engine: the address of the engine that answered; empty when none did.
    :param error: why there was no answer.
    """

    engine: str = ""
    error: str = ""


@dataclass
class Proof:
    """What was found out.

    :param answered: by node, after how many seconds its engine answered first.
    :param missing: nodes whose engine did not answer.
    :param error: why the last question had no answer.
    """

    answered: dict[str, float] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    questions: int = 0
    error: str = ""


Ask = Callable[[], Answer]
# Returns the addresses of the engines by node, as the swarm has them now.
Where = Callable[[], Mapping[str, "list[str]"]]


def engine_address(header: str) -> str:
    """Return the address in the balancer's header, ``engine3 (10.0.1.7)``."""
    found = _ADDRESS.search(header)
    return found.group(1).strip("[]") if found else ""


def prove(ask: Ask, where: Where, *, nodes: list[str], timeout: float, clock: Callable[[], float], sleep: Callable[[float], None]) -> Proof:
    """Ask until the engine of every one of these nodes has answered; with no node, until any has.

    :param timeout: seconds for all of it.
    """
    proof, start = Proof(), clock()
    while True:
        answer = ask()
        proof.questions += 1
        proof.error = answer.error
        if answer.engine:
            _note(proof, answer.engine, where(), round(clock() - start, 1))
        proof.missing = [node for node in nodes if node not in proof.answered]
        if (not proof.missing and not answer.error) or clock() - start >= timeout:
            return proof
        # Engines that are known take turns at once; one that is not there yet is waited for.
        sleep(_PAUSE if answer.error or proof.questions % 8 == 0 else 0.02)


def _note(proof: Proof, address: str, places: Mapping[str, list[str]], seconds: float) -> None:
    for node, addresses in places.items():
        if address in addresses:
            proof.answered.setdefault(node, seconds)


def http_ask(url: str, *, key: str, model: str, timeout: float) -> Answer:
    """Put one question to the edge. On this host its certificate, which names another address, is not looked at; elsewhere it is."""
    body = {"model": model, "messages": [{"role": "user", "content": "Answer in one word. Are you there?"}], "max_tokens": 4}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection = connection_to(url, timeout)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            return Answer(error=f"the edge answered {response.status}")
        found: Any = json.loads(response.read())
        engine = engine_address(response.headers.get("X-LLM-Engine") or "")
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Answer(error=f"the edge gave no answer: {error}")
    finally:
        connection.close()
    if not (isinstance(found, dict) and found.get("choices")):
        return Answer(error="the edge answered without a choice")
    return Answer(engine, "" if engine else "the balancer did not say which engine answered")


def connection_to(url: str, timeout: float) -> http.client.HTTPConnection:
    """Return a connection to an edge, not opened yet."""
    place = urlsplit(url)
    if place.scheme == "http":
        return http.client.HTTPConnection(place.netloc, timeout=timeout)
    return http.client.HTTPSConnection(place.netloc, timeout=timeout, context=_context(place.hostname or ""))


def _context(host: str) -> ssl.SSLContext:
    """Verify whoever is given the key, unless it does not leave this host."""
    context = ssl.create_default_context()
    if host in ("127.0.0.1", "::1", "localhost"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
