# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of the cloud."""

from __future__ import annotations

import argparse
import contextlib
import sys

from labkit.say import LabError

from .cloud import Cloud
from .config import SERVICES, known_ports, urls


def main(argv: list[str]) -> int:
    """Parse, act, and turn an error into one sentence on standard error."""
    arguments = _parser().parse_args(argv)
    cloud = Cloud()
    try:
        with cloud.paths.lock() if arguments.alone else contextlib.nullcontext():
            arguments.act(cloud)
    except LabError as error:
        print(f"cloud: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tests/cloud/cloud", description="A real OpenStack API on this machine, with pretend machines behind it."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, text: str, act: object, *, alone: bool = True) -> None:
        commands.add_parser(name, help=text, description=text).set_defaults(act=act, alone=alone)

    add("build", "install the services and make the snapshot, where they are missing", Cloud.build)
    add("up", "bring the cloud up from its snapshot", Cloud.up)
    add("down", "end every process of this cloud and forget what it held", Cloud.down)
    add("reset", "remove every server, volume, port and address, and set all controls back", Cloud.reset)
    add("status", "what runs, and where it answers", _status, alone=False)
    return parser


def _status(cloud: Cloud) -> None:
    rows = [("service", "address", "state")]
    addresses = urls(known_ports(cloud.paths))
    for service in SERVICES:
        pid = cloud.daemons[service.name].pid
        rows.append((service.name, addresses[service.kind], f"up (process {pid})" if pid else "down"))
    pid = cloud.database.pid
    rows.append(("mariadb", str(cloud.paths.socket), f"up (process {pid})" if pid else "down"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    print(f"clouds.yaml: {cloud.paths.state / 'clouds.yaml'} (clouds admin and demo)")
