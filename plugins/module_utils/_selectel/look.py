# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at servers, and waits for what happens to them."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import Callable, Iterator

from .client import Cloud
from .errors import CloudError, OutOfTime
from .model import Server
from .read import parse_server
from .states import GONE, kind_of

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 5.0


def look_at(cloud: Cloud, server: Server) -> Server:
    """Return a server as it is now; one that is gone has the status DELETED."""
    try:
        return parse_server(cloud.get("compute", f"/servers/{server.id}")["server"], cloud.region)
    except CloudError as error:
        if error.status != 404:
            raise
        return replace(server, status="DELETED", task_state="")


@contextmanager
def watching(cloud: Cloud) -> Iterator[Callable[[Server], Server]]:
    """Give what looks at a server again and again; threads that do so at once share their requests.

    No look is older than the one before it, nor than the beginning.
    """
    since = cloud.watch.now()

    def look(server: Server) -> Server:
        nonlocal since
        if not cloud.roll.shared:
            since = cloud.watch.now()
            return look_at(cloud, server)
        listed, since = cloud.roll.since(since)
        # What the list does not have is gone, or was made while it was read.
        return parse_server(listed[server.id], cloud.region) if server.id in listed else look_at(cloud, server)

    with cloud.roll.joined():
        yield look


def wait_for(cloud: Cloud, server: Server, done: Callable[[Server], bool]) -> Server:
    """Look at a server until `done`, or until it is gone.

    :param server: as it was seen a moment ago.
    :raises OutOfTime: the deadline came first.
    """
    delay = _FIRST_WAIT
    with watching(cloud) as look:
        while not (done(server) or kind_of(server) == GONE):
            try:
                cloud.watch.pause(delay)
            except OutOfTime as over:
                raise OutOfTime(f"{over} while {server.id} was {server.status}: the next run takes it up") from over  # pylint: disable=bad-exception-cause
            server = look(server)
            delay = min(delay * 1.5, _LONGEST_WAIT)
    return server
