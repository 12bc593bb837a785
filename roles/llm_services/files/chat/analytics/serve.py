# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""gunicorn's configuration."""

from __future__ import annotations

import os

bind = [f"0.0.0.0:{os.environ.get('PORT', '8000')}"]
worker_class = "gthread"
workers = 1
threads = 16
graceful_timeout = 10
worker_tmp_dir = "/dev/shm"  # noqa: S108
accesslog = None
control_socket_disable = True
