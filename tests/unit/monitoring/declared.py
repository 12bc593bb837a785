# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The metrics that exporters declare, and those that queries name."""

from __future__ import annotations

import re
from pathlib import Path

from site_files import ROOT

RECORDED = Path(__file__).parent / "recorded"
USAGE = ROOT / "roles" / "llm_services" / "files" / "chat" / "rag_chat_api" / "usage.py"
# What Prometheus makes itself.
_PROMETHEUS = {"up", "ALERTS"}
# In the sources as names of a service, of the package itself, and as beginnings of names.
_NO_METRICS = {"llm_engine", "swarm_monitor", "llm_backup", "llm_restore_drill"}
_WORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "bool", "offset", "inf", "nan"}
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


def own_metrics() -> set[str]:
    """Names in the sources of the project's exporters; that these are what they say is tested beside them."""
    files = ROOT / "roles" / "monitoring" / "files"
    sources = [*(files / "exporters").glob("*.py"), *(files / "monitor" / "swarm_monitor").glob("*.py")]
    texts = "".join(path.read_text(encoding="utf-8") for path in sources)
    return set(re.findall(r'"((?:llm|zfs|swarm|ollama|iscsi)_[a-z_]+)"', texts)) - _NO_METRICS


def chat_metrics() -> set[str]:
    """What the chat service counts, with the suffixes Prometheus' client adds."""
    found = re.findall(r'(Counter|Gauge|Histogram)\("(\w+)"', USAGE.read_text(encoding="utf-8"))
    return {name + suffix for kind, name in found for suffix in _SUFFIXES[kind.lower()]}


def declared() -> set[str]:
    """Every metric some exporter gives."""
    files = RECORDED.glob("*.metrics")
    others = {line.split()[2] for path in files for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# TYPE")}
    return own_metrics() | chat_metrics() | others | _PROMETHEUS


def named(query: str) -> set[str]:
    """The metrics a query names."""
    bare = re.sub(r'"[^"]*"', "", query)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    return {word for word in re.findall(r"(?<![\w:])[a-zA-Z_:][\w:]*(?!\s*\(|[\w:])", bare) if word not in _WORDS}
