# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The records: one table, the same on SQLite and PostgreSQL."""

from __future__ import annotations

import time
from typing import Any, Iterator

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

META = sa.MetaData()
REQUESTS = sa.Table(
    "requests",
    META,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("at", sa.Float, nullable=False, index=True),
    sa.Column("key", sa.String(120), nullable=False),
    sa.Column("model", sa.String(200), nullable=False),
    sa.Column("route", sa.String(60), nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("error", sa.String(60), nullable=False),
    sa.Column("first_token_s", sa.Float),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("prompt_tokens", sa.Integer, nullable=False),
    sa.Column("completion_tokens", sa.Integer, nullable=False),
    sa.Column("continued", sa.Integer, nullable=False),
    sa.Column("prompt", sa.Text, nullable=False),
)
DAY = 86_400


class Database:
    """Records of requests.

    :param url: SQLAlchemy's URL.
    """

    def __init__(self, url: str) -> None:
        self.engine = sa.create_engine(url, pool_pre_ping=True)
        if self.engine.dialect.name == "sqlite":
            sa.event.listen(self.engine, "connect", _sqlite_settings)
        try:
            META.create_all(self.engine)
        except (IntegrityError, OperationalError, ProgrammingError):
            # Two replicas that start at once: the other one made the table meanwhile.
            META.create_all(self.engine)

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Add records; one that is there already is left as it is, so a batch may come twice."""
        dialect: Any = postgresql if self.engine.dialect.name == "postgresql" else sqlite
        with self.engine.begin() as connection:
            connection.execute(dialect.insert(REQUESTS).on_conflict_do_nothing(), rows)

    def since(self, begin: float) -> Iterator[dict[str, Any]]:
        """Records from a moment on, oldest first, without the text of questions; a few at a time, for a quarter's are many."""
        figures = [column for column in REQUESTS.columns if column is not REQUESTS.c.prompt]
        chosen = sa.select(*figures).where(REQUESTS.c.at >= begin).order_by(REQUESTS.c.at)
        with self.engine.connect().execution_options(yield_per=1_000) as connection:
            for row in connection.execute(chosen).mappings():
                yield {str(name): value for name, value in row.items()}

    def prompts(self, limit: int) -> list[sa.RowMapping]:
        """The newest questions, where their text was sent."""
        chosen = sa.select(REQUESTS).where(REQUESTS.c.prompt != "").order_by(REQUESTS.c.at.desc()).limit(limit)
        with self.engine.connect() as connection:
            return list(connection.execute(chosen).mappings())

    def forget(self, days: int) -> None:
        """Delete what is older than so many days."""
        with self.engine.begin() as connection:
            connection.execute(sa.delete(REQUESTS).where(REQUESTS.c.at < time.time() - days * DAY))

    def alive(self) -> bool:
        """Whether the database answers."""
        try:
            with self.engine.connect() as connection:
                connection.execute(sa.text("SELECT 1"))
        except OperationalError:
            return False
        return True


def _sqlite_settings(connection: Any, _record: Any) -> None:
    """Writers and readers do not wait for each other; a lost power supply loses the last moment, not the file."""
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=5000"):
        connection.execute(f"PRAGMA {pragma}")
