# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Holds the fleet's lock for as long as something is done, and asks for it again before every call that changes the cloud."""

from __future__ import annotations

import secrets
import threading
from dataclasses import replace
from typing import Any, Callable

from .._recover.state import Notes, State, released, require_held, taken
from .._recover.store import Store
from .._selectel.client import Adapter, Connection
from .._swarm.client import EngineError

# A run that is killed keeps others waiting for no longer; whoever lives renews it in time.
SECONDS = 90.0
_RENEW = 20.0


class Keeper:
    """The lock of one turn.

    :param owner: who holds it, for a person.
    :param clock: seconds since 1970.
    """

    def __init__(self, store: Store, *, owner: str, clock: Callable[[], float]) -> None:
        self._store, self._owner, self._clock = store, owner, clock
        self._token = secrets.token_hex(8)
        self._renewed = 0.0
        # The threads of a run share it, and the engine's client is for one at a time.
        self._one = threading.RLock()

    def take(self) -> State:
        """Take the lock if it is free; return the state as it is then."""
        return self._store.change(self._prolonged)

    def holds(self, state: State) -> bool:
        """Whether the lock of a state is ours."""
        return state.lock is not None and state.lock.token == self._token

    def hold(self) -> None:
        """See that nobody has taken the lock since, and hold it for longer.

        :raises LockLost: another run acts now.
        :raises EngineError: nobody can tell.
        """
        self._change(lambda state: state)

    def write(self, notes: Notes) -> None:
        """Write down what the next run must know.

        :raises LockLost: another run acts now.
        """
        self._change(lambda state: replace(state, notes=notes))

    def release(self) -> bool:
        """Give the lock up; return whether that was heard. Where it was not, the lock may be held until it ends by itself."""
        try:
            with self._one:
                self._store.change(lambda state: released(state, token=self._token))
        except EngineError:
            return False
        return True

    def while_waiting(self) -> None:
        """Hold the lock for longer when it is time to; one that cannot be asked for now is asked for before the next call."""
        with self._one:
            if self._clock() - self._renewed < _RENEW:
                return
            try:
                self.hold()
            except EngineError:
                return

    def _change(self, change: Callable[[State], State]) -> None:
        def held(state: State) -> State:
            require_held(state, token=self._token)
            return self._prolonged(change(state))

        with self._one:
            self._store.change(held)

    def _prolonged(self, state: State) -> State:
        self._renewed = self._clock()
        return taken(state, owner=self._owner, token=self._token, now=self._renewed, seconds=SECONDS)


class _Careful:
    """One service of a cloud: asks for the lock before each request that is no look."""

    def __init__(self, service: Adapter, hold: Callable[[], None]) -> None:
        self._service, self._hold = service, hold

    def request(self, url: str, method: str, **options: Any) -> Any:
        """Send a request, if the lock is still held."""
        if method not in ("GET", "HEAD"):
            self._hold()
        return self._service.request(url, method, **options)


def careful(connection: Connection, hold: Callable[[], None]) -> Connection:
    """Return a connection that changes nothing without the lock."""
    return replace(connection, adapters=lambda service: _Careful(connection.adapters(service), hold))
