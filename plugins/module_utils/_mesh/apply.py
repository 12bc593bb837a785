# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads one host's part in the mesh and takes the planner's steps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Mapping

from .._errors import CommandFailed, StackError
from .._plan import Step
from .._run import Runner
from .model import Found
from .plan import live_settings, parse_live

FOLDER = Path("/etc/wireguard")


class Host:
    """One interface of this machine.

    :param folder: where wg-quick looks for its configuration.
    """

    def __init__(self, interface: str, *, runner: Runner, folder: Path = FOLDER) -> None:
        self.interface = interface
        self.key = folder / f"{interface}.key"
        self.config = folder / f"{interface}.conf"
        self._runner = runner

    @property
    def unit(self) -> str:
        """The service that wireguard-tools brings for this interface."""
        return f"wg-quick@{self.interface}.service"

    def read(self) -> Found:
        """Read key, configuration, service and running interface: three commands."""
        installed = self._runner.has("wg")
        shown = self._runner.run(("systemctl", "show", self.unit, "--property=ActiveState", "--property=UnitFileState"), ok=(0, 1)).stdout
        state = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        active = state.get("ActiveState") == "active"
        return Found(
            installed=installed,
            public_key=self.public_key() if installed else "",
            config=self.config.read_text(encoding="utf-8") if self.config.exists() else "",
            enabled=state.get("UnitFileState") == "enabled",
            active=active,
            live=self._live() if installed and active else None,
        )

    def _live(self) -> Mapping[str, tuple[str, ...]] | None:
        """Ask the running interface for its peers; a dump of all it knows would hold the private key."""
        told = self._runner.run(("wg", "show", self.interface, "allowed-ips"), ok=(0, 1))
        return parse_live(told.stdout) if told.rc == 0 else None

    def public_key(self) -> str:
        """Return the public half of the key; the private one goes to `wg` on its standard input.

        :raises StackError: the file holds no key.
        """
        if not self.key.exists():
            return ""
        try:
            return self._runner.run(("wg", "pubkey"), stdin=self.key.read_text(encoding="ascii")).stdout.strip()
        except (CommandFailed, ValueError) as error:
            raise StackError(f"{self.key} holds no key of WireGuard. Move it away to have one made, which the others learn.") from error

    def do(self, step: Step) -> None:
        """Take one step."""
        if step.action == "make_key":
            _write(self.key, self._runner.run(("wg", "genkey")).stdout)
        elif step.action == "configure":
            _write(self.config, step.data)
        elif step.action == "sync":
            # `wg` forgets the private key unless it is said again.
            own = f"[Interface]\nPrivateKey = {self.key.read_text(encoding='ascii').strip()}\n"
            text = live_settings(step.data).replace("[Interface]\n", own, 1)
            self._runner.run(("wg", "syncconf", self.interface, "/dev/stdin"), stdin=text)
        else:
            self._systemctl(step.action)

    def _systemctl(self, verb: str) -> None:
        try:
            self._runner.run(("systemctl", verb, self.unit))
        except CommandFailed as error:
            log = self._runner.run(("journalctl", f"--unit={self.unit}", "--lines=5", "--no-pager", "--output=cat"), ok=(0, 1)).stdout
            words = " / ".join(log.split("\n")).strip(" /")
            raise StackError(f"{error}. Its last words: {words}. Without WireGuard in the kernel, install wireguard-go.") from error


def _write(path: Path, text: str) -> None:
    """Replace a file in one rename; nobody but its owner ever reads it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    if draft.exists():
        draft.unlink()
    handle = os.open(str(draft), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as new:
        new.write(text)
        new.flush()
        os.fsync(new.fileno())
    draft.replace(path)
