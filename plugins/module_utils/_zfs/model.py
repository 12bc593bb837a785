# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Datasets, as declared and as found."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Mapping

from .._errors import BadInput
from .values import as_size, as_text

_DATASET_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_.: -]*(/[A-Za-z0-9_.: -]+)*$")
_PROPERTY = re.compile(r"^[^\s,=]+$")


@dataclass(frozen=True)
class Dataset:
    """A file system or volume as declared."""

    name: str
    kind: str = "filesystem"
    volsize: int | None = None
    sparse: bool | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    owner: str = ""
    group: str = ""
    mode: int | None = None

    @property
    def owned(self) -> bool:
        """Whether anything is declared about the directory it is mounted on."""
        return bool(self.owner or self.group) or self.mode is not None


@dataclass(frozen=True)
class Value:
    """A property as found; the source is ``local``, ``default``, ``received``, ``inherited from x`` or ``-``."""

    text: str
    source: str


@dataclass(frozen=True)
class Directory:
    """The directory a dataset is mounted on."""

    path: str
    uid: int
    gid: int
    mode: int


@dataclass(frozen=True)
class FoundDataset:
    """A dataset that exists."""

    name: str
    values: Mapping[str, Value]
    directory: Directory | None = None

    @property
    def kind(self) -> str:
        """``filesystem`` or ``volume``."""
        return self.text("type")

    def text(self, name: str) -> str:
        """The value of a property; a dash where it has none."""
        return self.values[name].text if name in self.values else "-"


def texts(properties: Mapping[str, Any]) -> dict[str, str]:
    """Properties as ZFS spells them."""
    for name in properties:
        if not _PROPERTY.match(str(name)):
            raise BadInput(f"{name!r} is not the name of a ZFS property.")
    return {str(name): as_text(str(name), value) for name, value in properties.items()}


def declare_dataset(raw: Mapping[str, Any]) -> Dataset:
    """One entry of C(datasets), checked.

    :raises BadInput: naming the dataset and the option.
    """
    name, kind = str(raw["name"]), str(raw.get("type") or "filesystem")
    if not _DATASET_NAME.match(name):
        raise BadInput(f"The dataset name {name!r} is not one ZFS accepts: pool/name/..., letters, digits and _ . : - only.")
    properties = texts(raw.get("properties") or {})
    size = _volume_size(name, kind, raw.get("volsize") or properties.pop("volsize", ""))
    if kind == "volume" and any(raw.get(f"mountpoint_{what}") for what in ("owner", "group", "mode")):
        raise BadInput(f"Volume {name} has no mountpoint: leave out mountpoint_owner, mountpoint_group and mountpoint_mode.")
    _check_key(name, properties)
    return Dataset(
        name=name,
        kind=kind,
        volsize=size,
        sparse=raw.get("sparse"),
        properties=properties,
        owner=str(raw.get("mountpoint_owner") or ""),
        group=str(raw.get("mountpoint_group") or ""),
        mode=_mode(name, raw.get("mountpoint_mode")),
    )


def _volume_size(name: str, kind: str, text: Any) -> int | None:
    if kind == "filesystem":
        if text:
            raise BadInput(f"File system {name} has a volsize: give it type volume, or set a quota in its properties.")
        return None
    size = as_size(str(text or ""))
    if not size:
        raise BadInput(f"Volume {name} needs a volsize like 100G, not {text or 'nothing'}.")
    return size


def _mode(name: str, text: Any) -> int | None:
    if text in (None, ""):
        return None
    if not re.match(r"^[0-7]{3,4}$", str(text)):
        raise BadInput(f"Dataset {name}: mountpoint_mode {text!r} is not an octal mode: write it quoted, like '0750'.")
    return int(str(text), 8)


def _check_key(name: str, properties: Mapping[str, str]) -> None:
    """Nobody is there to type a passphrase."""
    encrypted = properties.get("encryption", "off") != "off"
    location = properties.get("keylocation", "prompt" if encrypted and "keyformat" in properties else "")
    if location == "prompt":
        raise BadInput(f"Dataset {name}: keylocation=prompt would wait for a person: set keylocation to file:///path of the key.")
