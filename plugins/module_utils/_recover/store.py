# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the shared state is kept: the labels of one Swarm config, replaced only in the version that was read."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Callable, Protocol

from .._swarm.client import EngineError, sdk
from .state import State, labels_of, state_of

NAME = "llm-stack-state"
# A config must hold something; what it holds never changes, its labels do.
CONTENT = b"The labels of this config are what runs over the fleet share. Written by selfhosted.llm_stack.\n"
# How often a change is tried anew when another writer was faster. Each try is a read and a write.
TRIES = 20
_CONFLICT, _NOT_FOUND = 409, 404


@dataclass(frozen=True)
class Found:
    """The object as it was read.

    :param version: its version; a write names it and is refused when it is not the newest.
    """

    id: str
    version: int
    spec: dict[str, Any]


class Configs(Protocol):
    """What is needed of a manager's engine."""

    def find(self, name: str) -> Found | None: ...

    def create(self, name: str, content: bytes, labels: dict[str, str]) -> None: ...

    def update(self, found: Found, labels: dict[str, str]) -> None: ...


class SdkConfigs:
    """The Docker SDK for Python. It knows no update of a config, so that request is sent as the API describes it.

    :param client: a ``docker.APIClient``, which is a session of requests.
    :param errors: the exception types that mean the engine refused or was not reached.
    """

    def __init__(self, client: Any, errors: tuple[type[Exception], ...]) -> None:
        self._client = client
        self._errors = errors

    def find(self, name: str) -> Found | None:
        """Return the config of this name."""
        try:
            found = self._client.inspect_config(name)
        except self._errors as error:
            if _status(error) == _NOT_FOUND:
                return None
            raise _failure("read the shared state", error) from None
        return Found(found["ID"], int(found["Version"]["Index"]), dict(found["Spec"]))

    def create(self, name: str, content: bytes, labels: dict[str, str]) -> None:
        """Make the config; one of that name may be there by now."""
        try:
            self._client.create_config(name, content, labels=labels)
        except self._errors as error:
            raise _failure("make the shared state", error) from None

    def update(self, found: Found, labels: dict[str, str]) -> None:
        """Replace the labels if the config still has the version that was read."""
        url = f"{self._client.base_url}/v{self._client.api_version}/configs/{found.id}/update"
        try:
            answer = self._client.post(url, params={"version": found.version}, json={**found.spec, "Labels": labels}, timeout=30)
        except self._errors as error:
            raise _failure("write the shared state", error) from None
        if answer.status_code >= 400:
            raise EngineError(f"Docker could not write the shared state: {answer.text.strip()}", answer.status_code)


def _status(error: Exception) -> int:
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)


def _failure(what: str, error: Exception) -> EngineError:
    text = str(getattr(error, "explanation", None) or error).strip()
    return EngineError(f"Docker could not {what}: {text}. This needs a manager of the swarm that has a quorum.", _status(error))


def lost_race(error: EngineError) -> bool:
    """Whether another writer was faster: the object has a newer version, or is there by now."""
    return "out of sequence" in str(error) or error.status == _CONFLICT


def is_no_manager(error: EngineError) -> bool:
    """Whether the engine is in no swarm, or no manager of one; a manager without a quorum is one all the same."""
    return "not a swarm manager" in str(error)


class Store:
    """Reads and changes the shared state.

    :param sleep: waits; replaced in tests.
    """

    def __init__(self, configs: Configs, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._configs = configs
        self._sleep = sleep

    def read(self) -> State:
        """Return the state; an empty one where there is none yet."""
        found = self._configs.find(NAME)
        return state_of(found.spec.get("Labels") or {}) if found else State()

    def change(self, change: Callable[[State], State]) -> State:
        """Change the state: read, alter, write if nobody wrote meanwhile, else from the beginning.

        :param change: called with what was just read; what it raises ends the attempt with nothing written.
        :raises EngineError: the engine refused, or others were faster every time.
        """
        for attempt in range(TRIES):
            found = self._configs.find(NAME)
            before = state_of(found.spec.get("Labels") or {}) if found else State()
            after = change(before)
            try:
                self._write(found, before, after)
                return after
            except EngineError as error:
                # An object that was removed since it was read is made anew.
                if attempt == TRIES - 1 or not (lost_race(error) or error.status == _NOT_FOUND):
                    raise
                self._sleep(0.05 * (attempt + 1))
        raise EngineError("The shared state could not be written: others were faster every time")

    def _write(self, found: Found | None, before: State, after: State) -> None:
        if found is None:
            self._configs.create(NAME, CONTENT, labels_of(after))
        elif after != before:
            self._configs.update(found, labels_of(after))


def connect() -> Store:
    """Connect to the engine of this host, a manager."""
    return Store(SdkConfigs(*sdk()))
