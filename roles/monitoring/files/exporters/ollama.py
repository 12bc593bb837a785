# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an Ollama engine has loaded, for Prometheus: ``/probe?target=ADDRESS:PORT``. Ollama has no metrics of its own.

Only /api/version and /api/ps are asked: neither touches the model store, so a stalled one does not make an engine look dead.
"""

from __future__ import annotations

import datetime
import http.client
import json
import os
import re
import time
from typing import Any

from exposition import Metric, NotAnswered, Query, make_server, render

# Two questions that are not answered have to be over before a look each 5 s is given up, or nobody would be told that the engine is down.
SECONDS = 2.0
# An address, so that a target is nothing but a machine and a port.
_TARGET = re.compile(r"(?P<host>[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})$")
_LONGEST = 1 << 20


def ask(host: str, port: int, path: str) -> Any:
    """Return what an engine answers as data.

    :raises OSError: it was not reached in time, or spoke no HTTP.
    :raises ValueError: the answer is no JSON, or an error.
    """
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(_LONGEST)
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()
    if answer.status != 200:
        raise ValueError(f"{path} answered {answer.status}")
    return json.loads(body)


def expires(text: str) -> float:
    """Return the seconds since 1970 of a time of Ollama's, or 0 when it never ends or is not understood."""
    found = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)$", text)
    if not found:
        return 0.0
    zone = "+00:00" if found.group(2) == "Z" else found.group(2)
    # A model that is kept for ever has a time far ahead, in a year that not every clock can hold.
    year = int(text[:4])
    return datetime.datetime.fromisoformat(found.group(1) + zone).timestamp() if 1970 < year < 2100 else 0.0


def loaded(models: list[Any]) -> list[Metric]:
    """Return what /api/ps tells of the models in memory."""
    count = Metric("ollama_models_loaded", "Models in memory")
    size = Metric("ollama_model_size_bytes", "Memory a loaded model takes in all")
    vram = Metric(
        "ollama_model_vram_bytes", "Memory of the GPU a loaded model takes; less than its size means that a part runs on the processor"
    )
    until = Metric("ollama_model_expires_timestamp_seconds", "When a loaded model is unloaded; 0 is never")
    context = Metric("ollama_model_context_tokens", "Context a loaded model has")
    count.add(len(models))
    for model in models:
        name = str(model.get("name") or model.get("model"))
        size.add(int(model.get("size") or 0), model=name)
        vram.add(int(model.get("size_vram") or 0), model=name)
        until.add(expires(str(model.get("expires_at") or "")), model=name)
        if model.get("context_length"):
            context.add(int(model["context_length"]), model=name)
    return [count, size, vram, until, context]


def probe(query: Query) -> str:
    """Return the metrics of one engine; one that does not answer is down, which is an answer too.

    :raises NotAnswered: the target is not named as it should be.
    """
    target = _TARGET.match((query.get("target") or [""])[0])
    if not target:
        raise NotAnswered("No engine is named. Ask for /probe?target=ADDRESS:PORT.")
    host, port = target["host"], int(target["port"])
    up = Metric("ollama_up", "Whether the engine answers")
    seconds = Metric("ollama_probe_seconds", "How long the engine took to answer")
    version = Metric("ollama_version_info", "Version of the engine")
    begun, more = time.monotonic(), []
    try:
        version.add(1, version=str(ask(host, port, "/api/version").get("version", "")))
        more = loaded(list(ask(host, port, "/api/ps").get("models") or []))
        up.add(1)
    except (OSError, ValueError, AttributeError, TypeError):
        up.add(0)
    seconds.add(time.monotonic() - begun)
    return render([up, seconds, version, *more])


if __name__ == "__main__":
    make_server(int(os.environ.get("PORT", "9778")), {"/probe": probe}).serve_forever()
