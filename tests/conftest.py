# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the checkout importable as the collection it is, wherever it was cloned."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLLECTIONS = ROOT / "build" / "collections"


def link_collection() -> Path:
    """Link the checkout below build/collections under its collection name, and return that path."""
    link = COLLECTIONS / "ansible_collections" / "selfhosted" / "llm_stack"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(ROOT, target_is_directory=True)
    return COLLECTIONS


sys.path[:0] = [str(link_collection()), str(ROOT / "tests" / "tools")]
