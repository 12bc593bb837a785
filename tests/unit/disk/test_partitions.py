# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Partitions: options, reader on recorded output, planner as tables, applier with a runner that fails at every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Sequence

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._disk.partitions import (
    REST,
    Disk,
    Partition,
    State,
    Table,
    format_size,
    parse_disks,
)
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._disk.partitions_apply import Applier, script
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._disk.partitions_plan import matches, plan
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._disk.partitions_read import parse_table, read_table
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._disk.probe import BlockDevice
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import BadInput, CommandFailed, StepFailed
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._plan import Plan
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._run import Completed, Runner

RECORDED = Path(__file__).parent / "recorded"
DEVICE = "/dev/disk/by-id/nvme-P4510"
GIB = 1 << 30
GPT = parse_table((RECORDED / "sfdisk_2_41_gpt.json").read_text(encoding="utf-8"))


def option(*partitions: tuple[str, str], device: str = DEVICE) -> dict[str, Any]:
    chosen = partitions or (("special", "4GiB"), ("l2arc", "rest"))
    return {"device": device, "partitions": [{"name": name, "size": size} for name, size in chosen]}


def disk(table: Table | None = None, contents: Sequence[str] = (), **more: Any) -> State:
    device = BlockDevice(path=DEVICE, real="/dev/nvme1n1", kind=more.pop("kind", "disk"), size=8 * GIB, **more)
    return State({DEVICE: Disk(device, table, tuple(contents))})


def planned(state: State, *, wipe: Sequence[str] = (), partitions: Sequence[tuple[str, str]] = ()) -> Plan:
    return plan(state, parse_disks([option(*partitions)]), wipe)


def test_the_recorded_table_is_what_was_declared() -> None:
    assert GPT.partitions == (Partition("special", 4 * GIB), Partition("l2arc", 8384512 * 512))
    assert GPT.slack == (16777182 + 1 - 8390656 - 8384512) * 512
    made = planned(disk(GPT))
    assert (made.steps, made.refusals, made.before) == ((), (), {})


def test_a_declared_table_is_left_alone_although_it_may_be_wiped() -> None:
    assert planned(disk(GPT, busy=True), wipe=[DEVICE]).steps == ()


def test_an_empty_disk_is_partitioned() -> None:
    made = planned(disk())
    assert made.sentences == [f"Partition {DEVICE} into special (4GiB), l2arc (rest)"]
    assert made.before == {DEVICE: "empty"}
    assert made.after == {DEVICE: "gpt with special (4GiB), l2arc (rest)"}


@pytest.mark.parametrize("name", [DEVICE, "/dev/nvme1n1"])
def test_wipe_names_a_disk_by_any_of_its_paths(name: str) -> None:
    made = planned(disk(None, ["it carries ext4 named precious"]), wipe=[name])
    assert [step.action for step in made.steps] == ["wipe", "partition"]
    assert made.sentences[0] == f"Erase {DEVICE}: it carries ext4 named precious"


OTHER = [
    pytest.param(Table("gpt", (Partition("special", 4 * GIB),)), id="one less"),
    pytest.param(Table("gpt", (Partition("special", 4 * GIB), Partition("x", GIB)), slack=0), id="another name"),
    pytest.param(Table("gpt", (Partition("special", 3 * GIB), Partition("l2arc", GIB)), slack=0), id="another size"),
    pytest.param(Table("gpt", (Partition("special", 4 * GIB), Partition("l2arc", GIB)), slack=3 * GIB), id="the rest is not taken"),
    pytest.param(Table("gpt", (Partition("l2arc", 4 * GIB), Partition("special", 4 * GIB)), slack=0), id="another order"),
    pytest.param(Table("dos", (Partition("special", 4 * GIB), Partition("l2arc", GIB)), slack=0), id="no gpt"),
    pytest.param(None, id="none"),
]


@pytest.mark.parametrize("table", OTHER)
def test_other_tables_differ(table: Table | None) -> None:
    assert not matches(table, parse_disks([option()])[0].partitions)


REFUSED: dict[str, tuple[State, Sequence[str], str]] = {
    "no such disk": (
        disk(kind="missing"),
        (),
        (
            f"The disk {DEVICE} does not exist on this host. Correct its name under partitions (ls -l /dev/disk/by-id lists what is "
            "there), or attach it."
        ),
    ),
    "a partition": (disk(kind="part"), (), f"{DEVICE} is a part, and only whole disks are partitioned. Name the disk."),
    "read-only": (disk(read_only=True), (), f"The disk {DEVICE} is read-only. Unlock it, or name another."),
    "a file system": (
        disk(None, ["it carries ext4 named precious"]),
        (),
        (
            f"Refusing to partition {DEVICE}: it carries ext4 named precious. Declare the partitions it has, name another disk, or list "
            f"{DEVICE} under wipe to destroy what is on it."
        ),
    ),
    "another table": (
        disk(Table("gpt", (Partition("data", 8 * GIB),)), ["it has a partition table (gpt)"]),
        (),
        (
            f"Refusing to partition {DEVICE}: it has a partition table (gpt) (found gpt with data (8GiB); "
            "declared gpt with special (4GiB), l2arc (rest))."
        ),
    ),
    "in use, even when it may be wiped": (
        disk(Table("gpt", (Partition("data", 8 * GIB),)), ["it has a partition table (gpt)"], mountpoints=("/srv",)),
        [DEVICE],
        f"Refusing to partition {DEVICE}: it is mounted on /srv",
    ),
    "a table that cannot be read": (
        disk(Table("unreadable", ()), []),
        (),
        f"Refusing to partition {DEVICE}: it has a partition table that cannot be read.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_what_why_and_what_next(name: str) -> None:
    state, wipe, sentence = REFUSED[name]
    made = planned(state, wipe=wipe)
    assert made.steps == ()
    (refusal,) = made.refusals
    assert refusal.reason.startswith(sentence)
    assert refusal.reason.endswith(".")


def test_one_disk_by_two_names_is_refused_even_when_it_may_be_wiped() -> None:
    both = [DEVICE, f"{DEVICE}-too"]
    found = State({name: disk().disks[DEVICE] for name in both})
    wanted = parse_disks([{"device": name, "partitions": [{"name": "data", "size": "rest"}]} for name in both])
    made = plan(found, wanted, both)
    assert [refusal.reason for refusal in made.refusals] == [
        f"{DEVICE} and {DEVICE}-too are the same disk. Declare it once, with all its partitions."
    ]


def test_partitions_that_do_not_fit_are_refused() -> None:
    (refusal,) = planned(disk(), partitions=[("a", "7GiB"), ("b", "1GiB")]).refusals
    assert refusal.reason == f"The partitions declared for {DEVICE} need 8194MiB with the tables, and it has 8GiB. Declare smaller ones."


BAD: dict[str, tuple[list[dict[str, Any]], str]] = {
    "a kernel name": ([option(device="/dev/sdb")], "The disk /dev/sdb is named by a path that may change from boot to boot."),
    "a disk twice": ([option(), option()], f"The disk {DEVICE} is declared 2 times in disks."),
    "a name twice": ([option(("a", "1GiB"), ("a", "rest"))], f"The disk {DEVICE} declares the partition a 2 times. Name each apart."),
    "no partitions": ([{"device": DEVICE, "partitions": []}], f"The disk {DEVICE} declares no partitions."),
    "the rest first": ([option(("a", "rest"), ("b", "1GiB"))], f"Only the last partition of {DEVICE} can take the rest of the disk."),
    "a quote in a name": ([option(('a"', "rest"))], "may hold letters, digits and . _ - only, at most 36 of them."),
    "a size in GB": ([option(("a", "8GB"))], "The size '8GB' of partition a of"),
    "no size": ([option(("a", "0GiB"))], "is not understood. Write whole MiB, GiB or TiB, such as 8GiB, or rest."),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options_are_named(name: str) -> None:
    declared, sentence = BAD[name]
    with pytest.raises(BadInput) as caught:
        parse_disks(declared)
    assert sentence in str(caught.value)


def test_sizes_are_written_as_they_are_declared() -> None:
    assert [format_size(size) for size in (REST, GIB, 1536 << 20, 2048 * GIB, 5)] == ["rest", "1GiB", "1536MiB", "2TiB", "5 bytes"]


def test_the_script_leaves_alignment_to_sfdisk() -> None:
    (wanted,) = parse_disks([option()])
    assert script(wanted) == (
        'label: gpt\nsize=4096MiB, type=6A898CC3-1DD2-11B2-99A6-080020736631, name="special"\n'
        'type=6A898CC3-1DD2-11B2-99A6-080020736631, name="l2arc"\n'
    )
    assert wanted.paths == (f"{DEVICE}-part1", f"{DEVICE}-part2")


class Tools(Runner):
    """Notes commands, and fails at the chosen one."""

    def __init__(self, *, fail_at: int = 0, answer: Completed | None = None) -> None:
        super().__init__()
        self.calls: list[tuple[str, ...]] = []
        self.fail_at = fail_at
        self.answer = answer or Completed(0, "", "")

    def has(self, program: str) -> bool:
        return program != "zpool"

    def run(self, argv: Sequence[str], *, stdin: str | None = None, ok: Sequence[int] = (0,)) -> Completed:
        self.calls.append(tuple(argv))
        if len(self.calls) == self.fail_at:
            raise CommandFailed(tuple(argv), 1, "it broke")
        return self.answer


EMPTY_DISK = Completed(1, "", "sfdisk: /dev/vdb: does not contain a recognized partition table")
BROKEN = Completed(1, "", "sfdisk: cannot open /dev/vdb: Input/output error")


def test_a_disk_without_a_table_has_none() -> None:
    assert read_table(Tools(answer=EMPTY_DISK), DEVICE) is None
    assert read_table(Tools(answer=BROKEN), DEVICE) == Table("unreadable", ())


def test_wiping_and_partitioning_take_these_commands() -> None:
    tools = Tools()
    made = planned(disk(None, ["it carries ext4"]), wipe=[DEVICE])
    made.carry_out(Applier(tools, exists=lambda path: True).do)
    programs = list(dict.fromkeys(call[0] for call in tools.calls))
    assert programs == ["wipefs", "udevadm", "sfdisk"]
    assert tools.calls[-3] == ("sfdisk", "--wipe", "always", "--wipe-partitions", "always", DEVICE)


@pytest.mark.parametrize("back", range(1, 9))
def test_a_failure_at_any_command_is_told(back: int) -> None:
    made = planned(disk(None, ["it carries ext4"]), wipe=[DEVICE])
    whole = Tools()
    made.carry_out(Applier(whole, exists=lambda path: True).do)
    tools = Tools(fail_at=max(1, len(whole.calls) + 1 - back))
    with pytest.raises(StepFailed) as caught:
        made.carry_out(Applier(tools, exists=lambda path: True).do)
    assert "it broke" in str(caught.value)
    assert len(tools.calls) == tools.fail_at
    assert caught.value.done == (tuple(made.sentences[:1]) if back <= 4 else ())


def test_a_disk_that_got_something_since_it_was_planned_is_left_alone() -> None:
    tools = Tools(answer=Completed(0, '{"signatures": [{"type": "ext4", "label": "home"}]}', ""))
    with pytest.raises(StepFailed, match="since the plan was made it changed: it carries ext4 named home") as caught:
        planned(disk()).carry_out(Applier(tools, exists=lambda path: True).do)
    assert (caught.value.done, [call[0] for call in tools.calls]) == ((), ["wipefs"])


def test_links_that_do_not_appear_are_named() -> None:
    with pytest.raises(StepFailed) as caught:
        planned(disk()).carry_out(Applier(Tools(), exists=lambda path: not path.endswith("part2")).do)
    assert f"udev made no {DEVICE}-part2" in str(caught.value)
