# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the service is told by its environment. Secrets come as files, never as variables."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Mapping


@dataclass(frozen=True)
class Settings:
    """The service's settings.

    :param proxy: host and port of the read-only proxy before the engine's socket.
    :param database: file in which what was seen is kept.
    :param backups: name and port of the exporter that tells of a manager's backups, one on each manager; empty for none.
    :param storage: address and port of each storage host's exporter, by its name.
    :param password_hash: SHA-256, in hex, of the page's password; empty closes the page.
    :param every: seconds between two looks.
    :param fresh: seconds for which a look stands for the present.
    :param currency: what costs are in.
    """

    proxy: str = "socket_proxy:2375"
    database: str = "/data/monitor.sqlite"
    backups: str = ""
    storage: Mapping[str, str] = field(default_factory=dict)
    password_hash: str = ""
    every: float = 10.0
    fresh: float = 45.0
    port: int = 9779
    currency: str = ""


def from_environment(env: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    :raises OSError: when the password's file cannot be read.
    """
    env = os.environ if env is None else env
    usual = Settings()
    path = env.get("PASSWORD_HASH_FILE", "")
    pairs = (word.partition("=") for word in env.get("STORAGE", "").split())
    return Settings(
        proxy=env.get("DOCKER_PROXY", usual.proxy),
        database=env.get("DATABASE", usual.database),
        backups=env.get("BACKUPS", ""),
        storage={name: address for name, _equal, address in pairs},
        password_hash=Path(path).read_text(encoding="utf-8").strip().lower() if path else "",
        every=float(env.get("EVERY_S", usual.every)),
        fresh=float(env.get("FRESH_S", usual.fresh)),
        port=int(env.get("PORT", usual.port)),
        currency=env.get("CURRENCY", ""),
    )
