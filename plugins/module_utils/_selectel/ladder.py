# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ladder of one slot: restore the same server, make a new one at the next placement, regular ones last, or say why not."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Any, Mapping

from .._errors import StackError
from .client import Cloud
from .errors import CloudError, OutOfTime, RungFailed
from .look import look_at, wait_for, watching
from .make import Maker, remove_free_port, remove_server, remove_volume, settled
from .merge import merge_into
from .model import Fleet, FleetSpec, FloatingIp, Named, Placement, Server, SlotSpec, Volume
from .placements import Rung
from .plan import Work, changes_of, lost_tag, rungs_for
from .read import parse_port, read_catalogue
from .states import BROKEN, GONE, INTERRUPTED, RUNNING, SETTLING, START, has_run, kind_of

# Polls in a row that show a server shelved and idle, where the cloud does not tell how the restore ended.
_STILL_SHELVED = 4
# Seconds between two looks at a server that is being restored; the first come sooner.
_LONGEST_LOOK = 2.0
_NEW = ("created", "replaced", "succeeded", "adopted")


@dataclass
class Outcome:
    """How the work on one slot ended.

    :param placement: where it was made in this run.
    :param failures: why placements failed on the way.
    """

    slot: str
    action: str
    reason: str
    server: Server | None = None
    ok: bool = True
    failures: list[str] = field(default_factory=list)


class Shared:
    """What the threads of a run share.

    :param memory: placements that failed; handed in and out by the caller.
    """

    def __init__(self, clouds: dict[str, Cloud], *, current: Fleet, desired: FleetSpec, memory: Mapping[str, Mapping[str, Any]]) -> None:
        self.clouds = clouds
        self.current = current
        self.desired = desired
        self.memory: dict[str, dict[str, Any]] = {key: dict(value) for key, value in memory.items()}
        self._lock = threading.Lock()

    def rungs(self, slot: SlotSpec, now: float) -> tuple[list[Rung], list[str]]:
        """Return where a slot's server may be made; reads what a region offers at the first need."""
        with self._lock:
            missing = {place.region for place in slot.placements} - set(self.current.catalogues)
            for region in sorted(missing):
                catalogue = read_catalogue(self.clouds[region])
                self.current = replace(self.current, catalogues={**self.current.catalogues, region: catalogue})
            return rungs_for(slot, current=self.current, desired=self.desired, memory=self.memory, now=now)

    def networks(self, region: str) -> tuple[Named, ...]:
        """Return the networks of a region."""
        with self._lock:
            if region not in self.current.catalogues:
                catalogue = read_catalogue(self.clouds[region])
                self.current = replace(self.current, catalogues={**self.current.catalogues, region: catalogue})
            return self.current.catalogues[region].networks

    def praise(self, placement: Placement) -> None:
        """Forget that a placement failed: it works again."""
        with self._lock:
            self.memory.pop(placement.key, None)

    def demote(self, placement: Placement, *, reason: str, now: float) -> None:
        """Remember for a while that a placement failed."""
        with self._lock:
            self.memory[placement.key] = {"until": round(now + self.desired.demote_for), "reason": reason}


class GaveUp(CloudError):
    """No rung of the ladder held; the text has all reasons."""


class Ladder:
    """Does the work of one slot."""

    def __init__(self, work: Work, shared: Shared) -> None:
        self._work = work
        self._shared = shared
        self._desired = shared.desired
        self._name = work.slot.name
        self._failures: list[str] = []
        self._failed_at: list[Server] = []
        # What the cloud said about a start that it did not take.
        self._refusal = ""

    def run(self) -> Outcome:
        """Do the work; an error becomes the outcome's reason, so that other slots go on."""
        work = self._work
        done = Outcome(self._name, work.action, work.reason, work.server, ok=work.action != "blocked", failures=self._failures)
        try:
            self._clear(work.doomed)
            self._sweep()
            if work.action not in ("kept", "blocked"):
                done.action, done.server = self._bring_up()
                if done.action != work.action or self._failures:
                    done.reason = ". ".join([done.reason, *self._failures])
                done.server = self._complete(done.action, done.server)
                amiss = self._amiss(done.action, done.server)
                if amiss:
                    done.ok, done.reason = False, ". ".join([done.reason, amiss])
        except StackError as error:
            done.action, done.ok = "failed", False
            # What the ladder gave up with holds the earlier reasons already.
            done.reason = str(error) if isinstance(error, GaveUp) else ". ".join([work.reason, *self._failures, str(error)])
        return done

    def _bring_up(self) -> tuple[str, Server]:
        work = self._work
        if work.server is None:
            return self._climb(restore=work.restore, old=work.old)
        cloud = self._shared.clouds[work.server.region]
        if work.action == "started":
            self._refusal = self._act(cloud, work.server, START[work.server.status])
        server = work.server
        if work.action in ("started", "adopted"):
            server = wait_for(cloud, look_at(cloud, server), settled)
        return self._go_on_from(server)

    def _go_on_from(self, server: Server) -> tuple[str, Server]:
        """Go on from what a settled server turned out to be."""
        kind = kind_of(server)
        if kind == INTERRUPTED:
            return self._climb(restore=(server,), old=(server,))
        if kind == GONE:
            self._failures.append(f"the server {server.id} was deleted meanwhile")
            return self._climb(restore=(), old=())
        if kind == BROKEN:
            self._failures.append(f"the server {server.id} went into ERROR: {server.fault or 'no reason given'}")
            if has_run(server):
                return self._climb(restore=(), old=(server,))
            remove_server(self._shared.clouds[server.region], server)
            return self._climb(restore=(), old=())
        return self._work.action, server

    def _climb(self, *, restore: tuple[Server, ...], old: tuple[Server, ...]) -> tuple[str, Server]:
        for server in restore:
            try:
                return "switched" if self._work.action == "switched" else "restored", self._restore(server)
            except RungFailed as error:
                self._failures.append(str(error))
        if restore and self._work.slot.restore == "only":
            raise GaveUp(". ".join([f"{self._name} is to be restored and not made anew", self._work.reason, *self._failures]))
        old = tuple(server for server in old if kind_of(look_at(self._shared.clouds[server.region], server)) != GONE)
        old = self._free_address(old)
        rungs, problems = self._shared.rungs(self._work.slot, self._now())
        for rung in rungs:
            if any(rung.is_at(self._place(server)) for server in self._failed_at):
                self._shared.demote(rung.placement, reason=self._failures[0], now=self._now())
                continue
            try:
                return self._make(rung, old)
            except RungFailed as error:
                self._failures.append(f"{rung.placement.key}: {error}")
                self._shared.demote(rung.placement, reason=str(error), now=self._now())
        raise GaveUp(". ".join([f"No placement of {self._name} worked", self._work.reason, *self._failures, *problems]))

    def _now(self) -> float:
        return next(iter(self._shared.clouds.values())).watch.now()

    def _place(self, server: Server) -> tuple[str, str, str, bool]:
        return (server.region, server.zone, server.flavor, self._desired.profile.tag in server.tags)

    def _free_address(self, old: tuple[Server, ...]) -> tuple[Server, ...]:
        """Delete what holds the address its successor needs, where its loss is allowed."""
        if not old or not self._work.slot.keeps_address:
            return old
        if self._name not in self._desired.allow_data_loss:
            reason = f"A successor needs the address that {old[0].id} holds: name {self._name} in allow_data_loss to delete that one"
            raise GaveUp(". ".join([self._work.reason, *self._failures, reason]))
        self._clear(old, keep_ports=True)
        return ()

    def _clear(self, servers: tuple[Server, ...], *, keep_ports: bool = False) -> None:
        """Delete servers of the slot, and the ports that become free by it."""
        for server in servers:
            cloud = self._shared.clouds[server.region]
            held = [] if keep_ports else cloud.pages("network", "/ports", "ports", device_id=server.id)
            remove_server(cloud, server)
            for port in (parse_port(one, cloud.region, self._desired.fleet) for one in held):
                if port.slot == self._name:
                    remove_free_port(cloud, port.id)

    def _sweep(self) -> None:
        """Remove what an earlier run made and did not live to use."""
        for stray in self._work.strays:
            cloud = self._shared.clouds[stray.region]
            if isinstance(stray, FloatingIp):
                cloud.delete("network", f"/floatingips/{stray.id}")
            elif isinstance(stray, Volume):
                remove_volume(cloud, stray.id)
            else:
                remove_free_port(cloud, stray.id)

    def _make(self, rung: Rung, old: tuple[Server, ...]) -> tuple[str, Server]:
        action, server = Maker(self._work.slot, self._desired, self._shared.clouds).make(rung, old)
        self._shared.praise(rung.placement)
        if self._work.action == "succeeded":
            return self._work.action, server
        if self._name in self._desired.allow_data_loss:
            self._clear(old)
        return ("replaced" if action == "created" and self._work.old else action), server

    def _restore(self, server: Server) -> Server:
        """Bring an interrupted server back.

        :raises RungFailed: it stays interrupted.
        """
        cloud = self._shared.clouds[server.region]
        try:
            server = self._await_restore(cloud, server, refusal=self._act(cloud, server, "unshelve"))
        except RungFailed:
            self._failed_at.append(server)
            raise
        if kind_of(server) == GONE:
            raise RungFailed(f"the server {server.id} was deleted meanwhile")
        if kind_of(server) == BROKEN:
            raise RungFailed(f"the server {server.id} went into ERROR while it was restored: {server.fault or 'no reason given'}")
        return server

    def _act(self, cloud: Cloud, server: Server, action: str) -> str:
        """Ask for an action; return what the cloud says where it sees a conflict, for another run may have asked before."""
        try:
            cloud.send("compute", "POST", f"/servers/{server.id}/action", {action: None})
        except CloudError as error:
            if isinstance(error, OutOfTime) or error.status == 401:
                raise
            if error.status not in (404, 409) or error.quota:
                raise RungFailed(f"the server {server.id} does not {action.replace('os-', '')}: {error}") from error  # pylint: disable=bad-exception-cause
            return str(error)
        return ""

    def _await_restore(self, cloud: Cloud, server: Server, *, refusal: str) -> Server:
        """Wait for a restore; Nova gives one up for lack of room without a word: the server is shelved and idle again."""
        idle, delay = 0, 0.5
        with watching(cloud) as look:
            server = look(server)
            while kind_of(server) in (INTERRUPTED, SETTLING):
                # A whole fleet that asks twice a second would keep the cloud from its work.
                delay = min(1.5 * delay, _LONGEST_LOOK)
                if kind_of(server) == INTERRUPTED:
                    idle += 1
                    if idle >= _STILL_SHELVED or (not refusal and self._restore_failed(cloud, server)):
                        why = f"{server.id} cannot be restored: {refusal}" if refusal else f"there is no capacity to restore {server.id}"
                        raise RungFailed(f"{why}: it stays {server.status}")
                try:
                    cloud.watch.pause(delay)
                except OutOfTime as over:
                    raise OutOfTime(f"{over} while {server.id} was being restored ({server.status})") from over  # pylint: disable=bad-exception-cause
                server = look(server)
        return server

    @staticmethod
    def _restore_failed(cloud: Cloud, server: Server) -> bool:
        """Whether the newest restore of the server has ended with an error; not every cloud tells."""
        try:
            found = cloud.get("compute", f"/servers/{server.id}/os-instance-actions").get("instanceActions") or []
        except CloudError as error:
            if isinstance(error, OutOfTime) or error.status not in (403, 404):
                raise
            return False
        restores = sorted((one for one in found if one.get("action") == "unshelve"), key=lambda one: str(one.get("start_time")))
        return bool(restores) and restores[-1].get("message") == "Error"

    def _amiss(self, action: str, server: Server) -> str:
        """Return what is not as it should be with a server that was brought up, or an empty string."""
        # Whether it is what was asked for shows only now: it may be an older one of the slot, or have lost its tag on the way.
        alarm = lost_tag(server, self._desired)
        if alarm or action not in ("started", "restored") or kind_of(server) == RUNNING:
            return alarm
        return f"{server.id} was to run and is {server.status}" + (f": {self._refusal}" if self._refusal else "")

    def _complete(self, action: str, server: Server) -> Server:
        """Merge what has to be merged, and return the server as it is then."""
        cloud = self._shared.clouds[server.region]
        changes = self._work.changes
        if action in _NEW:
            # A new server has tags, metadata and security groups from the start; one of another run may lack some.
            marked = {volume.id for volume in self._shared.current.volumes if volume.used}
            used = tuple(volume for volume in server.volumes if volume not in marked)
            changes = replace(changes_of(server, self._name, current=self._shared.current, desired=self._desired), used=used)
        elif action in ("restored", "switched"):
            changes = changes_of(server, self._name, current=self._shared.current, desired=self._desired)
        if not changes.told:
            return server
        merge_into(cloud, server, changes, desired=self._desired, networks=self._shared.networks)
        return look_at(cloud, server)
