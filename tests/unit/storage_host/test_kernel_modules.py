# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kernels that lack a module: a stop with a sentence, or the package that brings it. One run of ansible-playbook for all."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
# Each of these programs of the host says what the environment holds for it.
MODINFO = '#!/bin/sh\nfor module in $MISSING; do echo "modinfo: ERROR: Module $module not found." >&2; done\ntest -z "$MISSING"\n'
APT_CACHE = '#!/bin/sh\ntest -n "$OFFERED"\n'
DPKG_QUERY = "#!/bin/sh\necho 'installed zfsutils-linux'\n"
DEBIAN = {
    "distribution": "Debian",
    "distribution_version": "13.1",
    "distribution_major_version": "13",
    "kernel": "6.12.48+deb13-cloud-amd64",
}
UBUNTU = {"distribution": "Ubuntu", "distribution_version": "24.04", "distribution_major_version": "24", "kernel": "6.8.0-85-generic"}
EXPORTS = [{"path": "/x", "clients": ["10.0.0.0/24"]}]
HOSTS: dict[str, dict[str, Any]] = {
    "whole": {"facts": DEBIAN, "missing": ""},
    "built": {"facts": DEBIAN, "missing": "zfs", "offered": "yes"},
    "packaged": {"facts": UBUNTU, "missing": "zfs", "offered": "yes"},
    "nowhere": {"facts": DEBIAN, "missing": "zfs"},
    "without_nfs": {"facts": DEBIAN, "missing": "zfs nfsd", "offered": "yes", "storage_host_nfs_exports": EXPORTS},
    "old": {"facts": {**DEBIAN, "distribution_major_version": "11"}, "missing": ""},
}
STOPS = {
    "nowhere": (
        "The running kernel 6.12.48+deb13-cloud-amd64 of nowhere has no ZFS module, and no package offers one; nothing was changed. On"
        " Debian add the component contrib to the APT sources and run apt-get update"
    ),
    "without_nfs": (
        "The running kernel 6.12.48+deb13-cloud-amd64 of without_nfs has no module nfsd; nothing was changed. Reboot if the"
        " kernel was upgraded"
    ),
    "old": "old runs Debian 11, which the role storage_host does not support; nothing was changed. Install Debian 12, Debian 13 or Ubuntu",
}
TASKS = [
    {"ansible.builtin.set_fact": {**{name: f"{{{{ facts.{name} }}}}" for name in DEBIAN}, "cacheable": True}},
    {"ansible.builtin.include_role": {"name": "selfhosted.llm_stack.storage_host", "tasks_from": "preflight", "public": True}},
    {
        "ansible.builtin.copy": {
            "content": "{{ __storage_host_packages_missing | to_json }}",
            "dest": "{{ place }}/{{ inventory_hostname }}.json",
        },
    },
]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The output with line breaks folded, and where the packages to install are written."""
    place = tmp_path_factory.mktemp("kernel")
    for name, script in (("modinfo", MODINFO), ("apt-cache", APT_CACHE), ("dpkg-query", DPKG_QUERY)):
        (place / name).write_text(script)
        (place / name).chmod(0o755)
    common = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "place": str(place), "offered": ""}
    (place / "hosts.json").write_text(json.dumps({"all": {"hosts": HOSTS, "vars": common}}))
    environment = {"PATH": f"{place}:{os.environ['PATH']}", "MISSING": "{{ missing }}", "OFFERED": "{{ offered }}"}
    play = {"hosts": "all", "gather_facts": False, "environment": environment, "tasks": TASKS}
    (place / "play.json").write_text(json.dumps([play]))
    settings = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build" / "collections"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_HOME": str(place / "home"),
        "COLUMNS": "200",
    }
    program = Path(sys.executable).with_name("ansible-playbook")
    ended = subprocess.run(
        [str(program), "-i", "hosts.json", "play.json"], cwd=place, env=settings, capture_output=True, text=True, check=False
    )
    return " ".join(ended.stdout.split()), place


@pytest.mark.parametrize("name", STOPS)
def test_a_kernel_or_release_that_cannot_serve_is_a_stop_with_a_remedy(ran: tuple[str, Path], name: str) -> None:
    output, place = ran
    assert STOPS[name] in output
    assert re.search(rf"{name} : ok=\d+ changed=0 unreachable=0 failed=1 ", output)
    assert not (place / f"{name}.json").exists()


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("whole", []),
        # The headers of this kernel, and those that come along with the next one.
        ("built", ["linux-headers-6.12.48+deb13-cloud-amd64", "zfs-dkms", "linux-headers-cloud-amd64"]),
        ("packaged", []),
    ],
)
def test_debian_builds_the_module_and_ubuntu_has_it_with_the_kernel(ran: tuple[str, Path], name: str, modules: list[str]) -> None:
    assert (ran[1] / f"{name}.json").exists(), ran[0]
    found = json.loads((ran[1] / f"{name}.json").read_text())
    assert {each for each in found if "zfs-dkms" in each or "headers" in each} == set(modules)
    assert "zfs-zed" in found and "zfsutils-linux" not in found
