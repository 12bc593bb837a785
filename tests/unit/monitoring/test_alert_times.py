# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lines of the bench about alerts: one for each cause that a test makes, and what such a test writes down is what the bench reads."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import alert_times
import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests" / "bench"), str(ROOT / "tests" / "lab")]

import alerts  # noqa: E402 - importable after the line above
from measure import NotTaken  # noqa: E402

# By test file: names of alerts beside those in its table of causes, as its tests write them down.
BESIDE = {
    "tests/swarm/test_monitoring.py": {"SwarmNodeDown"},
    "tests/lab/test_storage_backup.py": {"RestoreDrillFailed", "ZfsVdevUnhealthy"},
}


def causes(path: str) -> set[str]:
    """The keys of the table CAUSES of a test file, which is not imported: it is for machines."""
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(target, ast.Name) and target.id == "CAUSES" for target in node.targets):
            assert isinstance(node.value, ast.Dict)
            return {str(ast.literal_eval(key)) for key in node.value.keys if key}
    raise AssertionError(f"{path} has no table of causes")


@pytest.mark.parametrize("path", alerts.TESTS)
def test_every_cause_of_a_test_is_a_line_of_the_bench(path: str) -> None:
    made = causes(path) | BESIDE[path]
    if path.startswith("tests/lab/"):
        made = {name.replace("TargetDown", "StorageTargetDown") for name in made}
    assert set(alerts.TESTS[path][1]) == made
    rules = (ROOT / "roles" / "monitoring" / "templates" / "rules.yml.j2").read_text(encoding="utf-8")
    assert all(f"- alert: {name.replace('StorageTarget', 'Target')}\n" in rules for name in made)


def test_lines_of_the_bench_have_names_of_their_own() -> None:
    names = [take.__name__ for take in alerts.ALERT_FIGURES]
    assert len(set(names)) == len(names) == 22
    assert all(name.startswith("alert_detection_s_") for name in names)


def test_what_is_noted_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(alert_times.VARIABLE, str(tmp_path / "times"))
    alert_times.note("GpuHot", 12.34)
    alert_times.note("GpuHot", 3, over=True)
    assert capsys.readouterr().out.splitlines()[0] == "alert_detection_s GpuHot 12 (durations at a tenth)"
    assert alert_times.read(tmp_path / "times") == {"alert_detection_s": {"GpuHot": 12.3}, "alert_cleared_s": {"GpuHot": 3.0}}
    alert_times.note("GpuHot", 5)
    with pytest.raises(ValueError, match="GpuHot was timed twice"):
        alert_times.read(tmp_path / "times")


def test_an_alert_is_known_by_the_labels_that_are_asked_for() -> None:
    firing = [{"metric": {}}, {"metric": {"alertname": "ZfsSnapshotsOld", "alertstate": "firing", "dataset": "a/b", "instance": "s"}}]
    assert alert_times.fires(firing, "ZfsSnapshotsOld")
    assert alert_times.fires(firing, "ZfsSnapshotsOld", dataset="a/b")
    assert not alert_times.fires(firing, "ZfsSnapshotsOld", dataset="a/c")
    assert not alert_times.fires(firing, "ZfsPoolFilling")
    assert not alert_times.fires([{"metric": {"alertname": "ZfsSnapshotsOld", "alertstate": "pending"}}], "ZfsSnapshotsOld")


def test_each_is_timed_when_it_is_first_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(alert_times.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(alert_times.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    # The first is seen at 102 and is gone again when the second comes, at 105.
    seen = {102.0: {"a", "other"}, 105.0: {"b"}}

    def look() -> set[str]:
        return seen.get(clock[0], set())

    assert alert_times.wait(look, {"a": 95.0, "b": 100.0}, seconds=10) == {"a": 7.0, "b": 5.0}
    with pytest.raises(AssertionError, match="after 10 s there is still to wait for a, c"):
        alert_times.wait(look, {"c": 100.0, "a": 100.0}, seconds=10)


def test_a_test_that_fails_and_one_that_tells_nothing_give_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    take = alerts.ALERT_FIGURES[0]
    ended = subprocess.CompletedProcess(["pytest"], 1, stdout="1 failed")
    monkeypatch.setattr(alerts.subprocess, "run", lambda *_arguments, **_more: ended)
    alerts._taken.cache_clear()
    with pytest.raises(NotTaken, match="tests/swarm/test_monitoring.py failed: 1 failed"):
        take()
    ended.returncode = 0
    with pytest.raises(NotTaken, match="told no time of TargetDown"):
        take()
    alerts._taken.cache_clear()
