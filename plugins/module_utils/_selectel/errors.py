# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a cloud may answer instead of what was asked for.

pylint does not follow the import of the base class and takes these for no exceptions, so who raises one from another tells it so.
"""

from __future__ import annotations

import re

from .._errors import StackError

_QUOTA = re.compile(r"quota|maximum number of", re.IGNORECASE)


class CloudError(StackError):
    """The cloud refused a call or could not be reached.

    :param status: the HTTP status; 0 when there was no answer.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        self.status = status
        super().__init__(message)

    @property
    def quota(self) -> bool:
        """Whether a limit of the project is reached. Nova says so with 403, Neutron with 409, Cinder with 413."""
        return self.status in (403, 409, 413) and bool(_QUOTA.search(str(self)))


class Unclear(CloudError):
    """The call was cut or failed inside the cloud: it may have taken effect or not."""


class OutOfTime(CloudError):
    """The deadline is over, or the run was interrupted."""


class NoService(CloudError):
    """The cloud has no such service."""


class Busy(CloudError):
    """The cloud asks to come back later.

    :param after: in so many seconds.
    """

    def __init__(self, message: str, status: int, *, after: float) -> None:
        self.after = after
        super().__init__(message, status)


class RungFailed(StackError):
    """A server could not be made or brought back at one placement; the text says why."""
