# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The model store: which files have to come, what the manifest says, and when a file is read again."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.llm_stack.plugins.module_utils import _model_store as store
from ansible_collections.selfhosted.llm_stack.plugins.module_utils._errors import BadInput, StackError

TEXT = b"weights"
SHA256 = hashlib.sha256(TEXT).hexdigest()
MOUNTS = "/dev/vda / ext4 rw 0 0\nllm /llm zfs rw 0 0\nllm/models /llm/models zfs rw 0 0\n"


def models(**changes: Any) -> tuple[store.Model, ...]:
    return store.parse_models([{"name": "tiny", "file": "tiny.gguf", "sha256": SHA256, **changes}])


def look(folder: Path, memory: Any = None) -> store.State:
    return store.read_state(str(folder), models=models(), memory=memory or {}, mounts="/dev/vda / zfs rw 0 0\n")


def guards(folder: Path, **more: Any) -> store.Guards:
    return store.Guards(path=str(folder), **more)


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    (tmp_path / "tiny.gguf").write_bytes(TEXT)
    return tmp_path


def test_a_missing_model_is_reported_and_not_listed(tmp_path: Path) -> None:
    state = look(tmp_path)
    assert store.missing(state, models()) == ["tiny"]
    assert store.plan(state, models(), guards(tmp_path)).steps == ()


def test_check_mode_tells_what_will_be_copied(tmp_path: Path) -> None:
    made = store.plan(look(tmp_path), models(), guards(tmp_path, check_mode=True))
    assert made.sentences == [f"Copy model tiny to {tmp_path} and verify it", f"Write {tmp_path}/manifest.json"]
    assert made.after["manifest.json"]["models"][0]["size"] == "as copied"


def test_check_mode_foresees_no_manifest_where_it_will_be_the_same(filled: Path) -> None:
    store.write_json(filled / "manifest.json", store.manifest(look(filled), models()), mode=0o644)
    (filled / "tiny.gguf").unlink()
    made = store.plan(look(filled), models(), guards(filled, check_mode=True))
    assert made.sentences == [f"Copy model tiny to {filled} and verify it"]


def test_a_verified_model_is_listed_and_remembered(filled: Path) -> None:
    state = look(filled)
    made = store.plan(state, models(), guards(filled))
    assert [step.action for step in made.steps] == ["list", "remember"]
    assert made.steps[0].data == {"models": [{"name": "tiny", "file": "tiny.gguf", "size": len(TEXT), "sha256": SHA256}]}


def test_nothing_differs_the_second_time(filled: Path) -> None:
    state = look(filled)
    store.write_json(filled / "manifest.json", store.manifest(state, models()), mode=0o644)
    again = look(filled, store.remember(state, str(filled)))
    assert store.plan(again, models(), guards(filled)).steps == ()


def test_a_file_is_read_again_only_when_it_was_touched(filled: Path) -> None:
    path = filled / "tiny.gguf"
    state = look(filled)
    wrong = {str(path): {"sha256": "remembered", "look": list(state.files["tiny.gguf"].look)}}
    assert store.read_model(path, wrong).sha256 == "remembered"
    os.utime(path, ns=(1, 1))
    assert store.read_model(path, wrong).sha256 == SHA256


def test_a_damaged_model_is_missing_whatever_was_remembered(filled: Path) -> None:
    memory = store.remember(look(filled), str(filled))
    (filled / "tiny.gguf").write_bytes(b"WEIGHTS")
    assert store.missing(look(filled, memory), models()) == ["tiny"]


def test_memory_of_other_folders_stays(filled: Path) -> None:
    other = {"/elsewhere/a": {"sha256": "x", "look": []}}
    assert set(store.remember(look(filled, other), str(filled))) == {"/elsewhere/a", str(filled / "tiny.gguf")}


def test_an_incomplete_store_is_refused_where_it_has_to_be_complete(filled: Path) -> None:
    declared = models(sha256="0" * 64)
    (refusal,) = store.plan(look(filled), declared, guards(filled, complete=True)).refusals
    assert refusal.reason == f"wrong sha256 for model tiny: declared {'0' * 64}, file has {SHA256} at {filled}/tiny.gguf."


def test_an_unmounted_dataset_is_refused(filled: Path) -> None:
    state = replace(look(filled), filesystem="ext4")
    (refusal,) = store.plan(state, models(), guards(filled, filesystem="zfs")).refusals
    assert "it is on ext4 and not on zfs, so the dataset for it is missing or not mounted" in refusal.reason
    assert refusal.reason.endswith("or mount it (zfs mount -a).")


def test_the_filesystem_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    mounts = f"/dev/vda / ext4 rw 0 0\nllm {tmp_path} zfs rw 0 0\n"
    (tmp_path / "models").mkdir()
    assert store.filesystem_of(tmp_path / "models", mounts) == "zfs"
    assert store.filesystem_of(tmp_path.parent, mounts) == "ext4"
    assert store.filesystem_of(tmp_path / "none", mounts) == ""


BAD = {
    "a path": ({"file": "../tiny.gguf"}, "The file '../tiny.gguf' of model tiny is no plain file name."),
    "the manifest": ({"file": "manifest.json"}, "The file 'manifest.json' of model tiny is no plain file name."),
    "a short checksum": ({"sha256": "abc"}, "The sha256 of model tiny is not 64 hexadecimal digits. Take it from sha256sum tiny.gguf."),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options_are_named(name: str) -> None:
    changes, sentence = BAD[name]
    with pytest.raises(BadInput) as caught:
        models(**changes)
    assert sentence in str(caught.value)


def test_a_model_declared_twice_is_named() -> None:
    row = {"name": "tiny", "file": "tiny.gguf", "sha256": SHA256}
    with pytest.raises(BadInput, match="The name tiny is declared 2 times in models"):
        store.parse_models([row, row])


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "manifest.json"
    store.write_json(path, {"models": []}, mode=0o644)
    assert json.loads(path.read_text(encoding="utf-8")) == {"models": []}
    assert path.stat().st_mode & 0o777 == 0o644
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(StackError, match=r"folder\.json cannot be written"):
        store.write_json(tmp_path / "folder.json", {}, mode=0o600)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder.json", "new"]
