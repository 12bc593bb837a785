# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a module as Ansible does, once for each request, without the seconds Python takes to import what it needs.

``python runner.py MODULE`` reads one JSON object a line (``arguments``, ``environment``, ``output``), forks a child that runs the
module with them, and prints a line when it has ended; what the module printed is then in the file ``output``. Several requests may
be under way at once. `Runner` is the other end of that.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping


@dataclass(frozen=True)
class Ran:
    """What a run of a module gave back."""

    result: dict[str, Any]
    text: str

    @property
    def failed(self) -> bool:
        return bool(self.result.get("failed"))

    @property
    def changed(self) -> bool:
        return bool(self.result.get("changed"))

    @property
    def message(self) -> str:
        """The error, in one line."""
        return " ".join(str(self.result.get("msg", "")).split())


class Runner:
    """A process that has imported a module and runs it on demand."""

    def __init__(self, python: Path, module: str, *, collections: tuple[Path, ...]) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="llm-stack-runner-")
        path = os.pathsep.join(map(str, collections))
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
        self._process = subprocess.Popen(
            [str(python), __file__, module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**inherited, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"},
        )
        self._waiting: dict[str, Future[Ran]] = {}
        self._runs = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, arguments: Mapping[str, Any], *, environment: Mapping[str, str]) -> Future[Ran]:
        """Run the module; the result follows."""
        with self._lock:
            self._runs += 1
            output = str(Path(self._place.name) / str(self._runs))
            promised: Future[Ran] = Future()
            self._waiting[output] = promised
            request = {"arguments": dict(arguments), "environment": dict(environment), "output": output}
            assert self._process.stdin
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return promised

    def run(self, arguments: Mapping[str, Any], *, environment: Mapping[str, str], seconds: float = 600) -> Ran:
        """Run the module and wait for its result."""
        return self.start(arguments, environment=environment).result(seconds)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()
        self._place.cleanup()

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            output = line.strip()
            with self._lock:
                promised = self._waiting.pop(output)
            text = Path(output).read_text(encoding="utf-8", errors="replace")
            promised.set_result(Ran(_last_object(text), text))
        with self._lock:
            for promised in self._waiting.values():
                promised.set_exception(RuntimeError("the process that runs modules has ended"))


def _last_object(text: str) -> dict[str, Any]:
    """Return the module's answer; warnings of libraries may come before it."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            return dict(json.loads(line))
    return {"failed": True, "msg": f"the module gave no answer: {text[-2000:]}"}


# -- the process itself --


def _child(main: Any, request: dict[str, Any]) -> None:
    """Run the module in this process, which ends with it."""
    from ansible.module_utils.testing import patch_module_args

    with Path(request["output"]).open("ab", buffering=0) as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    os.environ.update(request["environment"])
    status = 1
    try:
        with patch_module_args(request["arguments"]):
            main()
        status = 0
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _collect(pids: dict[int, str], lock: threading.Lock, wake: threading.Semaphore) -> None:
    """Tell of every child that has ended."""
    while wake.acquire():
        pid, _status = os.wait()
        with lock:
            print(pids.pop(pid), flush=True)


def serve(name: str) -> None:
    """Read requests until there are no more."""
    import openstack
    import openstack.connection  # noqa: F401

    main = importlib.import_module(name).main
    pids: dict[int, str] = {}
    lock, wake = threading.Lock(), threading.Semaphore(0)
    threading.Thread(target=_collect, args=(pids, lock, wake), daemon=True).start()
    for line in sys.stdin:
        request = json.loads(line)
        with lock:
            pid = os.fork()
            if pid == 0:
                _child(main, request)
            pids[pid] = request["output"]
        wake.release()


if __name__ == "__main__":
    serve(sys.argv[1])
