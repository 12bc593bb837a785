# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for cAdvisor, whose image cannot be pulled in the lab: processor, memory and network of the containers of its machine.

It reads what cAdvisor reads, at the places where the role mounts it: Docker's own notes of its containers, their control groups, and what
their network cards have sent. The figures are real; how much it costs to collect them says nothing of the real one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from exposition import serve

CONTAINERS, GROUPS, PROC = Path("/var/lib/docker/containers"), Path("/sys/fs/cgroup"), Path("/rootfs/proc")
LABEL = "com.docker.swarm.service.name"
# Control groups of the first version have a limit of almost 2**63 where there is none.
UNLIMITED = 2**62


def number(path: Path, *, field: str = "") -> float:
    """Return a number of a file, or of the line that begins with a word; 0 when it is not there."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    values = [line.split()[-1] for line in lines if line.split()[:1] == [field]] if field else lines[:1]
    return float(values[0]) if values and values[0].isdigit() else 0.0


def group(container: str, controller: str) -> Path:
    """Return the control group of a container, of either version and either driver."""
    for top in (GROUPS / controller, GROUPS):
        for pattern in (f"**/docker/{container}", f"**/docker-{container}.scope"):
            for found in top.glob(pattern):
                return found
    return GROUPS / "none"


def samples() -> Iterator[tuple[str, str, float]]:
    """Yield name, labels and value of each measurement."""
    for path in sorted(CONTAINERS.glob("*/config.v2.json")):
        told = json.loads(path.read_text(encoding="utf-8"))
        service, pid = (told["Config"].get("Labels") or {}).get(LABEL, ""), int(told["State"]["Pid"])
        if not pid:
            continue
        labels = f'container_label_com_docker_swarm_service_name="{service}",id="/docker/{told["ID"]}",name="{told["Name"].lstrip("/")}"'
        cpu, memory = group(told["ID"], "cpuacct"), group(told["ID"], "memory")
        used = number(cpu / "cpuacct.usage") / 1e9 or number(cpu / "cpu.stat", field="usage_usec") / 1e6
        taken = number(memory / "memory.usage_in_bytes") or number(memory / "memory.current")
        alone = number(memory / "memory.stat", field="total_rss") or number(memory / "memory.stat", field="anon")
        limit = number(memory / "memory.limit_in_bytes") or number(memory / "memory.max")
        yield "container_cpu_usage_seconds_total", labels + ',cpu="total"', used
        yield "container_memory_working_set_bytes", labels, taken
        yield "container_memory_rss", labels, alone
        # As cAdvisor says that there is none.
        yield "container_spec_memory_limit_bytes", labels, limit if limit <= UNLIMITED else 0.0
        try:
            cards = (PROC / str(pid) / "net" / "dev").read_text(encoding="utf-8").splitlines()[2:]
        except OSError:
            continue
        for card, counts in ((line.partition(":")[0].strip(), line.partition(":")[2].split()) for line in cards):
            yield "container_network_transmit_bytes_total", f'{labels},interface="{card}"', float(counts[8])


def text() -> str:
    """Return what the exporter says now."""
    return "".join(f"{name}{{{labels}}} {value!r}\n" for name, labels, value in sorted(samples()))


if __name__ == "__main__":
    serve(8080, text)
