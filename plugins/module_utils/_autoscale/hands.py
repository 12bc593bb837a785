# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls for recover.yml where hands are needed: one request to whatever starts it, such as a job template of AWX or Semaphore."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any, Mapping
from urllib.parse import urlsplit

_SECONDS = 15.0


def called(webhook: Mapping[str, Any], workers: list[str]) -> str:
    """Send the request; return why it came to nothing, or an empty text.

    :param webhook: ``url``; ``token``, sent as a bearer's; ``body``, sent as it is in place of the names of the workers.
    """
    if not webhook.get("url"):
        return "no webhook is set: run recover.yml, or wait until its schedule does"
    place = urlsplit(str(webhook["url"]))
    kind = http.client.HTTPConnection if place.scheme == "http" else http.client.HTTPSConnection
    more: dict[str, Any] = {} if place.scheme == "http" else {"context": ssl.create_default_context()}
    connection = kind(place.netloc, timeout=_SECONDS, **more)
    headers = {"Content-Type": "application/json"}
    if webhook.get("token"):
        headers["Authorization"] = f"Bearer {webhook['token']}"
    body = webhook.get("body") or {"reason": "workers need hands", "workers": workers}
    try:
        connection.request("POST", (place.path or "/") + (f"?{place.query}" if place.query else ""), json.dumps(body), headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"{place.hostname} does not answer: {error or type(error).__name__}"
    finally:
        connection.close()
    return "" if status < 300 else f"{place.hostname} answered {status}"
