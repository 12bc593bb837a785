# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Serves a service's WSGI application: serve.py MODULE PORT THREADS."""

from __future__ import annotations

import importlib
import sys

import waitress
from sqlalchemy import orm


def main() -> None:
    """Import the application and serve it until the process is ended."""
    module, port, threads = sys.argv[1:]
    # The services read sys.argv as their own command line.
    del sys.argv[1:]
    application = importlib.import_module(module).application
    # Two first requests at a time meet half-made mappers in Neutron and answer 500.
    orm.configure_mappers()
    waitress.serve(application, listen=f"127.0.0.1:{port}", threads=int(threads), ident=None)


if __name__ == "__main__":
    main()
