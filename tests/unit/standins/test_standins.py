# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stand-ins answer as what they stand for does; the images the lab builds are the same bytes each time."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import threading
import urllib.request
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Callable

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "lab"))

from labkit import images

STANDINS = Path(__file__).resolve().parents[2] / "standins"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny_gguf = load(STANDINS / "tiny_gguf.py")


def test_a_model_is_complete_and_the_same_each_time(tmp_path: Path) -> None:
    digests = {tiny_gguf.write(tmp_path / f"{number}.gguf") for number in range(2)}
    body = (tmp_path / "0.gguf").read_bytes()
    assert digests == {hashlib.sha256(body).hexdigest()}
    magic, version, tensors, pairs = struct.unpack("<4sIQQ", body[:24])
    assert (magic, version, tensors) == (b"GGUF", 3, 21)
    assert pairs == len(tiny_gguf._metadata("x"))
    assert tiny_gguf.write(tmp_path / "other.gguf", seed=1) not in digests


def test_padding_changes_nothing_an_engine_reads(tmp_path: Path) -> None:
    plain, padded = tmp_path / "plain", tmp_path / "padded"
    tiny_gguf.write(plain)
    digest = tiny_gguf.write(padded, size=3_000_001)
    assert padded.stat().st_size == 3_000_001
    assert padded.read_bytes().startswith(plain.read_bytes())
    assert hashlib.sha256(padded.read_bytes()).hexdigest() == digest


@pytest.fixture
def nvidia_smi(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    gpus = tmp_path / "gpus"

    def run(*arguments: str, declared: str | None = None) -> tuple[int, str]:
        if declared is not None:
            gpus.write_text(declared)
        environment = {**os.environ, "LLM_LAB_GPUS": str(gpus)}
        ended = subprocess.run([str(STANDINS / "nvidia-smi"), *arguments], env=environment, capture_output=True, text=True, check=False)
        return ended.returncode, ended.stdout

    return run


TWO = "# two cards\nGPU-1, NVIDIA A100, 81920\n\nGPU-2,NVIDIA GeForce RTX 4090\n"


def test_declared_gpus_are_listed(nvidia_smi: Callable[..., tuple[int, str]]) -> None:
    assert nvidia_smi("-L", declared=TWO) == (0, "GPU 0: NVIDIA A100 (UUID: GPU-1)\nGPU 1: NVIDIA GeForce RTX 4090 (UUID: GPU-2)\n")


def test_fields_come_as_asked(nvidia_smi: Callable[..., tuple[int, str]]) -> None:
    bare = nvidia_smi("--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits", declared=TWO)
    assert bare == (0, "0, GPU-1, 81920\n1, GPU-2, 24564\n")
    full = nvidia_smi("--query-gpu=name,memory.total", "--format=csv", "-i", "0", declared=TWO)
    assert full == (0, "name, memory.total [MiB]\nNVIDIA A100, 81920 MiB\n")


def test_without_a_declaration_there_is_one_gpu_that_stays_the_same(nvidia_smi: Callable[..., tuple[int, str]]) -> None:
    status, first = nvidia_smi("--query-gpu=uuid", "--format=csv,noheader")
    assert status == 0
    assert first.startswith("GPU-")
    assert len(first.strip()) == 40
    assert nvidia_smi("--query-gpu=uuid", "--format=csv,noheader") == (0, first)


def test_no_gpu_and_no_such_field_are_errors(nvidia_smi: Callable[..., tuple[int, str]]) -> None:
    assert nvidia_smi("-L", declared="") == (6, "No devices were found\n")
    status, text = nvidia_smi("--query-gpu=colour", "--format=csv", declared=TWO)
    assert (status, text.splitlines()[0]) == (2, 'Field "colour" is not a valid field to query.')


def test_an_image_is_the_same_bytes_each_time_and_a_proper_archive(tmp_path: Path) -> None:
    (tmp_path / "tree" / "usr" / "bin").mkdir(parents=True)
    (tmp_path / "tree" / "usr" / "bin" / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tree" / "usr" / "bin" / "alias").symlink_to("tool")
    recipe = images.Recipe("absent", "llm/tool:1", "trixie", ("usr/bin/alias",), {"Cmd": ["tool"]}, dirs={"var/lib/tool": (0o750, 99)})
    base = images._made(images.BASE_LINKS, images.BASE_DIRS)
    for name in ("one.tar", "two.tar"):
        images._pack(recipe, tmp_path / "tree", base, tmp_path / name)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as archive:
        parts = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    manifest = json.loads(parts["manifest.json"])[0]
    config = json.loads(parts[manifest["Config"]])
    assert manifest["RepoTags"] == ["llm/tool:1"]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(parts[layer]).hexdigest()}" for layer in manifest["Layers"]]
    with tarfile.open(fileobj=io.BytesIO(parts[manifest["Layers"][1]])) as layer:
        assert {"usr/bin/alias", "usr/bin/tool", "var/lib/tool"} <= set(layer.getnames())
        owned = layer.getmember("var/lib/tool")
        assert (owned.mode, owned.uid, owned.mtime) == (0o750, 99, 0)


def test_an_image_of_a_package_that_lost_its_file_names_the_file(tmp_path: Path) -> None:
    recipe = images.Recipe("absent", "llm/tool:1", "trixie", ("usr/bin/gone",), {})
    with pytest.raises(images.LabError, match="Debian's packages hold no usr/bin/gone"):
        images._pack(recipe, tmp_path, {}, tmp_path / "one.tar")


@pytest.mark.parametrize(("name", "said"), [("gpu-exporter-standin", 'nvidia_smi_temperature_gpu{uuid="'), ("cadvisor-standin", "")])
def test_an_exporters_image_holds_all_it_imports_and_answers(name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the recipe copies, laid out as in the image, answers Prometheus and the health check."""
    (recipe,) = [one for one in images.MONITORING_RECIPES if one.name == name]
    for place, source in recipe.copies.items():
        (tmp_path / place).write_bytes(source.read_bytes())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "exposition", raising=False)
    standin = load(tmp_path / "standin.py")
    served = sys.modules["exposition"].handler(standin.text)
    with ThreadingHTTPServer(("127.0.0.1", 0), served) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            address = f"http://127.0.0.1:{server.server_port}"
            assert urllib.request.urlopen(f"{address}/healthz", timeout=10).read() == b"ok"
            assert said in urllib.request.urlopen(f"{address}/metrics", timeout=10).read().decode()
        finally:
            server.shutdown()
    monkeypatch.delitem(sys.modules, "exposition")


@pytest.mark.parametrize(
    ("files", "rss", "limit"),
    [
        ({"memory.usage_in_bytes": "900", "memory.stat": "rss 1\ntotal_rss 700", "memory.limit_in_bytes": "1000"}, 700.0, 1000.0),
        ({"memory.usage_in_bytes": "900", "memory.stat": "total_rss 700", "memory.limit_in_bytes": "9223372036854771712"}, 700.0, 0.0),
        ({"memory.current": "900", "memory.stat": "anon 700\nfile 200", "memory.max": "1000"}, 700.0, 1000.0),
        ({"memory.current": "900", "memory.stat": "anon 700\nfile 200", "memory.max": "max"}, 700.0, 0.0),
    ],
    ids=["v1", "v1 unlimited", "v2", "v2 unlimited"],
)
def test_cadvisor_tells_what_a_container_takes_and_may_take(
    files: dict[str, str], rss: float, limit: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(STANDINS)
    monkeypatch.delitem(sys.modules, "exposition", raising=False)
    cadvisor = load(STANDINS / "cadvisor.py")
    controller = "memory" if "memory.usage_in_bytes" in files else ""
    notes, place = tmp_path / "containers" / "c1", tmp_path / "cgroup" / controller / "docker" / "c1"
    notes.mkdir(parents=True)
    place.mkdir(parents=True)
    told = {"ID": "c1", "Name": "/hungry", "Config": {"Labels": None}, "State": {"Pid": 42}}
    (notes / "config.v2.json").write_text(json.dumps(told))
    for name, text in files.items():
        (place / name).write_text(text + "\n")
    for name, path in (("CONTAINERS", "containers"), ("GROUPS", "cgroup"), ("PROC", "proc")):
        monkeypatch.setattr(cadvisor, name, tmp_path / path)
    labels = f'{{container_label_{cadvisor.LABEL.replace(".", "_")}="",id="/docker/c1",name="hungry"}}'
    said = cadvisor.text().splitlines()
    for name, value in (("memory_working_set_bytes", 900.0), ("memory_rss", rss), ("spec_memory_limit_bytes", limit)):
        assert f"container_{name}{labels} {value!r}" in said
    monkeypatch.delitem(sys.modules, "exposition")
