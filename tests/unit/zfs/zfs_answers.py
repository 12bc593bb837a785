# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A runner that answers from a table, so that readers and appliers need no machine."""

from __future__ import annotations

from typing import Sequence

from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import CommandFailed
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._run import Completed, Runner


class Answers(Runner):
    """Answers commands by the longest prefix it knows; anything else succeeds silently.

    :param answers: command prefix to (exit status, standard output, standard error) or a list of them, one a call.
    :param missing: programs that are not installed.
    """

    def __init__(self, answers: dict | None = None, *, missing: Sequence[str] = ()) -> None:
        super().__init__()
        self.answers = dict(answers or {})
        self.missing = set(missing)
        self.ran: list[str] = []

    def has(self, program: str) -> bool:
        return program not in self.missing

    def run(self, argv: Sequence[str], *, stdin: str | None = None, ok: Sequence[int] = (0,)) -> Completed:
        self.count += 1
        command = " ".join(argv)
        self.ran.append(command)
        known = [prefix for prefix in self.answers if command.startswith(prefix)]
        answer = self.answers[max(known, key=len)] if known else (0, "", "")
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        rc, stdout, stderr = answer
        if rc not in ok:
            raise CommandFailed(tuple(argv), rc, stderr or stdout)
        return Completed(rc, stdout, stderr)
