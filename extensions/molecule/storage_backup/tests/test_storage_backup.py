# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups as they are after the role ran: a timer, an archive, a drill, a restore that overwrites nothing."""

from __future__ import annotations

import json
from typing import Any

PROGRAM = "/usr/local/lib/llm-stack/llm-backup"


def test_timers_run_and_the_passphrase_is_private(host: Any) -> None:
    for timer in ("llm-backup@scenario.timer", "llm-restore-drill.timer"):
        assert host.service(timer).is_running
        assert host.service(timer).is_enabled
    configuration = host.file("/etc/llm-stack/backup/borgmatic/scenario.yaml")
    assert (configuration.user, configuration.mode) == ("root", 0o600)
    assert "lab-only-borg-passphrase" not in host.file("/etc/llm-stack/backup/jobs/scenario.json").content_string


def test_a_run_makes_an_archive_that_a_drill_restores(host: Any) -> None:
    host.run_test(f"{PROGRAM} run scenario")
    assert "the newest archive was restored" in host.check_output(f"{PROGRAM} drill")
    told = json.loads(host.file("/var/lib/llm-stack/backup/scenario.drill.json").content_string)
    assert told["llm_restore_drill_success"] == 1


def test_a_restore_says_what_is_in_the_way(host: Any) -> None:
    refused = host.run(f"{PROGRAM} restore scenario")
    assert refused.rc == 1
    assert "/etc/ssh is there already, and nothing is overwritten." in refused.stderr
    host.run_test(f"rm -rf /root/back && {PROGRAM} restore scenario --path /etc/ssh/sshd_config --to /root/back/sshd_config")
    assert host.file("/root/back/sshd_config").content == host.file("/etc/ssh/sshd_config").content


def test_a_job_that_is_not_declared_any_more_has_ended(host: Any) -> None:
    assert not host.service("llm-backup@earlier.timer").is_running
    assert not host.file("/etc/systemd/system/timers.target.wants/llm-backup@earlier.timer").exists
    folders = "/etc/llm-stack /etc/systemd/system /var/lib/prometheus /var/lib/llm-stack/backup"
    assert host.check_output(f"find {folders} -name '*earlier*' ! -name '*.lock'") == ""
    host.run_test(f"{PROGRAM} drill")
