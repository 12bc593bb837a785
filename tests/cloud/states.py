# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every state a server of a fleet can be found in, everything that can happen to it, and what must come of both.

The table is used twice: by test_states.py for our module, by the bench for ours and another.
"""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass
from typing import Any, Callable, Iterator, Mapping

from cloudkit.control import Control, Project
from cloudkit.fleet import IMAGE, LOCAL_FLAVOR, TAG

# A slot has the name of the state its server is brought into.
STATES = (
    "absent",
    "build",
    "active",
    "shutoff",
    "paused",
    "suspended",
    "rescue",
    "verify-resize",
    "shelved",
    "offloaded",
    "expired",
    "error",
    "failed",
)
INTERRUPTED = ("shelved", "offloaded", "expired")
STOPPED = ("shutoff", "paused", "suspended")
# Seconds a server takes to boot that has to be found in BUILD.
SLOW = 6.0
LARGER_FLAVOR = "SL1.2-4096-10"


@dataclass(frozen=True)
class Seen:
    """A server before and after a run, as the provider sees it; None where there is none."""

    before: Any
    after: Any
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """What must come of a state and an event.

    :param server: ``same`` (and its status as before), ``back`` (the same, running), ``new`` (another, running) or ``none``.
    :param ok: whether the run must call it well.
    :param reason: what the run must say otherwise.
    """

    server: str
    ok: bool = True
    reason: str = ""


KEPT = Wanted("same")
BACK = Wanted("back")
NEW = Wanted("new")


def _no(reason: str, server: str = "same") -> Wanted:
    return Wanted(server, ok=False, reason=reason)


def _usual() -> dict[str, Wanted]:
    """Where nothing else happens: the interrupted come back, the dead are replaced, what may be on purpose is left alone."""
    kept = ("active", *STOPPED, "rescue", "verify-resize")
    return {
        "absent": NEW,
        "build": BACK,
        **dict.fromkeys(kept, KEPT),
        **dict.fromkeys(INTERRUPTED, BACK),
        "error": NEW,
        "failed": NEW,
    }


# Event, then state.
WANTED: dict[str, dict[str, Wanted]] = {
    "create": _usual(),
    "re-run": dict.fromkeys(STATES, KEPT),
    "drop tags": {**dict.fromkeys(STATES, _no("lost the tag")), "absent": NEW, "error": NEW, "failed": NEW},
    "lost capacity": {
        **_usual(),
        **dict.fromkeys(("offloaded", "expired"), _no("no capacity")),
        # Nova starts one that is still on its host where it is, and asks no scheduler.
        "shelved": BACK,
        # A zone whose only host takes nothing is not there, says Nova.
        **dict.fromkeys(("absent", "failed"), _no("zone is not available", "none")),
        "error": _no("zone is not available"),
    },
    "quota": {**_usual(), **dict.fromkeys(("absent", "failed"), _no("Quota exceeded", "none")), "error": _no("Quota exceeded")},
    "crash": {**_usual(), **dict.fromkeys(("active", *STOPPED), BACK)},
    "lock": {**_usual(), **dict.fromkeys(INTERRUPTED, _no("locked")), "failed": _no("locked"), "error": _no("locked")},
    "deleted behind our back": dict.fromkeys(STATES, NEW),
}
EVENTS = tuple(WANTED)


def judge(wanted: Wanted, seen: Seen, *, meant: frozenset[str] = frozenset({TAG})) -> str:
    """Return what is wrong with the cloud after a run, or nothing."""
    before, after = seen.before, seen.after
    if seen.others:
        return f"the slot has further servers: {', '.join(seen.others)}"
    if wanted.server == "none" or after is None:
        return "" if (wanted.server == "none") is (after is None) else f"there is {after.status if after else 'no server'}"
    if (before is not None and before.id == after.id) is (wanted.server == "new"):
        return f"it is {'still the old' if wanted.server == 'new' else 'another'} server, in {after.status}"
    kept = wanted.server == "same"
    expected, tags = (before.status, set(before.tags)) if kept else ("ACTIVE", set(meant))
    # What was being made goes on by itself.
    if after.status != expected and (expected, after.status) != ("BUILD", "ACTIVE"):
        return f"it is {after.status} instead of {expected}"
    lost = tags - set(after.tags)
    return f"it lost the tags {', '.join(sorted(lost))}" if lost else ""


def marks(slot: str) -> dict[str, str]:
    """Return what our module writes on the servers of a fleet, as its documentation says; to others it means nothing."""
    return {"llm_stack": "ci", "llm_stack_slot": slot, "llm_stack_attempt": str(uuid.uuid4()), "llm_stack_preemptible": "true"}


class Stage:
    """Brings the servers of one project into their states and lets things happen to them.

    :param marks: the metadata that makes a server one of the fleet, by slot.
    """

    def __init__(self, control: Control, project: Project, *, marks: Callable[[str], dict[str, str]]) -> None:
        self.control = control
        self.project = project
        self.marks = marks
        self.expired: set[str] = set()
        self._owner = control.connect(project.name)
        flavors = {flavor.name: flavor.id for flavor in self._owner.compute.flavors()}
        self._flavor, self._larger = flavors[LOCAL_FLAVOR], flavors[LARGER_FLAVOR]
        self._image = self._owner.image.find_image(IMAGE).id
        self._network = self._owner.network.find_network("private").id

    def servers(self) -> dict[str, list[Any]]:
        """Return the project's servers by name, the oldest first."""
        found: dict[str, list[Any]] = {}
        for server in sorted(self.control.servers(self.project).values(), key=lambda one: (one.created_at, one.id)):
            found.setdefault(server.name, []).append(server)
        return found

    def seen(self, before: Mapping[str, list[Any]]) -> dict[str, Seen]:
        """Compare with what there was."""
        now = self.servers()
        return {state: self._seen(before.get(state, [None])[0], now.get(state, [])) for state in STATES}

    @staticmethod
    def _seen(old: Any, now: list[Any]) -> Seen:
        kept = next((one for one in now if old is not None and one.id == old.id), None)
        chosen = kept or (now[0] if now else None)
        return Seen(old, chosen, tuple(f"{one.id} {one.status}" for one in now if one is not chosen))

    @contextlib.contextmanager
    def happening(self, event: str) -> Iterator[dict[str, list[Any]]]:
        """Bring every server into its state and let the event happen around what follows; give the servers as they are then."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.control.slow("build", SLOW))
            if event != "re-run":
                tags = [] if event == "drop tags" else [TAG]
                there = self.servers()
                self.control.each(STATES, lambda state: self._arrange(state, there.get(state, []), tags))
                self.control.tidy(self.project)
            ids = {name: found[0].id for name, found in self.servers().items()}
            self.expired.clear()
            self.expired.add(ids["expired"])
            self._let_happen(event, ids, stack)
            yield self.servers()

    def _let_happen(self, event: str, ids: Mapping[str, str], stack: contextlib.ExitStack) -> None:
        if event == "lost capacity":
            stack.enter_context(self.control.no_capacity())
        elif event == "quota":
            # One less than there are: what is removed makes no room for another, whoever comes first.
            self.control.quota(self.project, instances=len(ids) - 1)
            stack.callback(self.control.quota, self.project, instances=40)
        elif event == "crash":
            self.control.crash(ids["active"])
        elif event == "lock":
            self.control.each(ids.values(), self.control.lock)
            stack.callback(lambda: self.control.each(ids.values(), self.control.unlock))
        elif event == "deleted behind our back":
            self.control.each(ids.values(), self.control.delete)

    def _arrange(self, state: str, there: list[Any], tags: list[str]) -> None:
        """Bring the server of one slot into its state."""
        begins_anew = state in ("absent", "build", "failed")
        # Of doubled ones, one is enough.
        self.control.each([server.id for server in (there if begins_anew else there[1:])], self.control.delete)
        if state == "build":
            self.control.await_task(self.make(state, tags), "spawning")
        elif state == "failed":
            with self.control.unbootable(state):
                self.control.await_status(self.make(state, tags), "ERROR")
        elif state != "absent":
            server = there[0].id if there else self.make(state, tags)
            self.control.wake(server)
            self.control.tag(server, *tags)
            self._enter(state, server)

    def make(self, name: str, tags: list[str]) -> str:
        """Make a server as an owner would, and return its id."""
        made = self._owner.compute.create_server(
            name=name,
            flavor_id=self._flavor,
            image_id=self._image,
            networks=[{"uuid": self._network}],
            availability_zone="zone-a",
            metadata=self.marks(name),
            tags=tags,
        )
        return str(made.id)

    def _enter(self, state: str, server: str) -> None:
        if state == "verify-resize":
            self.control.resize(server, self._larger)
        else:
            offloaded = state in ("offloaded", "expired")
            self.control.enter(server, "SHELVED_OFFLOADED" if offloaded else state.upper())


def expire(expired: set[str], body: Any) -> Any:
    """Show shelved servers as Selectel's own status, wherever they appear in an answer of Nova."""
    servers = body.get("servers") or [body.get("server", {})]
    for server in servers:
        if server.get("id") in expired and server.get("status") == "SHELVED_OFFLOADED":
            server["status"] = "EXPIRED"
    return body
