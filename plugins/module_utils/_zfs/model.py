# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What pools and datasets share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Mapping

from .._errors import BadInput
from .values import as_text

_PROPERTY = re.compile(r"(?!-)[^\s,=]+")


@dataclass(frozen=True)
class Value:
    """A property as found; the source is ``local``, ``default``, ``received``, ``inherited from x`` or ``-``."""

    text: str
    source: str


def texts(properties: Mapping[str, Any]) -> dict[str, str]:
    """Properties as ZFS spells them."""
    for name in properties:
        if not _PROPERTY.fullmatch(str(name)):
            raise BadInput(f"{name!r} is not the name of a ZFS property.")
    return {str(name): as_text(str(name), value) for name, value in properties.items()}
