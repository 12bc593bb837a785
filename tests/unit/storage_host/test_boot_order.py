# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The targets are restored at boot when their disks are there, and not much later when they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

TEMPLATE = Path(__file__).resolve().parents[3] / "roles" / "storage_host" / "templates" / "targetctl.conf.j2"


def rendered(targets: list[dict[str, Any]]) -> list[str]:
    # As Ansible renders templates.
    environment = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(storage_host_iscsi_targets=targets).splitlines()


def test_the_service_waits_for_each_declared_device_once_and_not_for_ever() -> None:
    disk = {"device": "/dev/zvol/llm/vm/disk0"}
    other = {"device": "/dev/disk/by-id/a%b", "plugin": "block"}
    file = {"device": "/srv/a.img", "plugin": "fileio"}
    lines = rendered([{"luns": [disk, file]}, {"luns": [disk, other]}, {"wwn": "iqn.2026-01.lab:old", "state": "absent"}])
    assert "After=zfs-volumes.target zfs-mount.service" in lines
    assert lines[-1] == "ExecStartPre=-/usr/bin/udevadm wait --timeout=120 /dev/zvol/llm/vm/disk0 /dev/disk/by-id/a%%b"
    assert lines[-3] == "[Service]"


def test_without_devices_there_is_nothing_to_wait_for() -> None:
    assert not [line for line in rendered([{"luns": [{"device": "/srv/a.img"}]}]) if line.startswith("ExecStartPre")]
