# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules as Ansible runs them: their documented examples, and their answer to bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.selfhosted.llm_stack.plugins.modules import zfs_dataset, zfs_pool

COLLECTIONS = Path(__file__).resolve().parents[3] / "build" / "collections"
# Those of zfs_dataset follow one another: test_dataset_features.py carries them out on a simulated ZFS.
EXAMPLES = [("zfs_pool", task) for task in yaml.safe_load(zfs_pool.EXAMPLES)]
EXAMPLES.append(("zfs_dataset", yaml.safe_load(zfs_dataset.EXAMPLES)[0]))


# What the programs say where the kernel has no ZFS; they stand before a ZFS that this machine may have.
NO_MODULE = """#!/bin/sh
echo "The ZFS modules cannot be auto-loaded." >&2
exit 1
"""


def run(name: str, options: dict[str, Any], path: Path) -> dict[str, Any]:
    """Run a module in check mode on a machine whose kernel has no ZFS."""
    for program in ("zfs", "zpool"):
        path.joinpath(program).write_text(NO_MODULE, encoding="ascii")
        path.joinpath(program).chmod(0o755)
    search = os.pathsep.join([str(path), os.environ["PATH"]])
    arguments = json.dumps({"ANSIBLE_MODULE_ARGS": {**options, "_ansible_check_mode": True, "_ansible_diff": True}})
    ended = subprocess.run(
        [sys.executable, "-m", f"ansible_collections.selfhosted.llm_stack.plugins.modules.{name}"],
        input=arguments,
        capture_output=True,
        text=True,
        check=False,
        cwd=path,
        env={**os.environ, "PATH": search, "PYTHONPATH": os.pathsep.join([str(COLLECTIONS), *sys.path])},
    )
    return json.loads(ended.stdout)


@pytest.mark.parametrize(("name", "task"), EXAMPLES, ids=[f"{name}: {task['name']}" for name, task in EXAMPLES])
def test_examples_are_understood(name: str, task: dict[str, Any], tmp_path: Path) -> None:
    options = task[f"selfhosted.llm_stack.{name}"]
    if name == "zfs_pool":
        options["pending"] = [device for vdev in options.get("vdevs", []) for device in vdev["devices"]]
    result = run(name, options, tmp_path)
    if options.get("state") == "absent":
        assert (result.get("failed", False), result["changed"]) == (False, False), result
        return
    if name == "zfs_pool" and not options.get("vdevs"):
        assert "declare its vdevs to have it created or imported" in result["msg"]
        assert not result["changed"]
        return
    assert (result.get("failed", False), result["changed"]) == (False, True), result
    assert result["plan"]
    assert "kernel module cannot be loaded" in result["warnings_planned"][0]


BAD = [
    ("zfs_pool", {"name": "log"}, "The pool name 'log' is not one ZFS accepts"),
    ("zfs_pool", {"name": "llm", "vdevs": [{"devices": ["sda"]}]}, "'sda' is not an absolute path"),
    ("zfs_pool", {"name": "llm", "vdevs": [{"devices": ["/dev/nonsense"]}]}, "the device /dev/nonsense does not exist"),
    ("zfs_dataset", {"datasets": [{"name": "llm/a", "volsize": "1G"}]}, "File system llm/a has a volsize"),
    ("zfs_dataset", {"datasets": [{"name": "llm/a"}, {"name": "llm/a"}]}, "llm/a is listed twice"),
    ("zfs_dataset", {"datasets": [{"name": "llm/a", "type": "zvol"}]}, "value of type must be one of: filesystem, volume"),
]


@pytest.mark.parametrize(("name", "options", "text"), BAD)
def test_bad_input_changes_nothing(name: str, options: dict[str, Any], text: str, tmp_path: Path) -> None:
    result = run(name, options, tmp_path)
    assert result["failed"]
    assert text in result["msg"]
    assert not result.get("changed", False)
