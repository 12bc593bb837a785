# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``python3 -m swarm_monitor``."""

from __future__ import annotations

import signal
import sys
import threading

from .server import make_server
from .settings import from_environment
from .watcher import Watcher


def main() -> None:
    """Look and answer until told to end."""
    settings = from_environment()
    watcher = Watcher(settings)
    # As process 1 of its container it gets no signal that it does not ask for.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    threading.Thread(target=watcher.watch, name="watch", daemon=True).start()
    make_server(watcher, settings.port).serve_forever()


if __name__ == "__main__":
    main()
