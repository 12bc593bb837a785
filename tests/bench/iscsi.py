# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run of iscsi_target costs that has nothing to do, over what reading the same configuration costs anyway."""

from __future__ import annotations

import json
import statistics
import subprocess
from pathlib import Path

from labkit.artifacts import prepare, python
from labkit.lab import Lab
from labkit.network import inside
from labkit.say import LabError, say
from measure import SHORT_RUNS, Figure, NotTaken

HERE = Path(__file__).resolve().parent
MACHINE = "storage1"
FOLDER = "/var/tmp/iscsi-bench"
WWN = "iqn.2026-01.lab.wiscsi:bench"
LUNS = 50
# The floor: a start of Python, and the library's own reading of all there is.
BARE = "import rtslib_fb; rtslib_fb.RTSRoot().dump()"


def iscsi_noop() -> Figure:
    """Time 50 LUNs and 1 initiator on the target itself: the module without anything to do, and one `targetcli ls`, in bare dumps."""
    lab = Lab()
    try:
        lab.up()
        prepare(lab.paths)
        return measured(lab)
    except LabError as error:
        raise NotTaken(str(error)) from error


def measured(lab: Lab) -> Figure:
    """Make the target, time it, and take it away again, on a lab that is up."""
    lab.ssh(MACHINE, f"rm -rf {FOLDER}; mkdir -p {FOLDER}")
    try:
        _module(lab, _target())
        payload = lab.ssh(MACHINE, f"find {FOLDER}/tmp -name AnsiballZ_iscsi_target.py").split()[0]
        seconds = _timed(lab, payload)
    finally:
        _module(lab, {"wwn": WWN, "state": "absent", "confirm": WWN})
        lab.ssh(MACHINE, f"rm -rf {FOLDER}")
    # Ratios of pairs, so medians: a bare dump alone takes from 1.5 to 2.1 s on an emulated machine.
    ours = statistics.median(run / bare for run, bare in zip(seconds["ours"], seconds["bare"]))
    peer = statistics.median(run / bare for run, bare in zip(seconds["peer"], seconds["bare"]))
    ratio = statistics.median(theirs / mine for theirs, mine in zip(seconds["peer"], seconds["ours"]))
    return Figure("iscsi_noop", "bare dumps", ours, peer, ratio, n=SHORT_RUNS, goal="at most 2.5", seconds=seconds)


def _target() -> dict[str, object]:
    luns = [
        {"lun": index, "name": f"bench{index}", "plugin": "fileio", "device": f"{FOLDER}/{index}.img", "size": "1MiB"}
        for index in range(LUNS)
    ]
    acl = {"initiator": "iqn.2026-01.lab.wiscsi:host", "userid": "host", "password": "lab-only-chap-secret"}
    return {"wwn": WWN, "portals": ["127.0.0.1:3269"], "luns": luns, "acls": [acl]}


def _module(lab: Lab, target: dict[str, object]) -> None:
    """Run the module through Ansible, which leaves what it ran on the target."""
    options = json.dumps({"targets": [target], "save_file": f"{FOLDER}/saveconfig.json"})
    inventory = lab.paths.state.parent / "inventories" / "lab"
    command = [*inside(lab.paths), str(python().with_name("ansible")), "-i", str(inventory), MACHINE]
    command += ["-m", "selfhosted.llm_stack.iscsi_target", "-a", options, "-e", f"ansible_remote_tmp={FOLDER}/tmp"]
    environment = {**lab.environment(), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_KEEP_REMOTE_FILES": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise NotTaken(f"iscsi_target failed: {' '.join((ended.stdout + ended.stderr).split()[-60:])}")


def _timed(lab: Lab, payload: str) -> dict[str, list[float]]:
    """Take the three in turn on the target, as often as a short run is taken."""
    peer = (HERE / "peers" / "iscsi_noop.sh").read_text(encoding="utf-8")
    commands = {"bare": ["python3", "-W", "ignore", "-c", BARE], "ours": ["python3", payload], "peer": ["sh", "-c", peer]}
    say(f"timing {LUNS} LUNs, {SHORT_RUNS} runs of each")
    timer = (HERE / "iscsi_times.py").read_text(encoding="utf-8")
    argv = f"python3 - {SHORT_RUNS} <<'PROGRAM'\n{timer}\nPROGRAM"
    lab.ssh(MACHINE, f"cat > {FOLDER}/commands.json", stdin=json.dumps(commands))
    told = lab.ssh(MACHINE, f"cd {FOLDER} && {argv}", seconds=3600)
    return {name: [float(second) for second in runs] for name, runs in json.loads(told).items()}
