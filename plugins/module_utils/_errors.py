# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The errors every part of the collection raises: a sentence that says what, why, and what next."""

from __future__ import annotations


class StackError(Exception):
    """An error whose text is meant for the person who runs the playbook."""


class BadInput(StackError):
    """An option has a value that cannot work; nothing was run."""


class Refused(StackError):
    """The plan holds at least one refusal; nothing was changed."""


class CommandFailed(StackError):
    """A command ended with an unexpected exit status.

    :param argv: the command; it never holds a secret, those travel on standard input.
    :param rc: its exit status, 127 when the program is missing, 124 when it ran out of time.
    :param stderr: what it wrote to standard error, or to standard output where that is empty.
    """

    def __init__(self, argv: tuple[str, ...], rc: int, stderr: str) -> None:
        self.argv = argv
        self.rc = rc
        self.stderr = stderr.strip()
        super().__init__(f"`{' '.join(argv)}` failed with exit status {rc}: {self.stderr or 'it printed nothing'}")


class StepFailed(StackError):
    """A step of a plan failed after others had been carried out.

    :param done: sentences of the steps that took effect.
    :param failed: sentence of the step that did not.
    :param left: sentences of the steps that were not started.
    :param undone: whether the steps that took effect were taken back.
    """

    def __init__(self, *, done: tuple[str, ...], failed: str, left: tuple[str, ...], cause: Exception, undone: bool = False) -> None:
        self.done = () if undone else done
        self.failed = failed
        self.left = left
        parts = [f"{failed} failed: {cause}"]
        if undone:
            parts.append("Everything this run had changed was taken back: all is as it was before")
        else:
            parts.append("Done before it: " + "; ".join(done) if done else "Nothing was changed before it")
        if left:
            parts.append("Not started: " + "; ".join(left))
        parts.append("Correct the cause and run again: the next run does the rest")
        super().__init__(". ".join(part.rstrip(".") for part in parts) + ".")
