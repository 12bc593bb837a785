#!/usr/bin/python
# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock and the notes that runs over a fleet share."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_state
short_description: The lock and the notes that runs over a fleet share
version_added: "0.1.0"
description:
  - Keeps, in the labels of the Swarm config C(llm-stack-state), who may act on the fleet, which placements failed or are interrupted too
    often, and what was spent today. AWX, Semaphore and a shell share them, wherever they run.
  - Every write names the version that was read, so of two runs at once one has the lock and the other is told who that is.
  - The lock ends by itself after O(seconds), so a run that was killed holds nobody up for longer. Times are those of this machine; always
    run the module on the same manager.
  - Other labels of the config stay.
author:
  - The selfhosted.llm_stack contributors (@selfhosted)
requirements:
  - Docker SDK for Python (python3-docker)
extends_documentation_fragment:
  - selfhosted.llm_stack.attributes.manager
attributes:
  check_mode:
    description: Can run in check mode and tell whether the lock could be had; nothing is written.
    support: full
  diff_mode:
    description: Returns no diff; the state is what runs remember, not what a person declares.
    support: none
options:
  state:
    description:
      - V(held) takes the lock, or with O(token) keeps it for longer and writes O(notes).
      - V(released) writes O(notes), if they are given, and gives the lock up. A lock that is not ours any more is left alone.
      - V(read) reads.
    type: str
    choices: [held, released, read]
    default: read
  owner:
    description: Who holds the lock, for a person. Needed with O(state=held).
    type: str
    default: ""
  token:
    description:
      - What RV(token) returned when the lock was taken. With it, a lock that another run has taken since is an error and nothing is
        written. One that ran out and that nobody took is taken up again, for nobody has acted in between.
      - Without it, a lock that another run holds is no error; see RV(held).
    type: str
    default: ""
  seconds:
    description: For how long the lock is held from now on.
    type: float
    default: 1800
  notes:
    description: What to leave for the next run, as M(selfhosted.llm_stack.fleet_recovery) returned it. Needs O(token).
    type: dict
  require_swarm:
    description:
      - V(false) is for a playbook that may run before there is a swarm. Where this host has no Docker SDK, its engine does not answer, or
        is no manager, nobody can hold the lock, so RV(held) is V(true) with an empty RV(token). A manager without a quorum is an error all
        the same.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Take the lock of the fleet for half an hour
  selfhosted.llm_stack.fleet_state:
    state: held
    owner: admin on controller1
    seconds: 1800
  register: lock

- name: Give it up
  selfhosted.llm_stack.fleet_state:
    state: released
    token: "{{ lock.token }}"
  when: lock.held
"""

RETURN = r"""
held:
  description: Whether this run holds the lock now; in check mode, whether it could.
  returned: success
  type: bool
token:
  description:
    - What the holder hands back; empty when the lock is not held, or when there is no swarm to hold it in. It guards against mistakes and
      is no secret.
  returned: success
  type: str
holder:
  description: Who holds the lock; empty when nobody does.
  returned: success, and when the lock was lost
  type: str
lock_lost:
  description: That the lock of O(token) is another's by now, or nobody's. Whatever was still to be done is for the next run.
  returned: when that is why it failed
  type: bool
until:
  description: When the lock ends, in seconds since 1970; 0 when nobody holds it.
  returned: success
  type: float
notes:
  description: What the last run left.
  returned: success
  type: dict
"""

import contextlib
import secrets
import time
from typing import Any, Mapping

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import BadInput, StackError
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.state import (
    Lock,
    LockLost,
    State,
    StateError,
    notes_of,
    released,
    require_held,
    taken,
    values_of,
)
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._recover.store import Store, connect, is_no_manager
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._swarm.client import EngineError


def argument_spec() -> dict[str, Any]:
    """Return the module's options."""
    return {
        "state": {"type": "str", "choices": ["held", "released", "read"], "default": "read"},
        "owner": {"type": "str", "default": ""},
        # It guards against mistakes; whoever can read the state can write it too.
        "token": {"type": "str", "default": "", "no_log": False},
        "seconds": {"type": "float", "default": 1800},
        "notes": {"type": "dict"},
        "require_swarm": {"type": "bool", "default": True},
    }


def change_of(params: Mapping[str, Any], *, token: str, now: float, state: State) -> State:
    """Return the state after the change that is asked for.

    :param token: what the holder will be known by.
    :raises StateError: the lock that the caller says it has is not its own.
    """
    if params["token"] and params["state"] == "held":
        require_held(state, token=token)
    ours = state.lock is not None and state.lock.token == token
    if params["notes"] is not None and ours:
        try:
            state = State(state.lock, notes_of(params["notes"]), state.others)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StateError(f"notes is not what fleet_recovery returned ({error}): hand that over as it is.") from error
    if params["state"] == "released":
        return released(state, token=token)
    return taken(state, owner=params["owner"], token=token, now=now, seconds=params["seconds"])


def check(params: Mapping[str, Any]) -> None:
    """Refuse options that cannot work.

    :raises BadInput: with what to write instead.
    """
    if params["state"] == "held" and not params["owner"].strip():
        raise BadInput("owner is empty: say who holds the lock, so that others know whom to ask.")
    if not 1 <= params["seconds"] <= 86400:
        raise BadInput(f"seconds is {params['seconds']:g}: give a number from 1 to 86400.")
    if (params["notes"] is not None or params["state"] == "released") and not params["token"]:
        raise BadInput("token is empty: only the holder of the lock writes notes and gives the lock up. Take it with state: held first.")


def report(lock: Lock | None, state: State, *, token: str, now: float) -> dict[str, Any]:
    """Return what the module returns."""
    held = lock is not None and lock.token == token and not lock.is_over(now)
    over = lock is None or lock.is_over(now)
    return {
        "held": held,
        "token": token if held else "",
        "holder": "" if over or lock is None else lock.owner,
        "until": 0.0 if over or lock is None else lock.until,
        "notes": values_of(state.notes),
    }


def change(store: Store, params: Mapping[str, Any], *, token: str, now: float) -> State:
    """Change the state.

    :raises StackError: as `Store.change`; a lock that was taken all the same is given up, for nobody would know its token.
    """
    try:
        return store.change(lambda state: change_of(params, token=token, now=now, state=state))
    except EngineError:
        if not params["token"]:
            with contextlib.suppress(EngineError):
                store.change(lambda state: released(state, token=token))
        raise


def run(params: Mapping[str, Any], *, store: Store, check_mode: bool, now: float) -> dict[str, Any]:
    """Do what is asked for and return the module's result."""
    check(params)
    before = store.read()
    token = params["token"] or secrets.token_hex(8)
    if params["state"] == "read":
        return {"changed": False, **report(before.lock, before, token=token, now=now)}
    after = change_of(params, token=token, now=now, state=before) if check_mode else change(store, params, token=token, now=now)
    # Holding a lock changes nothing of what is declared.
    return {"changed": False, **report(after.lock, after, token=token, now=now)}


def act(params: Mapping[str, Any], *, check_mode: bool, now: float) -> dict[str, Any]:
    """Do what is asked for; where there is no swarm yet and none is required, nobody can be in the way.

    :raises StackError: as `run`; or there is no manager here.
    """
    check(params)
    try:
        store = connect()
    except EngineError:
        if params["require_swarm"]:
            raise
        return without_swarm()
    try:
        return run(params, store=store, check_mode=check_mode, now=now)
    except EngineError as error:
        if params["require_swarm"] or not is_no_manager(error):
            raise
        return without_swarm()


def without_swarm() -> dict[str, Any]:
    """Return what the module returns where no lock can be held by anybody."""
    return {"changed": False, **report(None, State(), token="", now=0.0), "held": True}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    try:
        found = act(module.params, check_mode=module.check_mode, now=time.time())
    except LockLost as error:
        module.fail_json(msg=str(error), lock_lost=True, holder=error.holder)
    except StackError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**found)


if __name__ == "__main__":
    main()
