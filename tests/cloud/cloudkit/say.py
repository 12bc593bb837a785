# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress a person can follow, in the cloud's name."""

from __future__ import annotations

import functools

import labkit.say

say = functools.partial(labkit.say.say, program="cloud")
step = functools.partial(labkit.say.step, program="cloud")
