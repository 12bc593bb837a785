# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writers that acknowledge record after record once it is safe, and what is left of their records afterwards."""

from __future__ import annotations

import json
import subprocess
import threading
import time

from .lab import Lab
from .say import LabError

RECORD = 4096
# A busy host with emulated machines may stall for minutes; this is no measure of anything.
PATIENCE = 900.0

# Runs on a client. A record holds who wrote it and its number, many times over; it is told once fsync said that it is safe.
_WRITER = """
import os, struct, sys
path, run, start = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
file = os.open(path, os.O_RDWR | (0 if path.startswith("/dev/") else os.O_CREAT))
number = 0
while True:
    os.pwrite(file, struct.pack(">QQ", run, number) * 256, (start + number) * 4096)
    os.fsync(file)
    print(number, flush=True)
    number += 1
"""
# Runs on the storage host and prints the numbers of the acknowledged records that are not there.
_READER = """
import json, struct, sys
path, run, start, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
missing = []
try:
    file = open(path, "rb")
except FileNotFoundError:
    print(json.dumps(list(range(count))))
    sys.exit()
for number in range(count):
    file.seek((start + number) * 4096)
    if file.read(4096) != struct.pack(">QQ", run, number) * 256:
        missing.append(number)
print(json.dumps(missing))
"""


class Writer:
    """A program on a client that writes and waits for each record to be safe.

    :param path: a file, or a block device.
    :param run: tells this run's records from those of others.
    :param start: the first record's place, in records.
    """

    def __init__(self, lab: Lab, machine: str, path: str, *, run: int = 0, start: int = 0) -> None:
        self.path, self.run, self.start = path, run, start
        self.acknowledged = 0
        argv = [*lab.ssh_argv(machine), "python3", "-u", "-c", _quoted(_WRITER), path, str(run), str(start)]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self.acknowledged = int(line) + 1

    def wait(self, count: int) -> None:
        """Wait until that many records were acknowledged.

        :raises LabError: when the writer ends before, with its last words.
        """
        deadline = time.monotonic() + PATIENCE
        while self.acknowledged < count:
            if self._process.poll() is not None:
                words = self._process.stderr.read() if self._process.stderr else ""
                raise LabError(f"The writer to {self.path} ended after {self.acknowledged} records: {words.strip()}")
            if time.monotonic() > deadline:
                raise LabError(f"The writer to {self.path} got {self.acknowledged} of {count} records acknowledged in {PATIENCE:.0f} s.")
            time.sleep(0.02)

    def go_on(self, more: int = 3) -> None:
        """Wait until more records were acknowledged: the writer is alive and its session works."""
        self.wait(self.acknowledged + more)

    def stop(self) -> int:
        """End it, and return how many records were acknowledged."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()
        return self.acknowledged


def missing(lab: Lab, machine: str, path: str, writer: Writer) -> list[int]:
    """The acknowledged records that are not in the file or device on the storage host."""
    arguments = f"{path} {writer.run} {writer.start} {writer.acknowledged}"
    return list(json.loads(lab.ssh(machine, f"python3 -c {_quoted(_READER)} {arguments}")))


def _quoted(program: str) -> str:
    return "'" + program + "'"
