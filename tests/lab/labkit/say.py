# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress a person can follow: what is being done, how long it took."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import Iterator


class LabError(Exception):
    """One sentence that names the cause and the remedy."""


def say(text: str, *, program: str = "lab") -> None:
    """Print one line at once."""
    print(f"{program}: {text}", file=sys.stderr, flush=True)


@contextmanager
def step(text: str, *, program: str = "lab") -> Iterator[None]:
    """Announce a long step, and say how long it took when it ends well."""
    say(f"{text} ...", program=program)
    begin = time.monotonic()
    yield
    say(f"{text}: done in {time.monotonic() - begin:.1f} s", program=program)
