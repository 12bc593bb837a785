# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A few words of the QEMU Machine Protocol (qemu.org, interop/qmp-spec)."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from .say import LabError


class Qmp:
    """A connection to the monitor of one virtual machine."""

    def __init__(self, path: Path, *, timeout: float = 120.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("r", encoding="utf-8")
        self._lines.readline()
        self.command("qmp_capabilities")

    def __enter__(self) -> Qmp:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def command(self, name: str, **arguments: Any) -> Any:
        """Run one command and return its answer.

        :raises LabError: with QEMU's own words when it refuses.
        """
        self._socket.sendall(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
        for line in self._lines:
            answer = json.loads(line)
            if "error" in answer:
                raise LabError(f"QEMU refused {name}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise LabError(f"QEMU closed its monitor during {name}.")

    def human(self, line: str) -> str:
        """Run a command of the human monitor; it reports errors as text."""
        said = str(self.command("human-monitor-command", **{"command-line": line})).strip()
        if said.lower().startswith("error"):
            raise LabError(f"QEMU refused `{line}`: {said}")
        return said
