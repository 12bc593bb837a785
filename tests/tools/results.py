# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Ansible shows of what a module prints."""

from __future__ import annotations

import json
from typing import Any


def shown(printed: str) -> dict[str, Any]:
    """Return a module's result without what only the controller reads.

    From core 2.22 on a module names its secrets to the controller, which blanks them out of everything it shows.
    """
    result: dict[str, Any] = json.loads(printed)
    result.pop("_ansible_new_secrets", None)
    return result
