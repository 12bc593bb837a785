# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What several modules support alike: in check mode, in diffs, and where they run."""

from __future__ import annotations


class ModuleDocFragment:
    """The attributes of modules about fleets and the swarm."""

    # For modules that look and decide, and change nothing.
    LOOKS = r"""
attributes:
  check_mode:
    description: Changes nothing, so check mode is no different.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
"""

    # Where openstacksdk is.
    CLOUD = r"""
attributes:
  platform:
    description: Target systems the module works on. It runs where openstacksdk is, usually the control node.
    support: full
    platforms: posix
"""

    # Where the engine of a manager answers.
    MANAGER = r"""
attributes:
  platform:
    description: Target systems the module works on, a manager of the swarm.
    support: full
    platforms: Debian, Ubuntu
"""
