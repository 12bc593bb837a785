# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab as a whole: its machines brought up, put back, and taken down together."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid
from dataclasses import replace
from typing import Iterable, Sequence, Union

from . import host, image, network
from .config import EXTRA, MACHINES, NVIDIA, SUITE, Machine, Paths, machine
from .container import ContainerMachine
from .process import run
from .say import LabError, say, step
from .vm import CLEAN, VirtualMachine

AnyMachine = Union[VirtualMachine, ContainerMachine]
# An emulated machine on a busy host may take minutes.
BOOT_SECONDS = 600

# Container machines were found twice whose network settings could not be written, which keeps Docker from starting.
_UP = "{ test -w /proc/sys/net/ipv4/ip_forward || /usr/local/sbin/lab-writable; } >&2; echo up"


class Lab:
    """One checkout's lab."""

    def __init__(self, paths: Paths | None = None) -> None:
        self.paths = paths or Paths()

    # -- which machines there are --

    def _kinds(self) -> dict[str, str]:
        """The kind of each machine that exists, as it was created."""
        known = self.paths.state / "kinds.json"
        return dict(json.loads(known.read_text())) if known.exists() else {}

    def _remember_kinds(self, kinds: dict[str, str]) -> None:
        self.paths.state.mkdir(parents=True, exist_ok=True)
        (self.paths.state / "kinds.json").write_text(json.dumps(kinds, indent=1))

    def machines(self) -> list[AnyMachine]:
        """Every machine that exists."""
        return [self._make(replace(machine(name), kind=kind)) for name, kind in self._kinds().items()]

    def get(self, name: str) -> AnyMachine:
        """One machine that exists.

        :raises LabError: when it does not.
        """
        for found in self.machines():
            if found.spec.name == name:
                return found
        known = ", ".join(found.spec.name for found in self.machines()) or "none; run tests/lab/lab up"
        raise LabError(f"There is no machine {name!r} in this lab (there are: {known}).")

    def _make(self, spec: Machine) -> AnyMachine:
        base = image.image(self.paths, spec.suite)
        if spec.kind == "container":
            return ContainerMachine(spec, self.paths, base)
        accel = host.accelerator(base) if base.complete else "tcg"
        return VirtualMachine(spec, self.paths, base, accel)

    # -- up and down --

    def build(self, suites: Iterable[str] = (SUITE,), *, starting: Sequence[Machine] = ()) -> None:
        """Build what machines of these Debian releases start from, where it is missing.

        :param starting: the machines that memory is wanted for.
        """
        wanted = sorted(set(suites))
        host.check(self.paths, list(starting), built=all(image.image(self.paths, suite).complete for suite in wanted))
        for suite in wanted:
            image.build(self.paths, suite)

    def boot_once(self) -> None:
        """Boot the virtual machines of a lab that has none yet, so that later labs of this image start from their clean state."""
        wanted = [spec for spec in MACHINES if spec.kind == "vm"]
        made = [self._make(spec) for spec in wanted]
        if self.machines() or all(found.kept.exists() for found in made if isinstance(found, VirtualMachine)):
            return
        self.up([spec.name for spec in wanted])
        self.down(discard=True)

    def up(self, names: Iterable[str] = (), *, all_vm: bool = False) -> None:
        """Bring machines up: those named, or the lab's four; running ones stay as they are."""
        specs = self._wanted(list(names), all_vm)
        waiting = [spec for spec in specs if not (spec.name in self._kinds() and self._make(spec).running)]
        self.build([spec.suite for spec in specs], starting=waiting)
        network.create(self.paths)
        self._write_ssh_config()
        self._retire_other_kind(specs)
        self._remember_kinds({**self._kinds(), **{spec.name: spec.kind for spec in specs}})
        down = [found for found in map(self._make, specs) if not found.running]
        if not down:
            say("all machines are up")
            return
        fresh = [found for found in down if not found.created]
        self._boot_once(fresh)
        with step(f"starting {', '.join(found.spec.name for found in down)}"):
            for found in down:
                self._start(found)
            self.wait([found.spec.name for found in down])
        self._after_load(fresh, CLEAN)

    def _wanted(self, names: list[str], all_vm: bool) -> list[Machine]:
        try:
            specs = [machine(name) for name in names] if names else list(MACHINES)
        except KeyError as error:
            known = ", ".join(spec.name for spec in (*MACHINES, *EXTRA))
            raise LabError(f"There is no machine {error} in the lab's plan (there are: {known}).") from error
        kinds = self._kinds()
        if all_vm:
            return [replace(spec, kind="vm") for spec in specs]
        return [replace(spec, kind=spec.kind if names == [] else kinds.get(spec.name, spec.kind)) for spec in specs]

    def _retire_other_kind(self, specs: list[Machine]) -> None:
        kinds = self._kinds()
        for spec in specs:
            if kinds.get(spec.name, spec.kind) != spec.kind:
                say(f"{spec.name} was a {kinds[spec.name]} machine and becomes a {spec.kind} machine: its old disk is dropped")
                old = self.get(spec.name)
                old.stop()
                old.discard()

    @staticmethod
    def _start(found: AnyMachine) -> None:
        if found.created:
            found.boot()
        elif isinstance(found, ContainerMachine):
            found.create()
            found.boot()
        else:
            found.create()
            found.load(CLEAN)

    def _boot_once(self, fresh: Sequence[AnyMachine]) -> None:
        """Boot the virtual machines whose clean state is not kept yet, and keep it beside the image: a boot is slow where emulated."""
        wanted = [found for found in fresh if isinstance(found, VirtualMachine) and not found.kept.exists()]
        if not wanted:
            return
        with step(f"booting {', '.join(found.spec.name for found in wanted)} for the first time"):
            for found in wanted:
                found.create_blank()
                found.boot(late=False)
            self.wait([found.spec.name for found in wanted])
        for found in wanted:
            with step(f"keeping the clean state of {found.spec.name}"):
                self._install_gpus(found.spec)
                found.save_live(CLEAN)
                found.cut()
                found.keep()

    def _install_gpus(self, spec: Machine) -> None:
        """A GPU to show and NVIDIA's programs, which a machine has before any role runs."""
        if not spec.gpus:
            return
        identities = [uuid.uuid5(uuid.NAMESPACE_DNS, f"{spec.name}/{number}") for number in range(len(spec.gpus))]
        lines = "".join(f"GPU-{identity}, {model}\n" for identity, model in zip(identities, spec.gpus))
        self.ssh(spec.name, "mkdir -p /etc/llm-lab && cat > /etc/llm-lab/gpus", stdin=lines)
        for path in NVIDIA:
            self.ssh(spec.name, f"cat > /usr/bin/{path.name} && chmod 0755 /usr/bin/{path.name}", stdin=path.read_text())
        # As the toolkit's package brings it.
        runtime = "/etc/nvidia-container-runtime"
        self.ssh(spec.name, f"mkdir -p {runtime} && cat > {runtime}/config.toml", stdin='[nvidia-container-runtime]\nmode = "auto"\n')

    def down(self, *, discard: bool = False) -> None:
        """End every process of this lab; keep the disks unless told otherwise."""
        self._close_masters()
        # The first machine serves the others' mounts: a client that shuts down without its server waits in vain.
        for found in reversed(self.machines()):
            if found.running:
                with step(f"stopping {found.spec.name}"):
                    self._stop(found)
            else:
                found.stop()
            if discard:
                found.discard()
        network.destroy(self.paths)
        shutil.rmtree(self.paths.run, ignore_errors=True)
        if discard:
            (self.paths.state / "kinds.json").unlink(missing_ok=True)

    def _stop(self, found: AnyMachine) -> None:
        """Shut a machine down in order; a virtual one that does not answer loses its power."""
        if isinstance(found, VirtualMachine):
            self.ssh(found.spec.name, "systemctl poweroff", check=False, seconds=5)
            found.daemon.wait(60)
        found.stop()

    def forget(self, name: str) -> None:
        """End one machine, if it exists, and drop its disks: the next `up` makes it new."""
        for found in self.machines():
            if found.spec.name == name:
                self.cut(name)
                found.stop()
                found.discard()
        self._remember_kinds({known: kind for known, kind in self._kinds().items() if known != name})

    # -- snapshots and cuts --

    def save(self, name: str) -> None:
        """Keep the state of all machines; a machine whose memory cannot be saved is shut down and booted again."""
        for found in self.machines():
            if isinstance(found, VirtualMachine) and not found.has_late:
                with step(f"saving {found.spec.name} as it runs"):
                    found.save_live(name)
                continue
            with step(f"saving {found.spec.name}: shut down, save, boot"):
                self._stop(found)
                found.save_cold(name)
                found.boot()
        self.wait([found.spec.name for found in self.machines()])

    def load(self, name: str) -> None:
        """Put all machines back to a saved state; ``clean`` is the state before any role ran."""
        machines = self.machines()
        for found in machines:
            fresh = name == CLEAN and isinstance(found, ContainerMachine)
            if not fresh and name not in found.snapshots():
                raise LabError(f"{found.spec.name} has no snapshot {name!r} (it has: {', '.join(found.snapshots()) or 'none'}).")
        self._close_masters()
        with step(f"going back to the snapshot {name}"):
            for found in machines:
                found.cut()
                if name == CLEAN and isinstance(found, ContainerMachine):
                    found.create()
                    found.boot()
                else:
                    found.load(name)
            self.wait([found.spec.name for found in machines])
            self._after_load(machines, name)

    def _after_load(self, machines: list[AnyMachine], name: str) -> None:
        for found in machines:
            if isinstance(found, ContainerMachine):
                if name == CLEAN:
                    self._install_gpus(found.spec)
            elif found.snapshots()[name] == "live":
                # The guest's clock stood still while the snapshot lay on the disk.
                self.ssh(found.spec.name, f"date --utc --set=@{time.time():.0f}")
                found.plug()
                self._await_disks(found)

    def _await_disks(self, found: VirtualMachine) -> None:
        """Wait until the guest has found the disks that were plugged in, and their links are there."""
        serials = "|".join(disk.serial for disk in found.spec.disks if disk.late)
        if serials:
            count = serials.count("|") + 1
            seen = f"until [ $(lsblk -dno SERIAL | grep -cxE '{serials}') = {count} ]; do sleep 0.2; done; udevadm settle"
            self.ssh(found.spec.name, seen)

    def cut(self, name: str) -> None:
        """A power cut of one machine; Ansible's open connections would only delay that it is noticed."""
        self._close_masters()
        self.get(name).cut()

    # -- reaching them --

    def _write_ssh_config(self) -> None:
        lines = []
        for spec in (*MACHINES, *EXTRA):
            base = image.image(self.paths, spec.suite)
            lines.append(
                f"Host {spec.name} {spec.address}\n  HostName {spec.address}\n  User root\n  IdentityFile {base.key}\n"
                f"  IdentitiesOnly yes\n  UserKnownHostsFile {base.known_hosts}\n  StrictHostKeyChecking yes\n  ConnectTimeout 10\n"
                "  ServerAliveInterval 15\n  LogLevel ERROR\n"
            )
        self.paths.state.mkdir(parents=True, exist_ok=True)
        self.paths.ssh_config().write_text("".join(lines))

    def environment(self) -> dict[str, str]:
        """What a program inside the lab's network finds in its environment."""
        sockets = self.paths.run / "cp"
        sockets.mkdir(parents=True, exist_ok=True)
        return {
            **os.environ,
            "LLM_LAB_STATE": str(self.paths.state),
            "LLM_LAB_SSH_CONFIG": str(self.paths.ssh_config()),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(sockets),
        }

    def ssh_argv(self, name: str) -> list[str]:
        """The command that logs in to a machine."""
        return [*network.inside(self.paths), "ssh", "-F", str(self.paths.ssh_config()), name]

    def ssh(self, name: str, command: str, *, check: bool = True, stdin: str = "", seconds: float = 120) -> str:
        """Run a command line on a machine and return what it printed."""
        argv = [*self.ssh_argv(name)[:-1], "-o", "ConnectTimeout=3", name, command]
        try:
            ended = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False, timeout=seconds)
        except subprocess.TimeoutExpired as error:
            if not check:
                return ""
            raise LabError(f"`{command}` on {name} did not end within {seconds:g} s.") from error
        if check and ended.returncode:
            raise LabError(f"`{command}` on {name} failed: {(ended.stderr or ended.stdout).strip()}")
        return ended.stdout

    def wait(self, names: Sequence[str], *, seconds: float = BOOT_SECONDS) -> None:
        """Wait until every machine answers on SSH.

        :raises LabError: naming the first that does not, and where its console's text is.
        """
        deadline = time.monotonic() + seconds
        for name in names:
            while self.ssh(name, _UP, check=False, seconds=30).strip() != "up":
                if not self.get(name).running:
                    raise LabError(f"{name} ended while booting; its last words are in {self.paths.of(name)}.")
                if time.monotonic() > deadline:
                    raise LabError(f"{name} did not answer on SSH within {seconds:.0f} s; see {self.paths.of(name) / 'console.log'}.")
                time.sleep(0.3)

    def execute(self, argv: Sequence[str]) -> int:
        """Run a program inside the lab's network and return its exit status."""
        return subprocess.run([*network.inside(self.paths), *argv], env=self.environment(), check=False).returncode

    def _close_masters(self) -> None:
        """End the shared SSH connections that Ansible left open."""
        for socket in (self.paths.run / "cp").glob("*"):
            run(["ssh", "-O", "exit", "-S", str(socket), "lab"], check=False)
