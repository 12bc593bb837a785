# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes the planners' steps: files, the service, and the engine's API."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

from .._errors import CommandFailed, StackError
from .._plan import Step
from .._run import Runner
from .client import Api, Connect, EngineError
from .model import SWARM_RESOURCE, EngineSpec, Init, Join, Member, Membership, Node
from .plan import unmet
from .read import Paths, parse_membership, read_identity, read_nodes

_CONFLICTS = 5


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


class EngineApplier:
    """Takes the steps of :func:`.plan.plan_engine`.

    :param settings: the configuration file's content as planned.
    :param sleep: waits; replaced in tests.
    """

    def __init__(
        self,
        spec: EngineSpec,
        settings: dict[str, Any],
        *,
        runner: Runner,
        connect: Connect,
        paths: Paths,
        sleep: Callable[[float], None] = time.sleep,
        timeout: float = 60.0,
    ) -> None:
        self.spec = spec
        self.settings = settings
        self.backups: list[str] = []
        self._runner = runner
        self._connect = connect
        self._paths = paths
        self._sleep = sleep
        self._timeout = timeout

    def do(self, step: Step) -> None:
        """Take one step."""
        actions: dict[str, Callable[[], None]] = {
            "configure": self._configure,
            "configure_runtime": self._configure_runtime,
            "enable": lambda: self._systemctl("enable"),
            "start": lambda: self._systemctl("start"),
            "restart": lambda: self._systemctl("restart"),
            "leave": lambda: self._connect().leave_swarm(),
        }
        if step.action in actions:
            actions[step.action]()
        elif step.action == "join" and self.spec.join:
            self._join(self.spec.join)
        elif step.action == "init" and self.spec.init:
            self._connect().init_swarm(self.spec.init, advertise=self.spec.advertise_address, data_path=self.spec.data_path_address)
        elif step.action == "update" and self.spec.init:
            self._update(self.spec.init)

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

    def _update(self, init: Init) -> None:
        api = self._connect()
        swarm = api.swarm()
        dispatcher = swarm["Spec"].setdefault("Dispatcher", {})
        if dispatcher.get("HeartbeatPeriod") != init.heartbeat_ns:
            dispatcher["HeartbeatPeriod"] = init.heartbeat_ns
            api.update_swarm(swarm["Version"]["Index"], swarm["Spec"])

    def _join(self, join: Join) -> None:
        api = self._connect()
        try:
            api.join_swarm(join.manager, join.token, advertise=self.spec.advertise_address, data_path=self.spec.data_path_address)
        except EngineError as error:
            # The engine gives up waiting after 20 s, but goes on joining.
            if "Timeout was reached" not in str(error):
                raise
        now = self._settled(api)
        if now.state == "active" and now.cluster_id == join.cluster_id:
            return
        if now.state == "active":
            api.leave_swarm()
            raise StackError(
                f"{join.manager} belongs to the swarm {now.cluster_id}, not to {join.cluster_id}, so this host has left it again. "
                "Check engine.manager and engine.cluster_id."
            )
        raise StackError(
            f"This host is {now.state} instead of active after joining {join.manager}: {now.error or 'no reason given'}. "
            "Check that the manager's ports 2377/tcp, 7946/tcp+udp and 4789/udp are reachable from here, and the clocks of both."
        )

    def _settled(self, api: Api) -> Membership:
        """Wait until the engine is active or has failed."""
        waited = 0.0
        while True:
            info = api.info()
            now = read_identity(parse_membership(info), Path(info.get("DockerRootDir") or self._paths.data_root))
            if now.state in {"active", "error", "locked"} or waited >= self._timeout:
                return now
            self._sleep(1.0)
            waited += 1.0


class MembersApplier:
    """Takes the steps of :func:`.plan.plan_members`."""

    def __init__(self, api: Api, *, sleep: Callable[[float], None] = time.sleep, timeout: float = 60.0) -> None:
        self._api = api
        self._sleep = sleep
        self._timeout = timeout

    def do(self, step: Step) -> None:
        """Update one node; when another writer was faster, look again and repeat."""
        for attempt in range(_CONFLICTS):
            found = self._api.node(step.target)
            spec = dict(found["Spec"])
            spec["Labels"] = self._merged(spec.get("Labels") or {}, step.data)
            spec["Availability"] = step.data["availability"] or spec.get("Availability", "active")
            try:
                self._api.update_node(step.target, found["Version"]["Index"], spec)
                return
            except EngineError as error:
                if "out of sequence" not in str(error) or attempt == _CONFLICTS - 1:
                    raise
                self._sleep(0.2)

    @staticmethod
    def _merged(labels: dict[str, str], change: dict[str, Any]) -> dict[str, str]:
        kept = {key: value for key, value in labels.items() if key not in change["remove"]}
        return {**kept, **change["set"]}

    def verify(self, desired: tuple[Member, ...], nodes: tuple[Node, ...] | None = None) -> tuple[Node, ...]:
        """Wait until the manager sees every member's GPUs, and return the nodes.

        :param nodes: what the manager has just said, None to ask.
        :raises StackError: it does not within the time allowed; names what is missing.
        """
        waited = 0.0
        while True:
            seen = read_nodes(self._api) if nodes is None else nodes
            missing = unmet(seen, desired)
            if not missing:
                return seen
            if waited >= self._timeout:
                raise StackError(
                    f"The manager does not see the GPUs it should after {waited:g} s: {'; '.join(missing)}. "
                    "Look at `docker node inspect` here and `journalctl -u docker` there."
                )
            self._sleep(1.0)
            nodes, waited = None, waited + 1.0
