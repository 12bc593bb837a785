# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the service is told by its environment. Secrets come as files, never as variables."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping


@dataclass(frozen=True)
class Settings:
    """The service's settings.

    :param database: SQLAlchemy's URL.
    :param token: what the chat service shows when it sends records.
    :param password_hash: SHA-256, in hex, of the page's password; empty closes the page.
    :param keep_days: how long records are kept.
    """

    database: str = "sqlite:////data/analytics.sqlite"
    token: str = ""
    password_hash: str = ""
    keep_days: int = 400


def _secret(path: str) -> str:
    return Path(path).read_text(encoding="utf-8").strip() if path else ""


def from_environment(env: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    :raises OSError: when a secret's file cannot be read.
    """
    env = os.environ if env is None else env
    usual = Settings()
    database = _secret(env.get("DATABASE_URL_FILE", "")) or usual.database
    # SQLAlchemy names the driver; people write what psql takes.
    for scheme in ("postgres://", "postgresql://"):
        if database.startswith(scheme):
            database = f"postgresql+psycopg://{database[len(scheme) :]}"
    return Settings(
        database=database,
        token=_secret(env.get("ANALYTICS_TOKEN_FILE", "")),
        password_hash=_secret(env.get("PASSWORD_HASH_FILE", "")).lower(),
        keep_days=int(env.get("KEEP_DAYS", usual.keep_days)),
    )
