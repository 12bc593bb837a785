# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One change of a stack at a time, on the machine it is changed from.

What has just been made and what is no longer used look the same: a config that no service has. So two that make and remove at once, as a
run of the role and the renewal of a certificate, could each remove what the other is about to use. `edge_certificate.py` of the role
llm_services takes the same lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Callable

from .._errors import StackError

PLACE = Path("/run/lock")
SECONDS = 600.0
_PAUSE = 1.0


def lock_path(stack: str, place: Path = PLACE) -> Path:
    """Return the file that stands for a stack."""
    return place / f"llm-stack-{stack}.lock"


def take(
    stack: str,
    *,
    seconds: float = SECONDS,
    place: Path = PLACE,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Keep others from the stack until the returned descriptor is closed, or this process ends.

    :raises StackError: another one still changed it after ``seconds``.
    """
    path = lock_path(stack, place)
    held = _opened(path)
    begin = clock()
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return held
        except BlockingIOError as error:
            if clock() - begin < seconds:
                sleep(_PAUSE)
                continue
            os.close(held)
            raise StackError(
                f"Stack {stack} has been changed by another program of this machine for {seconds:.0f} s (`fuser -v {path}` names it). "
                "It may be the renewal of its certificate. Nothing was changed. Wait for its end and run again."
            ) from error


def _opened(path: Path) -> int:
    """Open the file, for reading: whoever made it, everybody may lock it."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o644))
    return os.open(path, os.O_RDONLY)
