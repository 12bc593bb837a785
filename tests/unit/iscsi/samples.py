# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of iSCSI share: recorded states, declarations, and a run of the module over the library that stands in."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi import read
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._iscsi.model import Device
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._module import conclude
from ansible_collections.selfhosted.llm_stack.plugins.modules import iscsi_target
from fake_rtslib import Library

RECORDED = Path(__file__).parent / "recorded"
WWN = "iqn.2026-01.lab.llm:storage1"
INITIATOR = "iqn.2026-01.lab.llm:gpu1"
OTHER = "iqn.2026-01.lab.llm:gpu2"
DEVICE = "/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_P4510-part2"
SERIAL = "5ac82454-e5c6-5743-8c3f-4d3b416266fb"
PASSWORD = "lab-only-chap-secret"
# How every secret of these tests begins.
SECRETS = "lab-only-"


def recorded(name: str) -> dict[str, Any]:
    """What rtslib wrote on a real kernel."""
    return dict(json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8")))


DUMP = recorded("rtslib_2_1_76_saveconfig")


def option(**changes: Any) -> dict[str, Any]:
    """The target of the recorded dump, as declared, with changes."""
    target: dict[str, Any] = {
        "wwn": WWN,
        "portals": ["10.77.0.11:3260"],
        "luns": [{"lun": 0, "name": "disk0", "device": DEVICE}],
        "acls": [{"initiator": INITIATOR, "userid": "gpu1", "password": PASSWORD}],
    }
    return {**target, **changes}


def acl(**changes: Any) -> dict[str, Any]:
    """The initiator of the recorded dump, as declared, with changes."""
    return {"initiator": INITIATOR, "userid": "gpu1", "password": PASSWORD, **changes}


def lun(**changes: Any) -> dict[str, Any]:
    """The disk of the recorded dump, as declared, with changes."""
    return {"lun": 0, "name": "disk0", "device": DEVICE, **changes}


def altered(path: str, value: Any, dump: dict[str, Any] | None = None) -> dict[str, Any]:
    """The recorded dump with one value replaced: ``targets.0.tpgs.0.enable``."""
    changed = copy.deepcopy(DUMP if dump is None else dump)
    *folders, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    here: Any = changed
    for key in folders:
        here = here[key]
    here[last] = value
    return changed


def canonical(value: Any) -> Any:
    """The same whatever the order of lists, and without who would be asked at discovery when nobody is."""
    if isinstance(value, dict):
        return {key: canonical(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return sorted((canonical(entry) for entry in value), key=lambda entry: json.dumps(entry, sort_keys=True))
    return value


class Left(Exception):
    """The module has left."""


class Module:
    """Stands in for AnsibleModule after it has checked the types of its options."""

    def __init__(self, params: dict[str, Any], *, check_mode: bool) -> None:
        self.params = {"discovery_auth": None, "pending": None, **params}
        self.check_mode = check_mode
        self.warnings: list[str] = []
        self.result: dict[str, Any] = {}

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)

    def exit_json(self, **result: Any) -> NoReturn:
        self.result = {"failed": False, **result}
        raise Left

    def fail_json(self, **result: Any) -> NoReturn:
        self.result = {"failed": True, **result}
        raise Left


@dataclass
class Host:
    """A host of which only the library stands in: its files are real.

    :ivar folder: where its files are.
    """

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    @property
    def saved(self) -> Path:
        """The saved file."""
        return self.folder / "save" / "saveconfig.json"

    def run(self, library: Library, params: dict[str, Any], *, check_mode: bool = False) -> dict[str, Any]:
        """Run the module and return its result."""
        self.monkeypatch.setattr(iscsi_target, "load_rtslib", lambda: library)
        self.monkeypatch.setattr(iscsi_target, "read_device", device)
        self.monkeypatch.setattr(read, "CONFIGFS", str(self.folder))
        module = Module({**params, "save_file": str(self.saved)}, check_mode=check_mode)
        session = iscsi_target.Session(module)
        with pytest.raises(Left):
            conclude(module, make_plan=session.make_plan, do=session.do, undo=session.undo, report=session.report)
        return {**module.result, "warned": module.warnings}

    def save(self, dump: dict[str, Any]) -> None:
        """Put a configuration into the saved file."""
        self.saved.parent.mkdir(exist_ok=True)
        self.saved.write_text(json.dumps(dump), encoding="utf-8")


def device(path: str) -> Device:
    """Every block device exists and is free; files are what they are."""
    if path.startswith("/dev/"):
        return Device(path, exists=True, real=path)
    return read.read_device(path)
