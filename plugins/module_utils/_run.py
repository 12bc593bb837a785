# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place that runs commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from dataclasses import dataclass
from typing import Sequence

from ._errors import CommandFailed

# Administration tools live in sbin, which a non-login SSH session may not have on its PATH.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Completed:
    """A command that has ended."""

    rc: int
    stdout: str
    stderr: str


class Runner:
    """Runs commands in the C locale, without a shell, and bounded in time.

    :param timeout: seconds a command may take.
    """

    def __init__(self, *, timeout: float = 300.0) -> None:
        self.timeout = timeout
        self.count = 0
        self._counting = threading.Lock()

    def has(self, program: str) -> bool:
        """Whether the program is installed."""
        return shutil.which(program, path=_PATH) is not None

    def run(self, argv: Sequence[str], *, stdin: str | None = None, ok: Sequence[int] = (0,)) -> Completed:
        """Run one command and return what it printed.

        :param stdin: text for its standard input: the only way a secret may take.
        :param ok: exit statuses that are an answer and not a failure.
        :raises CommandFailed: on any other exit status, a missing program or a time-out.
        """
        with self._counting:
            self.count += 1
        command = tuple(argv)
        environment = dict(os.environ, PATH=_PATH, LC_ALL="C", LANGUAGE="C")
        try:
            # This knows no AnsibleModule, so that planners and appliers serve other programs too.
            ended = subprocess.run(  # pylint: disable=ansible-bad-function
                command,
                input=stdin if stdin is not None else "",
                capture_output=True,
                # A key of raw bytes travels as text with surrogates; nothing a program prints is an error either.
                encoding="utf-8",
                errors="surrogateescape",
                timeout=self.timeout,
                env=environment,
                check=False,
            )
        except FileNotFoundError as error:
            raise CommandFailed(command, 127, f"{command[0]} is not installed") from error
        except subprocess.TimeoutExpired as error:
            raise CommandFailed(command, 124, f"it did not end within {self.timeout:g} s") from error
        if ended.returncode not in ok:
            raise CommandFailed(command, ended.returncode, ended.stderr or ended.stdout)
        return Completed(ended.returncode, ended.stdout, ended.stderr)
