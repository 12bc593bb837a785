# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state machine: what every status of Nova means for a server of a fleet."""

from __future__ import annotations

from .model import Server

RUNNING = "running"
SETTLING = "settling"
STOPPED = "stopped"
LEFT_ALONE = "left alone"
INTERRUPTED = "interrupted"
BROKEN = "broken"
GONE = "gone"
UNKNOWN = "unknown"

# https://docs.openstack.org/api-guide/compute/server_concepts.html, and EXPIRED, which Selectel adds.
KINDS = {
    "ACTIVE": RUNNING,
    "PASSWORD": RUNNING,
    "VERIFY_RESIZE": RUNNING,
    "BUILD": SETTLING,
    "REBOOT": SETTLING,
    "HARD_REBOOT": SETTLING,
    "REBUILD": SETTLING,
    "MIGRATING": SETTLING,
    "RESIZE": SETTLING,
    "REVERT_RESIZE": SETTLING,
    "SHUTOFF": STOPPED,
    "PAUSED": STOPPED,
    "SUSPENDED": STOPPED,
    "RESCUE": LEFT_ALONE,
    "SHELVED": INTERRUPTED,
    "SHELVED_OFFLOADED": INTERRUPTED,
    "EXPIRED": INTERRUPTED,
    "ERROR": BROKEN,
    "DELETED": GONE,
    "SOFT_DELETED": GONE,
    "UNKNOWN": UNKNOWN,
}

# What brings a stopped server back, as the server action of the API.
START = {"SHUTOFF": "os-start", "PAUSED": "unpause", "SUSPENDED": "resume"}
# Nova answers 409 to tag and metadata writes in any other state.
WRITABLE = ("ACTIVE", "PAUSED", "SUSPENDED", "SHUTOFF")
ALIVE = (RUNNING, SETTLING, STOPPED, LEFT_ALONE, UNKNOWN)


def kind_of(server: Server) -> str:
    """Return what the server's status and running task mean.

    A task under way (unshelving, shelving, powering on) is waited for before anything is decided.
    """
    kind = KINDS.get(server.status, UNKNOWN)
    if server.task_state == "deleting":
        return GONE
    return SETTLING if server.task_state and kind in (RUNNING, STOPPED, INTERRUPTED) else kind


def has_run(server: Server) -> bool:
    """Whether it ever ran, and so may hold data."""
    return server.launched_at is not None
