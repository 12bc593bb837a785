# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machines of the swarm rung and what is run on them."""

from __future__ import annotations

MANAGER, WORKERS = "gpu4", ("gpu5", "gpu6")
MACHINES = (MANAGER, *WORKERS)
MODELS = ("10.77.0.1", "8444")
TOKEN = "lab-only-model-token"
SITE = ("swarm", "workers", "services")
