# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two questions to the HTTPS store of models: without a token, and for a part of a file with one."""

from __future__ import annotations

import http.client
import ssl

_REFUSED, _PARTIAL = 401, 206
_PATH = "/models/manifest.json"


def ask(port: int, token: str, *, timeout: float = 30.0) -> str:
    """Ask the store of this host.

    :param timeout: seconds an answer may take.
    :return: what is wrong, or an empty string.
    """
    try:
        stranger = _status(port, {}, timeout=timeout)
        reader = _status(port, {"Authorization": f"Bearer {token}", "Range": "bytes=0-9"}, timeout=timeout)
    except (OSError, http.client.HTTPException) as error:
        return f"does not answer: {error}"
    if (stranger, reader) == (_REFUSED, _PARTIAL):
        return ""
    return f"answered {stranger} without a token ({_REFUSED} was expected) and {reader} with one ({_PARTIAL} was expected)"


def _status(port: int, headers: dict[str, str], *, timeout: float) -> int:
    # Who answers is no question here: the request does not leave the host.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    line = http.client.HTTPSConnection("127.0.0.1", port, timeout=timeout, context=context)
    try:
        line.request("GET", _PATH, headers=headers)
        return line.getresponse().status
    finally:
        line.close()
