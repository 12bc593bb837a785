# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules of this collection, sent to a machine once and run there without a connection of Ansible's for each."""

from __future__ import annotations

import base64
import io
import subprocess
import tarfile
from pathlib import Path

from .artifacts import python
from .config import REPO

MODULES = "ansible_collections.selfhosted.llm_stack.plugins.modules"


def program() -> str:
    """The module and what it imports of Ansible, as a tar archive in text."""
    find = "import ansible, pathlib; print(pathlib.Path(ansible.__file__).parent)"
    ansible = Path(subprocess.run([str(python()), "-c", find], capture_output=True, text=True, check=True).stdout.strip())
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("ansible/__init__.py"))
        for source, name in (
            (REPO / "plugins", "ansible_collections/selfhosted/llm_stack/plugins"),
            (ansible / "module_utils", "ansible/module_utils"),
            (ansible / "release.py", "ansible/release.py"),
        ):
            archive.add(source, name, filter=lambda each: None if "__pycache__" in each.name else each)
    return base64.b64encode(packed.getvalue()).decode()
