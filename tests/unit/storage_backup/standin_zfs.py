# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A STAND-IN for zfs and syncoid where there is no ZFS: datasets are directories below ZFS_HOME, snapshots are copies of them.

It is started with the name of the program first, and knows what llm-backup asks; ``syncoid`` sends every snapshot the target lacks.
Words in ZFS_FAIL make commands fail that hold one of them.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

HOME = Path(os.environ["ZFS_HOME"])


def die(text: str) -> None:
    sys.exit(text)


def load() -> dict[str, Any]:
    """By dataset: its properties, and its snapshots with GUID, time and holds."""
    path = HOME / "state.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def save(state: dict[str, Any]) -> None:
    # A sender and a receiver run at the same time: neither may read half of it.
    new = HOME / f"state.json.{os.getpid()}"
    new.write_text(json.dumps(state))
    new.replace(HOME / "state.json")


def where(name: str) -> Path:
    """The files of a dataset or a snapshot."""
    dataset, _at, snapshot = name.partition("@")
    return HOME / "data" / dataset / ".zfs" / "snapshot" / snapshot if snapshot else HOME / "data" / dataset


def snapshot_of(state: dict[str, Any], name: str) -> dict[str, Any]:
    dataset, _at, snapshot = name.partition("@")
    if snapshot not in state.get(dataset, {}).get("snapshots", {}):
        die(f"cannot open '{name}': dataset does not exist")
    found: dict[str, Any] = state[dataset]["snapshots"][snapshot]
    return found


def list_(state: dict[str, Any], words: list[str]) -> None:
    dataset = words[-1]
    if words == ["-H", "-o", "name"]:
        print("\n".join(sorted(state)))
        return
    if dataset not in state:
        die(f"cannot open '{dataset}': dataset does not exist")
    if "snapshot" in words:
        for name, one in state[dataset]["snapshots"].items():
            print(f"{dataset}@{name}\t{one['guid']}\t{one['created']}")
    else:
        print("\n".join(name for name in sorted(state) if name == dataset or name.startswith(f"{dataset}/")))


def get(state: dict[str, Any], words: list[str]) -> None:
    if "name,value" in words:
        at = words.index("name,value") + 1
        print("\n".join(f"{one}\t{state.get(one, {'properties': {}})['properties'].get(words[at], '-')}" for one in words[at + 1 :]))
        return
    name, dataset = words[-2:]
    if dataset not in state:
        die(f"cannot open '{dataset}': dataset does not exist")
    print(state[dataset]["properties"].get(name, {"type": "filesystem", "mountpoint": str(where(dataset))}.get(name, "-")))


def receive(state: dict[str, Any], words: list[str]) -> None:
    dataset = words[-1]
    options = dict(word.partition("=")[::2] for flag, word in zip(words, words[1:]) if flag == "-o")
    if dataset in state:
        die(f"cannot receive new filesystem stream: destination '{dataset}' exists")
    parent = dataset.rpartition("/")[0]
    # Pools are there.
    if "/" in parent and parent not in state:
        die(f"cannot open '{parent}': dataset does not exist")
    if not sys.stdin.buffer.peek(1):
        die("cannot receive: failed to read from stream")
    state = load()
    where(dataset).mkdir(parents=True)
    state[dataset] = {"properties": {**options, **json.loads(os.environ.get("ZFS_RECEIVED", "{}"))}, "snapshots": {}}
    save(state)
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as stream:
        stream.extractall(where(dataset), filter="tar") if hasattr(tarfile, "tar_filter") else stream.extractall(where(dataset))


def zfs(verb: str, words: list[str]) -> None:
    state = load()
    if verb == "list":
        list_(state, words)
    elif verb == "get":
        get(state, words)
    elif verb == "holds":
        for name in words[1:]:
            print("".join(f"{name}\t{tag}\tSat Nov 28 03:04 2026\n" for tag in snapshot_of(state, name)["holds"]), end="")
    elif verb in ("hold", "release"):
        holds = snapshot_of(state, words[1])["holds"]
        holds.append(words[0]) if verb == "hold" else holds.remove(words[0])
        save(state)
    elif verb == "send":
        snapshot_of(state, words[-1])
        with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as stream:
            stream.add(where(words[-1]), ".")
    elif verb == "receive":
        receive(state, words)
    else:
        change(state, verb, words)


def change(state: dict[str, Any], verb: str, words: list[str]) -> None:
    if verb == "load-key":
        properties = state[words[-1]]["properties"]
        if Path(words[words.index("-L") + 1].partition("://")[2]).read_text() != properties["the key"]:
            die(f"Key load error: Incorrect key provided for '{words[-1]}'.")
        properties["keystatus"] = "available"
        save(state)
    elif verb == "mount":
        place = Path(state[words[-1]]["properties"]["mountpoint"])
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(where(words[-1]))
    elif verb == "create" and "-p" in words:
        if words[-1] not in state:
            state[words[-1]] = {"properties": {}, "snapshots": {}}
            save(state)
    elif verb == "rename":
        state[words[1]] = state.pop(words[0])
        where(words[0]).rename(where(words[1]))
        save(state)
    elif verb == "destroy":
        properties = state.pop(words[-1])["properties"]
        Path(properties.get("mountpoint", "/nowhere")).unlink(missing_ok=True)
        shutil.rmtree(where(words[-1]))
        save(state)
    else:
        die(f"unrecognized command '{verb}'")


def syncoid(source: str, target: str) -> None:
    state = load()
    # The other host is this one.
    source, target = source.rpartition(":")[2], target.rpartition(":")[2]
    if source not in state:
        die(f"CRITICAL ERROR: {source} does not exist")
    for part in [name[len(source) :] for name in sorted(state) if name == source or name.startswith(f"{source}/")]:
        there = state.setdefault(target + part, {"properties": {}, "snapshots": {}})
        for name, one in state[source + part]["snapshots"].items():
            if name not in there["snapshots"]:
                there["snapshots"][name] = {**one, "holds": []}
                shutil.copytree(where(f"{source}{part}@{name}"), where(f"{target}{part}@{name}"))
    save(state)


if __name__ == "__main__":
    program, rest = sys.argv[1], sys.argv[2:]
    with (HOME / "log").open("a") as log:
        log.write(" ".join([program, *rest]) + "\n")
    if any(word in " ".join([program, *rest]) for word in os.environ.get("ZFS_FAIL", "").split(",") if word):
        die("cannot do this: the test says so")
    if program == "syncoid":
        syncoid(*rest[-2:])
    else:
        zfs(rest[0], rest[1:])
