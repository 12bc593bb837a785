# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes the steps for one engine: files, the service, and the engine's API."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, TypeVar

from .._errors import CommandFailed, StackError
from .._plan import Step
from .._run import Runner
from .client import Api, Connect, EngineError
from .members_apply import CONFLICTS, MembersApplier, is_conflict
from .members_plan import plan_members
from .model import SWARM_RESOURCE, EngineSpec, Guards, Init, Join, Member, Membership
from .read import Paths, parse_membership, read_identity, read_nodes

T = TypeVar("T")


def write_text(path: Path, text: str, *, backup: bool, check: Callable[[Path], None] | None = None) -> str:
    """Replace a file in one rename, and return the name of the copy kept of the former one.

    :param check: raises when the new content must not be put in place.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=str(path.parent))
    draft = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as new:
            new.write(text)
            new.flush()
            os.fsync(new.fileno())
        draft.chmod(path.stat().st_mode & 0o7777 if path.exists() else 0o644)
        if check:
            check(draft)
        kept = f"{path}.{time.strftime('%Y%m%d%H%M%S')}~" if backup and path.exists() else ""
        if kept:
            shutil.copy2(str(path), kept)
        draft.replace(path)
    except BaseException:
        draft.unlink()
        raise
    return kept


def with_swarm_resource(config: str) -> str:
    """Set ``swarm-resource`` at the top level of the NVIDIA runtime's configuration; the rest stays as it is."""
    line = f'swarm-resource = "{SWARM_RESOURCE}"'
    changed, count = re.subn(r"^\s*#?\s*swarm-resource\s*=.*$", line, config, count=1, flags=re.MULTILINE)
    # Keys after a [table] header would belong to that table, so a new one goes first.
    return changed if count else f"{line}\n{config}"


def _with_settings(spec: dict[str, Any], init: Init) -> bool:
    """Put the settings wanted into a swarm's specification, and tell whether that changed it."""
    before = json.dumps(spec, sort_keys=True)
    if init.heartbeat_ns is not None:
        spec.setdefault("Dispatcher", {})["HeartbeatPeriod"] = init.heartbeat_ns
    if init.autolock is not None:
        spec.setdefault("EncryptionConfig", {})["AutoLockManagers"] = init.autolock
    return json.dumps(spec, sort_keys=True) != before


class EngineApplier:
    """Takes the steps of :func:`.plan.plan_engine`.

    :param settings: the configuration file's content as planned.
    :param sleep: waits; replaced in tests, as is the clock.
    """

    def __init__(
        self,
        spec: EngineSpec,
        settings: dict[str, Any],
        *,
        runner: Runner,
        connect: Connect,
        paths: Paths,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        timeout: float = 60.0,
    ) -> None:
        self.spec = spec
        self.settings = settings
        self.backups: list[str] = []
        self._runner = runner
        self._connect = connect
        self._paths = paths
        self._clock = clock
        self._sleep = sleep
        self._timeout = timeout

    def do(self, step: Step) -> None:
        """Take one step."""
        actions: dict[str, Callable[[], None]] = {
            "configure": self._configure,
            "configure_runtime": self._configure_runtime,
            "enable": lambda: self._systemctl("enable"),
            "start": lambda: self._systemctl("start"),
            "restart": self._restart,
            "leave": self._leave,
            "drain": lambda: self._set_own_availability(Member(step.target, availability="drain", temporary=True)),
            "resume": lambda: self._patiently(lambda: self._set_own_availability(Member(step.target, availability="resume"))),
        }
        if step.action in actions:
            actions[step.action]()
        elif step.action == "join" and self.spec.join:
            self._join(self.spec.join)
        elif step.action == "init" and self.spec.init:
            self._init(self.spec.init)
        elif step.action == "update" and self.spec.init:
            self._update(self.spec.init)
        elif step.action == "rotate":
            self._update(Init(), rotate=True)

    def _configure(self) -> None:
        text = json.dumps(self.settings, indent=2) + "\n"
        self._keep(write_text(self._paths.daemon, text, backup=True, check=self._validate))

    def _keep(self, backup: str) -> None:
        if backup:
            self.backups.append(backup)

    def _validate(self, path: Path) -> None:
        try:
            self._runner.run(("dockerd", "--validate", "--config-file", str(path)))
        except CommandFailed as error:
            raise StackError(
                f"dockerd does not accept the merged settings, so {self._paths.daemon} stays as it was: {error.stderr}. "
                "Correct the settings given."
            ) from error

    def _configure_runtime(self) -> None:
        path = self._paths.runtime
        self._keep(write_text(path, with_swarm_resource(path.read_text(encoding="utf-8")), backup=True))

    def _systemctl(self, verb: str) -> None:
        try:
            self._runner.run(("systemctl", verb, "docker.service"))
        except CommandFailed as error:
            if verb == "enable":
                raise
            log = self._runner.run(("journalctl", "--unit=docker.service", "--lines=5", "--no-pager", "--output=cat"), ok=(0, 1)).stdout
            kept = f" The settings before this run are in {self.backups[-1]}." if self.backups else ""
            raise StackError(f"{error}. Docker's last words: {' / '.join(log.split(chr(10))).strip(' /')}.{kept}") from error

    def _restart(self) -> None:
        """Restart the engine; a manager that locks itself is unlocked again, with the key it told before.

        A manager has a leader again at the end: where they are restarted one after the other, more than half always run.
        """
        try:
            manager = parse_membership(self._connect().info()).is_manager
        except EngineError:
            # An engine that does not answer is restarted all the more.
            manager = False
        # Without a leader it could not tell the key, and would stay locked.
        key = self._patiently(self._unlock_key) if manager else ""
        self._systemctl("restart")
        if key:
            self._patiently(lambda: self._connect().unlock(key))
        if manager:
            self._patiently(self._unlock_key)

    def _unlock_key(self) -> str:
        """Return the key of managers that lock themselves, or an empty text.

        :raises EngineError: the managers have no leader to ask.
        """
        api = self._connect()
        found = parse_membership(api.info())
        if not found.cluster_id:
            raise EngineError(f"the managers have no leader ({found.error or found.state}): see that more than half of them run")
        return api.unlock_key() if found.autolock else ""

    def _set_own_availability(self, member: Member) -> None:
        api = self._connect()
        nodes = read_nodes(api)
        plan = plan_members(current=nodes, desired=(member,), guards=Guards())
        plan.raise_if_refused()
        applier = MembersApplier(api, clock=self._clock, sleep=self._sleep, timeout=self._timeout)
        for step in plan.steps:
            applier.do(step)
        applier.verify((member,))

    def _patiently(self, act: Callable[[], T]) -> T:
        """Repeat what a manager refuses until it has found its leader again after a restart."""
        end = self._clock() + self._timeout
        while True:
            try:
                return act()
            except EngineError:
                if self._clock() >= end:
                    raise
            self._sleep(1.0)

    def _leave(self) -> None:
        api = self._connect()
        try:
            api.leave_swarm()
        except EngineError:
            # Another run may have been faster.
            if parse_membership(api.info()).state != "inactive":
                raise

    def _init(self, init: Init) -> None:
        api = self._connect()
        try:
            api.init_swarm(init, advertise=self.spec.advertise_address, data_path=self.spec.data_path_address)
        except EngineError:
            if not parse_membership(api.info()).is_manager:
                raise

    def _update(self, init: Init, *, rotate: bool = False) -> None:
        """Change the swarm's own settings; when another writer was faster, look again and repeat."""
        api = self._connect()
        for attempt in range(CONFLICTS):
            swarm = api.swarm()
            if not (_with_settings(swarm["Spec"], init) or rotate):
                return
            try:
                api.update_swarm(swarm["Version"]["Index"], swarm["Spec"], rotate_worker_token=rotate)
                return
            except EngineError as error:
                if not is_conflict(error) or attempt == CONFLICTS - 1:
                    raise
                self._sleep(0.2)

    def _join(self, join: Join) -> None:
        api = self._connect()
        try:
            api.join_swarm(join.manager, join.token, advertise=self.spec.advertise_address, data_path=self.spec.data_path_address)
        except EngineError as error:
            # The engine gives up waiting after 20 s, but goes on joining; or another run has joined meanwhile.
            if "Timeout was reached" not in str(error) and "already part of a swarm" not in str(error):
                raise
        now = self._settled(api)
        if now.state == "active" and now.cluster_id == join.cluster_id:
            self._require_role(now, join)
            return
        if now.state == "active":
            self._leave()
            raise StackError(
                f"{join.manager} belongs to the swarm {now.cluster_id}, not to {join.cluster_id}, so this host has left it again. "
                "Check engine.manager and engine.cluster_id."
            )
        raise StackError(
            f"This host is {now.state} instead of active after joining {join.manager}: {now.error or 'no reason given'}. "
            "Check that the manager's ports 2377/tcp, 7946/tcp+udp and 4789/udp are reachable from here, and the clocks of both."
        )

    @staticmethod
    def _require_role(now: Membership, join: Join) -> None:
        if join.role == "manager" and not now.is_manager:
            raise StackError(
                f"This host has joined {join.manager} as a worker, for engine.join_token is the workers' token. "
                f"Run `docker node promote {now.node_id}` on a manager, and give the managers' token (swarm_manager_manager_token)."
            )

    def _settled(self, api: Api) -> Membership:
        """Wait until the engine is active or has failed."""
        end = self._clock() + self._timeout
        while True:
            api.within(end - self._clock())
            info = api.info()
            now = read_identity(parse_membership(info), Path(info.get("DockerRootDir") or self._paths.data_root))
            if now.state in {"active", "error", "locked"} or self._clock() >= end:
                return now
            self._sleep(1.0)
