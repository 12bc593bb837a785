# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is listened to: the balancer's metrics as they were recorded, GPUs as Prometheus has them, and calls that come when one is lost."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Iterator

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._autoscale.hands import called
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._autoscale.listen import (
    Balance,
    Ear,
    Events,
    NotTold,
    balance_of,
    demand_of,
    fewer_up,
    gpu_use,
)
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._autoscale.scale import Demand
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.client import EngineError

RECORDED = Path(__file__).resolve().parents[1] / "monitoring" / "recorded" / "haproxy.metrics"


def page(up: int, sessions: int = 0, queue: int = 0, downs: int = 0) -> str:
    return (
        f'haproxy_backend_active_servers{{proxy="engines"}} {up}\n'
        f'haproxy_backend_current_sessions{{proxy="engines"}} {sessions}\n'
        f'haproxy_backend_current_queue{{proxy="engines"}} {queue}\n'
        f'haproxy_server_check_up_down_total{{proxy="engines",server="engine1"}} {downs}\n'
        'haproxy_backend_active_servers{proxy="loaded"} 9\n'
        'haproxy_backend_current_sessions{proxy="loaded"} 1\n'
        'haproxy_backend_current_queue{proxy="keys"} 7\n'
    )


def test_metrics_as_haproxy_gives_them_are_read() -> None:
    assert balance_of([RECORDED.read_text()], 5.0) == Balance(5.0, up=0, sessions=0, waiting=0, downs=0)


def test_several_balancers_are_one() -> None:
    assert balance_of([page(2, 3, 1, 4), page(1, 2, 0, 1)], 5.0) == Balance(5.0, up=2, sessions=7, waiting=1, downs=5)


@pytest.mark.parametrize("pages", [[], [""], ['haproxy_backend_active_servers{proxy="keys"} 1'], [page(1), ""]])
def test_a_balancer_that_says_nothing_of_engines_is_not_understood(pages: list[str]) -> None:
    with pytest.raises(NotTold):
        balance_of(pages, 5.0)


@pytest.mark.parametrize(
    ("before", "after", "lost"),
    [(page(2), page(2), False), (page(2), page(1), True), (page(1), page(2), False), (page(2), page(2, downs=1), True)],
)
def test_a_mark_down_is_a_sign_also_when_another_came_up_meanwhile(before: str, after: str, lost: bool) -> None:
    assert fewer_up(balance_of([before], 1.0), balance_of([after], 2.0)) is lost


def prometheus(*values: str) -> str:
    return json.dumps(
        {"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1.0, one]} for one in values]}}
    )


def test_the_use_of_gpus() -> None:
    assert gpu_use(prometheus("0.5"), 7.0) == (0.5, 7.0)
    for wrong in (prometheus(), prometheus("NaN"), prometheus("87"), prometheus("0.1", "0.2"), "{}", "no JSON"):
        with pytest.raises(NotTold):
            gpu_use(wrong, 7.0)


SEEN = Balance(9.0, up=2, sessions=9, waiting=3, downs=0)
DEMANDS = [
    (SEEN, (0.5, 4.0), True, Demand(4.0, 2, 0.5, 3)),
    (SEEN, None, True, None),
    (None, (0.5, 4.0), True, None),
    (SEEN, None, False, Demand(9.0, 2, 0.75, 3)),
    (Balance(9.0, up=0, sessions=0, waiting=0, downs=0), None, False, Demand(9.0, 0, 0.0, 0)),
    (None, None, False, None),
]


@pytest.mark.parametrize(("balance", "gpu", "measured", "wanted"), DEMANDS)
def test_the_load(balance: Balance | None, gpu: tuple[float, float] | None, measured: bool, wanted: Demand | None) -> None:
    """It is as old as its oldest figure; where GPUs are measured and not known, it is not known."""
    assert demand_of(balance, gpu, slots=4, measured=measured) == wanted


def test_an_ear_calls_when_one_is_lost_and_keeps_an_old_answer_that_grows_older() -> None:
    answers: list[Any] = [balance_of([page(2)], 1.0), NotTold("gone"), balance_of([page(1)], 3.0)]
    calls: list[str] = []

    def answer() -> Any:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    ear = Ear("balancer", answer, every=1, lost=fewer_up, call=calls.append)
    ear.once()
    ear.once()
    assert (ear.error, ear.last.at, calls) == ("gone", 1.0, [])
    ear.once()
    assert (ear.error, ear.last.at, calls) == ("", 3.0, ["balancer"])


def test_events_of_nodes_are_signs_and_a_broken_stream_is_told() -> None:
    calls: list[str] = []

    def stream() -> Iterator[dict[str, Any]]:
        yield {"Type": "node", "Action": "update"}
        yield {"Type": "service"}
        raise EngineError("Docker could not tell of events: cut")

    events = Events(stream, call=calls.append)
    events.once()
    assert calls == ["docker"]
    assert events.error == "Docker could not tell of events: cut"


class Hook(HTTPServer):
    def __init__(self, status: int) -> None:
        self.status, self.got = status, []  # type: ignore[var-annotated]
        super().__init__(("127.0.0.1", 0), Received)


class Received(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, self.headers.get("Authorization"), json.loads(body)))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        return


@pytest.mark.parametrize(
    ("more", "body"), [({}, {"reason": "workers need hands", "workers": ["gpu1"]}), ({"body": {"template_id": 3}}, {"template_id": 3})]
)
@pytest.mark.parametrize("status", [200, 403])
def test_the_webhook(more: dict[str, Any], body: dict[str, Any], status: int) -> None:
    with Hook(status) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/launch?x=1"
        said = called({"url": url, "token": "hunter2", **more}, ["gpu1"])
        thread.join()
        assert server.got == [("/launch?x=1", "Bearer hunter2", body)]
        assert said == ("" if status == 200 else "127.0.0.1 answered 403")
    assert "does not answer" in called({"url": url}, ["gpu1"])
    assert "run recover.yml" in called({}, ["gpu1"])
