# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a process that was killed inside the library left half made.

The library makes a LUN, a mapping or a backstore by a folder first and what is in it second. A folder alone offers nothing and holds
nothing, but the library reads no configuration that has one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Iterable


def half_made(configfs: str) -> list[Path]:
    """Return the folders that were left, those of initiators before those of LUNs before backstores, as they have to go."""
    root = Path(configfs)
    mapped = [path for path in root.glob("iscsi/*/tpgt_*/acls/*/lun_*") if _unlinked(path)]
    luns = [path for path in root.glob("iscsi/*/tpgt_*/lun/lun_*") if _unlinked(path)]
    return sorted(mapped) + sorted(luns) + sorted(path for path in root.glob("core/*_*/*") if _unconfigured(path))


def sweep(left: Iterable[Path]) -> None:
    """Remove such folders.

    :raises OSError: when the kernel holds on to one.
    """
    for path in left:
        path.rmdir()


def _unlinked(path: Path) -> bool:
    return path.is_dir() and not any(entry.is_symlink() for entry in path.iterdir())


def _unconfigured(path: Path) -> bool:
    state = path / "enable"
    return state.is_file() and state.read_text(encoding="ascii").strip() == "0"
