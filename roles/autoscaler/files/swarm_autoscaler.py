# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The process of the service swarm_autoscaler: ``python3 /app/swarm_autoscaler.py``. Beside it in the image lie the planners of this
collection, as ``llm_stack``, and the exporters' text format."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, Iterator

from exposition import Metric, NotAnswered, make_server, render
from llm_stack._autoscale import listen
from llm_stack._autoscale.hands import called
from llm_stack._autoscale.loop import Autoscaler, World
from llm_stack._autoscale.model import Settings, settings_of
from llm_stack._autoscale.scale import Demand
from llm_stack._errors import StackError
from llm_stack._recover.store import SdkConfigs, Store
from llm_stack._selectel.login import connect
from llm_stack._swarm.client import EngineError, SdkApi, sdk

PORT = 9780
BALANCER_PORT = 8405
# Not as often as once in a request's life, and often enough that a loss is known within a second.
BALANCER_EVERY, GPU_EVERY = 0.5, 10.0
GPUS = "avg(gpu:utilization_ratio)"


def say(word: str, **what: Any) -> None:
    """Write one line of the log: JSON, for machines and for people."""
    line = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "event": word, **what}
    sys.stdout.write(json.dumps({key: value for key, value in line.items() if value not in (None, "", {})}) + "\n")
    sys.stdout.flush()


def balance(name: str) -> listen.Balance:
    """Ask all balancers; one that does not answer is not waited for by the others."""
    at, pages, error = time.time(), [], ""
    for address in listen.addresses(name, BALANCER_PORT):
        try:
            pages.append(listen.fetch(address, "/metrics?scope=backend&scope=server&no-maint", seconds=2))
        except listen.NotTold as problem:
            error = str(problem)
    if not pages:
        raise listen.NotTold(error or f"there is no {name}")
    return listen.balance_of(pages, at)


def gpu(address: str) -> tuple[float, float]:
    """Ask Prometheus for the use of all GPUs."""
    at = time.time()
    return listen.gpu_use(listen.fetch(address, listen.gpu_query(GPUS), seconds=5), at)


class Ears:
    """All that is listened to."""

    def __init__(self, settings: Settings, api: SdkApi) -> None:
        self._settings = settings
        self.call = lambda _sign: None
        self.balancer = listen.Ear(
            "balancer", lambda: balance(settings.balancers), every=BALANCER_EVERY, lost=listen.fewer_up, call=self._heard
        )
        self.events = listen.Events(lambda: api.events(["node"]), call=self._heard)
        self.gpu = listen.Ear("gpu", lambda: gpu(settings.prometheus), every=GPU_EVERY, lost=lambda *_: False, call=lambda _sign: None)

    def _heard(self, sign: str) -> None:
        self.call(sign)

    def start(self) -> None:
        """Begin to listen."""
        self.balancer.start()
        self.events.start()
        if self._settings.prometheus:
            self.gpu.start()

    def demand(self) -> Demand | None:
        """Return how busy the engines are."""
        measured = bool(self._settings.prometheus)
        return listen.demand_of(self.balancer.last, self.gpu.last, slots=self._settings.slots, measured=measured)


def metrics(loop: Autoscaler, ears: Ears, settings: Settings) -> Iterator[Metric]:
    """Yield what Prometheus is told."""
    told, now = loop.account, time.time()
    for name, help_, value in (
        ("llm_autoscaler_healthy", "Whether the last turn saw everything it had to see", told.healthy),
        ("llm_autoscaler_turn_age_seconds", "Seconds since the last turn ended", now - told.turned),
        ("llm_autoscaler_wanted", "Workers that demand needs", told.wanted),
        ("llm_autoscaler_least", "Workers there are at least", settings.scale.least),
        ("llm_autoscaler_most", "Workers there are at the most", settings.scale.most),
        ("llm_autoscaler_locked_out", "Whether another run holds the lock of the fleet", bool(told.held_by)),
        ("llm_autoscaler_demand_known", "Whether the load is known", bool(told.scaling and told.scaling.known)),
        ("llm_autoscaler_use_ratio", "Part of what the engines can do that is under way", told.demand and told.demand.use),
        ("llm_autoscaler_waiting", "Requests that wait for an engine", told.demand and told.demand.waiting),
        ("llm_autoscaler_detect_seconds", "From the first sign of the last loss to the first call for its sake", told.detect),
        ("llm_autoscaler_events_connected", "Whether the engine's events are heard", not ears.events.error),
    ):
        metric = Metric(name, help_)
        if value is not None:
            metric.add(float(value))
        yield metric
    ages = Metric("llm_autoscaler_view_age_seconds", "Age of what was seen last, by what was looked at")
    seen = {**told.seen, "balancer": getattr(ears.balancer.last, "at", None), "gpu": ears.gpu.last and ears.gpu.last[1]}
    for name, at in sorted(seen.items()):
        if at is not None:
            ages.add(now - at, view=name)
    workers = Metric("llm_autoscaler_workers", "Workers by what was decided about them last, and those that serve")
    for state, count in sorted(told.workers.items()):
        workers.add(count, state=state)
    actions = Metric("llm_autoscaler_actions_total", "What was done, and how it ended", "counter")
    for (action, result), count in sorted(told.actions.items()):
        actions.add(count, action=action, result=result)
    yield from (ages, workers, actions)


def alive(loop: Autoscaler, settings: Settings) -> str:
    """Say that turns are still made; one that acts may take as long as the cloud.

    :raises NotAnswered: they are not.
    """
    age, most = time.time() - loop.account.turned, settings.options["deadline"] + settings.pace.drain + 120
    if age > most:
        raise NotAnswered(f"No turn has ended for {age:.0f} s, and {most:.0f} s is the limit.")
    return "ok\n"


def engine(url: str) -> tuple[SdkApi, Store]:
    """Connect to the guard before the engine's socket; it may come up later than this."""
    while True:
        try:
            # Those who bring workers back ask for the lock while the loop looks: a client is for one at a time.
            return SdkApi(*sdk(url)), Store(SdkConfigs(*sdk(url)))
        except EngineError as error:
            say("no engine", reason=str(error))
            time.sleep(5)


def main() -> None:
    """Listen, turn and answer until told to end."""
    place = Path(os.environ.get("SECRETS", "/run/secrets"))
    owner = f"autoscaler in {os.environ.get('NODE') or socket.gethostname()}"
    over = threading.Event()
    # As process 1 of its container it gets no signal that it does not ask for. What is under way ends at its next request.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        settings = settings_of((place / "autoscaler").read_text(), (place / "autoscaler_credential").read_text(), owner=owner)
    except (StackError, KeyError, OSError) as error:
        sys.exit(f"The settings cannot be used: {error}")
    api, store = engine(os.environ.get("GUARD", "tcp://guard:2375"))
    ears = Ears(settings, api)
    loop = Autoscaler(
        settings,
        World(
            api=api,
            store=store,
            connections=lambda: connect(settings.options, settings.desired),
            demand=ears.demand,
            call_for_hands=lambda workers: called(settings.webhook, workers),
            say=say,
            clock=time.time,
            sleep=time.sleep,
        ),
    )
    ears.call = loop.lost
    say("start", owner=owner, least=settings.scale.least, most=settings.scale.most)
    ears.start()
    server = make_server(
        int(os.environ.get("PORT", PORT)),
        {"/metrics": lambda _query: render(metrics(loop, ears, settings)), "/alive": lambda _query: alive(loop, settings)},
        address=os.environ.get("ADDRESS", ""),
    )
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    loop.run(over)


if __name__ == "__main__":
    main()
