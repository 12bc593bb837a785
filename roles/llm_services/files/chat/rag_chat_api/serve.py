# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""gunicorn's configuration: one process, so that counts are whole; a thread for each open answer (capacity.py keeps some free)."""

from __future__ import annotations

import os

from .settings import Settings

bind = [f"0.0.0.0:{os.environ.get('PORT', '8000')}", f"0.0.0.0:{os.environ.get('STATUS_PORT', Settings.status_port)}"]
worker_class = "gthread"
workers = 1
threads = int(os.environ.get("THREADS", Settings.threads))
# An answer may take as long as the balancer lets it.
timeout = 0
graceful_timeout = 25
keepalive = 65
limit_request_line = 8190
# The only place that can be written.
worker_tmp_dir = "/dev/shm"  # noqa: S108
accesslog = None
control_socket_disable = True
