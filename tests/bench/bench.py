# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make bench`: one line a measurement, ``name<TAB>ours<TAB>peer<TAB>ratio<TAB>unit``, and all behind it in build/bench.json.

`make bench BENCH=NAME` takes one of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "build" / "collections"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "zfs"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))

from alerts import ALERT_FIGURES
from cloud import cloud_fleet_restore, cloud_states
from edge import edge_exclusion_s, edge_overhead, edge_rps, edge_silent_loss_failed
from iscsi import iscsi_noop
from labkit.artifacts import prepare, python
from labkit.config import REPO
from labkit.lab import Lab
from labkit.network import inside
from labkit.play import INVENTORY, SITE, read
from labkit.say import LabError, say
from measure import LONG_RUNS, Figure, NotTaken, report, timed
from month import month_availability, month_cost
from recover import recover_detect_s, recover_failed_requests, recover_noop, recover_overhead_replaced_s, recover_overhead_s
from swarm import swarm_noop
from zfs_dataset import zfs_dataset_first, zfs_dataset_noop
from zfs_layouts import zfs_pool_layouts


def ansible(lab: Lab, program: str, *argv: str) -> str:
    """Run a program of Ansible in the lab and return its output."""
    command = [*inside(lab.paths), str(python().with_name(program)), "-i", str(INVENTORY), *argv]
    environment = {**lab.environment(), "ANSIBLE_NOCOLOR": "1", "COLUMNS": "200"}
    ended = subprocess.run(command, cwd=REPO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if ended.returncode:
        raise NotTaken(f"`{program} {' '.join(argv)}` failed: {' '.join(ended.stdout.split()[-60:])}")
    return ended.stdout


def site(lab: Lab) -> int:
    """Run site.yml and return how much it changed."""
    return read(0, ansible(lab, "ansible-playbook", str(SITE))).changes


def site_noop() -> Figure:
    """Time a run that has nothing to do, in pings: the worst of three runs, each against a ping of the same hosts beside it."""
    lab = Lab()
    try:
        lab.up()
        prepare(lab.paths)
    except LabError as error:
        raise NotTaken(str(error)) from error
    changes = site(lab)
    say(f"site.yml brought the lab up to date with {changes} changes; measuring {LONG_RUNS} runs without any")
    seconds: dict[str, list[float]] = {"site": [], "ping": []}
    for run in range(LONG_RUNS):
        seconds["ping"].append(timed(lambda: ansible(lab, "ansible", "all", "-m", "ansible.builtin.ping")))
        seconds["site"].append(timed(lambda: _unchanged(lab)))
        say(f"run {run + 1} of {LONG_RUNS}: ping {seconds['ping'][-1]:.1f} s, site.yml {seconds['site'][-1]:.1f} s")
    worst = max(whole / ping for whole, ping in zip(seconds["site"], seconds["ping"]))
    return Figure("site_noop", "pings", worst, n=LONG_RUNS, goal="at most 60", seconds=seconds)


def _unchanged(lab: Lab) -> None:
    changes = site(lab)
    if changes:
        raise NotTaken(f"a run of site.yml that had nothing to do changed {changes} things")


def stream_cut_visible() -> Figure:
    """Count the cut streams a client sees, of 200; the peer is the balancer without the chat service."""
    for argv in ([sys.executable, "tests/tools/venvs.py", "--services"], [".venv-services/bin/python", "tests/services/cut_streams.py"]):
        ended = subprocess.run(argv, cwd=REPO, stdout=subprocess.PIPE, text=True, check=False)
        if ended.returncode:
            raise NotTaken(f"`{' '.join(argv)}` ended with status {ended.returncode}; what it said is above")
    seen = json.loads(ended.stdout)
    return Figure("stream_cut_visible", "streams", seen["ours"], seen["peer"], n=seen["streams"], goal="0 of at least 100")


FIGURES: list[Callable[[], Figure]] = [
    edge_silent_loss_failed,
    edge_exclusion_s,
    edge_overhead,
    edge_rps,
    stream_cut_visible,
    site_noop,
    swarm_noop,
    cloud_states,
    cloud_fleet_restore,
    zfs_pool_layouts,
    month_cost,
    month_availability,
    recover_detect_s,
    recover_overhead_s,
    recover_overhead_replaced_s,
    recover_failed_requests,
    recover_noop,
    zfs_dataset_first,
    zfs_dataset_noop,
    iscsi_noop,
    *ALERT_FIGURES,
]


def chosen(names: list[str]) -> list[Callable[[], Figure]]:
    """The figures of these names, or all. A name stands for a family too: ``alert_detection_s`` for that of every alert."""
    known = [take.__name__ for take in FIGURES]
    unknown = [name for name in names if not any(of_family(one, name) for one in known)]
    if unknown:
        sys.exit(f"bench: there is no figure {', '.join(unknown)} (there are: {', '.join(known)})")
    return [take for take in FIGURES if not names or any(of_family(take.__name__, name) for name in names)]


def of_family(figure: str, name: str) -> bool:
    """Whether a figure is the one of a name, or belongs to the family of that name."""
    return figure == name or figure.startswith(f"{name}_")


if __name__ == "__main__":
    sys.exit(report(chosen(sys.argv[1:])))
