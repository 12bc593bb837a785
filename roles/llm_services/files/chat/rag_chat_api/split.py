# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cuts a document's text into passages that the embedding model can take in whole."""

from __future__ import annotations

import re

# MiniLM reads 256 tokens, about a thousand characters of English.
PASSAGE = 900
_SENTENCE = re.compile(r"(?<=[.!?;:])\s+|\n+")


def passages(text: str, limit: int = PASSAGE) -> list[str]:
    """Return passages of at most ``limit`` characters, cut between paragraphs where possible, then sentences, then words.

    Nothing but blank space between passages is lost.
    """
    made: list[str] = []
    for piece in _pieces(text.replace("\r\n", "\n").replace("\x00", ""), limit):
        if made and len(made[-1]) + len(piece) + 2 <= limit:
            made[-1] += f"\n\n{piece}"
        else:
            made.append(piece)
    return made


def _pieces(text: str, limit: int) -> list[str]:
    pieces: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        whole = paragraph.strip()
        if len(whole) <= limit:
            pieces += [whole] if whole else []
        else:
            pieces += _packed([part for sentence in _SENTENCE.split(whole) for part in _words(sentence.strip(), limit)], limit)
    return pieces


def _packed(parts: list[str], limit: int) -> list[str]:
    """Join neighbours as long as they fit."""
    packed: list[str] = []
    for part in filter(None, parts):
        if packed and len(packed[-1]) + len(part) + 1 <= limit:
            packed[-1] += f" {part}"
        else:
            packed.append(part)
    return packed


def _words(sentence: str, limit: int) -> list[str]:
    """A sentence, cut between words where it is too long, and inside a word that is."""
    if len(sentence) <= limit:
        return [sentence]
    words = [word[at : at + limit] for word in sentence.split() for at in range(0, len(word), limit)]
    return _packed(words, limit)
