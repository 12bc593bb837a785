# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of the lab."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import socket
import sys
from pathlib import Path

from .artifacts import prepare
from .demo import demo
from .lab import Lab
from .say import LabError
from .vm import VirtualMachine


def main(argv: list[str]) -> int:
    """Parse, act, and turn an error into one sentence on standard error."""
    arguments = _parser().parse_args(argv)
    lab = Lab()
    try:
        with lab.paths.lock() if arguments.alone else contextlib.nullcontext():
            return int(arguments.act(lab, arguments) or 0)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests/lab/lab", description="Virtual and container machines in a network of their own.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, text: str, act: object, *, alone: bool = False) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(act=act, alone=alone)
        return made

    add("build", "build the machine image and the container images where they are missing, and boot them once", _build, alone=True)
    up = add("up", "bring the lab up, or the machines named", _up, alone=True)
    up.add_argument("machines", nargs="*", help="default: storage1 manager1 gpu1 gpu2")
    up.add_argument("--all-vm", action="store_true", help="every machine with a kernel of its own: the reference")
    down = add("down", "end every process of this lab", _down, alone=True)
    down.add_argument("--discard", action="store_true", help="forget the machines' disks too")
    add("status", "what runs, where", _status)
    ssh = add("ssh", "log in to a machine, or run a command there", _ssh)
    ssh.add_argument("machine")
    ssh.add_argument("command", nargs=argparse.REMAINDER)
    run = add("exec", "run a program inside the lab's network", _exec)
    run.add_argument("command", nargs=argparse.REMAINDER)
    snapshot = add("snapshot", "save the lab, or put it back; 'load clean' is the lab before any role ran", _snapshot, alone=True)
    snapshot.add_argument("verb", choices=("save", "load"))
    snapshot.add_argument("name")
    cut = add("power-cut", "end a machine without notice; 'up MACHINE' boots it again", _cut, alone=True)
    cut.add_argument("machine")
    console = add("console", "the serial console of a virtual machine, the log of a container machine; Ctrl-] leaves", _console)
    console.add_argument("machine")
    add("demo", "the whole service on the lab, and a question answered", _demo)
    return parser


def _build(lab: Lab, _: argparse.Namespace) -> None:
    lab.build()
    lab.boot_once()
    prepare(lab.paths)


def _up(lab: Lab, arguments: argparse.Namespace) -> None:
    lab.up(arguments.machines, all_vm=arguments.all_vm)


def _down(lab: Lab, arguments: argparse.Namespace) -> None:
    lab.down(discard=arguments.discard)


def _status(lab: Lab, _: argparse.Namespace) -> None:
    rows = [("machine", "address", "kind", "state", "snapshots")]
    for found in lab.machines():
        state = f"up (process {found.daemon.pid})" if found.running else "down"
        rows.append((found.spec.name, found.spec.address, found.kind, state, " ".join(found.snapshots()) or "-"))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _ssh(lab: Lab, arguments: argparse.Namespace) -> None:
    lab.get(arguments.machine)
    argv = [*lab.ssh_argv(arguments.machine), *arguments.command]
    os.execvpe(argv[0], argv, lab.environment())


def _exec(lab: Lab, arguments: argparse.Namespace) -> int:
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise LabError("Name the program to run: tests/lab/lab exec -- ansible-playbook ...")
    if not any(found.running for found in lab.machines()):
        raise LabError("The lab is down: run tests/lab/lab up first.")
    return lab.execute(command)


def _snapshot(lab: Lab, arguments: argparse.Namespace) -> None:
    (lab.save if arguments.verb == "save" else lab.load)(arguments.name)


def _cut(lab: Lab, arguments: argparse.Namespace) -> None:
    lab.cut(arguments.machine)


def _console(lab: Lab, arguments: argparse.Namespace) -> None:
    found = lab.get(arguments.machine)
    log = found.home / "console.log"
    print(log.read_text(errors="replace")[-4000:] if log.exists() else "(nothing was printed yet)")
    if isinstance(found, VirtualMachine) and found.running:
        _talk(found.console)


def _talk(path: Path) -> None:
    """Copy between the terminal and the console until Ctrl-] or the end of input."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(path))
        while True:
            for ready in select.select([sys.stdin, line], [], [])[0]:
                data = line.recv(4096) if ready is line else os.read(sys.stdin.fileno(), 1024)
                if not data or (ready is not line and b"\x1d" in data):
                    return
                if ready is line:
                    os.write(sys.stdout.fileno(), data)
                else:
                    line.sendall(data)


def _demo(lab: Lab, _: argparse.Namespace) -> int:
    return demo(lab)
