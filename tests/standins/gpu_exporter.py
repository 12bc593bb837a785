# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for nvidia_gpu_exporter, which needs a GPU and whose image cannot be pulled in the lab: one card, as that project's recordings.

A test makes the card hot or lets it fall off the bus by what it writes into /tmp/card of the container: ``{"temperature": 95}``,
``{"gone": true}``.
"""

from __future__ import annotations

import json
import socket
import uuid
from pathlib import Path

from exposition import serve

CARD = Path("/tmp/card")
UUID = str(uuid.uuid5(uuid.NAMESPACE_DNS, socket.gethostname()))
FIGURES = {
    "nvidia_smi_temperature_gpu": 59.0,
    "nvidia_smi_memory_total_bytes": 8.5520809984e10,
    "nvidia_smi_memory_used_bytes": 2.0780679168e10,
    "nvidia_smi_power_draw_watts": 631.95,
    "nvidia_smi_utilization_gpu_ratio": 1.0,
    "nvidia_smi_ecc_errors_uncorrected_volatile_total": 0.0,
}


def text() -> str:
    """Return what the exporter says now."""
    told = json.loads(CARD.read_text(encoding="utf-8")) if CARD.exists() else {}
    lines = ["nvidia_smi_failed_scrapes_total 0", "nvidia_smi_last_collect_success 1"]
    if not told.get("gone"):
        figures = {**FIGURES, "nvidia_smi_temperature_gpu": float(told.get("temperature", FIGURES["nvidia_smi_temperature_gpu"]))}
        lines += [f'{name}{{uuid="{UUID}"}} {value!r}' for name, value in figures.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    serve(9835, text)
