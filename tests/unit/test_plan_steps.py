# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the steps of a plan are taken: in order, but for many that depend on nothing of each other."""

from __future__ import annotations

import threading
import time

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import StackError, StepFailed
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._plan import Plan, Step


def steps(count: int, group: str) -> list[Step]:
    return [Step("create", f"{group}{number}", f"Create {group}{number}", group=group) for number in range(count)]


def test_groups_are_taken_one_after_another() -> None:
    plan = Plan((*steps(10, "a"), *steps(1, ""), *steps(10, "b"), *steps(1, "")))
    taken: list[str] = []
    plan.carry_out(lambda step: taken.append(step.target))
    assert set(taken[:10]) == {f"a{number}" for number in range(10)}
    assert taken[10] == "0"
    assert set(taken[11:21]) == {f"b{number}" for number in range(10)}
    assert taken[21:] == ["0"]


def test_many_of_one_group_are_taken_four_at_a_time() -> None:
    four = threading.Barrier(4)
    Plan(tuple(steps(8, "a"))).carry_out(lambda step: void(four.wait(20)))


def test_few_are_taken_in_order() -> None:
    taken: list[str] = []
    Plan(tuple(steps(7, "a"))).carry_out(lambda step: taken.append(step.target))
    assert taken == [f"a{number}" for number in range(7)]


def test_after_a_failure_none_is_begun_and_each_is_named_as_it_is() -> None:
    taken: list[str] = []

    def do(step: Step) -> None:
        if step.target == "a3":
            raise StackError("out of space")
        # Time for the failure to be seen, however busy the machine is.
        time.sleep(0.2)
        taken.append(step.sentence)

    plan = Plan((*steps(1, ""), *steps(30, "a"), *steps(1, "")))
    with pytest.raises(StepFailed) as caught:
        plan.carry_out(do)
    failed = caught.value
    assert failed.failed == "Create a3"
    assert set(failed.done) == set(taken)
    assert {*failed.done, failed.failed, *failed.left} == set(plan.sentences)
    assert len(failed.done) + 1 + len(failed.left) == len(plan.sentences)
    # The others that were under way ended; some of the next may have been begun.
    assert len(failed.left) > 10


def test_an_error_that_is_no_failure_of_a_step_is_not_lost() -> None:
    def do(step: Step) -> None:
        if step.target == "a3":
            raise OSError("cannot fork")

    with pytest.raises(OSError, match="cannot fork"):
        Plan(tuple(steps(30, "a"))).carry_out(do)


def void(_value: object) -> None:
    """Nothing."""
