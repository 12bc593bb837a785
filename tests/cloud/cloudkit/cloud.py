# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cloud as a whole: built once, brought up from a snapshot, taken down without a trace."""

from __future__ import annotations

import functools
import hashlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Iterable

from labkit.process import Daemon
from labkit.say import LabError

from . import database, environment, settings
from .config import HERE, HOSTS, PASSWORD, REGION, SERVICES, SERVICES_DIR, Paths, choose_ports, known_ports, urls
from .say import say, step

# Generous: a busy machine is no reason to give up.
START_SECONDS = 600
STANDINS = SERVICES_DIR / "standins"
# What decides what a snapshot holds.
RECIPE = ("cloudkit/database.py", "cloudkit/settings.py", "cloudkit/config.py", "services")


class Cloud:
    """One checkout's cloud."""

    def __init__(self, paths: Paths | None = None) -> None:
        self.paths = paths or Paths()
        self.venv = environment.venv(self.paths)
        self.database = Daemon(self.paths.state / "process" / "mariadb.json")
        self.daemons = {service.name: Daemon(self.paths.state / "process" / f"{service.name}.json") for service in SERVICES}

    @property
    def running(self) -> bool:
        """Whether every process runs."""
        return all(daemon.pid is not None for daemon in (self.database, *self.daemons.values()))

    @property
    def snapshot(self) -> Path:
        """The snapshot of the present recipe, made or not."""
        digest = hashlib.sha256(str(self.venv.name).encode())
        for part in RECIPE:
            place = HERE / part
            for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
                if path.is_file() and "__pycache__" not in path.parts:
                    digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        return self.paths.cache / f"cloud-{digest.hexdigest()[:12]}.tar.gz"

    # -- build --

    def build(self) -> None:
        """Make the environment and the snapshot where they are missing."""
        database.program()
        environment.build(self.paths)
        # Known before, in case somebody is at work on the recipe.
        wanted = self.snapshot
        if wanted.exists():
            return
        with step("setting the cloud up for the first time (about 2 minutes, once)"):
            self._clear()
            ports = choose_ports(self.paths)
            settings.write(self.paths, self.venv, ports)
            database.create(self.paths)
            try:
                self._populate(ports)
            finally:
                self.down(forget=False)
        self._keep(wanted)

    def _populate(self, ports: dict[str, int]) -> None:
        database.start(self.paths, self.database, ports, known=False)
        self._wait_for_database()
        stopped = threading.Event()
        with ThreadPoolExecutor(3) as pool:
            try:
                list(pool.map(lambda chain: self._manage(chain, stopped), self._migrations(ports)))
            except BaseException:
                # Or the others go on for a minute after an error or an interruption.
                stopped.set()
                raise
        self._start(["keystone", "placement"], ports)
        self._wait(["keystone", "placement"], ports)
        self._seed("identity", ports)
        self._start([service.name for service in SERVICES if self.daemons[service.name].pid is None], ports)
        self._wait(ports, ports)
        self._seed("content", ports)

    def _migrations(self, ports: dict[str, int]) -> list[list[list[str]]]:
        """Return three chains of commands that make tables and keys, about as long as each other."""
        live = self.paths.live
        file = {
            name: ["--config-file", str(live / name / f"{name}.conf")] for name in ("keystone", "nova", "neutron", "cinder", "placement")
        }
        keystone, nova = ["keystone-manage", *file["keystone"]], ["nova-manage", *file["nova"]]
        user = str(os.getuid()), str(os.getgid())
        owned = ["--keystone-user", user[0], "--keystone-group", user[1]]
        address = urls(ports)["identity"]
        bootstrap = ["bootstrap", "--bootstrap-password", PASSWORD, "--bootstrap-region-id", REGION]
        bootstrap += [word for kind in ("public", "internal", "admin") for word in (f"--bootstrap-{kind}-url", address)]
        # Filled in by Nova from its own configuration, so that a snapshot can come up elsewhere.
        cell = "{scheme}://{username}@{hostname}/%s?{query}"
        return [
            [
                [*keystone, "db_sync"],
                [*keystone, "fernet_setup", *owned],
                [*keystone, "credential_setup", *owned],
                [*keystone, *bootstrap],
                ["placement-manage", *file["placement"], "db", "sync"],
            ],
            [
                ["glance-manage", "--config-file", str(live / "glance" / "glance-api.conf"), "db_sync"],
                ["neutron-db-manage", *file["neutron"], "upgrade", "heads"],
            ],
            [
                [*nova, "api_db", "sync"],
                [*nova, "cell_v2", "map_cell0", "--database_connection", cell % "nova_cell0"],
                [
                    *nova,
                    "cell_v2",
                    "create_cell",
                    "--name",
                    "cell1",
                    "--database_connection",
                    cell % "nova_cell1",
                    "--transport-url",
                    "fake://",
                ],
                [*nova, "db", "sync"],
                ["cinder-manage", *file["cinder"], "db", "sync"],
            ],
        ]

    def _manage(self, commands: list[list[str]], stopped: threading.Event) -> None:
        for program, *arguments in commands:
            if stopped.is_set():
                return
            argv = [str(self.venv / "bin" / program), *arguments]
            with (self.paths.logs / "setup.log").open("ab") as sink:
                ended = subprocess.run(argv, env=self._environment(), stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, check=False)
            if ended.returncode:
                raise LabError(f"`{program} {' '.join(arguments[2:])}` failed; see the end of {self.paths.logs / 'setup.log'}.")

    def _seed(self, phase: str, ports: dict[str, int]) -> None:
        told = {"password": PASSWORD, "region": REGION, "catalogue": urls(ports), "hosts": HOSTS, "gpus": sorted(settings.GPUS)}
        argv = [str(self.venv / "bin" / "python"), str(SERVICES_DIR / "seed.py"), phase]
        ended = subprocess.run(argv, input=json.dumps(told), capture_output=True, text=True, check=False, env=self._environment())
        if ended.returncode:
            raise LabError(f"the cloud's {phase} could not be made: {ended.stderr.strip()[-800:]}")

    def _keep(self, wanted: Path) -> None:
        """Pack the stopped cloud; what is half written never carries the name."""
        self.paths.cache.mkdir(parents=True, exist_ok=True)
        unfinished = self.paths.cache / f".{self.paths.ident}.tar.gz"
        with tarfile.open(unfinished, "w:gz", compresslevel=1) as packed:
            packed.add(self.paths.live, arcname="live")
        unfinished.rename(wanted)

    # -- up and down --

    def up(self) -> None:
        """Bring the cloud up from its snapshot, new; one that runs stays as it is, unless it is of another recipe."""
        origin = self.paths.state / "origin"
        if self.running and origin.read_text() == self.snapshot.name:
            say("it is up")
            return
        self.build()
        self.down()
        with step("starting the cloud"):
            self._clear()
            with tarfile.open(self.snapshot) as packed:
                packed.extractall(self.paths.state, filter="data")
            ports = choose_ports(self.paths)
            settings.write(self.paths, self.venv, ports)
            database.start(self.paths, self.database, ports, known=True)
            self._wait_for_database()
            self._start(ports, ports)
            self._wait(ports, ports)
        self._write_clouds(ports)
        origin.write_text(self.snapshot.name)

    def down(self, *, forget: bool = True) -> None:
        """End every process of this cloud; what it held is forgotten: `up` starts from the snapshot."""
        # All are told first and awaited then: each takes a moment to end.
        for daemon in self.daemons.values():
            daemon.signal(signal.SIGTERM)
        for daemon in (*self.daemons.values(), self.database):
            daemon.stop(patience=15)
        shutil.rmtree(self.paths.run, ignore_errors=True)
        if forget:
            shutil.rmtree(self.paths.live, ignore_errors=True)

    def reset(self) -> None:
        """Remove every server, volume, port and address of every project, and set all controls back."""
        if not self.running:
            raise LabError("The cloud is down: run tests/cloud/cloud up first.")
        for order in self.paths.controls.iterdir():
            order.unlink()
        self._seed("reset", known_ports(self.paths))

    def _clear(self) -> None:
        for place in (self.paths.live, self.paths.logs):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)

    def _environment(self) -> dict[str, str]:
        """Return the environment of every process, without what would point a client at another cloud."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OS_", "PYTHON"))}
        return {**inherited, **settings.environment(self.paths), "PYTHONPATH": str(STANDINS)}

    def _start(self, names: Iterable[str], ports: dict[str, int]) -> None:
        catalogue = urls(ports)
        told = {**self._environment(), "LLM_CLOUD_AWAIT": f"{catalogue['identity']},{catalogue['placement']}"}
        for service in SERVICES:
            if service.name in names:
                program, *arguments = service.program
                argv = [str(self.venv / "bin" / "python"), str(SERVICES_DIR / program), *arguments]
                argv += [str(ports[service.name]), str(service.threads)]
                self.daemons[service.name].start(argv, log=self.paths.logs / f"{service.name}.out", environment=told)

    def _wait_for_database(self) -> None:
        self._until("mariadb", self.database, self.paths.socket.exists)

    def _wait(self, names: Iterable[str], ports: dict[str, int]) -> None:
        for name in names:
            self._until(name, self.daemons[name], functools.partial(_answers, ports[name]))

    def _until(self, name: str, daemon: Daemon, ready: Callable[[], bool]) -> None:
        """Wait until a process does its work.

        :raises LabError: when it ended instead, or takes ten minutes.
        """
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if daemon.pid is None or time.monotonic() > deadline:
                said = (self.paths.logs / f"{name}.out").read_text(errors="replace").strip()[-800:]
                raise LabError(f"{name} did not come up; the end of {self.paths.logs / name}.out: {said}")
            time.sleep(0.1)

    def _write_clouds(self, ports: dict[str, int]) -> None:
        """Write a clouds.yaml (JSON is YAML) for work by hand."""
        common = {"region_name": REGION, "identity_api_version": "3"}
        clouds = {name: {**common, "auth": account(name, ports)} for name in ("admin", "demo")}
        (self.paths.state / "clouds.yaml").write_text(json.dumps({"clouds": clouds}, indent=1) + "\n")


def account(user: str, ports: dict[str, int], *, project: str = "") -> dict[str, str]:
    """Return how a user signs in, as openstacksdk names it; a project has the name of its user unless told otherwise."""
    return {
        "auth_url": urls(ports)["identity"],
        "username": user,
        "password": PASSWORD,
        "project_name": project or user,
        "user_domain_name": "Default",
        "project_domain_name": "Default",
    }


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        connection.getresponse()
    except OSError:
        return False
    finally:
        connection.close()
    return True
