# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Those who bring workers back: a thread for each slot, so that a slow server keeps nobody from seeing the next loss.

Only the loop looks, decides and writes notes. A thread works on its slot alone, and the connection it has asks for the lock before each
change.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Callable

from .._errors import StackError
from .._selectel.apply import Run
from .._selectel.ladder import Outcome
from .act import Learned

Job = Callable[[], "tuple[Outcome, Learned]"]


class Crew:
    """Jobs of one turn; leaving the block waits for all of them, and an exception makes them stop at their next request.

    :param wake: called when a job is over.
    :param most: as many jobs at a time.
    """

    def __init__(self, wake: Callable[[], None], *, most: int) -> None:
        self._wake = wake
        self._pool = ThreadPoolExecutor(max_workers=max(most, 1), thread_name_prefix="crew")
        self._jobs: dict[str, Future[tuple[Outcome, Learned]]] = {}
        self._runs: list[Run] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            for run in self._runs:
                run.watch.stop()
        self._pool.shutdown(wait=True)

    @property
    def busy(self) -> frozenset[str]:
        """The slots that are worked on: whoever decides leaves them alone."""
        return frozenset(self._jobs)

    def begin(self, slot: str, run: Run, job: Job) -> None:
        """Begin to work on a slot that nobody works on.

        :param run: what the job speaks to the cloud through.
        """
        if slot in self._jobs:
            raise ValueError(f"{slot} is worked on already")
        self._runs.append(run)
        self._jobs[slot] = self._pool.submit(_guarded, slot, job)
        self._jobs[slot].add_done_callback(lambda _future: self._wake())

    def done(self) -> list[tuple[Outcome, Learned]]:
        """Return how those ended that are over, each once."""
        over = [slot for slot, future in self._jobs.items() if future.done()]
        return [self._jobs.pop(slot).result() for slot in over]


def _guarded(slot: str, job: Job) -> tuple[Outcome, Learned]:
    """Do a job; what goes wrong with one slot ends the work on that slot alone."""
    try:
        return job()
    except StackError as error:
        return Outcome(slot, "failed", str(error), ok=False), {}
