# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make demo`: the whole service on the lab, a question answered, and what runs where."""

from __future__ import annotations

import subprocess
import time
from typing import Callable

from . import network
from .artifacts import prepare, python
from .config import LAB, REPO
from .lab import Lab
from .say import LabError, say

INVENTORY = REPO / "inventories" / "lab"
EDGE_CERTIFICATE = "/etc/llm-stack/edge/tls.crt"
API_KEY = "lab-only-api-key"
QUESTION = "Which storage holds the models of this cluster?"


def demo(lab: Lab) -> int:
    """Run the five steps, each announced with the one that follows."""
    begin = time.monotonic()
    steps: tuple[tuple[str, Callable[[], object]], ...] = (
        ("bring the lab up", lab.up),
        ("prepare images and a model", lambda: prepare(lab.paths)),
        ("run playbooks/site.yml", lambda: site(lab)),
        ("ask a question through the edge", lambda: ask(lab)),
        ("show what runs where", lambda: show(lab)),
    )
    for number, (text, act) in enumerate(steps, 1):
        following = f"; next: {steps[number][0]}" if number < len(steps) else ""
        say(f"step {number} of {len(steps)}: {text}{following}")
        started = time.monotonic()
        act()
        say(f"step {number} of {len(steps)} took {time.monotonic() - started:.0f} s")
    say(f"demo complete in {time.monotonic() - begin:.0f} s; `make lab-down` ends the lab")
    return 0


def site(lab: Lab) -> None:
    """Run the site playbook as a user would."""
    playbook = [str(python().with_name("ansible-playbook")), "-i", str(INVENTORY), str(REPO / "playbooks" / "site.yml")]
    if lab.execute(playbook):
        raise LabError("site.yml failed; its last message is above.")


def ask(lab: Lab, question: str = QUESTION) -> None:
    """Ask, and print the answer as it streams."""
    certificate = lab.paths.state / "edge.crt"
    certificate.write_text(lab.ssh("manager1", f"cat {EDGE_CERTIFICATE}"))
    address = lab.get("manager1").spec.address
    print(f"\nQ: {question}\nA: ", end="", flush=True)
    argv = [*network.inside(lab.paths), str(python()), "-m", "labkit.ask", f"https://{address}", "tiny", str(certificate), question]
    ended = subprocess.run(argv, input=API_KEY + "\n", text=True, check=False, cwd=LAB, env=lab.environment())
    print("", flush=True)
    if ended.returncode:
        raise LabError("the question was not answered through the edge.")


def show(lab: Lab) -> None:
    """Print a table of what runs where, with its address."""
    rows = [("what", "where", "address")]
    addresses = {found.spec.name: found.spec.address for found in lab.machines()}
    storage = addresses["storage1"]
    rows += [
        ("pool llm (ZFS)", "storage1", storage),
        ("models over NFS", "storage1", f"{storage}:/llm/models"),
        ("models over HTTPS", "storage1", f"https://{storage}:8443/models/"),
        ("iSCSI target", "storage1", f"{storage}:3260"),
        ("registry", "manager1", f"https://{addresses['manager1']}:5000"),
    ]
    listing = lab.ssh("manager1", "docker stack ps llm --filter desired-state=running --format '{{.Name}} {{.Node}}'")
    for line in sorted(listing.splitlines()):
        task, node = line.split()
        public = f"https://{addresses[node]}" if "_edge." in task else "inside the cluster only"
        rows.append((task.rpartition(".")[0] if "_engine" not in task else task, node, public))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    print("", flush=True)
