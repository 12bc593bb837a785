# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A table of pools, each declared again unchanged and with one change: what zfs_pool and community.general.zpool make of it.

ZFS is the stand-in of the unit tests, which refuses what real ZFS refuses; both modules run as they are, and start its ``zpool``.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.community.general.plugins.modules import zpool
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import StackError
from labkit.say import say
from layouts import LAYOUTS, LINKS, Layout
from measure import Figure
from simulated_run import run, stand_in
from simulated_zpool import SimulatedZfs

# A module that runs with these options, and says whether it succeeded.
Keep = Callable[["Zpool", dict[str, Any]], bool]


class Zpool(SimulatedZfs):
    """The stand-in, as a program that is started and that can show the kernel's names."""

    def start(self, words: list[str]) -> tuple[int, str, str]:
        """Return status, output and errors of a command line."""
        words = [Path(words[0]).name, *words[1:]]
        if words[:2] == ["zpool", "list"]:
            return (0, "", "") if words[-1] in self.pools else (1, "", f"cannot open '{words[-1]}': no such pool")
        try:
            text = self.run(words).stdout
        except (StackError, AssertionError) as error:
            return 1, "", str(error)
        if "-L" in words:
            text = "\n".join(self._with_kernel_name(line) for line in text.splitlines())
        return 0, text, ""

    def _with_kernel_name(self, row: str) -> str:
        name = next(iter(row.split(maxsplit=1)), "")
        return row.replace(name, self.real(name), 1) if name.startswith("/") else row


def ours(zfs: Zpool, options: dict[str, Any]) -> bool:
    """Run zfs_pool."""
    try:
        run(zfs, options)
    except StackError as error:
        say(f"zfs_pool: {error}")
        return False
    return True


def theirs(zfs: Zpool, options: dict[str, Any]) -> bool:
    """Run the peer: it removes what is not declared, and takes devices that carry something when it is forced."""
    vdevs = [
        {"type": vdev.get("type", "stripe"), "disks": vdev["devices"], **({"role": vdev["class"]} if "class" in vdev else {})}
        for vdev in options["vdevs"]
    ]
    given = {"name": "tank", "vdevs": vdevs, "pool_properties": options.get("properties", {}), "force": bool(options.get("wipe"))}
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, patch_module_args(given), contextlib.redirect_stdout(said):
        patch.setattr(AnsibleModule, "get_bin_path", lambda self, name, *_more, **_options: f"/usr/sbin/{name}")
        patch.setattr(AnsibleModule, "run_command", lambda self, words, check_rc=False, **_more: _checked(self, zfs, words, check_rc))
        with contextlib.suppress(SystemExit):
            zpool.main()
    return not json.loads(said.getvalue()).get("failed")


def _checked(module: AnsibleModule, zfs: Zpool, words: list[str], check_rc: bool) -> tuple[int, str, str]:
    status, out, errors = zfs.start([str(word) for word in words])
    if status and check_rc:
        module.fail_json(msg=errors, rc=status)
    return status, out, errors


def bare(commands: Iterable[str]) -> Counter[str]:
    """Return commands without what is a matter of taste: forcing, and the sector size that the pool has anyway."""
    found = []
    for command in commands:
        words: Iterator[str] = iter(command.split())
        kept = [word for word in words if word != "-f" and not (word == "-o" and next(words))]
        found.append(" ".join(kept))
    return Counter(found)


def wrongs(keep: Keep, layout: Layout, *, wipes: bool) -> int:
    """Count unwanted commands, missing commands and wrong refusals of one layout.

    :param wipes: whether erasing is a command of its own.
    """
    with pytest.MonkeyPatch.context() as patch:
        zfs = Zpool(links=LINKS)
        stand_in(patch, zfs)
        declared = {"vdevs": layout.vdevs, "properties": layout.properties}
        wanted = bare(command for command in layout.commands if wipes or not command.startswith("wipe "))
        found = 0
        for options, commands in (
            (declared, Counter[str]()),
            ({**declared, "vdevs": layout.again or layout.vdevs}, Counter[str]()),
            ({**declared, **layout.then}, wanted),
        ):
            # Each run meets the pool as it was declared, whatever the one before made of it.
            zfs.pools.clear()
            zfs.carried.clear()
            run(zfs, declared)
            zfs.carried.update({zfs.real(path): "it carries ext4" for path in layout.then.get("wipe", ())})
            zfs.changes.clear()
            well = keep(zfs, options)
            done = bare(zfs.changes)
            found += (done - commands).total() + (commands - done).total() + (not well)
    return found


def zfs_pool_layouts() -> Figure:
    """Count what is wrong over the whole table."""
    own = sum(wrongs(ours, layout, wipes=True) for layout in LAYOUTS)
    peer = sum(wrongs(theirs, layout, wipes=False) for layout in LAYOUTS)
    return Figure("zfs_pool_layouts", "wrongs", own, peer, peer / own if own else None, n=len(LAYOUTS), goal="0")
