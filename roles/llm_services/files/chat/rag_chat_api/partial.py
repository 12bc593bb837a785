# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a client has seen of an answer, and how another engine is asked for the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .events import Chunk, Json

# An answer bound to a form cannot be picked up in its middle: the engine's grammar would begin anew.
_BOUND = ("tools", "functions", "format", "grammar", "json_schema", "logprobs")
_REASONING = {"reasoning_content", "reasoning"}


def can_continue(body: Json) -> bool:
    """Whether the rest of a cut answer to this request can come from another engine."""
    if any(body.get(name) for name in _BOUND) or body.get("n", 1) not in (1, None):
        return False
    form = body.get("response_format")
    return not isinstance(form, dict) or form.get("type", "text") == "text"


@dataclass
class Partial:
    """The part of an answer that has been sent.

    :param tokens: pieces sent; engines send one token in each.
    :param thought: whether a part was reasoning, which is not the answer and cannot be resent.
    :param roles: choices whose role was said.
    """

    text: str = ""
    tokens: int = 0
    thought: bool = False
    finished: bool = False
    calls: bool = False
    rounds: int = 0
    roles: set[int] = field(default_factory=set)
    resent: int = 0
    head: Json = field(default_factory=dict)

    @property
    def begun(self) -> bool:
        """Whether the client has seen a token. A role or a heartbeat is none."""
        return bool(self.text or self.thought or self.calls)

    def request(self, body: Json) -> Json:
        """The request for the rest: the partial text becomes the assistant's turn, its tokens count against the limit."""
        if not self.text:
            return body
        turns, begun = list(body["messages"]), self.text
        # An answer that the client began itself is one turn with what has come since: engines refuse two.
        if turns[-1].get("role") == "assistant" and isinstance(turns[-1].get("content"), str):
            begun = turns.pop()["content"] + begun
        asked = {**body, "messages": [*turns, {"role": "assistant", "content": begun}]}
        for name in ("max_tokens", "max_completion_tokens"):
            if isinstance(body.get(name), int):
                asked[name] = max(1, body[name] - self.tokens)
        return asked

    def exhausted(self, body: Json) -> bool:
        """Whether the token limit was reached by what has been sent already."""
        limits = [body[name] for name in ("max_tokens", "max_completion_tokens") if isinstance(body.get(name), int) and body[name] > 0]
        return bool(limits) and self.tokens >= min(limits)

    def end(self, reason: str) -> Chunk:
        """A last piece for an answer whose engine could not send it."""
        self.finished = True
        return Chunk({**self.head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})

    def take(self, body: Json) -> Chunk:
        """Take one piece of an engine and return it as the client shall see it: one identity, one role, whichever engine sends."""
        if not self.head:
            self.head = {name: body[name] for name in ("id", "object", "created", "model") if name in body}
        shown = {**body, **self.head}
        usage = body.get("usage") if isinstance(body.get("usage"), dict) else None
        if usage and self.rounds:
            usage = self._whole(usage)
            shown["usage"] = usage
        choices = body.get("choices") or []
        fresh = [self._fresh(choice) for choice in choices]
        if choices:
            shown["choices"] = fresh
        text = "".join(self._choice(choice) for choice in choices)
        ends = any(choice.get("finish_reason") for choice in choices)
        tells = any(any((choice.get("delta") or {}).values()) for choice in fresh)
        again = self.rounds > 0 or fresh != choices
        return Chunk(shown, text, usage, bool(text or usage or ends or tells or not again))

    def _fresh(self, choice: Json) -> Json:
        """A choice without what was said before: the role, which Ollama says in every piece, and a second engine's reasoning."""
        delta = choice.get("delta")
        if not delta:
            return choice
        known = {"role"} if self.rounds or choice.get("index", 0) in self.roles else set()
        if self.rounds:
            known |= _REASONING
        return {**choice, "delta": {name: value for name, value in delta.items() if name not in known}}

    def _choice(self, choice: Json) -> str:
        delta = choice.get("delta") or {}
        text = delta.get("content") or ""
        if delta.get("role"):
            self.roles.add(choice.get("index", 0))
        self.finished = self.finished or bool(choice.get("finish_reason"))
        self.calls = self.calls or bool(delta.get("tool_calls") or delta.get("function_call"))
        self.thought = self.thought or any(delta.get(name) for name in _REASONING)
        if text:
            self.text += text
            self.tokens += 1
        return str(text)

    def _whole(self, usage: Json) -> Json:
        """The tokens of the whole answer: what was resent is no part of the question."""
        counted: dict[str, Any] = dict(usage)
        counted["prompt_tokens"] = max(0, int(usage.get("prompt_tokens") or 0) - self.resent)
        counted["completion_tokens"] = int(usage.get("completion_tokens") or 0) + self.resent
        return counted

    def next_round(self) -> None:
        """Another engine is asked."""
        self.rounds += 1
        self.resent = self.tokens
