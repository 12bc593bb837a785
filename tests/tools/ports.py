# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports for servers that tests start."""

from __future__ import annotations

import itertools
import os
import socket

# Below 32768, from where Linux takes ports for outgoing connections (net.ipv4.ip_local_port_range).
_FIRST, _EACH = 20000, 1500
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
_numbers = itertools.cycle(range(_FIRST + _worker * _EACH, _FIRST + (_worker + 1) * _EACH))


def free_port() -> int:
    """Return a loopback port that nothing listens on, and that no other call returns soon, in this process or beside it.

    Asking the kernel for any port is not enough: it may name one twice, and HAProxy then shares it (``SO_REUSEPORT``)
    instead of failing to start.

    :raises OSError: when all are taken.
    """
    for port in itertools.islice(_numbers, _EACH):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                continue
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise OSError(f"each port from {_FIRST + _worker * _EACH} on is taken")
