# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One change of a stack at a time."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any, ClassVar, Sequence

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import StackError
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._run import Completed, Runner
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._stack.lock import lock_path, take
from ansible_collections.selfhosted.llm_stack.plugins.modules import swarm_stack


def test_a_second_run_waits_for_the_first(tmp_path: Path) -> None:
    first = take("llm", place=tmp_path)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            os.close(first)

    os.close(take("llm", place=tmp_path, sleep=sleep))
    assert len(pauses) == 3


def test_one_that_waits_too_long_says_for_whom(tmp_path: Path) -> None:
    first = take("llm", place=tmp_path)
    moments = iter((0.0, 5.0, 20.0))
    with pytest.raises(StackError) as raised:
        take("llm", seconds=10, place=tmp_path, clock=lambda: next(moments), sleep=lambda _seconds: None)
    assert str(raised.value) == (
        f"Stack llm has been changed by another program of this machine for 10 s (`fuser -v {lock_path('llm', tmp_path)}` names it). "
        "It may be the renewal of its certificate. Nothing was changed. Wait for its end and run again."
    )
    os.close(first)


def test_another_stack_and_what_a_killed_run_held_are_free(tmp_path: Path) -> None:
    os.close(take("llm", place=tmp_path))
    held = [take(stack, place=tmp_path, seconds=0) for stack in ("llm", "monitoring")]
    for each in held:
        os.close(each)


@pytest.mark.parametrize(("check", "wanted"), [(False, True), (True, False)])
def test_the_module_holds_it_as_long_as_it_looks_and_changes(tmp_path: Path, monkeypatch: Any, check: bool, wanted: bool) -> None:
    seen: list[bool] = []

    class Docker(Runner):
        def run(self, argv: Sequence[str], *, stdin: str | None = None, ok: Sequence[int] = (0,)) -> Completed:
            try:
                os.close(take("llm", place=tmp_path, seconds=0))
                seen.append(False)
            except StackError:
                seen.append(True)
            return Completed(0, "true" if argv[1] == "info" else "", "")

    class Module:
        params: ClassVar[dict[str, Any]] = {
            "name": "llm",
            "compose": {},
            "configs": [{"name": "a", "content": "b"}],
            "secrets": [],
            "registry_auth": False,
            "wait": 0,
        }
        check_mode = check

        def __init__(self, **_options: Any) -> None: ...

        def exit_json(self, **result: Any) -> None:
            assert [sentence.rpartition("_")[0] for sentence in result["plan"]] == ["Create config llm_a"]

    monkeypatch.setattr(swarm_stack, "Runner", Docker)
    monkeypatch.setattr(swarm_stack, "AnsibleModule", Module)
    monkeypatch.setattr(swarm_stack, "take", functools.partial(take, place=tmp_path))
    with pytest.raises(SystemExit):
        swarm_stack.main()
    assert len(seen) > 2
    assert set(seen) == {wanted}
    os.close(take("llm", place=tmp_path, seconds=0))
