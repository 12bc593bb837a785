# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress a person can follow, in the cloud's name."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import Iterator


def say(text: str) -> None:
    """Print one line at once."""
    print(f"cloud: {text}", file=sys.stderr, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Announce a long step, and say how long it took when it ends well."""
    say(f"{text} ...")
    begin = time.monotonic()
    yield
    say(f"{text}: done in {time.monotonic() - begin:.1f} s")
