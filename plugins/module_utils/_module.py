# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How every module ends: the same plan in check mode, one kind of error, one shape of result."""

from __future__ import annotations

from typing import Any, Callable, NoReturn

from ansible.module_utils.basic import AnsibleModule

from ._errors import StackError, StepFailed
from ._plan import Plan, Step


def conclude(
    module: AnsibleModule,
    *,
    make_plan: Callable[[], Plan],
    do: Callable[[Step], None],
    undo: Callable[[], None] | None = None,
    report: Callable[[], dict[str, Any]],
) -> NoReturn:
    """Plan, carry out unless in check mode, report, and leave the module.

    :param make_plan: reads the current state and plans.
    :param do: takes one step.
    :param undo: takes back what ``do`` did when a step fails, where that can be done.
    :param report: further results, read after the steps were taken.
    """
    plan = Plan()
    acted = False
    try:
        plan = make_plan()
        plan.raise_if_refused()
        if not module.check_mode:
            plan.carry_out(do, undo)
            acted = plan.changed
        found = report()
    except StepFailed as error:
        module.fail_json(msg=str(error), changed=bool(error.done), plan=plan.sentences, diff=plan.diff)
    except StackError as error:
        module.fail_json(msg=str(error), changed=acted, plan=plan.sentences, diff=plan.diff)
    for warning in plan.warnings:
        module.warn(warning)
    module.exit_json(changed=plan.changed, plan=plan.sentences, diff=plan.diff, warnings_planned=list(plan.warnings), **found)
    raise SystemExit  # exit_json has left by now; Ansible ships no types that say so
