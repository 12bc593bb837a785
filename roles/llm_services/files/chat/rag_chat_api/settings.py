# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the service is told by its environment. Secrets come as files, never as variables."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping

MIB = 1024 * 1024


@dataclass(frozen=True)
class Settings:
    """The service's settings.

    :param llm_url: where engines are reached, through the balancer.
    :param model: the model of those who name none.
    :param embeddings: ``minilm``, or ``ollama:NAME`` for a model the engines serve.
    :param continue_cut: whether a stream cut after its first token goes on elsewhere.
    :param heartbeat_s: seconds of silence after which a stream shows that it lives.
    :param first_token_s: longest wait for an engine's first token before another is asked.
    :param silence_s: longest silence between two tokens before the stream counts as cut.
    :param patience_s: how long another engine is looked for, once one was lost.
    :param widget_domains: sites that may embed the widget; none turns it off.
    :param widget_daily: answers the widget gives a day (UTC) in this replica.
    :param log_prompts: whether the analytics get the text of questions.
    :param threads: how many requests gunicorn works on at a time.
    """

    llm_url: str = "http://balancer:8080"
    model: str = ""
    chroma_url: str = "http://chroma:8000"
    embeddings: str = "minilm"
    analytics_url: str = ""
    analytics_token: str = ""
    continue_cut: bool = True
    heartbeat_s: float = 15.0
    first_token_s: float = 120.0
    silence_s: float = 30.0
    patience_s: float = 60.0
    widget_domains: tuple[str, ...] = ()
    widget_daily: int = 200
    widget_collection: str = ""
    log_prompts: bool = False
    upload_bytes: int = 20 * MIB
    status_port: int = 9004
    threads: int = 128


def _flag(text: str) -> bool:
    return text.strip().lower() in ("1", "true", "yes", "on")


def _secret(path: str) -> str:
    return Path(path).read_text(encoding="utf-8").strip() if path else ""


def from_environment(env: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    :raises ValueError: when a number is none.
    :raises OSError: when a secret's file cannot be read.
    """
    env = os.environ if env is None else env
    usual = Settings()
    return Settings(
        llm_url=env.get("LLM_URL", usual.llm_url).rstrip("/"),
        model=env.get("LLM_MODEL", usual.model),
        chroma_url=env.get("CHROMA_URL", usual.chroma_url).rstrip("/"),
        embeddings=env.get("EMBEDDINGS", usual.embeddings),
        analytics_url=env.get("ANALYTICS_URL", usual.analytics_url).rstrip("/"),
        analytics_token=_secret(env.get("ANALYTICS_TOKEN_FILE", "")),
        continue_cut=_flag(env.get("CONTINUE_CUT_STREAMS", "1")),
        heartbeat_s=float(env.get("HEARTBEAT_S", usual.heartbeat_s)),
        first_token_s=float(env.get("FIRST_TOKEN_S", usual.first_token_s)),
        silence_s=float(env.get("SILENCE_S", usual.silence_s)),
        patience_s=float(env.get("PATIENCE_S", usual.patience_s)),
        widget_domains=tuple(filter(None, env.get("WIDGET_DOMAINS", "").lower().split(","))),
        widget_daily=int(env.get("WIDGET_DAILY", usual.widget_daily)),
        widget_collection=env.get("WIDGET_COLLECTION", ""),
        log_prompts=_flag(env.get("LOG_PROMPTS", "")),
        upload_bytes=int(env.get("UPLOAD_BYTES", usual.upload_bytes)),
        status_port=int(env.get("STATUS_PORT", usual.status_port)),
        threads=int(env.get("THREADS", usual.threads)),
    )
