# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How wanted settings and GPUs are merged into an engine's configuration file. What others put there stays."""

from __future__ import annotations

from typing import Any

from .model import GPU_KIND, RESOURCES_KEY, Gpu


def merge_settings(current: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Merge `wanted` into `current`: dictionaries by key, lists by missing entries, None removes the key."""
    merged = dict(current)
    for key, value in wanted.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            inner = merged.get(key)
            merged[key] = merge_settings(inner if isinstance(inner, dict) else {}, value)
        elif isinstance(value, list) and isinstance(merged.get(key), list):
            merged[key] = merged[key] + [entry for entry in value if entry not in merged[key]]
        else:
            merged[key] = value
    return merged


def with_gpus(settings: dict[str, Any], gpus: tuple[Gpu, ...]) -> dict[str, Any]:
    """Advertise exactly these GPUs; resources of other kinds stay."""
    held = settings.get(RESOURCES_KEY)
    entries = [entry for entry in held if not str(entry).startswith(GPU_KIND + "=")] if isinstance(held, list) else []
    entries += [f"{GPU_KIND}={gpu.uuid}" for gpu in gpus]
    merged = {key: value for key, value in settings.items() if key != RESOURCES_KEY or entries}
    if entries:
        merged[RESOURCES_KEY] = entries
    return merged


def with_nvidia_runtime(settings: dict[str, Any]) -> dict[str, Any]:
    """Make the NVIDIA runtime the default, the only way a swarm task gets it; its own settings stay."""
    merged = dict(settings)
    runtimes = dict(merged.get("runtimes") or {})
    runtimes.setdefault("nvidia", {"path": "nvidia-container-runtime", "args": []})
    merged.update({"runtimes": runtimes, "default-runtime": "nvidia"})
    return merged


def differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the top-level keys whose values differ, in the order of the file."""
    keys = list(after) + [key for key in before if key not in after]
    missing = object()
    return [key for key in keys if before.get(key, missing) != after.get(key, missing)]
