# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place that talks to a cloud: openstacksdk logs in and finds the services, the calls are those of the published APIs.

The SDK's resource classes are left out on purpose: every call here is one request, so that it can be counted, bounded by the
deadline, and retried by what its answer says; and a new release of the SDK cannot change what is sent.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Callable, Mapping, Protocol

from .errors import Busy, CloudError, NoService, OutOfTime, Unclear
from .roll import Roll

# Tags at the creation of a server, and its flavor's extra specs in its own description (Nova of Stein, 2019, and newer).
MICROVERSION = "2.72"
_PAGE = 1000
_TRIES = 4
_BUSY = (413, 429)
_DOWN = (500, 502, 503, 504)


class Watch:
    """The time a run has, shared by all its threads.

    :param now: seconds since 1970.
    :param sleep: waits; both are replaced in tests.
    """

    def __init__(self, seconds: float, *, now: Callable[[], float] = time.time, sleep: Callable[[float], None] | None = None) -> None:
        self.seconds = seconds
        self._now = now
        self._stopped = threading.Event()
        self._sleep = sleep or (lambda delay: void(self._stopped.wait(delay)))
        self._ends = now() + seconds

    def now(self) -> float:
        """Return the time, in seconds since 1970."""
        return self._now()

    def left(self) -> float:
        """Return the seconds left.

        :raises OutOfTime: there are none, or the run is to stop.
        """
        if self._stopped.is_set():
            raise OutOfTime("the run was interrupted")
        left = self._ends - self._now()
        if left <= 0:
            raise OutOfTime(f"the deadline of {self.seconds:g} s is over")
        return left

    def pause(self, seconds: float) -> None:
        """Wait, but not past the deadline."""
        self._sleep(min(seconds, self.left()))
        self.left()

    def stop(self) -> None:
        """Make every thread stop at its next call."""
        self._stopped.set()


def void(_value: Any) -> None:
    """Drop a value."""


class Calls:
    """Counts the requests of a run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.read = 0
        self.write = 0

    def count(self, method: str) -> None:
        """Count one request."""
        with self._lock:
            if method == "GET":
                self.read += 1
            else:
                self.write += 1


class Adapter(Protocol):
    """One service of a cloud, as openstacksdk's proxies are."""

    def request(self, url: str, method: str, **options: Any) -> Any: ...


@dataclass(frozen=True)
class Connection:
    """One region of a cloud.

    :param adapters: by service: ``compute``, ``network``, ``block_storage``, ``image``.
    :param errors: exceptions that mean there was no usable answer.
    :param cut: those of them after which a request may have taken effect.
    :param secrets: texts that must not be repeated in any message.
    """

    region: str
    adapters: Callable[[str], Adapter]
    errors: tuple[type[BaseException], ...]
    cut: tuple[type[BaseException], ...]
    secrets: tuple[str, ...] = field(default=(), repr=False)


class Cloud:
    """One region, spoken to within the time of a run.

    :param api_timeout: seconds one request may take.
    """

    def __init__(self, connection: Connection, *, watch: Watch, calls: Calls, api_timeout: float = 30.0) -> None:
        self.region = connection.region
        self.watch = watch
        self.roll = Roll(lambda: self.pages("compute", "/servers/detail", "servers"), now=watch.now)
        self._connection = connection
        self._calls = calls
        self._timeout = api_timeout

    def get(self, service: str, path: str, **params: Any) -> dict[str, Any]:
        """Read one object."""
        return self._patient(service, "GET", path, params=params)

    def pages(self, service: str, path: str, collection: str, **params: Any) -> list[dict[str, Any]]:
        """Read a whole collection, page by page."""
        found: list[dict[str, Any]] = []
        query = {"limit": _PAGE, **params}
        while True:
            answer = self._patient(service, "GET", path, params=query)
            page = list(answer.get(collection) or [])
            found += page
            links = answer.get(collection + "_links") or answer.get("links") or []
            more = answer.get("next") or any(link.get("rel") == "next" for link in links if isinstance(link, dict))
            if not page or not more:
                return found
            query["marker"] = page[-1]["id"]

    def send(self, service: str, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Change something in a way that may be repeated: a second time it finds the work done.

        :param headers: further ones, such as the revision that is to be changed and no other.
        """
        return self._patient(service, method, path, body=body, headers=headers)

    def delete(self, service: str, path: str) -> None:
        """Remove something; what is gone already is gone."""
        try:
            self.send(service, "DELETE", path)
        except CloudError as error:
            if error.status != 404:
                raise

    def make(self, service: str, path: str, body: Any, *, find: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
        """Make something exactly once.

        :param find: looks for what an unclear request may have made.
        :raises CloudError: it was refused, or stays unclear.
        """
        for attempt in range(_TRIES):
            began = self.watch.now()
            try:
                return self._patient(service, "POST", path, body=body, repeat=False)
            except Unclear as error:
                made = self._appeared(find, within=self.watch.now() - began)
                if made is not None:
                    return made
                if attempt == _TRIES - 1:
                    raise CloudError(str(error), error.status) from error  # pylint: disable=bad-exception-cause
                self.watch.pause(2.0**attempt)
        raise CloudError(f"{self._name(service)} gives no clear answer")

    def _appeared(self, find: Callable[[], dict[str, Any] | None], *, within: float) -> dict[str, Any] | None:
        """Look for what a request may have made, for as long as the request took: a cloud that slow may still be at it."""
        until = self.watch.now() + within
        delay = 1.0
        while True:
            made, left = find(), until - self.watch.now()
            if made is not None or left <= 0:
                return made
            self.watch.pause(min(delay, left))
            delay = min(2 * delay, 5.0)

    def _patient(self, service: str, method: str, path: str, *, repeat: bool = True, **options: Any) -> dict[str, Any]:
        """Ask until there is an answer: rate limits are waited for, failures inside the cloud a few times."""
        failures = 0
        while True:
            try:
                return self._once(service, method, path, **options)
            except Busy as error:
                self._pause(error.after, error)
            except Unclear as error:
                failures += 1
                if not repeat:
                    raise
                if failures >= _TRIES:
                    raise CloudError(str(error), error.status) from error  # pylint: disable=bad-exception-cause
                self._pause(2.0 ** (failures - 1), error)

    def _pause(self, seconds: float, error: CloudError) -> None:
        try:
            self.watch.pause(seconds)
        except OutOfTime as over:
            raise OutOfTime(f"{over}; before that, {error}") from error

    def _once(
        self, service: str, method: str, path: str, *, body: Any = None, params: Any = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        timeout = min(self._timeout, self.watch.left())
        options: dict[str, Any] = {"raise_exc": False, "timeout": timeout, "connect_retries": 0, "params": params or {}}
        if body is not None:
            options["json"] = body
        if headers:
            options["headers"] = dict(headers)
        if service == "compute":
            options["microversion"] = MICROVERSION
        self._calls.count(method)
        try:
            response = self._connection.adapters(service).request(path, method, **options)
        except self._connection.errors as error:
            raise self._unanswered(service, error) from None
        if response.status_code < 400:
            return as_dict(response)
        raise self._refused(service, response)

    def _unanswered(self, service: str, error: BaseException) -> CloudError:
        status = getattr(error, "http_status", None) or getattr(error, "status_code", None) or 0
        text = self._clean(str(error) or type(error).__name__)
        if status == 401:
            return CloudError(f"The cloud does not accept the credentials: {text}. Check cloud, auth or the OS_ variables", 401)
        # The SDK looks for a service's version before the first request, and says no more than that it found none.
        undiscovered = "ServiceDiscoveryException" in type(error).__name__
        if isinstance(error, self._connection.cut) or undiscovered or status in _DOWN:
            return Unclear(f"{self._name(service)} gave no answer: {text}", status)
        missing = "EndpointNotFound" in type(error).__name__
        return (NoService if missing else CloudError)(f"{self._name(service)} cannot be used: {text}", status)

    def _refused(self, service: str, response: Any) -> CloudError:
        status = int(response.status_code)
        error = CloudError(f"{self._name(service)} answered {status}: {self._clean(message_of(response))}", status)
        if status == 401:
            return CloudError(f"The cloud does not accept the credentials any more (401 from {self._name(service)}). Check them", 401)
        if status in _BUSY and not error.quota:
            return Busy(str(error), status, after=retry_after(response, self.watch.now()))
        return Unclear(str(error), status) if status in _DOWN else error

    def _name(self, service: str) -> str:
        return f"{service.replace('_', ' ')} of {self.region or 'the cloud'}"

    def _clean(self, text: str) -> str:
        for secret in self._connection.secrets:
            text = text.replace(secret, "********")
        return text.strip().rstrip(".")


def as_dict(response: Any) -> dict[str, Any]:
    """Return the JSON object of an answer; an empty one where there is none (202, 204)."""
    try:
        found = response.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def message_of(response: Any) -> str:
    """Return what the cloud says about a failure: ``{"badRequest": {"message": ...}}`` and its relatives."""
    found = as_dict(response)
    for value in (found, *found.values()):
        if isinstance(value, dict) and isinstance(value.get("message"), str):
            return str(value["message"])
        if isinstance(value, str) and value:
            return value
    return "no reason given"


def retry_after(response: Any, now: float) -> float:
    """Return the seconds the cloud asks to wait, at least half a second; 2 where it does not say.

    It may say a date instead (RFC 9110, 10.2.3).

    :param now: seconds since 1970.
    """
    told = str((response.headers or {}).get("Retry-After", "2"))
    try:
        seconds = float(told)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(told).timestamp() - now
        except (TypeError, ValueError):
            seconds = 2.0
    return max(0.5, seconds)
