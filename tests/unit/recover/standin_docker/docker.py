# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real SDK of Docker, led to the stand-in of an engine that STANDIN_DOCKER names: modules ask for the machine's own."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from pathlib import Path

_HERE = str(Path(__file__).resolve().parent)
_path, sys.path = sys.path, [place for place in sys.path if place != _HERE]
del sys.modules["docker"]
_real = importlib.import_module("docker")
sys.path = _path
_client = _real.APIClient


@functools.wraps(_client)
def _standin(base_url: str = "", **options: object) -> object:
    return _client(base_url=os.environ["STANDIN_DOCKER"], **options)


_real.APIClient = _standin
sys.modules["docker"] = _real
