# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All of Cinder in one process: API, scheduler and one backend, which talk over oslo.messaging's in-memory transport.

volumes.py PORT THREADS
"""

from __future__ import annotations

import os
import shlex
import sys

_PORT, _THREADS = sys.argv[1:]
sys.argv[1:] = ["--config-file", f"{os.environ['OS_CINDER_CONFIG_DIR']}/cinder.conf"]

from cinder import monkey_patch  # noqa: E402 - eventlet must patch before anything else is imported

monkey_patch.patch()

import logging  # noqa: E402

import eventlet  # noqa: E402
import eventlet.wsgi  # noqa: E402
import os_brick  # noqa: E402
from cinder import service, utils  # noqa: E402
from cinder.cmd import volume as _options  # noqa: E402, F401 - registers the backends' options
from cinder.common import constants  # noqa: E402
from cinder.wsgi import wsgi  # noqa: E402
from oslo_config import cfg  # noqa: E402
from oslo_privsep import priv_context  # noqa: E402


def main() -> None:
    """Start Cinder and serve its API until the process is ended."""
    application = wsgi.initialize_application()
    conf = cfg.CONF
    priv_context.init(root_helper=shlex.split(utils.get_root_helper()))
    os_brick.setup(conf)
    started = [service.Service.create(binary=constants.SCHEDULER_BINARY)]
    for name in conf.enabled_backends:
        backend = {"host": f"{conf.host}@{name}", "service_name": name, "binary": constants.VOLUME_BINARY}
        started.append(service.Service.create(coordination=True, **backend))
    for one in started:
        one.start()
    listening = eventlet.listen(("127.0.0.1", int(_PORT)))
    eventlet.wsgi.server(listening, application, log=logging.getLogger("eventlet.wsgi"), max_size=int(_THREADS))


if __name__ == "__main__":
    main()
