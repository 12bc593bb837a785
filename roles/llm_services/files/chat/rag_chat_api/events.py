# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens while an engine answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Union

Json = dict[str, Any]


@dataclass(frozen=True)
class Chunk:
    """A piece of the answer in OpenAI's form, as the client shall see it.

    :param text: the part of the answer in it.
    :param usage: tokens, where the engine counted them.
    """

    body: Json
    text: str = ""
    usage: Json | None = None
    visible: bool = True


@dataclass(frozen=True)
class Lost:
    """The engine vanished after its first token; another is being looked for."""

    engine: str


@dataclass(frozen=True)
class Continued:
    """Another engine goes on where the lost one stopped."""

    lost: str
    engine: str
    after_tokens: int


@dataclass(frozen=True)
class Failed:
    """The end without an answer, or without the rest of it.

    :param status: the HTTP status, if nothing has been sent yet.
    """

    status: int
    message: str
    kind: str = "api_error"
    code: str = ""
    retry_after: int = 0

    @property
    def body(self) -> Json:
        """The failure as OpenAI's API words it."""
        return {"error": {"message": self.message, "type": self.kind, "param": None, "code": self.code or None}}


@dataclass(frozen=True)
class Done:
    """The answer is whole."""

    engine: str


@dataclass(frozen=True)
class Quiet:
    """Nothing happened for as long as a heartbeat takes."""


Event = Union[Chunk, Lost, Continued, Failed, Done, Quiet]
