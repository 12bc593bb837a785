# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attributes and parameters: when two spellings mean the same, and the steps that set what differs."""

from __future__ import annotations

from typing import Any, Mapping

from .draft import Draft

_NUMBERS = {"yes": "1", "no": "0", "true": "1", "false": "0"}


def same_setting(found: Any, value: str) -> bool:
    """Whether the kernel has the declared value: it keeps flags as numbers, and lists without blanks."""
    return _plain(str(found)) == _plain(value)


def _plain(text: str) -> str:
    bare = text.replace(" ", "").lower()
    return _NUMBERS.get(bare, bare)


def plan_settings(draft: Draft, where: object, kind: str, have: Mapping[str, Any], want: Mapping[str, str], address: Any) -> None:
    """Plan one step for each setting that differs.

    :param kind: ``attribute``, ``parameter`` or ``node_attribute``; the verb is ``set_`` and this.
    :param address: what the applier finds the node by.
    """
    for name, value in want.items():
        found = have.get(name)
        if found is None:
            draft.refuse(
                str(where),
                f"The {kind.replace('_', ' ')} {name} of {where} cannot be set: this kernel does not know it. Correct the name, or take it "
                "out.",
            )
        elif not same_setting(found, value):
            draft.add("set_" + kind, str(where), f"Set {name} of {where} to {value}: it is {found}", (address, name, value))
            draft.differs(where, name, found, value)
