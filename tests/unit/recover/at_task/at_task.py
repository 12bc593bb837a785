# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A callback that strikes after a chosen task of a run: it kills the run, or it interrupts servers of the stand-in cloud.

AT_TASK is the number of the task, from 0, of those that did anything; AT_TASK_DO is ``kill``, or the names of servers to interrupt.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    """Counts the tasks."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "at_task"

    def __init__(self) -> None:
        super().__init__()
        self._left = int(os.environ["AT_TASK"])

    def v2_runner_on_ok(self, result: Any) -> None:
        self._left -= 1
        if self._left == -1:
            self._strike()

    @staticmethod
    def _strike() -> None:
        what = os.environ["AT_TASK_DO"]
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        # The stand-in of the SDK, which the inventory has loaded, knows where it lies.
        from standin_cloud import shared

        with shared(Path(os.environ["STANDIN_CLOUD"])) as cloud:
            for server in cloud.alive():
                if server["name"] in what.split() and server["status"] == "ACTIVE":
                    cloud.interrupt(server["id"])
